//! What handlers are given. Each takes only the service it needs: `State(events): State<EventBus>`.

use super::ssh_agents::SshAgents;
use super::system::System;
use axum::extract::FromRef;
use engine::builds::BuildService;
use engine::containers::ContainerService;
use engine::events::EventBus;
use engine::execs::ExecService;
use engine::images::ImageService;
use engine::networks::NetworkService;
use engine::volumes::VolumeService;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Everything the routes stand on. Cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Services>);

/// The services, made once by the composition root (`serve::compose`) or, with fakes, by `serve::testing`.
pub struct Services {
    pub stopping: Stopping,
    pub system: Arc<System>,
    pub events: EventBus,
    pub images: ImageService,
    pub networks: Arc<NetworkService>,
    pub volumes: Arc<VolumeService>,
    pub containers: Arc<ContainerService>,
    pub execs: Arc<ExecService>,
    pub builds: BuildService,
    pub ssh_agents: Arc<SshAgents>,
}

/// Told when the server stops: streams that would never end by themselves end then.
#[derive(Debug, Clone, Default)]
pub struct Stopping(pub CancellationToken);

impl AppState {
    pub fn new(services: Services) -> AppState {
        AppState(Arc::new(services))
    }
}

/// Lets a handler take `State<$service>`; one line for each service.
macro_rules! extractable {
    ($($field:ident: $service:ty,)*) => {
        $(impl FromRef<AppState> for $service {
            fn from_ref(state: &AppState) -> $service {
                state.0.$field.clone()
            }
        })*
    };
}

extractable! {
    stopping: Stopping,
    system: Arc<System>,
    events: EventBus,
    images: ImageService,
    networks: Arc<NetworkService>,
    volumes: Arc<VolumeService>,
    containers: Arc<ContainerService>,
    execs: Arc<ExecService>,
    builds: BuildService,
    ssh_agents: Arc<SshAgents>,
}
