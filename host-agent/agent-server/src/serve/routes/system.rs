//! `/_ping`, `/version`, `/info`.

use crate::serve::extract::{Json, json_bytes};
use crate::serve::state::AppState;
use crate::serve::system::{System, VERSION, default_runtime};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use engine::clock::rfc3339;
use engine::containers::ContainerService;
use engine::containers::lifecycle::ContainerState;
use engine::events::EventBus;
use engine::images::ImageService;
use engine::networks::NetworkService;
use engine_api::ApiVersion;
use engine_linux::host;
use http::{HeaderName, HeaderValue, header};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use time::OffsetDateTime;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/_ping", get(ping).head(ping_head))
        .route("/version", get(version))
        .route("/info", get(info))
}

fn ping_headers(system: &System, mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
        ("content-type", "text/plain; charset=utf-8"),
        // The classic builder: clients then do not try to open a BuildKit session.
        ("builder-version", "1"),
        ("swarm", "inactive"),
        (
            "docker-experimental",
            match system.config.experimental {
                true => "true",
                false => "false",
            },
        ),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    response
}

async fn ping(State(system): State<Arc<System>>) -> Response {
    ping_headers(&system, "OK".into_response())
}

/// With a length of 0, as Docker's.
async fn ping_head(State(system): State<Arc<System>>) -> Response {
    let mut response = ping_headers(&system, ().into_response());
    let zero = HeaderValue::from_static("0");
    response.headers_mut().insert(header::CONTENT_LENGTH, zero);
    response
}

async fn version(State(system): State<Arc<System>>) -> Response {
    json_bytes(system.version.clone())
}

/// Every key Docker 28 fills: clients index them without asking.
async fn info(
    State(system): State<Arc<System>>,
    State(networks): State<Arc<NetworkService>>,
    State(events): State<EventBus>,
    State(containers): State<Arc<ContainerService>>,
    State(images): State<ImageService>,
    Extension(version): Extension<ApiVersion>,
) -> Json<Value> {
    let config = &system.config;
    let runtime = &system.runtime;
    // What the engine itself uses, without a password.
    let proxy = |given: &Option<String>, name: &str| match given {
        Some(proxy) => without_password(proxy),
        None => without_password(&std::env::var(name).unwrap_or_default()),
    };
    let counts = Counts::of(&containers);
    let mut info = json!({
        "ID": system.id,
        "Containers": counts.running + counts.paused + counts.stopped,
        "ContainersRunning": counts.running,
        "ContainersPaused": counts.paused,
        "ContainersStopped": counts.stopped,
        "Images": images.count(),
        "Driver": "overlay2",
        "DriverStatus": [
            ["Backing Filesystem", system.host.backing_file_system],
            ["Supports d_type", "true"],
            ["Using metacopy", "false"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
            "Authorization": null,
            "Log": ["json-file", "local", "none"],
        },
        "MemoryLimit": runtime.memory_limit,
        "SwapLimit": runtime.swap_limit,
        "CpuCfsPeriod": runtime.cpu_cfs,
        "CpuCfsQuota": runtime.cpu_cfs,
        "CPUShares": runtime.cpu_shares,
        "CPUSet": runtime.cpuset,
        "PidsLimit": runtime.pids_limit,
        "IPv4Forwarding": host::ipv4_forwarding(),
        "Debug": config.log_level >= tracing::level_filters::LevelFilter::DEBUG,
        "NFd": host::open_files(),
        "OomKillDisable": runtime.oom_kill_disable,
        "NGoroutines": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        "SystemTime": rfc3339(OffsetDateTime::now_utc()),
        "LoggingDriver": config.log.driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": runtime.cgroup_version.to_string(),
        "NEventsListener": events.listeners(),
        "KernelVersion": system.host.kernel_version,
        "OperatingSystem": system.host.operating_system,
        "OSVersion": system.host.os_version,
        "OSType": "linux",
        "Architecture": system.host.machine,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": registry_config(&system),
        "NCPU": system.host.cpus,
        "MemTotal": system.host.memory,
        "GenericResources": null,
        "DockerRootDir": config.data_root,
        "HttpProxy": proxy(&config.proxies.http, "HTTP_PROXY"),
        "HttpsProxy": proxy(&config.proxies.https, "HTTPS_PROXY"),
        "NoProxy": proxy(&config.proxies.none, "NO_PROXY"),
        "Name": host::hostname(),
        "Labels": config.labels,
        "ExperimentalBuild": config.experimental,
        "ServerVersion": VERSION,
        "Runtimes": runtimes(&system),
        "DefaultRuntime": default_runtime(config),
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "docker-init",
        "ContainerdCommit": { "ID": "N/A" },
        "RuncCommit": { "ID": "N/A" },
        "InitCommit": { "ID": "N/A" },
        "SecurityOptions": security_options(&system),
        "CDISpecDirs": [],
        "FirewallBackend": { "Driver": "nftables" },
        "Warnings": warnings(&system, &networks).await,
    });
    if version.shows_bridge_netfilter() {
        info["BridgeNfIptables"] = host::filters_bridges("iptables").into();
        info["BridgeNfIp6tables"] = host::filters_bridges("ip6tables").into();
    }
    if version.shows_expected_commits() {
        for program in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
            info[program]["Expected"] = info[program]["ID"].clone();
        }
    }
    Json(info)
}

/// As dockerd shows it: `http://xxxxx:xxxxx@proxy.example`.
fn without_password(proxy: &str) -> String {
    let Some((scheme, rest)) = proxy.split_once("://") else {
        return proxy.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://xxxxx:xxxxx@{}", &rest[at + 1..]),
        None => proxy.to_owned(),
    }
}

/// Containers by what they do.
#[derive(Default)]
struct Counts {
    running: usize,
    paused: usize,
    stopped: usize,
}

impl Counts {
    fn of(containers: &ContainerService) -> Counts {
        let mut counts = Counts::default();
        for container in containers.all() {
            let status = container.status();
            match status.state {
                _ if status.removed => {}
                ContainerState::Paused { .. } => counts.paused += 1,
                state if state.is_running() => counts.running += 1,
                _ => counts.stopped += 1,
            }
        }
        counts
    }
}

fn registry_config(system: &System) -> Value {
    let config = &system.config;
    let mut networks = vec!["::1/128".to_owned(), "127.0.0.0/8".to_owned()];
    let mut indexes = Map::new();
    // Docker shows mirrors with a slash at the end.
    let mirrors: Vec<String> = config
        .registry_mirrors
        .iter()
        .map(|mirror| format!("{mirror}/"))
        .collect();
    indexes.insert(
        "docker.io".into(),
        json!({ "Name": "docker.io", "Mirrors": mirrors, "Secure": true, "Official": true }),
    );
    for registry in &config.insecure_registries {
        if registry.contains('/') {
            networks.push(registry.clone());
        } else {
            indexes.insert(
                registry.clone(),
                json!({ "Name": registry, "Mirrors": [], "Secure": false, "Official": false }),
            );
        }
    }
    json!({
        "AllowNondistributableArtifactsCIDRs": null,
        "AllowNondistributableArtifactsHostnames": null,
        "InsecureRegistryCIDRs": networks,
        "IndexConfigs": indexes,
        "Mirrors": mirrors,
    })
}

fn runtimes(system: &System) -> Value {
    let mut runtimes = Map::new();
    for (name, path) in &system.runtime.runtimes {
        runtimes.insert(name.clone(), json!({ "path": path }));
    }
    for (name, program) in &system.config.runtimes {
        let mut shown = json!({ "path": program.path });
        if !program.arguments.is_empty() {
            shown["runtimeArgs"] = json!(program.arguments);
        }
        runtimes.insert(name.clone(), shown);
    }
    Value::Object(runtimes)
}

fn security_options(system: &System) -> Vec<&'static str> {
    let mut options = Vec::new();
    if system.runtime.apparmor {
        options.push("name=apparmor");
    }
    if system.runtime.seccomp {
        options.push("name=seccomp,profile=builtin");
    }
    options.push("name=cgroupns");
    options
}

async fn warnings(system: &System, networks: &NetworkService) -> Vec<String> {
    let mut warnings: Vec<String> = system
        .config
        .warnings
        .iter()
        .chain(&system.runtime.warnings)
        .map(|warning| format!("WARNING: {}", warning.trim_start_matches("WARNING: ")))
        .collect();
    if !host::ipv4_forwarding() {
        warnings.push("WARNING: IPv4 forwarding is disabled".into());
    }
    let of_host = networks.warnings().await.into_iter();
    warnings.extend(of_host.map(|warning| format!("WARNING: {warning}")));
    let ports = networks.port_problems().into_iter();
    warnings.extend(ports.map(|(port, why)| {
        format!("WARNING: published port {port} cannot be reached on the desktop: {why}")
    }));
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing;
    use axum::body::Body;
    use http::Method;

    #[tokio::test]
    async fn ping_answers_get_and_head_with_and_without_version() {
        for path in ["/_ping", "/v1.24/_ping"] {
            let answer = testing::get(path).await;
            assert_eq!((answer.status.as_u16(), answer.text()), (200, "OK"));
            assert_eq!(answer.headers["api-version"], "1.51");
            assert_eq!(answer.headers["builder-version"], "1");
            assert_eq!(answer.headers["swarm"], "inactive");
            assert_eq!(
                answer.headers["cache-control"],
                "no-cache, no-store, must-revalidate"
            );
            let head = testing::send(testing::services(), Method::HEAD, path, Body::empty()).await;
            assert_eq!((head.status.as_u16(), head.text()), (200, ""));
            assert_eq!(head.headers["content-length"], "0");
        }
        let posted = testing::send(testing::services(), Method::POST, "/_ping", "").await;
        assert_eq!(posted.status, 404);
    }

    #[tokio::test]
    async fn version_says_which_versions_are_served() {
        let version = testing::get("/v1.40/version").await.json();
        assert_eq!(version["ApiVersion"], "1.51");
        assert_eq!(version["MinAPIVersion"], "1.24");
        assert_eq!(version["Version"], VERSION);
        assert_eq!(version["Components"][0]["Details"]["Os"], "linux");
    }

    #[test]
    fn passwords_of_proxies_are_nobodys_business() {
        for (given, shown) in [
            ("", ""),
            ("http://proxy:3128", "http://proxy:3128"),
            (
                "http://me:p@ss@proxy:3128/x",
                "http://xxxxx:xxxxx@proxy:3128/x",
            ),
            ("localhost,10.0.0.0/8", "localhost,10.0.0.0/8"),
        ] {
            assert_eq!(without_password(given), shown);
        }
    }

    #[tokio::test]
    async fn info_has_every_key_clients_look_for() {
        let info = testing::get("/info").await.json();
        // The keys of dockerd 28.2's answer on an engine without Swarm.
        for key in [
            "ID",
            "Containers",
            "ContainersRunning",
            "ContainersPaused",
            "ContainersStopped",
            "Images",
            "Driver",
            "DriverStatus",
            "Plugins",
            "MemoryLimit",
            "SwapLimit",
            "CpuCfsPeriod",
            "CpuCfsQuota",
            "CPUShares",
            "CPUSet",
            "PidsLimit",
            "IPv4Forwarding",
            "Debug",
            "NFd",
            "OomKillDisable",
            "NGoroutines",
            "SystemTime",
            "LoggingDriver",
            "CgroupDriver",
            "CgroupVersion",
            "NEventsListener",
            "KernelVersion",
            "OperatingSystem",
            "OSVersion",
            "OSType",
            "Architecture",
            "IndexServerAddress",
            "RegistryConfig",
            "NCPU",
            "MemTotal",
            "GenericResources",
            "DockerRootDir",
            "HttpProxy",
            "HttpsProxy",
            "NoProxy",
            "Name",
            "Labels",
            "ExperimentalBuild",
            "ServerVersion",
            "Runtimes",
            "DefaultRuntime",
            "Swarm",
            "LiveRestoreEnabled",
            "Isolation",
            "InitBinary",
            "ContainerdCommit",
            "RuncCommit",
            "InitCommit",
            "SecurityOptions",
            "CDISpecDirs",
            "FirewallBackend",
            "Warnings",
        ] {
            assert!(info.get(key).is_some(), "{key} is missing");
        }
        assert!(info.get("BridgeNfIptables").is_none());
        let old = testing::get("/v1.43/info").await.json();
        for (key, file) in [
            ("BridgeNfIptables", "bridge-nf-call-iptables"),
            ("BridgeNfIp6tables", "bridge-nf-call-ip6tables"),
        ] {
            let text = std::fs::read_to_string(format!("/proc/sys/net/bridge/{file}"));
            assert_eq!(old[key], text.is_ok_and(|text| text == "1\n"), "{key}");
        }
    }
}
