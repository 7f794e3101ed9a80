//! `config.json`, version 3: what docker-machine and the tools around it read, with one key of ours (`Berth`).
//! Keys we do not know are kept as they are. Paths are written for the tools that read them, but when we read the file
//! they are computed anew from where the store is: a store may be moved.

use super::layout;
use crate::driver::{DriverState, FlagValue, MachinePlace};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// The version of config.json that docker-machine 0.16 writes, and we.
pub const CONFIG_VERSION: u32 = 3;
/// The version of [`BerthRecord`] that this build writes.
pub const BERTH_VERSION: u32 = 1;

type Other = Map<String, Value>;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MachineRecord {
    pub config_version: u32,
    pub driver: DriverState,
    pub driver_name: String,
    #[serde(default)]
    pub host_options: HostOptions,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub berth: Option<BerthRecord>,
    #[serde(flatten)]
    pub other: Other,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HostOptions {
    pub driver: String,
    pub memory: i64,
    pub disk: i64,
    pub engine_options: EngineOptions,
    pub swarm_options: SwarmOptions,
    pub auth_options: AuthOptions,
    #[serde(flatten)]
    pub other: Other,
}

/// What `create`'s `--engine-*` flags said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EngineOptions {
    pub arbitrary_flags: Vec<String>,
    pub dns: Vec<String>,
    pub graph_dir: String,
    pub env: Vec<String>,
    pub ipv6: bool,
    pub insecure_registry: Vec<String>,
    pub labels: Vec<String>,
    pub log_level: String,
    pub storage_driver: String,
    pub selinux_enabled: bool,
    pub tls_verify: bool,
    pub registry_mirror: Vec<String>,
    #[serde(rename = "InstallURL")]
    pub install_url: String,
    #[serde(flatten)]
    pub other: Other,
}

impl Default for EngineOptions {
    fn default() -> EngineOptions {
        EngineOptions {
            arbitrary_flags: Vec::new(),
            dns: Vec::new(),
            graph_dir: String::new(),
            env: Vec::new(),
            ipv6: false,
            insecure_registry: Vec::new(),
            labels: Vec::new(),
            log_level: String::new(),
            storage_driver: String::new(),
            selinux_enabled: false,
            tls_verify: true,
            registry_mirror: Vec::new(),
            install_url: String::new(),
            other: Other::new(),
        }
    }
}

/// Classic Swarm, remembered for the tools that read it; nothing acts on it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmOptions {
    pub is_swarm: bool,
    pub address: String,
    pub discovery: String,
    pub agent: bool,
    pub master: bool,
    pub host: String,
    pub image: String,
    pub strategy: String,
    pub heartbeat: i64,
    pub arbitrary_flags: Vec<String>,
    pub arbitrary_join_flags: Vec<String>,
    pub env: Vec<String>,
    pub is_experimental: bool,
    #[serde(flatten)]
    pub other: Other,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthOptions {
    pub cert_dir: String,
    pub ca_cert_path: String,
    pub ca_private_key_path: String,
    pub ca_cert_remote_path: String,
    pub server_cert_path: String,
    pub server_key_path: String,
    pub client_key_path: String,
    pub server_cert_remote_path: String,
    pub server_key_remote_path: String,
    pub client_cert_path: String,
    /// What `--tls-san` said.
    #[serde(rename = "ServerCertSANs")]
    pub server_cert_sans: Vec<String>,
    pub store_path: String,
    #[serde(flatten)]
    pub other: Other,
}

/// What only we need to know of a machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BerthRecord {
    pub version: u32,
    pub stage: Stage,
    /// Version of the program that made the machine.
    pub made_by: String,
    /// `rm` refuses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
    /// What `create` was given for the driver's flags, but for secrets. What can be changed since is what the driver's state says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub flags: BTreeMap<String, FlagValue>,
    #[serde(flatten)]
    pub other: Other,
}

/// How far `create` came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub enum Stage {
    /// `create` is at work, or died: only `rm` and a new `create` may touch it.
    Creating,
    Created,
}

impl MachineRecord {
    pub fn new(place: &MachinePlace, driver_name: &str, driver: DriverState) -> MachineRecord {
        let mut record = MachineRecord {
            config_version: CONFIG_VERSION,
            driver,
            driver_name: driver_name.to_owned(),
            host_options: HostOptions::default(),
            name: place.name.clone(),
            berth: Some(BerthRecord {
                version: BERTH_VERSION,
                stage: Stage::Creating,
                made_by: env!("CARGO_PKG_VERSION").to_owned(),
                protected: false,
                flags: BTreeMap::new(),
                other: Other::new(),
            }),
            other: Other::new(),
        };
        record.recompute_paths(place);
        record
    }

    /// A `create` that has not ended, or that died.
    pub fn is_half_made(&self) -> bool {
        matches!(
            self.berth,
            Some(BerthRecord {
                stage: Stage::Creating,
                ..
            })
        )
    }

    /// Whether `rm` refuses.
    pub fn is_protected(&self) -> bool {
        self.berth.as_ref().is_some_and(|berth| berth.protected)
    }

    /// What only we know of the machine; a record of docker-machine gets it now.
    pub fn berth_mut(&mut self) -> &mut BerthRecord {
        self.berth.get_or_insert_with(|| BerthRecord {
            version: BERTH_VERSION,
            stage: Stage::Created,
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            protected: false,
            flags: BTreeMap::new(),
            other: Other::new(),
        })
    }

    /// Makes every path of the record say where the files are now.
    pub fn recompute_paths(&mut self, place: &MachinePlace) {
        let certs = place.store.join(layout::CERTS);
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let auth = &mut self.host_options.auth_options;
        auth.cert_dir = text(&certs);
        auth.ca_cert_path = text(&certs.join(layout::CA_CERT));
        auth.ca_private_key_path = text(&certs.join(layout::CA_KEY));
        auth.client_cert_path = text(&certs.join(layout::CLIENT_CERT));
        auth.client_key_path = text(&certs.join(layout::CLIENT_KEY));
        auth.server_cert_path = text(&place.folder.join(layout::SERVER_CERT));
        auth.server_key_path = text(&place.folder.join(layout::SERVER_KEY));
        auth.store_path = text(&place.folder);
        self.driver
            .insert("StorePath".to_owned(), text(&place.store).into());
        // A key in a machine's folder moved with it; a key elsewhere is the user's own.
        if let Some(Value::String(key)) = self.driver.get("SSHKeyPath") {
            let inside = Path::new(layout::MACHINES).join(&place.name);
            let key = Path::new(key);
            if let (Some(parent), Some(file)) = (key.parent(), key.file_name())
                && parent.ends_with(inside)
            {
                let moved = text(&place.folder.join(file));
                self.driver.insert("SSHKeyPath".to_owned(), moved.into());
            }
        }
    }

    /// Reads config.json. Go writes `null` for an empty list; for us that is the same as absent.
    pub fn from_json(json: &[u8]) -> serde_json::Result<MachineRecord> {
        let mut value: Value = serde_json::from_slice(json)?;
        if let Some(options) = value.get_mut("HostOptions") {
            drop_nulls(options);
        }
        serde_json::from_value(value)
    }

    /// The text of config.json: four spaces, as Go's tools write it.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        self.serialize(&mut serializer)
            .expect("a record is plain data with text keys");
        text.push(b'\n');
        text
    }
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, inner| !inner.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}
