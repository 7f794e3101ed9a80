//! Ending a container: `docker stop`, `kill`, `restart`.

use super::container::{Command, Container};
use super::error::ContainerError;
use super::lifecycle::{ContainerState, Request, Step};
use super::service::ContainerService;
use super::signals;
use std::sync::Arc;
use std::time::Duration;

/// Docker's patience after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);
/// Docker's patience before, in seconds, with a container that says nothing of it.
const DEFAULT_TIMEOUT: i64 = 10;

/// How to stop; what is `None` is as the container or Docker has it.
#[derive(Debug, Clone, Default)]
pub struct StopOptions {
    pub signal: Option<String>,
    /// Seconds until SIGKILL; negative waits for ever.
    pub timeout: Option<i64>,
}

impl ContainerService {
    /// `docker stop`: signal, wait, kill. Not running: [`crate::error::Class::NotModified`].
    pub async fn stop(&self, asked: &str, options: &StopOptions) -> Result<(), ContainerError> {
        let (container, step) = self.decide(asked, Request::Stop)?;
        self.stop_container(&container, step, options).await?;
        self.deps.tell(&container, "stop", []);
        Ok(())
    }

    /// `docker restart`: stop where it runs, then start. Once begun, it goes to its end even where the client goes away: what
    /// was stopped must not stay so.
    pub async fn restart(
        self: &Arc<Self>,
        asked: &str,
        options: &StopOptions,
    ) -> Result<(), ContainerError> {
        let (this, asked, options) = (self.clone(), asked.to_owned(), options.clone());
        let work = async move { this.restart_now(&asked, &options).await };
        tokio::spawn(work)
            .await
            .map_err(|error| ContainerError::storage("restart the container", error))?
    }

    async fn restart_now(&self, asked: &str, options: &StopOptions) -> Result<(), ContainerError> {
        let (container, step) = self.decide(asked, Request::Restart)?;
        if step == Step::StopThenStart {
            let keep_at_end = async |keep| {
                container
                    .ask(|reply| Command::KeepAtEnd { keep, reply })
                    .await
            };
            keep_at_end(true).await?;
            // It may end by itself in the meantime: that is as good.
            if let Ok(step) = container.decide(Request::Stop, asked) {
                let stopped = self.stop_container(&container, step, options).await;
                if stopped.is_err() {
                    // An error is its end.
                    let _ = keep_at_end(false).await;
                }
                stopped?;
                self.deps.tell(&container, "stop", []);
            }
        }
        container.ask(Command::Start).await?;
        self.deps.tell(&container, "restart", []);
        Ok(())
    }

    /// `docker kill`. With SIGKILL, returns when the container has ended.
    pub async fn kill(&self, asked: &str, signal: Option<&str>) -> Result<(), ContainerError> {
        let text = signal.unwrap_or("KILL");
        let number =
            signals::parse(text).ok_or_else(|| ContainerError::invalid(signals::refusal(text)))?;
        let container = self.find(asked).map_err(|error| match error {
            ContainerError::NotFound { name } => ContainerError::NotFoundForKill { name },
            error => error,
        })?;
        let step = container.decide(Request::Kill, asked)?;
        if step == Step::CancelRestart {
            return container.ask(Command::CancelRestart).await;
        }
        // dockerd takes every signal to a container that names no stop signal for a stop. A reload by SIGHUP then costs the
        // container its restart policy, which its users report as a bug time and again.
        let is_stop = [signals::KILL, stop_signal(&container)].contains(&number);
        let exits = container.status.borrow().exits;
        signal_container(&container, number, is_stop).await?;
        // As dockerd does: a signal that has a meaning of its own waits until the container is unpaused.
        if is_stop || container.spec.config.stop_signal.is_none() {
            wake(&container).await;
        }
        if number == signals::KILL {
            ended(&container, exits, Some(PATIENCE)).await;
        }
        Ok(())
    }

    /// For the end of the engine's host: every running container, at once.
    pub async fn stop_all(&self, most: Duration) {
        self.registry
            .closing
            .store(true, std::sync::atomic::Ordering::Relaxed);
        let most = i64::try_from(most.as_secs()).unwrap_or(i64::MAX);
        let stops = self.all().into_iter().filter_map(|container| {
            let step = container.decide(Request::Stop, "").ok()?;
            Some((container, step))
        });
        let stops = stops.map(|(container, step)| async move {
            let own = container.spec.config.stop_timeout;
            let own = own.unwrap_or(DEFAULT_TIMEOUT);
            let options = StopOptions {
                signal: None,
                // A negative one, for ever, ends with the others.
                timeout: Some(if own < 0 { most } else { own.min(most) }),
            };
            // Nobody asked for it by hand: the restart policy starts it again with the engine.
            if let Err(error) = self.end_container(&container, step, &options, false).await {
                tracing::warn!(container = %container.id, %error, "container could not be stopped");
            }
        });
        futures_util::future::join_all(stops).await;
    }

    /// For the engine's end: containers that nobody sees any more are removed from the disk, too, for at most `most`. What is
    /// not done by then, the next engine does.
    pub async fn finish_removals(&self, most: Duration) {
        let removals = tokio::time::timeout(most, self.registry.removals.write());
        if removals.await.is_err() {
            tracing::warn!("containers are still being removed: the next start goes on");
        }
    }

    pub(super) async fn stop_container(
        &self,
        container: &Container,
        step: Step,
        options: &StopOptions,
    ) -> Result<(), ContainerError> {
        self.end_container(container, step, options, true).await
    }

    async fn end_container(
        &self,
        container: &Container,
        step: Step,
        options: &StopOptions,
        by_hand: bool,
    ) -> Result<(), ContainerError> {
        if step == Step::CancelRestart {
            return container.ask(Command::CancelRestart).await;
        }
        let signal = match options.signal.as_deref().filter(|text| !text.is_empty()) {
            None => stop_signal(container),
            Some(text) => signals::parse(text)
                .ok_or_else(|| ContainerError::invalid(signals::refusal(text)))?,
        };
        let seconds = options
            .timeout
            .or(container.spec.config.stop_timeout)
            .unwrap_or(DEFAULT_TIMEOUT);
        let patience = u64::try_from(seconds).ok().map(Duration::from_secs);
        let exits = container.status.borrow().exits;
        signal_container(container, signal, by_hand).await?;
        wake(container).await;
        if ended(container, exits, patience).await {
            return Ok(());
        }
        signal_container(container, signals::KILL, by_hand).await?;
        if ended(container, exits, Some(PATIENCE)).await {
            return Ok(());
        }
        Err(ContainerError::Conflict {
            why: format!(
                "cannot stop container: {}: tried to kill container, but did not receive an exit event",
                container.id
            ),
        })
    }
}

/// The container's own stop signal, SIGTERM where it has none.
pub fn stop_signal(container: &Container) -> i32 {
    let text = container.spec.config.stop_signal.as_deref();
    text.and_then(signals::parse).unwrap_or(signals::TERM)
}

/// Sends a signal; a container that ended in the meantime is no error.
pub(super) async fn signal_container(
    container: &Container,
    signal: i32,
    by_hand: bool,
) -> Result<(), ContainerError> {
    match container
        .ask(|reply| Command::Signal {
            signal,
            by_hand,
            reply,
        })
        .await
    {
        Err(ContainerError::Denied(_) | ContainerError::Gone { .. }) => Ok(()),
        result => result,
    }
}

/// Resumes a paused container: a frozen process cannot act on a signal.
async fn wake(container: &Container) {
    if let ContainerState::Paused { .. } = container.status().state {
        // An error: it has ended, or somebody was faster.
        let _ = container.ask(Command::Unpause).await;
    }
}

/// Whether a run has ended since `exits` were counted, within `patience` (`None`: however long it takes).
pub(super) async fn ended(container: &Container, exits: u64, patience: Option<Duration>) -> bool {
    let mut status = container.watch();
    let end = status
        .wait_for(|status| status.exits > exits || status.removed || !status.state.is_running());
    match patience {
        None => {
            let _ = end.await;
            true
        }
        Some(patience) => tokio::time::timeout(patience, end).await.is_ok(),
    }
}
