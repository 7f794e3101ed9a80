//! `/volumes`.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Extension, Router};
use engine::clock::rfc3339;
use engine::volumes::{CreateVolume, LOCAL_DRIVER, Volume, VolumeService};
use engine_api::ApiVersion;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/volumes", get(list))
        .route("/volumes/create", post(create))
        .route("/volumes/prune", post(prune))
        .route("/volumes/{name}", get(inspect).delete(remove).put(update))
}

/// The body of `POST /volumes/create`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct CreateBody {
    name: Option<String>,
    driver: Option<String>,
    driver_opts: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    cluster_volume_spec: Option<Value>,
}

async fn create(
    State(volumes): State<Arc<VolumeService>>,
    body: Option<Json<CreateBody>>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let Json(body) = body.unwrap_or(Json(CreateBody::default()));
    if body.cluster_volume_spec.is_some() {
        return Err(ApiError::invalid(
            "cluster volumes need Swarm, which this engine does not have",
        ));
    }
    let volume = volumes
        .create(CreateVolume {
            name: body.name.unwrap_or_default(),
            driver: body.driver.unwrap_or_default(),
            driver_options: body.driver_opts.unwrap_or_default(),
            labels: body.labels.unwrap_or_default(),
        })
        .await?;
    Ok((StatusCode::CREATED, Json(shown(&volume))))
}

async fn list(State(volumes): State<Arc<VolumeService>>, query: Query) -> ApiResult<Json<Value>> {
    let list = volumes.list(&query.filters()?)?;
    let list: Vec<Value> = list.iter().map(shown).collect();
    Ok(Json(json!({ "Volumes": list, "Warnings": null })))
}

async fn inspect(
    State(volumes): State<Arc<VolumeService>>,
    Path(name): Path<String>,
) -> ApiResult<Json<Value>> {
    Ok(Json(shown(&volumes.inspect(&name)?)))
}

async fn remove(
    State(volumes): State<Arc<VolumeService>>,
    Path(name): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    volumes.remove(&name, query.flag("force")).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn update() -> ApiError {
    ApiError::new(
        engine::error::Class::Unavailable,
        "This node is not a swarm manager. Volumes can only be updated in a Swarm, which this engine does not have.",
    )
}

async fn prune(
    State(volumes): State<Arc<VolumeService>>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> ApiResult<Json<Value>> {
    let filters = query.filters()?;
    let all = version.prunes_named_volumes() || filters.flag("all")?.unwrap_or(false);
    let pruned = volumes.prune(&filters, all).await?;
    Ok(Json(json!({
        "VolumesDeleted": pruned.removed,
        "SpaceReclaimed": pruned.reclaimed,
    })))
}

/// A volume as Docker shows it.
pub(super) fn shown(volume: &Volume) -> Value {
    // Docker shows "no labels" as null.
    let labels = (!volume.labels.is_empty()).then_some(&volume.labels);
    let options = (!volume.options.is_empty()).then_some(&volume.options);
    json!({
        "CreatedAt": rfc3339(volume.created),
        "Driver": LOCAL_DRIVER,
        "Labels": labels,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": options,
        "Scope": "local",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing::{self, send_to};
    use axum::body::Body;
    use http::Method;

    #[tokio::test]
    async fn a_volumes_life() {
        let state = AppState::new(testing::services());
        let made = send_to(
            &state,
            Method::POST,
            "/v1.51/volumes/create",
            r#"{"Name":"data","Labels":{"a":"1"},"Driver":"local","DriverOpts":null}"#,
        )
        .await;
        assert_eq!(made.status, 201);
        let mut made = made.json();
        assert!(made["CreatedAt"].take().is_string());
        assert_eq!(
            made,
            json!({"CreatedAt":null,"Driver":"local","Labels":{"a":"1"},"Mountpoint":"/volumes/data/_data",
                "Name":"data","Options":null,"Scope":"local"})
        );
        let filters = "%7B%22label%22%3A%7B%22a%3D1%22%3Atrue%7D%7D";
        let path = format!("/volumes?filters={filters}");
        let list = send_to(&state, Method::GET, &path, Body::empty())
            .await
            .json();
        assert_eq!(list["Volumes"][0]["Name"], "data");
        assert_eq!(list["Warnings"], Value::Null);
        let one = send_to(&state, Method::GET, "/volumes/data", Body::empty()).await;
        assert_eq!(one.status, 200);
        let gone = send_to(&state, Method::DELETE, "/volumes/data", Body::empty()).await;
        assert_eq!((gone.status.as_u16(), gone.text()), (204, ""));
        let missing = send_to(&state, Method::GET, "/volumes/data", Body::empty()).await;
        assert_eq!(missing.status, 404);
        assert_eq!(
            missing.text(),
            "{\"message\":\"get data: no such volume\"}\n"
        );
        let forced = send_to(
            &state,
            Method::DELETE,
            "/volumes/data?force=1",
            Body::empty(),
        )
        .await;
        assert_eq!(forced.status, 204);
    }

    #[tokio::test]
    async fn a_volume_in_use_is_a_conflict() {
        let services = testing::services();
        let user = engine::id::ContainerId::random();
        let request = CreateVolume::named("data");
        services.volumes.acquire(request, &user).await.unwrap();
        let state = AppState::new(services);
        let answer = send_to(&state, Method::DELETE, "/volumes/data", Body::empty()).await;
        assert_eq!(answer.status, 409);
        assert!(answer.text().contains("volume is in use - ["));
    }

    #[tokio::test]
    async fn bad_requests_say_what_is_wrong() {
        let state = AppState::new(testing::services());
        for (body, status, part) in [
            ("{", 400, "invalid JSON"),
            (r#"{"Name":"a b"}"#, 400, "invalid characters"),
            (r#"{"Driver":"nfs"}"#, 404, "nfs"),
            (
                r#"{"DriverOpts":{"type":"tmpfs"}}"#,
                400,
                "missing required option: \\\"device\\\"",
            ),
            (r#"{"ClusterVolumeSpec":{}}"#, 400, "Swarm"),
        ] {
            let answer = send_to(&state, Method::POST, "/volumes/create", body).await;
            assert_eq!(answer.status, status, "{body}");
            assert!(answer.text().contains(part), "{}", answer.text());
        }
        let answer = testing::get("/volumes?filters=%7B%22size%22%3A%5B%221%22%5D%7D").await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.text(), "{\"message\":\"invalid filter 'size'\"}\n");
    }

    #[tokio::test]
    async fn an_empty_body_makes_an_anonymous_volume_and_prune_takes_it() {
        let state = AppState::new(testing::services());
        for body in ["", r#"{"Name":"named"}"#] {
            send_to(&state, Method::POST, "/volumes/create", body).await;
        }
        let pruned = send_to(&state, Method::POST, "/volumes/prune", "")
            .await
            .json();
        assert_eq!(pruned["VolumesDeleted"].as_array().unwrap().len(), 1);
        let pruned = send_to(&state, Method::POST, "/v1.41/volumes/prune", "").await;
        assert_eq!(pruned.json()["VolumesDeleted"], json!(["named"]));
    }
}
