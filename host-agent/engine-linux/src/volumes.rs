//! Volumes on disk: `volumes/<name>/{_data, volume.json}` under the data root.
//!
//! A volume appears by one rename and goes by one rename: what a crash leaves is a folder whose name begins with a dot, which
//! no volume's can, and the next start removes it.

mod driver_mount;

use crate::files::{self, VOLUME_DATA, VOLUME_RECORD, VOLUMES};
use crate::quota;
use async_trait::async_trait;
use engine::record;
use engine::volumes::{DriverMount, VolumeRecord, VolumeStore, VolumeStoreError};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Begins the names of folders that are not volumes yet.
const NEW: &str = ".new-";
/// Begins the names of folders that are not volumes any more.
const REMOVED: &str = ".removed-";

/// Volumes under a data root.
#[derive(Debug, Clone)]
pub struct DiskVolumeStore {
    folder: PathBuf,
}

impl DiskVolumeStore {
    /// Uses (and makes) `<data root>/volumes`.
    pub fn open(data_root: &Path) -> Result<DiskVolumeStore, VolumeStoreError> {
        let folder = data_root.join(VOLUMES);
        // Nobody but root may look into volumes: files in there may be setuid programs of containers.
        DirBuilder::new()
            .recursive(true)
            .mode(0o701)
            .create(&folder)
            .map_err(|source| failed(format!("create {}", folder.display()), source))?;
        Ok(DiskVolumeStore { folder })
    }

    /// Runs file system work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        step: String,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, VolumeStoreError> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || work(&folder))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| failed(step, source))
    }
}

fn failed(step: String, source: io::Error) -> VolumeStoreError {
    VolumeStoreError { step, source }
}

#[async_trait]
impl VolumeStore for DiskVolumeStore {
    async fn load(&self) -> Result<Vec<VolumeRecord>, VolumeStoreError> {
        let step = format!("read {}", self.folder.display());
        self.blocking(step, load).await
    }

    async fn create(&self, record: &VolumeRecord) -> Result<(), VolumeStoreError> {
        let record = record.clone();
        let step = format!("create volume {}", record.name);
        self.blocking(step, move |folder| create(folder, &record))
            .await
    }

    async fn remove(&self, name: &str) -> Result<(), VolumeStoreError> {
        let name = name.to_owned();
        let step = format!("remove volume {name}");
        self.blocking(step, move |folder| remove(folder, &name))
            .await
    }

    fn mountpoint(&self, name: &str) -> PathBuf {
        self.folder.join(name).join(VOLUME_DATA)
    }

    async fn mount(&self, name: &str, mount: &DriverMount) -> Result<(), VolumeStoreError> {
        let (data, mount) = (self.mountpoint(name), mount.clone());
        let step = format!("mount volume {name}");
        self.blocking(step, move |_| driver_mount::mount(&mount, &data))
            .await
    }

    async fn unmount(&self, name: &str) -> Result<(), VolumeStoreError> {
        let data = self.mountpoint(name);
        let step = format!("unmount volume {name}");
        self.blocking(step, move |_| crate::mounted::unmount(&data))
            .await
    }

    fn limits_size(&self) -> bool {
        quota::is_supported(&self.folder)
    }

    async fn usage(&self, name: &str) -> Result<u64, VolumeStoreError> {
        let data = self.mountpoint(name);
        let step = format!("measure volume {name}");
        self.blocking(step, move |_| used_bytes(&data)).await
    }
}

fn load(folder: &Path) -> io::Result<Vec<VolumeRecord>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if name.starts_with(NEW) || name.starts_with(REMOVED) {
            if let Err(error) = fs::remove_dir_all(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove what a crash left");
            }
            continue;
        }
        if name.starts_with('.') || !entry.path().join(VOLUME_DATA).is_dir() {
            continue;
        }
        if let Some(record) = load_one(&entry.path(), name) {
            records.push(record);
        }
    }
    Ok(records)
}

/// The record of one volume's folder. Without a readable one the data is still a volume, without labels: data must not
/// vanish because a small file beside it is broken.
fn load_one(path: &Path, name: String) -> Option<VolumeRecord> {
    let file = path.join(VOLUME_RECORD);
    match fs::read(&file) {
        Ok(bytes) => match record::decode::<VolumeRecord>(VolumeRecord::VERSION, &bytes) {
            Ok(record) if record.name == name => return Some(record),
            Ok(record) => {
                tracing::warn!(
                    folder = name,
                    record = record.name,
                    "a volume's record has another name; it was set aside"
                );
            }
            Err(error @ record::RecordError::Newer { .. }) => {
                tracing::error!(volume = name, %error, "this volume is left alone");
                return None;
            }
            Err(error) => {
                tracing::warn!(volume = name, %error, "a volume's record was set aside, its data is kept");
            }
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::error!(volume = name, %error, "a volume's record cannot be read; the volume is left alone");
            return None;
        }
    }
    let aside = path.join(format!("{VOLUME_RECORD}.broken"));
    // Where there was no record this fails, which is right.
    let _ = fs::rename(&file, aside);
    let created = fs::metadata(path)
        .and_then(|facts| facts.modified())
        .map_or(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::from);
    let record = VolumeRecord {
        name,
        labels: Default::default(),
        created,
        options: Default::default(),
    };
    let bytes = record::encode(VolumeRecord::VERSION, &record);
    if let Err(error) = files::write_durably(&file, &bytes, 0o600) {
        tracing::warn!(volume = record.name, %error, "cannot write a volume's record");
    }
    Some(record)
}

fn create(folder: &Path, record: &VolumeRecord) -> io::Result<()> {
    let new = folder.join(format!("{NEW}{}", record.name));
    let target = folder.join(&record.name);
    if target.exists() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!(
                "{} exists and is not a volume this version can read",
                target.display()
            ),
        ));
    }
    // Left by a crash.
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let make = || {
        DirBuilder::new().mode(0o701).create(&new)?;
        DirBuilder::new()
            .mode(0o755)
            .create(new.join(VOLUME_DATA))?;
        if let Some(bytes) = record.size_limit() {
            quota::limit(&[&new.join(VOLUME_DATA)], bytes)?;
        }
        let bytes = record::encode(VolumeRecord::VERSION, record);
        files::write_durably(&new.join(VOLUME_RECORD), &bytes, 0o600)?;
        fs::rename(&new, &target)?;
        files::sync_folder(folder)
    };
    make().inspect_err(|_| {
        let _ = fs::remove_dir_all(&new);
    })
}

fn remove(folder: &Path, name: &str) -> io::Result<()> {
    // What is mounted there is not the volume's to remove.
    crate::mounted::unmount(&folder.join(name).join(VOLUME_DATA))?;
    let removed = folder.join(format!("{REMOVED}{name}"));
    match fs::remove_dir_all(&removed) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match fs::rename(folder.join(name), &removed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result?,
    }
    files::sync_folder(folder)?;
    if quota::is_supported(&removed) {
        // A project without a limit and without files is forgotten by the kernel.
        let _ = quota::forget(&removed.join(VOLUME_DATA));
    }
    // The volume is gone now; what cannot be removed yet is removed at the next start.
    if let Err(error) = fs::remove_dir_all(&removed) {
        tracing::warn!(volume = name, %error, "some files of a removed volume are still there");
    }
    Ok(())
}

/// Bytes of all files below a folder, holes not counted, hard links counted once.
fn used_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut links = std::collections::HashSet::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // Files may go while we count.
            let Ok(facts) = entry.metadata() else {
                continue;
            };
            if facts.is_dir() {
                folders.push(entry.path());
            } else if facts.nlink() == 1 || links.insert((facts.dev(), facts.ino())) {
                bytes += facts.blocks() * 512;
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, DiskVolumeStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = DiskVolumeStore::open(folder.path()).unwrap();
        (folder, store)
    }

    fn record(name: &str) -> VolumeRecord {
        VolumeRecord {
            name: name.into(),
            labels: Default::default(),
            created: OffsetDateTime::UNIX_EPOCH,
            options: Default::default(),
        }
    }

    #[tokio::test]
    async fn the_disk_keeps_the_contract() {
        let (_folder, store) = store();
        engine::volumes::contract::check(&store).await;
    }

    #[tokio::test]
    async fn volumes_are_there_after_a_restart_and_debris_is_not() {
        let (root, store) = store();
        store.create(&record("data")).await.unwrap();
        fs::write(store.mountpoint("data").join("file"), vec![1; 10_000]).unwrap();
        let debris = root.path().join("volumes/.new-half/_data");
        fs::create_dir_all(&debris).unwrap();
        fs::create_dir_all(root.path().join("volumes/.removed-half")).unwrap();
        let again = DiskVolumeStore::open(root.path()).unwrap();
        assert_eq!(again.load().await.unwrap(), [record("data")]);
        assert!(again.usage("data").await.unwrap() >= 10_000);
        assert_eq!(
            fs::read_dir(root.path().join("volumes")).unwrap().count(),
            1
        );
    }

    #[tokio::test]
    async fn a_broken_record_does_not_take_the_data_with_it_and_a_newer_one_is_left_alone() {
        let (root, store) = store();
        for name in ["broken", "newer"] {
            store.create(&record(name)).await.unwrap();
        }
        let file = |name: &str| root.path().join("volumes").join(name).join("volume.json");
        fs::write(file("broken"), "{").unwrap();
        fs::write(file("newer"), "{\"version\":99,\"record\":{}}").unwrap();
        let names: Vec<String> = store
            .load()
            .await
            .unwrap()
            .into_iter()
            .map(|record| record.name)
            .collect();
        assert_eq!(names, ["broken"]);
        assert!(file("broken").with_extension("json.broken").exists());
        let error = store.create(&record("newer")).await.unwrap_err();
        assert!(error.source.to_string().contains("not a volume"), "{error}");
        assert!(fs::read_to_string(file("newer")).unwrap().contains("99"));
    }
}
