//! Limits: what makes sense together, in Docker's words (moby `daemon/daemon_unix.go`, `verifyPlatformContainerResources`).

use super::spec::HostSettings;
use crate::runtime::{ResourcePlan, RuntimeFacts};

/// Docker's smallest memory limit.
const LEAST_MEMORY: i64 = 6 << 20;

/// What limits are checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Create,
    /// Only what is to change is there; what it changes is looked at by [`super::update`].
    Update,
}

/// Checks, and completes what depends on each other. Returns warnings for what this host cannot do, and takes it out.
pub fn settle(
    host: &mut HostSettings,
    facts: &RuntimeFacts,
    processors: u32,
    purpose: Purpose,
) -> Result<Vec<String>, String> {
    let mut warnings = Vec::new();
    let limits = &mut host.resources;
    discard_what_the_kernel_lacks(limits, facts, &mut warnings);
    if let Some(memory) = limits.memory {
        if memory < LEAST_MEMORY {
            return Err("Minimum memory limit allowed is 6MB".into());
        }
        if !facts.memory_limit {
            warnings.push("Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation discarded.".into());
            limits.memory = None;
            limits.memory_swap = None;
        }
    }
    if let Some(swap) = limits.memory_swap.filter(|swap| *swap < -1) {
        return Err(format!(
            "Invalid value: {swap}, memory swap is -1 (no limit) or a number of bytes"
        ));
    }
    match (limits.memory, limits.memory_swap) {
        (Some(memory), Some(swap)) if swap >= 0 && swap < memory => {
            return Err(
                "Minimum memoryswap limit should be larger than memory limit, see usage".into(),
            );
        }
        (None, Some(swap)) if swap > 0 && facts.memory_limit && purpose == Purpose::Create => {
            return Err(
                "You should always set the Memory limit when using Memoryswap limit, see usage"
                    .into(),
            );
        }
        // Docker's default: as much swap as memory.
        (Some(memory), None) if purpose == Purpose::Create => {
            limits.memory_swap = memory.checked_mul(2)
        }
        _ => {}
    }
    if limits.memory.is_some()
        && !facts.swap_limit
        && limits.memory_swap.is_some_and(|swap| swap != -1)
    {
        warnings.push("Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited without swap.".into());
        limits.memory_swap = Some(-1);
    }
    if limits
        .memory_swappiness
        .is_some_and(|swappiness| swappiness > 100)
    {
        let value = limits.memory_swappiness.unwrap_or(0);
        return Err(format!(
            "Invalid value: {value}, valid memory swappiness range is 0-100"
        ));
    }
    if limits.memory_swappiness.is_some() && facts.cgroup_version == 2 {
        warnings.push("Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory swappiness discarded.".into());
        limits.memory_swappiness = None;
    }
    if let Some(reservation) = limits.memory_reservation {
        if reservation < LEAST_MEMORY {
            return Err("Minimum memory reservation allowed is 6MB".into());
        }
        if limits.memory.is_some_and(|memory| memory < reservation) {
            return Err(
                "Minimum memory limit can not be less than memory reservation limit, see usage"
                    .into(),
            );
        }
    }
    if limits.oom_kill_disable == Some(true) && !facts.oom_kill_disable {
        warnings
            .push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".into());
        limits.oom_kill_disable = None;
    }
    if limits.pids.is_some() && !facts.pids_limit {
        warnings.push("Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.".into());
        limits.pids = None;
    }
    if host.nano_cpus != 0 {
        if !facts.cpu_cfs {
            return Err("NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted".into());
        }
        if limits.cpu_period.is_some() {
            return Err("Conflicting options: Nano CPUs and CPU Period cannot both be set".into());
        }
        if limits.cpu_quota.is_some() {
            return Err("Conflicting options: Nano CPUs and CPU Quota cannot both be set".into());
        }
        let most = i64::from(processors) * 1_000_000_000;
        if host.nano_cpus < 0 || host.nano_cpus > most {
            return Err(format!(
                "range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available"
            ));
        }
    }
    if limits
        .cpu_period
        .is_some_and(|period| !(1_000..=1_000_000).contains(&period))
    {
        return Err(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
                .into(),
        );
    }
    if limits
        .cpu_quota
        .is_some_and(|quota| quota > 0 && quota < 1_000)
    {
        return Err("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    for (list, name) in [
        (&limits.cpuset_cpus, "cpuset cpus"),
        (&limits.cpuset_mems, "cpuset mems"),
    ] {
        if let Some(text) = list
            && !is_list(text)
        {
            return Err(format!(
                "Invalid value {text} for {name}: invalid format: {text}"
            ));
        }
    }
    // Which memory nodes there are is the kernel's to say at the start.
    if let Some(text) = &limits.cpuset_cpus
        && let Some(last) = largest(&facts.cpus)
        && largest(text).is_some_and(|largest| largest > last)
    {
        return Err(format!(
            "Requested CPUs are not available - requested {text}, available: {}",
            facts.cpus
        ));
    }
    let weights = limits
        .blkio_weight_devices
        .iter()
        .map(|(_, weight)| *weight);
    if limits
        .blkio_weight
        .into_iter()
        .chain(weights)
        .any(|weight| !(10..=1000).contains(&weight))
    {
        return Err("Range of blkio weight is from 10 to 1000".into());
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        ));
    }
    Ok(warnings)
}

/// Docker's sentence for each kind of limit that this kernel has not.
fn discard_what_the_kernel_lacks(
    limits: &mut ResourcePlan,
    facts: &RuntimeFacts,
    warnings: &mut Vec<String>,
) {
    let mut lack = |what: &str, discarded: &str| {
        warnings.push(self::discarded(what, discarded));
    };
    if !facts.memory_limit && limits.memory_reservation.take().is_some() {
        lack("memory soft limit capabilities", "Limitation");
    }
    if !facts.cpu_shares && limits.cpu_shares.take().is_some() {
        lack("CPU shares", "Shares");
    }
    if !facts.cpu_cfs {
        let period = limits.cpu_period.take();
        if limits.cpu_quota.take().is_some() || period.is_some() {
            lack("CPU CFS scheduler", "CPU period/quota");
        }
    }
    if !facts.cpuset {
        let cpus = limits.cpuset_cpus.take();
        if limits.cpuset_mems.take().is_some() || cpus.is_some() {
            lack("cpuset", "Cpuset");
        }
    }
    if !facts.blkio_weight {
        if limits.blkio_weight.take().is_some() {
            lack("Block I/O weight", "Weight");
        }
        if !std::mem::take(&mut limits.blkio_weight_devices).is_empty() {
            lack("Block I/O weight_device", "Weight-device");
        }
    }
    if !facts.blkio_throttle {
        for (list, what, discarded) in [
            (
                &mut limits.blkio_read_bps,
                "BPS Block I/O read limit",
                "Block I/O BPS read limit",
            ),
            (
                &mut limits.blkio_write_bps,
                "BPS Block I/O write limit",
                "Block I/O BPS write limit",
            ),
            (
                &mut limits.blkio_read_iops,
                "IOPS Block read limit",
                "Block I/O IOPS read limit",
            ),
            (
                &mut limits.blkio_write_iops,
                "IOPS Block write limit",
                "Block I/O IOPS write limit",
            ),
        ] {
            if !std::mem::take(list).is_empty() {
                lack(what, discarded);
            }
        }
    }
}

/// Docker's words for a limit that is left out.
pub(super) fn discarded(what: &str, discarded: &str) -> String {
    format!(
        "Your kernel does not support {what} or the cgroup is not mounted. {discarded} discarded."
    )
}

/// `0-3,5`.
fn is_list(text: &str) -> bool {
    text.split(',').all(|part| {
        let number = |text: &str| text.trim().parse::<u32>().ok();
        match part.split_once('-') {
            None => number(part).is_some(),
            Some((first, last)) => {
                matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b)
            }
        }
    })
}

/// The largest number of such a list.
fn largest(list: &str) -> Option<u32> {
    list.split([',', '-'])
        .filter_map(|number| number.trim().parse().ok())
        .max()
}

/// The limits as the kernel wants them: `--cpus` as period and quota.
pub fn plan(host: &HostSettings) -> ResourcePlan {
    let mut plan = host.resources.clone();
    if host.nano_cpus > 0 {
        (plan.cpu_period, plan.cpu_quota) = quota(host.nano_cpus);
    }
    plan
}

/// Period and quota, both in microseconds, of billionths of a processor.
pub fn quota(nano_cpus: i64) -> (Option<u64>, Option<i64>) {
    (Some(100_000), Some(nano_cpus / 10_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> RuntimeFacts {
        RuntimeFacts {
            cgroup_version: 2,
            memory_limit: true,
            swap_limit: true,
            pids_limit: true,
            cpu_cfs: true,
            cpu_shares: true,
            cpuset: true,
            blkio_weight: true,
            blkio_throttle: true,
            cpus: "0-3".into(),
            ..RuntimeFacts::default()
        }
    }

    #[track_caller]
    fn refused(change: impl FnOnce(&mut HostSettings), expected: &str) {
        let mut host = HostSettings::default();
        change(&mut host);
        let why = settle(&mut host, &facts(), 2, Purpose::Create).expect_err("Docker refuses this");
        assert!(why.contains(expected), "{why}");
    }

    #[test]
    fn what_docker_refuses() {
        refused(
            |host| host.resources.memory = Some(1 << 20),
            "Minimum memory limit allowed is 6MB",
        );
        refused(
            |host| host.resources.memory_swap = Some(1 << 30),
            "always set the Memory limit",
        );
        refused(
            |host| {
                host.resources.memory = Some(64 << 20);
                host.resources.memory_swap = Some(32 << 20);
            },
            "should be larger than memory limit",
        );
        refused(
            |host| host.nano_cpus = 3_000_000_000,
            "only 2 CPUs available",
        );
        refused(
            |host| {
                host.nano_cpus = 1;
                host.resources.cpu_period = Some(1000);
            },
            "Nano CPUs and CPU Period",
        );
        refused(|host| host.resources.cpu_period = Some(1), "CPU cfs period");
        refused(
            |host| host.resources.cpuset_cpus = Some("a-b".into()),
            "for cpuset cpus",
        );
        refused(
            |host| host.resources.cpuset_cpus = Some("0,3-4".into()),
            "Requested CPUs are not available - requested 0,3-4, available: 0-3",
        );
        refused(
            |host| host.resources.memory_swap = Some(-2),
            "Invalid value: -2",
        );
        refused(
            |host| host.resources.blkio_weight = Some(5),
            "Range of blkio weight",
        );
        refused(|host| host.oom_score_adj = 2000, "range for oom score adj");
    }

    #[test]
    fn swap_follows_memory_and_cpus_become_a_quota() {
        let mut host = HostSettings {
            nano_cpus: 1_500_000_000,
            ..HostSettings::default()
        };
        host.resources.memory = Some(64 << 20);
        assert_eq!(
            settle(&mut host, &facts(), 2, Purpose::Create),
            Ok(Vec::new())
        );
        assert_eq!(host.resources.memory_swap, Some(128 << 20));
        assert_eq!(plan(&host).cpu_quota, Some(150_000));
    }

    #[test]
    fn what_the_host_cannot_do_is_a_warning() {
        let mut host = HostSettings::default();
        host.resources.oom_kill_disable = Some(true);
        let warnings = settle(&mut host, &facts(), 2, Purpose::Create).expect("only a warning");
        assert!(warnings[0].contains("OomKillDisable discarded"));
        assert_eq!(host.resources.oom_kill_disable, None);
    }

    #[test]
    fn a_bare_kernel_is_told_limit_by_limit() {
        let mut host = HostSettings {
            resources: ResourcePlan {
                memory_reservation: Some(64 << 20),
                cpu_shares: Some(512),
                cpu_quota: Some(50_000),
                cpuset_mems: Some("0".into()),
                blkio_weight: Some(100),
                blkio_weight_devices: vec![("/dev/sda".into(), 100)],
                blkio_read_bps: vec![("/dev/sda".into(), 1)],
                blkio_write_iops: vec![("/dev/sda".into(), 1)],
                ..ResourcePlan::default()
            },
            ..HostSettings::default()
        };
        let warnings =
            settle(&mut host, &RuntimeFacts::default(), 2, Purpose::Create).expect("warnings only");
        assert_eq!(host.resources, ResourcePlan::default());
        assert_eq!(warnings.len(), 8, "{warnings:?}");
        assert!(warnings.contains(&"Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.".to_owned()));
        host.nano_cpus = 1_000_000_000;
        settle(&mut host, &RuntimeFacts::default(), 2, Purpose::Create).expect_err("no CFS");
    }
}
