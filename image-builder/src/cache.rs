//! The folder of downloaded and derived files. Everything in it is either named by its digest and checked again when it
//! is read, or checked by its signature; so it may be deleted, shared or damaged without harm.

use crate::error::FileError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A cache folder, locked for this process: two builders never download the same file side by side.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    _lock: File,
}

impl Cache {
    /// Makes and locks the folder; waits for another builder, and says so through `waiting`.
    pub(crate) fn open(folder: &Path, waiting: impl FnOnce()) -> Result<Cache, FileError> {
        for name in ["sha256", "releases", "bases", "sizes"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(FileError::on("create the folder", &path))?;
        }
        let lock = lock_file(&folder.join("lock"), waiting)?;
        Ok(Cache {
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// Bytes with this digest, if they are here and whole. A damaged file is removed.
    pub(crate) fn read(&self, sha256: &str) -> Option<Vec<u8>> {
        let path = self.content(sha256);
        let bytes = std::fs::read(&path).ok()?;
        if hex_sha256(&bytes) == sha256 {
            return Some(bytes);
        }
        let _ = std::fs::remove_file(&path);
        None
    }

    /// Keeps bytes under their digest, which the caller has checked.
    pub(crate) fn write(&self, sha256: &str, bytes: &[u8]) -> Result<(), FileError> {
        write_whole(&self.content(sha256), bytes)
    }

    fn content(&self, sha256: &str) -> PathBuf {
        self.folder.join("sha256").join(sha256)
    }

    /// Where the InRelease file of a mirror's suite is kept. A mirror's address may hold a password, so its digest is
    /// the name.
    pub(crate) fn release(&self, mirror: &str, suite: &str) -> PathBuf {
        let name = hex_sha256(format!("{mirror} {suite}").as_bytes());
        self.folder.join("releases").join(name)
    }

    /// Where what was made from everything but the agent is kept.
    pub(crate) fn base(&self, key: &str) -> PathBuf {
        self.folder.join("bases").join(key)
    }

    /// Where the compressed size of a file is kept; `key` is its digest and the level.
    pub(crate) fn size(&self, key: &str) -> PathBuf {
        self.folder.join("sizes").join(key)
    }
}

/// Opens and locks a file; the lock ends with the returned handle.
pub(crate) fn lock_file(path: &Path, waiting: impl FnOnce()) -> Result<File, FileError> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(FileError::on("open", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            waiting();
            file.lock().map_err(FileError::on("lock", path))?;
        }
        Err(std::fs::TryLockError::Error(error)) => {
            return Err(FileError::on("lock", path)(error));
        }
    }
    Ok(file)
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let error = FileError::on("write", path);
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(error)
}

/// Lower-case hex sha256.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_content_is_not_returned() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), || {}).unwrap();
        let digest = hex_sha256(b"hello");
        assert_eq!(cache.read(&digest), None);
        cache.write(&digest, b"hello").unwrap();
        assert_eq!(cache.read(&digest).as_deref(), Some(&b"hello"[..]));
        std::fs::write(cache.content(&digest), b"hellx").unwrap();
        assert_eq!(cache.read(&digest), None);
        assert!(!cache.content(&digest).exists());
    }

    #[test]
    fn the_second_builder_waits() {
        let folder = tempfile::tempdir().unwrap();
        let first = Cache::open(folder.path(), || panic!("nobody else is here")).unwrap();
        let (told, waits) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                Cache::open(folder.path(), move || told.send(()).unwrap()).unwrap();
            });
            waits.recv().unwrap();
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap();
        });
    }
}
