//! The end of a run, and what comes after it: another one, or rest.

use super::{Flow, LAST_OUTPUT, Supervisor};
use crate::containers::lifecycle::ContainerState;
use crate::containers::restart_policy;
use crate::containers::store::Durability;
use crate::runtime::ExitStatus;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::time::Instant;

impl Supervisor {
    pub(super) async fn exited(&mut self, exit: ExitStatus) -> Flow {
        self.set_task(None);
        self.end_health();
        if let Some(pump) = self.pump.take() {
            // Dropping the handle lets the pump go on by itself, with the clients of this run only.
            if tokio::time::timeout(LAST_OUTPUT, pump).await.is_err() {
                self.container.hub.end();
            }
        }
        // Before anybody is told: ports must be free for the next container once this one is known to have ended.
        self.tell_network("disconnect");
        self.detach().await;
        let (started, restarts, by_hand, told_of_memory) = {
            let status = self.status.borrow();
            (
                status.started_at.unwrap_or(exit.at),
                status.restart_count,
                status.stopped_by_hand,
                status.oom_killed,
            )
        };
        let ran = Duration::try_from(exit.at - started).unwrap_or_default();
        let auto_remove = self.container.spec.host.auto_remove && !self.keep_at_end;
        let closing = self
            .registry
            .closing
            .load(std::sync::atomic::Ordering::Relaxed);
        let again = !(auto_remove || closing)
            && restart_policy::wants_restart(
                self.container.latest_spec().host.restart,
                exit.code,
                restarts,
                by_hand,
            );
        if exit.oom_killed && !told_of_memory {
            self.deps.tell(&self.container, "oom", []);
        }
        let attributes = [
            ("exitCode", exit.code.to_string()),
            ("execDuration", ran.as_secs().to_string()),
        ];
        self.deps.tell(&self.container, "die", attributes);
        let _removal = match auto_remove {
            true => Some(self.registry.removals.clone().read_owned().await),
            false => None,
        };
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
            status.oom_killed |= exit.oom_killed;
            status.network = None;
            status.exits += 1;
            if again {
                status.restart_count += 1;
            }
        });
        if auto_remove {
            // The name is free and waiters are answered; what is left to do takes its time.
            self.unmount_all().await;
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

    pub(super) async fn restart(&mut self) -> Flow {
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

    pub(super) fn cancel_restart(&mut self) {
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
    pub(super) async fn detach(&self) {
        if let Err(error) = self
            .deps
            .networks
            .backend()
            .detach(&self.container.id)
            .await
        {
            tracing::warn!(container = %self.container.id, error = crate::error::full_message(&error), "network is left over");
        }
    }

    /// Takes away what a start that was interrupted, or an end, has left. Nothing there is the usual case.
    pub(in crate::containers) async fn tidy(&self) {
        self.give_back().await;
        self.status.send_modify(|status| status.network = None);
    }

    /// Undoes everything a start has done.
    pub(super) async fn give_back(&self) {
        self.detach().await;
        self.release_host().await;
    }

    /// What a run leaves on the host besides its network.
    pub(super) async fn release_host(&self) {
        if let Err(error) = self.deps.runtime.cleanup(&self.container.id).await {
            tracing::warn!(container = %self.container.id, error = crate::error::full_message(&error), "run-time files are left over");
        }
        if let Err(error) = self.deps.layers.unmount(&self.container.id).await {
            tracing::warn!(container = %self.container.id, error = crate::error::full_message(&error), "root file system is still mounted");
        }
        self.unmount_all().await;
    }

    /// A container whose last run ended while no engine was there.
    pub(in crate::containers) async fn settle_ended(&mut self, exit: &ExitStatus) {
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
        let started = self.status.borrow().started_at.unwrap_or(at);
        let ran = Duration::try_from(at - started).unwrap_or_default();
        let attributes = [
            ("exitCode", exit.code.to_string()),
            ("execDuration", ran.as_secs().to_string()),
        ];
        self.deps.tell(&self.container, "die", attributes);
        self.save(Durability::Written).await;
    }
}
