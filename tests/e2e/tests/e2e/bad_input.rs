//! What nobody should send: the engine answers with a clear no, goes on, and keeps nothing of it.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::http::{exchange, request};
use harness::image::{Layer, LayerTar, Packing, TestImage};
use harness::run::{eventually, run_with_input};
use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[track_caller]
fn assert_unharmed(agent: &Agent) {
    let reply = request(&agent.socket(), "GET", "/_ping", b"").expect("it answers");
    assert_eq!((reply.status, reply.body.as_str()), (200, "OK"));
    assert!(!agent.log().contains("panicked"), "it panicked");
    assert_eq!(agent.run(&["ps", "-aq"]).success(), "");
}

/// Sends it and checks the status and the message of the answer.
#[track_caller]
fn refused(agent: &Agent, method: &str, path: &str, body: &[u8], status: u16, part: &str) {
    let text = String::from_utf8_lossy(body);
    let text: String = text.chars().take(200).collect();
    let reply = request(&agent.socket(), method, path, body)
        .unwrap_or_else(|| panic!("{method} {path} {text}: no answer"));
    assert_eq!(
        reply.status, status,
        "{method} {path} {text}: {}",
        reply.body
    );
    let message: Value = serde_json::from_str(&reply.body)
        .unwrap_or_else(|error| panic!("{method} {path} {text}: {error}: {}", reply.body));
    let message = message["message"].as_str().expect("a message");
    assert!(
        message.contains(part),
        "{method} {path} {text}: {message:?} has no {part:?}"
    );
}

#[test]
fn containers_that_make_no_sense_are_refused() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let create = |body: &[u8], part: &str| {
        refused(&agent, "POST", "/containers/create", body, 400, part);
    };
    create(b"", "config cannot be empty");
    create(b"{", "invalid JSON");
    create(b"[]", "invalid JSON");
    create(b"\xff\xfe{}", "invalid JSON");
    create("{\"a\":".repeat(100_000).as_bytes(), "invalid JSON");
    create(
        format!("{{\"Cmd\":{}{}}}", "[".repeat(5000), "]".repeat(5000)).as_bytes(),
        "invalid JSON",
    );
    create(&vec![b' '; 5 << 20], "larger than");
    create(b"{\"Image\":\"\"}", "no image specified");

    let with = |settings: Value, part: &str| {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": settings});
        create(body.to_string().as_bytes(), part);
    };
    with(
        json!({"Memory": 4096}),
        "Minimum memory limit allowed is 6MB",
    );
    with(json!({"Memory": -1}), "Minimum memory limit allowed is 6MB");
    with(json!({"Memory": 1.5}), "invalid JSON");
    with(json!({"Memory": 18446744073709551615_u64}), "invalid JSON");
    with(json!({"MemorySwap": -2}), "Invalid value: -2");
    with(
        json!({"CpusetCpus": "4000"}),
        "Requested CPUs are not available",
    );
    with(
        json!({"CpusetCpus": "0-"}),
        "Invalid value 0- for cpuset cpus",
    );
    with(json!({"NanoCpus": i64::MAX}), "range of CPUs");
    with(json!({"ShmSize": -1}), "SHM size can not be less than 0");
    with(json!({"OomScoreAdj": 1001}), "range for oom score adj");
    with(json!({"CapAdd": ["FLY"]}), "unknown capability");
    with(
        json!({"SecurityOpt": ["seccomp={"]}),
        "Decoding seccomp profile failed",
    );
    with(json!({"Sysctls": {"../../x": "1"}}), "is not allowed");
    with(
        json!({"RestartPolicy": {"Name": "maybe"}}),
        "unknown policy",
    );
    with(
        json!({"NetworkMode": "container:../x"}),
        "No such container",
    );
    with(
        json!({"Runtime": "../../bin/sh"}),
        "unknown or invalid runtime",
    );
    with(
        json!({"PortBindings": {"80/tcp": [{"HostPort": "70000"}]}}),
        "invalid port",
    );
    for name in ["..", "../../etc", "a/b", ".", "-a", "x\u{0}y"] {
        with(
            json!({"Binds": [format!("{name}:/x")]}),
            "includes invalid characters for a local volume name",
        );
    }
    with(json!({"Binds": ["/etc:/x:rz"]}), "invalid mode: rz");
    with(json!({"Binds": ["data:/"]}), "destination can't be '/'");
    with(
        json!({"Binds": ["/etc:/proc"]}),
        "destination can't be '/proc'",
    );
    with(
        json!({"Tmpfs": {"/tmp/../proc/": ""}}),
        "destination can't be '/proc'",
    );
    with(
        json!({"Mounts": [{"Type": "volume", "Source": "../x", "Target": "/x"}]}),
        "invalid volume name",
    );
    if !std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'))
    {
        with(
            json!({"SecurityOpt": ["apparmor=mine"]}),
            "AppArmor is not enabled",
        );
    }
    for name in ["a%20b", "..%2fx", "-a", "%00", "%c3%a9"] {
        let path = format!("/containers/create?name={name}");
        let body = b"{\"Image\":\"busybox\"}";
        refused(&agent, "POST", &path, body, 400, "Invalid container name");
    }
    let volumes = request(&agent.socket(), "GET", "/volumes", b"").expect("it answers");
    assert!(
        volumes.body.starts_with("{\"Volumes\":[],"),
        "{}",
        volumes.body
    );
    assert_unharmed(&agent);
}

#[test]
fn odd_paths_queries_and_names_are_refused() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let no = |method: &str, path: &str, body: &str, status: u16, part: &str| {
        refused(&agent, method, path, body.as_bytes(), status, part);
    };
    for name in ["..%2fx", "%2e%2e", "%00", &"a".repeat(5000)] {
        no(
            "GET",
            &format!("/containers/{name}/json"),
            "",
            404,
            "No such container",
        );
        no(
            "DELETE",
            &format!("/containers/{name}"),
            "",
            404,
            "No such container",
        );
        no(
            "GET",
            &format!("/volumes/{name}"),
            "",
            404,
            "no such volume",
        );
        no(
            "DELETE",
            &format!("/volumes/{name}"),
            "",
            404,
            "no such volume",
        );
        no(
            "GET",
            &format!("/exec/{name}/json"),
            "",
            404,
            "No such exec instance",
        );
        no("DELETE", &format!("/images/{name}"), "", 400, "");
    }
    for area in ["containers", "images", "volumes", "networks", "exec"] {
        no("GET", &format!("/{area}/%ff%fe/json"), "", 400, "not UTF-8");
    }
    for filters in [
        "%7B",
        "[]",
        "%22x%22",
        "%7B%22x%22:[%22y%22]%7D",
        "%7B%22label%22:[1]%7D",
    ] {
        for list in [
            "containers/json",
            "images/json",
            "volumes",
            "networks",
            "events",
        ] {
            no(
                "GET",
                &format!("/{list}?filters={filters}"),
                "",
                400,
                "invalid filter",
            );
        }
    }
    no(
        "GET",
        "/containers/json?limit=x",
        "",
        400,
        "not a valid number",
    );
    no("GET", "/events?since=9223372036854775807", "", 400, "since");
    no("GET", "/v1.99/info", "", 400, "too new");
    no("POST", "/volumes/create", "[]", 400, "invalid JSON");
    no(
        "POST",
        "/volumes/create",
        "{\"Name\":\"../x\"}",
        400,
        "includes invalid characters",
    );
    no(
        "POST",
        "/images/busybox/tag?repo=A",
        "",
        400,
        "must be lowercase",
    );
    no(
        "POST",
        "/images/create?fromImage=a:b:c",
        "",
        400,
        "invalid reference format",
    );
    // A port above 65535 is none; this once ended the engine.
    no(
        "POST",
        "/images/create?fromImage=127.0.0.1:99999/x&tag=1",
        "",
        400,
        "invalid reference format",
    );
    let login = |address: &str| json!({"username": "a", "password": "b", "serveraddress": address});
    for address in ["not a url", "127.0.0.1:99999", "[::"] {
        no(
            "POST",
            "/auth",
            &login(address).to_string(),
            400,
            "invalid registry address",
        );
    }
    assert_unharmed(&agent);
}

#[test]
fn an_exec_needs_its_working_directory() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "box",
            "-w",
            "/made/for/it",
            "busybox",
            "sleep",
            "1000",
        ])
        .success();
    let text = agent
        .run(&["exec", "-w", "/missing", "box", "true"])
        .fails_with(126);
    assert!(
        text.contains("/missing") && text.contains("no such file or directory"),
        "{text}"
    );
    assert_eq!(
        agent.run(&["exec", "box", "pwd"]).success(),
        "/made/for/it\n"
    );
    agent
        .run(&["exec", "box", "test", "-e", "/missing"])
        .fails_with(1);
    agent.run(&["rm", "-f", "box"]).success();
    assert_unharmed(&agent);
}

/// File descriptors of `serve`: a connection that is forgotten would stay among them.
fn descriptors(agent: &Agent) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", agent.pid()))
        .expect("it runs")
        .count()
}

#[test]
fn broken_http_is_refused_and_forgotten() {
    let Some(agent) = Agent::start(&[]) else {
        return;
    };
    assert_unharmed(&agent);
    let before = descriptors(&agent);
    let many_headers: String = (0..1000).map(|n| format!("X-{n}: y\r\n")).collect();
    let get = "GET /_ping HTTP/1.1\r\nHost: engine\r\n";
    let post = "POST /containers/create HTTP/1.1\r\nHost: engine\r\n";
    for (bytes, status) in [
        ("\0\u{1}\u{2}\r\n\r\n".to_owned(), 400),
        ("GET /\r\n\r\n".to_owned(), 400),
        ("GET /_ping HTTP/9.9\r\n\r\n".to_owned(), 400),
        (format!("{get}{many_headers}\r\n"), 431),
        (format!("{get}X: {}\r\n\r\n", "a".repeat(4 << 20)), 431),
        (
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000)),
            414,
        ),
        (format!("{post}Content-Length: -1\r\n\r\n"), 400),
        (
            format!("{post}Content-Length: {}\r\n\r\n", "9".repeat(30)),
            400,
        ),
        (
            format!("{post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{{}}"),
            400,
        ),
        (
            format!("{post}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"),
            400,
        ),
        (
            format!(
                "{post}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n{}\r\n",
                "F".repeat(17)
            ),
            400,
        ),
    ] {
        let answer = exchange(&agent.socket(), bytes.as_bytes(), Duration::from_secs(20))
            .expect("it listens");
        let answer = String::from_utf8_lossy(&answer);
        let words: String = bytes.chars().take(120).collect();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{words:?}: {answer}"
        );
    }

    // Heads and bodies that never end hold up nobody else.
    let half_open: Vec<UnixStream> = (0..200)
        .map(|number| {
            let mut stream = UnixStream::connect(agent.socket()).expect("it listens");
            let text = match number % 3 {
                0 => "GET /_ping HTT".to_owned(),
                1 => format!("{post}Content-Length: 100\r\n\r\n{{"),
                _ => "POST /images/load HTTP/1.1\r\nHost: engine\r\nContent-Length: 100000\r\n\r\nabc".to_owned(),
            };
            stream.write_all(text.as_bytes()).expect("sent");
            stream
        })
        .collect();
    assert_unharmed(&agent);
    drop(half_open);
    eventually("connections are forgotten", Duration::from_secs(20), || {
        (descriptors(&agent) <= before + 2).then_some(())
    });
    assert_unharmed(&agent);
}

fn names(folder: std::path::PathBuf) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn hostile_archives_change_nothing() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let outside = agent.folder().join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("kept"), "kept").expect("written");
    let target = outside.to_string_lossy().into_owned();
    let image = |change: &dyn Fn(&mut LayerTar)| {
        let mut tar = LayerTar::new();
        change(&mut tar);
        let layer = Layer::new(tar.finish(), Packing::Plain);
        TestImage::new(vec![layer], json!({})).docker_archive(&["evil:1"])
    };
    let archive = |manifest: Value| {
        let mut tar = LayerTar::new();
        tar.file("config.json", 0o644, b"{}");
        tar.link("link", "/etc/passwd");
        tar.file("manifest.json", 0o644, manifest.to_string().as_bytes());
        tar.finish()
    };
    let good = image(&|tar| {
        tar.file("file", 0o644, b"hello");
    });
    let mut other_content = good.clone();
    let at = other_content
        .windows(5)
        .position(|window| window == b"hello")
        .expect("it is in there");
    other_content[at] = b'j';
    let bad: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", Vec::new(), "manifest.json is missing"),
        ("noise", vec![0x5a; 10_000], "not a tar archive"),
        (
            "half of it",
            good[..good.len() / 3].to_vec(),
            "in the middle of an entry",
        ),
        ("other content", other_content, "digest"),
        (
            "a file through a link",
            image(&|tar| {
                tar.link("x", &target);
                tar.file("x/escaped", 0o644, b"hi");
            }),
            "x/escaped",
        ),
        (
            "a whiteout through a link",
            image(&|tar| {
                tar.link("x", &target);
                tar.file("x/.wh.kept", 0o644, b"");
            }),
            ".wh.kept",
        ),
        (
            "a hard link to the host",
            image(&|tar| {
                tar.hard_link("x", "/etc/passwd");
            }),
            "not in this layer",
        ),
        (
            "a hard link upwards",
            image(&|tar| {
                tar.hard_link("x", "../../../../../../etc/passwd");
            }),
            "leads out of the layer",
        ),
        (
            "a nameless whiteout",
            image(&|tar| {
                tar.file(".wh...", 0o644, b"");
            }),
            "a whiteout without a name",
        ),
        (
            "a configuration outside",
            archive(json!([{"Config": "../../etc/passwd", "RepoTags": ["m:1"], "Layers": []}])),
            "is missing",
        ),
        (
            "a configuration that is a link",
            archive(json!([{"Config": "link", "RepoTags": ["m:1"], "Layers": []}])),
            "is missing",
        ),
        (
            "a layer outside",
            archive(
                json!([{"Config": "config.json", "RepoTags": ["m:1"], "Layers": ["/etc/passwd"]}]),
            ),
            "is missing",
        ),
        (
            "a name that is a digest",
            archive(json!([{
                "Config": "config.json",
                "RepoTags": [format!("busybox@sha256:{}", "0".repeat(64))],
                "Layers": [],
            }])),
            "it is a digest",
        ),
        (
            "a manifest that is none",
            archive(json!({"a": 1})),
            "manifest.json",
        ),
        (
            "a name that is none",
            archive(json!([{"Config": "config.json", "RepoTags": ["//:x"]}])),
            "invalid reference format",
        ),
    ];
    let content = agent.data_root().join("content");
    let state = || {
        [
            names(agent.data_root().join("layers")),
            names(content.join("blobs/sha256")),
            names(content.join("ingest")),
            names(content.join("loads")),
        ]
    };
    let before = state();
    for (what, archive, part) in bad {
        let output = run_with_input(&mut agent.berth(&["load"]), &archive, LIMIT);
        assert_eq!(output.code, Some(1), "{what}: {}", output.report());
        assert!(output.stderr.contains(part), "{what}: {}", output.report());
        assert_eq!(names(outside.clone()), ["kept"], "{what}");
        assert_eq!(state(), before, "{what}");
    }
    let listed = agent.run(&["images", "-q"]).success();
    assert_eq!(listed.lines().count(), 1, "{listed}");
    assert_unharmed(&agent);
}
