//! What can be done to a container that runs: signals, freezing, new limits.

use super::Supervisor;
use crate::containers::error::ContainerError;
use crate::containers::lifecycle::{ContainerState, Denied, Request};
use crate::containers::store::Durability;
use crate::containers::update::{self, UpdateRequest};
use crate::runtime::{ResourcePlan, RuntimeError};
use std::sync::Arc;

impl Supervisor {
    pub(super) async fn signal(
        &mut self,
        signal: i32,
        by_hand: bool,
    ) -> Result<(), ContainerError> {
        let denied = || {
            self.container
                .denied(Denied::NotRunningForKill, self.container.id.as_str())
        };
        let Some(task) = self.task.clone() else {
            return Err(denied());
        };
        if by_hand {
            self.status
                .send_modify(|status| status.stopped_by_hand = true);
        }
        match task.signal(signal).await {
            Err(RuntimeError::NotRunning) => return Err(denied()),
            result => result?,
        }
        self.deps
            .tell(&self.container, "kill", [("signal", signal.to_string())]);
        Ok(())
    }

    pub(super) async fn pause(&mut self) -> Result<(), ContainerError> {
        self.check(Request::Pause)?;
        let (Some(task), ContainerState::Running { pid, started }) = (&self.task, self.state())
        else {
            return Err(self
                .container
                .denied(Denied::NotRunning, self.container.id.as_str()));
        };
        task.pause().await?;
        self.publish(|status| status.state = ContainerState::Paused { pid, started });
        self.rest_health();
        self.deps.tell(&self.container, "pause", []);
        self.save(Durability::Written).await;
        Ok(())
    }

    pub(super) async fn unpause(&mut self) -> Result<(), ContainerError> {
        self.check(Request::Unpause)?;
        let (Some(task), ContainerState::Paused { pid, started }) = (&self.task, self.state())
        else {
            return Err(self
                .container
                .denied(Denied::NotPaused, self.container.id.as_str()));
        };
        task.resume().await?;
        self.publish(|status| {
            status.state = ContainerState::Running { pid, started };
            status.paused_for_commit = false;
        });
        self.schedule_probe();
        self.deps.tell(&self.container, "unpause", []);
        self.save(Durability::Written).await;
        Ok(())
    }

    /// The record says so before the kernel does: whoever finds the container after a crash resumes it.
    pub(super) async fn pause_for_commit(&mut self) -> Result<(), ContainerError> {
        self.check(Request::Pause)?;
        self.publish(|status| status.paused_for_commit = true);
        self.save(Durability::Written).await;
        let paused = self.pause().await;
        if paused.is_err() {
            self.publish(|status| status.paused_for_commit = false);
            self.save(Durability::Written).await;
        }
        paused
    }

    /// Of a container that was resumed meanwhile, and perhaps paused again, a commit knows nothing any more.
    pub(super) async fn resume_after_commit(&mut self) -> Result<(), ContainerError> {
        if !self.status.borrow().paused_for_commit {
            return Ok(());
        }
        self.unpause().await
    }

    /// Limits and restart policy: the kernel first, which may refuse, then the record.
    pub(super) async fn update(&mut self, request: &UpdateRequest) -> Result<(), ContainerError> {
        let cannot = |why: String| ContainerError::Conflict {
            why: format!("Cannot update container {}: {why}", self.container.id),
        };
        let mut spec = (*self.container.latest_spec()).clone();
        let plan = update::apply(&mut spec.host, request).map_err(cannot)?;
        if let Some(task) = &self.task
            && plan != ResourcePlan::default()
        {
            match task.update(plan).await {
                // It has just ended: the next run has the new limits.
                Ok(()) | Err(RuntimeError::NotRunning) => {}
                Err(error) => {
                    return Err(ContainerError::storage(
                        format!("update container {}", self.container.id),
                        error,
                    ));
                }
            }
        }
        self.status
            .send_modify(|status| status.updated = Some(Arc::new(spec)));
        self.store(Durability::Synced).await?;
        self.deps.tell(&self.container, "update", []);
        Ok(())
    }

    /// The kernel has killed one of its processes, which need not have been the first.
    pub(super) async fn ran_out_of_memory(&mut self, times: u64) {
        self.out_of_memory = times;
        self.status.send_modify(|status| status.oom_killed = true);
        self.deps.tell(&self.container, "oom", []);
        self.save(Durability::Written).await;
    }

    pub(super) fn state(&self) -> ContainerState {
        self.status.borrow().state.clone()
    }
}
