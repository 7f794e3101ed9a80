//! Records in `containers/<id>/container.json` under the data root.

use crate::files::{self, CONTAINER_RECORD, CONTAINERS};
use crate::layers::mount::unmount_below;
use async_trait::async_trait;
use engine::containers::store::{ContainerRecord, ContainerStore, ContainerStoreError, Durability};
use engine::id::ContainerId;
use engine::record::{self, RecordError};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Ends the name of a record that could not be read.
const BROKEN: &str = "broken";

/// Mode of a container's first record, until another replaces it: an empty one was never durable, and nobody was told of its
/// container. Any other that is empty has been torn later.
const FIRST: u32 = 0o400;

/// Containers under a data root.
#[derive(Debug, Clone)]
pub struct DiskContainerStore {
    folder: PathBuf,
}

impl DiskContainerStore {
    /// Uses (and makes) `<data root>/containers`. Removes folders of containers that a crash left without a record: to be
    /// called before anybody else looks at them.
    pub fn open(data_root: &Path) -> Result<DiskContainerStore, ContainerStoreError> {
        let folder = data_root.join(CONTAINERS);
        DirBuilder::new()
            .recursive(true)
            .mode(0o710)
            .create(&folder)
            .map_err(|source| failed(format!("create {}", folder.display()), source))?;
        sweep(&folder).map_err(|source| failed(format!("read {}", folder.display()), source))?;
        Ok(DiskContainerStore { folder })
    }

    /// Runs file system work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        step: String,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ContainerStoreError> {
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || work(&folder))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| failed(step, source))
    }
}

fn failed(step: String, source: io::Error) -> ContainerStoreError {
    ContainerStoreError { step, source }
}

#[async_trait]
impl ContainerStore for DiskContainerStore {
    fn folder(&self, id: &ContainerId) -> PathBuf {
        self.folder.join(id.as_str())
    }

    async fn save(
        &self,
        record: &ContainerRecord,
        durability: Durability,
    ) -> Result<(), ContainerStoreError> {
        let bytes = record::encode(ContainerRecord::VERSION, record);
        let id = record.id.to_string();
        let step = format!("store container {}", record.id.short());
        self.blocking(step, move |folder| save(folder, &id, &bytes, durability))
            .await
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), ContainerStoreError> {
        let step = format!("remove the folder of container {}", id.short());
        let id = id.to_string();
        self.blocking(step, move |folder| remove(&folder.join(id)))
            .await
    }

    async fn load(&self) -> Result<Vec<ContainerRecord>, ContainerStoreError> {
        let step = format!("read {}", self.folder.display());
        self.blocking(step, load).await
    }
}

fn save(folder: &Path, id: &str, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let own = folder.join(id);
    // The folder may be there already: the writable layer is in it, too.
    match DirBuilder::new().mode(0o710).create(&own) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = own.join(CONTAINER_RECORD);
    let fresh = !path.exists();
    match durability {
        Durability::Synced if fresh => {
            files::make_durably(&path, bytes, FIRST)?;
            files::sync_folder(folder)
        }
        Durability::Synced => files::write_durably(&path, bytes, 0o600),
        Durability::Written => files::write_aside(&path, bytes, 0o600).map(drop),
    }
}

fn remove(own: &Path) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    // The record first: a crash in the middle must not bring the container back.
    gone(fs::remove_file(own.join(CONTAINER_RECORD)))?;
    gone(fs::remove_dir_all(own))
}

/// Removes what a crash in a create or a removal left.
fn sweep(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let own = entry?.path();
        let name = own.file_name().and_then(|name| name.to_str());
        let record = own.join(CONTAINER_RECORD);
        if name.and_then(ContainerId::parse).is_none()
            || fs::metadata(&record)
                .is_ok_and(|facts| facts.len() > 0 || facts.mode() & 0o777 != FIRST)
            || record.with_extension(BROKEN).exists()
        {
            continue;
        }
        tracing::info!(folder = %own.display(), "folder without a record is removed");
        // A removal through a mount would reach what is mounted.
        let removed = unmount_below(&own).and_then(|()| fs::remove_dir_all(&own));
        if let Err(error) = removed {
            tracing::warn!(folder = %own.display(), %error, "folder without a record could not be removed");
        }
    }
    Ok(())
}

fn load(folder: &Path) -> io::Result<Vec<ContainerRecord>> {
    let mut records = Vec::new();
    for entry in fs::read_dir(folder)? {
        let own = entry?.path();
        let path = own.join(CONTAINER_RECORD);
        let Some(id) = own
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(ContainerId::parse)
        else {
            continue;
        };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                tracing::error!(container = %id, %error, "record cannot be read; the container is left out");
                continue;
            }
        };
        match record::decode::<ContainerRecord>(ContainerRecord::VERSION, &bytes) {
            Ok(record) if record.id == id => records.push(record),
            Err(error @ RecordError::Newer { .. }) => {
                tracing::error!(container = %id, %error, "container is left alone");
            }
            broken => {
                let why = match broken {
                    Ok(_) => "it is another container's".to_owned(),
                    Err(error) => engine::error::full_message(&error),
                };
                let aside = path.with_extension(BROKEN);
                tracing::error!(container = %id, why, aside = %aside.display(), "record is broken and set aside");
                if let Err(error) = fs::rename(&path, &aside) {
                    tracing::error!(container = %id, %error, "broken record could not be set aside");
                }
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::containers::testing;

    #[tokio::test]
    async fn the_disk_store_keeps_the_contract() {
        let root = tempfile::tempdir().unwrap();
        let store = DiskContainerStore::open(root.path()).unwrap();
        engine::containers::store::contract::check(&store).await;
        assert_eq!(
            fs::read_dir(root.path().join(CONTAINERS)).unwrap().count(),
            0
        );
    }

    #[tokio::test]
    async fn broken_records_are_set_aside_and_newer_ones_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let store = DiskContainerStore::open(root.path()).unwrap();
        let records = [
            testing::record("good"),
            testing::record("broken"),
            testing::record("newer"),
            testing::record("torn"),
            testing::record("never made"),
        ];
        for record in &records {
            store.save(record, Durability::Synced).await.unwrap();
        }
        for record in &records[1..4] {
            store.save(record, Durability::Written).await.unwrap();
        }
        let path = |record: &ContainerRecord| store.folder(&record.id).join(CONTAINER_RECORD);
        fs::write(path(&records[1]), b"{\"version\":1,\"record\":{").unwrap();
        fs::write(path(&records[2]), record::encode(99, &records[2])).unwrap();
        fs::write(path(&records[3]), "").unwrap();
        fs::remove_file(path(&records[4])).unwrap();
        files::write_aside(&path(&records[4]), b"", FIRST).unwrap();
        let unfinished = store.folder(&ContainerId::random());
        fs::create_dir(&unfinished).unwrap();
        for _ in 0..2 {
            let store = DiskContainerStore::open(root.path()).unwrap();
            assert_eq!(store.load().await.unwrap(), [records[0].clone()]);
        }
        assert!(path(&records[1]).with_extension(BROKEN).exists());
        assert!(path(&records[2]).exists());
        assert!(path(&records[3]).with_extension(BROKEN).exists());
        assert!(!store.folder(&records[4].id).exists());
        assert!(!unfinished.exists());
    }

    /// A kill between the mount of a root file system and the record, or between the record's removal and the end of it.
    #[tokio::test]
    async fn a_mount_without_a_record_is_taken_away() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let store = DiskContainerStore::open(root.path()).unwrap();
        let own = store.folder(&ContainerId::random());
        let target = own.join("rw/merged");
        fs::create_dir_all(&target).unwrap();
        let precious = root.path().join("precious");
        fs::create_dir(&precious).unwrap();
        fs::write(precious.join("file"), "kept").unwrap();
        rustix::mount::mount_bind(&precious, &target).unwrap();
        DiskContainerStore::open(root.path()).unwrap();
        assert!(!own.exists());
        assert_eq!(fs::read(precious.join("file")).unwrap(), b"kept");
    }
}
