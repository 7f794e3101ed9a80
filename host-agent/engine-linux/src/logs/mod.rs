//! [`engine::logs::LogReader`] on json-file logs: the newest file, the rotated ones beside it (compressed or not), and
//! following what is still being written.
//!
//! `tail` reads backwards from the end, block by block, so that the last lines of a huge log cost no more than those of
//! a small one. Following waits for inotify on the log's folder, which also tells of rotation.

mod files;
mod parse;

use async_trait::async_trait;
use engine::logs::{LogBatch, LogEntry, LogQuery, LogReader};
use engine::runtime::StreamKind;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

/// Entries that are handed over at once: for each alone it would cost more than reading it.
const BATCH: usize = 256;

/// Bytes of text after which a batch is full as well.
const BATCH_BYTES: usize = 64 << 10;

/// Batches between the file and its reader.
const AHEAD: usize = 4;

/// Reads json-file logs.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonFileReader;

#[async_trait]
impl LogReader for JsonFileReader {
    async fn read(
        &self,
        query: LogQuery,
        follow: Option<watch::Receiver<bool>>,
    ) -> io::Result<mpsc::Receiver<LogBatch>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        // Before the first read, so that nothing written after it is missed.
        let changes = follow
            .is_some()
            .then(|| Changes::new(&query.path))
            .transpose()?;
        tokio::spawn(async move {
            if let Err(error) = stream(query, follow, changes, &sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(receiver)
    }
}

async fn stream(
    query: LogQuery,
    follow: Option<watch::Receiver<bool>>,
    changes: Option<Changes>,
    sender: &mpsc::Sender<LogBatch>,
) -> io::Result<()> {
    let path = query.path.clone();
    let tail = query.tail;
    let mut outlet = Outlet {
        query,
        sender: sender.clone(),
        parser: parse::Parser::default(),
        batch: Vec::new(),
        bytes: 0,
        more: true,
    };
    let (mut cursor, mut outlet) = blocking(move || {
        let cursor = files::read_written(&path, tail, &mut |line| outlet.line(line))?;
        outlet.flush();
        Ok((cursor, outlet))
    })
    .await?;
    let (Some(mut follow), Some(mut changes)) = (follow, changes) else {
        return Ok(());
    };
    while outlet.more {
        // Looked at before reading: what was written before the end is then read below.
        let ended = *follow.borrow_and_update() || follow.has_changed().is_err();
        (cursor, outlet) = blocking(move || {
            cursor.advance(&mut |line| outlet.line(line))?;
            outlet.flush();
            Ok((cursor, outlet))
        })
        .await?;
        if ended {
            return Ok(());
        }
        tokio::select! {
            changed = changes.next() => changed?,
            _ = follow.changed() => {}
            () = sender.closed() => return Ok(()),
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Where lines go: parsed, filtered, sent.
struct Outlet {
    query: LogQuery,
    sender: mpsc::Sender<LogBatch>,
    parser: parse::Parser,
    batch: Vec<LogEntry>,
    /// Bytes of text in the batch.
    bytes: usize,
    /// Somebody still wants entries.
    more: bool,
}

impl Outlet {
    /// Takes a line; false ends the reading.
    fn line(&mut self, line: &[u8]) -> bool {
        let Some(entry) = self.parser.line(line) else {
            tracing::warn!(path = %self.query.path.display(), "a line of a log is not an entry; left out");
            return true;
        };
        if self.query.until.is_some_and(|until| entry.at > until) {
            self.more = false;
            return false;
        }
        let wanted = match entry.stream {
            StreamKind::Stdout => self.query.stdout,
            StreamKind::Stderr => self.query.stderr,
        };
        if wanted && self.query.since.is_none_or(|since| entry.at >= since) {
            self.bytes += entry.line.len();
            self.batch.push(entry);
            if self.batch.len() >= BATCH || self.bytes >= BATCH_BYTES {
                self.flush();
            }
        }
        self.more
    }

    /// Hands over what there is.
    fn flush(&mut self) {
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.bytes = 0;
            self.more &= self.sender.blocking_send(Ok(batch)).is_ok();
        }
    }
}

/// Changes in a log's folder.
struct Changes(AsyncFd<OwnedFd>);

impl Changes {
    #[allow(unsafe_code)]
    fn new(path: &Path) -> io::Result<Changes> {
        let watcher = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let changes = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
        inotify::add_watch(&watcher, folder, changes)?;
        // SAFETY: the descriptor is owned, so it is open and the same until the AsyncFd, which takes it, is dropped.
        let watcher = unsafe { AsyncFd::register_with_interest(watcher, Interest::READABLE) };
        Ok(Changes(watcher.map_err(io::Error::from)?))
    }

    /// Returns after at least one change.
    async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|watcher| {
                let mut buffer = [0u8; 4096];
                Ok(rustix::io::read(watcher.get_ref(), &mut buffer)?)
            });
            match read {
                Ok(result) => return result.map(drop),
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
