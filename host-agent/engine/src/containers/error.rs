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
    #[error("cannot kill container: {name}: No such container: {name}")]
    NotFoundForKill { name: String },
    #[error("Could not find the file {path} in container {container}")]
    NoSuchFile { path: String, container: String },
    #[error(transparent)]
    File(#[from] super::files::FileError),
    #[error(transparent)]
    MakeImage(Box<crate::images::ImageError>),
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
    #[error("No such link: {name}")]
    NoSuchLink { name: String },
    /// Of `network connect` and `disconnect`.
    #[error(transparent)]
    Connect(NetworkError),
    #[error(transparent)]
    Volume(#[from] crate::volumes::VolumeError),
    /// The container's program could not be started.
    #[error("{}", start_text(.cause))]
    Start {
        /// Not a `#[source]`: it is inside of the sentence.
        cause: RuntimeError,
    },
    /// An exec'ed program could not be started.
    #[error("{}", exec_text(.cause))]
    Exec { cause: RuntimeError },
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
    wrapped(
        "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process",
        source,
    )
}

fn exec_text(source: &RuntimeError) -> String {
    wrapped(
        "OCI runtime exec failed: exec failed: unable to start container process",
        source,
    )
}

fn wrapped(wrapping: &str, source: &RuntimeError) -> String {
    let inner = crate::error::full_message(source);
    match source {
        // Docker looks for these itself, before it asks the runtime.
        RuntimeError::UnknownUser { .. }
        | RuntimeError::UnknownGroup { .. }
        | RuntimeError::IdOutOfRange => inner,
        _ => format!("{wrapping}: {}: unknown", as_go_says(&inner)),
    }
}

/// `No such file or directory (os error 2)` as Go programs write it, `no such file or directory`: clients choose their exit
/// code by these words.
fn as_go_says(text: &str) -> String {
    let Some((before, rest)) = text.split_once(" (os error ") else {
        return text.to_owned();
    };
    let after = rest.split_once(')').map_or("", |(_, after)| after);
    let start = before.rfind(": ").map_or(0, |place| place + 2);
    let (head, message) = before.split_at(start);
    let mut message = message.to_owned();
    if let Some(first) = message.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    format!("{head}{message}{after}")
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
            ContainerError::Start { cause } => cause.exit_code(),
            // moby looks for the program's name in the text: a folder or a user that is not there is another matter.
            ContainerError::Exec {
                cause:
                    cause @ (RuntimeError::ProgramNotFound { .. }
                    | RuntimeError::ProgramNotExecutable { .. }),
            } => cause.exit_code(),
            // Docker's code for every other trouble with an exec.
            ContainerError::Exec { .. } => 126,
            _ => 128,
        }
    }
}

impl Classify for ContainerError {
    fn class(&self) -> Class {
        match self {
            ContainerError::NotFound { .. }
            | ContainerError::NotFoundForKill { .. }
            | ContainerError::NoSuchExec { .. }
            | ContainerError::NoSuchFile { .. }
            | ContainerError::NoSuchLink { .. }
            | ContainerError::Gone { .. } => Class::NotFound,
            ContainerError::Ambiguous { .. }
            | ContainerError::Invalid { .. }
            | ContainerError::Filter(_) => Class::Invalid,
            ContainerError::NameInUse { .. } | ContainerError::Conflict { .. } => Class::Conflict,
            ContainerError::Unsupported { .. } => Class::Invalid,
            ContainerError::Denied(inner) => inner.class(),
            ContainerError::File(inner) => inner.class(),
            ContainerError::MakeImage(inner) => inner.class(),
            ContainerError::Image(inner) => inner.class(),
            ContainerError::Layer(inner) => inner.class(),
            ContainerError::Network(inner) | ContainerError::Connect(inner) => inner.class(),
            ContainerError::Volume(inner) => inner.class(),
            ContainerError::Start { cause }
            | ContainerError::Exec { cause }
            | ContainerError::Runtime(cause) => cause.class(),
            ContainerError::Storage { .. } => Class::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_are_told_as_go_tells_them() {
        assert_eq!(
            as_go_says("cannot open \"/x\": No such file or directory (os error 2)"),
            "cannot open \"/x\": no such file or directory"
        );
        assert_eq!(as_go_says("plain"), "plain");
        let cause = RuntimeError::UnknownUser { user: "me".into() };
        assert_eq!(
            ContainerError::Start { cause }.to_string(),
            "unable to find user me: no matching entries in passwd file"
        );
    }
}
