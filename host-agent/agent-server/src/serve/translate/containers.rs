//! Create requests: from Docker's words to the engine's. What the engine cannot do is refused or warned of here, field by
//! field: nothing falls under the table.

use crate::serve::error::{ApiError, ApiResult};
use engine::containers::spec::{
    BindOptions, Config, CreateRequest, HostSettings, ImageOptions, IpcMode, LogSettings,
    MountKind, MountRequest, NamespaceMode, NetworkChoice, PortBinding, RestartPolicy,
    TmpfsOptions, VolumeOptions,
};
use engine::containers::update::UpdateRequest;
use engine::images::Healthcheck;
use engine::networks::EndpointSettings;
use engine::networks::sysctls::{LinkSysctl, SYSCTLS};
use engine::runtime::{DevicePlan, ResourcePlan, Rlimit, TtySize};
use engine_api::ApiVersion;
use engine_api::containers::{
    ContainerCreate, EndpointBody, HealthcheckBody, HostConfigBody, MountBody,
    NetworkingConfigBody, RateDevice, StringOrList,
};
use std::collections::BTreeMap;

/// The whole request.
pub fn create_request(
    name: Option<&str>,
    platform: Option<&str>,
    mut body: ContainerCreate,
) -> ApiResult<CreateRequest> {
    let mut warnings = Vec::new();
    let host_body = body.host_config.take().unwrap_or_default();
    let networking = body.networking_config.take().unwrap_or_default();
    let mac_address = body.mac_address.take();
    let mut host = host_settings(host_body, &mut warnings)?;
    host.mac_address = mac_address.filter(|text| !text.is_empty());
    host.endpoints = endpoints(networking)?;
    Ok(CreateRequest {
        name: name.map(str::to_owned),
        platform: platform.map(str::to_owned),
        config: config(body),
        host,
        warnings,
        step: None,
    })
}

/// The body of an update: what of it can be changed, and a warning for what cannot.
pub fn update_request(mut body: HostConfigBody) -> ApiResult<UpdateRequest> {
    let mut warnings = Vec::new();
    refuse_unsupported(&body, &mut warnings)?;
    let restart = body.restart_policy.take().unwrap_or_default();
    let restart = match restart.name.as_deref().unwrap_or_default() {
        "" => None,
        name => Some(
            RestartPolicy::parse(name, restart.maximum_retry_count.unwrap_or(0))
                .map_err(ApiError::invalid)?,
        ),
    };
    fn any<T>(list: &Option<Vec<T>>) -> bool {
        list.as_ref().is_some_and(|list| !list.is_empty())
    }
    for (given, name) in [
        (any(&body.blkio_weight_device), "BlkioWeightDevice"),
        (any(&body.blkio_device_read_bps), "BlkioDeviceReadBps"),
        (any(&body.blkio_device_write_bps), "BlkioDeviceWriteBps"),
        (any(&body.blkio_device_read_iops), "BlkioDeviceReadIOps"),
        (any(&body.blkio_device_write_iops), "BlkioDeviceWriteIOps"),
        (any(&body.devices), "Devices"),
        (any(&body.device_cgroup_rules), "DeviceCgroupRules"),
        (any(&body.ulimits), "Ulimits"),
        (
            body.memory_swappiness.is_some_and(|value| value >= 0),
            "MemorySwappiness",
        ),
        (body.oom_kill_disable.is_some(), "OomKillDisable"),
        (
            body.cgroup_parent
                .as_ref()
                .is_some_and(|path| !path.is_empty()),
            "CgroupParent",
        ),
    ] {
        if given {
            warnings.push(format!(
                "{name} of a container cannot be changed: it stays as it is."
            ));
        }
    }
    // 0 and every negative number are "without limit" here.
    let pids = body
        .pids_limit
        .map(|limit| if limit > 0 { limit } else { -1 });
    let resources = resources(&mut body)?;
    Ok(UpdateRequest {
        resources: ResourcePlan {
            pids,
            memory_swappiness: None,
            oom_kill_disable: None,
            blkio_weight_devices: Vec::new(),
            blkio_read_bps: Vec::new(),
            blkio_write_bps: Vec::new(),
            blkio_read_iops: Vec::new(),
            blkio_write_iops: Vec::new(),
            ..resources
        },
        nano_cpus: body.nano_cpus.unwrap_or(0),
        restart,
        warnings,
    })
}

fn list(list: Option<StringOrList>) -> Option<Vec<String>> {
    list.map(|list| list.0)
}

/// The part of a request that images have an opinion on.
pub fn config(body: ContainerCreate) -> Config {
    Config {
        hostname: body.hostname.unwrap_or_default(),
        domain_name: body.domainname.unwrap_or_default(),
        user: body.user.unwrap_or_default(),
        attach_stdin: body.attach_stdin.unwrap_or(false),
        attach_stdout: body.attach_stdout.unwrap_or(false),
        attach_stderr: body.attach_stderr.unwrap_or(false),
        exposed_ports: body.exposed_ports.unwrap_or_default().into_keys().collect(),
        tty: body.tty.unwrap_or(false),
        open_stdin: body.open_stdin.unwrap_or(false),
        stdin_once: body.stdin_once.unwrap_or(false),
        env: body.env.unwrap_or_default(),
        cmd: list(body.cmd),
        entrypoint: list(body.entrypoint),
        image: body.image.unwrap_or_default(),
        volumes: body.volumes.unwrap_or_default().into_keys().collect(),
        working_directory: body.working_dir.unwrap_or_default(),
        network_disabled: body.network_disabled.unwrap_or(false),
        on_build: body.on_build.unwrap_or_default(),
        labels: body.labels.unwrap_or_default(),
        stop_signal: body.stop_signal.filter(|signal| !signal.is_empty()),
        stop_timeout: body.stop_timeout,
        shell: body.shell,
        healthcheck: body.healthcheck.map(healthcheck),
    }
}

fn healthcheck(body: HealthcheckBody) -> Healthcheck {
    Healthcheck {
        test: body.test.unwrap_or_default(),
        interval: body.interval.unwrap_or(0),
        timeout: body.timeout.unwrap_or(0),
        retries: body.retries.unwrap_or(0),
        start_period: body.start_period.unwrap_or(0),
        start_interval: body.start_interval.unwrap_or(0),
    }
}

/// A mode, or Docker's sentence.
fn mode<T>(what: &str, text: Option<&String>, parse: impl Fn(&str) -> Option<T>) -> ApiResult<T> {
    let text = text.map(String::as_str).unwrap_or_default();
    parse(text).ok_or_else(|| ApiError::invalid(format!("invalid {what} mode: {text}")))
}

fn host_settings(mut body: HostConfigBody, warnings: &mut Vec<String>) -> ApiResult<HostSettings> {
    refuse_unsupported(&body, warnings)?;
    let restart = body.restart_policy.take().unwrap_or_default();
    let restart = RestartPolicy::parse(
        restart.name.as_deref().unwrap_or_default(),
        restart.maximum_retry_count.unwrap_or(0),
    )
    .map_err(ApiError::invalid)?;
    let log = body.log_config.take().unwrap_or_default();
    let shm_size = body.shm_size.unwrap_or(0);
    let shm_size = u64::try_from(shm_size)
        .map_err(|_| ApiError::invalid("SHM size can not be less than 0"))?;
    let console_size = body.console_size.take().and_then(|size| tty_size(&size));
    let resources = resources(&mut body)?;
    Ok(HostSettings {
        ipc: mode("IPC", body.ipc_mode.as_ref(), IpcMode::parse)?,
        pid: mode("PID", body.pid_mode.as_ref(), NamespaceMode::parse_pid)?,
        uts: mode("UTS", body.uts_mode.as_ref(), NamespaceMode::parse_uts)?,
        cgroup_namespace: mode(
            "cgroup namespace",
            body.cgroupns_mode.as_ref(),
            NamespaceMode::parse_cgroup,
        )?,
        network: NetworkChoice::parse(body.network_mode.as_deref().unwrap_or_default()),
        binds: body.binds.unwrap_or_default(),
        mounts: body
            .mounts
            .unwrap_or_default()
            .into_iter()
            .map(mount)
            .collect::<ApiResult<_>>()?,
        tmpfs: body.tmpfs.unwrap_or_default(),
        volumes_from: body.volumes_from.unwrap_or_default(),
        volume_driver: body.volume_driver.unwrap_or_default(),
        container_id_file: body.container_id_file.unwrap_or_default(),
        log: LogSettings {
            driver: log.kind.unwrap_or_default(),
            options: log.config.unwrap_or_default(),
        },
        port_bindings: body
            .port_bindings
            .unwrap_or_default()
            .into_iter()
            .map(|(port, targets)| {
                (
                    port,
                    targets
                        .unwrap_or_default()
                        .into_iter()
                        .map(binding)
                        .collect(),
                )
            })
            .collect(),
        publish_all_ports: body.publish_all_ports.unwrap_or(false),
        mac_address: None,
        restart,
        auto_remove: body.auto_remove.unwrap_or(false),
        console_size,
        annotations: body.annotations.unwrap_or_default(),
        cap_add: list(body.cap_add).unwrap_or_default(),
        cap_drop: list(body.cap_drop).unwrap_or_default(),
        dns: body.dns.unwrap_or_default(),
        dns_options: body.dns_options.unwrap_or_default(),
        dns_search: body.dns_search.unwrap_or_default(),
        extra_hosts: body.extra_hosts.unwrap_or_default(),
        links: body.links.unwrap_or_default(),
        endpoints: BTreeMap::new(),
        group_add: body.group_add.unwrap_or_default(),
        oom_score_adj: i32::try_from(body.oom_score_adj.unwrap_or(0)).map_err(|_| {
            ApiError::invalid("Invalid value, range for oom score adj is [-1000, 1000]")
        })?,
        privileged: body.privileged.unwrap_or(false),
        read_only_root: body.readonly_rootfs.unwrap_or(false),
        security: body.security_opt.unwrap_or_default(),
        shm_size,
        sysctls: body.sysctls.unwrap_or_default(),
        runtime: body.runtime.filter(|name| !name.is_empty()),
        init: body.init,
        cgroup_parent: body.cgroup_parent.unwrap_or_default(),
        resources,
        nano_cpus: body.nano_cpus.unwrap_or(0),
        devices: body
            .devices
            .unwrap_or_default()
            .into_iter()
            .map(|device| {
                let on_host = device.path_on_host.unwrap_or_default();
                let inside = device.path_in_container.filter(|path| !path.is_empty());
                let permissions = device.cgroup_permissions.filter(|text| !text.is_empty());
                DevicePlan {
                    path_in_container: inside.unwrap_or_else(|| on_host.clone()).into(),
                    path_on_host: on_host.into(),
                    permissions: permissions.unwrap_or_else(|| "rwm".into()),
                }
            })
            .collect(),
        device_rules: body.device_cgroup_rules.unwrap_or_default(),
        ulimits: body
            .ulimits
            .unwrap_or_default()
            .into_iter()
            .map(|limit| ulimit(limit.name, limit.soft, limit.hard))
            .collect::<ApiResult<_>>()?,
        user_namespace: body.userns_mode.unwrap_or_default(),
        isolation: body.isolation.unwrap_or_default(),
        storage_options: body.storage_opt.unwrap_or_default(),
        masked_paths: body.masked_paths,
        read_only_paths: body.readonly_paths,
    })
}

/// Says no (or warns) where the engine has nothing behind a field.
fn refuse_unsupported(body: &HostConfigBody, warnings: &mut Vec<String>) -> ApiResult<()> {
    let refuse = |message: String| Err(ApiError::invalid(message));
    if let Some(mode) = body
        .userns_mode
        .as_deref()
        .filter(|mode| !["", "host"].contains(mode))
    {
        return refuse(format!("invalid USER mode: {mode}"));
    }
    if let Some(request) = body.device_requests.as_ref().and_then(|all| all.first()) {
        return refuse(no_device_driver(request));
    }
    if let Some(isolation) = body
        .isolation
        .as_deref()
        .filter(|text| !["", "default"].contains(text))
    {
        return refuse(format!("invalid isolation '{isolation}' on linux"));
    }
    if let Some(cgroup) = body.cgroup.as_deref().filter(|text| !text.is_empty()) {
        return refuse(format!("invalid cgroup mode: {cgroup}"));
    }
    if body.cpu_realtime_period.unwrap_or(0) != 0 || body.cpu_realtime_runtime.unwrap_or(0) != 0 {
        return refuse("Your kernel does not support CPU real-time scheduler".into());
    }
    for (value, name) in [
        (body.kernel_memory, "Kernel memory limit"),
        (body.kernel_memory_tcp, "Kernel TCP memory limit"),
        (body.cpu_count, "CpuCount"),
        (body.cpu_percent, "CpuPercent"),
        (body.io_maximum_iops, "IOMaximumIOps"),
        (body.io_maximum_bandwidth, "IOMaximumBandwidth"),
    ] {
        if value.is_some_and(|value| value > 0) {
            warnings.push(format!(
                "{name} is not supported on this platform. Value discarded."
            ));
        }
    }
    Ok(())
}

/// Docker's sentence where nothing on the host drives the devices asked for (`--gpus`).
fn no_device_driver(request: &serde_json::Value) -> String {
    let driver = request["Driver"].as_str().unwrap_or_default();
    let capabilities: Vec<String> = request["Capabilities"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|set| {
            let words = set.as_array().into_iter().flatten();
            let words: Vec<&str> = words.filter_map(serde_json::Value::as_str).collect();
            format!("[{}]", words.join(" "))
        })
        .collect();
    format!(
        "could not select device driver {driver:?} with capabilities: [{}]",
        capabilities.join(" ")
    )
}

/// `[rows, columns]`; nothing where one is 0.
pub fn tty_size(size: &[u16]) -> Option<TtySize> {
    match *size {
        [rows, columns] if rows > 0 && columns > 0 => Some(TtySize { rows, columns }),
        _ => None,
    }
}

fn binding(body: engine_api::containers::PortBindingBody) -> PortBinding {
    PortBinding {
        host_ip: body.host_ip.unwrap_or_default(),
        host_port: body.host_port.unwrap_or_default(),
    }
}

fn ulimit(name: Option<String>, soft: Option<i64>, hard: Option<i64>) -> ApiResult<Rlimit> {
    Rlimit::checked(
        &name.unwrap_or_default(),
        soft.unwrap_or(0),
        hard.unwrap_or(0),
    )
    .map_err(ApiError::invalid)
}

/// 0 is "not set" in Docker's numbers.
fn some(value: Option<i64>) -> Option<i64> {
    value.filter(|value| *value != 0)
}

fn resources(body: &mut HostConfigBody) -> ApiResult<ResourcePlan> {
    let positive = |value: Option<i64>, name: &str| match some(value) {
        None => Ok(None),
        Some(value) => u64::try_from(value)
            .map(Some)
            .map_err(|_| ApiError::invalid(format!("invalid value for {name}: {value}"))),
    };
    let rates = |list: Option<Vec<RateDevice>>| -> Vec<(String, u64)> {
        let list = list.unwrap_or_default().into_iter();
        list.map(|device| (device.path.unwrap_or_default(), device.rate.unwrap_or(0)))
            .collect()
    };
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(ResourcePlan {
        memory: some(body.memory),
        memory_swap: some(body.memory_swap),
        memory_reservation: some(body.memory_reservation),
        // -1 is Docker's "leave it".
        memory_swappiness: body
            .memory_swappiness
            .and_then(|value| u64::try_from(value).ok()),
        oom_kill_disable: body.oom_kill_disable.filter(|disable| *disable),
        cpu_shares: positive(body.cpu_shares, "CpuShares")?,
        cpu_period: positive(body.cpu_period, "CpuPeriod")?,
        cpu_quota: some(body.cpu_quota),
        cpuset_cpus: text(body.cpuset_cpus.take()),
        cpuset_mems: text(body.cpuset_mems.take()),
        pids: some(body.pids_limit).map(|limit| limit.max(-1)),
        blkio_weight: body.blkio_weight.filter(|weight| *weight != 0),
        blkio_weight_devices: body
            .blkio_weight_device
            .take()
            .unwrap_or_default()
            .into_iter()
            .map(|device| (device.path.unwrap_or_default(), device.weight.unwrap_or(0)))
            .collect(),
        blkio_read_bps: rates(body.blkio_device_read_bps.take()),
        blkio_write_bps: rates(body.blkio_device_write_bps.take()),
        blkio_read_iops: rates(body.blkio_device_read_iops.take()),
        blkio_write_iops: rates(body.blkio_device_write_iops.take()),
    })
}

/// What the version of the API that the client speaks does not have yet.
pub fn check_version(request: &CreateRequest, version: ApiVersion) -> ApiResult<()> {
    let mut mounts = request.host.mounts.iter();
    if version < ApiVersion::IMAGE_MOUNTS && mounts.any(|mount| mount.kind == MountKind::Image) {
        let needed = ApiVersion::IMAGE_MOUNTS;
        return Err(ApiError::invalid(format!(
            "Mount type \"image\" needs API v{needed} or newer"
        )));
    }
    Ok(())
}

fn mount(body: MountBody) -> ApiResult<MountRequest> {
    let kind = match body.kind.as_deref().unwrap_or_default() {
        "bind" => MountKind::Bind,
        "volume" => MountKind::Volume,
        "tmpfs" => MountKind::Tmpfs,
        "image" => MountKind::Image,
        other @ ("npipe" | "cluster") => {
            return Err(ApiError::invalid(format!(
                "invalid mount config for type \"{other}\": mounts of this type are not supported by this engine"
            )));
        }
        other => {
            return Err(ApiError::invalid(format!(
                "invalid mount config for type \"{other}\": mount type unknown: \"{other}\""
            )));
        }
    };
    // Of a type that there is not; what belongs to another one that there is, the engine refuses.
    if body.cluster_options.is_some() {
        return Err(ApiError::invalid(format!(
            "invalid mount config for type \"{}\": field ClusterOptions must not be specified",
            kind.name()
        )));
    }
    let bind = match body.bind_options {
        None => None,
        Some(options) => Some(BindOptions {
            propagation: options.propagation.unwrap_or_default(),
            non_recursive: options.non_recursive.unwrap_or(false),
            create_mount_point: options.create_mountpoint.unwrap_or(false),
            read_only_non_recursive: options.read_only_non_recursive.unwrap_or(false),
            read_only_force_recursive: options.read_only_force_recursive.unwrap_or(false),
        }),
    };
    let volume = body.volume_options.map(|options| {
        let driver = options.driver_config.unwrap_or_default();
        VolumeOptions {
            no_copy: options.no_copy.unwrap_or(false),
            labels: options.labels.unwrap_or_default(),
            driver: driver.name.unwrap_or_default(),
            driver_options: driver.options.unwrap_or_default(),
            subpath: options.subpath.unwrap_or_default(),
        }
    });
    let tmpfs = body.tmpfs_options.map(|options| TmpfsOptions {
        size: options.size_bytes.unwrap_or(0),
        mode: options.mode.unwrap_or(0),
        options: options.options.unwrap_or_default(),
    });
    Ok(MountRequest {
        kind,
        source: body.source.unwrap_or_default(),
        target: body.target.unwrap_or_default(),
        read_only: body.read_only.unwrap_or(false),
        consistency: body.consistency.unwrap_or_default(),
        bind,
        volume,
        tmpfs,
        image: body.image_options.map(|options| ImageOptions {
            subpath: options.subpath.unwrap_or_default(),
        }),
    })
}

/// `NetworkingConfig`: networks by name or id.
fn endpoints(networking: NetworkingConfigBody) -> ApiResult<BTreeMap<String, EndpointSettings>> {
    let endpoints = networking.endpoints_config.unwrap_or_default().into_iter();
    endpoints
        .map(|(name, endpoint)| Ok((name, endpoint_settings(endpoint.unwrap_or_default())?)))
        .collect()
}

/// What is asked of one network, at create or by `network connect`.
pub fn endpoint_settings(body: EndpointBody) -> ApiResult<EndpointSettings> {
    let addresses = body.ipam_config.unwrap_or_default();
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let invalid = |what: &str, text: &str| {
        ApiError::invalid(format!(
            "invalid endpoint settings:\ninvalid {what} address: {text}"
        ))
    };
    let ipv4 = given(addresses.ipv4_address)
        .map(|text| text.parse().map_err(|_| invalid("IPv4", &text)))
        .transpose()?;
    let ipv6 = given(addresses.ipv6_address)
        .map(|text| text.parse().map_err(|_| invalid("IPv6", &text)))
        .transpose()?;
    let link_local = addresses.link_local_ips.unwrap_or_default().into_iter();
    let link_local = link_local
        .filter(|text| !text.is_empty())
        .map(|text| text.parse().map_err(|_| invalid("link-local", &text)))
        .collect::<ApiResult<_>>()?;
    let driver_options = body.driver_opts.unwrap_or_default();
    let is_known = |name: &str| name == SYSCTLS || name.ends_with(".ifname");
    if let Some(name) = driver_options
        .keys()
        .find(|name| name.starts_with("com.docker.network.endpoint.") && !is_known(name))
    {
        return Err(ApiError::invalid(format!(
            "driver option {name} of an endpoint is not supported by this engine"
        )));
    }
    LinkSysctl::asked_for(&driver_options).map_err(ApiError::invalid)?;
    Ok(EndpointSettings {
        ipv4,
        ipv6,
        link_local,
        links: body.links.unwrap_or_default(),
        aliases: body.aliases.unwrap_or_default(),
        mac_address: given(body.mac_address),
        driver_options,
        gateway_priority: body.gw_priority.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> ApiResult<CreateRequest> {
        create_request(
            None,
            None,
            serde_json::from_str(json).expect("the test's JSON is good"),
        )
    }

    #[track_caller]
    fn refused(json: &str, message: &str) {
        let error = read(json).expect_err("this must be refused");
        assert_eq!(error.status(), 400);
        assert!(error.message().contains(message), "{}", error.message());
    }

    #[test]
    fn unknown_values_are_refused_in_dockers_words() {
        refused(
            r#"{"HostConfig":{"RestartPolicy":{"Name":"sometimes"}}}"#,
            "invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        );
        refused(
            r#"{"HostConfig":{"PidMode":"mine"}}"#,
            "invalid PID mode: mine",
        );
        refused(
            r#"{"HostConfig":{"IpcMode":"container:"}}"#,
            "invalid IPC mode: container:",
        );
        refused(r#"{"HostConfig":{"UTSMode":"x"}}"#, "invalid UTS mode: x");
        refused(
            r#"{"HostConfig":{"CgroupnsMode":"x"}}"#,
            "invalid cgroup namespace mode: x",
        );
        refused(
            r#"{"HostConfig":{"Mounts":[{"Type":"cloud"}]}}"#,
            "mount type unknown: \"cloud\"",
        );
        refused(
            r#"{"HostConfig":{"Ulimits":[{"Name":"wishes"}]}}"#,
            "invalid ulimit type: wishes",
        );
        refused(
            r#"{"HostConfig":{"DeviceRequests":[{"Count":-1}]}}"#,
            "could not select device driver",
        );
        refused(
            r#"{"HostConfig":{"ShmSize":-1}}"#,
            "SHM size can not be less than 0",
        );
        refused(
            r#"{"NetworkingConfig":{"EndpointsConfig":{"n":{"IPAMConfig":{"IPv4Address":"nowhere"}}}}}"#,
            "invalid IPv4 address: nowhere",
        );
        refused(
            r#"{"NetworkingConfig":{"EndpointsConfig":{"n":{"DriverOpts":{"com.docker.network.endpoint.sysctls":"x"}}}}}"#,
            "invalid endpoint settings:\nunrecognised network interface sysctl 'x'",
        );
        refused(
            r#"{"NetworkingConfig":{"EndpointsConfig":{"n":{"DriverOpts":{"com.docker.network.endpoint.expose":"x"}}}}}"#,
            "is not supported by this engine",
        );
    }

    #[test]
    fn what_the_docker_client_sends_for_a_plain_run_is_understood() {
        let request = read(
            r#"{"Hostname":"","AttachStdout":true,"Cmd":["ls"],"Image":"busybox","Volumes":{},"OnBuild":null,
                "HostConfig":{"Binds":null,"LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},
                "RestartPolicy":{"Name":"no","MaximumRetryCount":0},"ConsoleSize":[24,80],"MemorySwappiness":-1,
                "OomKillDisable":false,"PidsLimit":0,"MaskedPaths":null,"ReadonlyPaths":null,"KernelMemory":0},
                "NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":{},"Links":null,"Aliases":null,"MacAddress":""}}}}"#,
        )
        .expect("good");
        assert!(request.warnings.is_empty());
        assert_eq!(request.host.network, NetworkChoice::Bridge);
        assert_eq!(request.host.resources, ResourcePlan::default());
        assert_eq!(
            request.host.console_size,
            Some(TtySize {
                rows: 24,
                columns: 80
            })
        );
        assert_eq!(request.config.cmd, Some(vec!["ls".to_owned()]));
    }

    #[test]
    fn windows_numbers_are_a_warning() {
        let request =
            read(r#"{"HostConfig":{"CpuCount":2,"KernelMemory":1000000}}"#).expect("good");
        assert_eq!(request.warnings.len(), 2);
    }
}
