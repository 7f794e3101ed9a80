//! Volumes in memory, for tests of services and routes.

use super::{DriverMount, VolumeRecord, VolumeStore, VolumeStoreError};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

/// A store that forgets. Made to fail with [`FakeVolumeStore::fail_next`].
#[derive(Debug, Default)]
pub struct FakeVolumeStore {
    volumes: Mutex<BTreeMap<String, VolumeRecord>>,
    mounted: Mutex<BTreeSet<String>>,
    failure: Mutex<Option<&'static str>>,
}

impl FakeVolumeStore {
    /// The next change fails with this text.
    pub fn fail_next(&self, why: &'static str) {
        *self.failure.lock().expect("not poisoned") = Some(why);
    }

    /// Names of the volumes that are mounted.
    pub fn mounted(&self) -> Vec<String> {
        let mounted = self.mounted.lock().expect("not poisoned");
        mounted.iter().cloned().collect()
    }

    fn fail(&self, step: &str) -> Result<(), VolumeStoreError> {
        match self.failure.lock().expect("not poisoned").take() {
            None => Ok(()),
            Some(why) => Err(VolumeStoreError {
                step: step.into(),
                source: io::Error::other(why),
            }),
        }
    }
}

#[async_trait]
impl VolumeStore for FakeVolumeStore {
    async fn load(&self) -> Result<Vec<VolumeRecord>, VolumeStoreError> {
        let volumes = self.volumes.lock().expect("not poisoned");
        Ok(volumes.values().cloned().collect())
    }

    async fn create(&self, record: &VolumeRecord) -> Result<(), VolumeStoreError> {
        self.fail("create the volume")?;
        let mut volumes = self.volumes.lock().expect("not poisoned");
        volumes.insert(record.name.clone(), record.clone());
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), VolumeStoreError> {
        self.fail("remove the volume")?;
        self.volumes.lock().expect("not poisoned").remove(name);
        Ok(())
    }

    fn mountpoint(&self, name: &str) -> PathBuf {
        PathBuf::from("/volumes").join(name).join("_data")
    }

    async fn mount(&self, name: &str, _: &DriverMount) -> Result<(), VolumeStoreError> {
        self.fail("mount the volume")?;
        let mut mounted = self.mounted.lock().expect("not poisoned");
        mounted.insert(name.to_owned());
        Ok(())
    }

    async fn unmount(&self, name: &str) -> Result<(), VolumeStoreError> {
        self.mounted.lock().expect("not poisoned").remove(name);
        Ok(())
    }

    fn limits_size(&self) -> bool {
        false
    }

    async fn usage(&self, _: &str) -> Result<u64, VolumeStoreError> {
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        super::super::contract::check(&super::FakeVolumeStore::default()).await;
    }
}
