//! `docker update`: limits and restart policy of a container that exists.

use super::container::Command;
use super::error::ContainerError;
use super::lifecycle::ContainerState;
use super::resources::{self, Purpose};
use super::service::ContainerService;
use super::spec::{HostSettings, RestartPolicy};
use crate::runtime::ResourcePlan;

/// What is to change; what is `None` (or 0) stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateRequest {
    /// `pids` of -1 takes the limit away.
    pub resources: ResourcePlan,
    /// Billionths of a processor.
    pub nano_cpus: i64,
    pub restart: Option<RestartPolicy>,
    /// What translation had to say already.
    pub warnings: Vec<String>,
}

impl ContainerService {
    /// Changes a container, running or not. Returns warnings.
    pub async fn update(
        &self,
        asked: &str,
        mut request: UpdateRequest,
    ) -> Result<Vec<String>, ContainerError> {
        let container = self.find(asked)?;
        let mut warnings = std::mem::take(&mut request.warnings);
        let mut wanted = HostSettings {
            resources: request.resources,
            nano_cpus: request.nano_cpus,
            ..HostSettings::default()
        };
        let facts = self.deps.runtime.facts();
        let processors = self.deps.settings.processors;
        warnings.extend(
            resources::settle(&mut wanted, &facts, processors, Purpose::Update)
                .map_err(ContainerError::invalid)?,
        );
        request.resources = wanted.resources;
        let cannot = |why: String| ContainerError::Conflict {
            why: format!("Cannot update container {}: {why}", container.id),
        };
        if matches!(
            container.status.borrow().state,
            ContainerState::Removing | ContainerState::Dead { .. }
        ) {
            return Err(cannot(
                "container is marked for removal and cannot be \"update\"".into(),
            ));
        }
        container
            .ask(|reply| Command::Update { request, reply })
            .await?;
        Ok(warnings)
    }
}

/// Puts the changes into the settings, and returns what the kernel has to be told of a running container. The rules and
/// texts are moby's (`container/container_unix.go`, `UpdateContainer`).
pub(super) fn apply(
    host: &mut HostSettings,
    request: &UpdateRequest,
) -> Result<ResourcePlan, String> {
    let (new, old) = (&request.resources, &mut host.resources);
    let conflict = |what: &str, other: &str| {
        Err(format!(
            "Conflicting options: {what} cannot be updated as {other} has already been set"
        ))
    };
    if request.nano_cpus > 0 && old.cpu_period.is_some() {
        return conflict("Nano CPUs", "CPU Period");
    }
    if request.nano_cpus > 0 && old.cpu_quota.is_some() {
        return conflict("Nano CPUs", "CPU Quota");
    }
    if new.cpu_period.is_some() && host.nano_cpus > 0 {
        return conflict("CPU Period", "NanoCPUs");
    }
    if new.cpu_quota.is_some() && host.nano_cpus > 0 {
        return conflict("CPU Quota", "NanoCPUs");
    }
    if let (Some(memory), None) = (new.memory, new.memory_swap) {
        let swap = old.memory_swap.unwrap_or(0);
        if swap != -1 && memory > swap {
            return Err("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time".into());
        }
    }
    if let (None, Some(swap)) = (new.memory, new.memory_swap)
        && swap >= 0
    {
        match old.memory {
            None => {
                return Err(
                    "You should always set the Memory limit when using Memoryswap limit, see usage"
                        .into(),
                );
            }
            Some(memory) if swap < memory => {
                return Err(
                    "Minimum memoryswap limit should be larger than memory limit, see usage".into(),
                );
            }
            Some(_) => {}
        }
    }
    if let Some(policy) = request.restart {
        if host.auto_remove && policy != RestartPolicy::No {
            return Err(
                "Restart policy cannot be updated because AutoRemove is enabled for the container"
                    .into(),
            );
        }
        host.restart = policy;
    }
    if request.nano_cpus > 0 {
        host.nano_cpus = request.nano_cpus;
    }
    fn replace<T: Clone>(old: &mut Option<T>, new: &Option<T>) {
        if new.is_some() {
            old.clone_from(new);
        }
    }
    replace(&mut old.memory, &new.memory);
    replace(&mut old.memory_swap, &new.memory_swap);
    replace(&mut old.memory_reservation, &new.memory_reservation);
    replace(&mut old.cpu_shares, &new.cpu_shares);
    replace(&mut old.cpu_period, &new.cpu_period);
    replace(&mut old.cpu_quota, &new.cpu_quota);
    replace(&mut old.cpuset_cpus, &new.cpuset_cpus);
    replace(&mut old.cpuset_mems, &new.cpuset_mems);
    replace(&mut old.blkio_weight, &new.blkio_weight);
    replace(&mut old.pids, &new.pids);
    old.pids = old.pids.filter(|limit| *limit > 0);
    let mut plan = new.clone();
    if request.nano_cpus > 0 {
        (plan.cpu_period, plan.cpu_quota) = resources::quota(request.nano_cpus);
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(memory: i64, swap: Option<i64>) -> UpdateRequest {
        UpdateRequest {
            resources: ResourcePlan {
                memory: Some(memory),
                memory_swap: swap,
                ..ResourcePlan::default()
            },
            ..UpdateRequest::default()
        }
    }

    fn limited() -> HostSettings {
        let mut host = HostSettings::default();
        (host.resources.memory, host.resources.memory_swap) = (Some(64 << 20), Some(128 << 20));
        host
    }

    #[test]
    fn memory_may_not_grow_over_its_swap_alone() {
        let mut host = limited();
        assert!(apply(&mut host, &memory(100 << 20, None)).is_ok());
        assert_eq!(host.resources.memory, Some(100 << 20));
        let why = apply(&mut host, &memory(200 << 20, None)).expect_err("over the swap");
        assert!(why.starts_with("Memory limit should be smaller than already set memoryswap"));
        assert!(apply(&mut host, &memory(200 << 20, Some(400 << 20))).is_ok());
        assert!(apply(&mut HostSettings::default(), &memory(64 << 20, None)).is_err());
        host.resources.memory_swap = Some(-1);
        assert!(apply(&mut host, &memory(1 << 30, None)).is_ok());
    }

    #[test]
    fn cpus_and_quota_exclude_each_other() {
        let mut host = HostSettings {
            nano_cpus: 1_000_000_000,
            ..HostSettings::default()
        };
        let mut request = UpdateRequest::default();
        request.resources.cpu_quota = Some(50_000);
        let why = apply(&mut host, &request).expect_err("NanoCPUs are set");
        assert_eq!(
            why,
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set"
        );
        let request = UpdateRequest {
            nano_cpus: 500_000_000,
            ..UpdateRequest::default()
        };
        let plan = apply(&mut host, &request).expect("good");
        assert_eq!(
            (plan.cpu_period, plan.cpu_quota),
            (Some(100_000), Some(50_000))
        );
        assert_eq!(host.resources.cpu_quota, None, "shown as it was asked for");
    }

    #[test]
    fn a_limit_of_processes_can_be_taken_away() {
        let mut host = HostSettings::default();
        host.resources.pids = Some(100);
        let mut request = UpdateRequest::default();
        request.resources.pids = Some(-1);
        let plan = apply(&mut host, &request).expect("good");
        assert_eq!((plan.pids, host.resources.pids), (Some(-1), None));
    }

    #[test]
    fn a_container_that_goes_when_it_ends_is_not_restarted() {
        let mut host = HostSettings {
            auto_remove: true,
            ..HostSettings::default()
        };
        let request = |policy| UpdateRequest {
            restart: Some(policy),
            ..UpdateRequest::default()
        };
        assert!(apply(&mut host, &request(RestartPolicy::Always)).is_err());
        assert!(apply(&mut host, &request(RestartPolicy::No)).is_ok());
    }
}
