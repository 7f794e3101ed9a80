//! The traits of `engine` made real on Linux. The only crate with `unsafe`.

mod apparmor;
pub mod archive;
pub mod blobs;
pub mod builds;
pub mod cgroup;
pub mod containers;
pub mod download;
pub mod files;
pub mod host;
pub mod layers;
pub mod logs;
mod mounted;
pub mod network;
pub mod pty;
mod quota;
pub mod registry;
pub mod runtime;
pub mod shim;
pub mod volumes;
