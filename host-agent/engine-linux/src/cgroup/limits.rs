//! Limits as the kernel's files want them. The rules of conversion between the versions are runc's (its `fs` and `fs2`
//! packages), so that a number of Docker's API means the same on both.

use super::{Cgroup, Version, write};
use engine::runtime::ResourcePlan;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Why a limit is not in force.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error("this host's control groups have no {file}")]
    NoFile { file: String },
    #[error("block device {path}")]
    Device {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("write {value:?} to {file}")]
    Write {
        file: String,
        value: String,
        #[source]
        source: io::Error,
    },
    #[error("unable to set memory limit to {limit} (current usage: {usage}, peak usage: {peak})")]
    InUse {
        limit: i64,
        usage: String,
        peak: String,
    },
}

impl Cgroup {
    /// Sets every limit the plan has; the others stay.
    pub fn limit(&self, plan: &ResourcePlan) -> Result<(), LimitError> {
        match self.version() {
            Version::V1 => self.limit_v1(plan),
            Version::V2 => self.limit_v2(plan),
        }
    }

    fn limit_v1(&self, plan: &ResourcePlan) -> Result<(), LimitError> {
        self.limit_memory_v1(plan.memory, plan.memory_swap)?;
        if let Some(bytes) = plan.memory_reservation {
            self.set("memory", "memory.soft_limit_in_bytes", bytes)?;
        }
        if let Some(swappiness) = plan.memory_swappiness {
            self.set("memory", "memory.swappiness", swappiness)?;
        }
        if let Some(disable) = plan.oom_kill_disable {
            self.set("memory", "memory.oom_control", i32::from(disable))?;
        }
        if let Some(shares) = plan.cpu_shares {
            self.set("cpu", "cpu.shares", shares)?;
        }
        self.limit_cpu_v1(plan.cpu_period, plan.cpu_quota)?;
        self.limit_what_both_call_alike(plan)?;
        // The name depends on the scheduler the kernel has.
        let either = |names: [&'static str; 2]| {
            let folder = self.folder("blkio").unwrap_or_default();
            let there = names.iter().find(|name| folder.join(name).exists());
            *there.unwrap_or(&names[0])
        };
        if let Some(weight) = plan.blkio_weight {
            let file = either(["blkio.weight", "blkio.bfq.weight"]);
            self.set("blkio", file, weight)?;
        }
        for (path, weight) in &plan.blkio_weight_devices {
            let file = either(["blkio.weight_device", "blkio.bfq.weight_device"]);
            self.set("blkio", file, format!("{} {weight}", device(path)?))?;
        }
        for (list, file) in [
            (&plan.blkio_read_bps, "blkio.throttle.read_bps_device"),
            (&plan.blkio_write_bps, "blkio.throttle.write_bps_device"),
            (&plan.blkio_read_iops, "blkio.throttle.read_iops_device"),
            (&plan.blkio_write_iops, "blkio.throttle.write_iops_device"),
        ] {
            for (path, rate) in list {
                self.set("blkio", file, format!("{} {rate}", device(path)?))?;
            }
        }
        Ok(())
    }

    /// The limit of memory may never be above that of memory and swap together: the order depends on what is set now.
    fn limit_memory_v1(&self, memory: Option<i64>, swap: Option<i64>) -> Result<(), LimitError> {
        const MEMORY: &str = "memory.limit_in_bytes";
        const BOTH: &str = "memory.memsw.limit_in_bytes";
        // Memory without limit asks for swap without limit, unless the kernel does not count swap.
        let swap = match (memory, swap) {
            (Some(-1), None) if self.has("memory", BOTH) => Some(-1),
            // Docker's way of saying "as it was".
            (_, Some(0)) => None,
            (_, swap) => swap,
        };
        let memory = memory.filter(|memory| *memory != 0);
        let memory_first = |limit: i64| -> Result<(), LimitError> {
            match self.set("memory", MEMORY, limit) {
                Err(LimitError::Write { source, .. })
                    if source.raw_os_error() == Some(libc::EBUSY) =>
                {
                    let read = |file| self.read("memory", file).unwrap_or_default();
                    Err(LimitError::InUse {
                        limit,
                        usage: read("memory.usage_in_bytes"),
                        peak: read("memory.max_usage_in_bytes"),
                    })
                }
                result => result,
            }
        };
        match (memory, swap) {
            (Some(memory), Some(swap)) => {
                let now = self
                    .read("memory", MEMORY)
                    .and_then(|text| text.parse().ok());
                if swap == -1 || now.is_some_and(|now: i64| now < swap) {
                    // Without swap accounting "no limit" is what there is.
                    if swap != -1 || self.has("memory", BOTH) {
                        self.set("memory", BOTH, swap)?;
                    }
                    memory_first(memory)
                } else {
                    memory_first(memory)?;
                    self.set("memory", BOTH, swap)
                }
            }
            (Some(memory), None) => memory_first(memory),
            (None, Some(swap)) => self.set("memory", BOTH, swap),
            (None, None) => Ok(()),
        }
    }

    fn limit_cpu_v1(&self, period: Option<u64>, quota: Option<i64>) -> Result<(), LimitError> {
        let set_period = |period| self.set("cpu", "cpu.cfs_period_us", period);
        let mut again = None;
        if let Some(period) = period {
            match set_period(period) {
                // Too much with the quota that is there, perhaps not with the one that comes.
                Err(LimitError::Write { source, .. })
                    if quota.is_some() && source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    again = Some(period);
                }
                result => result?,
            }
        }
        if let Some(quota) = quota {
            self.set("cpu", "cpu.cfs_quota_us", quota)?;
        }
        again.map_or(Ok(()), set_period)
    }

    fn limit_v2(&self, plan: &ResourcePlan) -> Result<(), LimitError> {
        let bytes = |bytes: i64| match bytes {
            -1 => "max".to_owned(),
            bytes => bytes.to_string(),
        };
        let memory = plan.memory.filter(|memory| *memory != 0);
        if let Some(swap) = plan.memory_swap.filter(|swap| *swap != 0) {
            // Docker's number is memory and swap together.
            let limit = memory.or_else(|| self.read("memory", "memory.max")?.parse().ok());
            let alone = match (swap, limit) {
                (-1, _) | (_, None | Some(-1)) => -1,
                (swap, Some(memory)) => swap - memory,
            };
            self.set("memory", "memory.swap.max", bytes(alone))?;
        } else if memory == Some(-1) && self.has("memory", "memory.swap.max") {
            self.set("memory", "memory.swap.max", "max")?;
        }
        if let Some(memory) = memory {
            self.set("memory", "memory.max", bytes(memory))?;
        }
        if let Some(reservation) = plan.memory_reservation.filter(|one| *one != 0) {
            self.set("memory", "memory.low", bytes(reservation))?;
        }
        if let Some(shares) = plan.cpu_shares.filter(|shares| *shares != 0) {
            self.set("cpu", "cpu.weight", weight_of_shares(shares))?;
        }
        let quota = plan.cpu_quota.map(|quota| match quota {
            1.. => quota.to_string(),
            _ => "max".to_owned(),
        });
        match (quota, plan.cpu_period) {
            (Some(quota), None) => self.set("cpu", "cpu.max", quota)?,
            (Some(quota), Some(period)) => {
                self.set("cpu", "cpu.max", format!("{quota} {period}"))?;
            }
            (None, Some(period)) => {
                let now = self.read("cpu", "cpu.max").unwrap_or_default();
                let quota = now.split(' ').next().filter(|word| !word.is_empty());
                let quota = quota.unwrap_or("max");
                self.set("cpu", "cpu.max", format!("{quota} {period}"))?;
            }
            (None, None) => {}
        }
        self.limit_what_both_call_alike(plan)?;
        let weight = |weight: u16| -> (&'static str, u64) {
            if self.has("blkio", "io.bfq.weight") {
                ("io.bfq.weight", u64::from(weight))
            } else {
                ("io.weight", io_weight(weight))
            }
        };
        if let Some(given) = plan.blkio_weight {
            let (file, weight) = weight(given);
            self.set("blkio", file, weight)?;
        }
        for (path, given) in &plan.blkio_weight_devices {
            let (file, weight) = weight(*given);
            self.set("blkio", file, format!("{} {weight}", device(path)?))?;
        }
        for (list, key) in [
            (&plan.blkio_read_bps, "rbps"),
            (&plan.blkio_write_bps, "wbps"),
            (&plan.blkio_read_iops, "riops"),
            (&plan.blkio_write_iops, "wiops"),
        ] {
            for (path, rate) in list {
                let value = format!("{} {key}={rate}", device(path)?);
                self.set("blkio", "io.max", value)?;
            }
        }
        Ok(())
    }

    fn limit_what_both_call_alike(&self, plan: &ResourcePlan) -> Result<(), LimitError> {
        if let Some(cpus) = plan.cpuset_cpus.as_deref().filter(|list| !list.is_empty()) {
            self.set("cpuset", "cpuset.cpus", cpus)?;
        }
        if let Some(nodes) = plan.cpuset_mems.as_deref().filter(|list| !list.is_empty()) {
            self.set("cpuset", "cpuset.mems", nodes)?;
        }
        match plan.pids {
            Some(limit @ 1..) => self.set("pids", "pids.max", limit)?,
            Some(-1) => self.set("pids", "pids.max", "max")?,
            // 0 says nothing.
            _ => {}
        }
        Ok(())
    }

    fn set(
        &self,
        controller: &str,
        file: &'static str,
        value: impl ToString,
    ) -> Result<(), LimitError> {
        let no_file = || LimitError::NoFile {
            file: file.to_owned(),
        };
        let path = self.folder(controller).ok_or_else(no_file)?.join(file);
        let value = value.to_string();
        write(&path, &value).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => no_file(),
            _ => LimitError::Write {
                file: file.to_owned(),
                value,
                source,
            },
        })
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder(controller)?.join(file)).ok()?;
        Some(text.trim().to_owned())
    }

    fn has(&self, controller: &str, file: &str) -> bool {
        self.folder(controller)
            .is_some_and(|folder| folder.join(file).exists())
    }
}

/// `8:0`, of a device node.
fn device(path: &str) -> Result<String, LimitError> {
    let number = fs::metadata(path)
        .map_err(|source| LimitError::Device {
            path: path.to_owned(),
            source,
        })?
        .rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    Ok(format!("{major}:{minor}"))
}

/// v1's 2 to 262144 (default 1024) on v2's scale of 1 to 10000 (default 100): runc's curve since 1.3.2, which keeps the
/// ends and the defaults (<https://github.com/opencontainers/cgroups/pull/20>).
fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
        }
    }
}

/// Docker's 10 to 1000 on the scale of `io.weight`, 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.saturating_sub(10)) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::super::{Hierarchies, Hierarchy};
    use super::*;
    use std::path::Path;
    use std::sync::Arc;

    /// A folder that looks like a group: files that are there can be written.
    fn tree(version: Version, files: &[&str]) -> (tempfile::TempDir, Cgroup) {
        let folder = tempfile::tempdir().unwrap();
        let group = folder.path().join("berth/c");
        fs::create_dir_all(&group).unwrap();
        for file in files {
            fs::write(group.join(file), "").unwrap();
        }
        let names = ["memory", "cpu", "cpuset", "pids", "blkio", "io"];
        let hierarchies = Hierarchies {
            version,
            all: vec![Hierarchy {
                mount: folder.path().to_owned(),
                controllers: names.map(str::to_owned).to_vec(),
            }],
        };
        let cgroup = Cgroup::new(&Arc::new(hierarchies), "/berth/c");
        (folder, cgroup)
    }

    #[track_caller]
    fn check(folder: &Path, expected: &[(&str, &str)]) {
        for (file, value) in expected {
            let text = fs::read_to_string(folder.join("berth/c").join(file)).unwrap();
            assert_eq!(text, *value, "{file}");
        }
    }

    fn everything() -> ResourcePlan {
        ResourcePlan {
            memory: Some(64 << 20),
            memory_swap: Some(96 << 20),
            memory_reservation: Some(32 << 20),
            cpu_shares: Some(1024),
            cpu_period: Some(100_000),
            cpu_quota: Some(50_000),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids: Some(100),
            blkio_weight: Some(500),
            blkio_read_bps: vec![("/dev/null".into(), 1_000_000)],
            ..ResourcePlan::default()
        }
    }

    const V2_FILES: [&str; 10] = [
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "cpu.weight",
        "cpu.max",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "io.weight",
        "io.max",
    ];

    #[test]
    fn every_limit_on_version_2() {
        let (folder, cgroup) = tree(Version::V2, &V2_FILES);
        cgroup.limit(&everything()).unwrap();
        check(
            folder.path(),
            &[
                ("memory.max", "67108864"),
                ("memory.swap.max", "33554432"),
                ("memory.low", "33554432"),
                ("cpu.weight", "100"),
                ("cpu.max", "50000 100000"),
                ("cpuset.cpus", "0-1"),
                ("cpuset.mems", "0"),
                ("pids.max", "100"),
                ("io.weight", "4950"),
                ("io.max", "1:3 rbps=1000000"),
            ],
        );
    }

    #[test]
    fn no_limit_is_max_on_version_2() {
        let (folder, cgroup) = tree(Version::V2, &V2_FILES);
        let plan = ResourcePlan {
            memory: Some(-1),
            cpu_quota: Some(-1),
            pids: Some(-1),
            ..ResourcePlan::default()
        };
        cgroup.limit(&plan).unwrap();
        check(
            folder.path(),
            &[
                ("memory.max", "max"),
                ("memory.swap.max", "max"),
                ("cpu.max", "max"),
                ("pids.max", "max"),
                ("cpu.weight", ""),
            ],
        );
    }

    #[test]
    fn a_period_alone_keeps_the_quota_on_version_2() {
        let (folder, cgroup) = tree(Version::V2, &["cpu.max"]);
        fs::write(folder.path().join("berth/c/cpu.max"), "9 100000\n").unwrap();
        let plan = ResourcePlan {
            cpu_period: Some(200_000),
            ..ResourcePlan::default()
        };
        cgroup.limit(&plan).unwrap();
        let text = fs::read_to_string(folder.path().join("berth/c/cpu.max")).unwrap();
        assert!(text.starts_with("9 200000"), "{text}");
    }

    #[test]
    fn a_limit_the_kernel_does_not_have_is_told() {
        let (_folder, cgroup) = tree(Version::V1, &["memory.limit_in_bytes"]);
        let plan = ResourcePlan {
            blkio_weight: Some(100),
            ..ResourcePlan::default()
        };
        assert_eq!(
            cgroup.limit(&plan).unwrap_err().to_string(),
            "this host's control groups have no blkio.weight"
        );
        let plan = ResourcePlan {
            blkio_read_bps: vec![("/dev/no-such".into(), 1)],
            ..ResourcePlan::default()
        };
        let error = cgroup.limit(&plan).unwrap_err();
        assert_eq!(error.to_string(), "block device /dev/no-such");
    }

    #[test]
    fn scales_keep_their_ends_and_defaults() {
        let weights = [0, 2, 1024, 262_144, 1 << 40].map(weight_of_shares);
        assert_eq!(weights, [1, 1, 100, 10_000, 10_000]);
        assert_eq!([10, 500, 1000].map(io_weight), [1, 4950, 10_000]);
    }

    /// On the real files of this host.
    #[test]
    fn the_kernel_takes_every_limit() {
        let hierarchies = Hierarchies::of_this_host();
        if !rustix::process::geteuid().is_root() || !hierarchies.controls("memory") {
            println!("skipped: needs root and a memory control group");
            return;
        }
        let path = format!("/berth-limits-test/{}", std::process::id());
        let cgroup = Cgroup::new(&hierarchies, &path);
        cgroup.create().unwrap();
        let mut plan = ResourcePlan {
            blkio_weight: None,
            blkio_read_bps: Vec::new(),
            cpuset_cpus: Some("0".into()),
            ..everything()
        };
        let first = cgroup.limit(&plan);
        // Up and down again: the order of memory and swap matters to the kernel.
        (plan.memory, plan.memory_swap) = (Some(256 << 20), Some(512 << 20));
        let up = cgroup.limit(&plan);
        (plan.memory, plan.memory_swap) = (Some(32 << 20), Some(32 << 20));
        let down = cgroup.limit(&plan);
        let memory = match cgroup.version() {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        };
        let limit = cgroup.read("memory", memory);
        let pids = cgroup.read("pids", "pids.max");
        cgroup.remove().unwrap();
        for result in [first, up, down] {
            result.unwrap();
        }
        assert_eq!(limit.as_deref(), Some("33554432"));
        assert_eq!(pids.as_deref(), Some("100"));
    }
}
