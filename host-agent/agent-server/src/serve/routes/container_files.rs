//! `/containers/{id}/archive`, `changes` and `export`: a container's files from outside.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use crate::serve::translate::container_files as wire;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use engine::containers::ContainerService;
use engine::images::ByteStream;
use futures_util::StreamExt;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::Value;
use std::sync::Arc;

type Containers = State<Arc<ContainerService>>;

/// Base64 of JSON: what is at the path.
const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/containers/{id}/archive", get(read).head(stat).put(write))
        .route("/containers/{id}/changes", get(changes))
        .route("/containers/{id}/export", get(export))
}

fn path(query: &Query) -> ApiResult<&str> {
    query
        .text("path")
        .ok_or_else(|| ApiError::invalid("bad parameter: 'path' cannot be empty"))
}

async fn stat(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let stat = containers.stat_path(&id, path(&query)?).await?;
    Ok([(PATH_STAT, wire::path_stat(&stat))].into_response())
}

async fn read(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let (stat, content) = containers.read_path(&id, path(&query)?).await?;
    Ok(([(PATH_STAT, wire::path_stat(&stat))], tar(content)).into_response())
}

async fn write(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
    request: Request,
) -> ApiResult<StatusCode> {
    let content = request
        .into_body()
        .into_data_stream()
        .map(|piece| piece.map_err(std::io::Error::other));
    containers
        .write_path(
            &id,
            path(&query)?,
            query.flag("noOverwriteDirNonDir"),
            query.flag("copyUIDGID"),
            Box::pin(content),
        )
        .await?;
    Ok(StatusCode::OK)
}

async fn changes(State(containers): Containers, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    let changes = containers.changes(&id).await?;
    Ok(Json(wire::changes(&changes)))
}

async fn export(State(containers): Containers, Path(id): Path<String>) -> ApiResult<Response> {
    let content = containers.export(&id).await?;
    Ok(tar(content).into_response())
}

/// A tar as it is read; where that fails, the connection ends early.
fn tar(content: ByteStream) -> impl IntoResponse {
    (
        [(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-tar"),
        )],
        Body::from_stream(content),
    )
}

#[cfg(test)]
mod tests {
    use crate::serve::state::AppState;
    use crate::serve::testing::{self, Answer, send_to};
    use axum::body::Body;
    use base64::Engine as _;
    use engine::containers::testing::World;
    use engine::images::{Change, ChangeKind};
    use http::Method;
    use serde_json::{Value, json};

    async fn world_with(body: Value) -> (World, AppState, String) {
        let world = World::default();
        let services = testing::services_over(&world);
        let state = AppState::new(services);
        let body = body.to_string();
        let made = send_to(&state, Method::POST, "/containers/create?name=web", body).await;
        assert_eq!(made.status, 201, "{}", made.text());
        let id = made.json()["Id"].as_str().expect("an id").to_owned();
        (world, state, id)
    }

    async fn world() -> (World, AppState, String) {
        world_with(json!({ "Image": "busybox" })).await
    }

    #[track_caller]
    fn check(answer: &Answer, status: u16, text: &str) {
        assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
        assert!(answer.text().contains(text), "{}", answer.text());
    }

    fn stat(answer: &Answer) -> Value {
        let header = answer.headers["x-docker-container-path-stat"].as_bytes();
        let text = base64::engine::general_purpose::STANDARD
            .decode(header)
            .expect("base64");
        serde_json::from_slice(&text).expect("JSON")
    }

    #[tokio::test]
    async fn head_tells_what_is_there_in_go_s_terms() {
        let (_world, state, _) = world().await;
        let head = |path: &'static str| send_to(&state, Method::HEAD, path, Body::empty());
        let answer = head("/v1.51/containers/web/archive?path=/tmp").await;
        check(&answer, 200, "");
        let found = stat(&answer);
        assert_eq!(found["name"], "tmp");
        assert_eq!(found["mode"], 0x8000_01edu32);
        assert_eq!(found["linkTarget"], "");
        let found = stat(&head("/containers/web/archive?path=%2Flink").await);
        assert_eq!(
            (&found["mode"], &found["linkTarget"]),
            (&json!(0x800_01ffu32), &json!("/file"))
        );
        let answer = head("/containers/web/archive?path=/nothing").await;
        assert_eq!(answer.status, 404);
        let answer = head("/containers/web/archive").await;
        assert_eq!(answer.status, 400);
        let answer = head("/containers/nobody/archive?path=/").await;
        assert_eq!(answer.status, 404);
    }

    #[tokio::test]
    async fn what_is_put_into_a_folder_comes_out_of_it() {
        let (world, state, id) = world().await;
        let path = "/containers/web/archive?path=/tmp&noOverwriteDirNonDir=true";
        let answer = send_to(&state, Method::PUT, path, "an archive").await;
        check(&answer, 200, "");
        let answer = send_to(
            &state,
            Method::GET,
            "/containers/web/archive?path=/tmp",
            Body::empty(),
        )
        .await;
        check(&answer, 200, "an archive");
        assert_eq!(answer.headers["content-type"], "application/x-tar");
        assert_eq!(stat(&answer)["name"], "tmp");
        let written = world.container_files.written.lock().expect("free")["/tmp"].clone();
        assert!(written.1.keep_kinds && written.1.owner.is_none());
        for (path, status, text) in [
            ("path=/file", 400, "extraction point is not a directory"),
            (
                "path=/nothing",
                404,
                "Could not find the file /nothing in container web",
            ),
            ("path=", 400, "bad parameter"),
        ] {
            let path = format!("/containers/web/archive?{path}");
            check(&send_to(&state, Method::PUT, &path, "").await, status, text);
        }
        let missing = format!("/containers/{id}/archive?path=/no");
        check(
            &send_to(&state, Method::GET, &missing, "").await,
            404,
            &format!("Could not find the file /no in container {id}"),
        );
        assert_eq!(
            world.actions(),
            ["create", "extract-to-dir", "archive-path"]
        );
    }

    #[tokio::test]
    async fn read_only_containers_and_users() {
        let body = json!({ "Image": "busybox", "User": "ada", "HostConfig": { "ReadonlyRootfs": true, "Binds": ["/exists:/tmp:ro"] } });
        let (_world, state, _) = world_with(body).await;
        for (path, text) in [
            ("/", "container rootfs is marked read-only"),
            ("/tmp", "mounted volume is marked read-only"),
        ] {
            let path = format!("/containers/web/archive?path={path}");
            check(&send_to(&state, Method::PUT, &path, "").await, 403, text);
        }
        let (world, state, _) = world_with(json!({ "Image": "busybox", "User": "ada" })).await;
        let path = "/containers/web/archive?path=/&copyUIDGID=1";
        check(&send_to(&state, Method::PUT, path, "").await, 200, "");
        let written = world.container_files.written.lock().expect("free")["/"].clone();
        assert_eq!(written.1.owner.as_deref(), Some("ada"));
    }

    #[tokio::test]
    async fn changes_and_export() {
        let (world, state, _) = world().await;
        let get = |path: &'static str| send_to(&state, Method::GET, path, Body::empty());
        check(&get("/containers/web/changes").await, 200, "null\n");
        *world.layers.changes.lock().expect("free") = [
            (ChangeKind::Modified, "/etc"),
            (ChangeKind::Added, "/etc/new"),
            (ChangeKind::Deleted, "/gone"),
        ]
        .map(|(kind, path)| Change {
            kind,
            path: path.into(),
        })
        .into();
        let answer = get("/containers/web/changes").await;
        assert_eq!(
            answer.json(),
            json!([
                { "Path": "/etc", "Kind": 0 },
                { "Path": "/etc/new", "Kind": 1 },
                { "Path": "/gone", "Kind": 2 },
            ])
        );
        let answer = get("/containers/web/export").await;
        check(&answer, 200, "the whole root");
        assert_eq!(answer.headers["content-type"], "application/x-tar");
        check(
            &get("/containers/no/export").await,
            404,
            "No such container: no",
        );
        check(
            &get("/containers/no/changes").await,
            404,
            "No such container: no",
        );
        assert_eq!(world.actions(), ["create", "export"]);
    }
}
