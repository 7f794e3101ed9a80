//! Locks that two `machine` processes respect. They are advisory locks on files, so a process that dies lets go of
//! its own.
//!
//! A machine's lock file goes away with the lock. That opens a race: a waiter may get the lock of a file that has no
//! name any more, while a third process makes and locks a new one. So a lock counts only if its file still is the one
//! under that name; else the waiter begins again.

use super::StoreError;
use super::atomic;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What to do while someone else holds the lock.
pub trait Patience {
    /// Called once when the lock is busy.
    fn busy(&self);
    /// Asked about ten times a second; `true` ends the wait.
    fn over(&self) -> bool;
}

/// Waits as long as it takes, in silence.
pub struct Endless;

impl Patience for Endless {
    fn busy(&self) {}

    fn over(&self) -> bool {
        false
    }
}

/// Held until dropped.
#[derive(Debug)]
pub struct Lock {
    /// Declared for its lock: closing the file lets go.
    _file: File,
    remove: Option<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.remove {
            // Fails on Windows, where an open file keeps its name: an empty file stays, which harms nothing.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Lock {
    /// Takes the lock on `path`; `None` when patience ended. With `transient` the file goes away with the lock.
    pub(super) fn take(
        path: &Path,
        transient: bool,
        patience: &dyn Patience,
    ) -> Result<Option<Lock>, StoreError> {
        let mut said = false;
        loop {
            let file = atomic::open_lock_file(path)
                .map_err(|source| StoreError::io("open the lock", path, source))?;
            match file.try_lock() {
                Ok(()) if still_named(&file, path) => {
                    return Ok(Some(Lock {
                        _file: file,
                        remove: transient.then(|| path.to_path_buf()),
                    }));
                }
                Ok(()) => continue,
                Err(TryLockError::Error(source)) => {
                    return Err(StoreError::io("lock", path, source));
                }
                Err(TryLockError::WouldBlock) => {}
            }
            if !said {
                patience.busy();
                said = true;
            }
            if patience.over() {
                return Ok(None);
            }
            std::thread::sleep(LOOK_AGAIN_AFTER);
        }
    }
}

#[cfg(unix)]
fn still_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(ours), Ok(named)) => ours.ino() == named.ino() && ours.dev() == named.dev(),
        _ => false,
    }
}

#[cfg(not(unix))]
fn still_named(_file: &File, _path: &Path) -> bool {
    true
}
