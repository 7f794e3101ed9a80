//! The router in process, on fakes: what tests of routes call.

use super::routes;
use super::state::{AppState, Services};
use axum::body::Body;
use bytes::Bytes;
use engine::clock::SystemClock;
use engine::events::EventBus;
use engine::id::ContainerId;
use engine::networks::{Attached, Attachment, NetworkBackend, NetworkError, NetworkFacts};
use engine::volumes::VolumeService;
use engine::volumes::fake::FakeVolumeStore;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use std::sync::Arc;
use tower::ServiceExt;

/// Services of which every one is a fake.
pub fn services() -> Services {
    let events = EventBus::new();
    let volumes = VolumeService::empty(
        Arc::new(FakeVolumeStore::default()),
        events.clone(),
        Arc::new(SystemClock),
    );
    Services {
        events,
        volumes: Arc::new(volumes),
        networks: Arc::new(NoNetworks),
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// Sends one request to the routes over `services` and reads the whole answer.
pub async fn send(services: Services, method: Method, path: &str, body: impl Into<Body>) -> Answer {
    send_to(&AppState::new(services), method, path, body).await
}

/// The same over a state that is used again.
pub async fn send_to(
    state: &AppState,
    method: Method,
    path: &str,
    body: impl Into<Body>,
) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(body.into())
        .expect("a good request");
    let response = routes::router(state.clone())
        .oneshot(request)
        .await
        .expect("a router does not fail");
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: body
            .collect()
            .await
            .expect("the body can be read")
            .to_bytes(),
    }
}

/// GET over fresh fakes.
pub async fn get(path: &str) -> Answer {
    send(services(), Method::GET, path, Body::empty()).await
}

/// A backend without networks.
pub struct NoNetworks;

#[async_trait::async_trait]
impl NetworkBackend for NoNetworks {
    async fn attach(&self, attachment: Attachment) -> Result<Attached, NetworkError> {
        Err(NetworkError::Unsupported {
            what: format!("{:?}", attachment.mode),
            why: "this is a test without networks".into(),
        })
    }

    async fn detach(&self, _: &ContainerId) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn recover(&self, _: Vec<(ContainerId, Attached)>) -> Result<(), NetworkError> {
        Ok(())
    }

    fn networks(&self) -> Vec<NetworkFacts> {
        Vec::new()
    }

    fn resolv_conf(&self) -> String {
        String::new()
    }
}
