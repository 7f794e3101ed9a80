//! What a container is made of: the settings its creator chose, merged with those of its image. Fixed at create.

use crate::images::{Digest, Healthcheck, Image};
use crate::networks::{EndpointSettings, PortRequest};
use crate::runtime::{DevicePlan, ResourcePlan, Rlimit, TtySize};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Everything that is fixed when a container is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub config: Config,
    pub host: HostSettings,
    /// Id of the image.
    pub image: Digest,
    pub top_layer: Option<Digest>,
    /// The image's operating system: `linux`.
    pub platform: String,
    /// Resolved mounts, in the order in which they are mounted.
    pub mounts: Vec<MountPoint>,
    /// In no record, so that it goes with this engine.
    #[serde(skip)]
    pub hidden_env: HiddenEnv,
}

/// `NAME=value` of secrets: the first process has them, and nobody is shown or told of them. Cannot be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HiddenEnv(pub Vec<String>);

impl std::fmt::Debug for HiddenEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HiddenEnv(hidden)")
    }
}

impl ContainerSpec {
    /// Program and arguments: entry point, then command.
    pub fn args(&self) -> impl Iterator<Item = &String> {
        let entrypoint = self.config.entrypoint.iter().flatten();
        entrypoint.chain(self.config.cmd.iter().flatten())
    }

    /// The images that are mounted; not the one the container is made from.
    pub fn mounted_images(&self) -> impl Iterator<Item = (&MountPoint, &MountedImage)> {
        let mounts = self.mounts.iter();
        mounts.filter_map(|mount| Some((mount, mount.image.as_ref()?)))
    }

    /// Whether the container cannot be without this image.
    pub fn uses_image(&self, id: &Digest) -> bool {
        self.image == *id || self.mounted_images().any(|(_, image)| image.id == *id)
    }
}

/// The part that an image can have an opinion on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Config {
    pub hostname: String,
    pub domain_name: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub exposed_ports: BTreeSet<String>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: Vec<String>,
    pub cmd: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    /// As its creator named it.
    pub image: String,
    pub volumes: BTreeSet<String>,
    pub working_directory: String,
    pub network_disabled: bool,
    pub on_build: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    /// Seconds; -1 waits for ever.
    pub stop_timeout: Option<i64>,
    pub shell: Option<Vec<String>>,
    pub healthcheck: Option<Healthcheck>,
}

/// The part that only concerns this host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HostSettings {
    /// As given: `source:target[:mode]`.
    pub binds: Vec<String>,
    pub mounts: Vec<MountRequest>,
    /// target -> options
    pub tmpfs: BTreeMap<String, String>,
    /// `container[:ro|:rw]`
    pub volumes_from: Vec<String>,
    pub volume_driver: String,
    pub container_id_file: String,
    pub log: LogSettings,
    pub network: NetworkChoice,
    /// Ports asked for, by `80/tcp` as the creator wrote them (for inspect).
    pub port_bindings: BTreeMap<String, Vec<PortBinding>>,
    pub publish_all_ports: bool,
    pub mac_address: Option<String>,
    pub restart: RestartPolicy,
    pub auto_remove: bool,
    pub console_size: Option<TtySize>,
    pub annotations: BTreeMap<String, String>,
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    pub cgroup_namespace: NamespaceMode,
    pub dns: Vec<String>,
    pub dns_options: Vec<String>,
    pub dns_search: Vec<String>,
    pub extra_hosts: Vec<String>,
    /// `--link`, as given: `container[:alias]`.
    #[serde(default)]
    pub links: Vec<String>,
    /// What was asked of networks when the container was made, by their names; what holds is in its memberships.
    #[serde(default)]
    pub endpoints: BTreeMap<String, EndpointSettings>,
    pub group_add: Vec<String>,
    pub ipc: IpcMode,
    pub pid: NamespaceMode,
    pub uts: NamespaceMode,
    pub oom_score_adj: i32,
    pub privileged: bool,
    pub read_only_root: bool,
    pub security: Vec<String>,
    /// Bytes.
    pub shm_size: u64,
    pub sysctls: BTreeMap<String, String>,
    pub runtime: Option<String>,
    pub init: Option<bool>,
    pub cgroup_parent: String,
    pub resources: ResourcePlan,
    /// Billionths of a processor, as given; `resources` has period and quota.
    pub nano_cpus: i64,
    pub devices: Vec<DevicePlan>,
    pub device_rules: Vec<String>,
    pub ulimits: Vec<Rlimit>,
    /// `UsernsMode` as given: empty or `host`, which are the same here.
    #[serde(default)]
    pub user_namespace: String,
    /// `Isolation` as given: empty or `default`.
    #[serde(default)]
    pub isolation: String,
    /// `StorageOpt` as given; its `size` is kept where the file system can.
    #[serde(default)]
    pub storage_options: BTreeMap<String, String>,
    pub masked_paths: Option<Vec<String>>,
    pub read_only_paths: Option<Vec<String>>,
}

/// One entry of `PortBindings`, as given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortBinding {
    pub host_ip: String,
    pub host_port: String,
}

/// `--network`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkChoice {
    #[default]
    Bridge,
    Host,
    None,
    /// Id of the other container (its name until create has looked it up).
    Container(String),
    Named(String),
}

impl NetworkChoice {
    /// From Docker's text; empty and `default` are the bridge.
    pub fn parse(text: &str) -> NetworkChoice {
        match text {
            "" | "default" | "bridge" => NetworkChoice::Bridge,
            "host" => NetworkChoice::Host,
            "none" => NetworkChoice::None,
            _ => match text.strip_prefix("container:") {
                Some(other) => NetworkChoice::Container(other.to_owned()),
                None => NetworkChoice::Named(text.to_owned()),
            },
        }
    }

    /// Docker's `NetworkMode`.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            NetworkChoice::Bridge => "bridge".into(),
            NetworkChoice::Host => "host".into(),
            NetworkChoice::None => "none".into(),
            NetworkChoice::Container(id) => format!("container:{id}").into(),
            NetworkChoice::Named(name) => name.into(),
        }
    }
}

/// Whose PID, UTS or cgroup namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    #[default]
    Own,
    Host,
    /// PID only.
    Container(String),
}

/// Whose IPC namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    /// Own; may not be joined by others.
    #[default]
    Private,
    /// Own; may be joined.
    Shareable,
    /// Own, without /dev/shm.
    None,
    Host,
    Container(String),
}

impl IpcMode {
    /// From Docker's text; `None` is not a mode.
    pub fn parse(text: &str) -> Option<IpcMode> {
        Some(match text {
            "" | "private" => IpcMode::Private,
            "shareable" => IpcMode::Shareable,
            "none" => IpcMode::None,
            "host" => IpcMode::Host,
            _ => IpcMode::Container(joined(text)?),
        })
    }

    pub fn text(&self) -> String {
        match self {
            IpcMode::Private => "private".into(),
            IpcMode::Shareable => "shareable".into(),
            IpcMode::None => "none".into(),
            IpcMode::Host => "host".into(),
            IpcMode::Container(id) => format!("container:{id}"),
        }
    }
}

/// The name in `container:NAME`.
fn joined(text: &str) -> Option<String> {
    let name = text.strip_prefix("container:")?;
    (!name.is_empty()).then(|| name.to_owned())
}

impl NamespaceMode {
    /// `--pid`.
    pub fn parse_pid(text: &str) -> Option<NamespaceMode> {
        Some(match text {
            "" | "private" => NamespaceMode::Own,
            "host" => NamespaceMode::Host,
            _ => NamespaceMode::Container(joined(text)?),
        })
    }

    /// `--uts`.
    pub fn parse_uts(text: &str) -> Option<NamespaceMode> {
        match text {
            "" => Some(NamespaceMode::Own),
            "host" => Some(NamespaceMode::Host),
            _ => None,
        }
    }

    /// `--cgroupns`.
    pub fn parse_cgroup(text: &str) -> Option<NamespaceMode> {
        match text {
            "" | "private" => Some(NamespaceMode::Own),
            "host" => Some(NamespaceMode::Host),
            _ => None,
        }
    }

    /// Docker's text of a PID or UTS mode.
    pub fn text(&self) -> String {
        match self {
            NamespaceMode::Own => String::new(),
            NamespaceMode::Host => "host".into(),
            NamespaceMode::Container(id) => format!("container:{id}"),
        }
    }
}

/// `--restart`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    #[default]
    No,
    Always,
    UnlessStopped,
    /// At most so many times; 0 is without limit.
    OnFailure(u32),
}

impl RestartPolicy {
    /// From Docker's `Name` and `MaximumRetryCount`; the error is Docker's sentence.
    pub fn parse(name: &str, maximum: i64) -> Result<RestartPolicy, String> {
        if maximum != 0 && matches!(name, "no" | "always" | "unless-stopped") {
            return Err(if maximum < 0 {
                "invalid restart policy: maximum retry count can only be used with 'on-failure' and cannot be negative".into()
            } else {
                "invalid restart policy: maximum retry count can only be used with 'on-failure'"
                    .into()
            });
        }
        match name {
            "" | "no" => Ok(RestartPolicy::No),
            "always" => Ok(RestartPolicy::Always),
            "unless-stopped" => Ok(RestartPolicy::UnlessStopped),
            "on-failure" => u32::try_from(maximum)
                .map(RestartPolicy::OnFailure)
                .map_err(|_| {
                    "invalid restart policy: maximum retry count cannot be negative".into()
                }),
            _ => Err(format!(
                "invalid restart policy: unknown policy '{name}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            RestartPolicy::No => "no",
            RestartPolicy::Always => "always",
            RestartPolicy::UnlessStopped => "unless-stopped",
            RestartPolicy::OnFailure(_) => "on-failure",
        }
    }

    pub fn maximum(self) -> u32 {
        match self {
            RestartPolicy::OnFailure(maximum) => maximum,
            _ => 0,
        }
    }
}

/// `--log-driver` and `--log-opt`, as given, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// `json-file`, `local` (written as json-file) or `none`.
    pub driver: String,
    pub options: BTreeMap<String, String>,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings {
            driver: "json-file".into(),
            options: BTreeMap::new(),
        }
    }
}

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    Bind,
    Volume,
    Tmpfs,
    Image,
}

impl MountKind {
    pub fn name(self) -> &'static str {
        match self {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
            MountKind::Image => "image",
        }
    }
}

/// One entry of `Mounts` in a create request (`docker run --mount`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRequest {
    pub kind: MountKind,
    pub source: String,
    pub target: String,
    pub read_only: bool,
    pub consistency: String,
    pub bind: Option<BindOptions>,
    pub volume: Option<VolumeOptions>,
    pub tmpfs: Option<TmpfsOptions>,
    #[serde(default)]
    pub image: Option<ImageOptions>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindOptions {
    pub propagation: String,
    pub non_recursive: bool,
    pub create_mount_point: bool,
    #[serde(default)]
    pub read_only_non_recursive: bool,
    #[serde(default)]
    pub read_only_force_recursive: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeOptions {
    pub no_copy: bool,
    pub labels: BTreeMap<String, String>,
    pub driver: String,
    pub driver_options: BTreeMap<String, String>,
    pub subpath: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsOptions {
    /// Bytes; 0 is without limit.
    pub size: i64,
    /// File mode bits; 0 is the default, 1777.
    pub mode: u32,
    pub options: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageOptions {
    pub subpath: String,
}

/// An image whose files are mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedImage {
    pub id: Digest,
    /// Chain id of its top layer; none where it has no layers.
    pub top_layer: Option<Digest>,
}

/// A mount as it will be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    pub kind: MountKind,
    /// The volume's name, or the image's as its creator wrote it.
    pub name: Option<String>,
    /// On the host; empty for tmpfs and for volumes that are not made yet. Of an image the folder of its top layer.
    pub source: PathBuf,
    pub destination: String,
    pub driver: Option<String>,
    /// As given, for inspect: `ro`, `z`, ...
    pub mode: String,
    pub read_write: bool,
    pub propagation: String,
    pub recursive: bool,
    /// Nobody named the volume: it goes with the container.
    pub anonymous: bool,
    /// What the image has at the destination is copied into an empty volume.
    pub copy_up: bool,
    /// A missing source on the host is made.
    pub create_source: bool,
    pub tmpfs_options: Vec<String>,
    /// Path inside the volume or the image.
    pub subpath: String,
    /// Which image, as soon as it is looked up.
    #[serde(default)]
    pub image: Option<MountedImage>,
    /// For a volume made for this mount.
    pub volume_labels: BTreeMap<String, String>,
    pub volume_options: BTreeMap<String, String>,
    /// Read-only, but not what is mounted below it.
    #[serde(default)]
    pub submounts_writable: bool,
    /// It came from `--mount`: inspect has it in `HostConfig.Mounts`.
    pub from_mount_flag: bool,
}

/// A request to make a container: what the creator asked for, before the image has spoken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CreateRequest {
    pub name: Option<String>,
    /// `os[/arch[/variant]]`.
    pub platform: Option<String>,
    pub config: Config,
    pub host: HostSettings,
    /// Sentences for the answer's `Warnings`.
    pub warnings: Vec<String>,
    /// It is a step of a build.
    pub step: Option<BuildStep>,
}

/// What a container of a build stands on. It would not outlive a crash of the host.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildStep {
    /// A state between two steps, which is no image that could be looked up.
    pub image: Image,
    /// Beside those that the settings ask for.
    pub mounts: Vec<MountPoint>,
    /// Over those of the settings.
    pub hidden_env: HiddenEnv,
}

/// Ports that are published, from the bindings and, with `publish_all`, the exposed ones.
pub type PortRequests = Vec<PortRequest>;
