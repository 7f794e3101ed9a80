//! The composition root: the services over their real backends. The only place that names both.

use super::config::Config;
use super::ssh_agents::SshAgents;
use super::state::{AppState, Services, Stopping};
use super::system::default_runtime;
use super::system::{System, engine_id};
use anyhow::Context;
use engine::builds::{BuildBackends, BuildOptions, BuildService};
use engine::clock::SystemClock;
use engine::containers::etc_files::Dns;
use engine::containers::{ContainerError, ContainerService, Dependencies, Settings};
use engine::events::EventBus;
use engine::execs::ExecService;
use engine::images::{ImageBackends, ImageOptions, ImageService};
use engine::networks::NetworkService;
use engine::networks::ipam::Pool;
use engine::runtime::Runtime;
use engine::volumes::VolumeService;
use engine_linux::archive::DiskArchives;
use engine_linux::blobs::{DiskBlobs, DiskImages, Leftovers};
use engine_linux::builds::DiskBuildFiles;
use engine_linux::containers::{DiskContainerStore, HostFilesystem, ViewedFiles};
use engine_linux::download::HttpDownloads;
use engine_linux::files::Boot;
use engine_linux::host::{self, HostFacts};
use engine_linux::layers::OverlayLayers;
use engine_linux::logs::JsonFileReader;
use engine_linux::network::{DiskNetworks, LinuxNetwork, NetworkConfig};
use engine_linux::registry::{HttpRegistry, ProxyRules, RegistryOptions};
use engine_linux::runtime::{LinuxRuntime, Program, RuntimeConfig};
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
    // First of all: it clears away what is not to be seen by the layers.
    let store = DiskContainerStore::open(&data_root).map_err(ContainerError::from)?;
    let layers = OverlayLayers::open(&data_root)?;
    let images = images(&config, &layers, events.clone()).await?;
    let runtime: Arc<dyn Runtime> = Arc::new(runtime);
    let backend = LinuxNetwork::new(network_config(&config))?;
    let networks = NetworkService::open(
        Arc::new(backend),
        Arc::new(DiskNetworks::open(&data_root)?),
        events.clone(),
        clock.clone(),
        address_pools(&config),
    );
    let networks = Arc::new(networks.await?);
    let volumes = Arc::new(volumes);
    let containers = ContainerService::new(Dependencies {
        runtime: runtime.clone(),
        images: Arc::new(images.clone()),
        layers: Arc::new(layers),
        networks: networks.clone(),
        volumes: volumes.clone(),
        store: Arc::new(store),
        files: Arc::new(HostFilesystem),
        container_files: Arc::new(ViewedFiles),
        logs: Arc::new(JsonFileReader),
        events: events.clone(),
        clock: clock.clone(),
        settings: container_settings(&config),
    });
    images.set_users(containers.clone());
    containers.recover().await?;
    let build_cache = config.build_cache.clone();
    let build_files = DiskBuildFiles::open(&data_root, &config.exec_root)?;
    let builds = BuildService::new(
        BuildBackends {
            images: images.clone(),
            containers: containers.clone(),
            git: Arc::new(build_files.git()),
            files: Arc::new(build_files),
        },
        BuildOptions {
            limits: build_cache,
            ..BuildOptions::default()
        },
    );
    builds.recover().await;
    builds.keep_trimmed();
    let ssh_agents = SshAgents::new(config.exec_root.join("build-ssh"));
    let execs = ExecService::new(containers.clone(), clock);
    let host = HostFacts::read(&data_root);
    let system = System::new(id, config, host, runtime.facts());
    Ok(AppState::new(Services {
        stopping,
        system: Arc::new(system),
        events,
        images,
        networks,
        volumes,
        containers,
        execs,
        builds,
        ssh_agents: Arc::new(ssh_agents),
    }))
}

async fn images(
    config: &Config,
    layers: &OverlayLayers,
    events: EventBus,
) -> anyhow::Result<ImageService> {
    let registry = HttpRegistry::new(RegistryOptions {
        mirrors: config.registry_mirrors.clone(),
        insecure: config.insecure_registries.clone(),
        certificates: config.registry_certs.clone(),
        proxies: config.proxies.clone(),
        attempts: config.max_download_attempts,
        index: config.search_index.clone(),
    })?;
    let boot = Boot::of(&config.data_root).context("cannot tell this boot from the last")?;
    let leftovers = match boot.is_same {
        true => Leftovers::Keep,
        false => Leftovers::Remove,
    };
    let backends = ImageBackends {
        blobs: Arc::new(DiskBlobs::open_with(&config.data_root, leftovers)?),
        layers: Arc::new(layers.clone()),
        store: Arc::new(DiskImages::new(&config.data_root)),
        registry: Arc::new(registry),
        archives: Arc::new(DiskArchives::open(&config.data_root)?),
        downloads: Arc::new(HttpDownloads::new(ProxyRules::new(config.proxies.clone())?)),
        clock: Arc::new(SystemClock),
        events,
    };
    let options = ImageOptions {
        concurrent_downloads: config.max_concurrent_downloads,
        concurrent_uploads: config.max_concurrent_uploads,
        policy: config.policy.clone(),
        resumes: boot.is_same,
        ..ImageOptions::default()
    };
    let images = ImageService::open(backends, options).await?;
    boot.note().context("cannot note this boot")?;
    Ok(images)
}

fn container_settings(config: &Config) -> Settings {
    Settings {
        log: config.log.clone(),
        ulimits: config.default_ulimits.clone(),
        dns: Dns {
            servers: config.dns.iter().map(ToString::to_string).collect(),
            options: config.dns_options.clone(),
            search: config.dns_search.clone(),
        },
        runtime: Some(default_runtime(config).to_owned()),
        init: config.init,
        cgroup_parent: config.cgroup_parent.clone(),
        no_new_privileges: config.no_new_privileges,
        shm_size: config
            .default_shm_size
            .unwrap_or(Settings::default().shm_size),
        host_gateways: config.host_gateways.clone(),
        hostname: host::hostname(),
        desktop_folders: config.desktop_folders.clone(),
        ..Settings::default()
    }
}

fn address_pools(config: &Config) -> Option<Vec<Pool>> {
    (!config.address_pools.is_empty()).then(|| config.address_pools.clone())
}

fn network_config(config: &Config) -> NetworkConfig {
    let mut network = NetworkConfig::new(config.data_root.clone(), config.exec_root.clone());
    if let Some(bridge) = &config.bridge {
        network.bridge.clone_from(bridge);
    }
    network.address = config.bip;
    network.lend = config.fixed_cidr;
    network.ipv6 = config.ipv6.then_some(config.fixed_cidr_v6);
    network.icc = config.icc;
    network.mtu = config.mtu;
    network.port_address = config.port_address;
    network.firewall = config.iptables;
    network.firewall_ipv6 = config.iptables && config.ip6tables;
    network.userland_proxy = config.userland_proxy;
    network.forwarding = config.ip_forward;
    network.masquerade = config.ip_masq;
    if let Some(pools) = address_pools(config) {
        network.pools = pools;
    }
    network
}

fn runtime_config(config: &Config) -> RuntimeConfig {
    RuntimeConfig {
        exec_root: config.exec_root.clone(),
        // Stays right when the file is replaced by a newer version while this process runs.
        agent_program: "/proc/self/exe".into(),
        runtimes: config
            .runtimes
            .iter()
            .map(|(name, program)| {
                let program = Program {
                    path: program.path.clone(),
                    arguments: program.arguments.clone(),
                };
                (name.clone(), program)
            })
            .collect(),
        init: config.init_path.clone(),
        open_files: engine_linux::shim::raise_open_files(),
    }
}
