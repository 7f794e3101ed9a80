//! `docker wait`.

use super::container::Container;
use super::error::ContainerError;
use super::service::ContainerService;
use super::status::Status;
use tokio::sync::watch;

/// What is waited for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// The end of the current run; at once where none is on.
    #[default]
    NotRunning,
    /// The end of the current or, where none is on, of the next run.
    NextExit,
    Removed,
}

impl WaitCondition {
    /// Docker's texts; `None` is none of them.
    pub fn parse(text: &str) -> Option<WaitCondition> {
        match text {
            "" | "not-running" => Some(WaitCondition::NotRunning),
            "next-exit" => Some(WaitCondition::NextExit),
            "removed" => Some(WaitCondition::Removed),
            _ => None,
        }
    }
}

/// How the wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitAnswer {
    pub exit_code: i32,
    /// Why the container could not be started, empty where it could.
    pub error: String,
}

/// A wait that has begun: nothing that happens after this was made is missed.
pub struct Waiting {
    status: watch::Receiver<Status>,
    condition: WaitCondition,
    /// Runs ended when the wait began.
    exits: u64,
}

impl ContainerService {
    /// Begins to wait.
    pub fn wait(&self, asked: &str, condition: WaitCondition) -> Result<Waiting, ContainerError> {
        Ok(Waiting::on(&*self.find(asked)?, condition))
    }
}

impl Waiting {
    pub(super) fn on(container: &Container, condition: WaitCondition) -> Waiting {
        let status = container.watch();
        let exits = status.borrow().exits;
        Waiting {
            status,
            condition,
            exits,
        }
    }

    /// Resolves when it is so.
    pub async fn done(mut self) -> WaitAnswer {
        let (condition, exits) = (self.condition, self.exits);
        let reached = self.status.wait_for(|status| {
            status.removed
                || match condition {
                    WaitCondition::NotRunning => !status.state.is_running() || status.exits > exits,
                    WaitCondition::NextExit => status.exits > exits,
                    WaitCondition::Removed => false,
                }
        });
        // An error means that the supervisor is gone without another word: the last status is all there is to say.
        let answer = |status: &Status| WaitAnswer {
            exit_code: status.exit_code,
            // As in Docker, a removal that went well clears the reason why the container did not start.
            error: match condition {
                WaitCondition::Removed => String::new(),
                _ => status.error.clone(),
            },
        };
        if let Ok(status) = reached.await {
            return answer(&status);
        }
        answer(&self.status.borrow())
    }
}
