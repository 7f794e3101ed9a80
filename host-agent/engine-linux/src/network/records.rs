//! What is remembered of networks, under `<data-root>/networks`: of the predefined ones `<name>.json`, so that their ids and
//! subnets stay the same, and of the others `<id>.json`.

use super::namespace::failed;
use crate::files::{NETWORKS, sync_folder, write_durably};
use async_trait::async_trait;
use engine::id::NetworkId;
use engine::networks::store::{self, NetworkStore, NetworkStoreError};
use engine::networks::{Network, NetworkError};
use engine::record::{self, RecordError};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub id: NetworkId,
    pub name: String,
    /// `bridge`, `host`, `null`.
    pub driver: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// The gateway's address with the network's prefix.
    pub gateway: Option<Ipv4Net>,
    #[serde(default)]
    pub gateway_ipv6: Option<Ipv6Net>,
}

pub(crate) struct Records {
    directory: PathBuf,
}

impl Records {
    pub(crate) fn open(data_root: &Path) -> Result<Records, NetworkError> {
        let directory = data_root.join(NETWORKS);
        fs::create_dir_all(&directory)
            .map_err(|error| failed(format!("create {}", directory.display()), error))?;
        Ok(Records { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    /// The record of that name. A broken one is set aside; one of a newer version is refused.
    pub(crate) fn read(&self, name: &str) -> Result<Option<NetworkRecord>, NetworkError> {
        let path = self.path(name);
        let step = || format!("read {}", path.display());
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(step(), error)),
        };
        let broken = match record::decode(VERSION, &bytes) {
            Ok(record) => return Ok(Some(record)),
            Err(error @ RecordError::Newer { .. }) => return Err(failed(step(), error)),
            Err(error @ RecordError::Damaged(_)) => error,
        };
        let aside = path.with_extension("json.broken");
        tracing::warn!(path = %path.display(), error = %broken, aside = %aside.display(), "a network's record is broken; set aside");
        fs::rename(&path, &aside).map_err(|error| failed(step(), error))?;
        Ok(None)
    }

    /// Writes a record so that a crash leaves the old one or the new one.
    pub(crate) fn write(&self, record: &NetworkRecord) -> Result<(), NetworkError> {
        let path = self.path(&record.name);
        write_durably(&path, &record::encode(VERSION, record), 0o600)
            .map_err(|error| failed(format!("write {}", path.display()), error))
    }
}

/// The records of networks that somebody has made.
pub struct DiskNetworks {
    directory: PathBuf,
}

impl DiskNetworks {
    pub fn open(data_root: &Path) -> Result<DiskNetworks, NetworkError> {
        let directory = Records::open(data_root)?.directory;
        Ok(DiskNetworks { directory })
    }
}

fn path_of(directory: &Path, id: &NetworkId) -> PathBuf {
    directory.join(format!("{id}.json"))
}

async fn blocking<T: Send + 'static>(
    step: String,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, NetworkStoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| NetworkStoreError { step, source })
}

#[async_trait]
impl NetworkStore for DiskNetworks {
    async fn save(&self, network: &Network) -> Result<(), NetworkStoreError> {
        let path = path_of(&self.directory, &network.id);
        let bytes = record::encode(store::VERSION, network);
        let step = format!("write {}", path.display());
        blocking(step, move || write_durably(&path, &bytes, 0o600)).await
    }

    async fn remove(&self, id: &NetworkId) -> Result<(), NetworkStoreError> {
        let (directory, path) = (self.directory.clone(), path_of(&self.directory, id));
        let step = format!("remove {}", path.display());
        blocking(step, move || match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.and_then(|()| sync_folder(&directory)),
        })
        .await
    }

    async fn load(&self) -> Result<Vec<Network>, NetworkStoreError> {
        let directory = self.directory.clone();
        let step = format!("read {}", directory.display());
        blocking(step, move || load(&directory)).await
    }
}

fn load(directory: &Path) -> io::Result<Vec<Network>> {
    let mut networks = Vec::new();
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        let is_json = path
            .extension()
            .is_some_and(|extension| extension == "json");
        let id = path
            .file_stem()
            .and_then(|stem| NetworkId::parse(stem.to_str()?));
        if id.is_none() || !is_json {
            continue;
        }
        match record::decode(store::VERSION, &fs::read(&path)?) {
            Ok(network) => networks.push(network),
            Err(error @ RecordError::Newer { .. }) => {
                tracing::error!(path = %path.display(), %error, "a network is left alone");
            }
            Err(error @ RecordError::Damaged(_)) => {
                let aside = path.with_extension("json.broken");
                tracing::warn!(path = %path.display(), %error, aside = %aside.display(), "a network's record is broken; set aside");
                fs::rename(&path, &aside)?;
            }
        }
    }
    Ok(networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> NetworkRecord {
        NetworkRecord {
            id: NetworkId::random(),
            name: "bridge".into(),
            driver: "bridge".into(),
            created: OffsetDateTime::UNIX_EPOCH,
            gateway: Some("172.17.0.1/16".parse().unwrap()),
            gateway_ipv6: None,
        }
    }

    #[tokio::test]
    async fn the_disk_keeps_the_contract() {
        let root = tempfile::tempdir().unwrap();
        let networks = DiskNetworks::open(root.path()).unwrap();
        store::contract::check(&networks).await;
        // What is there beside is none of its business, and what it cannot read costs no other.
        let records = Records::open(root.path()).unwrap();
        records.write(&record()).unwrap();
        let network = engine::networks::fake::network("kept");
        networks.save(&network).await.unwrap();
        let broken = path_of(&networks.directory, &NetworkId::random());
        fs::write(&broken, "{\"version\":1,").unwrap();
        assert_eq!(networks.load().await.unwrap(), [network]);
        assert!(!broken.exists());
    }

    #[test]
    fn a_record_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        assert_eq!(records.read("bridge").unwrap(), None);
        let record = record();
        records.write(&record).unwrap();
        assert_eq!(records.read("bridge").unwrap(), Some(record));
    }

    #[test]
    fn a_broken_record_is_set_aside_and_a_newer_one_refused() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        fs::write(records.path("bridge"), b"{\"version\":1,").unwrap();
        assert_eq!(records.read("bridge").unwrap(), None);
        assert!(root.path().join("networks/bridge.json.broken").exists());
        fs::write(records.path("bridge"), b"{\"version\":2,\"record\":{}}").unwrap();
        let error = engine::error::full_message(&records.read("bridge").unwrap_err());
        assert!(error.contains("format 2"), "{error}");
    }
}
