//! What this host's kernel offers to containers.

use super::{BUILT_IN, RuntimeConfig};
use crate::cgroup::{Hierarchies, Version};
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
        oom_kill_disable: version == Version::V1
            && hierarchies.has_file("memory", "memory.oom_control"),
        seccomp: fs::read_to_string("/proc/self/status")
            .is_ok_and(|text| text.contains("Seccomp:")),
        apparmor: fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y')),
        ..RuntimeFacts::default()
    };
    facts.runtimes.insert(
        BUILT_IN.to_owned(),
        config.agent_program.display().to_string(),
    );
    for (name, program) in &config.runtimes {
        facts
            .runtimes
            .insert(name.clone(), program.display().to_string());
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
    facts
}
