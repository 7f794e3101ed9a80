//! Memory that the guest does not use goes back to the desktop.
//!
//! The balloon reports free pages by itself (free page reporting), but only whole huge pages, and the kernel keeps lists of free
//! pages for each processor that it does not report. What a boot leaves behind that way is forty megabytes. So once after
//! the boot, and whenever a busy time is over, this clears the lists and lets every free page be reported for some seconds.

use super::{programs, say};
use std::fs;
use std::time::Duration;

/// After the engine has answered: whoever waited for it works first.
const AFTER_BOOT: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_secs(15);
/// The kernel reports what is free 2 s after it was told, and once more each 2 s while there is more.
const REPORTS: Duration = Duration::from_secs(12);
/// A guest that computes less than this share of the time is idle.
const IDLE: f64 = 0.95;
/// It is worth the trouble when so many KiB more or less are free than the last time, or this part of all memory: compacting
/// takes longer where there is more.
const WORTH: u64 = 16 * 1024;
const WORTH_PART: u64 = 64;

const ORDER: &str = "/sys/module/page_reporting/parameters/page_reporting_order";
const LISTS: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";
/// The shortest lists that the kernel allows, whatever the memory.
const SHORTEST: &str = "1000000";

/// Runs on a thread of its own, for ever.
pub fn keep_giving_back() {
    std::thread::sleep(AFTER_BOOT);
    // This thread's alone, as Linux has it.
    let _ = rustix::process::nice(19);
    if let Err(error) = programs::move_to_disk() {
        say(&format!("{error:#}"));
    }
    // What the boot read once; later, what is cached is what containers use.
    let _ = fs::write("/proc/sys/vm/drop_caches", "3");
    give_back();
    let mut free_then = memory("MemFree:");
    let worth = WORTH.max(memory("MemTotal:") / WORTH_PART);
    let mut times = Times::now();
    loop {
        std::thread::sleep(GLANCE);
        let now = Times::now();
        let idle = now.idle_since(&times);
        times = now;
        if idle >= IDLE && memory("MemFree:").abs_diff(free_then) >= worth {
            give_back();
            free_then = memory("MemFree:");
        }
    }
}

fn give_back() {
    let order = fs::read_to_string(ORDER).unwrap_or_default();
    // Without a balloon there is nobody to report to.
    let Some(order) = order.trim().parse::<u8>().ok().filter(|order| *order > 0) else {
        return;
    };
    let _ = fs::write(LISTS, SHORTEST);
    let _ = fs::write(ORDER, "0");
    // Frees pages on every processor, which shortens its list, and makes small free pieces large ones.
    let _ = fs::write("/proc/sys/vm/compact_memory", "1");
    std::thread::sleep(REPORTS);
    // Small pieces all the time would make containers that take and free memory slow.
    let _ = fs::write(ORDER, order.to_string());
    // As the kernel sees fit.
    let _ = fs::write(LISTS, "0");
}

/// A line of /proc/meminfo, in KiB.
fn memory(name: &str) -> u64 {
    kibibytes(
        &fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        name,
    )
}

fn kibibytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// What the processors did since the boot, in ticks.
#[derive(Debug, Default, PartialEq)]
struct Times {
    idle: u64,
    all: u64,
}

impl Times {
    fn now() -> Times {
        Times::parse(&fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    /// The line `cpu`: user, nice, system, idle, iowait, irq, softirq, steal; guests are in user already (proc(5)).
    fn parse(stat: &str) -> Times {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .filter_map(|ticks| ticks.parse().ok())
            .collect();
        Times {
            idle: ticks.iter().skip(3).take(2).sum(),
            all: ticks.iter().sum(),
        }
    }

    /// The share of the time since `then` in which nothing was done.
    fn idle_since(&self, then: &Times) -> f64 {
        let all = self.all.saturating_sub(then.all);
        match all {
            0 => 0.0,
            all => self.idle.saturating_sub(then.idle) as f64 / all as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_disk_is_idle_and_a_guest_counts_once() {
        let then = Times::parse("cpu  10 0 10 100 0 0 0 0 0 0\ncpu0 1 2 3 4");
        let now = Times::parse("cpu  13 0 12 190 5 0 0 0 3 0\ncpu0 1 2 3 4");
        assert_eq!(
            then,
            Times {
                idle: 100,
                all: 120
            }
        );
        assert!((now.idle_since(&then) - 0.95).abs() < 1e-9);
        assert_eq!(then.idle_since(&then), 0.0, "no time has gone by");
        assert_eq!(Times::parse("nonsense"), Times::default());
    }

    #[test]
    fn memory_is_read() {
        let meminfo = "MemTotal: 9 kB\nMemFree:         638888 kB\n";
        assert_eq!(kibibytes(meminfo, "MemFree:"), 638_888);
        assert_eq!(kibibytes(meminfo, "MemTotal:"), 9);
        assert_eq!(kibibytes("", "MemFree:"), 0);
    }
}
