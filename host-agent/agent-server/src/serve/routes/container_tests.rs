//! The routes of containers and execs over fakes: statuses, bodies, keys.

use crate::serve::state::AppState;
use crate::serve::testing::{self, Answer, send_to};
use axum::body::Body;
use http::Method;
use serde_json::{Value, json};

fn state() -> AppState {
    AppState::new(testing::services())
}

async fn post(state: &AppState, path: &str, body: &str) -> Answer {
    send_to(state, Method::POST, path, body.to_owned()).await
}

async fn get(state: &AppState, path: &str) -> Answer {
    send_to(state, Method::GET, path, Body::empty()).await
}

#[track_caller]
fn check(answer: &Answer, status: u16, part: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text());
    assert!(answer.text().contains(part), "{}", answer.text());
}

async fn make(state: &AppState, name: &str, command: &str) -> String {
    let body = json!({ "Image": "busybox", "Cmd": [command] }).to_string();
    let answer = post(
        state,
        &format!("/v1.51/containers/create?name={name}"),
        &body,
    )
    .await;
    check(&answer, 201, "\"Warnings\":[]");
    answer.json()["Id"].as_str().expect("an id").to_owned()
}

/// As in Docker, a network may be made after the container that names it.
#[tokio::test]
async fn a_network_that_is_not_there_is_missed_at_the_start() {
    let state = state();
    for (name, body) in [
        ("mode", json!({ "HostConfig": { "NetworkMode": "later" } })),
        (
            "endpoint",
            json!({
                "HostConfig": { "NetworkMode": "later" },
                "NetworkingConfig": { "EndpointsConfig": { "later": { "Aliases": ["x"] } } },
            }),
        ),
    ] {
        let mut body = body;
        body["Image"] = "busybox".into();
        body["Cmd"] = json!(["sleep"]);
        let path = format!("/containers/create?name={name}");
        check(&post(&state, &path, &body.to_string()).await, 201, "");
        let refused = post(&state, &format!("/containers/{name}/start"), "").await;
        check(
            &refused,
            404,
            "failed to set up container networking: network later not found",
        );
        let shown = get(&state, &format!("/containers/{name}/json"))
            .await
            .json();
        assert_eq!(shown["State"]["Status"], "created");
        assert!(shown["NetworkSettings"]["Networks"]["later"].is_object());
    }
    let made = post(&state, "/networks/create", r#"{"Name":"later"}"#).await;
    check(&made, 201, "");
    for name in ["mode", "endpoint"] {
        let path = format!("/containers/{name}/start");
        check(&post(&state, &path, "").await, 204, "");
    }
}

#[tokio::test]
async fn odd_paths_are_moved_and_odd_signals_refused() {
    let state = state();
    make(&state, "web", "sleep").await;
    let moved = get(&state, "//containers/json?all=1").await;
    assert_eq!(moved.status, 301);
    for (signal, text) in [
        ("99", "the linux daemon does not support signal 99"),
        ("FLY", "invalid signal: FLY"),
    ] {
        let path = format!("/containers/web/kill?signal={signal}");
        check(&post(&state, &path, "").await, 400, text);
    }
}

#[tokio::test]
async fn a_life_in_statuses() {
    let state = state();
    make(&state, "web", "sleep").await;
    check(
        &post(&state, "/containers/web/kill", "").await,
        409,
        "cannot kill container: web: container ",
    );
    check(&post(&state, "/containers/web/start", "").await, 204, "");
    check(&post(&state, "/containers/web/start", "").await, 304, "");
    check(
        &post(&state, "/containers/web/resize?h=10&w=20", "").await,
        200,
        "",
    );
    check(
        &post(&state, "/containers/web/resize?h=10", "").await,
        400,
        "invalid resize width",
    );
    let top = get(&state, "/containers/web/top").await;
    assert_eq!(top.json()["Titles"][7], "CMD");
    let chosen = get(&state, "/containers/web/top?ps_args=-eo%20pid,comm=Name").await;
    assert_eq!(chosen.json()["Titles"], json!(["PID", "Name"]));
    check(
        &get(&state, "/containers/web/top?ps_args=-o%20comm").await,
        400,
        "Couldn't find PID field in ps output",
    );
    let gone = send_to(&state, Method::DELETE, "/containers/web", "").await;
    check(
        &gone,
        409,
        "cannot remove container \\\"/web\\\": container is running: stop the container before removing or force remove",
    );
    check(&post(&state, "/containers/web/pause", "").await, 204, "");
    check(
        &post(&state, "/containers/web/pause", "").await,
        409,
        "is already paused",
    );
    check(&post(&state, "/containers/web/unpause", "").await, 204, "");
    check(
        &post(&state, "/containers/web/rename?name=shop", "").await,
        204,
        "",
    );
    check(
        &post(&state, "/containers/shop/stop?t=3", "").await,
        204,
        "",
    );
    check(&post(&state, "/containers/shop/stop", "").await, 304, "");
    check(
        &post(&state, "/containers/shop/wait", "").await,
        200,
        "{\"StatusCode\":143}\n",
    );
    check(
        &post(&state, "/containers/shop/restart?t=0", "").await,
        204,
        "",
    );
    let forced = send_to(&state, Method::DELETE, "/containers/shop?force=1&v=1", "").await;
    check(&forced, 204, "");
    check(
        &get(&state, "/containers/shop/json").await,
        404,
        "{\"message\":\"No such container: shop\"}\n",
    );
}

#[tokio::test]
async fn bad_creates() {
    let state = state();
    check(
        &post(&state, "/containers/create", "").await,
        400,
        "config cannot be empty",
    );
    check(
        &post(&state, "/containers/create", "{").await,
        400,
        "invalid JSON",
    );
    check(
        &post(&state, "/containers/create", r#"{"Image":"nothing"}"#).await,
        404,
        "No such image: nothing",
    );
    check(
        &post(
            &state,
            "/containers/create?name=-x",
            r#"{"Image":"busybox"}"#,
        )
        .await,
        400,
        "Invalid container name (-x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    );
    for (host, part) in [
        (r#"{"RestartPolicy":{"Name":"x"}}"#, "unknown policy 'x'"),
        (r#"{"Binds":["a:b"]}"#, "mount path must be absolute"),
        (r#"{"Memory":1}"#, "Minimum memory limit allowed is 6MB"),
        (r#"{"CapAdd":["FLY"]}"#, "unknown capability"),
        (
            r#"{"LogConfig":{"Type":"syslog"}}"#,
            "no log driver named 'syslog'",
        ),
        (
            r#"{"Runtime":"runsc"}"#,
            "unknown or invalid runtime name: runsc",
        ),
        (r#"{"SecurityOpt":["x"]}"#, "invalid --security-opt"),
        (
            r#"{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}"#,
            "can't create 'AutoRemove' container with restart policy",
        ),
        (r#"{"PortBindings":{"80/icmp":[]}}"#, "invalid proto: icmp"),
        (
            r#"{"Devices":[{"PathOnHost":"/dev/null","CgroupPermissions":"x"}]}"#,
            "invalid device mode: x",
        ),
        (
            r#"{"DeviceCgroupRules":["x"]}"#,
            "invalid device cgroup rule format",
        ),
        (r#"{"ExtraHosts":["x"]}"#, "bad format for add-host"),
        (
            r#"{"Mounts":[{"Type":"bind","Source":"/x","Target":"/x","ImageOptions":{"Subpath":"x"}}]}"#,
            "invalid mount config for type \\\"bind\\\": field ImageOptions must not be specified",
        ),
        (
            r#"{"Mounts":[{"Type":"image","Source":"x","Target":"/x","ImageOptions":{"Subpath":"../x"}}]}"#,
            "invalid mount config for type \\\"image\\\": subpath must be a relative path within the volume",
        ),
        (
            r#"{"Mounts":[{"Type":"tmpfs","Target":"/x","ClusterOptions":{}}]}"#,
            "field ClusterOptions must not be specified",
        ),
        (
            r#"{"NanoCpus":900000000000}"#,
            "range of CPUs is from 0.01 to 2.00",
        ),
    ] {
        let body = format!("{{\"Image\":\"busybox\",\"HostConfig\":{host}}}");
        check(&post(&state, "/containers/create", &body).await, 400, part);
    }
    make(&state, "web", "sleep").await;
    let twice = post(
        &state,
        "/containers/create?name=web",
        r#"{"Image":"busybox"}"#,
    )
    .await;
    check(
        &twice,
        409,
        "The container name \\\"/web\\\" is already in use by container",
    );
    let warned = post(
        &state,
        "/containers/create",
        r#"{"Image":"busybox","Healthcheck":{"Test":["HTTP","true"]}}"#,
    )
    .await;
    check(&warned, 201, "Unknown healthcheck type 'HTTP'");
    // A limit that one device has not is left out and told; another device keeps it.
    let weights = r#"{"BlkioWeightDevice":[{"Path":"/dev/weightless","Weight":20},{"Path":"/dev/a","Weight":30}]}"#;
    let body = format!("{{\"Image\":\"busybox\",\"HostConfig\":{weights}}}");
    let warned = post(&state, "/containers/create?name=weights", &body).await;
    let warning = "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.";
    check(&warned, 201, warning);
    let shown = get(&state, "/containers/weights/json").await.json();
    assert_eq!(
        shown["HostConfig"]["BlkioWeightDevice"],
        json!([{"Path": "/dev/a", "Weight": 30}])
    );
    let started = post(&state, "/containers/weights/start", "").await;
    check(&started, 204, "");
}

#[tokio::test]
async fn an_image_of_another_platform_is_told() {
    let state = state();
    let create = |query: &str, image: &str| {
        let body = json!({ "Image": image }).to_string();
        let path = format!("/containers/create{query}");
        let state = state.clone();
        async move { post(&state, &path, &body).await }
    };
    let made = create("", "foreign").await;
    check(
        &made,
        201,
        "[\"The requested image's platform (linux/ppc64) does not match the detected host platform (linux/",
    );
    let made = create("?platform=linux/ppc64", "foreign").await;
    check(&made, 201, "\"Warnings\":[]");
    let refused = create("?platform=linux/s390x", "busybox").await;
    check(
        &refused,
        404,
        "image with reference busybox was found but does not provide the specified platform (linux/s390x)",
    );
    check(
        &create("?platform=zzz", "busybox").await,
        400,
        "unknown operating system or architecture",
    );
}

#[tokio::test]
async fn programs_that_cannot_be_started() {
    let state = state();
    make(&state, "bad", "missing").await;
    let answer = post(&state, "/containers/bad/start", "").await;
    check(
        &answer,
        400,
        "exec: \\\"missing\\\": executable file not found in $PATH: unknown",
    );
    let shown = get(&state, "/containers/bad/json").await.json();
    assert_eq!(
        (&shown["State"]["Status"], &shown["State"]["ExitCode"]),
        (&json!("created"), &json!(127))
    );
}

#[tokio::test]
async fn questions_that_cannot_be_answered_say_why() {
    let state = state();
    make(&state, "web", "sleep").await;
    check(
        &get(&state, "/containers/nobody/stats?stream=0").await,
        404,
        "No such container: nobody",
    );
    check(
        &post(&state, "/containers/web/wait?condition=lunch", "").await,
        400,
        "invalid condition: \\\"lunch\\\"",
    );
    check(
        &get(
            &state,
            "/containers/json?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D",
        )
        .await,
        400,
        "invalid filter 'colour'",
    );
}

#[tokio::test]
async fn listing() {
    let state = state();
    make(&state, "web", "sleep").await;
    assert_eq!(get(&state, "/containers/json").await.json(), json!([]));
    let list = get(&state, "/containers/json?all=1&size=1").await.json();
    let entry = &list[0];
    assert_eq!(entry["Names"], json!(["/web"]));
    assert_eq!(
        (&entry["Status"], &entry["SizeRw"]),
        (&json!("Created"), &json!(10))
    );
    assert_eq!(
        keys(entry),
        "Command Created HostConfig Id Image ImageID Labels Mounts Names NetworkSettings Ports SizeRootFs SizeRw State Status"
    );
    post(&state, "/containers/web/start", "").await;
    let list = get(&state, "/containers/json").await.json();
    assert_eq!(list[0]["Status"], "Up Less than a second");
    assert_eq!(
        list[0]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"],
        "172.17.0.2"
    );
}

#[tokio::test]
async fn logs_and_a_wait_that_ends() {
    let state = state();
    make(&state, "job", "echo").await;
    let (wait, start) = tokio::join!(
        post(&state, "/containers/job/wait?condition=next-exit", ""),
        async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            post(&state, "/containers/job/start", "").await
        }
    );
    check(&start, 204, "");
    check(&wait, 200, "{\"StatusCode\":0}\n");
    let logs = get(&state, "/v1.51/containers/job/logs?stdout=1&stderr=1").await;
    assert_eq!(
        logs.headers["content-type"],
        "application/vnd.docker.multiplexed-stream"
    );
    assert_eq!(&logs.body[..], b"\x01\0\0\0\0\0\0\x01\n");
    check(
        &get(&state, "/containers/job/logs").await,
        400,
        "you must choose at least one stream",
    );
    check(
        &get(&state, "/containers/job/logs?stdout=1&since=soon").await,
        400,
        "invalid value for \\\"since\\\"",
    );
}

#[tokio::test]
async fn execs() {
    let state = state();
    make(&state, "web", "sleep").await;
    let body = json!({ "Cmd": ["exit", "4"], "AttachStdout": true, "User": "me" }).to_string();
    check(
        &post(&state, "/containers/web/exec", &body).await,
        409,
        "is not running",
    );
    post(&state, "/containers/web/start", "").await;
    check(
        &post(&state, "/containers/web/exec", "{}").await,
        400,
        "No exec command specified",
    );
    let made = post(&state, "/containers/web/exec", &body).await;
    check(&made, 201, "\"Id\"");
    let id = made.json()["Id"].as_str().expect("an id").to_owned();
    let ids = get(&state, "/containers/web/json").await.json()["ExecIDs"].clone();
    assert_eq!(ids, json!([id]));
    let ran = post(&state, &format!("/exec/{id}/start"), "{}").await;
    check(&ran, 200, "");
    let shown = get(&state, &format!("/exec/{id}/json")).await.json();
    assert_eq!(
        (&shown["ExitCode"], &shown["Running"]),
        (&json!(4), &json!(false))
    );
    assert_eq!(
        keys(&shown),
        "CanRemove ContainerID DetachKeys ExitCode ID OpenStderr OpenStdin OpenStdout Pid ProcessConfig Running"
    );
    check(
        &post(&state, &format!("/exec/{id}/start"), "{}").await,
        409,
        "has already run",
    );
    check(
        &post(&state, "/exec/nothing/start", "{}").await,
        404,
        "No such exec instance: nothing",
    );

    let missing = post(
        &state,
        "/containers/web/exec",
        r#"{"Cmd":"missing","AttachStdout":true}"#,
    )
    .await;
    let id = missing.json()["Id"].as_str().expect("an id").to_owned();
    let ran = post(&state, &format!("/exec/{id}/start"), "{}").await;
    assert_eq!(ran.status, 200);
    let told = String::from_utf8_lossy(&ran.body[8..]);
    assert!(
        told.ends_with("executable file not found in $PATH: unknown\r\n"),
        "{told}"
    );
    assert_eq!(
        get(&state, &format!("/exec/{id}/json")).await.json()["ExitCode"],
        127
    );
    let detached = post(&state, "/containers/web/exec", r#"{"Cmd":"missing"}"#).await;
    let id = detached.json()["Id"].as_str().expect("an id").to_owned();
    let ran = post(&state, &format!("/exec/{id}/start"), r#"{"Detach":true}"#).await;
    check(&ran, 400, "OCI runtime exec failed");
}

/// Names of an object's keys, sorted.
fn keys(value: &Value) -> String {
    let object = value.as_object().expect("an object");
    let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    names.join(" ")
}

/// Every key dockerd 28 fills for a plain container: clients index them without asking whether they are there.
#[tokio::test]
async fn inspect_has_every_key() {
    let state = state();
    make(&state, "web", "sleep").await;
    post(&state, "/containers/web/start", "").await;
    let shown = get(&state, "/containers/web/json").await.json();
    assert_eq!(
        keys(&shown),
        "AppArmorProfile Args Config Created Driver ExecIDs GraphDriver HostConfig HostnamePath HostsPath Id Image LogPath MountLabel Mounts Name NetworkSettings Path Platform ProcessLabel ResolvConfPath RestartCount State"
    );
    assert_eq!(
        keys(&shown["GraphDriver"]["Data"]),
        "LowerDir MergedDir UpperDir WorkDir"
    );
    assert_eq!(
        keys(&shown["State"]),
        "Dead Error ExitCode FinishedAt OOMKilled Paused Pid Restarting Running StartedAt Status"
    );
    assert_eq!(
        keys(&shown["Config"]),
        "AttachStderr AttachStdin AttachStdout Cmd Domainname Entrypoint Env Hostname Image Labels OnBuild OpenStdin StdinOnce Tty User Volumes WorkingDir"
    );
    assert_eq!(
        keys(&shown["HostConfig"]),
        "AutoRemove Binds BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps BlkioDeviceWriteIOps BlkioWeight BlkioWeightDevice CapAdd CapDrop Cgroup CgroupParent CgroupnsMode ConsoleSize ContainerIDFile CpuCount CpuPercent CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpuShares CpusetCpus CpusetMems DeviceCgroupRules DeviceRequests Devices Dns DnsOptions DnsSearch ExtraHosts GroupAdd IOMaximumBandwidth IOMaximumIOps IpcMode Isolation Links LogConfig MaskedPaths Memory MemoryReservation MemorySwap MemorySwappiness NanoCpus NetworkMode OomKillDisable OomScoreAdj PidMode PidsLimit PortBindings Privileged PublishAllPorts ReadonlyPaths ReadonlyRootfs RestartPolicy Runtime SecurityOpt ShmSize UTSMode Ulimits UsernsMode VolumeDriver VolumesFrom"
    );
    assert_eq!(
        keys(&shown["NetworkSettings"]),
        "Bridge EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen HairpinMode IPAddress IPPrefixLen IPv6Gateway LinkLocalIPv6Address LinkLocalIPv6PrefixLen MacAddress Networks Ports SandboxID SandboxKey SecondaryIPAddresses SecondaryIPv6Addresses"
    );
    assert_eq!(
        keys(&shown["NetworkSettings"]["Networks"]["bridge"]),
        "Aliases DNSNames DriverOpts EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen GwPriority IPAMConfig IPAddress IPPrefixLen IPv6Gateway Links MacAddress NetworkID"
    );
    assert_eq!(shown["State"]["FinishedAt"], "0001-01-01T00:00:00Z");
    assert_eq!(
        (&shown["Path"], &shown["Args"]),
        (&json!("sleep"), &json!([]))
    );
    assert_eq!(shown["HostConfig"]["ShmSize"], 64 << 20);
    assert_eq!(shown["HostConfig"]["LogConfig"]["Type"], "json-file");
}

/// In a network with routes of its own a published port is the container's, and none of the host's.
#[tokio::test]
async fn a_routed_port_has_no_number_of_the_host() {
    let state = state();
    let option = "com.docker.network.bridge.gateway_mode_ipv4";
    let network = json!({"Name": "routes", "Options": {option: "routed"}}).to_string();
    check(&post(&state, "/networks/create", &network).await, 201, "");
    let body = json!({
        "Image": "busybox", "Cmd": "sleep", "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        "HostConfig": {"NetworkMode": "routes", "PortBindings": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}},
    });
    let made = post(&state, "/containers/create?name=web", &body.to_string()).await;
    check(&made, 201, "");
    check(&post(&state, "/containers/web/start", "").await, 204, "");
    let shown = get(&state, "/containers/web/json").await.json();
    assert_eq!(
        shown["NetworkSettings"]["Ports"],
        json!({"53/udp": null, "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": ""}]})
    );
    let list = get(&state, "/containers/json").await.json();
    assert_eq!(
        list[0]["Ports"],
        json!([{"PrivatePort": 53, "Type": "udp"}, {"PrivatePort": 80, "Type": "tcp"}])
    );
}

/// What is asked for is shown again.
#[tokio::test]
async fn inspect_echoes_the_settings() {
    let state = state();
    let body = json!({
        "Image": "busybox", "Cmd": "sleep", "Hostname": "box", "ExposedPorts": {"53/udp": {}}, "StopTimeout": 3,
        "HostConfig": {
            "Binds": ["data:/data:ro"], "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]},
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "Memory": 67108864, "CapAdd": ["net_admin"],
            "Tmpfs": {"/run": "size=1m"}, "Init": true, "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": -1}],
            "Mounts": [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 4096, "Options": [["exec"]]}}],
            "PidsLimit": 9, "UsernsMode": "host",
        }
    });
    let made = post(&state, "/containers/create?name=web", &body.to_string()).await;
    check(&made, 201, "");
    check(&post(&state, "/containers/web/start", "").await, 204, "");
    let shown = get(&state, "/containers/web/json").await.json();
    let host = &shown["HostConfig"];
    assert_eq!(host["Binds"], json!(["data:/data:ro"]));
    assert_eq!(
        host["RestartPolicy"],
        json!({"Name": "on-failure", "MaximumRetryCount": 3})
    );
    assert_eq!(
        (&host["Memory"], &host["MemorySwap"]),
        (&json!(67108864), &json!(134217728))
    );
    assert_eq!(host["CapAdd"], json!(["CAP_NET_ADMIN"]));
    assert_eq!(
        host["Ulimits"],
        json!([{"Name": "nofile", "Hard": -1, "Soft": 10}])
    );
    assert_eq!(
        (&host["Init"], &host["PidsLimit"]),
        (&json!(true), &json!(9))
    );
    assert_eq!(
        host["Mounts"][0]["TmpfsOptions"],
        json!({"SizeBytes": 4096, "Mode": 0, "Options": [["exec"]]})
    );
    assert_eq!(host["UsernsMode"], "host");
    assert_eq!(shown["Config"]["StopTimeout"], 3);
    assert_eq!(shown["Config"]["Hostname"], "box");
    assert_eq!(
        shown["NetworkSettings"]["Ports"],
        json!({"53/udp": null, "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]})
    );
    let volume = shown["Mounts"]
        .as_array()
        .expect("mounts")
        .iter()
        .find(|mount| mount["Type"] == "volume");
    assert_eq!(volume.expect("the volume")["RW"], false);
    let list = get(&state, "/containers/json").await.json();
    assert_eq!(list[0]["Ports"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn a_mounted_image_is_shown_as_docker_does() {
    let state = state();
    let body = |source: &str| {
        let mount = json!({ "Type": "image", "Source": source, "Target": "/x", "ImageOptions": { "Subpath": "bin" } });
        json!({ "Image": "busybox", "HostConfig": { "Mounts": [mount] } }).to_string()
    };
    for path in ["/v1.48/containers/create?name=web", "/containers/create"] {
        check(&post(&state, path, &body("data")).await, 201, "");
    }
    check(
        &post(&state, "/v1.47/containers/create", &body("data")).await,
        400,
        "Mount type \\\"image\\\" needs API v1.48 or newer",
    );
    check(
        &post(&state, "/v1.48/containers/create", &body("nowhere")).await,
        404,
        "{\"message\":\"No such image: nowhere\"}",
    );
    let shown = get(&state, "/containers/web/json").await.json();
    let source = format!("/fake/layers/{}", "1a".repeat(32));
    assert_eq!(
        shown["Mounts"],
        json!([{
            "Type": "image", "Name": "data", "Source": source, "Destination": "/x",
            "Mode": "", "RW": false, "Propagation": "rprivate",
        }])
    );
    assert_eq!(
        shown["HostConfig"]["Mounts"],
        json!([{ "Type": "image", "Source": "data", "Target": "/x", "ImageOptions": { "Subpath": "bin" } }])
    );
}

#[tokio::test]
async fn stats_in_dockers_form() {
    let state = state();
    let id = make(&state, "web", "sleep").await;
    let zero = get(&state, "/containers/web/stats?stream=0").await.json();
    assert_eq!(zero["read"], "0001-01-01T00:00:00Z");
    assert_eq!((&zero["name"], &zero["id"]), (&json!("/web"), &json!(id)));
    assert_eq!(zero["memory_stats"], json!({}));
    assert_eq!(zero["cpu_stats"]["cpu_usage"]["total_usage"], 0);
    check(
        &get(&state, "/containers/web/stats?one-shot=1").await,
        400,
        "cannot have stream=true and one-shot=true",
    );
    check(&post(&state, "/containers/web/start", "").await, 204, "");
    let once = get(&state, "/containers/web/stats?stream=0&one-shot=1")
        .await
        .json();
    assert_eq!(once["preread"], "0001-01-01T00:00:00Z");
    assert_eq!(once["memory_stats"]["limit"], 1 << 30);
    assert_eq!(once["networks"]["eth0"]["rx_bytes"], 1000);
    let twice = get(&state, "/containers/web/stats?stream=0").await.json();
    let number = |path: &[&str]| -> f64 {
        let found = path.iter().fold(&twice, |value, key| &value[key]);
        found
            .as_f64()
            .unwrap_or_else(|| panic!("{path:?} in {twice}"))
    };
    // As the docker client computes it: the fake has half of the only processor.
    let used = number(&["cpu_stats", "cpu_usage", "total_usage"])
        - number(&["precpu_stats", "cpu_usage", "total_usage"]);
    let all =
        number(&["cpu_stats", "system_cpu_usage"]) - number(&["precpu_stats", "system_cpu_usage"]);
    let percent = used / all * number(&["cpu_stats", "online_cpus"]) * 100.0;
    assert!((45.0..55.0).contains(&percent), "{percent}: {twice}");
    assert_ne!(twice["preread"], "0001-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_stream_of_stats_goes_on_until_the_removal() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let state = state();
    make(&state, "web", "sleep").await;
    check(&post(&state, "/containers/web/start", "").await, 204, "");
    let request = http::Request::get("/containers/web/stats").body(Body::empty());
    let router = crate::serve::routes::router(state.clone());
    let response = router
        .oneshot(request.expect("good"))
        .await
        .expect("answer");
    let mut body = response.into_body();
    let mut line = async || {
        let frame = body.frame().await?.expect("no error").into_data();
        serde_json::from_slice::<Value>(&frame.expect("data")).ok()
    };
    let first = line().await.expect("one at once");
    assert_eq!(first["preread"], "0001-01-01T00:00:00Z");
    let second = line().await.expect("one after a second");
    assert_eq!(second["preread"], first["read"]);
    let removed = send_to(
        &state,
        Method::DELETE,
        "/containers/web?force=1",
        Body::empty(),
    );
    check(&removed.await, 204, "");
    while line().await.is_some() {}
}

#[tokio::test]
async fn updates_and_what_is_said_about_them() {
    let state = state();
    make(&state, "web", "sleep").await;
    let update =
        async |body: Value| post(&state, "/containers/web/update", &body.to_string()).await;
    let both = json!({"Memory": 64 << 20, "MemorySwap": 128 << 20, "PidsLimit": 10});
    check(&update(both).await, 200, r#"{"Warnings":null}"#);
    let shown = get(&state, "/containers/web/json").await.json();
    assert_eq!(shown["HostConfig"]["Memory"], 64 << 20);
    assert_eq!(shown["HostConfig"]["PidsLimit"], 10);
    check(&update(json!({"PidsLimit": 0})).await, 200, "");
    let shown = get(&state, "/containers/web/json").await.json();
    assert_eq!(shown["HostConfig"]["PidsLimit"], Value::Null);
    let policy = json!({"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}});
    check(&update(policy).await, 200, "");
    let shown = get(&state, "/containers/web/json").await.json();
    assert_eq!(shown["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 3);
    check(
        &update(json!({"Memory": 1 << 30})).await,
        409,
        "Memory limit should be smaller than already set memoryswap limit",
    );
    check(
        &update(json!({"Memory": 1000})).await,
        400,
        "Minimum memory limit allowed is 6MB",
    );
    check(
        &update(json!({"RestartPolicy": {"Name": "perhaps"}})).await,
        400,
        "unknown policy 'perhaps'",
    );
    check(
        &update(json!({"OomKillDisable": true, "Devices": [{"PathOnHost": "/dev/null"}]})).await,
        200,
        "Devices of a container cannot be changed",
    );
    check(
        &post(&state, "/containers/nobody/update", "{}").await,
        404,
        "No such container: nobody",
    );
}
