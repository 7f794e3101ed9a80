//! `docker create`: check everything, then change.

use super::container::Container;
use super::error::ContainerError;
use super::lifecycle::ContainerState;
use super::log_drivers;
use super::memberships::{self, Memberships, split_link};
use super::output::OutputHub;
use super::resources::Purpose;
use super::service::ContainerService;
use super::spec::{
    Config, ContainerSpec, CreateRequest, HiddenEnv, HostSettings, IpcMode, MountKind, MountPoint,
    MountedImage, NamespaceMode, NetworkChoice,
};
use super::status::Status;
use super::store::{ContainerRecord, Durability};
use super::supervisor::Supervisor;
use super::{
    capabilities, etc_files, health, merge, mounts, names, plan, ports, resources, security,
    signals,
};
use crate::error::{Class, Classify};
use crate::id::ContainerId;
use crate::images::{Image, ImageLookupError, Platform};
use crate::runtime::{AppArmor, RuntimeFacts};
use crate::volumes::CreateVolume;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, RwLock};
use tokio::sync::{mpsc, watch};

/// Commands that may wait for a supervisor.
const WAITING: usize = 16;

/// What a create answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub id: ContainerId,
    pub warnings: Vec<String>,
}

impl ContainerService {
    /// Makes a container; when this returns, it survives a crash of the host.
    pub async fn create(&self, mut request: CreateRequest) -> Result<Created, ContainerError> {
        let mut warnings = std::mem::take(&mut request.warnings);
        if let Some(name) = &request.name
            && names::parse(name).is_none()
        {
            return Err(ContainerError::invalid(names::refusal(name)));
        }
        self.apply_defaults(&mut request.host);
        check_config(&request.config).map_err(ContainerError::invalid)?;
        let facts = self.deps.runtime.facts();
        check_host(&request.config, &mut request.host, &facts).map_err(ContainerError::invalid)?;
        let limits_size = self.deps.layers.limits_size();
        size_limit(&request.host, limits_size).map_err(ContainerError::invalid)?;
        let devices = &mut request.host.resources.blkio_weight_devices;
        let asked = devices.len();
        devices.retain(|(device, _)| self.deps.runtime.has_weights(device));
        if devices.len() < asked {
            warnings.push(resources::discarded(
                "Block I/O weight_device",
                "Weight-device",
            ));
        }
        let processors = self.deps.settings.processors;
        warnings.extend(
            resources::settle(&mut request.host, &facts, processors, Purpose::Create)
                .map_err(ContainerError::invalid)?,
        );
        if let Some(runtime) = &request.host.runtime
            && !facts.runtimes.contains_key(runtime)
            && !plan::names_built_in(runtime)
        {
            return Err(ContainerError::invalid(format!(
                "unknown or invalid runtime name: {runtime}"
            )));
        }
        self.resolve_references(&mut request.host)
            .map_err(missing_reference)?;
        let memberships = memberships::resolve(&mut request.host, &self.deps.networks)
            .map_err(|error| missing_reference(ContainerError::Connect(error)))?;
        if request.config.hostname.is_empty() && request.host.network == NetworkChoice::Host {
            request
                .config
                .hostname
                .clone_from(&self.deps.settings.hostname);
        }

        let wanted = match &request.platform {
            Some(text) => Some(Platform::parse_or_explain(text).map_err(ContainerError::invalid)?),
            None => None,
        };
        let step = request.step.take();
        let (image, step_mounts, hidden_env) = match step {
            Some(step) => (step.image, Some(step.mounts), step.hidden_env),
            None => (self.image(&request).await?, None, HiddenEnv::default()),
        };
        let (found, native) = (platform_of(&image), Platform::host());
        if let Some(wanted) = wanted {
            if !wanted.is_served_by(&found) {
                // Clients read the class, and pull.
                return Err(ContainerError::Image(ImageLookupError::OtherPlatform {
                    name: request.config.image,
                    platform: wanted.familiar(),
                }));
            }
        } else if step_mounts.is_none() && !native.is_served_by(&found) {
            warnings.push(format!(
                "The requested image's platform ({found}) does not match the detected host platform ({native}) and no specific platform was requested"
            ));
        }
        let mut config = merge::with_image(request.config, &image.config);
        config.exposed_ports = exposed(&config, &request.host).map_err(ContainerError::invalid)?;
        ports::requests(
            &request.host.port_bindings,
            &config.exposed_ports,
            request.host.publish_all_ports,
        )
        .map_err(ContainerError::invalid)?;
        if config
            .cmd
            .iter()
            .flatten()
            .chain(config.entrypoint.iter().flatten())
            .next()
            .is_none()
        {
            return Err(ContainerError::invalid("no command specified"));
        }
        if let Some(check) = &config.healthcheck {
            warnings.extend(health::check(check).map_err(ContainerError::invalid)?);
        }
        let from = self
            .volumes_from(&request.host)
            .map_err(missing_reference)?;
        let mut points = mounts::collect(
            &request.host,
            &config.volumes,
            from,
            self.deps.settings.desktop_folders.is_some(),
        )
        .map_err(ContainerError::invalid)?;
        self.find_images(&mut points).await?;
        let is_step = step_mounts.is_some();
        points.extend(step_mounts.into_iter().flatten());

        let id = ContainerId::random();
        let name = self.take_name(request.name.as_deref(), &id)?;
        let spec = ContainerSpec {
            config,
            host: request.host,
            image: image.id,
            top_layer: image.top_layer,
            platform: image.os,
            mounts: points,
            hidden_env,
        };
        let made = match self.made_durable(&spec).await {
            Ok(()) => self.make(&id, &name, spec, memberships, is_step).await,
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => Ok(Created { id, warnings }),
            Err(error) => {
                self.registry.release(&name, &id);
                Err(error)
            }
        }
    }

    /// Finds the image; a plain id may be given, too.
    async fn image(&self, request: &CreateRequest) -> Result<Image, ContainerError> {
        if request.config.image.is_empty() {
            return Err(ContainerError::invalid("no image specified"));
        }
        Ok(self.deps.images.resolve(&request.config.image).await?)
    }

    /// Looks up the images that are to be mounted. Those of another container are known already.
    async fn find_images(&self, mounts: &mut [MountPoint]) -> Result<(), ContainerError> {
        for mount in mounts {
            let (MountKind::Image, Some(name), None) = (mount.kind, &mount.name, &mount.image)
            else {
                continue;
            };
            let image = self.deps.images.resolve(name).await?;
            mount.source = self.deps.layers.stacked(image.top_layer.as_ref())?.top();
            mount.image = Some(MountedImage {
                id: image.id,
                top_layer: image.top_layer,
            });
        }
        Ok(())
    }

    async fn made_durable(&self, spec: &ContainerSpec) -> Result<(), ContainerError> {
        self.deps.images.made_durable(&spec.image).await?;
        for (_, image) in spec.mounted_images() {
            self.deps.images.made_durable(&image.id).await?;
        }
        Ok(())
    }

    /// So that their layers stay as long as the container, also where they are removed by force.
    pub(super) async fn keep_images(
        &self,
        id: &ContainerId,
        spec: &ContainerSpec,
    ) -> Result<(), ContainerError> {
        let images = spec.mounted_images();
        let layers: Vec<_> = images
            .filter_map(|(_, image)| image.top_layer.clone())
            .collect();
        if !layers.is_empty() {
            self.deps.layers.keep(id, layers).await?;
        }
        Ok(())
    }

    fn apply_defaults(&self, host: &mut HostSettings) {
        let settings = &self.deps.settings;
        if host.log.driver.is_empty() {
            host.log.driver.clone_from(&settings.log.driver);
            if host.log.options.is_empty() {
                host.log.options.clone_from(&settings.log.options);
            }
        }
        if host.shm_size == 0 {
            host.shm_size = settings.shm_size;
        }
        if host.init.is_none() && settings.init {
            host.init = Some(true);
        }
        if host.cgroup_parent.is_empty() {
            host.cgroup_parent.clone_from(&settings.cgroup_parent);
        }
        if settings.no_new_privileges
            && !host
                .security
                .iter()
                .any(|option| option.starts_with("no-new-privileges"))
        {
            host.security.push("no-new-privileges".into());
        }
        for limit in &settings.ulimits {
            if !host.ulimits.iter().any(|own| own.name == limit.name) {
                host.ulimits.push(limit.clone());
            }
        }
        if host.runtime.is_none() {
            host.runtime.clone_from(&settings.runtime);
        }
        if host.runtime.as_deref() == Some("") {
            host.runtime = None;
        }
    }

    /// Turns names of other containers into ids, so that a rename does not break the connection.
    fn resolve_references(&self, host: &mut HostSettings) -> Result<(), ContainerError> {
        if let NetworkChoice::Container(name) = &mut host.network {
            *name = self.find(name)?.id.to_string();
        }
        if let IpcMode::Container(name) = &mut host.ipc {
            let other = self.find(name)?;
            if !matches!(other.spec.host.ipc, IpcMode::Shareable | IpcMode::Host) {
                return Err(ContainerError::Conflict {
                    why: format!(
                        "can't join IPC of container {name}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
                    ),
                });
            }
            *name = other.id.to_string();
        }
        if let NamespaceMode::Container(name) = &mut host.pid {
            *name = self.find(name)?.id.to_string();
        }
        for link in &host.links {
            let Some((name, _)) = split_link(link) else {
                return Err(ContainerError::invalid(format!(
                    "bad format for links: {link}"
                )));
            };
            if self.find(name).is_err() {
                return Err(ContainerError::invalid(format!(
                    "could not get container for {name}"
                )));
            }
        }
        Ok(())
    }

    fn volumes_from(&self, host: &HostSettings) -> Result<Vec<MountPoint>, ContainerError> {
        let mut all: Vec<MountPoint> = Vec::new();
        for text in &host.volumes_from {
            let (name, read_only) =
                mounts::parse_volumes_from(text).map_err(ContainerError::invalid)?;
            for mount in &self.find(name)?.spec.mounts {
                if mount.kind == MountKind::Tmpfs
                    || all
                        .iter()
                        .any(|other| other.destination == mount.destination)
                {
                    continue;
                }
                let mut mount = mount.clone();
                // It belongs to the container that brought it.
                mount.anonymous = false;
                mount.copy_up = false;
                mount.from_mount_flag = false;
                if read_only == Some(true) {
                    mount.read_write = false;
                }
                all.push(mount);
            }
        }
        Ok(all)
    }

    fn take_name(&self, wanted: Option<&str>, id: &ContainerId) -> Result<String, ContainerError> {
        if let Some(name) = wanted.and_then(names::parse) {
            self.registry.reserve(name, id)?;
            return Ok(name.to_owned());
        }
        for attempt in 0..6 {
            let name = names::generate(attempt);
            if self.registry.reserve(&name, id).is_ok() {
                return Ok(name);
            }
        }
        // A host with that many containers: the id is as good as any name.
        let name = id.short().to_owned();
        self.registry.reserve(&name, id)?;
        Ok(name)
    }

    /// The part that changes things. After an error nothing is left.
    async fn make(
        &self,
        id: &ContainerId,
        name: &str,
        mut spec: ContainerSpec,
        memberships: Memberships,
        is_step: bool,
    ) -> Result<(), ContainerError> {
        let result = self.build(id, name, &mut spec, memberships, is_step).await;
        if result.is_err() {
            self.discard_volumes(id, &spec.mounts).await;
            if let Err(error) = self.deps.layers.remove(id).await {
                tracing::warn!(container = %id, %error, "layer of a container that could not be made is left over");
            }
            let _ = self.deps.store.remove(id).await;
        }
        result
    }

    async fn build(
        &self,
        id: &ContainerId,
        name: &str,
        spec: &mut ContainerSpec,
        memberships: Memberships,
        is_step: bool,
    ) -> Result<(), ContainerError> {
        for mount in spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Bind)
        {
            // Docker checks `--mount` at create, and makes what `-v` names at start.
            let shared = &self.deps.settings.desktop_folders;
            let must_exist = !mount.create_source || shared.is_some();
            if must_exist && !self.deps.files.exists(&mount.source).await {
                return Err(mounts::missing_source(&mount.source, shared.as_deref()));
            }
        }
        self.deps
            .layers
            .prepare(id, spec.top_layer.as_ref())
            .await?;
        self.keep_images(id, spec).await?;
        let size = size_limit(&spec.host, true).map_err(ContainerError::invalid)?;
        if let Some(bytes) = size {
            self.deps.layers.limit(id, bytes).await?;
        }
        self.obtain_volumes(id, spec).await?;
        let record = ContainerRecord {
            id: id.clone(),
            name: name.to_owned(),
            created: self.deps.clock.now(),
            spec: spec.clone(),
            state: ContainerState::Created,
            started_at: None,
            finished_at: None,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            restart_count: 0,
            stopped_by_hand: false,
            paused_for_commit: false,
            network: None,
            health: None,
            memberships: Some(memberships),
        };
        // A container that goes when it ends would not outlive a crash of the host anyhow.
        let durability = if spec.host.auto_remove || is_step {
            Durability::Written
        } else {
            Durability::Synced
        };
        self.deps.store.save(&record, durability).await?;
        let container = self.adopt_new(record);
        self.deps.tell(&container, "create", []);
        Ok(())
    }

    /// Makes volumes that are not there, and fills new ones from the image.
    async fn obtain_volumes(
        &self,
        id: &ContainerId,
        spec: &mut ContainerSpec,
    ) -> Result<(), ContainerError> {
        let mut copy_up = Vec::new();
        for mount in spec
            .mounts
            .iter_mut()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            let request = CreateVolume {
                name: mount.name.clone().unwrap_or_default(),
                driver: mount.driver.clone().unwrap_or_default(),
                driver_options: mount.volume_options.clone(),
                labels: mount.volume_labels.clone(),
            };
            let volume = self.deps.volumes.acquire(request, id).await?;
            mount.name = Some(volume.name);
            mount.source = volume.mountpoint;
            if mount.copy_up
                && mount.subpath.is_empty()
                && let Some(name) = mount.name.clone()
            {
                copy_up.push((mount.destination.clone(), mount.source.clone(), name));
            }
        }
        if copy_up.is_empty() {
            return Ok(());
        }
        let rootfs = self.deps.layers.mount(id, spec.top_layer.as_ref()).await?;
        let mut result = Ok(());
        for (target, volume, name) in copy_up {
            if let Err(error) = self.deps.volumes.hold(&name, id).await {
                result = Err(error.into());
                break;
            }
            let copied = self.deps.files.copy_up(&rootfs, &target, &volume).await;
            self.deps.volumes.let_go(&name, id).await;
            if let Err(error) = copied {
                result = Err(ContainerError::storage(
                    format!("copy {target} of the image to its volume"),
                    error,
                ));
                break;
            }
        }
        self.deps.layers.unmount(id).await?;
        result
    }

    /// Gives the volumes of a container back, and removes its anonymous ones.
    async fn discard_volumes(&self, id: &ContainerId, mounts: &[MountPoint]) {
        for mount in mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            let Some(name) = &mount.name else { continue };
            self.deps.volumes.release(name, id);
            if mount.anonymous {
                let _ = self.deps.volumes.remove(name, true).await;
            }
        }
    }

    /// Puts a container among the others and starts its supervisor.
    fn adopt_new(&self, record: ContainerRecord) -> Arc<Container> {
        let status = record.status();
        self.adopt(record, status)
    }

    /// As it is said to be.
    pub(super) fn adopt(&self, record: ContainerRecord, status: Status) -> Arc<Container> {
        let (container, supervisor) = self.prepare_adoption(record, status);
        self.set_going(&container, supervisor);
        container
    }

    pub(super) fn prepare_adoption(
        &self,
        record: ContainerRecord,
        status: Status,
    ) -> (Arc<Container>, Supervisor) {
        let (publish, watch) = watch::channel(status);
        let (sender, commands) = mpsc::channel(WAITING);
        let container = Arc::new(Container {
            id: record.id,
            created: record.created,
            spec: Arc::new(record.spec),
            hub: Arc::new(OutputHub::default()),
            name: RwLock::new(record.name),
            status: watch,
            task: RwLock::new(None),
            commands: sender,
            supervisor: OnceLock::new(),
        });
        self.registry.insert(container.clone());
        let supervisor = Supervisor::new(
            self.deps.clone(),
            self.registry.clone(),
            container.clone(),
            commands,
            publish,
        );
        (container, supervisor)
    }

    pub(super) fn set_going(&self, container: &Container, supervisor: Supervisor) {
        let task = tokio::spawn(supervisor.run());
        let _ = container.supervisor.set(task.abort_handle());
    }
}

/// Clients take a 404 of a create for a missing image and pull it: another container or network that is missing is told as
/// a mistake of the request.
fn missing_reference(error: ContainerError) -> ContainerError {
    match error.class() {
        Class::NotFound => {
            let text = match &error {
                ContainerError::Network(inner) | ContainerError::Connect(inner) => {
                    inner.to_string()
                }
                other => other.to_string(),
            };
            ContainerError::invalid(text)
        }
        _ => error,
    }
}

fn check_config(config: &Config) -> Result<(), String> {
    if !config.working_directory.is_empty() && !config.working_directory.starts_with('/') {
        return Err(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_directory
        ));
    }
    for entry in &config.env {
        if entry.is_empty() || entry.starts_with('=') {
            return Err(format!("invalid environment variable: {entry}"));
        }
        if entry.contains('\0') {
            return Err("invalid environment variable: it contains a zero byte".into());
        }
    }
    if let Some(signal) = config
        .stop_signal
        .as_deref()
        .filter(|signal| !signal.is_empty())
        && signals::parse(signal).is_none()
    {
        return Err(signals::refusal(signal));
    }
    if config.hostname.len() > 64 || config.hostname.contains(['/', '\0', '\n', ' ']) {
        return Err(format!("invalid hostname format: {}", config.hostname));
    }
    Ok(())
}

/// How many bytes the container's own layer may hold, where `StorageOpt` says so (moby `daemon/graphdriver/overlay2`).
fn size_limit(host: &HostSettings, limits_size: bool) -> Result<Option<u64>, String> {
    if host.storage_options.is_empty() {
        return Ok(None);
    }
    if !limits_size {
        return Err(
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
                .into(),
        );
    }
    let mut size = None;
    for (name, value) in &host.storage_options {
        if !name.eq_ignore_ascii_case("size") {
            return Err(format!("Unknown option {name}"));
        }
        let bytes = log_drivers::parse_size(value);
        size = Some(bytes.ok_or_else(|| format!("invalid size: '{value}'"))?);
    }
    Ok(size.filter(|bytes| *bytes > 0))
}

/// What contradicts itself (moby `runconfig` and `daemon/container.go`).
fn check_host(
    config: &Config,
    host: &mut HostSettings,
    facts: &RuntimeFacts,
) -> Result<(), String> {
    if host.auto_remove && host.restart != super::spec::RestartPolicy::No {
        return Err("can't create 'AutoRemove' container with restart policy".into());
    }
    host.cap_add = capabilities::normalize("CapAdd", &host.cap_add)?;
    host.cap_drop = capabilities::normalize("CapDrop", &host.cap_drop)?;
    let security = security::parse(&host.security)?;
    if let AppArmor::Profile(profile) = security.apparmor
        && !facts.apparmor
    {
        return Err(format!(
            "invalid --security-opt: \"apparmor={profile}\": AppArmor is not enabled on this host"
        ));
    }
    log_drivers::check(&host.log)?;
    for extra in &host.extra_hosts {
        if etc_files::split_extra_host(extra).is_none() {
            return Err(format!(
                "invalid extra host: bad format for add-host: \"{extra}\""
            ));
        }
    }
    for server in &host.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("invalid DNS server: {server}: not an IP address"));
        }
    }
    for name in host.sysctls.keys() {
        let network = name.starts_with("net.");
        if network && host.network == NetworkChoice::Host {
            return Err(format!(
                "sysctl '{name}' not allowed in host network namespace"
            ));
        }
        let ipc = ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."];
        let of_ipc = ipc.iter().any(|prefix| name.starts_with(prefix));
        if of_ipc && host.ipc == IpcMode::Host {
            return Err(format!("sysctl '{name}' not allowed in host ipc namespace"));
        }
        let of_uts = name == "kernel.domainname" && host.uts == NamespaceMode::Own;
        // For a privileged container, too, as in runc: they are the host's.
        if !(network || of_ipc || of_uts) {
            return Err(format!(
                "sysctl '{name}' is not allowed: it is not of the container's own namespaces"
            ));
        }
    }
    if host.network == NetworkChoice::Host && !host.links.is_empty() {
        return Err("conflicting options: host type networking can't be used with links. This would result in undefined behavior".into());
    }
    if host.uts == NamespaceMode::Host && !config.hostname.is_empty() {
        return Err("conflicting options: hostname and the UTS mode".into());
    }
    if let NetworkChoice::Container(_) = host.network {
        let conflict =
            |other: &str| Err(format!("conflicting options: {other} and the network mode"));
        if !config.hostname.is_empty() {
            return conflict("hostname");
        }
        if !host.dns.is_empty() {
            return conflict("dns");
        }
        if !host.extra_hosts.is_empty() {
            return conflict("custom host-to-IP mapping");
        }
        if host.mac_address.is_some() {
            return conflict("mac-address");
        }
        if !host.links.is_empty() {
            return conflict("links");
        }
        if !host.port_bindings.is_empty() || host.publish_all_ports {
            return conflict("port publishing");
        }
        if !config.exposed_ports.is_empty() {
            return conflict("port exposing");
        }
    }
    let macs = host
        .endpoints
        .values()
        .filter_map(|settings| settings.mac_address.as_ref());
    for mac in host.mac_address.iter().chain(macs) {
        if !is_mac_address(mac) {
            return Err(format!("{mac} is not a valid mac address"));
        }
    }
    for device in &host.devices {
        if device.permissions.is_empty()
            || !device
                .permissions
                .bytes()
                .all(|byte| b"rwm".contains(&byte))
        {
            return Err(format!("invalid device mode: {}", device.permissions));
        }
    }
    for rule in &host.device_rules {
        if !is_device_rule(rule) {
            return Err(format!("invalid device cgroup rule format: '{rule}'"));
        }
    }
    Ok(())
}

fn is_mac_address(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    parts.len() == 6
        && parts
            .iter()
            .all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// `c 10:200 rwm`, `a *:* rwm`.
fn is_device_rule(rule: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    let [kind, numbers, access] = words.as_slice() else {
        return false;
    };
    let number = |text: &str| text == "*" || text.parse::<u32>().is_ok();
    ["a", "b", "c"].contains(kind)
        && numbers
            .split_once(':')
            .is_some_and(|(major, minor)| number(major) && number(minor))
        && (1..=3).contains(&access.len())
        && access.bytes().all(|byte| b"rwm".contains(&byte))
}

/// Exposed: what the image and the creator say, and every port that is published.
fn exposed(config: &Config, host: &HostSettings) -> Result<BTreeSet<String>, String> {
    ports::shown_as_exposed(&config.exposed_ports, host.port_bindings.keys())
}

/// What an image says it runs on.
fn platform_of(image: &Image) -> Platform {
    Platform {
        os: image.os.clone(),
        architecture: image.architecture.clone(),
        variant: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_device_rule, size_limit};

    #[test]
    fn the_size_of_a_root_is_limited_where_the_file_system_can() {
        let host = |name: &str, value: &str| {
            let mut host = crate::containers::testing::spec().host;
            host.storage_options = [(name.to_owned(), value.to_owned())].into();
            host
        };
        assert_eq!(size_limit(&host("size", "1g"), true), Ok(Some(1 << 30)));
        assert_eq!(size_limit(&host("size", "0"), true), Ok(None));
        for (name, value, limits, why) in [
            ("size", "1g", false, "supported only for overlay over xfs"),
            ("size", "big", true, "invalid size: 'big'"),
            ("colour", "red", true, "Unknown option colour"),
        ] {
            let error = size_limit(&host(name, value), limits).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn device_rules() {
        assert!(is_device_rule("c 10:200 rwm"));
        assert!(is_device_rule("a *:* rwm"));
        assert!(!is_device_rule("d 1:2 r"));
        assert!(!is_device_rule("c 1 r"));
        assert!(!is_device_rule("c 1:2 rwmx"));
    }
}
