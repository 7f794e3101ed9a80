//! Mounts as the API asks for them, looked at from inside; and a log that nobody waits for.

use crate::engine_with_busybox;
use harness::agent::Agent;
use harness::http::request;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a container with these settings says; the error of whatever request was refused.
fn inside(agent: &Agent, host: Value, script: &str) -> Result<String, String> {
    let post = |path: &str, body: &str| {
        let reply = request(&agent.socket(), "POST", path, body.as_bytes()).expect("it answers");
        (reply.status < 300)
            .then_some(reply.body.clone())
            .ok_or(reply.body)
    };
    let body = json!({
        "Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": host, "NetworkDisabled": true,
    });
    let made = post("/containers/create", &body.to_string())?;
    let made: Value = serde_json::from_str(&made).expect("JSON");
    let id = made["Id"].as_str().expect("an id");
    let started = post(&format!("/containers/{id}/start"), "");
    let said = started.map(|_| {
        agent.run(&["wait", id]).success();
        agent.run(&["logs", id]).success()
    });
    agent.run(&["rm", "-f", "-v", id]).success();
    said
}

/// A mount of the test's own on the host; gone when dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], at: &Path) -> Mounted {
        let status = Command::new("mount").args(arguments).arg(at).status();
        assert!(
            status.expect("mount starts").success(),
            "mount {arguments:?}"
        );
        Mounted(at.to_owned())
    }

    /// A folder that is a mount of itself, and tells others of the mounts in it.
    fn shared(folder: &Path) -> Mounted {
        let mounted = Mounted::new(&["--bind", &folder.display().to_string()], folder);
        let status = Command::new("mount")
            .arg("--make-shared")
            .arg(folder)
            .status();
        assert!(status.expect("mount starts").success());
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Whether /m and /m/below can be written, and what is seen there.
const LOOK: &str = "cat /m/below/file 2>/dev/null; for d in /m /m/below; do ( : > $d/new ) 2>/dev/null && echo $d; rm -f $d/new 2>/dev/null; done; true";

#[test]
fn binds_reach_as_far_as_the_request_says() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let source = agent.folder().join("source");
    let below = source.join("below");
    std::fs::create_dir_all(&below).expect("folders");
    let text = source.display().to_string();
    // A mount whose mounts are told to others, so that slaves and peers can be asked for.
    let _shared = Mounted::shared(&source);
    let _below = Mounted::new(&["-t", "tmpfs", "below"], &below);
    std::fs::write(below.join("file"), "seen\n").expect("a file");
    let look = |settings: Value| {
        let mut mount = json!({ "Type": "bind", "Source": text, "Target": "/m" });
        for (key, value) in settings.as_object().expect("an object") {
            mount[key] = value.clone();
        }
        inside(&agent, json!({ "Mounts": [mount] }), LOOK)
    };
    for (settings, expected) in [
        (json!({}), "seen\n/m\n/m/below\n"),
        (
            json!({ "BindOptions": { "Propagation": "rslave" } }),
            "seen\n/m\n/m/below\n",
        ),
        (
            json!({ "BindOptions": { "NonRecursive": true } }),
            "/m\n/m/below\n",
        ),
        (json!({ "ReadOnly": true }), "seen\n"),
        (
            json!({ "ReadOnly": true, "BindOptions": { "ReadOnlyNonRecursive": true } }),
            "seen\n/m/below\n",
        ),
        (
            json!({ "ReadOnly": true, "BindOptions": { "ReadOnlyForceRecursive": true, "Propagation": "rprivate" } }),
            "seen\n",
        ),
    ] {
        assert_eq!(
            look(settings.clone()).as_deref(),
            Ok(expected),
            "{settings}"
        );
    }
    // `-v` with ro is read-only all the way, too.
    let said = inside(&agent, json!({ "Binds": [format!("{text}:/m:ro")] }), LOOK);
    assert_eq!(said.as_deref(), Ok("seen\n"));
    for (settings, part) in [
        (
            json!({ "BindOptions": { "ReadOnlyForceRecursive": true, "Propagation": "rprivate" } }),
            "ReadOnlyForceRecursive",
        ),
        (
            json!({ "BindOptions": { "Propagation": "sideways" } }),
            "sideways",
        ),
    ] {
        let error = look(settings.clone()).expect_err("it cannot be");
        assert!(error.contains(part), "{settings}: {error}");
    }
}

#[test]
fn mounts_of_the_host_come_in_where_propagation_lets_them() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let source = agent.folder().join("source");
    std::fs::create_dir_all(source.join("later")).expect("folders");
    let text = source.display().to_string();
    let _shared = Mounted::shared(&source);
    for propagation in ["rslave", "rprivate"] {
        let flag = format!("{text}:/m:{propagation}");
        let words = [
            "run",
            "-d",
            "--network",
            "none",
            "--name",
            propagation,
            "-v",
            &flag,
        ];
        let words = [&words[..], &["busybox", "sleep", "1000"]].concat();
        agent.run(&words).success();
        let shown = agent.run(&[
            "inspect",
            "--format",
            "{{(index .Mounts 0).Propagation}}",
            propagation,
        ]);
        assert_eq!(shown.success().trim(), propagation);
    }
    let _later = Mounted::new(&["-t", "tmpfs", "later"], &source.join("later"));
    std::fs::write(source.join("later/file"), "").expect("a file");
    for (container, seen) in [("rslave", "file\n"), ("rprivate", "")] {
        let listed = agent.run(&["exec", container, "ls", "/m/later"]).success();
        assert_eq!(listed, seen, "{container}");
    }
}

#[test]
fn sources_are_made_and_volumes_filled_only_as_asked() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let source = agent.folder().join("not/there");
    let bind = |options: Value| {
        let mount =
            json!({ "Type": "bind", "Source": source, "Target": "/m", "BindOptions": options });
        inside(&agent, json!({ "Mounts": [mount] }), "touch /m/file")
    };
    let error = bind(json!({})).expect_err("it is not there");
    assert!(error.contains("bind source path does not exist"), "{error}");
    assert!(!source.exists());
    assert_eq!(bind(json!({ "CreateMountpoint": true })).as_deref(), Ok(""));
    assert!(source.join("file").exists());
    let volume = |name: &str, options: Value| {
        let mount =
            json!({ "Type": "volume", "Source": name, "Target": "/etc", "VolumeOptions": options });
        inside(
            &agent,
            json!({ "Mounts": [mount] }),
            "test -e /etc/passwd && echo filled",
        )
    };
    assert_eq!(volume("full", json!({})).as_deref(), Ok("filled\n"));
    assert_eq!(
        volume("empty", json!({ "NoCopy": true })).as_deref(),
        Ok("")
    );
    agent.run(&["volume", "rm", "full", "empty"]).success();
}

/// Docker's `mode=non-blocking`: the newest lines are dropped where the log cannot keep up, never a part of one.
#[test]
fn a_container_does_not_wait_for_its_log() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let script = "i=0; while [ $i -lt 20000 ]; do echo line $i of many; i=$((i+1)); done";
    for (size, name) in [("16k", "small"), ("8m", "large")] {
        let options = json!({ "mode": "non-blocking", "max-buffer-size": size });
        let log = json!({ "LogConfig": { "Type": "json-file", "Config": options } });
        let logged = inside(&agent, log, script).expect("it runs");
        let numbers: Vec<u32> = logged
            .lines()
            .map(|line| {
                let number = line
                    .strip_prefix("line ")
                    .and_then(|rest| rest.strip_suffix(" of many"));
                number
                    .and_then(|text| text.parse().ok())
                    .unwrap_or_else(|| panic!("a part of a line: {line:?}"))
            })
            .collect();
        assert_eq!(numbers.first(), Some(&0));
        assert!(numbers.is_sorted(), "{name}: out of order");
        if name == "large" {
            assert_eq!(numbers.len(), 20_000, "the buffer holds everything");
        }
    }
}
