//! Folders of this computer inside the guest. The guest's own kernel asks (FUSE), the keeper answers, over one
//! virtio-serial port a folder: nothing listens, nobody needs to be root, and no program but QEMU is involved. Why this
//! way: docs/decisions/0013.
//!
//! ```text
//!   container -> guest's kernel -> /dev/fuse -> init -> virtio-serial -> QEMU -> share0.sock -> Session -> Server -> Folder
//! ```

mod folder;
mod nodes;
mod server;
#[cfg(all(test, unix))]
mod tests;
mod wire;

use crate::qemu::system::Stream;
use folder::Folder;
use guest_contract::share::{LONGEST_MESSAGE, Word};
use serde::{Deserialize, Serialize};
use server::{Kept, Server};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use wire::Request;

/// How long a guest may take to let go of a folder before its memory is written.
const HOLDS_WITHIN: Duration = Duration::from_secs(20);

/// A folder of this computer, as the keeper's plan names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFolder {
    pub host: PathBuf,
    pub read_only: bool,
}

/// One folder's conversation with the guest.
pub struct Session {
    server: Mutex<Server>,
    writer: Mutex<Stream>,
    said: Mutex<Said>,
    news: Condvar,
}

/// What the guest said of its own.
#[derive(Default)]
struct Said {
    holds: bool,
    synced: bool,
    ended: bool,
}

impl Session {
    pub(super) fn new(shared: &SharedFolder, stream: Stream) -> io::Result<Session> {
        let folder = Folder::open(&shared.host)?;
        Ok(Session {
            server: Mutex::new(Server::new(folder, shared.read_only)),
            writer: Mutex::new(stream),
            said: Mutex::default(),
            news: Condvar::new(),
        })
    }

    /// Another keeper talked to this guest and was killed: what it knew by number is stale and never means something else.
    pub fn forget_all(&self) {
        lock(&self.server).forget_all();
    }

    /// Answers until QEMU ends. Runs on a thread of its own.
    pub fn run(&self) {
        let reader = lock(&self.writer).try_clone();
        if let Err(error) = reader.and_then(|reader| self.answer_all(reader)) {
            tracing::debug!(%error, "a shared folder's port closed");
        }
        lock(&self.said).ended = true;
        self.news.notify_all();
    }

    fn answer_all(&self, stream: Stream) -> io::Result<()> {
        let mut reader = BufReader::with_capacity(64 * 1024, stream);
        let mut message = Vec::new();
        loop {
            read_message(&mut reader, &mut message)?;
            if message.len() == Word::LENGTH {
                self.listen(Word::from_bytes(&message));
                continue;
            }
            let request = Request::parse(&message)
                .ok_or_else(|| io::Error::other("a message without header"))?;
            let answer = lock(&self.server).serve(request);
            if let Some(answer) = answer {
                lock(&self.writer).write_all(&answer)?;
            }
        }
    }

    fn listen(&self, word: Option<Word>) {
        let mut said = lock(&self.said);
        match word {
            Some(Word::Hold) => said.holds = true,
            Some(Word::Sync) => said.synced = true,
            Some(Word::Go) | None => {}
        }
        self.news.notify_all();
    }

    /// Returns when no request and no answer is on the way, with what must be known to go on after that.
    fn hold(&self) -> Result<Kept, String> {
        *lock(&self.said) = Said::default();
        self.say(Word::Hold)?;
        self.wait(|said| said.holds)?;
        // It has all requests answered; this word is behind the last answer.
        self.say(Word::Sync)?;
        self.wait(|said| said.synced)?;
        Ok(lock(&self.server).keep())
    }

    pub fn go(&self) {
        // A guest that is gone needs no word.
        let _ = self.say(Word::Go);
    }

    fn say(&self, word: Word) -> Result<(), String> {
        let mut writer = lock(&self.writer);
        writer
            .write_all(&word.to_bytes())
            .map_err(|error| error.to_string())
    }

    fn wait(&self, done: impl Fn(&Said) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + HOLDS_WITHIN;
        let mut said = lock(&self.said);
        while !done(&said) {
            let left = deadline.saturating_duration_since(Instant::now());
            if said.ended || left.is_zero() {
                return Err("the guest does not let go of a shared folder".into());
            }
            said = self
                .news
                .wait_timeout(said, left)
                .map(|(said, _)| said)
                .unwrap_or_else(|poisoned| poisoned.into_inner().0);
        }
        Ok(())
    }
}

/// `shares.state`: what lies beside a suspended machine's memory.
#[derive(Serialize, Deserialize)]
struct KeptShares {
    version: u32,
    folders: Vec<Kept>,
}

const KEPT_VERSION: u32 = 1;

/// Quiets all folders and writes what the next keeper must know of them.
pub fn hold_all(sessions: &[std::sync::Arc<Session>], file: &Path) -> Result<(), String> {
    if sessions.is_empty() {
        return Ok(());
    }
    let folders = sessions.iter().map(|session| session.hold());
    let kept = KeptShares {
        version: KEPT_VERSION,
        folders: folders.collect::<Result<_, _>>()?,
    };
    let text = serde_json::to_vec(&kept).map_err(|error| error.to_string())?;
    machine_core::store::atomic::write(file, &text)
        .map_err(|error| format!("cannot write {}: {error}", file.display()))
}

/// Goes on where [`hold_all`] stopped, in another process.
pub fn restore_all(sessions: &[std::sync::Arc<Session>], file: &Path) {
    if sessions.is_empty() {
        return;
    }
    let kept = std::fs::read(file).and_then(|text| {
        let kept: KeptShares = serde_json::from_slice(&text)?;
        match kept.version {
            KEPT_VERSION => Ok(kept.folders),
            other => Err(io::Error::other(format!("it has version {other}"))),
        }
    });
    match kept {
        Ok(folders) => {
            for (session, kept) in sessions.iter().zip(folders) {
                lock(&session.server).restore(kept);
            }
        }
        // Its open files get errors, new ones work.
        Err(error) => tracing::warn!(%error, file = %file.display(), "cannot read what was shared"),
    }
    sessions.iter().for_each(|session| session.go());
}

/// Reads one message, its length checked.
fn read_message(reader: &mut impl Read, message: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let total = u32::from_le_bytes(length) as usize;
    if !(Word::LENGTH..=LONGEST_MESSAGE).contains(&total) {
        return Err(io::Error::other(format!("a message of {total} bytes")));
    }
    message.clear();
    message.extend(length);
    message.resize(total, 0);
    reader.read_exact(&mut message[4..])
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
