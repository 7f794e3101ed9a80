//! What an engine leaves on its host: files, mounts, processes, control groups, interfaces.

use harness::agent::Agent;
use harness::http::request;
use harness::run::eventually;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Names in a folder; none where it is not there.
pub fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Mounts below a folder.
pub fn mounts(folder: &Path) -> Vec<String> {
    let needle = folder.to_string_lossy().into_owned();
    let table = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    places
        .filter(|place| place.starts_with(&needle))
        .map(str::to_owned)
        .collect()
}

/// Shims of this engine: process ids and command lines.
pub fn shim_processes(agent: &Agent) -> Vec<(String, String)> {
    let needle = agent.folder().to_string_lossy().into_owned();
    entries(Path::new("/proc"))
        .into_iter()
        .filter_map(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .filter(|(_, line)| line.contains(&needle) && line.contains(" shim "))
        .collect()
}

/// Shims of this engine: their command lines.
pub fn shims(agent: &Agent) -> Vec<String> {
    let all = shim_processes(agent).into_iter();
    all.map(|(_, line)| line).collect()
}

/// Control groups of these containers, in every hierarchy.
pub fn control_groups(ids: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let root = Path::new("/sys/fs/cgroup");
    let mut folders = vec![root.join("berth")];
    folders.extend(
        entries(root)
            .iter()
            .map(|hierarchy| root.join(hierarchy).join("berth")),
    );
    for folder in folders {
        let names = entries(&folder).into_iter();
        found.extend(names.filter(|name| ids.contains(name)));
    }
    found
}

pub fn list(agent: &Agent, path: &str) -> Value {
    let reply = request(&agent.socket(), "GET", path, b"").expect("it answers");
    assert_eq!(reply.status, 200, "{}", reply.body);
    serde_json::from_str(&reply.body)
        .unwrap_or_else(|error| panic!("{path}: {error}: {}", reply.body))
}

/// Once every container and volume is removed: nothing of them may be left. `made` are the ids of all there ever were.
pub fn assert_nothing_left(agent: &Agent, made: &BTreeSet<String>) {
    let leaks = || {
        [
            ("containers", entries(&agent.data_root().join("containers"))),
            (
                "run-time folders",
                entries(&agent.exec_root().join("containers")),
            ),
            ("volumes", entries(&agent.data_root().join("volumes"))),
            ("loads", entries(&agent.data_root().join("content/loads"))),
            (
                "ingests",
                entries(&agent.data_root().join("content/ingest")),
            ),
            ("data mounts", mounts(&agent.data_root())),
            (
                "run-time mounts",
                mounts(&agent.exec_root().join("containers")),
            ),
            ("control groups", control_groups(made)),
            ("shims", shims(agent)),
        ]
        .map(|(what, names)| format!("{what}: {names:?}"))
        .into_iter()
        .filter(|line| !line.ends_with(": []"))
        .collect::<Vec<_>>()
    };
    // The end of a container is cleaned up after its answer.
    let end = Instant::now() + Duration::from_secs(10);
    while !leaks().is_empty() {
        assert!(Instant::now() < end, "left over: {:?}", leaks());
        std::thread::sleep(Duration::from_millis(50));
    }
    // Network namespaces are kept ready, but no more of them than in an engine that was never killed.
    let fresh = Agent::start(&[]).expect("this host can");
    let namespaces = |agent: &Agent| entries(&agent.exec_root().join("netns")).len();
    let ports = |agent: &Agent| {
        entries(
            &Path::new("/sys/class/net")
                .join(agent.bridge())
                .join("brif"),
        )
        .len()
    };
    eventually(
        "spare namespaces are as many as ever",
        Duration::from_secs(10),
        || {
            (namespaces(agent) <= namespaces(&fresh).max(1) && ports(agent) <= ports(&fresh).max(1))
                .then_some(())
        },
    );
}
