//! Folders of `RUN --mount=type=cache`.
//!
//! ```text
//! builds/caches/<name>/id     what Dockerfiles call it; its time is that of the last use
//! builds/caches/<name>/data/  what is mounted
//! builds/caches/tmp-<random>/ being made or removed
//! ```

use super::failed;
use super::tree::Tree;
use engine::builds::files::{BuildFilesError, CacheFolder};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use sha2::{Digest, Sha256};
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

const ID: &str = "id";
const DATA: &str = "data";
const TEMPORARY: &str = "tmp-";

/// Uses (and makes) the folder, and removes what a crash left half-made.
pub(super) fn open(folder: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn name_of(id: &str) -> String {
    hex::encode(&Sha256::digest(id.as_bytes())[..16])
}

fn temporary(folder: &Path) -> PathBuf {
    let random = engine::id::ContainerId::random();
    folder.join(format!("{TEMPORARY}{}", random.short()))
}

pub(super) fn obtain(
    folder: &Path,
    id: &str,
    content: Option<(&Tree, &str)>,
    mode: u32,
    owner: (u32, u32),
) -> Result<PathBuf, BuildFilesError> {
    let own = folder.join(name_of(id));
    let step = || format!("make the cache mount {id:?}");
    if !own.join(DATA).is_dir() {
        let aside = temporary(folder);
        let data = aside.join(DATA);
        let make = || -> io::Result<()> {
            fs::create_dir_all(&data)?;
            fs::write(aside.join(ID), id)?;
            if let Some((tree, path)) = content {
                super::fill::copy_folder(tree, path, &data).map_err(io::Error::other)?;
            }
            fs::set_permissions(&data, fs::Permissions::from_mode(mode))?;
            std::os::unix::fs::chown(&data, Some(owner.0), Some(owner.1))?;
            match fs::rename(&aside, &own) {
                // Another build was quicker.
                Err(_) if own.join(DATA).is_dir() => fs::remove_dir_all(&aside),
                outcome => outcome,
            }
        };
        if let Err(error) = make() {
            let _ = fs::remove_dir_all(&aside);
            return Err(failed(step(), error));
        }
    }
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: now,
        last_modification: now,
    };
    rustix::fs::utimensat(CWD, own.join(ID), &times, AtFlags::empty())
        .map_err(|error| failed(step(), error))?;
    Ok(own.join(DATA))
}

pub(super) fn list(folder: &Path) -> Result<Vec<CacheFolder>, BuildFilesError> {
    let read = || -> io::Result<Vec<CacheFolder>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(TEMPORARY) {
                continue;
            }
            match look_at(&entry.path(), name) {
                // It is being removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => all.push(found?),
            }
        }
        Ok(all)
    };
    read().map_err(|error| failed("list the cache mounts", error))
}

fn look_at(folder: &Path, name: String) -> io::Result<CacheFolder> {
    let id = folder.join(ID);
    Ok(CacheFolder {
        name,
        id: fs::read_to_string(&id)?,
        size: crate::files::content_bytes(&folder.join(DATA))?,
        created: fs::metadata(folder)?.mtime(),
        last_used: fs::metadata(&id)?.mtime(),
    })
}

pub(super) fn remove(folder: &Path, name: &str) -> Result<(), BuildFilesError> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(BuildFilesError::Invalid(format!(
            "{name:?} is no name of a cache mount"
        )));
    }
    let aside = temporary(folder);
    let remove = || match fs::rename(folder.join(name), &aside) {
        Ok(()) => fs::remove_dir_all(&aside),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    remove().map_err(|error| failed(format!("remove the cache mount {name}"), error))
}
