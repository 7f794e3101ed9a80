//! `GET /system/df`: what takes how much of the disk.

use super::volumes;
use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use crate::serve::translate::builds::cache_usage;
use crate::serve::translate::{container_list, images as image_views};
use axum::extract::State;
use axum::routing::get;
use axum::{Extension, Router};
use engine::builds::BuildService;
use engine::containers::ContainerService;
use engine::containers::list::ListOptions;
use engine::images::{ImageFilter, ImageService, ImageView};
use engine::volumes::VolumeService;
use engine_api::ApiVersion;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use time::OffsetDateTime;

pub fn router() -> Router<AppState> {
    Router::new().route("/system/df", get(disk_usage))
}

/// `type` (from 1.42, may be repeated) says what is counted; the rest is null.
async fn disk_usage(
    State(containers): State<Arc<ContainerService>>,
    State(images): State<ImageService>,
    State(volumes): State<Arc<VolumeService>>,
    State(builds): State<BuildService>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> ApiResult<Json<Value>> {
    const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];
    let asked: Vec<&str> = query.all("type").collect();
    if let Some(unknown) = asked.iter().find(|kind| !TYPES.contains(kind)) {
        return Err(ApiError::invalid(format!("unknown object type: {unknown}")));
    }
    let wanted =
        |kind: &str| !version.selects_disk_usage() || asked.is_empty() || asked.contains(&kind);
    let mut answer = json!({
        "LayersSize": 0,
        "Images": null,
        "Containers": null,
        "Volumes": null,
        "BuildCache": null,
    });
    if wanted("image") {
        let list = images.list(&ImageFilter::default())?;
        answer["LayersSize"] = layers_size(&list).into();
        answer["Images"] = image_usage(&list, &containers, version);
    }
    if wanted("container") {
        answer["Containers"] = container_usage(&containers).await?;
    }
    if wanted("volume") {
        answer["Volumes"] = volume_usage(&volumes).await?;
    }
    if wanted("build-cache") {
        let cache = builds.disk_usage().await?;
        let size: u64 = cache.iter().map(|entry| entry.size).sum();
        let shown = cache.iter().map(|entry| cache_usage(entry, version));
        answer["BuildCache"] = shown.collect();
        answer["BuilderSize"] = size.into();
    }
    Ok(Json(answer))
}

/// Bytes of all layers, each counted once.
fn layers_size(images: &[ImageView]) -> u64 {
    let layers: BTreeMap<_, u64> = images
        .iter()
        .flat_map(|image| &image.record.layers)
        .map(|layer| (&layer.chain_id, layer.size))
        .collect();
    layers.values().sum()
}

fn image_usage(images: &[ImageView], containers: &ContainerService, version: ApiVersion) -> Value {
    let mut users_of_layer: BTreeMap<_, usize> = BTreeMap::new();
    for layer in images.iter().flat_map(|image| &image.record.layers) {
        *users_of_layer.entry(&layer.chain_id).or_default() += 1;
    }
    let containers = containers.all();
    let shown = images.iter().map(|image| {
        let shared: u64 = image
            .record
            .layers
            .iter()
            .filter(|layer| users_of_layer[&layer.chain_id] > 1)
            .map(|layer| layer.size)
            .sum();
        let users = containers
            .iter()
            .filter(|container| container.spec.uses_image(&image.id) && !container.status().removed)
            .count();
        let mut shown = image_views::summary(image, None, version);
        shown["SharedSize"] = shared.into();
        shown["Containers"] = users.into();
        shown
    });
    shown.collect()
}

async fn container_usage(containers: &ContainerService) -> ApiResult<Value> {
    let everything = ListOptions {
        all: true,
        ..ListOptions::default()
    };
    let now = OffsetDateTime::now_utc();
    let mut shown = Vec::new();
    for (container, status) in containers.list(&everything).await? {
        let size = containers.disk_usage(&container).await?;
        let summary = container_list::summary(&container, &status, now, Some(size));
        shown.push(json!(summary));
    }
    Ok(shown.into())
}

async fn volume_usage(volumes: &VolumeService) -> ApiResult<Value> {
    let usage = volumes.usage().await?;
    let shown = usage.iter().map(|(volume, users, bytes)| {
        let mut shown = volumes::shown(volume);
        shown["UsageData"] = json!({ "RefCount": users, "Size": bytes });
        shown
    });
    Ok(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing;
    use axum::body::Body;
    use http::Method;

    #[tokio::test]
    async fn disk_usage_counts_what_was_asked() {
        let state = AppState::new(testing::services());
        let get =
            async |path: &str| testing::send_to(&state, Method::GET, path, Body::empty()).await;
        testing::send_to(
            &state,
            Method::POST,
            "/volumes/create",
            r#"{"Name":"data"}"#,
        )
        .await;
        let usage = get("/system/df").await.json();
        assert_eq!(
            usage["Volumes"][0]["UsageData"],
            json!({"RefCount": 0, "Size": 0})
        );
        let usage = get("/system/df?type=image").await.json();
        assert_eq!(usage["Volumes"], Value::Null);
        let usage = get("/v1.41/system/df?type=image").await.json();
        assert_eq!(usage["Volumes"][0]["Name"], "data");
        assert_eq!(get("/system/df?type=x").await.status, 400);
    }
}
