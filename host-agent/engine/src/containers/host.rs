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

    /// Reads a small file; one that has grown large is an error.
    async fn read(&self, path: &Path) -> std::io::Result<String>;

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

    /// What can be told of processes on the host, or of each of their threads; those that have ended are left out.
    async fn processes(&self, pids: Vec<u32>, threads: bool) -> Vec<ProcessFacts>;
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

/// A process or a thread, for `docker top`: see proc(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessFacts {
    pub pid: u32,
    /// The first thread's is the process's.
    pub thread: u32,
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// The group in the foreground of its terminal; -1 without one.
    pub foreground: i64,
    pub threads: u64,
    pub users: Ids,
    pub groups: Ids,
    /// Numbers, with commas.
    pub more_groups: String,
    /// Thousandths of the host's memory.
    pub memory_permille: u64,
    /// `10:32`, or `Nov19` where it did not start today.
    pub start: String,
    /// `Sat Nov 21 15:26:02 2026`.
    pub start_whole: String,
    /// Seconds since the start.
    pub age: u64,
    /// `?`, `pts/0`.
    pub terminal: String,
    /// Processor time, hundredths of a second.
    pub cpu_ticks: u64,
    /// `S`, `R`, ...
    pub state: String,
    pub flags: u64,
    /// The kernel's: 20 is usual.
    pub priority: i64,
    pub nice: i64,
    pub realtime_priority: u64,
    pub policy: u64,
    pub processor: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    /// Kilobytes.
    pub virtual_memory: u64,
    /// Kilobytes.
    pub resident_memory: u64,
    /// Kilobytes.
    pub code_memory: u64,
    /// Kilobytes.
    pub locked_memory: u64,
    /// The kernel's function it sleeps in.
    pub waits_in: String,
    /// Of a security module.
    pub label: String,
    pub control_group: String,
    /// Kinds as in /proc/PID/ns with the numbers of their inodes.
    pub namespaces: Vec<(String, u64)>,
    /// Addresses: of the stack's start, and of what the kernel tells of a process that ends.
    pub stack_start: u64,
    pub stack_pointer: u64,
    pub instruction: u64,
    pub oom_score: i64,
    pub oom_adjustment: i64,
    pub signals: SignalSets,
    /// Short name.
    pub name: String,
    /// The whole command line.
    pub command: String,
    /// Variables, with spaces between.
    pub environment: String,
    /// Path of its file.
    pub program: String,
}

/// Users or groups of a process: numbers, with the name where the host knows one, else the number again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    pub real: (u32, String),
    pub effective: (u32, String),
    pub saved: (u32, String),
    /// As which it is known to file systems.
    pub files: (u32, String),
}

/// Hexadecimal, as the kernel writes them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignalSets {
    pub pending: String,
    pub blocked: String,
    pub ignored: String,
    pub caught: String,
}
