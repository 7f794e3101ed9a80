//! Contents of contexts' files, kept by digest, so that a client sends only what has changed. A kept content is a hard link
//! to the context's own file: keeping costs no second write, and a file whose mode and time are the same costs no copy,
//! unless a layer has it by now: in two layers one file would be seen as two names of the same.

use super::failed;
use crate::archive::tar::TarEntry;
use crate::layers::{Contents, times};
use engine::builds::files::{BuildFilesError, KeptContents as Kept};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Bytes that are kept. What was used longest ago goes first.
const KEPT_MAX: u64 = 1 << 30;
/// How far below [`KEPT_MAX`] room is made at once, so that it is not made for every file.
const KEPT_AFTERWARDS: u64 = KEPT_MAX / 4 * 3;
/// The contents below one folder: `<first two digits>/<all 64 digits>`.
#[derive(Debug)]
pub(super) struct KeptContents {
    folder: PathBuf,
    bytes: AtomicU64,
    /// Seconds since 1970.
    last_used: AtomicI64,
}

fn seconds_of(time: std::time::SystemTime) -> i64 {
    let since = time.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs() as i64)
}

impl KeptContents {
    /// Removes what an earlier engine kept: after a power cut it might not be what its name says.
    pub(super) fn open(folder: PathBuf) -> io::Result<KeptContents> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(KeptContents {
            folder,
            bytes: AtomicU64::new(0),
            last_used: AtomicI64::new(0),
        })
    }

    fn path(&self, digest: &str) -> Option<PathBuf> {
        let is_digest = digest.len() == 64
            && digest
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_digest.then(|| self.folder.join(&digest[..2]).join(digest))
    }

    /// Those of the digests that are not kept.
    pub(super) fn missing(&self, mut digests: Vec<String>) -> Vec<String> {
        digests.retain(|digest| self.path(digest).is_none_or(|path| !path.exists()));
        digests
    }

    /// What is kept.
    pub(super) fn usage(&self) -> Option<Kept> {
        let facts = std::fs::metadata(&self.folder).ok()?;
        let size = self.bytes.load(Ordering::Relaxed);
        (size > 0).then(|| Kept {
            size,
            created: facts.created().map_or(facts.mtime(), seconds_of),
            last_used: self.last_used.load(Ordering::Relaxed),
        })
    }

    /// Notes that a context has come.
    pub(super) fn used(&self) {
        let now = seconds_of(std::time::SystemTime::now());
        self.last_used.store(now, Ordering::Relaxed);
    }

    /// Removes everything; answers how many bytes it were.
    pub(super) fn forget(&self) -> Result<u64, BuildFilesError> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove the kept contents", error))
            }
            _ => Ok(self.bytes.swap(0, Ordering::Relaxed)),
        }
    }

    /// Removes what was used longest ago where too much is kept. Being linked to counts as use (it changes `ctime`).
    pub(super) fn make_room(&self) {
        if self.bytes.load(Ordering::Relaxed) <= KEPT_MAX {
            return;
        }
        let mut found = Vec::new();
        for folder in entries(&self.folder) {
            for path in entries(&folder) {
                if let Ok(facts) = std::fs::symlink_metadata(&path) {
                    found.push(((facts.ctime(), facts.ctime_nsec()), facts.len(), path));
                }
            }
        }
        found.sort();
        let mut kept: u64 = found.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in found {
            if kept <= KEPT_AFTERWARDS {
                break;
            }
            if std::fs::remove_file(path).is_ok() {
                kept -= size;
            }
        }
        self.bytes.store(kept, Ordering::Relaxed);
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

impl Contents for KeptContents {
    fn place(
        &self,
        digest: &str,
        entry: &TarEntry,
        folder: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<Option<u64>> {
        let Some(path) = self.path(digest) else {
            return Ok(None);
        };
        let mut kept = match File::open(&path) {
            Ok(kept) => kept,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let facts = kept.metadata()?;
        let is_same = facts.mode() & 0o7777 == entry.mode
            && (facts.mtime(), facts.mtime_nsec()) == (entry.mtime.0, i64::from(entry.mtime.1))
            && entry.xattrs.is_empty()
            && facts.nlink() == 1;
        if is_same {
            match rustix::fs::linkat(CWD, &path, folder, name, AtFlags::empty()) {
                Ok(()) => return Ok(Some(facts.len())),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let made = rustix::fs::openat(
            folder,
            name,
            flags | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )?;
        let mut made = File::from(made);
        io::copy(&mut kept, &mut made)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(entry.mode))?;
        rustix::fs::futimens(&made, &times(entry.mtime))?;
        // Used, as a link would say.
        rustix::fs::fchmod(&kept, Mode::from_raw_mode(facts.mode() & 0o7777))?;
        Ok(Some(facts.len()))
    }

    /// What cannot be kept is sent again.
    fn keep(
        &self,
        digest: Option<&[u8; 32]>,
        entry: &TarEntry,
        _: &Stat,
        folder: BorrowedFd<'_>,
        name: &OsStr,
    ) {
        let Some(path) = digest.and_then(|digest| self.path(&hex::encode(digest))) else {
            return;
        };
        let link = || rustix::fs::linkat(folder, name, CWD, &path, AtFlags::empty());
        let linked = match link() {
            Err(Errno::NOENT) => path
                .parent()
                .map(std::fs::create_dir_all)
                .map_or(Ok(()), |made| made.map_err(|_| Errno::NOENT))
                .and_then(|()| link()),
            outcome => outcome,
        };
        match linked {
            Ok(()) => {
                self.bytes.fetch_add(entry.size, Ordering::Relaxed);
            }
            Err(Errno::EXIST) => {}
            Err(error) => tracing::debug!(%error, "a content of a context is not kept"),
        }
    }
}
