//! `docker start` and `docker attach`.

use super::container::{Command, Container};
use super::error::ContainerError;
use super::lifecycle::Request;
use super::logs::{LogOptions, LogStream};
use super::output::{Chunk, DetachKeys, Escape};
use super::service::ContainerService;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;

/// What an attaching client wants.
#[derive(Debug, Clone, Default)]
pub struct AttachOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Follow the live streams.
    pub stream: bool,
    /// First what was written so far.
    pub logs: bool,
    pub detach_keys: String,
}

/// An attached client's streams.
pub struct Attachment {
    pub container: Arc<Container>,
    pub tty: bool,
    /// What was written before, if asked for.
    pub past: Option<LogStream>,
    /// Ends with the run (or by the detach keys).
    pub output: Option<mpsc::Receiver<Chunk>>,
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// Set when the client typed the detach keys.
    pub detached: Arc<AtomicBool>,
}

impl ContainerService {
    /// `docker start`.
    pub async fn start(&self, asked: &str) -> Result<(), ContainerError> {
        let (container, _) = self.decide(asked, Request::Start)?;
        container.ask(Command::Start).await
    }

    /// Attaches a client, to a running container or to one that is started later.
    pub async fn attach(
        &self,
        asked: &str,
        options: &AttachOptions,
    ) -> Result<Attachment, ContainerError> {
        let (container, _) = self.decide(asked, Request::Attach)?;
        let config = &container.spec.config;
        let keys = DetachKeys::parse(&options.detach_keys).ok_or_else(|| {
            ContainerError::invalid(format!(
                "Invalid detach keys ({}) provided",
                options.detach_keys
            ))
        })?;
        let run = container.hub.run();
        let subscription = options
            .stream
            .then(|| run.subscribe(options.stdout, options.stderr));
        let (client, output) = subscription.unzip();
        let detached = Arc::new(AtomicBool::new(false));
        let stdin = (options.stdin && options.stream && config.open_stdin).then(|| {
            let escape = client.filter(|_| config.tty).map(|client| Escape {
                keys,
                client,
                detached: detached.clone(),
            });
            // The end of a terminal's client is not the end of the terminal.
            run.stdin(config.stdin_once && !config.tty, escape)
        });
        let past = if options.logs {
            let log = LogOptions {
                stdout: options.stdout,
                stderr: options.stderr,
                ..LogOptions::default()
            };
            Some(self.logs(asked, &log).await?)
        } else {
            None
        };
        self.deps.tell(&container, "attach", []);
        Ok(Attachment {
            tty: config.tty,
            past,
            output,
            stdin,
            detached,
            container: container.clone(),
        })
    }

    /// A client that attached has left.
    pub fn detached(&self, container: &Container) {
        self.deps.tell(container, "detach", []);
    }
}
