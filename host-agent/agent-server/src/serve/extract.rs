//! Reading requests as leniently as Docker does.
//!
//! - [`Json`]: a JSON body whatever its Content-Type; `Option<Json<T>>` where none is allowed too.
//! - [`Query`]: the query string with Go's idea of booleans and numbers, and `filters`.

use super::error::{ApiError, ApiResult};
use axum::extract::{FromRequest, FromRequestParts, OptionalFromRequest, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine_api::Filters;
use http::request::Parts;
use http::{HeaderValue, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::str::FromStr;

/// Largest JSON body read, in bytes. The largest honest one (a container with a seccomp profile and many labels) has some
/// hundred kilobytes.
pub const MAX_JSON_BYTES: usize = 4 * 1024 * 1024;

/// A JSON body, in and out. What goes out ends with a newline as Docker's does.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

async fn read_body(request: Request) -> ApiResult<Bytes> {
    let limited = Limited::new(request.into_body(), MAX_JSON_BYTES);
    match limited.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::invalid(format!(
            "request body is larger than {MAX_JSON_BYTES} bytes"
        ))),
        Err(error) => Err(ApiError::invalid(format!(
            "cannot read the request body: {error}"
        ))),
    }
}

fn parse_body<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    // Docker's bodies are objects. serde would read an array as a struct, field by field.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::invalid(
            "invalid JSON: an object is expected, not an array",
        ));
    }
    serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(format!("invalid JSON: {error}")))
}

fn is_blank(body: &[u8]) -> bool {
    body.iter().all(u8::is_ascii_whitespace)
}

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Json<T>> {
        let body = read_body(request).await?;
        if is_blank(&body) {
            return Err(ApiError::invalid(
                "invalid JSON: got EOF while reading request body",
            ));
        }
        parse_body(&body).map(Json)
    }
}

impl<T: DeserializeOwned, S: Sync> OptionalFromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> ApiResult<Option<Json<T>>> {
        let body = read_body(request).await?;
        if is_blank(&body) || body.trim_ascii() == b"null" {
            return Ok(None);
        }
        parse_body(&body).map(|value| Some(Json(value)))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(mut body) => {
                body.push(b'\n');
                json_bytes(body.into())
            }
            Err(error) => ApiError::new(
                engine::error::Class::Internal,
                format!("cannot write the answer as JSON: {error}"),
            )
            .into_response(),
        }
    }
}

/// An answer from bytes that already are JSON.
pub fn json_bytes(body: Bytes) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// The query string. Unknown parameters are ignored, as Docker ignores them.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Query> {
        Ok(Query::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    /// Of the text after the `?`.
    pub fn parse(text: &str) -> Query {
        Query(
            form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        )
    }

    /// The first value of a parameter, where it was given and is not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    /// Every value of a parameter that may be repeated.
    pub fn all<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        self.0
            .iter()
            .filter(move |(key, _)| key.as_str() == name)
            .map(|(_, value)| value.as_str())
    }

    /// A boolean; `false` where it was not given.
    pub fn flag(&self, name: &str) -> bool {
        self.flag_or(name, false)
    }

    /// A boolean: empty, `0`, `no`, `false` and `none` are false in any case, anything else is true (Docker's
    /// `httputils.BoolValue`).
    pub fn flag_or(&self, name: &str, default: bool) -> bool {
        match self.all(name).next() {
            None => default,
            Some(value) => !matches!(
                value.trim().to_ascii_lowercase().as_str(),
                "" | "0" | "no" | "false" | "none"
            ),
        }
    }

    /// A number; `None` where it was not given or is empty, 400 where it is none.
    pub fn number<N: FromStr>(&self, name: &str) -> ApiResult<Option<N>> {
        match self.text(name) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|_| {
                ApiError::invalid(format!(
                    "invalid value for {name}: {text:?} is not a valid number"
                ))
            }),
        }
    }

    /// The `filters` parameter.
    pub fn filters(&self) -> ApiResult<Filters> {
        Ok(Filters::parse(self.text("filters").unwrap_or_default())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use serde_json::Value;

    fn request(body: impl Into<Body>) -> Request {
        Request::new(body.into())
    }

    #[tokio::test]
    async fn a_body_needs_no_content_type_but_must_be_json() {
        let Json(value) =
            <Json<Value> as FromRequest<()>>::from_request(request("{\"a\":1} "), &())
                .await
                .unwrap();
        assert_eq!(value["a"], 1);
        for (body, message) in [
            ("", "invalid JSON: got EOF while reading request body"),
            ("{", "invalid JSON: EOF while parsing"),
            ("{} {}", "invalid JSON: trailing characters"),
            (" []", "invalid JSON: an object is expected"),
        ] {
            let error = <Json<Value> as FromRequest<()>>::from_request(request(body), &())
                .await
                .unwrap_err();
            assert_eq!(error.status(), 400);
            assert!(error.message().starts_with(message), "{}", error.message());
        }
        let huge = " ".repeat(MAX_JSON_BYTES + 1);
        let error = <Json<Value> as FromRequest<()>>::from_request(request(huge), &())
            .await
            .unwrap_err();
        assert!(error.message().contains("larger"), "{}", error.message());
    }

    #[tokio::test]
    async fn an_optional_body_may_be_missing() {
        for body in ["", " \n", "null"] {
            let value = <Json<Value> as OptionalFromRequest<()>>::from_request(request(body), &())
                .await
                .unwrap();
            assert!(value.is_none());
        }
    }

    #[test]
    fn booleans_are_read_as_go_does() {
        let query = Query::parse("a=1&b=True&c=0&d=&e=no&f=yes&g=None");
        let truths: Vec<bool> = ["a", "b", "c", "d", "e", "f", "g", "h"]
            .iter()
            .map(|name| query.flag(name))
            .collect();
        assert_eq!(
            truths,
            [true, true, false, false, false, true, false, false]
        );
        assert!(query.flag_or("h", true));
    }

    #[test]
    fn numbers_and_repeated_values() {
        let query = Query::parse("t=-1&names=a&names=b%2Fc&bad=x&empty=");
        assert_eq!(query.number::<i64>("t").unwrap(), Some(-1));
        assert_eq!(query.number::<i64>("empty").unwrap(), None);
        assert!(query.number::<i64>("bad").is_err());
        assert_eq!(query.all("names").collect::<Vec<_>>(), ["a", "b/c"]);
    }
}
