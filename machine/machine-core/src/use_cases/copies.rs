//! Snapshots and clones: copies of a machine's disks.
//!
//! ```text
//! machines/dev/snapshots/NAME/data.raw ...      copies, holes and all
//!                            /snapshot.json     written last: a snapshot without it does not count and is cleared away
//! ```

use super::change::not_stopped;
use super::{Machine, Machines};
use crate::MachineError;
use crate::driver::{DriverState, Progress, Status};
use crate::store::record::{MachineRecord, Stage};
use crate::store::{StoreError, atomic, layout, names, sparse};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub version: u32,
    pub name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub made: OffsetDateTime,
    /// The memory is in it: a restored machine goes on instead of booting.
    pub with_memory: bool,
    /// What the machine was made of then.
    pub driver: DriverState,
}

const SNAPSHOT_VERSION: u32 = 1;

impl Machines {
    /// Copies the disks. A running machine is suspended for the time the copy takes, so that its memory is part of it.
    pub fn create_snapshot(
        &self,
        name: &str,
        snapshot: &str,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        let folder = snapshot_folder(&machine, snapshot)?;
        if folder.join(layout::SNAPSHOT).exists() {
            return Err(MachineError::SnapshotInUse {
                machine: name.to_owned(),
                snapshot: snapshot.to_owned(),
            });
        }
        if machine.driver.disks(&machine.place).is_empty() {
            return Err(machine.unsupported("take snapshots of"));
        }
        let was = machine.status()?;
        match was {
            Status::Running => {
                progress.say(&format!("Suspending \"{name}\" for the copy..."));
                self.suspend_opened(&mut machine, progress)?;
            }
            Status::Stopped | Status::Saved => {}
            other => return Err(not_stopped(&machine, other)),
        }
        let copied = self.copy_disks(&machine, &folder, snapshot, was != Status::Stopped);
        if was == Status::Running {
            progress.say(&format!("Resuming \"{name}\"..."));
            self.start_opened(&mut machine, progress)?;
        }
        copied?;
        progress.say(&format!("Snapshot \"{snapshot}\" of \"{name}\" was made."));
        Ok(())
    }

    fn copy_disks(
        &self,
        machine: &Machine,
        folder: &Path,
        snapshot: &str,
        with_memory: bool,
    ) -> Result<(), MachineError> {
        // What a copy that was cut off left.
        clear(folder)?;
        atomic::make_private_folder(folder)
            .map_err(|source| StoreError::io("make", folder, source))?;
        let copied = copy_all(&disks_of(machine), folder).and_then(|()| {
            let described = Snapshot {
                version: SNAPSHOT_VERSION,
                name: snapshot.to_owned(),
                made: OffsetDateTime::now_utc(),
                with_memory,
                driver: machine.record.driver.clone(),
            };
            let json = serde_json::to_vec_pretty(&described).expect("plain data");
            self.store.write_file(&folder.join(layout::SNAPSHOT), &json)
        });
        if copied.is_err() {
            // The error says why; what is left of the copy would only take room.
            let _ = std::fs::remove_dir_all(folder);
        }
        Ok(copied?)
    }

    /// The machine's snapshots, oldest first.
    pub fn snapshots(&self, name: &str) -> Result<Vec<Snapshot>, MachineError> {
        let place = self.open(name)?.place;
        let folder = place.folder.join(layout::SNAPSHOTS);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(StoreError::io("read", &folder, source).into()),
        };
        let mut found: Vec<Snapshot> = entries
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path().join(layout::SNAPSHOT)).ok())
            .filter_map(|json| serde_json::from_slice(&json).ok())
            .collect();
        found.sort_by_key(|snapshot: &Snapshot| snapshot.made);
        Ok(found)
    }

    /// Puts the machine back to what it was. What it is now is lost.
    pub fn restore_snapshot(
        &self,
        name: &str,
        snapshot: &str,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let (mut machine, _lock) = self.open_locked(name, progress)?;
        let folder = snapshot_folder(&machine, snapshot)?;
        let described = read(&machine, &folder, snapshot)?;
        match machine.status()? {
            Status::Stopped | Status::Saved => {}
            other => return Err(not_stopped(&machine, other)),
        }
        // Copied beside first: neither a full disk nor a cut may cost the machine.
        let fresh = machine
            .place
            .folder
            .join(format!("{}restore", layout::TEMPORARY_PREFIX));
        clear(&fresh)?;
        atomic::make_private_folder(&fresh)
            .map_err(|source| StoreError::io("make", &fresh, source))?;
        let copies = disks_in(&folder)?;
        if let Err(error) = copy_all(&copies, &fresh) {
            let _ = std::fs::remove_dir_all(&fresh);
            return Err(error.into());
        }
        // A memory must never meet another disk than its own: the old one goes before the disk comes, the new one comes after it.
        let disks = machine.driver.disks(&machine.place);
        for old in disks.iter().skip(1).rev() {
            match std::fs::remove_file(old) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", old, source).into());
                }
                _ => {}
            }
        }
        // Address and key stay the machine's own.
        for key in ["CPU", "Memory", "DiskSize", "Accelerator", "Booted"] {
            match described.driver.get(key) {
                Some(value) => machine.record.driver.insert(key.into(), value.clone()),
                None => machine.record.driver.remove(key),
            };
        }
        self.store.save(&machine.record)?;
        for disk in &disks {
            let file = fresh.join(disk.file_name().unwrap_or_default());
            match std::fs::rename(&file, disk) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("rename", &file, source).into());
                }
                _ => {}
            }
        }
        atomic::sync_folder(&machine.place.folder)
            .map_err(|source| StoreError::io("write", &machine.place.folder, source))?;
        clear(&fresh)?;
        progress.say(&format!(
            "Machine \"{name}\" is what it was in \"{snapshot}\"."
        ));
        Ok(())
    }

    pub fn remove_snapshot(
        &self,
        name: &str,
        snapshot: &str,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let (machine, _lock) = self.open_locked(name, progress)?;
        let folder = snapshot_folder(&machine, snapshot)?;
        read(&machine, &folder, snapshot)?;
        Ok(clear(&folder)?)
    }

    /// A second machine with copies of a stopped one's disks, an address, certificates and keys of its own.
    pub fn clone_machine(
        &self,
        from: &str,
        to: &str,
        progress: &dyn Progress,
    ) -> Result<(), MachineError> {
        let new = self.store.place(to)?;
        let (machine, _lock) = self.open_locked(from, progress)?;
        let _new_lock = self.lock(to, progress)?;
        if self.store.folder_exists(to)? {
            return Err(StoreError::NameInUse {
                name: to.to_owned(),
            }
            .into());
        }
        let status = machine.status()?;
        if machine.driver.disks(&machine.place).is_empty() {
            return Err(machine.unsupported("clone"));
        }
        if status != Status::Stopped {
            return Err(not_stopped(&machine, status));
        }
        progress.say(&format!("Copying \"{from}\"..."));
        let record = {
            let _store = self.store.lock()?;
            let state = machine
                .driver
                .plan_copy(&new, &machine.record.driver)
                .map_err(|source| machine.failed("clone", source))?;
            let mut record = MachineRecord::new(&new, machine.driver.name(), state);
            record.host_options = machine.record.host_options.clone();
            if let Some(berth) = &machine.record.berth {
                record.berth_mut().flags.clone_from(&berth.flags);
            }
            record.recompute_paths(&new);
            self.store.save(&record)?;
            record
        };
        let copied = copy_all(&disks_of(&machine), &new.folder);
        if let Err(error) = copied {
            self.store.delete(to)?;
            return Err(error.into());
        }
        let mut record = record;
        record.berth_mut().stage = Stage::Created;
        self.store.save(&record)?;
        progress.say(&format!(
            "Machine \"{to}\" was made; start it: machine start {to}"
        ));
        Ok(())
    }
}

/// The folder of a snapshot; its name follows the rules of machines' names.
fn snapshot_folder(machine: &Machine, snapshot: &str) -> Result<PathBuf, MachineError> {
    if !names::is_valid(snapshot) {
        return Err(StoreError::InvalidName {
            name: snapshot.to_owned(),
        }
        .into());
    }
    Ok(machine.place.folder.join(layout::SNAPSHOTS).join(snapshot))
}

fn read(machine: &Machine, folder: &Path, snapshot: &str) -> Result<Snapshot, MachineError> {
    let missing = || MachineError::NoSuchSnapshot {
        machine: machine.name().to_owned(),
        snapshot: snapshot.to_owned(),
    };
    let path = folder.join(layout::SNAPSHOT);
    let json = std::fs::read(&path).map_err(|_| missing())?;
    let found: Snapshot = serde_json::from_slice(&json).map_err(|source| StoreError::Corrupt {
        name: machine.name().to_owned(),
        path: path.clone(),
        source,
    })?;
    if found.version > SNAPSHOT_VERSION {
        return Err(StoreError::OtherVersion {
            path,
            found: found.version,
            read: SNAPSHOT_VERSION,
        }
        .into());
    }
    Ok(found)
}

/// The files that there are of those that hold what the machine remembers.
fn disks_of(machine: &Machine) -> Vec<PathBuf> {
    let files = machine.driver.disks(&machine.place);
    files.into_iter().filter(|file| file.exists()).collect()
}

/// The copies in a snapshot's folder.
fn disks_in(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries =
        std::fs::read_dir(folder).map_err(|source| StoreError::io("read", folder, source))?;
    Ok(entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name != layout::SNAPSHOT)
        })
        .collect())
}

fn copy_all(files: &[PathBuf], folder: &Path) -> Result<(), StoreError> {
    for file in files {
        let to = folder.join(file.file_name().unwrap_or_default());
        sparse::copy(file, &to).map_err(|source| StoreError::io("copy", file, source))?;
    }
    Ok(())
}

fn clear(folder: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", folder, source))
        }
        _ => Ok(()),
    }
}
