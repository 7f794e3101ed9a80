//! From created (or ended) to running.

use super::{Flow, Supervisor};
use crate::containers::container::Reply;
use crate::containers::error::ContainerError;
use crate::containers::lifecycle::{ContainerState, Request};
use crate::containers::links;
use crate::containers::mounts::missing_source;
use crate::containers::plan::{self, Surroundings};
use crate::containers::spec::{IpcMode, MountKind, NamespaceMode, RestartPolicy};
use crate::containers::store::Durability;
use crate::runtime::{ProcessIo, Task};
use std::sync::Arc;

impl Supervisor {
    pub(super) async fn start(&mut self, reply: Reply) -> Flow {
        if let Err(error) = self.check(Request::Start) {
            let _ = reply.send(Err(error));
            return Flow::GoOn;
        }
        self.restart_at = None;
        self.last_pause = None;
        self.keep_at_end = false;
        self.status.send_modify(|status| {
            status.restart_count = 0;
            status.stopped_by_hand = false;
            status.paused_for_commit = false;
        });
        match self.launch().await {
            Ok(()) => {
                self.deps.tell(&self.container, "start", []);
                let _ = reply.send(Ok(()));
                // The answer does not wait for the disk: a running container is found again by its shim.
                let policy = self.container.latest_spec().host.restart;
                let durability = if policy == RestartPolicy::No {
                    Durability::Written
                } else {
                    Durability::Synced
                };
                self.save(durability).await;
                Flow::GoOn
            }
            Err(error) => self.start_failed(error, Some(reply)).await,
        }
    }

    pub(super) async fn start_failed(
        &mut self,
        error: ContainerError,
        reply: Option<Reply>,
    ) -> Flow {
        let text = crate::error::full_message(&error);
        tracing::debug!(container = %self.container.id, error = text, "container could not be started");
        let code = error.exit_code();
        let auto_remove = self.container.spec.host.auto_remove;
        if auto_remove {
            self.registry.remove(&self.container);
        }
        // Whoever attached before the start waits for an end.
        self.container.hub.end();
        self.status.send_modify(|status| {
            if let ContainerState::Restarting { .. } = status.state {
                status.state = ContainerState::Exited {
                    code,
                    at: self.deps.clock.now(),
                };
            }
            status.exit_code = code;
            status.error = text;
            status.exits += 1;
            if auto_remove {
                status.state = ContainerState::Removing;
            }
        });
        if auto_remove {
            let _removal = self.registry.removals.clone().read_owned().await;
            self.forget();
            if let Some(reply) = reply {
                let _ = reply.send(Err(error));
            }
            self.clear_away(true).await;
            return Flow::Ended;
        }
        if let Some(reply) = reply {
            let _ = reply.send(Err(error));
        }
        self.save(Durability::Written).await;
        Flow::GoOn
    }

    /// From a mounted root file system to a running process. After an error nothing is left of it.
    pub(super) async fn launch(&mut self) -> Result<(), ContainerError> {
        let deps = self.deps.clone();
        let container = self.container.clone();
        let spec = &container.latest_spec();
        let pid_of = match &spec.host.pid {
            NamespaceMode::Container(id) => Some(self.pid_of(id, "PID")?),
            _ => None,
        };
        let ipc_of = match &spec.host.ipc {
            IpcMode::Container(id) => Some(self.pid_of(id, "IPC")?),
            _ => None,
        };
        let images = self.image_folders()?;
        for mount in spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Bind && mount.create_source)
        {
            if !deps.files.exists(&mount.source).await {
                if let Some(shared) = &deps.settings.desktop_folders {
                    return Err(missing_source(&mount.source, Some(shared)));
                }
                deps.files
                    .make_folder(&mount.source)
                    .await
                    .map_err(|error| {
                        ContainerError::storage(
                            format!("make the mount source {}", mount.source.display()),
                            error,
                        )
                    })?;
            }
        }
        let (rootfs, network) = tokio::join!(
            deps.layers.mount(&container.id, spec.top_layer.as_ref()),
            self.attach()
        );
        let undo = async |error: ContainerError| {
            self.give_back().await;
            error
        };
        let (rootfs, (namespace, attached)) = match (rootfs, network) {
            (Ok(rootfs), Ok(network)) => (rootfs, network),
            (Err(error), _) => return Err(undo(error.into()).await),
            (_, Err(error)) => return Err(undo(error).await),
        };
        let folder = deps.store.folder(&container.id);
        let shared_memory = async {
            self.mount_volumes().await?;
            self.shared_memory().await
        };
        let shared_memory = match shared_memory.await {
            Ok(path) => path,
            Err(error) => return Err(undo(error).await),
        };
        let files = async {
            let links = links::all(&self.registry, &self.container)?;
            let hostname = self.write_files(&folder, attached.as_ref(), &links).await?;
            Ok((hostname, links))
        };
        let (hostname, links) = match files.await {
            Ok(written) => written,
            Err(error) => return Err(undo(error).await),
        };
        let around = Surroundings {
            name: container.name(),
            rootfs,
            folder,
            network: namespace,
            pid_of,
            ipc_of,
            shared_memory,
            images,
            hostname,
            environment: links
                .into_iter()
                .flat_map(|link| link.environment)
                .collect(),
        };
        let plan = match plan::launch(&container.id, spec, around) {
            Ok(plan) => plan,
            Err(why) => return Err(undo(ContainerError::invalid(why)).await),
        };
        // Before there is a shim: an engine that is killed right after its start must know which network is in use.
        if attached.is_some() {
            self.save_network(attached.clone()).await;
        }
        let (task, io) = match deps.runtime.start(plan).await {
            Ok(started) => started,
            Err(cause) => return Err(undo(ContainerError::Start { cause }).await),
        };
        let (pid, started) = (task.pid(), task.started_at());
        self.connect(task, io);
        self.remember_addresses(attached.as_ref());
        self.status.send_modify(|status| {
            status.state = ContainerState::Running { pid, started };
            status.started_at = Some(started);
            status.exit_code = 0;
            status.error.clear();
            status.oom_killed = false;
            status.network = attached.map(Arc::new);
        });
        self.begin_health();
        self.tell_network("connect");
        self.tell_linked();
        Ok(())
    }

    pub(super) fn connect(&mut self, task: Box<dyn Task>, io: ProcessIo) {
        let task: Arc<dyn Task> = Arc::from(task);
        self.set_task(Some(task));
        self.out_of_memory = 0;
        self.pump = Some(self.container.hub.connect(io));
    }

    pub(super) fn set_task(&mut self, task: Option<Arc<dyn Task>>) {
        self.task.clone_from(&task);
        *self
            .container
            .task
            .write()
            .expect("no code panics while it holds this lock") = task;
    }

    /// First process of another container whose namespace is joined.
    pub(super) fn pid_of(&self, id: &str, what: &str) -> Result<u32, ContainerError> {
        let other = self.registry.find(id)?;
        let pid = other.status.borrow().state.pid();
        if pid == 0 {
            return Err(ContainerError::Conflict {
                why: format!(
                    "cannot join {what} namespace of a non running container: container {} is {}",
                    other.name(),
                    other.status.borrow().state.name()
                ),
            });
        }
        Ok(pid)
    }
}
