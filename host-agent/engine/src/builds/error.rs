//! Why a build failed.

use super::files::BuildFilesError;
use super::stage_state::StepError;
use super::{DockerfileError, sources::SourceError};
use crate::containers::ContainerError;
use crate::error::{Class, Classify};
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
    #[error("Dockerfile line {line}: {shown}")]
    Step {
        line: usize,
        shown: String,
        #[source]
        source: Box<BuildError>,
    },
    #[error(transparent)]
    Instruction(#[from] StepError),
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

    /// Line of the Dockerfile.
    pub fn line(&self) -> Option<usize> {
        match self {
            BuildError::Step { line, .. }
            | BuildError::Dockerfile(DockerfileError::Line { line, .. }) => Some(*line),
            _ => None,
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
            BuildError::Step { source, .. } => source.class(),
            BuildError::Exit { .. } | BuildError::Cancelled => Class::Internal,
            BuildError::Copy { source, .. } | BuildError::Files(source) => source.class(),
            BuildError::Source(error) => error.class(),
            BuildError::Image(error) => error.class(),
            BuildError::Container(error) => error.class(),
            BuildError::Layer(error) => error.class(),
            BuildError::Blob(error) => error.class(),
        }
    }
}
