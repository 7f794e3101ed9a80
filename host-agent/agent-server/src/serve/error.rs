//! How errors leave the engine: the only place where a class becomes an HTTP status.

use axum::response::{IntoResponse, Response};
use engine::error::{Class, Classify, full_message};
use http::{HeaderValue, StatusCode, header};

/// An error as an answer: a status and one JSON object with a `message`.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
}

/// What handlers return.
pub type ApiResult<T> = Result<T, ApiError>;

fn status(class: Class) -> StatusCode {
    match class {
        Class::Invalid => StatusCode::BAD_REQUEST,
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::Conflict => StatusCode::CONFLICT,
        Class::NotModified => StatusCode::NOT_MODIFIED,
        Class::Denied => StatusCode::FORBIDDEN,
        Class::Unauthorized => StatusCode::UNAUTHORIZED,
        Class::Unsupported => StatusCode::NOT_IMPLEMENTED,
        Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Class::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl ApiError {
    /// For what handlers themselves find wrong (a malformed parameter, say).
    pub fn new(class: Class, message: impl Into<String>) -> ApiError {
        ApiError {
            status: status(class),
            message: message.into(),
        }
    }

    /// 400.
    pub fn invalid(message: impl Into<String>) -> ApiError {
        ApiError::new(Class::Invalid, message)
    }

    /// 501: a part of Docker's API that this engine does not have.
    pub fn unsupported(message: impl Into<String>) -> ApiError {
        ApiError::new(Class::Unsupported, message)
    }

    /// The text, for streams that must report an error after their 200 is out.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What tests look at.
    #[cfg(test)]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl<E: Classify> From<E> for ApiError {
    fn from(error: E) -> ApiError {
        ApiError::new(error.class(), full_message(&error))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        if self.status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(message = self.message, "request failed");
        } else {
            tracing::debug!(
                status = self.status.as_u16(),
                message = self.message,
                "request refused"
            );
        }
        // With a newline, as Go's JSON encoder writes it: a body is exactly one line.
        let body = format!("{}\n", serde_json::json!({ "message": self.message }));
        let mut response = (self.status, body).into_response();
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn an_error_is_one_json_line_with_its_sources() {
        let error = engine::networks::NetworkError::Failed {
            step: "make the bridge".into(),
            source: "out of luck".into(),
        };
        let response = ApiError::from(error).into_response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers()["content-type"], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "{\"message\":\"make the bridge: out of luck\"}\n");
    }

    #[tokio::test]
    async fn not_modified_has_no_body() {
        let response = ApiError::new(Class::NotModified, "already so").into_response();
        assert_eq!(response.status(), 304);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.is_empty());
    }
}
