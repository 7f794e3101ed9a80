//! Why a build failed.

use super::dockerfile::Stage;
use super::files::BuildFilesError;
use super::instruction::Step;
use super::stage_state::StepError;
use super::{DockerfileError, sources::SourceError};
use crate::containers::ContainerError;
use crate::error::{Class, Classify, full_message};
use crate::images::{BlobError, ImageError, LayerError};

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The request makes no sense; a complete sentence.
    #[error("{0}")]
    Invalid(String),
    /// Docker's text for a Dockerfile that is not there.
    #[error("Cannot locate specified Dockerfile: {path}")]
    NoDockerfile { path: String },
    #[error(transparent)]
    Dockerfile(#[from] DockerfileError),
    /// A step cannot be done. `shown` is its line of the Dockerfile; the classic front door tells the source alone.
    #[error("Dockerfile line {line}, column {column}: {shown}")]
    Step {
        line: usize,
        /// In characters, from 1.
        column: usize,
        shown: String,
        #[source]
        source: Box<BuildError>,
    },
    #[error(transparent)]
    Instruction(#[from] StepError),
    /// A name that nothing has; ` (did you mean NEAR?)`.
    #[error("{}{hint}", full_message(error))]
    Near {
        error: Box<BuildError>,
        hint: String,
    },
    /// Docker's text for a program that failed.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Exit { command: String, code: i64 },
    /// `COPY` and `ADD`: Docker's text. `what` is the instruction's keyword.
    #[error("{what} failed")]
    Copy {
        what: &'static str,
        #[source]
        source: BuildFilesError,
    },
    /// What the client sent.
    #[error("cannot read the build context")]
    Read(#[source] std::io::Error),
    #[error("Error processing tar file")]
    Context(#[source] crate::containers::files::FileError),
    #[error("cannot make a socket for the ssh agent {id}")]
    SshAgent {
        id: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Files(#[from] BuildFilesError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The client went away, or the engine stops.
    #[error("Build cancelled")]
    Cancelled,
}

impl BuildError {
    /// The exit code of the program that failed, for `errorDetail.code`.
    pub fn exit_code(&self) -> Option<i64> {
        match self {
            BuildError::Exit { code, .. } => Some(*code),
            BuildError::Step { source, .. } => source.exit_code(),
            _ => None,
        }
    }

    /// The error without the place in the Dockerfile, as Docker's classic builder tells it.
    pub fn without_place(&self) -> &BuildError {
        match self {
            BuildError::Step { source, .. } => source.without_place(),
            other => other,
        }
    }

    /// Line and column of the Dockerfile.
    pub fn place(&self) -> Option<(usize, usize)> {
        match self {
            BuildError::Step { line, column, .. }
            | BuildError::Dockerfile(DockerfileError::Line { line, column, .. }) => {
                Some((*line, *column))
            }
            _ => None,
        }
    }

    /// An error in a step, with its place.
    pub(super) fn in_step(step: &Step, source: BuildError) -> BuildError {
        let within = match &source {
            BuildError::Instruction(StepError::Word { text, .. }) if step.is_one_line => {
                let before = step.text.find(text).map(|at| &step.text[..at]);
                before.map_or(0, |before| before.chars().count())
            }
            _ => 0,
        };
        BuildError::Step {
            line: step.line,
            column: step.column + within,
            shown: step.text.clone(),
            source: Box::new(source),
        }
    }

    /// An error in a stage's `FROM`, with its place.
    pub(super) fn in_from(stage: &Stage, source: BuildError) -> BuildError {
        BuildError::Step {
            line: stage.line,
            column: stage.column,
            shown: stage.text.clone(),
            source: Box::new(source),
        }
    }
}

impl Classify for BuildFilesError {
    fn class(&self) -> Class {
        match self {
            BuildFilesError::NotFound { .. } => Class::NotFound,
            BuildFilesError::NoMatch | BuildFilesError::Invalid(_) => Class::Invalid,
            BuildFilesError::ContentGone { .. } => Class::Conflict,
            BuildFilesError::Failed { .. } => Class::Internal,
        }
    }
}

impl Classify for BuildError {
    fn class(&self) -> Class {
        match self {
            BuildError::Invalid(_)
            | BuildError::Dockerfile(_)
            | BuildError::Instruction(_)
            | BuildError::NoDockerfile { .. } => Class::Invalid,
            BuildError::Read(_) => Class::Invalid,
            BuildError::Context(error) => error.class(),
            BuildError::Step { source, .. } | BuildError::Near { error: source, .. } => {
                source.class()
            }
            BuildError::Exit { .. } | BuildError::SshAgent { .. } | BuildError::Cancelled => {
                Class::Internal
            }
            BuildError::Copy { source, .. } | BuildError::Files(source) => source.class(),
            BuildError::Source(error) => error.class(),
            BuildError::Image(error) => error.class(),
            BuildError::Container(error) => error.class(),
            BuildError::Layer(error) => error.class(),
            BuildError::Blob(error) => error.class(),
        }
    }
}
