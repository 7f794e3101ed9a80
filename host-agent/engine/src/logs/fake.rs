//! Logs in memory, for tests of what reads them.

use super::{LogBatch, LogEntry, LogQuery, LogReader};
use async_trait::async_trait;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};

/// Holds entries by the path they would be in. Clones share them.
#[derive(Clone, Default)]
pub struct FakeLogs {
    files: Arc<Mutex<HashMap<PathBuf, Vec<LogEntry>>>>,
    grown: Arc<tokio::sync::Notify>,
}

impl FakeLogs {
    /// Writes one more entry.
    pub fn push(&self, path: &Path, entry: LogEntry) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.entry(path.to_owned()).or_default().push(entry);
        drop(files);
        self.grown.notify_waiters();
    }

    fn after(&self, path: &Path, position: usize) -> Vec<LogEntry> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = files.get(path).map(Vec::as_slice).unwrap_or_default();
        entries.get(position..).unwrap_or_default().to_vec()
    }
}

fn wanted(query: &LogQuery, entry: &LogEntry) -> bool {
    use crate::runtime::StreamKind::{Stderr, Stdout};
    let stream = match entry.stream {
        Stdout => query.stdout,
        Stderr => query.stderr,
    };
    stream
        && query.since.is_none_or(|since| entry.at >= since)
        && query.until.is_none_or(|until| entry.at <= until)
}

#[async_trait]
impl LogReader for FakeLogs {
    async fn read(
        &self,
        query: LogQuery,
        follow: Option<watch::Receiver<bool>>,
    ) -> std::io::Result<mpsc::Receiver<LogBatch>> {
        let (sender, receiver) = mpsc::channel(16);
        let logs = self.clone();
        tokio::spawn(async move {
            let mut follow = follow;
            let mut position = 0;
            let mut first = true;
            loop {
                // Registered before looking, so that nothing written in between is missed.
                let grown = logs.grown.notified();
                let ended = follow
                    .as_ref()
                    .is_none_or(|follow| *follow.borrow() || follow.has_changed().is_err());
                let fresh = logs.after(&query.path, position);
                position += fresh.len();
                let mut fresh: Vec<LogEntry> = fresh
                    .into_iter()
                    .filter(|entry| wanted(&query, entry))
                    .collect();
                if let (true, Some(tail)) = (first, query.tail) {
                    fresh.drain(..fresh.len().saturating_sub(tail));
                }
                first = false;
                if !fresh.is_empty() && sender.send(Ok(fresh)).await.is_err() {
                    return;
                }
                let Some(follow) = follow.as_mut().filter(|_| !ended) else {
                    return;
                };
                tokio::select! {
                    () = grown => {}
                    _ = follow.changed() => {}
                    () = sender.closed() => return,
                }
            }
        });
        Ok(receiver)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::StreamKind;
    use bytes::Bytes;
    use std::collections::BTreeMap;
    use time::OffsetDateTime;

    fn entry(text: &'static str) -> LogEntry {
        LogEntry {
            stream: StreamKind::Stdout,
            at: OffsetDateTime::now_utc(),
            line: Bytes::from_static(text.as_bytes()),
            attributes: BTreeMap::new(),
        }
    }

    #[tokio::test]
    async fn follows_until_told_to_stop() {
        let logs = FakeLogs::default();
        let path = Path::new("/x");
        logs.push(path, entry("one"));
        logs.push(path, entry("two"));
        let query = LogQuery {
            path: path.to_owned(),
            stdout: true,
            stderr: true,
            since: None,
            until: None,
            tail: Some(1),
        };
        let (stop, follow) = watch::channel(false);
        let mut entries = logs.read(query, Some(follow)).await.unwrap();
        assert_eq!(entries.recv().await.unwrap().unwrap()[0].line, "two");
        logs.push(path, entry("three"));
        assert_eq!(entries.recv().await.unwrap().unwrap()[0].line, "three");
        stop.send(true).unwrap();
        assert!(entries.recv().await.is_none());
    }
}
