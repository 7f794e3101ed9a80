//! Counters as Docker shows them (moby `api/types/container/stats.go` and `daemon/stats_unix.go`). The two versions of control
//! groups have two forms: v1 has times of every processor, the largest use of memory and all tables of block devices.

use engine::clock::{ZERO_TIME, rfc3339};
use engine::containers::Container;
use engine::containers::host::InterfaceCounters;
use engine::containers::stats::Sample;
use engine::runtime::Stats;
use engine::runtime::stats::{BlkioEntry, CpuStats};
use serde_json::{Map, Value, json};

/// One line. `before` is what it is compared with; without a sample the container does not run.
pub fn stats(container: &Container, before: Option<&Sample>, now: Option<&Sample>) -> Value {
    let read = |sample: Option<&Sample>| {
        sample.map_or_else(|| ZERO_TIME.to_owned(), |sample| rfc3339(sample.stats.at))
    };
    let mut shown = json!({
        "name": format!("/{}", container.name()),
        "id": container.id,
        "read": read(now),
        "preread": read(before),
        "pids_stats": now.map_or_else(|| json!({}), |sample| pids(&sample.stats)),
        "blkio_stats": blkio(now.map(|sample| &sample.stats)),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(now),
        "precpu_stats": cpu(before),
        "memory_stats": now.map_or_else(|| json!({}), memory),
    });
    if let Some(sample) = now.filter(|sample| !sample.interfaces.is_empty()) {
        let interfaces = sample.interfaces.iter();
        shown["networks"] = interfaces
            .map(|(name, counters)| (name.clone(), interface(counters)))
            .collect::<Map<_, _>>()
            .into();
    }
    shown
}

fn pids(stats: &Stats) -> Value {
    let mut shown = json!({ "current": stats.pids.current });
    match (stats.pids.limit, stats.cgroup_version) {
        (Some(limit), _) => shown["limit"] = limit.into(),
        // What "max" is in Go's largest number.
        (None, 2) => shown["limit"] = u64::MAX.into(),
        (None, _) => {}
    }
    shown
}

fn cpu(sample: Option<&Sample>) -> Value {
    let nothing = CpuStats::default();
    let cpu = sample.map_or(&nothing, |sample| &sample.stats.cpu);
    let mut shown = json!({
        "cpu_usage": {
            "total_usage": cpu.total,
            "usage_in_kernelmode": cpu.kernel,
            "usage_in_usermode": cpu.user,
        },
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled,
        },
    });
    if !cpu.per_cpu.is_empty() {
        shown["cpu_usage"]["percpu_usage"] = json!(cpu.per_cpu);
    }
    if let Some(sample) = sample {
        shown["system_cpu_usage"] = sample.host.processor_time.into();
        shown["online_cpus"] = sample.host.processors.into();
    }
    shown
}

fn memory(sample: &Sample) -> Value {
    let memory = &sample.stats.memory;
    let mut shown = json!({ "usage": memory.usage, "stats": memory.stat });
    if let Some(most) = memory.max_usage {
        shown["max_usage"] = most.into();
    }
    if let Some(count) = memory.fail_count.filter(|count| *count > 0) {
        shown["failcnt"] = count.into();
    }
    // Without a limit of its own, a container may have all there is.
    let limit = memory.limit.unwrap_or(u64::MAX).min(sample.host.memory);
    shown["limit"] = limit.into();
    shown
}

fn blkio(stats: Option<&Stats>) -> Value {
    let table = |choose: fn(&engine::runtime::stats::BlkioStats) -> &Vec<BlkioEntry>| {
        let Some(stats) = stats else {
            return Value::Null;
        };
        let entries = choose(&stats.blkio);
        // An empty table is a list on v1, where it exists, and nothing on v2.
        if entries.is_empty() && stats.cgroup_version == 2 {
            return Value::Null;
        }
        let shown = entries.iter().map(|entry| {
            json!({
                "major": entry.major,
                "minor": entry.minor,
                "op": entry.operation,
                "value": entry.value,
            })
        });
        shown.collect::<Vec<_>>().into()
    };
    json!({
        "io_service_bytes_recursive": table(|all| &all.service_bytes),
        "io_serviced_recursive": table(|all| &all.serviced),
        "io_queue_recursive": table(|all| &all.queued),
        "io_service_time_recursive": table(|all| &all.service_time),
        "io_wait_time_recursive": table(|all| &all.wait_time),
        "io_merged_recursive": table(|all| &all.merged),
        "io_time_recursive": table(|all| &all.time),
        "sectors_recursive": table(|all| &all.sectors),
    })
}

fn interface(counters: &InterfaceCounters) -> Value {
    json!({
        "rx_bytes": counters.received_bytes,
        "rx_packets": counters.received_packets,
        "rx_errors": counters.received_errors,
        "rx_dropped": counters.received_dropped,
        "tx_bytes": counters.sent_bytes,
        "tx_packets": counters.sent_packets,
        "tx_errors": counters.sent_errors,
        "tx_dropped": counters.sent_dropped,
    })
}
