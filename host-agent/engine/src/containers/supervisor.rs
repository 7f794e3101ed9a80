//! One task per container: the only one that changes it.
//!
//! ```text
//!  commands --.                    .--> status (watch), record on disk, events
//!  exit -------+--> supervisor ---<
//!  restart ---'                    '--> layers, network, runtime
//! ```

use super::container::{Command, Container, Reply};
use super::error::ContainerError;
use super::lifecycle::{self, ContainerState, Denied, Request};
use super::plan::{self, Surroundings};
use super::registry::Registry;
use super::restart_policy;
use super::service::Dependencies;
use super::spec::{IpcMode, MountKind, NamespaceMode, NetworkChoice};
use super::status::Status;
use super::store::{ContainerRecord, Durability};
use super::{etc_files, ports};
use crate::events::{Event, EventKind};
use crate::networks::{Attached, Attachment, NetworkMode};
use crate::runtime::{ExitStatus, NetworkNamespace, ProcessIo, Task};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long the end of a process waits for the last of its output to be taken. Docker's number: a client that does not read
/// must not keep a container from ending. What is not taken by then is still delivered.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

pub(super) struct Supervisor {
    deps: Arc<Dependencies>,
    registry: Arc<Registry>,
    container: Arc<Container>,
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    task: Option<Arc<dyn Task>>,
    pump: Option<JoinHandle<()>>,
    restart_at: Option<Instant>,
    last_pause: Option<Duration>,
}

/// Whether the supervisor goes on.
#[derive(PartialEq, Eq)]
enum Flow {
    GoOn,
    /// The container is no more.
    Ended,
}

/// What woke the supervisor.
enum Wake {
    Exit(ExitStatus),
    Restart,
    Command(Option<Command>),
}

impl Supervisor {
    pub(super) fn new(
        deps: Arc<Dependencies>,
        registry: Arc<Registry>,
        container: Arc<Container>,
        commands: mpsc::Receiver<Command>,
        status: watch::Sender<Status>,
    ) -> Supervisor {
        Supervisor {
            deps,
            registry,
            container,
            commands,
            status,
            task: None,
            pump: None,
            restart_at: None,
            last_pause: None,
        }
    }

    /// Takes over a container that runs already.
    pub(super) fn take_over(&mut self, task: Box<dyn Task>, io: ProcessIo) {
        self.connect(task, io);
    }

    /// A container found ended when the engine starts.
    pub(super) fn restart_soon(&mut self) {
        self.restart_at = Some(Instant::now());
    }

    pub(super) async fn run(mut self) {
        loop {
            let wake = {
                let task = self.task.clone();
                let restart_at = self.restart_at;
                let exit = async {
                    match &task {
                        Some(task) => task.wait().await,
                        None => std::future::pending().await,
                    }
                };
                let restart = async {
                    match restart_at {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    status = exit => Wake::Exit(status),
                    () = restart => Wake::Restart,
                    command = self.commands.recv() => Wake::Command(command),
                }
            };
            let flow = match wake {
                Wake::Exit(status) => self.exited(status).await,
                Wake::Restart => self.restart().await,
                Wake::Command(Some(command)) => self.obey(command).await,
                Wake::Command(None) => Flow::Ended,
            };
            if flow == Flow::Ended {
                return;
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Flow {
        match command {
            Command::Start(reply) => return self.start(reply).await,
            Command::Signal {
                signal,
                by_hand,
                reply,
            } => {
                let result = self.signal(signal, by_hand).await;
                let _ = reply.send(result);
            }
            Command::Pause(reply) => {
                let _ = reply.send(self.pause().await);
            }
            Command::Unpause(reply) => {
                let _ = reply.send(self.unpause().await);
            }
            Command::CancelRestart(reply) => {
                self.cancel_restart();
                let _ = reply.send(Ok(()));
                self.save(Durability::Written).await;
            }
            Command::Rename { name, reply } => {
                *self
                    .container
                    .name
                    .write()
                    .expect("no code panics while it holds this lock") = name;
                let _ = reply.send(self.store(Durability::Synced).await);
            }
            Command::Remove { volumes, reply } => return self.remove(volumes, reply).await,
        }
        Flow::GoOn
    }

    /// The state may have changed since the caller looked.
    fn check(&self, request: Request) -> Result<lifecycle::Step, ContainerError> {
        lifecycle::decide(&self.status.borrow().state, request)
            .map_err(|denied| self.container.denied(denied, self.container.id.as_str()))
    }

    // ---- start ----

    async fn start(&mut self, reply: Reply) -> Flow {
        if let Err(error) = self.check(Request::Start) {
            let _ = reply.send(Err(error));
            return Flow::GoOn;
        }
        self.restart_at = None;
        self.last_pause = None;
        self.status.send_modify(|status| {
            status.restart_count = 0;
            status.stopped_by_hand = false;
        });
        match self.launch().await {
            Ok(()) => {
                self.deps.tell(&self.container, "start", []);
                let _ = reply.send(Ok(()));
                // The answer does not wait for the disk: a running container is found again by its shim.
                let policy = self.container.spec.host.restart;
                let durability = if policy == super::spec::RestartPolicy::No {
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

    async fn start_failed(&mut self, error: ContainerError, reply: Option<Reply>) -> Flow {
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
    async fn launch(&mut self) -> Result<(), ContainerError> {
        let deps = self.deps.clone();
        let container = self.container.clone();
        let spec = &container.spec;
        let pid_of = match &spec.host.pid {
            NamespaceMode::Container(id) => Some(self.pid_of(id, "PID")?),
            _ => None,
        };
        let ipc_of = match &spec.host.ipc {
            IpcMode::Container(id) => Some(self.pid_of(id, "IPC")?),
            _ => None,
        };
        for mount in spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Bind && mount.create_source)
        {
            if !deps.files.exists(&mount.source).await {
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
        let hostname = match self.write_files(&folder, attached.as_ref()).await {
            Ok(hostname) => hostname,
            Err(error) => return Err(undo(error).await),
        };
        let around = Surroundings {
            rootfs,
            folder,
            network: namespace,
            pid_of,
            ipc_of,
            hostname,
        };
        let plan = match plan::launch(&container.id, spec, around) {
            Ok(plan) => plan,
            Err(why) => return Err(undo(ContainerError::invalid(why)).await),
        };
        let (task, io) = match deps.runtime.start(plan).await {
            Ok(started) => started,
            Err(cause) => return Err(undo(ContainerError::Start { cause }).await),
        };
        let (pid, started) = (task.pid(), task.started_at());
        self.connect(task, io);
        self.status.send_modify(|status| {
            status.state = ContainerState::Running { pid, started };
            status.started_at = Some(started);
            status.exit_code = 0;
            status.error.clear();
            status.oom_killed = false;
            status.network = attached.map(Arc::new);
        });
        self.tell_network("connect");
        Ok(())
    }

    fn connect(&mut self, task: Box<dyn Task>, io: ProcessIo) {
        let task: Arc<dyn Task> = Arc::from(task);
        self.set_task(Some(task));
        self.pump = Some(self.container.hub.connect(io));
    }

    fn set_task(&mut self, task: Option<Arc<dyn Task>>) {
        self.task.clone_from(&task);
        *self
            .container
            .task
            .write()
            .expect("no code panics while it holds this lock") = task;
    }

    /// First process of another container whose namespace is joined.
    fn pid_of(&self, id: &str, what: &str) -> Result<u32, ContainerError> {
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

    async fn attach(&self) -> Result<(NetworkNamespace, Option<Attached>), ContainerError> {
        let spec = &self.container.spec;
        let mode = match &spec.host.network {
            _ if spec.config.network_disabled => NetworkMode::None,
            NetworkChoice::Bridge => NetworkMode::Bridge,
            NetworkChoice::None => NetworkMode::None,
            NetworkChoice::Named(name) => NetworkMode::Named(name.clone()),
            NetworkChoice::Host => return Ok((NetworkNamespace::Host, None)),
            NetworkChoice::Container(id) => {
                let pid = self.pid_of(id, "network")?;
                return Ok((
                    NetworkNamespace::At(PathBuf::from(format!("/proc/{pid}/ns/net"))),
                    None,
                ));
            }
        };
        let ports = ports::requests(
            &spec.host.port_bindings,
            &spec.config.exposed_ports,
            spec.host.publish_all_ports,
        )
        .map_err(ContainerError::invalid)?;
        let attachment = Attachment {
            container: self.container.id.clone(),
            mode,
            mac_address: spec.host.mac_address.clone(),
            ports,
        };
        let attached = self
            .deps
            .networks
            .attach(attachment)
            .await
            .map_err(ContainerError::Network)?;
        for warning in &attached.warnings {
            tracing::warn!(container = %self.container.id, warning);
        }
        Ok((
            NetworkNamespace::At(attached.namespace.clone()),
            Some(attached),
        ))
    }

    /// Returns the host name.
    async fn write_files(
        &self,
        folder: &std::path::Path,
        attached: Option<&Attached>,
    ) -> Result<String, ContainerError> {
        // Who shares another's network is called as the other and sees the other's files.
        let other = match &self.container.spec.host.network {
            NetworkChoice::Container(id) => Some(self.registry.find(id)?),
            _ => None,
        };
        let theirs = other
            .as_ref()
            .and_then(|other| other.status.borrow().network.clone());
        let (owner, attached) = match &other {
            Some(other) => (other, theirs.as_deref()),
            None => (&self.container, attached),
        };
        let (spec, short) = (&owner.spec, owner.id.short());
        let hostname = etc_files::hostname(spec, short);
        let resolv_conf = etc_files::resolv_conf(
            &etc_files::Dns::of(spec, &self.deps.settings.dns),
            &self.deps.networks.resolv_conf(),
        );
        let files = vec![
            (plan::HOSTNAME_FILE, format!("{hostname}\n")),
            (plan::HOSTS_FILE, etc_files::hosts(spec, short, attached)),
            (plan::RESOLV_CONF_FILE, resolv_conf),
        ];
        self.deps
            .files
            .write_all(folder, files)
            .await
            .map_err(|error| {
                ContainerError::storage(format!("write the files of {}", self.container.id), error)
            })?;
        Ok(hostname)
    }

    // ---- while it runs ----

    async fn signal(&mut self, signal: i32, by_hand: bool) -> Result<(), ContainerError> {
        let denied = || {
            self.container
                .denied(Denied::NotRunningForKill, self.container.id.as_str())
        };
        let Some(task) = self.task.clone() else {
            return Err(denied());
        };
        if by_hand {
            self.status
                .send_modify(|status| status.stopped_by_hand = true);
        }
        match task.signal(signal).await {
            Err(crate::runtime::RuntimeError::NotRunning) => return Err(denied()),
            result => result?,
        }
        self.deps
            .tell(&self.container, "kill", [("signal", signal.to_string())]);
        Ok(())
    }

    async fn pause(&mut self) -> Result<(), ContainerError> {
        self.check(Request::Pause)?;
        let (Some(task), ContainerState::Running { pid, started }) = (&self.task, self.state())
        else {
            return Err(self
                .container
                .denied(Denied::NotRunning, self.container.id.as_str()));
        };
        task.pause().await?;
        self.status
            .send_modify(|status| status.state = ContainerState::Paused { pid, started });
        self.deps.tell(&self.container, "pause", []);
        self.save(Durability::Written).await;
        Ok(())
    }

    async fn unpause(&mut self) -> Result<(), ContainerError> {
        self.check(Request::Unpause)?;
        let (Some(task), ContainerState::Paused { pid, started }) = (&self.task, self.state())
        else {
            return Err(self
                .container
                .denied(Denied::NotPaused, self.container.id.as_str()));
        };
        task.resume().await?;
        self.status
            .send_modify(|status| status.state = ContainerState::Running { pid, started });
        self.deps.tell(&self.container, "unpause", []);
        self.save(Durability::Written).await;
        Ok(())
    }

    fn state(&self) -> ContainerState {
        self.status.borrow().state.clone()
    }

    // ---- the end of a run ----

    async fn exited(&mut self, exit: ExitStatus) -> Flow {
        self.set_task(None);
        if let Some(pump) = self.pump.take() {
            // Dropping the handle lets the pump go on by itself.
            let _ = tokio::time::timeout(LAST_OUTPUT, pump).await;
        }
        // Before anybody is told: ports must be free for the next container once this one is known to have ended.
        self.tell_network("disconnect");
        self.detach().await;
        let (started, restarts, by_hand) = {
            let status = self.status.borrow();
            (
                status.started_at.unwrap_or(exit.at),
                status.restart_count,
                status.stopped_by_hand,
            )
        };
        let ran = Duration::try_from(exit.at - started).unwrap_or_default();
        let auto_remove = self.container.spec.host.auto_remove;
        let closing = self
            .registry
            .closing
            .load(std::sync::atomic::Ordering::Relaxed);
        let again = !(auto_remove || closing)
            && restart_policy::wants_restart(
                self.container.spec.host.restart,
                exit.code,
                restarts,
                by_hand,
            );
        if exit.oom_killed {
            self.deps.tell(&self.container, "oom", []);
        }
        let attributes = [
            ("exitCode", exit.code.to_string()),
            ("execDuration", ran.as_secs().to_string()),
        ];
        self.deps.tell(&self.container, "die", attributes);
        if auto_remove {
            // Whoever is told of the end finds the name free.
            self.registry.remove(&self.container);
        }
        self.status.send_modify(|status| {
            status.state = if auto_remove {
                ContainerState::Removing
            } else if again {
                ContainerState::Restarting { code: exit.code }
            } else {
                ContainerState::Exited {
                    code: exit.code,
                    at: exit.at,
                }
            };
            status.exit_code = exit.code;
            status.finished_at = Some(exit.at);
            status.oom_killed = exit.oom_killed;
            status.network = None;
            status.exits += 1;
            if again {
                status.restart_count += 1;
            }
        });
        if auto_remove {
            // The name is free and waiters are answered; what is left to do takes its time.
            self.forget();
            self.clear_away(true).await;
            return Flow::Ended;
        }
        self.release_host().await;
        if again {
            let pause = restart_policy::next_pause(self.last_pause, ran);
            self.last_pause = Some(pause);
            self.restart_at = Some(Instant::now() + pause);
        }
        self.save(Durability::Written).await;
        Flow::GoOn
    }

    async fn restart(&mut self) -> Flow {
        self.restart_at = None;
        match self.launch().await {
            Ok(()) => {
                self.deps.tell(&self.container, "start", []);
                self.save(Durability::Written).await;
                Flow::GoOn
            }
            Err(error) => self.start_failed(error, None).await,
        }
    }

    fn cancel_restart(&mut self) {
        self.restart_at = None;
        self.last_pause = None;
        self.status.send_modify(|status| {
            status.stopped_by_hand = true;
            if let ContainerState::Restarting { code } = status.state {
                let at = status.finished_at.unwrap_or_else(|| self.deps.clock.now());
                status.state = ContainerState::Exited { code, at };
            }
        });
    }

    /// Gives the network back.
    async fn detach(&self) {
        if let Err(error) = self.deps.networks.detach(&self.container.id).await {
            tracing::warn!(container = %self.container.id, error = crate::error::full_message(&error), "network is left over");
        }
    }

    /// Undoes everything a start has done.
    async fn give_back(&self) {
        self.detach().await;
        self.release_host().await;
    }

    /// What a run leaves on the host besides its network.
    async fn release_host(&self) {
        if let Err(error) = self.deps.runtime.cleanup(&self.container.id).await {
            tracing::warn!(container = %self.container.id, error = crate::error::full_message(&error), "run-time files are left over");
        }
        if let Err(error) = self.deps.layers.unmount(&self.container.id).await {
            tracing::warn!(container = %self.container.id, error = crate::error::full_message(&error), "root file system is still mounted");
        }
    }

    fn tell_network(&self, action: &str) {
        let status = self.status.borrow();
        let Some(endpoint) = status
            .network
            .as_ref()
            .and_then(|network| network.endpoint.as_ref())
        else {
            return;
        };
        self.deps.events.publish(Event {
            kind: EventKind::Network,
            action: action.to_owned(),
            actor: endpoint.network.to_string(),
            attributes: [
                ("container".to_owned(), self.container.id.to_string()),
                ("name".to_owned(), endpoint.network_name.clone()),
                ("type".to_owned(), "bridge".to_owned()),
            ]
            .into(),
            at: self.deps.clock.now(),
        });
    }

    // ---- removal ----

    async fn remove(&mut self, volumes: bool, reply: Reply) -> Flow {
        if let Err(error) = self.check(Request::Remove { force: false }) {
            let _ = reply.send(Err(error));
            return Flow::GoOn;
        }
        self.status
            .send_modify(|status| status.state = ContainerState::Removing);
        if let Err(error) = self.deps.layers.remove(&self.container.id).await {
            let why = crate::error::full_message(&error);
            self.status
                .send_modify(|status| status.state = ContainerState::Dead { why: why.clone() });
            let _ = reply.send(Err(ContainerError::storage(
                format!(
                    "remove container \"/{}\": unable to remove filesystem",
                    self.container.name()
                ),
                error,
            )));
            self.save(Durability::Written).await;
            return Flow::GoOn;
        }
        let stored = self.deps.store.remove(&self.container.id).await;
        if let Err(error) = stored {
            self.status.send_modify(|status| {
                status.state = ContainerState::Dead {
                    why: error.to_string(),
                }
            });
            let _ = reply.send(Err(error.into()));
            return Flow::GoOn;
        }
        self.give_volumes_back(volumes).await;
        self.forget();
        let _ = reply.send(Ok(()));
        let _ = self.deps.runtime.cleanup(&self.container.id).await;
        Flow::Ended
    }

    /// Takes the container out of everybody's sight, and says so.
    fn forget(&self) {
        self.registry.remove(&self.container);
        self.container.hub.end();
        self.deps.tell(&self.container, "destroy", []);
        for mount in self
            .container
            .spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            if let Some(name) = &mount.name {
                self.deps.volumes.release(name, &self.container.id);
            }
        }
        self.status.send_modify(|status| status.removed = true);
    }

    /// Removes what a forgotten container has on disk. The record goes last: after a crash in the middle the next engine finds
    /// it and goes on.
    async fn clear_away(&self, volumes: bool) {
        let id = &self.container.id;
        let _ = self.deps.runtime.cleanup(id).await;
        if let Err(error) = self.deps.layers.remove(id).await {
            tracing::warn!(container = %id, error = crate::error::full_message(&error), "file system of a removed container is left over");
        }
        self.give_volumes_back(volumes).await;
        if let Err(error) = self.deps.store.remove(id).await {
            tracing::warn!(container = %id, %error, "folder of a removed container is left over");
        }
    }

    async fn give_volumes_back(&self, remove: bool) {
        for mount in self
            .container
            .spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            let Some(name) = &mount.name else { continue };
            self.deps.volumes.release(name, &self.container.id);
            if remove && mount.anonymous {
                // Another container may have it by now (--volumes-from): then it stays.
                let _ = self.deps.volumes.remove(name, true).await;
            }
        }
    }

    // ---- the record ----

    fn record(&self) -> ContainerRecord {
        let status = self.status.borrow().clone();
        let container = &self.container;
        ContainerRecord {
            id: container.id.clone(),
            name: container.name(),
            created: container.created,
            spec: (*container.spec).clone(),
            state: status.state,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            error: status.error,
            oom_killed: status.oom_killed,
            restart_count: status.restart_count,
            stopped_by_hand: status.stopped_by_hand,
            network: status.network.map(|network| (*network).clone()),
        }
    }

    async fn store(&self, durability: Durability) -> Result<(), ContainerError> {
        Ok(self.deps.store.save(&self.record(), durability).await?)
    }

    /// Where nobody waits for the answer any more.
    pub(super) async fn save(&self, durability: Durability) {
        if let Err(error) = self.store(durability).await {
            tracing::error!(container = %self.container.id, error = crate::error::full_message(&error), "state could not be stored");
        }
    }

    /// A container whose last run ended while no engine was there.
    pub(super) async fn settle_ended(&mut self, exit: &ExitStatus) {
        let at: OffsetDateTime = exit.at;
        self.detach().await;
        self.release_host().await;
        self.status.send_modify(|status| {
            status.state = ContainerState::Exited {
                code: exit.code,
                at,
            };
            status.exit_code = exit.code;
            status.oom_killed = exit.oom_killed;
            status.finished_at = Some(at);
            status.network = None;
        });
        let attributes = [("exitCode", exit.code.to_string())];
        self.deps.tell(&self.container, "die", attributes);
        self.save(Durability::Written).await;
    }

    /// An `--rm` container that ended while no engine was there.
    pub(super) async fn finish_removal(self) {
        self.forget();
        self.detach().await;
        self.clear_away(true).await;
    }

    pub(super) fn publish(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }
}
