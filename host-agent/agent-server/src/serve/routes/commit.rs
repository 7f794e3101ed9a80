//! `POST /commit`.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use crate::serve::translate::containers as translate;
use axum::Router;
use axum::extract::State;
use axum::routing::post;
use engine::containers::ContainerService;
use engine::containers::commit::CommitRequest;
use engine::images::{ImageError, ImageService, Reference};
use engine_api::containers::ContainerCreate;
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

pub fn router() -> Router<AppState> {
    Router::new().route("/commit", post(commit))
}

/// The name an image shall have; `None` where none is given.
pub(super) fn new_name(query: &Query) -> ApiResult<Option<Reference>> {
    let Some(repository) = query.text("repo") else {
        return Ok(None);
    };
    let reference = Reference::parse(repository).map_err(ImageError::from)?;
    if reference.digest.is_some() {
        return Err(ApiError::invalid("cannot import digest reference"));
    }
    let reference = match query.text("tag") {
        None => reference.or_latest(),
        Some(tag) => reference
            .repository
            .with_tag(tag)
            .map_err(ImageError::from)?,
    };
    Ok(Some(reference))
}

/// Every instruction that was given, each perhaps of several lines.
pub(super) fn changes(query: &Query) -> Vec<String> {
    query
        .all("changes")
        .filter(|change| !change.trim().is_empty())
        .map(str::to_owned)
        .collect()
}

async fn commit(
    State(containers): State<Arc<ContainerService>>,
    State(images): State<ImageService>,
    query: Query,
    body: Option<Json<ContainerCreate>>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let text = |name: &str| query.text(name).unwrap_or_default().to_owned();
    let request = CommitRequest {
        config: body.map(|Json(body)| translate::config(body)),
        changes: changes(&query),
        name: new_name(&query)?,
        author: text("author"),
        comment: text("comment"),
        pause: query.flag_or("pause", true),
    };
    let id = containers
        .commit(&text("container"), request, &images)
        .await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))))
}

#[cfg(test)]
mod tests {
    use crate::serve::state::AppState;
    use crate::serve::testing::{self, Answer, send_to};
    use axum::body::Body;
    use http::Method;

    #[track_caller]
    fn check(answer: &Answer, status: u16, text: &str) {
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
    }

    #[tokio::test]
    async fn bad_commits_are_refused() {
        let state = AppState::new(testing::services());
        let post =
            |path: &'static str, body: &'static str| send_to(&state, Method::POST, path, body);
        let made = post("/containers/create?name=web", "{\"Image\":\"busybox\"}").await;
        check(&made, 201, "Id");
        for (path, status, text) in [
            ("/commit?container=no", 404, "No such container: no"),
            ("/commit", 404, "No such container"),
            ("/commit?container=web&repo=UPPER", 400, "must be lowercase"),
            ("/commit?container=web&repo=a&tag=b%20c", 400, "invalid"),
            (
                "/commit?container=web&changes=RUN+x",
                400,
                "RUN is not a valid change command",
            ),
            // The fakes of containers and of images do not know of each other.
            ("/commit?container=web", 404, "No such image"),
        ] {
            check(&post(path, "").await, status, text);
        }
    }

    #[tokio::test]
    async fn a_tar_becomes_an_image() {
        let state = AppState::new(testing::services());
        let path = "/images/create?fromSrc=-&repo=me/thing&tag=v1&message=by+hand&changes=CMD+true&changes=ENV+A%3D1";
        let answer = send_to(&state, Method::POST, path, "a root file system").await;
        check(&answer, 200, "{\"status\":\"sha256:");
        let answer = send_to(
            &state,
            Method::GET,
            "/images/me/thing:v1/json",
            Body::empty(),
        )
        .await;
        let image = answer.json();
        assert_eq!(image["Config"]["Cmd"][2], "true");
        assert_eq!(image["Config"]["Env"][0], "A=1");
        assert_eq!(image["Comment"], "by hand");
        assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
        let path = "/images/create?fromSrc=files/root.tar&platform=linux/arm64";
        let answer = send_to(&state, Method::POST, path, "").await;
        check(&answer, 200, "Downloading from http://files/root.tar");
        check(&answer, 200, "\"status\":\"sha256:");
        for (path, status, text) in [
            (
                "fromSrc=http://files/none",
                400,
                "with status 404 Not Found",
            ),
            (
                "fromSrc=-&changes=RUN+x",
                400,
                "RUN is not a valid change command",
            ),
            (
                "fromSrc=-&repo=a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                400,
                "cannot import digest reference",
            ),
        ] {
            let path = format!("/images/create?{path}");
            check(
                &send_to(&state, Method::POST, &path, "x").await,
                status,
                text,
            );
        }
    }
}
