//! Health checks, as far as they change the container.

use super::Supervisor;
use crate::containers::health::{Beat, Health, HealthPlan, HealthStatus, Monitor};
use crate::containers::lifecycle::ContainerState;
use crate::containers::links;
use crate::containers::store::Durability;
use std::sync::Arc;
use std::time::Duration;

impl Supervisor {
    /// A run begins: whatever was known of the container's health is old.
    pub(super) fn begin_health(&mut self) {
        if HealthPlan::of(&self.container.spec.config).is_none() {
            return;
        }
        self.status.send_modify(|status| {
            status.health = Some(Arc::new(Health::starting(status.health.as_deref())));
        });
        self.watch_health();
    }

    /// Sets the probes of a running container going; its health stays as it is known.
    pub(super) fn watch_health(&mut self) {
        let Some(plan) = HealthPlan::of(&self.container.spec.config) else {
            return;
        };
        self.status.send_if_modified(|status| {
            let unknown = status.health.is_none();
            if unknown {
                status.health = Some(Arc::new(Health::starting(None)));
            }
            unknown
        });
        self.monitor = Some(Monitor::new(plan));
        self.schedule_probe();
    }

    /// The next probe, where the container runs.
    pub(super) fn schedule_probe(&mut self) {
        let status = self.status.borrow();
        let (Some(monitor), ContainerState::Running { started, .. }, Some(health)) =
            (&mut self.monitor, &status.state, &status.health)
        else {
            return;
        };
        let running_for = Duration::try_from(self.deps.clock.now() - *started).unwrap_or_default();
        monitor.schedule(health.status, running_for);
    }

    /// No probes while it is paused.
    pub(super) fn rest_health(&mut self) {
        if let Some(monitor) = &mut self.monitor {
            monitor.rest();
        }
    }

    /// The run is over: what does not run is not healthy, as Docker has it.
    pub(super) fn end_health(&mut self) {
        if self.monitor.take().is_none() {
            return;
        }
        self.status.send_modify(|status| {
            if let Some(health) = &mut status.health {
                Arc::make_mut(health).status = HealthStatus::Unhealthy;
            }
        });
    }

    pub(super) async fn health(&mut self, beat: Beat) {
        let (Some(monitor), Some(task)) = (&mut self.monitor, &self.task) else {
            return;
        };
        let result = match beat {
            Beat::Due => {
                let linked = links::variables(&self.registry, &self.container);
                monitor.probe(&self.deps, &self.container, task.clone(), linked);
                return;
            }
            Beat::Result(result) => result,
        };
        let plan = monitor.plan.clone();
        let mut change = None;
        self.status.send_modify(|status| {
            let started = status.started_at.unwrap_or(result.start);
            if let Some(health) = &mut status.health {
                let health = Arc::make_mut(health);
                let before = health.status;
                health.judge(&plan, result, started);
                change = (health.status != before).then_some(health.status);
            }
        });
        if let Some(status) = change {
            let action = format!("health_status: {}", status.name());
            self.deps.tell(&self.container, &action, []);
        }
        self.schedule_probe();
        self.save(Durability::Written).await;
    }
}
