//! `docker logs`.

use super::error::ContainerError;
use super::log_drivers;
use super::service::ContainerService;
use crate::logs::{LogBatch, LogQuery};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

/// What of the log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    pub stdout: bool,
    pub stderr: bool,
    pub follow: bool,
    pub since: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
    pub tail: Option<usize>,
}

/// A log on its way.
pub struct LogStream {
    /// Entries have no stdcopy frames then.
    pub tty: bool,
    pub entries: mpsc::Receiver<LogBatch>,
}

impl ContainerService {
    /// Streams a container's log.
    pub async fn logs(
        &self,
        asked: &str,
        options: &LogOptions,
    ) -> Result<LogStream, ContainerError> {
        let container = self.find(asked)?;
        if !(options.stdout || options.stderr) {
            return Err(ContainerError::invalid(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        if container.spec.host.log.driver == "none" {
            return Err(ContainerError::Unsupported {
                what: "reading logs".into(),
                why: "configured logging driver does not support reading".into(),
            });
        }
        let path = log_drivers::path(&self.folder(&container.id), &container.id);
        let query = LogQuery {
            path,
            stdout: options.stdout,
            stderr: options.stderr,
            since: options.since,
            until: options.until,
            tail: options.tail,
        };
        let mut status = container.watch();
        let (running, exits) = {
            let status = status.borrow();
            (status.state.is_running(), status.exits)
        };
        // As in Docker, following something that does not run ends with what there is.
        let follow = (options.follow && running).then(|| {
            let (sender, receiver) = watch::channel(false);
            tokio::spawn(async move {
                tokio::select! {
                    _ = status.wait_for(|status| status.exits > exits || status.removed) => {}
                    () = sender.closed() => {}
                }
                let _ = sender.send(true);
            });
            receiver
        });
        let entries = match self.deps.logs.read(query, follow).await {
            Ok(entries) => entries,
            // Never started: nothing was written.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => mpsc::channel(1).1,
            Err(error) => {
                return Err(ContainerError::storage(
                    format!("read the log of {}", container.id),
                    error,
                ));
            }
        };
        Ok(LogStream {
            tty: container.spec.config.tty,
            entries,
        })
    }
}
