//! A container as the rest of the engine holds it: what never changes, the latest status, and a line to its supervisor.

use super::error::ContainerError;
use super::lifecycle::{self, DeniedError, Request, Step};
use super::output::OutputHub;
use super::spec::ContainerSpec;
use super::status::Status;
use super::update::UpdateRequest;
use crate::id::ContainerId;
use crate::networks::{EndpointSettings, Network};
use crate::runtime::Task;
use std::sync::{Arc, OnceLock, RwLock};
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};

/// See the module. Shared by everybody who is interested in the container.
pub struct Container {
    pub id: ContainerId,
    pub created: OffsetDateTime,
    /// As it was made (or found again). What can be changed later is in [`Container::latest_spec`].
    pub spec: Arc<ContainerSpec>,
    pub hub: Arc<OutputHub>,
    pub(super) name: RwLock<String>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) task: RwLock<Option<Arc<dyn Task>>>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) supervisor: OnceLock<tokio::task::AbortHandle>,
}

/// What a supervisor can be asked.
#[derive(Debug)]
pub(super) enum Command {
    Start(Reply),
    Signal {
        signal: i32,
        by_hand: bool,
        reply: Reply,
    },
    Pause(Reply),
    Unpause(Reply),
    /// A pause that does not outlive this process.
    PauseForCommit(Reply),
    /// Where nobody else has paused it since.
    ResumeAfterCommit(Reply),
    /// Give up waiting for the next restart.
    CancelRestart(Reply),
    /// Whether a container that is removed at its end (`--rm`) stays this time: it is being restarted. The next start forgets it.
    KeepAtEnd {
        keep: bool,
        reply: Reply,
    },
    Rename {
        name: String,
        reply: Reply,
    },
    Update {
        request: UpdateRequest,
        reply: Reply,
    },
    Connect {
        network: Arc<Network>,
        settings: Box<EndpointSettings>,
        reply: Reply,
    },
    /// By the network's name.
    Disconnect {
        network: String,
        reply: Reply,
    },
    RemoveLink {
        alias: String,
        reply: Reply,
    },
    /// A container that is known here by a private name has started: nobody waits for the answer.
    LinksChanged,
    Remove {
        volumes: bool,
        reply: Reply,
    },
}

pub(super) type Reply = oneshot::Sender<Result<(), ContainerError>>;

impl Container {
    /// Without a slash in front.
    pub fn name(&self) -> String {
        self.name
            .read()
            .expect("no code panics while it holds this lock")
            .clone()
    }

    /// The latest status.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// The settings with what `docker update` has changed.
    pub fn latest_spec(&self) -> Arc<ContainerSpec> {
        let status = self.status.borrow();
        status.updated.as_ref().unwrap_or(&self.spec).clone()
    }

    /// To wait for changes.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The running task, where there is one.
    pub fn task(&self) -> Option<Arc<dyn Task>> {
        self.task
            .read()
            .expect("no code panics while it holds this lock")
            .clone()
    }

    /// What `request` means now. `asked` is what the client called the container.
    pub fn decide(&self, request: Request, asked: &str) -> Result<Step, ContainerError> {
        let decision = lifecycle::decide(&self.status.borrow().state, request);
        decision.map_err(|denied| self.denied(denied, asked))
    }

    pub(super) fn denied(&self, denied: lifecycle::Denied, asked: &str) -> ContainerError {
        let text = denied.describe(self.id.as_str(), &self.name(), asked);
        DeniedError { denied, text }.into()
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn ask(
        &self,
        command: impl FnOnce(Reply) -> Command,
    ) -> Result<(), ContainerError> {
        let (reply, answer) = oneshot::channel();
        let gone = || ContainerError::Gone {
            name: self.id.to_string(),
        };
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}
