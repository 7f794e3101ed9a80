//! What a build tells while it runs. Every front door makes its own form of it: [`super::classic`] makes the lines of
//! Docker's classic builder.

use crate::images::{Digest, Progress};
use bytes::Bytes;
use tokio::sync::mpsc;

/// A step that will be done, known before the first begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedStep {
    /// Position of its stage in the Dockerfile, from 0.
    pub stage: usize,
    /// `AS name`.
    pub stage_name: Option<String>,
    /// From 1, in the stage: `FROM` is 1.
    pub number: usize,
    /// Steps of the stage.
    pub of: usize,
    /// First line in the Dockerfile.
    pub line: usize,
    /// As written, on one line.
    pub text: String,
    /// Indexes (in [`BuildEvent::Planned`]) of the steps that have to be done before.
    pub needs: Vec<usize>,
}

/// Which of a program's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputOf {
    Stdout,
    Stderr,
}

/// A step, as an index into [`BuildEvent::Planned`]. Steps of different stages run at the same time.
pub type StepIndex = usize;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// Always the first one of a build that gets to its first step. An error before it is an error of the request.
    Planned(Vec<PlannedStep>),
    Started {
        step: StepIndex,
    },
    /// A base image is being pulled.
    Pulling {
        step: StepIndex,
        progress: Progress,
    },
    /// A container runs for the step.
    Running {
        step: StepIndex,
        container: String,
    },
    /// What the step's program says, as it comes; also `# Executing 1 build trigger` and the like.
    Output {
        step: StepIndex,
        of: OutputOf,
        bytes: Bytes,
    },
    /// The container of the step was removed.
    Removed {
        step: StepIndex,
        container: String,
    },
    /// The step is done. `state` names what there is now: the image it would be. `None`: nothing yet (`FROM scratch`).
    Done {
        step: StepIndex,
        state: Option<Digest>,
        cached: bool,
    },
    /// The build ends with this step's error, which is the outcome of `build`.
    Failed {
        step: StepIndex,
        message: String,
    },
    /// `step` is what it is about, where it is about one. A plain sentence.
    Warning {
        step: Option<StepIndex>,
        text: String,
    },
    /// A lint rule's finding (`--check`, and told by builds).
    Lint(Finding),
    /// The image is there.
    Built {
        image: Digest,
    },
    Tagged {
        /// Familiar form, with its tag.
        name: String,
    },
}

/// What a lint rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// BuildKit's name of the rule: `StageNameCasing`.
    pub rule: &'static str,
    /// What is wrong here.
    pub message: String,
    /// What the rule is about.
    pub description: &'static str,
    pub line: usize,
    /// The line itself.
    pub shown: String,
}

/// Where events go. When the receiving end is dropped, the build is cancelled: its containers are killed and removed.
#[derive(Debug, Clone)]
pub struct BuildSink {
    sender: Option<mpsc::Sender<BuildEvent>>,
}

impl BuildSink {
    pub fn new() -> (BuildSink, mpsc::Receiver<BuildEvent>) {
        let (sender, receiver) = mpsc::channel(256);
        let sender = Some(sender);
        (BuildSink { sender }, receiver)
    }

    /// Nobody listens; the build is cancelled only when its future is dropped.
    pub fn none() -> BuildSink {
        BuildSink { sender: None }
    }

    /// Waits while the reader is slow.
    pub(super) async fn send(&self, event: BuildEvent) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(event).await;
        }
    }

    /// Returns when the reader is gone.
    pub(super) async fn closed(&self) {
        match &self.sender {
            Some(sender) => sender.closed().await,
            None => std::future::pending().await,
        }
    }
}
