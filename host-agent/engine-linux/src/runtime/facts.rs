//! What this host's kernel offers to containers.

use super::{BUILT_IN, RuntimeConfig};
use crate::apparmor;
use crate::cgroup::{Hierarchies, Version};
use engine::containers::plan::NAMES_OF_BUILT_IN;
use engine::runtime::RuntimeFacts;
use std::fs;

/// Looks once, at start.
pub(super) fn probe(config: &RuntimeConfig, hierarchies: &Hierarchies) -> RuntimeFacts {
    let version = hierarchies.version;
    let both = |controller: &str, v1: &str| match version {
        Version::V1 => hierarchies.has_file(controller, v1),
        Version::V2 => hierarchies.controls(controller),
    };
    let mut facts = RuntimeFacts {
        cgroup_version: if version == Version::V2 { 2 } else { 1 },
        memory_limit: both("memory", "memory.limit_in_bytes"),
        swap_limit: match version {
            Version::V1 => hierarchies.has_file("memory", "memory.memsw.limit_in_bytes"),
            // Groups have the file where the kernel counts swap; the root has none.
            Version::V2 => {
                hierarchies.controls("memory") && std::path::Path::new("/proc/swaps").exists()
            }
        },
        cpu_cfs: both("cpu", "cpu.cfs_quota_us"),
        cpu_shares: both("cpu", "cpu.shares"),
        cpuset: hierarchies.controls("cpuset"),
        cpus: fs::read_to_string("/sys/devices/system/cpu/online")
            .map(|text| text.trim().to_owned())
            .unwrap_or_default(),
        pids_limit: hierarchies.controls("pids"),
        blkio_weight: match version {
            Version::V1 => ["blkio.weight", "blkio.bfq.weight"]
                .iter()
                .any(|file| hierarchies.has_file("blkio", file)),
            // Groups have the files; the root tells whether the kernel has the cost model behind `io.weight`.
            Version::V2 => ["io.cost.qos", "io.weight", "io.bfq.weight"]
                .iter()
                .any(|file| hierarchies.has_file("blkio", file)),
        },
        blkio_throttle: match version {
            Version::V1 => hierarchies.has_file("blkio", "blkio.throttle.read_bps_device"),
            Version::V2 => hierarchies.controls("blkio"),
        },
        oom_kill_disable: version == Version::V1
            && hierarchies.has_file("memory", "memory.oom_control"),
        seccomp: fs::read_to_string("/proc/self/status")
            .is_ok_and(|text| text.contains("Seccomp:")),
        apparmor: apparmor::is_there(),
        ..RuntimeFacts::default()
    };
    let own = fs::read_link(&config.agent_program).unwrap_or_else(|_| config.agent_program.clone());
    for name in std::iter::once(BUILT_IN).chain(NAMES_OF_BUILT_IN) {
        let path = own.display().to_string();
        facts.runtimes.insert(name.to_owned(), path);
    }
    for (name, program) in &config.runtimes {
        let path = program.path.display().to_string();
        facts.runtimes.insert(name.clone(), path);
    }
    let mut lack = |there: bool, sentence: &str| {
        if !there {
            facts.warnings.push(format!("WARNING: {sentence}"));
        }
    };
    lack(facts.memory_limit, "No memory limit support");
    lack(facts.swap_limit, "No swap limit support");
    lack(facts.cpu_cfs, "No cpu cfs quota support");
    lack(facts.cpu_shares, "No cpu shares support");
    lack(facts.cpuset, "No cpuset support");
    lack(facts.pids_limit, "No pids limit support");
    lack(
        facts.seccomp,
        "No seccomp support: containers run without system call filters",
    );
    lack(
        crate::shim::may_raise_limits(),
        "The host lacks CAP_SYS_RESOURCE: resource limits above the agent's own are lowered to them, and a negative oom_score_adj is left out",
    );
    if facts.apparmor
        && let Err(error) = apparmor::load_default()
    {
        facts.warnings.push(format!(
            "WARNING: AppArmor's profile {} could not be loaded, and containers run without: {error}",
            apparmor::DEFAULT
        ));
    }
    facts
}

/// The file is the kernel's; a partition's is its disk's.
pub(super) fn has_weights(hierarchies: &Hierarchies, device: &str) -> bool {
    let Ok(found) = rustix::fs::stat(device) else {
        return true;
    };
    let (major, minor) = (
        rustix::fs::major(found.st_rdev),
        rustix::fs::minor(found.st_rdev),
    );
    let folder = format!("/sys/dev/block/{major}:{minor}");
    let read = |queue: &str| fs::read_to_string(format!("{folder}/{queue}/scheduler"));
    let Ok(schedulers) = read("queue").or_else(|_| read("../queue")) else {
        return true;
    };
    let of_old = hierarchies.has_file("blkio", "blkio.weight_device");
    shares_by_weight(hierarchies.version, of_old, &schedulers)
}

/// Of schedulers only BFQ has weights. Without it kernels have a cost model (cgroup v2), and old ones had CFQ (v1).
fn shares_by_weight(version: Version, of_old: bool, schedulers: &str) -> bool {
    schedulers.contains("[bfq]")
        || match version {
            Version::V1 => of_old,
            Version::V2 => !schedulers.contains("bfq"),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_the_schedulers() {
        for (version, of_old, schedulers, expected) in [
            (Version::V1, false, "none mq-deadline [bfq]\n", true),
            (Version::V1, false, "[none] mq-deadline bfq\n", false),
            (Version::V1, true, "noop [cfq]\n", true),
            (Version::V2, false, "[none] bfq\n", false),
            (Version::V2, false, "none [bfq]\n", true),
            (Version::V2, false, "[none] kyber\n", true),
        ] {
            let shares = shares_by_weight(version, of_old, schedulers);
            assert_eq!(shares, expected, "{schedulers}");
        }
        let hierarchies = Hierarchies::of_this_host();
        assert!(has_weights(&hierarchies, "/dev/no-such-device"));
    }
}
