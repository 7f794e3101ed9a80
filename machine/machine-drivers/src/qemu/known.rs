//! What the driver remembers of a machine, as it stands in config.json.

use super::address::Chosen;
use super::image;
use machine_core::driver::{DriverError, DriverState, MachinePlace};
use std::path::PathBuf;

/// The user that ssh logs in.
pub(super) const SSH_USER: &str = "docker";

/// What a machine was booted with. `change` counts from its next boot, and a memory that was saved fits nothing else.
const BOOTED: &str = "Booted";

/// Writes into the state that it is booted now.
pub(super) fn remember_boot(state: &mut DriverState) {
    let booted: DriverState = ["CPU", "Memory", "Mounts"]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), state.get(key)?.clone())))
        .collect();
    state.insert(BOOTED.into(), booted.into());
}

/// The state as it was booted.
pub(super) fn booted(state: &DriverState) -> DriverState {
    let mut state = state.clone();
    if let Some(serde_json::Value::Object(booted)) = state.remove(BOOTED) {
        state.extend(booted);
    }
    state
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) address: Chosen,
    pub(super) cpus: u32,
    pub(super) memory_mib: u64,
    pub(super) disk_mib: u64,
    pub(super) accelerator: String,
    pub(super) image: Option<PathBuf>,
    pub(super) program: Option<PathBuf>,
    /// As they were given; none: the home.
    pub(super) mounts: Vec<String>,
}

impl Known {
    /// The keys are docker-machine's where it has one.
    pub(super) fn write(&self, place: &MachinePlace) -> DriverState {
        let mut state = DriverState::new();
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let text = |path: Option<String>| path.unwrap_or_default();
        state.insert("IPAddress".into(), self.address.ip.to_string().into());
        state.insert("MachineName".into(), place.name.clone().into());
        state.insert("SSHUser".into(), SSH_USER.into());
        state.insert("SSHPort".into(), self.address.ssh_port.into());
        state.insert("SSHKeyPath".into(), "".into());
        state.insert("StorePath".into(), place.store.display().to_string().into());
        state.insert("EnginePort".into(), self.address.api_port.into());
        state.insert("CPU".into(), self.cpus.into());
        state.insert("Memory".into(), self.memory_mib.into());
        state.insert("DiskSize".into(), self.disk_mib.into());
        state.insert("Accelerator".into(), self.accelerator.clone().into());
        state.insert("Image".into(), text(path(&self.image)).into());
        state.insert("Program".into(), text(path(&self.program)).into());
        state.insert("Mounts".into(), self.mounts.clone().into());
        state
    }

    pub(super) fn read(state: &DriverState) -> Result<Known, DriverError> {
        let broken = |key: &str| DriverError::NotReady {
            what: format!("the machine's record has no usable {key}"),
            hint: "restore the machine's config.json, or remove the machine and create it again"
                .into(),
        };
        let text = |key: &str| {
            state
                .get(key)
                .and_then(|value| value.as_str())
                .filter(|text| !text.is_empty())
        };
        let number = |key: &str| state.get(key).and_then(serde_json::Value::as_u64);
        let port = |key: &str| {
            number(key)
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0)
        };
        Ok(Known {
            address: Chosen {
                ip: text("IPAddress")
                    .and_then(|ip| ip.parse().ok())
                    .ok_or_else(|| broken("IPAddress"))?,
                api_port: port("EnginePort").ok_or_else(|| broken("EnginePort"))?,
                ssh_port: port("SSHPort").ok_or_else(|| broken("SSHPort"))?,
            },
            cpus: number("CPU")
                .and_then(|count| u32::try_from(count).ok())
                .ok_or_else(|| broken("CPU"))?,
            memory_mib: number("Memory").ok_or_else(|| broken("Memory"))?,
            disk_mib: number("DiskSize").ok_or_else(|| broken("DiskSize"))?,
            accelerator: text("Accelerator").unwrap_or("auto").to_owned(),
            image: text("Image").map(PathBuf::from),
            program: text("Program").map(PathBuf::from),
            // Machines made before there were shared folders have no such key.
            mounts: state.get("Mounts").map_or_else(Vec::new, |value| {
                let texts = value.as_array().into_iter().flatten();
                texts
                    .filter_map(|text| text.as_str().map(str::to_owned))
                    .collect()
            }),
        })
    }

    pub(super) fn image(&self, place: &MachinePlace) -> PathBuf {
        self.image
            .clone()
            .unwrap_or_else(|| image::default_folder(&place.store))
    }
}
