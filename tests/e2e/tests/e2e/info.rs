//! What `GET /info` says is so: by the kernel's own files, by the engine's command line, and by what there is.

use crate::engine_with_busybox;
use harness::agent::Agent;
use harness::http::request;
use harness::run::eventually;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn get(agent: &Agent, path: &str) -> Value {
    let reply = request(&agent.socket(), "GET", path, b"").expect("an answer");
    assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    serde_json::from_str(&reply.body).expect("JSON")
}

/// What a shell of the host says.
fn said(script: &str) -> String {
    let output = Command::new("sh").args(["-c", script]).output();
    let text = output.expect("a shell").stdout;
    String::from_utf8(text).expect("text").trim().to_owned()
}

fn text(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

#[track_caller]
fn check(info: &Value, expected: &[(&str, Value)]) {
    for (key, value) in expected {
        assert_eq!(&info[key], value, "{key}");
    }
}

#[test]
fn the_host_is_told_as_it_is() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let unified = said("stat -fc %T /sys/fs/cgroup") == "cgroup2fs";
    let has = |controller: &str, file: &str| match unified {
        true => text("/sys/fs/cgroup/cgroup.controllers")
            .split(' ')
            .any(|one| one == controller),
        false => Path::new(&format!("/sys/fs/cgroup/{controller}/{file}")).exists(),
    };
    let swap = match unified {
        true => has("memory", "") && Path::new("/proc/swaps").exists(),
        false => has("memory", "memory.memsw.limit_in_bytes"),
    };
    let on = |path: &str| Value::from(text(path) == "1");
    let number = |script: &str| json!(said(script).parse::<u64>().expect("a number"));
    let data_root = agent.data_root().display().to_string();
    let file_system = match said(&format!("stat -fc %T {data_root}")).as_str() {
        "ext2/ext3" => "extfs".to_owned(),
        other => other.to_owned(),
    };
    let processors = said(&format!("grep Cpus_allowed: /proc/{}/status", agent.pid()));
    let masks = processors.rsplit('\t').next().expect("a mask").split(',');
    let processors: u32 = masks
        .map(|mask| u32::from_str_radix(mask, 16).expect("digits").count_ones())
        .sum();
    let mut security = Vec::new();
    if text("/sys/module/apparmor/parameters/enabled") == "Y" {
        security.push("name=apparmor");
    }
    if text("/proc/self/status").contains("Seccomp:") {
        security.push("name=seccomp,profile=builtin");
    }
    security.push("name=cgroupns");
    let before = said("date -u +%Y-%m-%dT%H:%M:%S");
    let info = get(&agent, "/info");
    check(
        &info,
        &[
            ("KernelVersion", said("uname -r").into()),
            ("Architecture", said("uname -m").into()),
            ("Name", text("/proc/sys/kernel/hostname").into()),
            (
                "OperatingSystem",
                said(". /etc/os-release; echo \"$PRETTY_NAME\"").into(),
            ),
            (
                "OSVersion",
                said(". /etc/os-release; echo \"$VERSION_ID\"").into(),
            ),
            ("NCPU", processors.into()),
            (
                "MemTotal",
                number("awk '/^MemTotal:/ { printf \"%.0f\", $2 * 1024 }' /proc/meminfo"),
            ),
            ("IPv4Forwarding", on("/proc/sys/net/ipv4/ip_forward")),
            ("CgroupVersion", if unified { "2" } else { "1" }.into()),
            ("MemoryLimit", has("memory", "memory.limit_in_bytes").into()),
            ("SwapLimit", swap.into()),
            ("CpuCfsPeriod", has("cpu", "cpu.cfs_period_us").into()),
            ("CpuCfsQuota", has("cpu", "cpu.cfs_quota_us").into()),
            ("CPUShares", has("cpu", "cpu.shares").into()),
            ("CPUSet", has("cpuset", "cpuset.cpus").into()),
            ("PidsLimit", has("pids", "").into()),
            (
                "OomKillDisable",
                (!unified && has("memory", "memory.oom_control")).into(),
            ),
            ("Driver", "overlay2".into()),
            ("DockerRootDir", data_root.into()),
            ("SecurityOptions", json!(security)),
            ("ServerVersion", get(&agent, "/version")["Version"].clone()),
        ],
    );
    assert_eq!(
        info["DriverStatus"][0],
        json!(["Backing Filesystem", file_system])
    );
    let now = info["SystemTime"].as_str().expect("a text").to_owned();
    let after = said("date -u +%Y-%m-%dT%H:%M:%S");
    assert!(
        before[..] <= now[..19] && now[..19] <= after[..],
        "{before} {now} {after}"
    );
    let program = fs::read_link(format!("/proc/{}/exe", agent.pid()));
    let program = program.expect("it runs").display().to_string();
    assert_eq!(info["Runtimes"]["runc"]["path"], program);
    // Newer versions do not ask any more.
    check(
        &get(&agent, "/v1.49/info"),
        &[
            (
                "BridgeNfIptables",
                on("/proc/sys/net/bridge/bridge-nf-call-iptables"),
            ),
            (
                "BridgeNfIp6tables",
                on("/proc/sys/net/bridge/bridge-nf-call-ip6tables"),
            ),
        ],
    );
}

#[test]
fn the_settings_are_told_as_they_were_given() {
    let Some(agent) = engine_with_busybox(&[
        "--debug",
        "--experimental",
        "--label",
        "colour=blue",
        "--log-driver",
        "local",
        "--add-runtime",
        "other=/bin/true",
        "--http-proxy",
        "http://me:secret@proxy.example:3128",
        "--no-proxy",
        "localhost",
        "--insecure-registry",
        "registry.example:5000",
        "--registry-mirror",
        "http://mirror.example",
    ]) else {
        return;
    };
    let info = get(&agent, "/info");
    check(
        &info,
        &[
            ("Debug", true.into()),
            ("ExperimentalBuild", true.into()),
            ("Labels", json!(["colour=blue"])),
            ("LoggingDriver", "local".into()),
            ("DefaultRuntime", "runc".into()),
            ("HttpProxy", "http://xxxxx:xxxxx@proxy.example:3128".into()),
            ("NoProxy", "localhost".into()),
        ],
    );
    assert_eq!(info["Runtimes"]["other"]["path"], "/bin/true");
    let registries = &info["RegistryConfig"];
    assert_eq!(registries["Mirrors"], json!(["http://mirror.example/"]));
    let index = &registries["IndexConfigs"];
    assert_eq!(index["registry.example:5000"]["Secure"], false);
    assert_eq!(index["docker.io"]["Secure"], true);
}

#[test]
fn what_there_is_is_counted() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let expect = |counts: [u32; 5]| {
        let info = get(&agent, "/info");
        let keys = [
            "Containers",
            "ContainersRunning",
            "ContainersPaused",
            "ContainersStopped",
            "Images",
        ];
        assert_eq!(keys.map(|key| info[key].clone()), counts.map(Value::from));
    };
    expect([0, 0, 0, 0, 1]);
    for name in ["runs", "paused", "ended"] {
        let words = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ];
        agent.run(&words).success();
    }
    agent.run(&["pause", "paused"]).success();
    agent.run(&["stop", "-t", "0", "ended"]).success();
    agent
        .run(&["create", "--name", "made", "busybox", "true"])
        .success();
    agent.run(&["tag", "busybox", "again"]).success();
    expect([4, 1, 1, 2, 1]);

    let listeners = || get(&agent, "/info")["NEventsListener"].clone();
    assert_eq!(listeners(), 0);
    let mut stream = UnixStream::connect(agent.socket()).expect("the engine");
    let head = b"GET /events HTTP/1.1\r\nHost: engine\r\n\r\n";
    stream.write_all(head).expect("sent");
    eventually("somebody listens", Duration::from_secs(20), || {
        (listeners() == 1).then_some(())
    });
}
