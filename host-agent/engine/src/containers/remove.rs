//! `docker rm`.

use super::container::Command;
use super::error::ContainerError;
use super::lifecycle::{Request, Step};
use super::service::ContainerService;
use super::signals;
use super::stop;
use std::time::Duration;

/// `-f`, `-v`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Kill it first if it runs.
    pub force: bool,
    /// Its anonymous volumes, too.
    pub volumes: bool,
}

/// How often a container is killed that is started again and again while it is to be removed.
const ATTEMPTS: usize = 5;

impl ContainerService {
    /// Removes a container with all it has written.
    pub async fn remove(&self, asked: &str, options: RemoveOptions) -> Result<(), ContainerError> {
        let mut attempts = 0;
        loop {
            let (container, step) = self.decide(
                asked,
                Request::Remove {
                    force: options.force,
                },
            )?;
            if step == Step::KillThenRemove {
                let exits = container.status.borrow().exits;
                if matches!(
                    container.status.borrow().state,
                    super::lifecycle::ContainerState::Restarting { .. }
                ) {
                    container.ask(Command::CancelRestart).await?;
                } else {
                    stop::signal_container(&container, signals::KILL, true).await?;
                    if !stop::ended(&container, exits, Some(Duration::from_secs(10))).await {
                        return Err(ContainerError::Conflict {
                            why: format!(
                                "cannot remove container \"/{}\": could not kill: tried to kill container, but did not receive an exit event",
                                container.name()
                            ),
                        });
                    }
                }
            }
            let removal = container
                .ask(|reply| Command::Remove {
                    volumes: options.volumes,
                    reply,
                })
                .await;
            match removal {
                // It was removed by somebody else (`--rm`) between the question and the deed.
                Err(ContainerError::Gone { .. }) if container.status.borrow().removed => {
                    return Ok(());
                }
                // A start that was under way came first.
                Err(_) if options.force && container.status.borrow().state.is_running() => {
                    attempts += 1;
                    if attempts == ATTEMPTS {
                        return removal;
                    }
                }
                result => return result,
            }
        }
    }
}
