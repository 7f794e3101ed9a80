//! The containers' service: what it stands on, and how containers are found. The verbs are in files of their own.

use super::container::Container;
use super::error::ContainerError;
use super::files::ContainerFiles;
use super::host::HostFiles;
use super::lifecycle::{Request, Step};
use super::registry::Registry;
use super::spec::LogSettings;
use super::store::ContainerStore;
use crate::clock::Clock;
use crate::events::{Event, EventBus, EventKind};
use crate::id::ContainerId;
use crate::images::{Digest, ImageSource, ImageUsers, Layers};
use crate::logs::LogReader;
use crate::networks::NetworkService;
use crate::runtime::{Rlimit, Runtime, TtySize};
use crate::volumes::VolumeService;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What containers stand on.
pub struct Dependencies {
    pub runtime: Arc<dyn Runtime>,
    pub images: Arc<dyn ImageSource>,
    pub layers: Arc<dyn Layers>,
    pub networks: Arc<NetworkService>,
    pub volumes: Arc<VolumeService>,
    pub store: Arc<dyn ContainerStore>,
    pub files: Arc<dyn HostFiles>,
    pub container_files: Arc<dyn ContainerFiles>,
    pub logs: Arc<dyn LogReader>,
    pub events: EventBus,
    pub clock: Arc<dyn Clock>,
    pub settings: Settings,
}

/// The agent's configuration as far as containers are concerned.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--log-driver` and `--log-opt` of the agent: for containers that do not say.
    pub log: LogSettings,
    /// Bytes of /dev/shm for containers that do not say.
    pub shm_size: u64,
    /// Whether containers get an init that do not say.
    pub init: bool,
    /// For containers that do not set the limit of that name.
    pub ulimits: Vec<Rlimit>,
    pub cgroup_parent: String,
    /// `--no-new-privileges` of the agent.
    pub no_new_privileges: bool,
    /// Processors of the host.
    pub processors: u32,
    /// The runtime of containers that do not name one; `None` is the built-in one.
    pub runtime: Option<String>,
    /// DNS for containers that do not say.
    pub dns: super::etc_files::Dns,
    /// The host's own name: that of containers in its network namespace.
    pub hostname: String,
    /// What `host-gateway` stands for, at most one of each family; none: the gateway of the container's own network.
    pub host_gateways: Vec<std::net::IpAddr>,
    /// In a machine of somebody's desktop: the desktop's folders that are shared with it. People mean the desktop when they
    /// name a bind source, so one that is not here is refused, never made empty.
    pub desktop_folders: Option<Vec<String>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            log: LogSettings::default(),
            shm_size: 64 << 20,
            init: false,
            ulimits: Vec::new(),
            cgroup_parent: String::new(),
            no_new_privileges: false,
            runtime: None,
            dns: super::etc_files::Dns::default(),
            hostname: String::new(),
            host_gateways: Vec::new(),
            desktop_folders: None,
            processors: std::thread::available_parallelism()
                .map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
        }
    }
}

/// Makes, runs and removes containers.
pub struct ContainerService {
    pub(super) deps: Arc<Dependencies>,
    pub(super) registry: Arc<Registry>,
}

impl Drop for ContainerService {
    fn drop(&mut self) {
        // Supervisors hold their containers and the dependencies; they end with the service. Containers go on.
        for container in self.registry.all() {
            if let Some(supervisor) = container.supervisor.get() {
                supervisor.abort();
            }
        }
    }
}

impl ContainerService {
    /// An empty service; [`ContainerService::recover`] loads what there is.
    pub fn new(deps: Dependencies) -> Arc<ContainerService> {
        Arc::new(ContainerService {
            deps: Arc::new(deps),
            registry: Arc::default(),
        })
    }

    /// By id, name or beginning of an id.
    pub fn find(&self, asked: &str) -> Result<Arc<Container>, ContainerError> {
        self.registry.find(asked)
    }

    /// Every container, in no order that means anything.
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.registry.all()
    }

    /// The container's own folder on the host.
    pub fn folder(&self, id: &ContainerId) -> std::path::PathBuf {
        self.deps.store.folder(id)
    }

    pub(crate) fn deps(&self) -> &Dependencies {
        &self.deps
    }

    /// `docker pause`.
    pub async fn pause(&self, asked: &str) -> Result<(), ContainerError> {
        let container = self.find(asked)?;
        container.decide(Request::Pause, asked)?;
        container.ask(super::container::Command::Pause).await
    }

    /// `docker unpause`.
    pub async fn unpause(&self, asked: &str) -> Result<(), ContainerError> {
        let container = self.find(asked)?;
        container.decide(Request::Unpause, asked)?;
        container.ask(super::container::Command::Unpause).await
    }

    /// Sets the size of the container's terminal.
    pub async fn resize(&self, asked: &str, size: TtySize) -> Result<(), ContainerError> {
        let container = self.find(asked)?;
        container.decide(Request::Resize, asked)?;
        let Some(task) = container.task() else {
            return Err(container.denied(super::lifecycle::Denied::NotRunning, asked));
        };
        task.resize(size).await?;
        let attributes = [
            ("height", size.rows.to_string()),
            ("width", size.columns.to_string()),
        ];
        self.deps.tell(&container, "resize", attributes);
        Ok(())
    }

    /// `docker rename`.
    pub async fn rename(&self, asked: &str, new_name: &str) -> Result<(), ContainerError> {
        if asked.is_empty() || new_name.is_empty() {
            return Err(ContainerError::invalid(
                "Neither old nor new names may be empty",
            ));
        }
        let name = super::names::parse(new_name)
            .ok_or_else(|| ContainerError::invalid(super::names::refusal(new_name)))?;
        let container = self.find(asked)?;
        let old = container.name();
        if old == name {
            return Err(ContainerError::invalid(
                "Renaming a container with the same name as its current name",
            ));
        }
        self.registry
            .reserve(name, &container.id)
            .map_err(|error| ContainerError::Conflict {
                why: format!("Error when allocating new name: {error}"),
            })?;
        let name = name.to_owned();
        let renamed = container
            .ask(|reply| super::container::Command::Rename {
                name: name.clone(),
                reply,
            })
            .await;
        match renamed {
            Ok(()) => {
                self.registry.release(&old, &container.id);
                self.deps
                    .tell(&container, "rename", [("oldName", format!("/{old}"))]);
                Ok(())
            }
            Err(error) => {
                self.registry.release(&name, &container.id);
                Err(error)
            }
        }
    }

    /// Removes containers that do not run and fit the filters (`label`, `label!`, `until`).
    pub async fn prune(
        &self,
        filters: &engine_api::Filters,
    ) -> Result<(Vec<ContainerId>, u64), ContainerError> {
        filters.only(&["label", "label!", "until"])?;
        let until =
            super::list::until(filters, self.deps.clock.now()).map_err(ContainerError::invalid)?;
        let mut removed = Vec::new();
        let mut reclaimed = 0;
        for container in self.all() {
            let state = container.status().state;
            let old_enough = until.is_none_or(|until| container.created < until);
            if state.is_running() || !old_enough || !filters.labels(&container.spec.config.labels) {
                continue;
            }
            let usage = self
                .deps
                .layers
                .usage(&container.id, container.spec.top_layer.as_ref())
                .await;
            if self
                .remove(
                    container.id.as_str(),
                    super::remove::RemoveOptions::default(),
                )
                .await
                .is_ok()
            {
                reclaimed += usage.map_or(0, |usage| usage.writable);
                removed.push(container.id.clone());
            }
        }
        self.deps.events.publish(Event {
            kind: EventKind::Container,
            action: "prune".into(),
            actor: String::new(),
            attributes: [("reclaimed".to_owned(), reclaimed.to_string())].into(),
            at: self.deps.clock.now(),
        });
        Ok((removed, reclaimed))
    }

    /// Bytes of a container's file system.
    pub async fn disk_usage(
        &self,
        container: &Container,
    ) -> Result<crate::images::ContainerDiskUsage, ContainerError> {
        Ok(self
            .deps
            .layers
            .usage(&container.id, container.spec.top_layer.as_ref())
            .await?)
    }

    /// Where a container's layers are, for `inspect`.
    pub fn layer_folders(&self, container: &Container) -> BTreeMap<String, String> {
        self.deps
            .layers
            .folders(&container.id, container.spec.top_layer.as_ref())
    }

    /// Checks a request against the state and returns container and step together.
    pub(super) fn decide(
        &self,
        asked: &str,
        request: Request,
    ) -> Result<(Arc<Container>, Step), ContainerError> {
        let container = self.find(asked)?;
        let step = container.decide(request, asked)?;
        Ok((container, step))
    }
}

impl ImageUsers for ContainerService {
    fn users_of(&self, image: &Digest) -> Vec<(ContainerId, bool)> {
        self.all()
            .into_iter()
            .filter(|container| container.spec.uses_image(image))
            .map(|container| {
                (
                    container.id.clone(),
                    container.status.borrow().state.is_running(),
                )
            })
            .collect()
    }
}

impl Dependencies {
    /// Publishes an event about a container, with the attributes Docker always gives.
    pub(crate) fn tell<const N: usize>(
        &self,
        container: &Container,
        action: &str,
        more: [(&str, String); N],
    ) {
        let mut attributes: BTreeMap<String, String> = container.spec.config.labels.clone();
        attributes.insert("image".into(), container.spec.config.image.clone());
        attributes.insert("name".into(), container.name());
        for (name, value) in more {
            attributes.insert(name.into(), value);
        }
        self.events.publish(Event {
            kind: EventKind::Container,
            action: action.to_owned(),
            actor: container.id.to_string(),
            attributes,
            at: self.clock.now(),
        });
    }
}
