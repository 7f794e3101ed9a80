//! What the kernel has counted for a container: the part of `docker stats` that comes from its control group.

use std::collections::BTreeMap;
use time::OffsetDateTime;

/// One reading of a container's control group. Counters only grow while the container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    pub at: OffsetDateTime,
    /// 1 or 2: what the keys of [`MemoryStats::stat`] mean, and which of Docker's two forms is shown.
    pub cgroup_version: u8,
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidStats,
    pub blkio: BlkioStats,
}

/// All times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    pub total: u64,
    pub user: u64,
    pub kernel: u64,
    /// One for each processor; empty on cgroup v2, which does not count them apart.
    pub per_cpu: Vec<u64>,
    /// Periods with a quota, and those in which the quota was used up.
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
}

/// Bytes, except for `fail_count`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub usage: u64,
    /// v1 only.
    pub max_usage: Option<u64>,
    /// How often the limit was hit; v1 only.
    pub fail_count: Option<u64>,
    /// `None` is without limit.
    pub limit: Option<u64>,
    /// `memory.stat` as it is: `total_rss` and `total_inactive_file` on v1, `anon` and `inactive_file` on v2 ...
    pub stat: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidStats {
    pub current: u64,
    /// `None` is without limit.
    pub limit: Option<u64>,
}

/// The tables of block devices; those a host does not keep are empty. v2 has only `service_bytes` and `serviced`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlkioStats {
    pub service_bytes: Vec<BlkioEntry>,
    pub serviced: Vec<BlkioEntry>,
    pub queued: Vec<BlkioEntry>,
    pub service_time: Vec<BlkioEntry>,
    pub wait_time: Vec<BlkioEntry>,
    pub merged: Vec<BlkioEntry>,
    pub time: Vec<BlkioEntry>,
    pub sectors: Vec<BlkioEntry>,
}

/// One line of such a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlkioEntry {
    pub major: u64,
    pub minor: u64,
    /// `Read`, `Write`, `Sync`, `Async`, `Discard`, `Total` as v1 writes them (`read` and `write` on v2); may be empty.
    pub operation: String,
    pub value: u64,
}
