//! Containers on disk, and what they need of the host's files and of /proc.

mod copy_up;
mod counters;
mod files;
mod host_files;
mod processes;
mod store;

pub use files::ViewedFiles;
pub use host_files::HostFilesystem;
pub use store::DiskContainerStore;
