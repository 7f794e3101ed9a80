//! The composition root: the services over their real backends. The only place that names both.

use super::config::Config;
use super::state::{AppState, Services, Stopping};
use super::system::{System, engine_id};
use anyhow::Context;
use engine::clock::SystemClock;
use engine::events::EventBus;
use engine::runtime::Runtime;
use engine::volumes::VolumeService;
use engine_linux::host::HostFacts;
use engine_linux::network::{LinuxNetwork, NetworkConfig};
use engine_linux::runtime::{LinuxRuntime, RuntimeConfig};
use engine_linux::volumes::DiskVolumeStore;
use std::sync::Arc;

/// Makes every service, in the order they need each other; what an earlier engine left is found again on the way.
pub async fn services(config: Config, stopping: Stopping) -> anyhow::Result<AppState> {
    let data_root = config.data_root.clone();
    let id = engine_id(&data_root).context("cannot read or make the engine's id")?;
    let clock = Arc::new(SystemClock);
    let events = EventBus::new();
    let volumes = VolumeService::load(
        Arc::new(DiskVolumeStore::open(&data_root)?),
        events.clone(),
        clock.clone(),
    )
    .await?;
    let runtime = LinuxRuntime::new(runtime_config(&config))?;
    let network = LinuxNetwork::new(network_config(&config))?;
    let host = HostFacts::read(&data_root);
    let system = System::new(id, config, host, runtime.facts());
    Ok(AppState::new(Services {
        stopping,
        system: Arc::new(system),
        events,
        networks: Arc::new(network),
        volumes: Arc::new(volumes),
    }))
}

fn network_config(config: &Config) -> NetworkConfig {
    let mut network = NetworkConfig::new(config.data_root.clone(), config.exec_root.clone());
    if let Some(bridge) = &config.bridge {
        network.bridge.clone_from(bridge);
    }
    network.address = config.bip;
    network.userland_proxy = config.userland_proxy;
    network
}

fn runtime_config(config: &Config) -> RuntimeConfig {
    RuntimeConfig {
        exec_root: config.exec_root.clone(),
        // Stays right when the file is replaced by a newer version while this process runs.
        agent_program: "/proc/self/exe".into(),
        runtimes: config.runtimes.clone(),
    }
}
