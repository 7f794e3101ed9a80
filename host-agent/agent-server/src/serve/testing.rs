//! The router in process, on fakes: what tests of routes call.

use super::config::Config;
use super::options::Options;
use super::routes;
use super::ssh_agents::SshAgents;
use super::state::{AppState, Services, Stopping};
use super::system::System;
use axum::body::Body;
use bytes::Bytes;
use engine::builds::fake::NoFiles;
use engine::builds::{BuildBackends, BuildOptions, BuildService};
use engine::clock::SystemClock;
use engine::containers::testing::World;
use engine::execs::ExecService;
use engine::images::fake::FakeImages;
use engine::runtime::RuntimeFacts;
use engine_linux::host::HostFacts;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use std::path::Path;
use std::sync::Arc;
use tower::ServiceExt;

/// Services of which every one is a fake.
pub fn services() -> Services {
    services_over(&World::default())
}

/// The same over containers' fakes that the test looks at.
pub fn services_over(world: &World) -> Services {
    let containers = world.service();
    let events = world.events.clone();
    let config = Config::from_options(Options::default()).expect("the defaults are good");
    let host = HostFacts::read(Path::new("/"));
    let runtime = RuntimeFacts::default();
    let images = FakeImages {
        events: events.clone(),
        ..FakeImages::default()
    };
    let images = images.empty_service();
    let builds = BuildService::new(
        BuildBackends {
            images: images.clone(),
            containers: containers.clone(),
            files: Arc::new(NoFiles),
            git: Arc::new(NoFiles),
        },
        BuildOptions::default(),
    );
    Services {
        stopping: Stopping::default(),
        builds,
        ssh_agents: Arc::new(SshAgents::new("/nonexistent/build-ssh".into())),
        images,
        system: Arc::new(System::new("test".into(), config, host, runtime)),
        events,
        volumes: world.volumes.clone(),
        execs: ExecService::new(containers.clone(), Arc::new(SystemClock)),
        containers,
        networks: world.network_service.clone(),
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
