//! The machine side's domain: the store, the driver contract and the use cases behind the verbs of `machine`.
//!
//! Read [`driver`] for what a way of making machines offers, [`store`] for what is kept on disk, then one use case,
//! for example [`use_cases::create`]: it shows the order in which all of it is used.

pub mod certificates;
pub mod desktop;
pub mod docker_context;
pub mod driver;
pub mod engine_client;
pub mod engine_settings;
pub mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod remote;
pub mod secrets;
pub mod seed;
pub mod ssh;
pub mod ssh_key;
pub mod store;
pub mod use_cases;

pub use error::MachineError;
pub use store::{MachineStore, StoreError};
pub use use_cases::{Machine, Machines};
