//! `docker stats`: what a container uses now.

use super::container::Container;
use super::error::ContainerError;
use super::host::{HostLoad, InterfaceCounters};
use super::service::ContainerService;
use super::spec::NetworkChoice;
use crate::runtime::{RuntimeError, Stats};
use std::collections::BTreeMap;

/// One reading. A percentage of processor time needs two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub stats: Stats,
    /// By name; empty where the container has the host's network.
    pub interfaces: BTreeMap<String, InterfaceCounters>,
    pub host: HostLoad,
}

impl ContainerService {
    /// Reads the counters of a container; `None` where it does not run.
    pub async fn sample(&self, container: &Container) -> Result<Option<Sample>, ContainerError> {
        let Some(task) = container.task() else {
            return Ok(None);
        };
        let stats = match task.stats().await {
            Ok(stats) => stats,
            Err(RuntimeError::NotRunning) => return Ok(None),
            // It ended while its group was read.
            Err(_) if container.task().is_none() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let files = &self.deps.files;
        let interfaces = if self.has_network_of_its_own(container) {
            files.interfaces(task.pid()).await
        } else {
            BTreeMap::new()
        };
        let host = files.load().await.map_err(|error| {
            ContainerError::storage("read what the host's processors have done", error)
        })?;
        Ok(Some(Sample {
            stats,
            interfaces,
            host,
        }))
    }

    fn has_network_of_its_own(&self, container: &Container) -> bool {
        match &container.spec.host.network {
            NetworkChoice::Host => false,
            NetworkChoice::Container(id) => self
                .find(id)
                .is_ok_and(|other| other.spec.host.network != NetworkChoice::Host),
            _ => true,
        }
    }
}
