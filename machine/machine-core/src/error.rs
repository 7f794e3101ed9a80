//! Why a verb could not do its work, and what to try next.

use crate::certificates::CertificatesError;
use crate::driver::{DriverError, Status};
use crate::engine_client::EngineError;
use crate::engine_settings::EngineOptionError;
use crate::remote::RemoteError;
use crate::ssh::SshError;
use crate::store::StoreError;
use std::path::PathBuf;

/// Why a use case ended early.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Certificates(#[from] CertificatesError),
    #[error(transparent)]
    EngineOption(#[from] EngineOptionError),
    #[error("there is no driver \"{name}\"; drivers are: {}", known.join(", "))]
    UnknownDriver { name: String, known: Vec<String> },
    #[error(
        "machine \"{machine}\" was made with the driver \"{driver}\", which this program does not have"
    )]
    DriverMissing { machine: String, driver: String },
    #[error("the driver \"{driver}\" cannot make machine \"{machine}\"")]
    Check {
        machine: String,
        driver: String,
        #[source]
        source: DriverError,
    },
    #[error("cannot {verb} machine \"{machine}\"")]
    Driver {
        verb: &'static str,
        machine: String,
        #[source]
        source: DriverError,
    },
    #[error("the driver \"{driver}\" of machine \"{machine}\" cannot {verb} machines")]
    Unsupported {
        verb: &'static str,
        machine: String,
        driver: String,
    },
    #[error("machine \"{machine}\" is not running (it is {})", status.name())]
    NotRunning { machine: String, status: Status },
    #[error("machine \"{machine}\" is already {}", status.name().to_lowercase())]
    Already { machine: String, status: Status },
    #[error("machine \"{machine}\" is {}", status.name().to_lowercase())]
    NotStopped { machine: String, status: Status },
    #[error("machine \"{machine}\" is protected")]
    Protected { machine: String },
    #[error("machine \"{machine}\" has no snapshot \"{snapshot}\"")]
    NoSuchSnapshot { machine: String, snapshot: String },
    #[error("machine \"{machine}\" has a snapshot \"{snapshot}\" already")]
    SnapshotInUse { machine: String, snapshot: String },
    #[error("{what}")]
    Exchange { what: String, hint: String },
    #[error("machine \"{machine}\" is half made: its `create` has not ended, or was cut off")]
    HalfMade { machine: String },
    #[error("the engine of machine \"{machine}\" cannot be reached")]
    Engine {
        machine: String,
        #[source]
        source: EngineError,
    },
    #[error("cannot attach \"{machine}\": the engine at {url} cannot be used")]
    NotAttached {
        machine: String,
        url: String,
        /// Where the certificates are.
        folder: PathBuf,
        #[source]
        source: Box<EngineError>,
    },
    #[error("cannot set up the engine of machine \"{machine}\"")]
    Remote {
        machine: String,
        #[source]
        source: RemoteError,
    },
    #[error("interrupted")]
    Interrupted,
    #[error("{first}; and what was made of machine \"{machine}\" could not be removed: {second}")]
    NotUndone {
        machine: String,
        /// Why the work failed, with its causes.
        first: String,
        /// Why undoing it failed, with its causes.
        second: String,
    },
    #[error("no active machine: DOCKER_HOST names none of this store that is running")]
    NoActive,
    #[error("which machine is active is not known: not all have answered within {seconds} s")]
    ActiveUnknown { seconds: u64 },
}

impl MachineError {
    /// What to try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            MachineError::Store(error) => error.hint(),
            MachineError::Certificates(error) => error.hint(),
            MachineError::UnknownDriver { .. } => Some(
                "choose a driver with -d, or put its plug-in docker-machine-driver-NAME on the PATH; `machine create -d DRIVER \
                 --help` shows its options"
                    .into(),
            ),
            MachineError::DriverMissing { machine, .. } => Some(format!(
                "put its plug-in docker-machine-driver-NAME on the PATH, or use the program that made it; `machine rm -f {machine}` \
                 only forgets it"
            )),
            MachineError::Check { source, .. } | MachineError::Driver { source, .. } => {
                source.hint().map(str::to_owned)
            }
            MachineError::NotRunning { machine, .. } => {
                Some(format!("start it: machine start {machine}"))
            }
            MachineError::NotStopped { machine, status } => Some(match status {
                Status::Saved => format!(
                    "wake it first (machine resume {machine}), or give its memory up (machine kill {machine})"
                ),
                _ => format!("stop it first: machine stop {machine}"),
            }),
            MachineError::Protected { machine } => {
                Some(format!("take the protection away: machine protect --off {machine}"))
            }
            MachineError::NoSuchSnapshot { machine, .. } => {
                Some(format!("`machine snapshot ls {machine}` lists them"))
            }
            MachineError::SnapshotInUse { machine, snapshot } => Some(format!(
                "choose another name, or remove it: machine snapshot rm {machine} {snapshot}"
            )),
            MachineError::Exchange { hint, .. } => Some(hint.clone()),
            MachineError::HalfMade { machine } => Some(format!(
                "wait for `create`, or remove what is there: machine rm {machine}"
            )),
            MachineError::Engine { machine, source } if source.is_about_trust() => Some(format!(
                "the certificates do not fit; restarting makes new ones where needed: machine restart {machine}"
            )),
            MachineError::Engine { machine, .. } => {
                Some(format!("restart it: machine restart {machine}"))
            }
            MachineError::NotAttached { folder, source, .. } if source.is_about_trust() => Some(format!(
                "ca.pem, cert.pem and key.pem in {} must be of that engine; whoever made it has them in the folder that \
                 `machine env` calls DOCKER_CERT_PATH",
                folder.display()
            )),
            MachineError::NotAttached { url, .. } => Some(format!(
                "see that an engine listens there, and that no firewall is between: {url}"
            )),
            MachineError::Remote { source, .. } => source.hint(),
            MachineError::NotUndone { machine, .. } => {
                Some(format!("try again: machine rm {machine}"))
            }
            MachineError::ActiveUnknown { .. } => Some(
                "`machine ls` shows who does not answer; `machine active -t SECONDS` waits longer".into(),
            ),
            MachineError::NoActive => Some("eval \"$(machine env NAME)\"".into()),
            _ => None,
        }
    }

    /// Ctrl-C was pressed.
    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            MachineError::Interrupted
                | MachineError::Store(StoreError::Interrupted { .. })
                | MachineError::Remote {
                    source: RemoteError::Ssh {
                        source: SshError::Interrupted,
                        ..
                    },
                    ..
                }
                | MachineError::Driver {
                    source: DriverError::Interrupted,
                    ..
                }
        )
    }
}

/// An error and its causes on one line, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}
