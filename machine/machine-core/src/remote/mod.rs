//! The engine on a host that somebody else made: looked at, installed and set up over ssh.
//!
//! ```text
//! wait for ssh ─ check (system, kernel, root, who has the port) ─ agent uploaded, digest compared ─ key made there,
//!     request signed here ─ settings ─ service (systemd, openrc or none) ─ the API answers
//! ```
//!
//! No package manager is run and no firewall is touched. The authority's key stays here, the server's key stays there. Every
//! step can be done again: what is there already is left as it is.

mod host;
mod install;
mod service;

pub use host::{Facts, InitSystem};
pub use install::{Installation, Installed, Wanted};

use crate::ssh::{Output, SshError, SshRoute, shell_word};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// One short command.
pub(crate) const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Why an engine could not be set up on a host.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("cannot {step}")]
    Ssh {
        step: &'static str,
        #[source]
        source: SshError,
    },
    #[error("cannot {step}: {why}")]
    Refused { step: &'static str, why: String },
    #[error("{what}")]
    NotReady { what: String, hint: String },
    #[error("cannot read the agent {}", path.display())]
    Agent {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the engine does not start: {why}")]
    Engine {
        why: String,
        /// The last lines of its log.
        log: Vec<String>,
    },
}

impl RemoteError {
    /// What to try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            RemoteError::Ssh { source, .. } => source.hint(),
            RemoteError::NotReady { hint, .. } => Some(hint.clone()),
            _ => None,
        }
    }

    pub fn is_interruption(&self) -> bool {
        matches!(
            self,
            RemoteError::Ssh {
                source: SshError::Interrupted,
                ..
            }
        )
    }
}

/// A shell on the host; `root` commands go through sudo where the user is not root.
pub(crate) struct Shell<'a> {
    pub route: &'a SshRoute,
    pub is_root: bool,
    pub over: &'a dyn Fn() -> bool,
}

impl Shell<'_> {
    /// Runs a script as the user that ssh logs in; a status other than 0 is the caller's to judge.
    pub fn try_run(&self, step: &'static str, script: &str) -> Result<Output, RemoteError> {
        let line = format!("sh -c {}", shell_word(script));
        self.ssh(step, &line, &mut std::io::empty(), STEP_LIMIT)
    }

    /// Runs a script as root and returns what it printed.
    pub fn root(&self, step: &'static str, script: &str) -> Result<String, RemoteError> {
        self.root_with(step, script, &mut std::io::empty(), STEP_LIMIT)
    }

    /// The same with an input.
    pub fn root_with(
        &self,
        step: &'static str,
        script: &str,
        input: &mut dyn Read,
        limit: Duration,
    ) -> Result<String, RemoteError> {
        let sudo = if self.is_root { "" } else { "sudo -n " };
        let line = format!("{sudo}sh -c {}", shell_word(script));
        let output = self.ssh(step, &line, input, limit)?;
        match output.code {
            Some(0) => Ok(output.stdout),
            _ => {
                let said = match output.stderr.trim() {
                    "" => output.stdout.trim(),
                    said => said,
                };
                let why = said.lines().last().unwrap_or("no reason given").to_owned();
                Err(RemoteError::Refused { step, why })
            }
        }
    }

    fn ssh(
        &self,
        step: &'static str,
        line: &str,
        input: &mut dyn Read,
        limit: Duration,
    ) -> Result<Output, RemoteError> {
        tracing::debug!(step, line, "over ssh");
        self.route
            .run(line, input, limit, self.over)
            .map_err(|source| RemoteError::Ssh { step, source })
    }
}
