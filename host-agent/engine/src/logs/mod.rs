//! Reading back what a container wrote. The shim writes (see [`crate::runtime::LogPlan`]); the engine reads.

pub mod fake;

use crate::runtime::StreamKind;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::PathBuf;
use time::OffsetDateTime;
use tokio::sync::mpsc;

/// One line (or part of a very long one) of a container's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub stream: StreamKind,
    pub at: OffsetDateTime,
    /// With its newline, where it had one.
    pub line: Bytes,
    pub attributes: BTreeMap<String, String>,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// The newest file; rotated ones are found beside it as `<path>.1`, `<path>.2.gz` ...
    pub path: PathBuf,
    pub stdout: bool,
    pub stderr: bool,
    pub since: Option<OffsetDateTime>,
    pub until: Option<OffsetDateTime>,
    /// Only the last so many lines.
    pub tail: Option<usize>,
}

/// Entries that follow each other, at least one; or why the reading ends.
pub type LogBatch = std::io::Result<Vec<LogEntry>>;

/// Reads logs.
#[async_trait]
pub trait LogReader: Send + Sync + 'static {
    /// Streams entries in order, as many at a time as are at hand. With `follow`, goes on with new ones until that channel's sender is dropped or says
    /// `true` (the container has ended), after which everything written so far is still delivered.
    async fn read(
        &self,
        query: LogQuery,
        follow: Option<tokio::sync::watch::Receiver<bool>>,
    ) -> std::io::Result<mpsc::Receiver<LogBatch>>;
}
