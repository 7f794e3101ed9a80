//! What fate does to a host: the engine starts, says what is wrong with which container, and serves the rest.

use crate::traces::{control_groups, mounts, shims};
use crate::{engine_with_busybox, load_busybox};
use harness::agent::{Agent, obstacle};
use harness::image::busybox_or_skip;
use harness::run::eventually;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn started(agent: &Agent, name: &str) -> String {
    let arguments = ["run", "-d", "--name", name, "busybox", "sleep", "1000"];
    agent.run(&arguments).success().trim().to_owned()
}

fn state(agent: &Agent, name: &str) -> String {
    let template = "{{.State.Status}} {{.State.ExitCode}}";
    let output = agent.run(&["inspect", "--format", template, name]);
    output.success().trim().to_owned()
}

fn serves(agent: &Agent) {
    agent.run(&["run", "--rm", "busybox", "true"]).success();
}

#[test]
fn a_record_cut_short_costs_one_container() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let cut = started(&agent, "cut");
    started(&agent, "whole");
    agent.run(&["kill", "cut"]).success();
    agent.run(&["wait", "cut"]).success();
    agent.kill_serve();
    let record = agent
        .data_root()
        .join("containers")
        .join(&cut)
        .join("container.json");
    let bytes = fs::read(&record).expect("a record");
    fs::write(&record, &bytes[..bytes.len() / 2]).expect("cut");
    agent.serve();
    assert_eq!(state(&agent, "whole"), "running 0");
    agent.run(&["inspect", "cut"]).fails_with(1);
    let log = agent.log();
    let told = log
        .lines()
        .find(|line| line.contains(&cut) && line.contains("WARN"));
    let told = told.or(log
        .lines()
        .find(|line| line.contains(&cut) && line.contains("ERROR")));
    assert!(told.is_some(), "the log does not tell: {log}");
    // The name is free again.
    started(&agent, "cut");
    serves(&agent);
}

/// Process id of a container's shim.
fn shim_of(id: &str) -> u32 {
    let processes = fs::read_dir("/proc").expect("procfs").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_shim = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(" shim ") && line.contains(id)
    };
    pids.into_iter().find(is_shim).expect("it has a shim")
}

fn kill(pid: u32) {
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status();
    assert!(status.expect("kill").success());
}

#[test]
fn a_shim_that_is_killed_takes_its_container_along() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let seen = started(&agent, "seen");
    let unseen = started(&agent, "unseen");
    started(&agent, "other");
    kill(shim_of(&seen));
    eventually("its end is noticed", SOON, || {
        (state(&agent, "seen") == "exited 137").then_some(())
    });
    agent.kill_serve();
    kill(shim_of(&unseen));
    agent.serve();
    assert!(state(&agent, "unseen").starts_with("exited"));
    assert_eq!(state(&agent, "other"), "running 0");
    let gone = BTreeSet::from([seen.clone(), unseen.clone()]);
    eventually("nothing of them is left", SOON, || {
        let left = mounts(&agent.data_root());
        let mounted = left
            .iter()
            .any(|place| gone.iter().any(|id| place.contains(id)));
        (control_groups(&gone).is_empty() && !mounted && shims(&agent).len() == 1).then_some(())
    });
    agent.run(&["start", "seen", "unseen"]).success();
    assert_eq!(state(&agent, "unseen"), "running 0");
}

/// Freezes a container as somebody else would, past the engine.
fn freeze(id: &str) -> PathBuf {
    let v2 = Path::new("/sys/fs/cgroup/berth")
        .join(id)
        .join("cgroup.freeze");
    if v2.exists() {
        fs::write(&v2, "1").expect("frozen");
        return v2;
    }
    let v1 = Path::new("/sys/fs/cgroup/freezer/berth")
        .join(id)
        .join("freezer.state");
    fs::write(&v1, "FROZEN").expect("frozen");
    v1
}

#[test]
fn a_container_frozen_from_outside_holds_nobody_up() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let frozen = started(&agent, "frozen");
    started(&agent, "other");
    freeze(&frozen);
    agent.kill_serve();
    agent.serve();
    assert_eq!(state(&agent, "other"), "running 0");
    assert!(state(&agent, "frozen").ends_with(" 0"));
    serves(&agent);
    agent.run(&["exec", "other", "true"]).success();
    agent.run(&["stop", "-t", "1", "frozen"]).success();
    assert!(state(&agent, "frozen").starts_with("exited 137"));
    agent.run(&["start", "frozen"]).success();
    freeze(&frozen);
    agent.run(&["rm", "-f", "frozen"]).success();
}

#[test]
fn a_missing_layer_stops_only_who_needs_it() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    started(&agent, "running");
    agent
        .run(&["run", "--name", "ended", "busybox", "true"])
        .success();
    agent.kill_serve();
    let layers = agent.data_root().join("layers");
    let away = agent.folder().join("away");
    fs::create_dir(&away).expect("a folder");
    let names: Vec<_> = fs::read_dir(&layers)
        .expect("layers")
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| name.len() == 64)
        .collect();
    assert!(!names.is_empty());
    for name in &names {
        fs::rename(layers.join(name), away.join(name)).expect("moved away");
    }
    agent.serve();
    assert_eq!(state(&agent, "running"), "running 0");
    assert_eq!(state(&agent, "ended"), "exited 0");
    let refused = agent.run(&["start", "ended"]).fails_with(1);
    let told = names
        .iter()
        .any(|name| refused.contains(&*name.to_string_lossy()));
    assert!(told, "it does not say what is missing: {refused}");
    agent.run(&["stop", "-t", "0", "running"]).success();
    agent.run(&["rm", "ended"]).success();
    // The image can be had again.
    load_busybox(&agent, "busybox:latest");
    serves(&agent);
}

/// Unmounts when the test ends, in whatever way; declared before the agent, so that the agent goes first.
struct Mounted(Option<PathBuf>);

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = Command::new("umount").arg("-l").arg(path).status();
            let _ = fs::remove_dir_all(path.parent().expect("a parent"));
        }
    }
}

#[test]
fn a_full_disk_is_told_and_survived() {
    if obstacle().is_some() || busybox_or_skip().is_none() {
        return;
    }
    let mut mounted = Mounted(None);
    let Some(mut agent) = Agent::start(&[]) else {
        return;
    };
    agent.kill_serve();
    let data = agent.data_root();
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=48m", "tmpfs"])
        .arg(&data)
        .status();
    if !status.is_ok_and(|status| status.success()) {
        println!("skipped: tmpfs cannot be mounted here");
        return;
    }
    mounted.0 = Some(data.clone());
    agent.serve();
    load_busybox(&agent, "busybox:latest");
    started(&agent, "web");
    let filler = data.join("filler");
    let dd = Command::new("dd")
        .args(["if=/dev/zero", "bs=64k"])
        .arg(format!("of={}", filler.display()))
        .output();
    assert!(!dd.expect("dd").status.success(), "the disk is full");
    let refused = agent.run(&["run", "-d", "--name", "more", "busybox", "sleep", "1000"]);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("No space left on device"),
        "{}",
        refused.report()
    );
    agent.run(&["inspect", "more"]).fails_with(1);
    agent.kill_serve();
    agent.serve();
    assert_eq!(state(&agent, "web"), "running 0");
    agent.run(&["exec", "web", "true"]).success();
    agent.run(&["stop", "-t", "0", "web"]).success();
    assert_eq!(state(&agent, "web"), "exited 137");
    fs::remove_file(&filler).expect("removed");
    agent.run(&["start", "web"]).success();
    started(&agent, "more");
    serves(&agent);
    drop(agent);
    drop(mounted);
}
