//! What the engine asks of the host to run processes in containers. The real implementation is
//! `engine_linux::runtime` (one shim process per container); [`crate::runtime::fake`] is the one tests use.
//!
//! ```text
//! ContainerService --LaunchPlan--> Runtime::start --> Task (a running container)
//!                                                      |-- io: output in, stdin out     |-- exec --> ExecTask
//!                                                      |-- signal, resize, pause, ...   '-- wait --> ExitStatus
//! ```
//!
//! A plan is complete: every default is already applied, every policy decided. The runtime adds nothing but what only
//! the host can know (user names looked up in the container's files, devices that exist).

pub mod contract;
pub mod fake;
mod rlimit;
pub mod stats;

pub use rlimit::Rlimit;

use crate::error::{Class, Classify};
use crate::id::{ContainerId, ExecId};
use crate::images::LayerFolders;
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
pub use stats::Stats;
use std::collections::BTreeMap;
use std::path::PathBuf;
use time::OffsetDateTime;
use tokio::sync::mpsc;

/// Everything needed to start a container's first process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaunchPlan {
    pub id: ContainerId,
    /// The mounted root file system ([`crate::images::Layers::mount`]).
    pub rootfs: PathBuf,
    pub read_only_root: bool,
    pub process: ProcessPlan,
    pub hostname: String,
    pub domain_name: String,
    /// In order: parents before children.
    pub mounts: Vec<MountPlan>,
    pub namespaces: NamespacePlan,
    pub resources: ResourcePlan,
    pub devices: Vec<DevicePlan>,
    /// Device cgroup rules in the OCI form, applied after the default ones, for example `c 10:200 rwm`.
    pub device_rules: Vec<String>,
    /// Every device may be used (privileged).
    pub all_devices: bool,
    pub sysctls: BTreeMap<String, String>,
    pub masked_paths: Vec<String>,
    pub read_only_paths: Vec<String>,
    /// cgroup path relative to the hierarchy's root, for example `/berth/<id>`.
    pub cgroup: String,
    /// Volume of `/dev/shm` in bytes; `None` where the IPC namespace is not the container's own.
    pub shm_size: Option<u64>,
    /// A small init of ours reaps orphans and forwards signals (`docker run --init`).
    pub init: bool,
    pub log: LogPlan,
    /// Name of a configured OCI runtime program; `None` is the built-in one.
    pub runtime: Option<String>,
    /// What the command line of that program begins with.
    #[serde(default)]
    pub runtime_arguments: Vec<String>,
    /// Where the container's own folder is (`containers/<id>`): the shim stores the exit status there.
    pub folder: PathBuf,
    pub annotations: BTreeMap<String, String>,
}

/// One process, the first or an exec'ed one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Program and arguments; never empty.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_directory: String,
    /// Docker's `User`: empty, `name`, `uid`, `name:group`, `uid:gid` ...; looked up in the container's own
    /// /etc/passwd and /etc/group by the runtime.
    pub user: String,
    /// `--group-add`: names or numbers.
    pub additional_groups: Vec<String>,
    pub tty: bool,
    pub tty_size: Option<TtySize>,
    /// Standard input stays open and can be written.
    pub open_stdin: bool,
    /// Names as `CAP_CHOWN`.
    pub capabilities: Vec<String>,
    pub no_new_privileges: bool,
    pub rlimits: Vec<Rlimit>,
    pub oom_score_adj: Option<i32>,
    pub seccomp: Seccomp,
    pub apparmor: AppArmor,
}

/// Which system calls are allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// Docker's default profile, conditioned on the process's capabilities.
    Default,
    Unconfined,
    /// A profile in Docker's JSON form.
    Profile(String),
}

/// By which AppArmor profile a process is confined, on a host that has AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppArmor {
    /// The engine's own.
    Default,
    Unconfined,
    /// One that the administrator has loaded.
    Profile(String),
}

/// Rows and columns of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtySize {
    pub rows: u16,
    pub columns: u16,
}

/// One mount inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPlan {
    /// Absolute path in the container; the runtime makes a missing target.
    pub target: String,
    pub source: MountSource,
    pub read_only: bool,
    /// With `read_only`: what is mounted below a bind stays writable.
    #[serde(default)]
    pub submounts_writable: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path on the host (volumes too). Propagation is `rprivate`, `private`, `rshared`, `shared`, `rslave`, `slave`.
    Bind {
        path: PathBuf,
        /// Only this part of it; links in it lead nowhere outside of `path`. Empty is all of it.
        #[serde(default)]
        subpath: String,
        recursive: bool,
        propagation: String,
    },
    /// An image's files.
    Image {
        layers: LayerFolders,
        /// Only this part; links in it lead nowhere outside of the image. Empty is all of it.
        subpath: String,
    },
    /// tmpfs with mount options such as `size=65536k` or `mode=1777`.
    Tmpfs { options: Vec<String> },
}

/// Which namespaces are the container's own and which it shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacePlan {
    pub network: NetworkNamespace,
    pub pid: SharedNamespace,
    pub ipc: SharedNamespace,
    pub uts: SharedNamespace,
    pub cgroup: SharedNamespace,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SharedNamespace {
    /// A new one of the container's own.
    Own,
    Host,
    /// The namespace of a process on the host, by its pid (another container's first process).
    OfProcess(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkNamespace {
    Host,
    /// A namespace made ready by the network backend: a path to a bound namespace file.
    At(PathBuf),
}

/// cgroup limits; `None` leaves the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourcePlan {
    /// Bytes.
    pub memory: Option<i64>,
    /// Memory and swap together, bytes; -1 is without limit.
    pub memory_swap: Option<i64>,
    /// Bytes.
    pub memory_reservation: Option<i64>,
    /// 0 to 100.
    pub memory_swappiness: Option<u64>,
    pub oom_kill_disable: Option<bool>,
    /// cgroup v1's scale (2 to 262144, 1024 is the default); converted on v2.
    pub cpu_shares: Option<u64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds in each period; -1 is without limit.
    pub cpu_quota: Option<i64>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// -1 is without limit.
    pub pids: Option<i64>,
    /// 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// (device path on the host, weight 10 to 1000)
    pub blkio_weight_devices: Vec<(String, u16)>,
    /// (device path on the host, bytes or operations a second)
    pub blkio_read_bps: Vec<(String, u64)>,
    pub blkio_write_bps: Vec<(String, u64)>,
    pub blkio_read_iops: Vec<(String, u64)>,
    pub blkio_write_iops: Vec<(String, u64)>,
}

/// A device node of the host made in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    pub path_on_host: PathBuf,
    pub path_in_container: PathBuf,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

/// Where a container's output is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogPlan {
    None,
    /// Docker's json-file format, written by the shim itself.
    JsonFile {
        path: PathBuf,
        /// Rotate when the file is larger, bytes.
        max_size: Option<u64>,
        /// Files kept in all, at least 1.
        max_files: u32,
        compress: bool,
        /// `attrs` of every line.
        attributes: BTreeMap<String, String>,
        /// The container does not wait for its log: so many bytes of lines may wait to be written, more are dropped.
        #[serde(default)]
        buffer: Option<u64>,
    },
}

/// A process started in a running container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecPlan {
    pub id: ExecId,
    pub process: ProcessPlan,
    /// Devices and masks are not changed, but all capabilities are given and seccomp is off.
    pub privileged: bool,
}

/// Which stream a piece of output came from. A terminal has only `Stdout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StreamKind {
    Stdout,
    Stderr,
}

/// The live standard streams of a process, as seen by this engine process. Output arrives in order and without loss
/// while the receiver reads (the shim waits for it: back-pressure reaches the container, as with Docker).
#[derive(Debug)]
pub struct ProcessIo {
    /// Closed channel: standard input is closed. `None`: the process has none.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    /// Ends when every writer of the process's output is gone.
    pub output: mpsc::Receiver<(StreamKind, Bytes)>,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// 0 to 255; 128 + signal where a signal ended it.
    pub code: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    pub oom_killed: bool,
}

/// What [`Runtime::recover`] found.
pub enum Recovered {
    /// It runs; its shim answered.
    Running(Box<dyn Task>, ProcessIo),
    /// It ended while no engine was there.
    Exited(ExitStatus),
    /// No shim and no exit status: the host went down with it.
    Lost,
}

/// Runs containers.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Starts a container; returns once its program runs (exec has succeeded) or could not. After an error nothing
    /// of the attempt is left but the rootfs mount, which is the caller's.
    async fn start(&self, plan: LaunchPlan) -> Result<(Box<dyn Task>, ProcessIo), RuntimeError>;

    /// Looks for a container that an earlier engine process started. `folder` is its own folder.
    async fn recover(
        &self,
        id: &ContainerId,
        folder: &std::path::Path,
    ) -> Result<Recovered, RuntimeError>;

    /// Removes what is left of a container that has ended: cgroup, sockets, run-time folder. Idempotent.
    async fn cleanup(&self, id: &ContainerId) -> Result<(), RuntimeError>;

    /// What this host lacks, for `/info`'s warnings; also told where an option cannot be honoured.
    fn facts(&self) -> RuntimeFacts;

    /// Whether the scheduler of a block device (by its path on the host) shares out its time by weight. What cannot be
    /// told counts as yes: the start says what is wrong with it.
    fn has_weights(&self, device: &str) -> bool;
}

/// What a host's kernel offers to containers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Runtime name -> path of the program; the built-in one is listed under its name with the agent's own path.
    pub runtimes: BTreeMap<String, String>,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub cpu_cfs: bool,
    pub cpu_shares: bool,
    pub cpuset: bool,
    /// The processors that are there, as the kernel lists them (`0-3`); empty where that is not known.
    pub cpus: String,
    pub pids_limit: bool,
    /// Shares of a block device's time.
    pub blkio_weight: bool,
    /// Bytes and operations of a block device per second.
    pub blkio_throttle: bool,
    pub oom_kill_disable: bool,
    pub seccomp: bool,
    pub apparmor: bool,
    /// Sentences for people, one a line of `docker info`'s warnings.
    pub warnings: Vec<String>,
}

/// A running container.
#[async_trait]
pub trait Task: Send + Sync {
    /// Process id of the first process on the host.
    fn pid(&self) -> u32;

    fn started_at(&self) -> OffsetDateTime;

    /// Starts one more process; returns once its program runs or could not be started.
    async fn exec(&self, plan: ExecPlan) -> Result<(Box<dyn ExecTask>, ProcessIo), RuntimeError>;

    /// Sends a signal to the first process.
    async fn signal(&self, signal: i32) -> Result<(), RuntimeError>;

    /// Sets the size of the first process's terminal.
    async fn resize(&self, size: TtySize) -> Result<(), RuntimeError>;

    async fn pause(&self) -> Result<(), RuntimeError>;

    async fn resume(&self) -> Result<(), RuntimeError>;

    /// Applies new limits; fields that are `None` stay.
    async fn update(&self, resources: ResourcePlan) -> Result<(), RuntimeError>;

    /// Reads the counters of the container's control group.
    async fn stats(&self) -> Result<Stats, RuntimeError>;

    /// Host process ids of every process in the container.
    async fn processes(&self) -> Result<Vec<u32>, RuntimeError>;

    /// Resolves when the kernel has killed for want of memory more often than `known` times since this engine process
    /// has the task; returns how often. The first process may go on; where it ended so, its status says it, too.
    async fn out_of_memory(&self, known: u64) -> u64;

    /// Resolves when the first process has ended and its status is stored durably. May be called many times.
    async fn wait(&self) -> ExitStatus;
}

/// A process started with exec.
#[async_trait]
pub trait ExecTask: Send + Sync {
    /// Process id on the host.
    fn pid(&self) -> u32;

    async fn resize(&self, size: TtySize) -> Result<(), RuntimeError>;

    async fn signal(&self, signal: i32) -> Result<(), RuntimeError>;

    /// Resolves when the process has ended.
    async fn wait(&self) -> ExitStatus;
}

/// Why the runtime could not.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The program is not there: exit code 127, Docker's text.
    #[error("exec: \"{program}\": executable file not found in $PATH")]
    ProgramNotFound { program: String },
    /// The program is there and cannot be executed: exit code 126.
    #[error("exec: \"{program}\": {reason}")]
    ProgramNotExecutable { program: String, reason: String },
    /// The working directory is not there or no directory, Docker's text.
    #[error("chdir to cwd ({path:?}) set in config.json failed: {reason}")]
    WorkingDirectory { path: String, reason: String },
    #[error("unable to find user {user}: no matching entries in passwd file")]
    UnknownUser { user: String },
    #[error("unable to find group {group}: no matching entries in group file")]
    UnknownGroup { group: String },
    #[error("uids and gids must be in range 0-2147483647")]
    IdOutOfRange,
    #[error("{what} is not supported on this host: {why}")]
    Unsupported { what: String, why: String },
    #[error("invalid {what}: {why}")]
    Invalid { what: String, why: String },
    /// The process or container is not running any more.
    #[error("process is not running")]
    NotRunning,
    #[error("{step}")]
    Failed {
        /// What was tried, for example `start the shim of 0123456789ab`.
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RuntimeError {
    /// Joins what was tried with why it failed.
    pub fn failed(
        step: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> RuntimeError {
        RuntimeError::Failed {
            step: step.into(),
            source: source.into(),
        }
    }

    /// The exit code Docker gives a container whose program could not be started.
    pub fn exit_code(&self) -> i32 {
        match self {
            RuntimeError::ProgramNotFound { .. } => 127,
            // Docker looks for the same words: a path that is not there is "not found" as well.
            RuntimeError::ProgramNotExecutable { reason, .. }
            | RuntimeError::WorkingDirectory { reason, .. }
                if reason.contains("no such file or directory") =>
            {
                127
            }
            RuntimeError::ProgramNotExecutable { .. } | RuntimeError::WorkingDirectory { .. } => {
                126
            }
            _ => 128,
        }
    }
}

impl Classify for RuntimeError {
    fn class(&self) -> Class {
        match self {
            RuntimeError::ProgramNotFound { .. }
            | RuntimeError::ProgramNotExecutable { .. }
            | RuntimeError::WorkingDirectory { .. }
            | RuntimeError::UnknownUser { .. }
            | RuntimeError::UnknownGroup { .. }
            | RuntimeError::IdOutOfRange
            | RuntimeError::Unsupported { .. }
            | RuntimeError::Invalid { .. } => Class::Invalid,
            RuntimeError::NotRunning => Class::Conflict,
            RuntimeError::Failed { .. } => Class::Internal,
        }
    }
}
