//! Containers as Docker shows them: every key dockerd 28 fills is there, with its zero value where there is nothing to say.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use engine::clock::{ZERO_TIME, rfc3339};
use engine::containers::Container;
use engine::containers::etc_files;
use engine::containers::lifecycle::ContainerState;
use engine::containers::log_drivers;
use engine::containers::memberships::{Membership, split_link};
use engine::containers::output::DetachKeys;
use engine::containers::plan;
use engine::containers::ports::exposed;
use engine::containers::security;
use engine::containers::spec::{
    ContainerSpec, HostSettings, MountPoint, MountRequest, NamespaceMode, NetworkChoice,
};
use engine::containers::status::Status;
use engine::containers::top::ProcessTable;
use engine::execs::ExecFacts;
use engine::id::ExecId;
use engine::images::{ContainerDiskUsage, Healthcheck};
use engine::networks::Endpoint;
use engine::runtime::AppArmor;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use time::OffsetDateTime;

/// Name under which layers are shown: what clients know for overlay file systems.
const STORAGE_DRIVER: &str = "overlay2";
/// Name under which the built-in runtime is shown.
const RUNTIME: &str = engine_linux::runtime::BUILT_IN;

fn time_or_zero(at: Option<OffsetDateTime>) -> String {
    at.map_or_else(|| ZERO_TIME.to_owned(), rfc3339)
}

/// The profile that a container is under, on a host with AppArmor.
pub fn apparmor_profile(host: &HostSettings) -> String {
    let chosen = security::parse(&host.security).map(|security| security.apparmor);
    match chosen.unwrap_or(AppArmor::Default) {
        AppArmor::Profile(name) => name,
        AppArmor::Default if !host.privileged => engine_linux::runtime::APPARMOR_PROFILE.to_owned(),
        _ => "unconfined".to_owned(),
    }
}

/// `GET /containers/{id}/json`.
pub fn inspect(
    container: &Container,
    status: &Status,
    folder: &Path,
    layers: BTreeMap<String, String>,
    execs: &[ExecId],
    size: Option<ContainerDiskUsage>,
) -> Value {
    let spec = &*container.latest_spec();
    let mut args = spec.args();
    let path = args.next().map_or("", String::as_str);
    let args: Vec<&String> = args.collect();
    let log = match spec.host.log.driver.as_str() {
        // The file of the driver `local` is nobody else's business, in Docker as well.
        "none" | "local" => String::new(),
        _ => log_drivers::path(folder, &container.id)
            .display()
            .to_string(),
    };
    let execs = (!execs.is_empty()).then_some(execs);
    let mut shown = json!({
        "Id": container.id,
        "Created": rfc3339(container.created),
        "Path": path,
        "Args": args,
        "State": state(status),
        "Image": spec.image.as_str(),
        "ResolvConfPath": folder.join(plan::RESOLV_CONF_FILE),
        "HostnamePath": folder.join(plan::HOSTNAME_FILE),
        "HostsPath": folder.join(plan::HOSTS_FILE),
        "LogPath": log,
        "Name": format!("/{}", container.name()),
        "RestartCount": status.restart_count,
        "Driver": STORAGE_DRIVER,
        "Platform": spec.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": execs,
        "HostConfig": host_config(spec, &container.name()),
        "GraphDriver": { "Data": layers, "Name": STORAGE_DRIVER },
        "Mounts": spec.mounts.iter().map(mount_point).collect::<Vec<_>>(),
        "Config": config(spec, container.id.short()),
        "NetworkSettings": network_settings(spec, container.id.as_str(), status),
    });
    if let Some(size) = size {
        shown["SizeRw"] = size.writable.into();
        shown["SizeRootFs"] = size.total.into();
    }
    shown
}

fn state(status: &Status) -> Value {
    let state = &status.state;
    let why = match state {
        ContainerState::Dead { why } => why,
        _ => &status.error,
    };
    let mut shown = json!({
        "Status": state.name(),
        "Running": state.is_running(),
        "Paused": matches!(state, ContainerState::Paused { .. }),
        "Restarting": matches!(state, ContainerState::Restarting { .. }),
        "OOMKilled": status.oom_killed,
        "Dead": matches!(state, ContainerState::Dead { .. }),
        "Pid": state.pid(),
        "ExitCode": status.exit_code,
        "Error": why,
        "StartedAt": time_or_zero(status.started_at),
        "FinishedAt": time_or_zero(status.finished_at),
    });
    if let Some(health) = &status.health {
        let log = health.log.iter().map(|probe| {
            json!({
                "Start": rfc3339(probe.start),
                "End": rfc3339(probe.end),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })
        });
        shown["Health"] = json!({
            "Status": health.status.name(),
            "FailingStreak": health.failing_streak,
            "Log": log.collect::<Vec<_>>(),
        });
    }
    shown
}

/// `{"80/tcp": {}}`
fn keys<'a>(names: impl IntoIterator<Item = &'a String>) -> Value {
    let keys: Map<String, Value> = names
        .into_iter()
        .map(|name| (name.clone(), json!({})))
        .collect();
    Value::Object(keys)
}

fn config(spec: &ContainerSpec, short_id: &str) -> Value {
    let config = &spec.config;
    let volumes = (!config.volumes.is_empty()).then(|| keys(&config.volumes));
    let on_build = (!config.on_build.is_empty()).then_some(&config.on_build);
    let hostname = match spec.host.network {
        // It is called as the other container is.
        NetworkChoice::Container(_) => config.hostname.clone(),
        _ => etc_files::hostname(spec, short_id),
    };
    let mut shown = json!({
        "Hostname": hostname,
        "Domainname": config.domain_name,
        "User": config.user,
        "AttachStdin": config.attach_stdin,
        "AttachStdout": config.attach_stdout,
        "AttachStderr": config.attach_stderr,
        "Tty": config.tty,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": config.env,
        "Cmd": config.cmd,
        "Image": config.image,
        "Volumes": volumes,
        "WorkingDir": config.working_directory,
        "Entrypoint": config.entrypoint,
        "OnBuild": on_build,
        "Labels": config.labels,
    });
    // Docker leaves these out where they are not set.
    if !config.exposed_ports.is_empty() {
        shown["ExposedPorts"] = keys(&config.exposed_ports);
    }
    if config.network_disabled {
        shown["NetworkDisabled"] = true.into();
    }
    if let Some(signal) = &config.stop_signal {
        shown["StopSignal"] = signal.as_str().into();
    }
    if let Some(seconds) = config.stop_timeout {
        shown["StopTimeout"] = seconds.into();
    }
    if let Some(shell) = &config.shell {
        shown["Shell"] = json!(shell);
    }
    if let Some(check) = &config.healthcheck {
        shown["Healthcheck"] = healthcheck(check);
    }
    shown
}

fn healthcheck(check: &Healthcheck) -> Value {
    let mut shown = json!({ "Test": check.test });
    for (name, value) in [
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("Retries", check.retries),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ] {
        if value != 0 {
            shown[name] = value.into();
        }
    }
    shown
}

/// `null` for an empty list, as Go writes a slice that was never made.
fn list_or_null<T: serde::Serialize>(list: &[T]) -> Value {
    if list.is_empty() {
        Value::Null
    } else {
        json!(list)
    }
}

fn host_config(spec: &ContainerSpec, name: &str) -> Value {
    let host = &spec.host;
    let links: Vec<String> = host
        .links
        .iter()
        .filter_map(|text| split_link(text))
        .map(|(target, alias)| format!("/{target}:/{name}/{alias}"))
        .collect();
    let paths = |given: &Option<Vec<String>>, defaults: &[&str]| match given {
        _ if host.privileged => Value::Null,
        Some(paths) => json!(paths),
        None => json!(defaults),
    };
    let console = host
        .console_size
        .map_or([0, 0], |size| [size.rows, size.columns]);
    let bindings: Map<String, Value> = host
        .port_bindings
        .iter()
        .map(|(port, targets)| {
            let shown: Vec<Value> = targets
                .iter()
                .map(|target| json!({ "HostIp": target.host_ip, "HostPort": target.host_port }))
                .collect();
            let port = if port.contains('/') {
                port.clone()
            } else {
                format!("{port}/tcp")
            };
            (port, shown.into())
        })
        .collect();
    let mut shown = json!({
        "Binds": list_or_null(&host.binds),
        "ContainerIDFile": host.container_id_file,
        "LogConfig": { "Type": host.log.driver, "Config": host.log.options },
        "NetworkMode": host.network.text(),
        "PortBindings": bindings,
        "RestartPolicy": { "Name": host.restart.name(), "MaximumRetryCount": host.restart.maximum() },
        "AutoRemove": host.auto_remove,
        "VolumeDriver": host.volume_driver,
        "VolumesFrom": list_or_null(&host.volumes_from),
        "ConsoleSize": console,
        "CapAdd": list_or_null(&host.cap_add),
        "CapDrop": list_or_null(&host.cap_drop),
        "CgroupnsMode": match host.cgroup_namespace { NamespaceMode::Host => "host", _ => "private" },
        "Dns": host.dns,
        "DnsOptions": host.dns_options,
        "DnsSearch": host.dns_search,
        "ExtraHosts": list_or_null(&host.extra_hosts),
        "GroupAdd": list_or_null(&host.group_add),
        "IpcMode": host.ipc.text(),
        "Cgroup": "",
        "Links": list_or_null(&links),
        "OomScoreAdj": host.oom_score_adj,
        "PidMode": host.pid.text(),
        "Privileged": host.privileged,
        "PublishAllPorts": host.publish_all_ports,
        "ReadonlyRootfs": host.read_only_root,
        "SecurityOpt": list_or_null(&host.security),
        "UTSMode": host.uts.text(),
        "UsernsMode": host.user_namespace,
        "ShmSize": host.shm_size,
        "Runtime": host.runtime.as_deref().unwrap_or(RUNTIME),
        "Isolation": host.isolation,
        "MaskedPaths": paths(&host.masked_paths, security::MASKED_PATHS),
        "ReadonlyPaths": paths(&host.read_only_paths, security::READ_ONLY_PATHS),
    });
    if let (Value::Object(all), Value::Object(resources)) = (&mut shown, resources(host)) {
        all.extend(resources);
    }
    optional_host_config(&mut shown, host);
    shown
}

/// Limits and devices: Docker's `Resources`, which are part of `HostConfig`.
fn resources(host: &HostSettings) -> Value {
    let limits = &host.resources;
    let rates = |list: &[(String, u64)]| -> Vec<Value> {
        list.iter()
            .map(|(path, rate)| json!({ "Path": path, "Rate": rate }))
            .collect()
    };
    json!({
        "CpuShares": limits.cpu_shares.unwrap_or(0),
        "Memory": limits.memory.unwrap_or(0),
        "NanoCpus": host.nano_cpus,
        "CgroupParent": host.cgroup_parent,
        "BlkioWeight": limits.blkio_weight.unwrap_or(0),
        "BlkioWeightDevice": limits.blkio_weight_devices.iter()
            .map(|(path, weight)| json!({ "Path": path, "Weight": weight })).collect::<Vec<_>>(),
        "BlkioDeviceReadBps": rates(&limits.blkio_read_bps),
        "BlkioDeviceWriteBps": rates(&limits.blkio_write_bps),
        "BlkioDeviceReadIOps": rates(&limits.blkio_read_iops),
        "BlkioDeviceWriteIOps": rates(&limits.blkio_write_iops),
        "CpuPeriod": limits.cpu_period.unwrap_or(0),
        "CpuQuota": limits.cpu_quota.unwrap_or(0),
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": limits.cpuset_cpus.as_deref().unwrap_or_default(),
        "CpusetMems": limits.cpuset_mems.as_deref().unwrap_or_default(),
        "Devices": host.devices.iter().map(|device| json!({
            "PathOnHost": device.path_on_host,
            "PathInContainer": device.path_in_container,
            "CgroupPermissions": device.permissions,
        })).collect::<Vec<_>>(),
        "DeviceCgroupRules": list_or_null(&host.device_rules),
        "DeviceRequests": null,
        "MemoryReservation": limits.memory_reservation.unwrap_or(0),
        "MemorySwap": limits.memory_swap.unwrap_or(0),
        "MemorySwappiness": limits.memory_swappiness,
        "OomKillDisable": limits.oom_kill_disable,
        "PidsLimit": limits.pids,
        "Ulimits": host.ulimits.iter().map(|limit| json!({
            "Name": limit.name,
            "Hard": signed(limit.hard),
            "Soft": signed(limit.soft),
        })).collect::<Vec<_>>(),
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    })
}

/// Keys that Docker leaves out where they are not set.
fn optional_host_config(shown: &mut Value, host: &HostSettings) {
    let maps: [(&str, &BTreeMap<String, String>); 4] = [
        ("StorageOpt", &host.storage_options),
        ("Annotations", &host.annotations),
        ("Tmpfs", &host.tmpfs),
        ("Sysctls", &host.sysctls),
    ];
    for (name, map) in maps {
        if !map.is_empty() {
            shown[name] = json!(map);
        }
    }
    if !host.mounts.is_empty() {
        shown["Mounts"] = host
            .mounts
            .iter()
            .map(mount_request)
            .collect::<Vec<_>>()
            .into();
    }
    if let Some(init) = host.init {
        shown["Init"] = init.into();
    }
}

/// -1 is without limit.
fn signed(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(-1)
}

fn mount_request(mount: &MountRequest) -> Value {
    let mut shown = json!({ "Type": mount.kind.name(), "Target": mount.target });
    if !mount.source.is_empty() {
        shown["Source"] = mount.source.as_str().into();
    }
    if mount.read_only {
        shown["ReadOnly"] = true.into();
    }
    if !mount.consistency.is_empty() {
        shown["Consistency"] = mount.consistency.as_str().into();
    }
    if let Some(options) = &mount.bind {
        shown["BindOptions"] = json!({
            "Propagation": options.propagation,
            "NonRecursive": options.non_recursive,
            "CreateMountpoint": options.create_mount_point,
            "ReadOnlyNonRecursive": options.read_only_non_recursive,
            "ReadOnlyForceRecursive": options.read_only_force_recursive,
        });
    }
    if let Some(options) = &mount.volume {
        shown["VolumeOptions"] = json!({
            "NoCopy": options.no_copy,
            "Labels": options.labels,
            "DriverConfig": { "Name": options.driver, "Options": options.driver_options },
            "Subpath": options.subpath,
        });
    }
    if let Some(options) = &mount.image {
        shown["ImageOptions"] = json!({ "Subpath": options.subpath });
    }
    if let Some(options) = &mount.tmpfs {
        shown["TmpfsOptions"] = json!({ "SizeBytes": options.size, "Mode": options.mode });
        if !options.options.is_empty() {
            shown["TmpfsOptions"]["Options"] = json!(options.options);
        }
    }
    shown
}

/// One of `Mounts`.
pub fn mount_point(mount: &MountPoint) -> Value {
    let mut shown = json!({ "Type": mount.kind.name() });
    if let Some(name) = &mount.name {
        shown["Name"] = name.as_str().into();
    }
    shown["Source"] = json!(mount.source);
    shown["Destination"] = mount.destination.as_str().into();
    if let Some(driver) = &mount.driver {
        shown["Driver"] = driver.as_str().into();
    }
    shown["Mode"] = mount.mode.as_str().into();
    shown["RW"] = mount.read_write.into();
    shown["Propagation"] = mount.propagation.as_str().into();
    shown
}

fn address(address: Option<std::net::IpAddr>) -> String {
    address
        .map(|address| address.to_string())
        .unwrap_or_default()
}

fn network_settings(spec: &ContainerSpec, id: &str, status: &Status) -> Value {
    let attached = status.network.as_deref();
    let mut ports: Map<String, Value> = Map::new();
    if let Some(attached) = attached {
        for (port, protocol) in exposed(&spec.config.exposed_ports) {
            ports.insert(format!("{port}/{}", protocol.name()), Value::Null);
        }
        for port in &attached.ports {
            let name = format!("{}/{}", port.container_port, port.protocol.name());
            // A routed one has none of the host's.
            let host_port = match port.host_port {
                0 => String::new(),
                number => number.to_string(),
            };
            let target = json!({ "HostIp": port.host_address.to_string(), "HostPort": host_port });
            match ports.get_mut(&name) {
                Some(Value::Array(targets)) => targets.push(target),
                _ => {
                    ports.insert(name, json!([target]));
                }
            }
        }
    }
    // Docker fills these for the default bridge alone.
    let endpoint = attached.and_then(|attached| {
        let mut endpoints = attached.endpoints.iter();
        endpoints.find(|endpoint| endpoint.network_name == "bridge")
    });
    let sandbox = attached.map(|_| id).unwrap_or_default();
    let key = attached
        .map(|attached| attached.namespace.clone())
        .unwrap_or_default();
    json!({
        "Bridge": "",
        "SandboxID": sandbox,
        "SandboxKey": key,
        "Ports": ports,
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": endpoint.map(|endpoint| endpoint.endpoint_id.as_str()).unwrap_or_default(),
        "Gateway": address(endpoint.and_then(|endpoint| endpoint.gateway)),
        "GlobalIPv6Address": address(endpoint.and_then(|endpoint| endpoint.ipv6_address)),
        "GlobalIPv6PrefixLen": endpoint.map_or(0, |endpoint| endpoint.ipv6_prefix_length),
        "IPAddress": address(endpoint.and_then(|endpoint| endpoint.address)),
        "IPPrefixLen": endpoint.map_or(0, |endpoint| endpoint.prefix_length),
        "IPv6Gateway": address(endpoint.and_then(|endpoint| endpoint.ipv6_gateway)),
        "MacAddress": endpoint.map(|endpoint| endpoint.mac_address.as_str()).unwrap_or_default(),
        "Networks": networks(status),
    })
}

/// `Networks`: those the container is (or will be) in, by name. Not a tree, whose smallest node takes eleven.
pub(super) struct Networks<'a>(Vec<(&'a str, EndpointView<'a>)>);

impl Networks<'_> {
    /// A list says nothing of names and options, as Docker's.
    pub(super) fn of_list(mut self) -> Self {
        for (_, network) in &mut self.0 {
            network.links = None;
            network.aliases = None;
            network.driver_opts = None;
            network.dns_names = None;
        }
        self
    }
}

impl Serialize for Networks<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, network)| (name, network)))
    }
}

pub(super) fn networks(status: &Status) -> Networks<'_> {
    let attached = status.network.as_deref();
    let shown = status.memberships.iter().map(|(name, membership)| {
        let mut endpoints = attached.iter().flat_map(|attached| &attached.endpoints);
        let endpoint = endpoints.find(|endpoint| endpoint.network_name == *name);
        (name.as_str(), endpoint_settings(membership, endpoint))
    });
    Networks(shown.collect())
}

/// A container's place in one network.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct EndpointView<'a> {
    #[serde(rename = "IPAMConfig")]
    ipam_config: Option<Map<String, Value>>,
    links: Option<&'a [String]>,
    aliases: Option<&'a [String]>,
    mac_address: &'a str,
    driver_opts: Option<&'a BTreeMap<String, String>>,
    gw_priority: i64,
    #[serde(rename = "NetworkID")]
    network_id: &'a str,
    #[serde(rename = "EndpointID")]
    endpoint_id: &'a str,
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "DNSNames")]
    dns_names: Option<&'a [String]>,
}

fn endpoint_settings<'a>(
    membership: &'a Membership,
    endpoint: Option<&'a Endpoint>,
) -> EndpointView<'a> {
    let settings = &membership.settings;
    let mut addresses = Map::new();
    if let Some(address) = settings.ipv4 {
        addresses.insert("IPv4Address".into(), json!(address));
    }
    if let Some(address) = settings.ipv6 {
        addresses.insert("IPv6Address".into(), json!(address));
    }
    if !settings.link_local.is_empty() {
        addresses.insert("LinkLocalIPs".into(), json!(settings.link_local));
    }
    let configured_mac = settings.mac_address.as_deref().unwrap_or_default();
    let network = endpoint
        .map(|endpoint| &endpoint.network)
        .or(membership.network.as_ref());
    let names = endpoint
        .map(|endpoint| endpoint.names.as_slice())
        .unwrap_or_default();
    fn some(list: &[String]) -> Option<&[String]> {
        (!list.is_empty()).then_some(list)
    }
    EndpointView {
        ipam_config: (!addresses.is_empty()).then_some(addresses),
        links: some(&settings.links),
        aliases: some(&settings.aliases),
        mac_address: endpoint.map_or(configured_mac, |endpoint| endpoint.mac_address.as_str()),
        driver_opts: (!settings.driver_options.is_empty()).then_some(&settings.driver_options),
        gw_priority: settings.gateway_priority,
        network_id: network.map(|id| id.as_str()).unwrap_or_default(),
        endpoint_id: endpoint
            .map(|endpoint| endpoint.endpoint_id.as_str())
            .unwrap_or_default(),
        gateway: address(endpoint.and_then(|endpoint| endpoint.gateway)),
        ip_address: address(endpoint.and_then(|endpoint| endpoint.address)),
        ip_prefix_len: endpoint.map_or(0, |endpoint| endpoint.prefix_length),
        ipv6_gateway: address(endpoint.and_then(|endpoint| endpoint.ipv6_gateway)),
        global_ipv6_address: address(endpoint.and_then(|endpoint| endpoint.ipv6_address)),
        global_ipv6_prefix_len: endpoint.map_or(0, |endpoint| endpoint.ipv6_prefix_length),
        dns_names: some(names),
    }
}

/// `GET /containers/{id}/top`.
pub fn top(table: &ProcessTable) -> Value {
    json!({ "Titles": table.titles, "Processes": table.rows })
}

/// `GET /exec/{id}/json`.
pub fn exec(facts: &ExecFacts) -> Value {
    let request = &facts.request;
    let (entry, args) = request
        .args
        .split_first()
        .map_or(("", &[][..]), |(entry, args)| (entry.as_str(), args));
    let mut process = json!({
        "tty": request.tty,
        "entrypoint": entry,
        "arguments": args,
        "privileged": request.privileged,
    });
    // Go writes bytes so.
    let detach_keys = match request.detach_keys.as_str() {
        "" => String::new(),
        text => DetachKeys::parse(text)
            .map(|keys| BASE64_STANDARD.encode(keys.bytes()))
            .unwrap_or_default(),
    };
    if !request.user.is_empty() {
        process["user"] = request.user.as_str().into();
    }
    json!({
        "ID": facts.id,
        "Running": facts.running,
        "ExitCode": facts.exit_code,
        "ProcessConfig": process,
        "OpenStdin": request.attach_stdin,
        "OpenStderr": request.attach_stderr,
        "OpenStdout": request.attach_stdout,
        "CanRemove": false,
        "ContainerID": facts.container,
        "DetachKeys": detach_keys,
        "Pid": facts.pid,
    })
}
