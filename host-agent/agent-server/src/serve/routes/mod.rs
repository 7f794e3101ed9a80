//! The routes, area by area, and what is common to all of them.
//!
//! ```text
//! request -> version prefix taken off, ApiVersion put in -> route -> handler -> common headers -> answer
//! ```

mod absent;
mod attach;
mod builds;
mod commit;
mod container_files;
mod container_streams;
#[cfg(test)]
mod container_tests;
pub mod containers;
mod disk_usage;
mod drained;
mod events;
pub mod exec;
pub mod images;
mod networks;
#[cfg(test)]
mod reference_tests;
mod registries;
mod stats;
mod system;
mod volumes;

use super::error::ApiError;
use super::state::AppState;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use engine::error::Class;
use engine_api::ApiVersion;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use tower::Layer;

/// The whole API. Every path is served with and without `/v1.NN`; a handler finds the version as
/// `Extension<ApiVersion>`.
pub fn router(state: AppState) -> Router {
    let routes = Router::new()
        .merge(system::router())
        .merge(disk_usage::router())
        .merge(events::router())
        .merge(containers::router())
        .merge(attach::router())
        .merge(container_files::router())
        .merge(builds::router())
        .merge(commit::router())
        .merge(container_streams::router())
        .merge(stats::router())
        .merge(exec::router())
        .merge(registries::router())
        .merge(images::router())
        .merge(networks::router())
        .merge(volumes::router())
        .merge(absent::router())
        // Docker answers 404 to a known path with another method, too.
        .method_not_allowed_fallback(page_not_found)
        .fallback(page_not_found)
        .with_state(state);
    // The prefix must be gone before the routes are matched, so these wrap the router instead of being layers in it.
    let versioned = middleware::from_fn(take_version).layer(routes);
    Router::new()
        .fallback_service(versioned)
        .layer(middleware::from_fn(drained::before_errors))
        .layer(middleware::map_response(common_headers))
}

async fn page_not_found() -> ApiError {
    ApiError::new(Class::NotFound, "page not found")
}

/// Takes `/v1.NN` off the path and leaves the version as an extension.
async fn take_version(mut request: Request, next: Next) -> Response {
    if !is_text(request.uri().path()) {
        // axum would say so itself, but not as JSON.
        return ApiError::invalid("invalid path: it is not UTF-8").into_response();
    }
    if let Some(there) = cleaned(request.uri()) {
        return (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, there)]).into_response();
    }
    let version = match split_version(request.uri()) {
        None => ApiVersion::MAXIMUM,
        Some((version, rest)) => {
            if let Err(message) = version.check() {
                return ApiError::invalid(message).into_response();
            }
            *request.uri_mut() = Uri::from(rest);
            version
        }
    };
    request.extensions_mut().insert(version);
    next.run(request).await
}

/// Where `//containers/./json?all=1` leads: Go's router says so with 301. `None` for a path that is as it should be.
fn cleaned(uri: &Uri) -> Option<String> {
    let whole = uri.path_and_query()?;
    let (path, query) = (whole.path(), whole.query());
    // What every odd path has, and hardly any other one.
    if !path.contains("//") && !path.contains("/.") {
        return None;
    }
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    let (last, inner) = segments.split_last()?;
    let odd = |segment: &&str| ["", ".", ".."].contains(segment);
    if !inner.iter().any(odd) && ![".", ".."].contains(last) {
        return None;
    }
    let mut clean: Vec<&str> = Vec::new();
    for segment in &segments {
        match *segment {
            "" | "." => {}
            ".." => drop(clean.pop()),
            segment => clean.push(segment),
        }
    }
    let slash = if last.is_empty() && !clean.is_empty() {
        "/"
    } else {
        ""
    };
    let query = query.map(|query| format!("?{query}"));
    Some(format!(
        "/{}{slash}{}",
        clean.join("/"),
        query.unwrap_or_default()
    ))
}

/// Whether a path is UTF-8 once its `%..` are read.
fn is_text(path: &str) -> bool {
    let mut bytes = path.bytes();
    let mut read = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        let mut ahead = bytes.clone();
        let mut digit = || char::from(ahead.next()?).to_digit(16);
        match (byte, digit(), digit()) {
            (b'%', Some(high), Some(low)) => {
                read.push((high * 16 + low) as u8);
                bytes = ahead;
            }
            _ => read.push(byte),
        }
    }
    std::str::from_utf8(&read).is_ok()
}

/// `/v1.51/info?x=y` -> 1.51 and `/info?x=y`.
fn split_version(uri: &Uri) -> Option<(ApiVersion, PathAndQuery)> {
    let whole = uri.path_and_query()?.as_str();
    let (version, rest) = whole.strip_prefix("/v")?.split_once('/')?;
    let version = ApiVersion::parse(version)?;
    let rest = format!("/{rest}").parse().ok()?;
    Some((version, rest))
}

/// The headers Docker puts on every answer; clients negotiate their version by the first.
async fn common_headers(mut response: Response) -> Response {
    const SERVER: &str = concat!("Berth/", env!("CARGO_PKG_VERSION"), " (linux)");
    let headers = response.headers_mut();
    // As text, because a header cannot be made from numbers at compile time; a test compares it with ApiVersion::MAXIMUM.
    headers.insert(
        HeaderName::from_static("api-version"),
        HeaderValue::from_static(API_VERSION),
    );
    headers.insert(
        HeaderName::from_static("docker-experimental"),
        HeaderValue::from_static("false"),
    );
    headers.insert(
        HeaderName::from_static("ostype"),
        HeaderValue::from_static("linux"),
    );
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    response
}

const API_VERSION: &str = "1.51";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing;

    #[test]
    fn the_header_names_the_newest_version() {
        assert_eq!(API_VERSION, ApiVersion::MAXIMUM.to_string());
    }

    #[test]
    fn odd_paths_lead_to_clean_ones() {
        let there = |text: &str| cleaned(&text.parse().unwrap());
        for (odd, clean) in [
            ("//containers/json?all=1", "/containers/json?all=1"),
            ("/v1.41//containers/json", "/v1.41/containers/json"),
            ("/containers/../info", "/info"),
            ("/../..", "/"),
            ("//", "/"),
            ("/containers//x/", "/containers/x/"),
            ("/containers/x/.", "/containers/x"),
            ("/./info", "/info"),
        ] {
            assert_eq!(there(odd).as_deref(), Some(clean), "{odd}");
        }
        for path in [
            "/",
            "/info",
            "/containers/json?x=//a/../b",
            "/info/",
            "/images/a.b/json",
            "/images/.b/json",
        ] {
            assert_eq!(there(path), None, "{path}");
        }
    }

    #[test]
    fn versions_are_taken_off_the_path() {
        let split = |text: &str| {
            split_version(&text.parse().unwrap()).map(|(version, rest)| format!("{version} {rest}"))
        };
        assert_eq!(split("/v1.51/info?x=y").as_deref(), Some("1.51 /info?x=y"));
        assert_eq!(split("/info"), None);
        assert_eq!(split("/volumes/v1.2"), None);
        assert_eq!(split("/v1.51"), None);
    }

    #[tokio::test]
    async fn what_is_not_there_is_dockers_404_with_the_common_headers() {
        for path in ["/nowhere", "/v1.43/nowhere", "/v1.51", "/", "/v1.43/"] {
            let answer = testing::get(path).await;
            assert_eq!(answer.status, 404, "{path}");
            assert_eq!(answer.text(), "{\"message\":\"page not found\"}\n");
            assert_eq!(answer.headers["api-version"], "1.51");
            assert_eq!(answer.headers["ostype"], "linux");
            assert_eq!(answer.headers["docker-experimental"], "false");
        }
    }

    #[tokio::test]
    async fn a_path_that_is_no_text_is_refused_as_json() {
        assert!(is_text("/a%20b/%e2%82%AC/%zz/100%"));
        for path in [
            "/containers/%ff%fe/json",
            "/v1.51/images/%c3/json",
            "/volumes/a%80",
        ] {
            let answer = testing::get(path).await;
            assert_eq!(answer.status, 400, "{path}");
            assert_eq!(
                answer.text(),
                "{\"message\":\"invalid path: it is not UTF-8\"}\n"
            );
        }
    }

    #[tokio::test]
    async fn versions_out_of_range_are_refused() {
        let answer = testing::get("/v1.99/info").await;
        assert_eq!(answer.status, 400);
        assert_eq!(
            answer.text(),
            "{\"message\":\"client version 1.99 is too new. Maximum supported API version is 1.51\"}\n"
        );
        let answer = testing::get("/v1.12/info").await;
        assert_eq!(answer.status, 400);
        assert!(answer.text().contains("is too old"), "{}", answer.text());
    }
}
