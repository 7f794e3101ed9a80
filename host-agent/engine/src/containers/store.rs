//! Where containers are remembered: `containers/<id>/container.json`.

use super::health::Health;
use super::lifecycle::ContainerState;
use super::memberships::{self, Memberships};
use super::spec::ContainerSpec;
use super::status::Status;
use crate::id::ContainerId;
use crate::networks::Attached;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use time::OffsetDateTime;

/// What is stored of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    pub name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    pub spec: ContainerSpec,
    pub state: ContainerState,
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
    pub exit_code: i32,
    pub error: String,
    pub oom_killed: bool,
    pub restart_count: u32,
    pub stopped_by_hand: bool,
    /// Of a commit that has not ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused_for_commit: bool,
    pub network: Option<Attached>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// `None` in records of the first version of the agent: the network of the mode.
    #[serde(default)]
    pub memberships: Option<Memberships>,
}

impl ContainerRecord {
    /// Newest version of the envelope that this build writes and reads.
    pub const VERSION: u32 = 1;

    /// The changing part.
    pub fn status(&self) -> Status {
        Status {
            state: self.state.clone(),
            started_at: self.started_at,
            finished_at: self.finished_at,
            exit_code: self.exit_code,
            error: self.error.clone(),
            oom_killed: self.oom_killed,
            restart_count: self.restart_count,
            stopped_by_hand: self.stopped_by_hand,
            paused_for_commit: self.paused_for_commit,
            network: self.network.clone().map(std::sync::Arc::new),
            health: self.health.clone().map(std::sync::Arc::new),
            memberships: std::sync::Arc::new(match &self.memberships {
                Some(memberships) => memberships.clone(),
                None => memberships::of_mode(&self.spec),
            }),
            ..Status::default()
        }
    }
}

/// What a write has to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the host: synced.
    Synced,
    /// A crash of this process: written and renamed, not synced.
    Written,
}

/// Keeps records and the folders of containers.
#[async_trait]
pub trait ContainerStore: Send + Sync + 'static {
    /// The container's own folder.
    fn folder(&self, id: &ContainerId) -> PathBuf;

    /// Writes a record, making the container's folder if it is not there.
    async fn save(
        &self,
        record: &ContainerRecord,
        durability: Durability,
    ) -> Result<(), ContainerStoreError>;

    /// Removes the record and the folder with all there is in it. Not being there is no error.
    async fn remove(&self, id: &ContainerId) -> Result<(), ContainerStoreError>;

    /// Every readable record. A broken one is set aside and one of a newer version left alone, each with a log line.
    async fn load(&self) -> Result<Vec<ContainerRecord>, ContainerStoreError>;
}

/// What could not be stored, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct ContainerStoreError {
    pub step: String,
    #[source]
    pub source: std::io::Error,
}

impl From<ContainerStoreError> for super::ContainerError {
    fn from(error: ContainerStoreError) -> Self {
        super::ContainerError::Storage {
            step: error.step,
            source: error.source.into(),
        }
    }
}

/// What every implementation must keep to.
pub mod contract {
    use super::{ContainerRecord, ContainerStore, Durability};
    use crate::containers::testing;

    /// Runs the checks on an empty store.
    pub async fn check(store: &dyn ContainerStore) {
        assert!(store.load().await.expect("an empty store loads").is_empty());
        let first: ContainerRecord = testing::record("first");
        let mut second = testing::record("second");
        store.save(&first, Durability::Synced).await.expect("save");
        store
            .save(&second, Durability::Written)
            .await
            .expect("save");
        second.name = "renamed".into();
        store
            .save(&second, Durability::Synced)
            .await
            .expect("a second save replaces");
        assert_ne!(store.folder(&first.id), store.folder(&second.id));
        let mut loaded = store.load().await.expect("load");
        loaded.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(loaded, [first.clone(), second.clone()]);
        store.remove(&first.id).await.expect("remove");
        store
            .remove(&first.id)
            .await
            .expect("removing what is gone is no error");
        assert_eq!(store.load().await.expect("load"), [second.clone()]);
        store.remove(&second.id).await.expect("remove");
    }
}
