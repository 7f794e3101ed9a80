//! One task per container: the only one that changes it.
//!
//! ```text
//!  commands --.                    .--> status (watch), record on disk, events
//!  exit -------+--> supervisor ---<
//!  restart ---'                    '--> layers, network, runtime
//! ```
//!
//! A run's three parts are in files of their own: [`start`], [`running`], [`end`]; [`network`] is what it has of networks; [`removal`] is the end of it all.

mod end;
mod health;
mod mounts;
mod network;
mod removal;
mod running;
mod start;

use super::container::{Command, Container};
use super::error::ContainerError;
use super::health::{Beat, Monitor};
use super::lifecycle::{self, Request};
use super::registry::Registry;
use super::service::Dependencies;
use super::status::Status;
use super::store::{ContainerRecord, Durability};
use crate::networks::Attached;
use crate::runtime::{ExitStatus, ProcessIo, Task};
use std::sync::Arc;
use std::time::Duration;
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
    /// In the middle of a restart by hand, which `--rm` outlives. Not stored: after a crash nobody would start it again.
    keep_at_end: bool,
    /// How often this run's memory ran out, as far as it was told.
    out_of_memory: u64,
    /// While it runs and has a health check.
    monitor: Option<Monitor>,
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
    Health(Beat),
    /// Memory has run out so many times.
    OutOfMemory(u64),
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
            keep_at_end: false,
            out_of_memory: 0,
            monitor: None,
        }
    }

    /// Takes over a container that runs already.
    pub(super) fn take_over(&mut self, task: Box<dyn Task>, io: ProcessIo) {
        self.connect(task, io);
        self.watch_health();
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
                let known = self.out_of_memory;
                let out_of_memory = async {
                    match &task {
                        Some(task) => task.out_of_memory(known).await,
                        None => std::future::pending().await,
                    }
                };
                let monitor = &mut self.monitor;
                let health = async {
                    match monitor {
                        Some(monitor) => monitor.beat().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    status = exit => Wake::Exit(status),
                    () = restart => Wake::Restart,
                    beat = health => Wake::Health(beat),
                    times = out_of_memory => Wake::OutOfMemory(times),
                    command = self.commands.recv() => Wake::Command(command),
                }
            };
            let flow = match wake {
                Wake::Exit(status) => self.exited(status).await,
                Wake::Restart => self.restart().await,
                Wake::Health(beat) => {
                    self.health(beat).await;
                    Flow::GoOn
                }
                Wake::OutOfMemory(times) => {
                    self.ran_out_of_memory(times).await;
                    Flow::GoOn
                }
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
            Command::PauseForCommit(reply) => {
                let _ = reply.send(self.pause_for_commit().await);
            }
            Command::ResumeAfterCommit(reply) => {
                let _ = reply.send(self.resume_after_commit().await);
            }
            Command::Unpause(reply) => {
                let _ = reply.send(self.unpause().await);
            }
            Command::CancelRestart(reply) => {
                self.cancel_restart();
                let _ = reply.send(Ok(()));
                self.save(Durability::Written).await;
            }
            Command::KeepAtEnd { keep, reply } => {
                self.keep_at_end = keep;
                let _ = reply.send(Ok(()));
            }
            Command::Rename { name, reply } => {
                let old = self.container.name();
                self.set_name(name);
                let stored = self.store(Durability::Synced).await;
                if stored.is_err() {
                    self.set_name(old);
                } else if self.renamed() {
                    self.save(Durability::Synced).await;
                }
                let _ = reply.send(stored);
            }
            Command::Update { request, reply } => {
                let _ = reply.send(self.update(&request).await);
            }
            Command::Connect {
                network,
                settings,
                reply,
            } => {
                let _ = reply.send(self.connect_network(network, *settings).await);
            }
            Command::Disconnect { network, reply } => {
                let _ = reply.send(self.disconnect_network(&network).await);
            }
            Command::RemoveLink { alias, reply } => {
                let _ = reply.send(self.remove_link(&alias).await);
            }
            Command::LinksChanged => self.links_changed().await,
            Command::Remove { volumes, reply } => return self.remove(volumes, reply).await,
        }
        Flow::GoOn
    }

    fn set_name(&self, name: String) {
        *self
            .container
            .name
            .write()
            .expect("no code panics while it holds this lock") = name;
    }

    /// The state may have changed since the caller looked.
    fn check(&self, request: Request) -> Result<lifecycle::Step, ContainerError> {
        lifecycle::decide(&self.status.borrow().state, request)
            .map_err(|denied| self.container.denied(denied, self.container.id.as_str()))
    }

    fn record(&self) -> ContainerRecord {
        let status = self.status.borrow().clone();
        let container = &self.container;
        ContainerRecord {
            id: container.id.clone(),
            name: container.name(),
            created: container.created,
            spec: (*container.latest_spec()).clone(),
            state: status.state,
            started_at: status.started_at,
            finished_at: status.finished_at,
            exit_code: status.exit_code,
            error: status.error,
            oom_killed: status.oom_killed,
            restart_count: status.restart_count,
            stopped_by_hand: status.stopped_by_hand,
            paused_for_commit: status.paused_for_commit,
            network: status.network.map(|network| (*network).clone()),
            health: status.health.map(|health| (*health).clone()),
            memberships: Some((*status.memberships).clone()),
        }
    }

    async fn store(&self, durability: Durability) -> Result<(), ContainerError> {
        Ok(self.deps.store.save(&self.record(), durability).await?)
    }

    /// The record of a container that is about to run.
    async fn save_network(&self, network: Option<Attached>) {
        let record = ContainerRecord {
            network,
            ..self.record()
        };
        let saved = self.deps.store.save(&record, Durability::Written).await;
        if let Err(error) = saved {
            tracing::error!(container = %self.container.id, error = crate::error::full_message(&error), "network could not be stored");
        }
    }

    /// Where nobody waits for the answer any more.
    pub(super) async fn save(&self, durability: Durability) {
        if let Err(error) = self.store(durability).await {
            tracing::error!(container = %self.container.id, error = crate::error::full_message(&error), "state could not be stored");
        }
    }

    pub(super) fn publish(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }
}
