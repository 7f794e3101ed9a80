//! Volumes: named folders that outlive containers.
//!
//! ```text
//! ContainerService --acquire(name)/release--> VolumeService --create/remove--> VolumeStore (volumes/<name>/_data)
//!                  --mount/unmount-->                       --mount/unmount-->
//! ```
//!
//! The service keeps every volume in memory, with the containers that use it; the store is asked only to make and remove.
//! Who uses what is not stored: `ContainerService` tells it again at start, from its own records.
//!
//! A volume with driver options (tmpfs, another folder, NFS) is something mounted over its folder: when the first
//! container with it starts, until the last one ends.

pub mod contract;
pub mod fake;
mod name;
mod options;
mod service;

pub use options::DriverMount;
pub use service::{CreateVolume, Pruned, VolumeService};

use crate::error::{Class, Classify};
use crate::id::ContainerId;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use time::OffsetDateTime;

/// The only driver there is.
pub const LOCAL_DRIVER: &str = "local";
/// Marks volumes whose name nobody chose; the value is empty.
pub const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub created: OffsetDateTime,
    /// The folder containers get.
    pub mountpoint: PathBuf,
    /// The driver's options as given: `type`, `device`, `o`, `size`.
    pub options: BTreeMap<String, String>,
}

impl Volume {
    /// Whether nobody chose its name.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS_LABEL)
    }
}

/// What is stored of a volume; version [`VolumeRecord::VERSION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

impl VolumeRecord {
    pub const VERSION: u32 = 1;

    /// How many bytes the volume may hold, where its maker said so (`-o size=`).
    pub fn size_limit(&self) -> Option<u64> {
        options::size_limit(&self.options)
    }
}

/// Keeps volumes. One suite, [`contract::check`], runs on every implementation.
#[async_trait]
pub trait VolumeStore: Send + Sync + 'static {
    /// Every volume there is. What cannot be read is set aside with a line in the log, never removed.
    async fn load(&self) -> Result<Vec<VolumeRecord>, VolumeStoreError>;

    /// Makes an empty volume, durably and as a whole. The service has made sure the name is free.
    async fn create(&self, record: &VolumeRecord) -> Result<(), VolumeStoreError>;

    /// Removes a volume with its data. Not being there is no error.
    async fn remove(&self, name: &str) -> Result<(), VolumeStoreError>;

    /// Where a volume's data is.
    fn mountpoint(&self, name: &str) -> PathBuf;

    /// Mounts what a volume's options name over its folder. Being mounted already is no error: an engine that was killed
    /// leaves its mounts, and containers use them.
    async fn mount(&self, name: &str, mount: &DriverMount) -> Result<(), VolumeStoreError>;

    /// Undoes [`VolumeStore::mount`]. Not being mounted is no error.
    async fn unmount(&self, name: &str) -> Result<(), VolumeStoreError>;

    /// Whether a volume's size can be limited.
    fn limits_size(&self) -> bool;

    /// Bytes the data takes on the disk.
    async fn usage(&self, name: &str) -> Result<u64, VolumeStoreError>;
}

/// Why the store could not.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct VolumeStoreError {
    /// What was tried and on what, for example `create the folder of volume data`.
    pub step: String,
    #[source]
    pub source: std::io::Error,
}

/// Why something cannot be done with a volume. Docker's texts: the CLI and scripts show and match them.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("get {name}: no such volume")]
    NotFound { name: String },
    #[error("create {name}: {why}")]
    Name { name: String, why: String },
    #[error(
        "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
    )]
    UnknownDriver { name: String, driver: String },
    /// The sentence is Docker's.
    #[error("create {name}: {why}")]
    Option { name: String, why: String },
    #[error("failed to mount local volume: {why}")]
    Mount { why: String },
    #[error("remove {name}: volume is in use - [{}]", ids(users))]
    InUse {
        name: String,
        users: Vec<ContainerId>,
    },
    #[error(transparent)]
    Filter(#[from] engine_api::filters::FilterError),
    #[error(transparent)]
    Store(#[from] VolumeStoreError),
}

fn ids(users: &[ContainerId]) -> String {
    users
        .iter()
        .map(ContainerId::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Classify for VolumeError {
    fn class(&self) -> Class {
        match self {
            VolumeError::NotFound { .. } | VolumeError::UnknownDriver { .. } => Class::NotFound,
            VolumeError::Name { .. } | VolumeError::Option { .. } | VolumeError::Filter(_) => {
                Class::Invalid
            }
            VolumeError::InUse { .. } => Class::Conflict,
            VolumeError::Mount { .. } | VolumeError::Store(_) => Class::Internal,
        }
    }
}
