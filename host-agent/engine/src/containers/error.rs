//! Why something could not be done with a container. Texts that scripts look for are Docker's.

use super::lifecycle::DeniedError;
use crate::error::{Class, Classify};
use crate::id::ContainerId;
use crate::images::{ImageLookupError, LayerError};
use crate::networks::NetworkError;
use crate::runtime::RuntimeError;

/// Any failure of a container operation.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("No such container: {name}")]
    NotFound { name: String },
    #[error("No such exec instance: {name}")]
    NoSuchExec { name: String },
    #[error("multiple IDs found with provided prefix: {name}")]
    Ambiguous { name: String },
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse { name: String, holder: ContainerId },
    /// The request makes no sense; the sentence is complete.
    #[error("{why}")]
    Invalid { why: String },
    /// It clashes with the state of things; the sentence is complete.
    #[error("{why}")]
    Conflict { why: String },
    /// This engine cannot do it (yet).
    #[error("{what} is not supported: {why}")]
    Unsupported { what: String, why: String },
    #[error(transparent)]
    Denied(#[from] DeniedError),
    #[error(transparent)]
    Filter(#[from] engine_api::filters::FilterError),
    #[error(transparent)]
    Image(#[from] ImageLookupError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("failed to set up container networking: {0}")]
    Network(#[source] NetworkError),
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumeError),
    /// The container's program could not be started.
    #[error("{}", start_text(.source))]
    Start {
        #[source]
        source: RuntimeError,
    },
    /// An exec'ed program could not be started.
    #[error("{}", exec_text(.source))]
    Exec {
        #[source]
        source: RuntimeError,
    },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("cannot {step}")]
    Storage {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The container's task is gone: it was removed in the meantime, or the engine stops.
    #[error("No such container: {name}")]
    Gone { name: String },
}

/// Docker's wrapping; clients look for the part after `exec:`, and choose exit code 126 or 127 by it.
fn start_text(source: &RuntimeError) -> String {
    let inner = crate::error::full_message(source);
    format!(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: {inner}: unknown"
    )
}

fn exec_text(source: &RuntimeError) -> String {
    let inner = crate::error::full_message(source);
    format!(
        "OCI runtime exec failed: exec failed: unable to start container process: {inner}: unknown"
    )
}

impl ContainerError {
    pub fn invalid(why: impl Into<String>) -> ContainerError {
        ContainerError::Invalid { why: why.into() }
    }

    pub fn storage(
        step: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> ContainerError {
        ContainerError::Storage {
            step: step.into(),
            source: source.into(),
        }
    }

    /// The exit code a container has after its start failed with this.
    pub fn exit_code(&self) -> i32 {
        match self {
            ContainerError::Start { source } | ContainerError::Exec { source } => {
                source.exit_code()
            }
            _ => 128,
        }
    }
}

impl Classify for ContainerError {
    fn class(&self) -> Class {
        match self {
            ContainerError::NotFound { .. }
            | ContainerError::NoSuchExec { .. }
            | ContainerError::Gone { .. } => Class::NotFound,
            ContainerError::Ambiguous { .. }
            | ContainerError::Invalid { .. }
            | ContainerError::Filter(_) => Class::Invalid,
            ContainerError::NameInUse { .. } | ContainerError::Conflict { .. } => Class::Conflict,
            ContainerError::Unsupported { .. } => Class::Invalid,
            ContainerError::Denied(inner) => inner.class(),
            ContainerError::Image(inner) => inner.class(),
            ContainerError::Layer(inner) => inner.class(),
            ContainerError::Network(inner) => inner.class(),
            ContainerError::Volume(inner) => inner.class(),
            ContainerError::Start { source }
            | ContainerError::Exec { source }
            | ContainerError::Runtime(source) => source.class(),
            ContainerError::Storage { .. } => Class::Internal,
        }
    }
}
