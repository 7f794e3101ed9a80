//! `/containers`: everything but the streams, which are in [`super::container_streams`].

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use crate::serve::system::System;
use crate::serve::translate::{container_list, container_views, containers as translate};
use axum::Extension;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use engine::containers::ContainerService;
use engine::containers::list::ListOptions;
use engine::containers::remove::RemoveOptions;
use engine::containers::stop::StopOptions;
use engine::execs::ExecService;
use engine::networks::NetworkService;
use engine::runtime::TtySize;
use engine_api::ApiVersion;
use engine_api::containers::{ContainerCreate, HostConfigBody};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;
use time::OffsetDateTime;

type Containers = State<Arc<ContainerService>>;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/containers/json", get(list))
        .route("/containers/create", post(create))
        .route("/containers/prune", post(prune))
        .route("/containers/{id}", axum::routing::delete(remove))
        .route("/containers/{id}/json", get(inspect))
        .route("/containers/{id}/start", post(start))
        .route("/containers/{id}/stop", post(stop))
        .route("/containers/{id}/restart", post(restart))
        .route("/containers/{id}/kill", post(kill))
        .route("/containers/{id}/pause", post(pause))
        .route("/containers/{id}/unpause", post(unpause))
        .route("/containers/{id}/rename", post(rename))
        .route("/containers/{id}/resize", post(resize))
        .route("/containers/{id}/top", get(top))
        .route("/containers/{id}/update", post(update))
}

async fn create(
    State(containers): Containers,
    Extension(version): Extension<ApiVersion>,
    query: Query,
    body: Option<Json<ContainerCreate>>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let Some(Json(body)) = body else {
        return Err(ApiError::invalid(
            "config cannot be empty in order to create a container",
        ));
    };
    let request = translate::create_request(query.text("name"), query.text("platform"), body)?;
    translate::check_version(&request, version)?;
    let created = containers.create(request).await?;
    Ok((
        StatusCode::CREATED,
        Json(json!({ "Id": created.id, "Warnings": created.warnings })),
    ))
}

/// What one container takes in a list, about.
const SUMMARY_BYTES: usize = 1024;

async fn list(State(containers): Containers, query: Query) -> ApiResult<Response> {
    let limit = query
        .number::<i64>("limit")?
        .and_then(|limit| usize::try_from(limit).ok())
        .filter(|limit| *limit > 0);
    let options = ListOptions {
        all: query.flag("all"),
        limit,
        filters: query.filters()?,
    };
    let now = OffsetDateTime::now_utc();
    let listed = containers.list(&options).await?;
    let mut shown = Vec::with_capacity(listed.len());
    for (container, status) in &listed {
        let size = if query.flag("size") {
            Some(containers.disk_usage(container).await?)
        } else {
            None
        };
        shown.push(container_list::summary(container, status, now, size));
    }
    // A list may have hundreds: its text is not to be moved each time it has become longer.
    let mut text = Vec::with_capacity(shown.len() * SUMMARY_BYTES);
    serde_json::to_writer(&mut text, &shown).expect("plain data, written to memory");
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

async fn inspect(
    State(containers): Containers,
    State(networks): State<Arc<NetworkService>>,
    State(execs): State<Arc<ExecService>>,
    State(system): State<Arc<System>>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Json<Value>> {
    let container = containers.find(&id)?;
    let size = if query.flag("size") {
        Some(containers.disk_usage(&container).await?)
    } else {
        None
    };
    let folder = containers.folder(&container.id);
    let running = execs.of_container(&container.id);
    let status = container.status();
    let mut shown = container_views::inspect(
        &container,
        &status,
        &folder,
        containers.layer_folders(&container),
        &running,
        size,
    );
    if system.runtime.apparmor {
        shown["AppArmorProfile"] = container_views::apparmor_profile(&container.spec.host).into();
    }
    // Where the kernel can be told not to kill, nobody has told it.
    let kills = &mut shown["HostConfig"]["OomKillDisable"];
    if kills.is_null() && system.runtime.oom_kill_disable {
        *kills = false.into();
    }
    let attached = status.network.as_deref();
    let warnings = attached.map(|attached| networks.warnings_of(attached));
    // Not Docker's: what it only logs.
    if let Some(warnings) = warnings.filter(|warnings| !warnings.is_empty()) {
        shown["Warnings"] = json!(warnings);
    }
    Ok(Json(shown))
}

async fn start(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    // moby: an empty object is let through, and the settings of old clients are more than seven bytes.
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
    if length.unwrap_or(0) > 7 || headers.contains_key(TRANSFER_ENCODING) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24",
        ));
    }
    if query.text("checkpoint").is_some() {
        return Err(ApiError::unsupported(
            "checkpoints are not implemented in this version of the engine",
        ));
    }
    containers.start(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn stop_options(query: &Query) -> ApiResult<StopOptions> {
    Ok(StopOptions {
        signal: query.text("signal").map(str::to_owned),
        timeout: query.number("t")?,
    })
}

async fn stop(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    containers.stop(&id, &stop_options(&query)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn restart(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    containers.restart(&id, &stop_options(&query)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn kill(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    containers.kill(&id, query.text("signal")).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn update(
    State(containers): Containers,
    Path(id): Path<String>,
    Json(body): Json<HostConfigBody>,
) -> ApiResult<Json<Value>> {
    let warnings = containers
        .update(&id, translate::update_request(body)?)
        .await?;
    let warnings = (!warnings.is_empty()).then_some(warnings);
    Ok(Json(json!({ "Warnings": warnings })))
}

async fn pause(State(containers): Containers, Path(id): Path<String>) -> ApiResult<StatusCode> {
    containers.pause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn unpause(State(containers): Containers, Path(id): Path<String>) -> ApiResult<StatusCode> {
    containers.unpause(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn rename(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    containers
        .rename(&id, query.text("name").unwrap_or_default())
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `h` and `w`, which must both be there.
pub(super) fn wanted_size(query: &Query) -> ApiResult<TtySize> {
    let side = |name: &str| {
        query.number::<u16>(name)?.ok_or_else(|| {
            ApiError::invalid(format!(
                "invalid resize {}: it is missing",
                if name == "h" { "height" } else { "width" }
            ))
        })
    };
    Ok(TtySize {
        rows: side("h")?,
        columns: side("w")?,
    })
}

async fn resize(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    containers.resize(&id, wanted_size(&query)?).await?;
    Ok(StatusCode::OK)
}

async fn top(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Json<Value>> {
    let table = containers
        .top(&id, query.text("ps_args").unwrap_or_default())
        .await?;
    Ok(Json(container_views::top(&table)))
}

async fn remove(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    if query.flag("link") {
        return Err(ApiError::invalid("a link is named container/alias"));
    }
    let options = RemoveOptions {
        force: query.flag("force"),
        volumes: query.flag("v"),
    };
    containers.remove(&id, options).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(State(containers): Containers, query: Query) -> ApiResult<Json<Value>> {
    let (removed, bytes) = containers.prune(&query.filters()?).await?;
    let removed = (!removed.is_empty()).then_some(removed);
    Ok(Json(
        json!({ "ContainersDeleted": removed, "SpaceReclaimed": bytes }),
    ))
}
