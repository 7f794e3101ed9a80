//! What containers need of the host besides processes, layers, networks and volumes: files, and what /proc tells.

use async_trait::async_trait;
use std::collections::BTreeMap;
use std::path::Path;

/// Files on the host. The real one is `engine_linux::containers::HostFilesystem`.
#[async_trait]
pub trait HostFiles: Send + Sync + 'static {
    /// Writes small files into an existing folder, without waiting for the disk: they are made anew at every start.
    async fn write_all(
        &self,
        folder: &Path,
        files: Vec<(&'static str, String)>,
    ) -> std::io::Result<()>;

    async fn exists(&self, path: &Path) -> bool;

    /// Makes a folder and its parents.
    async fn make_folder(&self, path: &Path) -> std::io::Result<()>;

    /// Mounts memory for a /dev/shm of so many bytes, for several containers. The folder is made; a mount that is there
    /// already stays.
    async fn mount_shared_memory(&self, path: &Path, bytes: u64) -> std::io::Result<()>;

    /// Undoes [`HostFiles::mount_shared_memory`]. Not being mounted is no error.
    async fn unmount_shared_memory(&self, path: &Path) -> std::io::Result<()>;

    /// Copies what the image has at `target` into the volume if the volume is empty: owner, mode and contents, and
    /// owner and mode of the folder itself. Nothing at `target` is no error.
    async fn copy_up(&self, rootfs: &Path, target: &str, volume: &Path) -> std::io::Result<()>;

    /// Counters of the network interfaces that a process sees, by name, without the loopback; none where it has ended.
    async fn interfaces(&self, pid: u32) -> BTreeMap<String, InterfaceCounters>;

    /// What the host's processors have done so far.
    async fn load(&self) -> std::io::Result<HostLoad>;

    /// What can be told of processes on the host; those that have ended are left out.
    async fn processes(&self, pids: Vec<u32>) -> Vec<ProcessFacts>;
}

/// What went over a network interface since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    pub received_bytes: u64,
    pub received_packets: u64,
    pub received_errors: u64,
    pub received_dropped: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
    pub sent_errors: u64,
    pub sent_dropped: u64,
}

/// The host, as far as shares of it are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostLoad {
    /// Time of all processors together since the host's start, idle time too; nanoseconds.
    pub processor_time: u64,
    pub processors: u32,
    /// Bytes.
    pub memory: u64,
}

/// A process, for `docker top`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    pub pid: u32,
    pub parent: u32,
    /// Name where the host knows one, else the number.
    pub user: String,
    /// Whole percent of a processor over its life.
    pub cpu_percent: u64,
    /// Thousandths of the host's memory.
    pub memory_permille: u64,
    /// `10:32`, or `Nov19` where it did not start today.
    pub start: String,
    /// `?`, `pts/0`.
    pub terminal: String,
    /// Processor time, seconds.
    pub cpu_seconds: u64,
    /// `S`, `R`, ...
    pub state: String,
    /// Kilobytes.
    pub virtual_memory: u64,
    /// Kilobytes.
    pub resident_memory: u64,
    /// Short name.
    pub name: String,
    /// The whole command line.
    pub command: String,
}
