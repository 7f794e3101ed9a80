//! Containers: their settings, their life, and the service that runs it.
//!
//! ```text
//!  route --> ContainerService --find--> Container (spec, status, hub) --commands--> supervisor task (one per container)
//!                  |                                                                   |-- Layers::mount, NetworkBackend
//!                  '-- lifecycle::decide (pure)                                        '-- Runtime::start -> Task
//! ```
//!
//! Reading (list, inspect, wait) looks at the status the supervisor publishes and never waits for it; changing goes through
//! its queue, so that a container never does two things at once. Stop and remove are made of small commands, so that a kill
//! gets through while a stop waits.

pub mod attach;
pub mod capabilities;
pub mod commit;
pub mod container;
pub mod create;
pub mod error;
pub mod etc_files;
pub mod files;
pub mod health;
pub mod host;
pub mod lifecycle;
pub mod links;
pub mod list;
pub mod log_drivers;
pub mod logs;
pub mod memberships;
pub mod merge;
pub mod mounts;
pub mod names;
pub mod output;
pub mod plan;
pub mod ports;
mod recover;
mod registry;
pub mod remove;
pub mod resources;
pub mod restart_policy;
pub mod security;
pub mod service;
pub mod signals;
pub mod spec;
pub mod stats;
pub mod status;
pub mod stop;
pub mod store;
mod supervisor;
pub mod testing;
pub mod top;
pub mod update;
pub mod wait;

pub use container::Container;
pub use error::ContainerError;
pub use service::{ContainerService, Dependencies, Settings};

#[cfg(test)]
mod tests;
