//! The changing part of a container, as everybody sees it.

use super::health::Health;
use super::lifecycle::ContainerState;
use super::memberships::Memberships;
use super::spec::ContainerSpec;
use crate::networks::Attached;
use std::sync::Arc;
use time::OffsetDateTime;

/// Published by the container's supervisor, the only one that changes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    pub state: ContainerState,
    pub started_at: Option<OffsetDateTime>,
    pub finished_at: Option<OffsetDateTime>,
    /// Of the last run (or failed start).
    pub exit_code: i32,
    /// Why the last start failed.
    pub error: String,
    pub oom_killed: bool,
    pub restart_count: u32,
    /// Somebody asked for its end: the restart policy keeps quiet.
    pub stopped_by_hand: bool,
    /// A commit has paused it, or is about to; nobody else has.
    pub paused_for_commit: bool,
    /// While it runs.
    pub network: Option<Arc<Attached>>,
    /// `None` where there is no health check, or no run yet.
    pub health: Option<Arc<Health>>,
    /// The settings once `docker update` has changed them.
    pub updated: Option<Arc<ContainerSpec>>,
    /// The networks it is in, or will be.
    pub memberships: Arc<Memberships>,
    /// Runs that have ended since this engine process knows the container.
    pub exits: u64,
    /// It is gone.
    pub removed: bool,
}

impl Default for Status {
    fn default() -> Self {
        Status {
            state: ContainerState::Created,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            restart_count: 0,
            stopped_by_hand: false,
            paused_for_commit: false,
            network: None,
            health: None,
            updated: None,
            memberships: Arc::default(),
            exits: 0,
            removed: false,
        }
    }
}
