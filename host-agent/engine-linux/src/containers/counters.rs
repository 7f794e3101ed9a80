//! What the host counts: processor time in /proc/stat, interfaces in /proc/PID/net/dev.

use engine::containers::host::{HostLoad, InterfaceCounters};
use std::collections::BTreeMap;
use std::fs;
use std::io;

/// Nanoseconds in a tick of /proc/stat (USER_HZ is 100 on every architecture we build for).
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// What the kernel makes in every network namespace by itself where its modules are loaded: of no use to anybody.
const FALLBACK: &[&str] = &[
    "lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0",
    "ip6gre0",
];

pub(super) fn load() -> io::Result<HostLoad> {
    let stat = fs::read_to_string("/proc/stat")?;
    let memory = fs::read_to_string("/proc/meminfo")?;
    parse_load(&stat, &memory).ok_or_else(|| io::Error::other("/proc/stat has an unknown form"))
}

fn parse_load(stat: &str, memory: &str) -> Option<HostLoad> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    // user, nice, system, idle, iowait, irq, softirq: what dockerd adds up. Guests' time is in user already.
    let ticks: u64 = all
        .split_whitespace()
        .take(7)
        .map(|field| field.parse::<u64>().unwrap_or(0))
        .sum();
    let processors = stat
        .lines()
        .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
        .count();
    Some(HostLoad {
        processor_time: ticks.saturating_mul(NANOSECONDS_PER_TICK),
        processors: u32::try_from(processors).unwrap_or(1).max(1),
        memory: total_memory(memory),
    })
}

/// Bytes, of /proc/meminfo.
pub(super) fn total_memory(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kilobytes = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

pub(super) fn interfaces(pid: u32) -> BTreeMap<String, InterfaceCounters> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    parse_interfaces(&text)
}

fn parse_interfaces(text: &str) -> BTreeMap<String, InterfaceCounters> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, numbers)| (name.trim(), numbers))
        .filter(|(name, _)| !FALLBACK.contains(name))
        .filter_map(|(name, numbers)| {
            let numbers: Vec<u64> = numbers
                .split_whitespace()
                .filter_map(|number| number.parse().ok())
                .collect();
            let &[
                received_bytes,
                received_packets,
                received_errors,
                received_dropped,
                _,
                _,
                _,
                _,
                sent_bytes,
                sent_packets,
                sent_errors,
                sent_dropped,
                ..,
            ] = numbers.as_slice()
            else {
                return None;
            };
            let counters = InterfaceCounters {
                received_bytes,
                received_packets,
                received_errors,
                received_dropped,
                sent_bytes,
                sent_packets,
                sent_errors,
                sent_dropped,
            };
            Some((name.to_owned(), counters))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_without_those_that_nobody_made() {
        let text = "Inter-|   Receive    |  Transmit\n face |bytes packets errs drop\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 1000 10 1 2 0 0 0 0 500 5 3 4 0 0 0 0\nsit0: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n";
        let all = parse_interfaces(text);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["eth0"]);
        let eth0 = all["eth0"];
        assert_eq!(
            (
                eth0.received_bytes,
                eth0.received_errors,
                eth0.received_dropped
            ),
            (1000, 1, 2)
        );
        assert_eq!(
            (
                eth0.sent_bytes,
                eth0.sent_packets,
                eth0.sent_errors,
                eth0.sent_dropped
            ),
            (500, 5, 3, 4)
        );
    }

    #[test]
    fn the_hosts_time_is_that_of_all_processors() {
        let stat = "cpu  1 2 3 4 5 6 7 100 100 0\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n";
        let load = parse_load(stat, "MemTotal:        2048 kB\n").expect("good");
        assert_eq!(load.processor_time, 28 * NANOSECONDS_PER_TICK);
        assert_eq!((load.processors, load.memory), (2, 2 << 20));
        assert!(super::load().expect("this host tells").processor_time > 0);
    }
}
