//! The ways of making machines. The list is written out: to add a driver, add its module and its line in [`all`].

pub mod generic;
mod host;
pub mod none;
pub mod plugin;
pub mod qemu;
mod size;

use machine_core::driver::Driver;
use std::sync::Arc;

/// The driver `machine create` uses when none is named.
pub const DEFAULT_DRIVER: &str = "qemu";

/// Every driver this build has.
pub fn all() -> Vec<Arc<dyn Driver>> {
    vec![
        Arc::new(qemu::QemuDriver::new()),
        Arc::new(generic::GenericDriver),
        Arc::new(none::NoneDriver),
    ]
}

/// A size in MiB: a plain number counts MiB, as docker-machine's flags do, else a number and a unit.
pub fn mebibytes(text: &str) -> Option<u64> {
    size::mebibytes(text)
}
