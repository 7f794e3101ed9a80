//! What is kept on disk: machines, certificates, caches. See [`layout`].
//!
//! Readers take no lock: `config.json` is replaced whole. A verb that changes a machine holds that machine's lock; the
//! store's lock is held for moments only, while the authority is made or an address is chosen.

pub mod atomic;
pub mod layout;
pub mod lock;
pub mod names;
pub mod record;
pub mod sparse;

use crate::driver::MachinePlace;
use crate::secrets;
use lock::{Endless, Lock, Patience};
use record::{BERTH_VERSION, CONFIG_VERSION, MachineRecord};
use std::io;
use std::path::{Path, PathBuf};

/// Why the store could not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("there is no home folder to keep machines in")]
    NoHome,
    #[error(
        "invalid machine name {name:?}: it must begin with a letter or a digit, hold only letters, digits, '.' and '-', \
         and have at most 63 characters"
    )]
    InvalidName { name: String },
    #[error("machine \"{name}\" does not exist")]
    NoSuchMachine { name: String },
    #[error("machine \"{name}\" already exists")]
    NameInUse { name: String },
    #[error("{} is in the way: it is not a machine (it has no config.json)", path.display())]
    NotAMachine { path: PathBuf },
    #[error("{} is corrupt, so nothing can be done with machine \"{name}\"", path.display())]
    Corrupt {
        name: String,
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{} was written by another version of this program (version {found}, this one reads {read})", path.display())]
    OtherVersion {
        path: PathBuf,
        found: u32,
        read: u32,
    },
    #[error("interrupted while waiting for another command that works on machine \"{name}\"")]
    Interrupted { name: String },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }

    /// What to try when a file of the store cannot be read or written.
    pub(crate) fn hint_of(source: &io::Error) -> Option<String> {
        match source.kind() {
            io::ErrorKind::PermissionDenied => {
                Some("check who owns the folder, or choose another store with -s".into())
            }
            io::ErrorKind::StorageFull => {
                Some("make room, or choose a store on another disk with -s".into())
            }
            io::ErrorKind::ReadOnlyFilesystem => {
                Some("make it writable, or choose another store with -s".into())
            }
            _ => None,
        }
    }

    /// What to try next.
    pub fn hint(&self) -> Option<String> {
        match self {
            StoreError::Io { source, .. } => StoreError::hint_of(source),
            StoreError::NoHome => {
                Some("set HOME, or choose a store with -s or MACHINE_STORAGE_PATH".into())
            }
            StoreError::NoSuchMachine { name } => Some(format!(
                "`machine ls` lists machines, `machine create {name}` makes this one"
            )),
            StoreError::NameInUse { name } => Some(format!(
                "choose another name, or remove it first: machine rm {name}"
            )),
            StoreError::NotAMachine { .. } => Some("move the folder away".into()),
            StoreError::Corrupt { name, .. } => Some(format!(
                "mend the file or bring it back from a backup; `machine rm -f {name}` gives the machine up and deletes \
                 its folder"
            )),
            StoreError::OtherVersion { .. } => {
                Some("use the version of `machine` that made this machine, or a newer one".into())
            }
            _ => None,
        }
    }
}

/// The folder with everything `machine` knows.
#[derive(Debug, Clone)]
pub struct MachineStore {
    root: PathBuf,
}

impl MachineStore {
    /// `root` should be absolute: drivers and other programs get paths made from it. Makes nothing yet.
    pub fn new(root: PathBuf) -> MachineStore {
        MachineStore { root }
    }

    /// `~/.docker/machine`.
    pub fn default_root() -> Result<PathBuf, StoreError> {
        match std::env::home_dir() {
            Some(home) if !home.as_os_str().is_empty() => Ok(home.join(".docker").join("machine")),
            _ => Err(StoreError::NoHome),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn certs(&self) -> PathBuf {
        self.root.join(layout::CERTS)
    }

    fn machines(&self) -> PathBuf {
        self.root.join(layout::MACHINES)
    }

    /// Where a machine of that name is or would be.
    pub fn place(&self, name: &str) -> Result<MachinePlace, StoreError> {
        if !names::is_valid(name) {
            return Err(StoreError::InvalidName { name: name.into() });
        }
        Ok(MachinePlace {
            name: name.to_owned(),
            folder: self.machines().join(name),
            store: self.root.clone(),
        })
    }

    /// Every machine's name, in natural order. A folder counts when it has a config.json.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        let folder = self.machines();
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::io("read", &folder, source)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| StoreError::io("read", &folder, source))?;
            if let Ok(name) = entry.file_name().into_string()
                && names::is_valid(&name)
                && entry.path().join(layout::CONFIG).exists()
            {
                found.push(name);
            }
        }
        found.sort_by(|a, b| names::natural_order(a, b));
        Ok(found)
    }

    /// Reads one machine's record, its secrets included.
    pub fn load(&self, name: &str) -> Result<MachineRecord, StoreError> {
        let mut record = self.load_without_secrets(name)?;
        let path = self.place(name)?.folder.join(layout::SECRETS);
        match std::fs::read(&path) {
            Ok(json) => {
                let taken =
                    serde_json::from_slice(&json).map_err(|source| StoreError::Corrupt {
                        name: name.into(),
                        path,
                        source,
                    })?;
                secrets::put_back(&mut record.driver, &taken);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::io("read", &path, source)),
        }
        Ok(record)
    }

    /// Reads one machine's config.json as it is, to be shown.
    pub fn load_without_secrets(&self, name: &str) -> Result<MachineRecord, StoreError> {
        let place = self.place(name)?;
        let path = place.folder.join(layout::CONFIG);
        let json = std::fs::read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::NoSuchMachine { name: name.into() },
            _ => StoreError::io("read", &path, source),
        })?;
        let mut record = MachineRecord::from_json(&json).map_err(|source| StoreError::Corrupt {
            name: name.into(),
            path: path.clone(),
            source,
        })?;
        if record.config_version != CONFIG_VERSION {
            return Err(StoreError::OtherVersion {
                path,
                found: record.config_version,
                read: CONFIG_VERSION,
            });
        }
        if let Some(berth) = &record.berth
            && berth.version > BERTH_VERSION
        {
            return Err(StoreError::OtherVersion {
                path,
                found: berth.version,
                read: BERTH_VERSION,
            });
        }
        // The folder's name counts: people rename and copy folders.
        record.name = name.to_owned();
        record.recompute_paths(&place);
        Ok(record)
    }

    /// Writes one machine's config.json, making its folder if need be.
    pub fn save(&self, record: &MachineRecord) -> Result<(), StoreError> {
        let place = self.place(&record.name)?;
        atomic::make_private_folder(&place.folder)
            .map_err(|source| StoreError::io("make", &place.folder, source))?;
        let mut record = record.clone();
        let taken = secrets::take_out(&mut record.driver);
        let path = place.folder.join(layout::SECRETS);
        if !taken.is_empty() {
            // First: a record never refers to what is not there.
            let json = serde_json::to_vec_pretty(&taken).expect("plain data");
            self.write_file(&path, &json)?;
        }
        self.write_file(&place.folder.join(layout::CONFIG), &record.to_json())?;
        if taken.is_empty() && path.exists() {
            std::fs::remove_file(&path)
                .map_err(|source| StoreError::io("remove", &path, source))?;
        }
        Ok(())
    }

    /// Writes any file of the store: whole or not at all, 0600.
    pub fn write_file(&self, path: &Path, contents: &[u8]) -> Result<(), StoreError> {
        atomic::write(path, contents).map_err(|source| StoreError::io("write", path, source))
    }

    /// Whether a folder of that name is there, machine or not.
    pub fn folder_exists(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.place(name)?.folder.exists())
    }

    /// Deletes a folder that a `create` made just before it died: nothing is in it, or only a file being written.
    /// Anything else is somebody's own.
    pub fn clear_unfinished_folder(&self, name: &str) -> Result<(), StoreError> {
        let folder = self.place(name)?.folder;
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(StoreError::io("read", &folder, source)),
        };
        for entry in entries {
            let entry = entry.map_err(|source| StoreError::io("read", &folder, source))?;
            let ours = entry
                .file_name()
                .to_string_lossy()
                .starts_with(layout::TEMPORARY_PREFIX);
            if !ours {
                return Err(StoreError::NotAMachine { path: folder });
            }
        }
        self.delete(name)
    }

    /// Gives a machine's folder another name, which must be free. Both locks are held by the caller.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let (from, to) = (self.place(from)?.folder, self.place(to)?.folder);
        if to.exists() {
            return Err(StoreError::NotAMachine { path: to });
        }
        std::fs::rename(&from, &to)
            .and_then(|()| atomic::sync_folder(&self.machines()))
            .map_err(|source| StoreError::io("rename", &from, source))
    }

    /// Deletes a machine's folder. Succeeds when already gone.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        let folder = self.place(name)?.folder;
        // config.json goes first: whatever happens then, no tool takes the rest for a machine.
        for result in [
            std::fs::remove_file(folder.join(layout::CONFIG)),
            std::fs::remove_dir_all(&folder),
        ] {
            match result {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &folder, source));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The store's own lock.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        atomic::make_private_folder(&self.root)
            .map_err(|source| StoreError::io("make", &self.root, source))?;
        let path = self.root.join(layout::STORE_LOCK);
        loop {
            if let Some(lock) = Lock::take(&path, false, &Endless)? {
                return Ok(lock);
            }
        }
    }

    /// One machine's lock.
    pub fn lock_machine(&self, name: &str, patience: &dyn Patience) -> Result<Lock, StoreError> {
        self.place(name)?;
        let folder = self.machines();
        atomic::make_private_folder(&folder)
            .map_err(|source| StoreError::io("make", &folder, source))?;
        Lock::take(&folder.join(layout::machine_lock(name)), true, patience)?
            .ok_or_else(|| StoreError::Interrupted { name: name.into() })
    }
}

#[cfg(test)]
mod tests;
