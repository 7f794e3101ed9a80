//! What the kernel has counted for a group, in the form of [`engine::runtime::Stats`].

use super::{Cgroup, Version};
use engine::runtime::Stats;
use engine::runtime::stats::{BlkioEntry, BlkioStats, CpuStats, MemoryStats, PidStats};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use time::OffsetDateTime;

impl Cgroup {
    /// Reads the counters. A group that is gone is an error of the kind `NotFound`, a host without the controllers one of
    /// the kind `Unsupported`.
    pub fn stats(&self) -> io::Result<Stats> {
        for controller in ["cpuacct", "memory", "pids"] {
            if self.folder(controller).is_none() {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("the host has no {controller} control group"),
                ));
            }
        }
        let (version, cpu, memory, blkio) = match self.version() {
            Version::V1 => (1, self.cpu_v1()?, self.memory_v1()?, self.blkio_v1()),
            Version::V2 => (2, self.cpu_v2()?, self.memory_v2()?, self.blkio_v2()),
        };
        Ok(Stats {
            at: OffsetDateTime::now_utc(),
            cgroup_version: version,
            cpu,
            memory,
            pids: PidStats {
                current: self.number("pids", "pids.current")?,
                limit: self.number("pids", "pids.max").ok(),
            },
            blkio,
        })
    }

    fn cpu_v1(&self) -> io::Result<CpuStats> {
        let per_cpu = self.text("cpuacct", "cpuacct.usage_percpu")?;
        // Without a cpu controller there are no quotas.
        let quota = self.table("cpu", "cpu.stat").unwrap_or_default();
        let of_quota = |key: &str| quota.get(key).copied().unwrap_or(0);
        Ok(CpuStats {
            total: self.number("cpuacct", "cpuacct.usage")?,
            user: self.number("cpuacct", "cpuacct.usage_user")?,
            kernel: self.number("cpuacct", "cpuacct.usage_sys")?,
            per_cpu: per_cpu
                .split_whitespace()
                .filter_map(|one| one.parse().ok())
                .collect(),
            periods: of_quota("nr_periods"),
            throttled_periods: of_quota("nr_throttled"),
            throttled: of_quota("throttled_time"),
        })
    }

    fn cpu_v2(&self) -> io::Result<CpuStats> {
        let stat = self.table("cpu", "cpu.stat")?;
        let of = |key: &str| stat.get(key).copied().unwrap_or(0);
        Ok(CpuStats {
            total: of("usage_usec") * 1000,
            user: of("user_usec") * 1000,
            kernel: of("system_usec") * 1000,
            per_cpu: Vec::new(),
            periods: of("nr_periods"),
            throttled_periods: of("nr_throttled"),
            throttled: of("throttled_usec") * 1000,
        })
    }

    fn memory_v1(&self) -> io::Result<MemoryStats> {
        // The kernel's way of saying "no limit" is the largest whole page.
        const LARGEST: u64 = i64::MAX as u64 & !0xffff;
        let limit = self.number("memory", "memory.limit_in_bytes")?;
        Ok(MemoryStats {
            usage: self.number("memory", "memory.usage_in_bytes")?,
            max_usage: Some(self.number("memory", "memory.max_usage_in_bytes")?),
            fail_count: Some(self.number("memory", "memory.failcnt")?),
            limit: (limit < LARGEST).then_some(limit),
            stat: self.table("memory", "memory.stat")?,
        })
    }

    fn memory_v2(&self) -> io::Result<MemoryStats> {
        Ok(MemoryStats {
            usage: self.number("memory", "memory.current")?,
            max_usage: None,
            fail_count: None,
            limit: self.number("memory", "memory.max").ok(),
            stat: self.table("memory", "memory.stat")?,
        })
    }

    /// The scheduler's tables where it keeps any, else those of the throttling layer, which sees every request.
    fn blkio_v1(&self) -> BlkioStats {
        let table = |name: &str| -> Vec<BlkioEntry> {
            ["blkio.", "blkio.bfq."]
                .iter()
                .map(|prefix| self.device_table(&format!("{prefix}{name}_recursive")))
                .find(|table| !table.is_empty())
                .unwrap_or_default()
        };
        let mut stats = BlkioStats {
            service_bytes: table("io_service_bytes"),
            serviced: table("io_serviced"),
            queued: table("io_queued"),
            service_time: table("io_service_time"),
            wait_time: table("io_wait_time"),
            merged: table("io_merged"),
            time: table("time"),
            sectors: table("sectors"),
        };
        if stats.serviced.is_empty() {
            stats.service_bytes = self.device_table("blkio.throttle.io_service_bytes_recursive");
            stats.serviced = self.device_table("blkio.throttle.io_serviced_recursive");
        }
        stats
    }

    /// Lines of `8:0 Read 4096`, or `8:0 4096`; a last line has the sum of all devices.
    fn device_table(&self, file: &str) -> Vec<BlkioEntry> {
        let text = self.text("blkio", file).unwrap_or_default();
        let entry = |line: &str| {
            let mut words = line.split_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let (operation, value) = match (words.next()?, words.next()) {
                (operation, Some(value)) => (operation, value),
                (value, None) => ("", value),
            };
            Some(BlkioEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                operation: operation.to_owned(),
                value: value.parse().ok()?,
            })
        };
        text.lines().filter_map(entry).collect()
    }

    /// Lines of `8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`.
    fn blkio_v2(&self) -> BlkioStats {
        let text = self.text("blkio", "io.stat").unwrap_or_default();
        let mut stats = BlkioStats::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let device = words.next().and_then(|device| device.split_once(':'));
            let number = |text: &str| text.parse::<u64>().ok();
            let Some((Some(major), Some(minor))) = device.map(|(a, b)| (number(a), number(b)))
            else {
                continue;
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let (table, operation) = match key {
                    "rbytes" => (&mut stats.service_bytes, "read"),
                    "wbytes" => (&mut stats.service_bytes, "write"),
                    "rios" => (&mut stats.serviced, "read"),
                    "wios" => (&mut stats.serviced, "write"),
                    _ => continue,
                };
                table.push(BlkioEntry {
                    major,
                    minor,
                    operation: operation.to_owned(),
                    value: number(value).unwrap_or(0),
                });
            }
        }
        stats
    }

    fn text(&self, controller: &str, file: &str) -> io::Result<String> {
        let folder = self.folder(controller).ok_or(io::ErrorKind::NotFound)?;
        fs::read_to_string(folder.join(file)).map_err(|error| match error.raw_os_error() {
            // A file opened just before its group went.
            Some(libc::ENODEV) => io::ErrorKind::NotFound.into(),
            _ => error,
        })
    }

    fn number(&self, controller: &str, file: &str) -> io::Result<u64> {
        let text = self.text(controller, file)?;
        text.trim()
            .parse()
            .map_err(|_| io::Error::other(format!("{file} has {:?}", text.trim())))
    }

    /// Lines of `key value`.
    fn table(&self, controller: &str, file: &str) -> io::Result<BTreeMap<String, u64>> {
        let text = self.text(controller, file)?;
        let entry = |line: &str| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        };
        Ok(text.lines().filter_map(entry).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Hierarchies, Hierarchy};
    use super::*;
    use std::sync::Arc;

    fn group(version: Version, files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            fs::write(folder.path().join(file), text).unwrap();
        }
        let names = ["cpu", "cpuacct", "memory", "pids", "blkio", "io"];
        let hierarchies = Hierarchies {
            version,
            all: vec![Hierarchy {
                mount: folder.path().to_owned(),
                controllers: names.map(str::to_owned).to_vec(),
            }],
        };
        let cgroup = Cgroup::new(&Arc::new(hierarchies), "");
        (folder, cgroup)
    }

    fn entry(operation: &str, value: u64) -> BlkioEntry {
        BlkioEntry {
            major: 8,
            minor: 16,
            operation: operation.to_owned(),
            value,
        }
    }

    #[test]
    fn version_1() {
        let (_folder, cgroup) = group(
            Version::V1,
            &[
                ("cpuacct.usage", "500\n"),
                ("cpuacct.usage_user", "300\n"),
                ("cpuacct.usage_sys", "200\n"),
                ("cpuacct.usage_percpu", "200 300 \n"),
                (
                    "cpu.stat",
                    "nr_periods 9\nnr_throttled 3\nthrottled_time 77\n",
                ),
                ("memory.usage_in_bytes", "4096\n"),
                ("memory.max_usage_in_bytes", "8192\n"),
                ("memory.failcnt", "2\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.stat", "cache 1\ntotal_inactive_file 2\n"),
                ("pids.current", "3\n"),
                ("pids.max", "max\n"),
                (
                    "blkio.throttle.io_serviced_recursive",
                    "8:16 Read 4\n8:16 Total 4\nTotal 4\n",
                ),
                ("blkio.time_recursive", "8:16 5\n"),
            ],
        );
        let stats = cgroup.stats().unwrap();
        assert_eq!((stats.cpu.total, stats.cpu.throttled), (500, 77));
        assert_eq!(stats.cpu.per_cpu, [200, 300]);
        assert_eq!(
            (stats.memory.limit, stats.memory.fail_count),
            (None, Some(2))
        );
        assert_eq!(stats.memory.stat["total_inactive_file"], 2);
        assert_eq!((stats.pids.current, stats.pids.limit), (3, None));
        assert_eq!(stats.blkio.serviced, [entry("Read", 4), entry("Total", 4)]);
        assert_eq!(stats.blkio.time, [entry("", 5)]);
    }

    #[test]
    fn version_2() {
        let (_folder, cgroup) = group(
            Version::V2,
            &[
                (
                    "cpu.stat",
                    "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 3\nthrottled_usec 7\n",
                ),
                ("memory.current", "4096\n"),
                ("memory.max", "65536\n"),
                ("memory.stat", "anon 1\ninactive_file 2\n"),
                ("pids.current", "3\n"),
                ("pids.max", "10\n"),
                (
                    "io.stat",
                    "8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
                ),
            ],
        );
        let stats = cgroup.stats().unwrap();
        assert_eq!(
            (stats.cpu.total, stats.cpu.user, stats.cpu.throttled),
            (5000, 3000, 7000)
        );
        assert_eq!(
            (stats.memory.usage, stats.memory.limit),
            (4096, Some(65536))
        );
        assert_eq!(stats.pids.limit, Some(10));
        assert_eq!(
            stats.blkio.service_bytes,
            [entry("read", 10), entry("write", 20)]
        );
        assert_eq!(stats.blkio.serviced, [entry("read", 1), entry("write", 2)]);
    }

    #[test]
    fn a_group_that_is_gone_is_not_found() {
        let (_folder, cgroup) = group(Version::V2, &[]);
        assert_eq!(cgroup.stats().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
