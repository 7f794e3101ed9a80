//! How a failure is told: what failed and why on one line, what to try on the next.

use crate::exit_code;
use machine_core::docker_context::ContextError;
use machine_core::driver::DriverError;
use machine_core::error::chain;
use machine_core::remote::RemoteError;
use machine_core::{MachineError, StoreError};

/// A failure of the command line itself, with what to try.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Failure {
        Failure {
            what: what.into(),
            hint: Some(hint.into()),
        }
    }
}

/// Several machines, several failures; each is told by itself.
#[derive(Debug, thiserror::Error)]
#[error("{} machines failed", .0.len())]
pub(crate) struct Many(pub(crate) Vec<anyhow::Error>);

/// Prints an error to stderr and says with which code to end.
pub(crate) fn report(error: &anyhow::Error) -> u8 {
    if let Some(Many(errors)) = error.downcast_ref() {
        let mut code = exit_code::FAILURE;
        for error in errors {
            code = report(error);
        }
        return code;
    }
    eprintln!("Error: {}", chain(error.as_ref()));
    let machine_error = error.downcast_ref::<MachineError>();
    if let Some(MachineError::Driver { source, .. } | MachineError::Check { source, .. }) =
        machine_error
        && let DriverError::Boot { console, .. } = source
        && !console.is_empty()
    {
        eprintln!("The console's last lines:");
        for line in console {
            eprintln!("  | {line}");
        }
    }
    if let Some(MachineError::Remote {
        source: RemoteError::Engine { log, .. },
        ..
    }) = machine_error
        && !log.is_empty()
    {
        eprintln!("The engine's last lines:");
        for line in log {
            eprintln!("  | {line}");
        }
    }
    let hint = machine_error
        .and_then(MachineError::hint)
        .or_else(|| {
            error
                .downcast_ref::<StoreError>()
                .and_then(StoreError::hint)
        })
        .or_else(|| {
            error
                .downcast_ref::<ContextError>()
                .and_then(ContextError::hint)
        })
        .or_else(|| error.downcast_ref::<Failure>().and_then(|f| f.hint.clone()));
    if let Some(hint) = hint {
        eprintln!("Hint: {hint}");
    }
    match machine_error {
        // A wrong value is the command line's fault, not the computer's.
        Some(MachineError::Check { source, .. })
            if !matches!(source, DriverError::InvalidFlag { .. }) =>
        {
            exit_code::CHECK_FAILED
        }
        Some(error) if error.is_interruption() => exit_code::INTERRUPTED,
        _ => exit_code::FAILURE,
    }
}
