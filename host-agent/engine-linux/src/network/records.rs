//! What is remembered of networks: `<data-root>/networks/<name>.json`, so that their ids and subnets stay the same.

use super::namespace::failed;
use crate::files::{NETWORKS, write_durably};
use engine::id::NetworkId;
use engine::networks::NetworkError;
use engine::record::{self, RecordError};
use ipnet::Ipv4Net;
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
        }
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
