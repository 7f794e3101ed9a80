//! The start of the engine: what is on disk, what still runs, what ended in the meantime, what has to be started.

use super::container::{Command, Container};
use super::error::ContainerError;
use super::lifecycle::ContainerState;
use super::restart_policy;
use super::service::ContainerService;
use super::spec::{IpcMode, NamespaceMode, NetworkChoice};
use super::store::ContainerRecord;
use crate::networks::Survivor;
use crate::runtime::{ExitStatus, Recovered};
use crate::volumes::CreateVolume;
use futures_util::StreamExt;
use std::sync::Arc;

/// Containers looked for at the same time.
const AT_ONCE: usize = 8;

impl ContainerService {
    /// Loads every container. Call once, before requests are served.
    pub async fn recover(&self) -> Result<(), ContainerError> {
        let records = self.deps.store.load().await?;
        let found: Vec<(
            ContainerRecord,
            Result<Recovered, crate::runtime::RuntimeError>,
        )> = futures_util::stream::iter(records)
            .map(|record| async move {
                let folder = self.folder(&record.id);
                let found = self.deps.runtime.recover(&record.id, &folder).await;
                (record, found)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let running: Vec<Survivor> = found
            .iter()
            .filter_map(|(record, found)| {
                let Ok(Recovered::Running(task, _)) = found else {
                    return None;
                };
                Some(Survivor {
                    container: record.id.clone(),
                    attached: record.network.clone()?,
                    process: Some(task.pid()),
                })
            })
            .collect();
        if let Err(error) = self.deps.networks.backend().recover(running).await {
            // Containers go on without their ports; there is nothing better to do than to say so.
            tracing::error!(
                error = crate::error::full_message(&error),
                "networks of running containers were not recovered"
            );
        }
        let mut to_start = Vec::new();
        for (record, found) in found {
            to_start.extend(self.revive(record, found).await);
        }
        self.deps.volumes.settle().await;
        let registry = self.registry.clone();
        tokio::spawn(async move {
            for container in in_order(to_start) {
                if registry.closing.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                match container.ask(Command::Start).await {
                    // Somebody may have started or removed it in the meantime: that is as good.
                    Ok(()) | Err(ContainerError::Denied(_) | ContainerError::Gone { .. }) => {}
                    Err(error) => {
                        tracing::error!(container = %container.id, name = container.name(), error = crate::error::full_message(&error), "container could not be started again");
                    }
                }
            }
        });
        Ok(())
    }

    /// Puts a container back; returns it where its restart policy wants it started.
    async fn revive(
        &self,
        record: ContainerRecord,
        found: Result<Recovered, crate::runtime::RuntimeError>,
    ) -> Option<Arc<Container>> {
        let id = record.id.clone();
        for mount in &record.spec.mounts {
            let Some(name) = mount
                .name
                .clone()
                .filter(|_| mount.kind == super::spec::MountKind::Volume)
            else {
                continue;
            };
            if let Err(error) = self
                .deps
                .volumes
                .acquire(CreateVolume::named(name), &id)
                .await
            {
                tracing::warn!(container = %id, %error, "volume of a container is not there");
            }
        }
        if let Err(error) = self.keep_images(&id, &record.spec).await {
            tracing::warn!(container = %id, error = crate::error::full_message(&error), "an image that a container mounts is not there");
        }
        let was_running = record.state.is_running();
        let host = &record.spec.host;
        let (policy, auto_remove) = (host.restart, host.auto_remove);
        let finished = record.finished_at;
        let status = record.status();
        let (container, mut supervisor) = self.prepare_adoption(record, status);
        match found {
            Ok(Recovered::Running(task, io)) => {
                let (pid, started) = (task.pid(), task.started_at());
                let mut for_commit = false;
                supervisor.publish(|status| {
                    for_commit = status.paused_for_commit;
                    // Paused stays paused: the record of it was written when it happened.
                    status.state = match status.state {
                        ContainerState::Paused { .. } => ContainerState::Paused { pid, started },
                        // The kernel may have it frozen already.
                        _ if for_commit => ContainerState::Paused { pid, started },
                        _ => ContainerState::Running { pid, started },
                    };
                    status.started_at = Some(started);
                });
                supervisor.hold_volumes().await;
                supervisor.take_over(task, io);
                self.set_going(&container, supervisor);
                // Its commit went with the engine.
                if for_commit && let Err(error) = container.ask(Command::ResumeAfterCommit).await {
                    tracing::error!(container = %container.id, error = crate::error::full_message(&error), "the container is still paused for a commit");
                }
                return None;
            }
            // An exit status older than what the record says is that of an earlier run.
            Ok(Recovered::Exited(exit))
                if was_running || finished.is_none_or(|known| known < exit.at) =>
            {
                supervisor.settle_ended(&exit).await;
            }
            Ok(Recovered::Lost) if was_running => {
                // Docker's code for "went down with the host".
                let exit = ExitStatus {
                    code: 255,
                    at: self.deps.clock.now(),
                    oom_killed: false,
                };
                supervisor.settle_ended(&exit).await;
            }
            Err(error) => {
                tracing::error!(container = %id, error = crate::error::full_message(&error), "container could not be looked for");
                if was_running {
                    let exit = ExitStatus {
                        code: 255,
                        at: self.deps.clock.now(),
                        oom_killed: false,
                    };
                    supervisor.settle_ended(&exit).await;
                }
            }
            Ok(Recovered::Exited(_) | Recovered::Lost) => {
                // The engine may have been killed in the middle of a start.
                supervisor.tidy().await;
                if matches!(container.status.borrow().state, ContainerState::Removing) {
                    // The removal that a crash interrupted can be asked for again.
                    supervisor.publish(|status| {
                        status.state = ContainerState::Dead {
                            why: "its removal was interrupted".into(),
                        }
                    });
                }
            }
        }
        let (state, exit_code, by_hand, started_before) = {
            let status = container.status.borrow();
            (
                status.state.clone(),
                status.exit_code,
                status.stopped_by_hand,
                status.started_at.is_some(),
            )
        };
        if auto_remove && started_before {
            supervisor.finish_removal().await;
            return None;
        }
        let can_start = matches!(state, ContainerState::Exited { .. }) && started_before;
        let start = can_start
            && restart_policy::starts_with_engine(policy, was_running, exit_code, by_hand);
        self.set_going(&container, supervisor);
        start.then_some(container)
    }
}

/// In the order in which they were made, but what another one needs (its network, say) before it.
fn in_order(mut containers: Vec<Arc<Container>>) -> Vec<Arc<Container>> {
    containers.sort_by(|a, b| a.created.cmp(&b.created).then_with(|| a.id.cmp(&b.id)));
    let mut ordered: Vec<Arc<Container>> = Vec::with_capacity(containers.len());
    let mut waiting: Vec<Arc<Container>> = containers.clone();
    waiting.reverse();
    // A container that waits for one that comes later is looked at again after it; circles cannot be made.
    let mut seen = std::collections::HashSet::new();
    while let Some(container) = waiting.pop() {
        if ordered.iter().any(|one| one.id == container.id) {
            continue;
        }
        let needed = needs(&container).into_iter().find_map(|asked| {
            let called = |one: &&Arc<Container>| one.id.as_str() == asked || one.name() == asked;
            let other = containers.iter().find(called)?;
            let started = ordered.iter().any(|one| one.id == other.id);
            (!started).then(|| other.clone())
        });
        match needed {
            Some(other) if seen.insert((container.id.clone(), other.id.clone())) => {
                waiting.push(container);
                waiting.push(other);
            }
            _ => ordered.push(container),
        }
    }
    ordered
}

/// Ids or names of the containers whose namespaces it joins or which it is linked to.
fn needs(container: &Container) -> Vec<String> {
    let host = &container.spec.host;
    let mut needed = Vec::new();
    if let NetworkChoice::Container(id) = &host.network {
        needed.push(id.clone());
    }
    if let NamespaceMode::Container(id) = &host.pid {
        needed.push(id.clone());
    }
    if let IpcMode::Container(id) = &host.ipc {
        needed.push(id.clone());
    }
    for link in &host.links {
        let name = link.split(':').next().unwrap_or_default();
        needed.push(name.trim_start_matches('/').to_owned());
    }
    needed
}
