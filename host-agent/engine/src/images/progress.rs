//! What a long operation tells while it runs, one JSON message each on the wire.

use super::registry::Waits;
use super::{ByteStream, Digest};
use futures_util::StreamExt;
use std::sync::Arc;
use tokio::sync::mpsc;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// `status`, with the id of what it is about (empty: none).
    Status { id: String, status: String },
    /// A bar: bytes done and in all (0: unknown).
    Amount {
        id: String,
        status: &'static str,
        current: u64,
        total: u64,
    },
    /// A line of output (`stream`).
    Line(String),
    /// What a push stored (`aux`), for programs.
    Pushed {
        tag: String,
        digest: Digest,
        size: u64,
    },
}

/// Where messages go.
#[derive(Debug, Clone)]
pub struct ProgressSink {
    sender: Option<mpsc::Sender<Progress>>,
    has_bars: bool,
}

impl ProgressSink {
    /// A sink and the end where its messages come out. A reader that goes away is no error: whoever started the
    /// operation decides whether it goes on.
    pub fn new() -> (ProgressSink, mpsc::Receiver<Progress>) {
        let (sender, receiver) = mpsc::channel(256);
        (
            ProgressSink {
                sender: Some(sender),
                has_bars: true,
            },
            receiver,
        )
    }

    /// Nobody listens.
    pub fn none() -> ProgressSink {
        ProgressSink {
            sender: None,
            has_bars: false,
        }
    }

    /// The same without [`Progress::Amount`].
    pub fn without_bars(self) -> ProgressSink {
        ProgressSink {
            has_bars: false,
            ..self
        }
    }

    pub async fn status(&self, id: impl Into<String>, status: impl Into<String>) {
        self.send(Progress::Status {
            id: id.into(),
            status: status.into(),
        })
        .await;
    }

    pub async fn line(&self, line: impl Into<String>) {
        self.send(Progress::Line(line.into())).await;
    }

    /// Never waits: where the reader is slow, bars skip.
    pub fn amount(&self, id: &str, status: &'static str, current: u64, total: u64) {
        if let Some(sender) = self.sender.as_ref().filter(|_| self.has_bars) {
            let _ = sender.try_send(Progress::Amount {
                id: id.to_owned(),
                status,
                current,
                total,
            });
        }
    }

    /// Tells of waiting for a registry, in Docker's words. As with bars, a slow reader is not waited for.
    pub(super) fn waits(&self, id: &str) -> Waits {
        let (sender, id) = (self.sender.clone(), id.to_owned());
        Arc::new(move |seconds| {
            let plural = if seconds == 1 { "" } else { "s" };
            if let Some(sender) = &sender {
                let _ = sender.try_send(Progress::Status {
                    id: id.clone(),
                    status: format!("Retrying in {seconds} second{plural}"),
                });
            }
        })
    }

    /// The same content, while its amount is told, of `total` bytes (0: unknown).
    pub(super) fn told(
        &self,
        content: ByteStream,
        total: u64,
        id: String,
        status: &'static str,
    ) -> ByteStream {
        let progress = self.clone();
        let mut done = 0u64;
        Box::pin(content.inspect(move |piece| {
            if let Ok(piece) = piece {
                done += piece.len() as u64;
                progress.amount(&id, status, done, total);
            }
        }))
    }

    pub(super) async fn send(&self, message: Progress) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(message).await;
        }
    }
}
