//! Field by field: what an engine answers and tells during a small fixed day, reduced to keys, kinds of values and, where the
//! day fixes them, the values themselves. Recorded on Docker's engine (`cargo xtask compat record shapes`), compared with
//! ours.

use crate::arena::Arena;
use crate::outcomes::Exceptions;
use anyhow::{Context, Result, bail, ensure};
use harness::programs::workspace;
use harness::run::run;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The name of its two files in `tests/e2e/compat`.
pub const NAME: &str = "shapes";

/// The newest version that dockerd 20.10 speaks.
const VERSION: &str = "v1.41";
/// The longest one answer may take, seconds.
const LIMIT: &str = "60";
/// How long something is waited for that takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Parts of answers whose values the day fixes.
const FIXED: &[&str] = &[
    "container, running.HostConfig",
    "container, running.Config",
    "container, running.State.Status",
    "container, running.Mounts",
    "container, stopped.State",
    "containers.Labels",
    "containers.Ports",
    "image.Config",
    "network.IPAM.Driver",
    "network.Labels",
    "network.Options",
    "volume.Labels",
    "volume.Scope",
    "exec.ProcessConfig",
    "info.Driver",
    "info.OSType",
    "info.LoggingDriver",
    "info.CgroupDriver",
    "info.CgroupVersion",
    "info.IndexServerAddress",
    "info.Isolation",
    "info.Swarm",
    "info.Containers",
    "info.Images",
    "info.MemoryLimit",
    "info.PidsLimit",
    "info.CpuCfsQuota",
    "info.CPUShares",
    "info.CPUSet",
    "info.IPv4Forwarding",
    "info.OomKillDisable",
    "info.InitBinary",
];

struct Client<'a> {
    arena: &'a Arena,
}

impl Client<'_> {
    /// The answer as text.
    fn text(&self, method: &str, path: &str, body: Option<&Value>) -> Result<String> {
        let url = format!("http://engine/{VERSION}{path}");
        let mut curl = self.arena.command("curl");
        curl.args(["--silent", "--globoff", "--max-time", LIMIT])
            .arg("--unix-socket")
            .arg(self.arena.socket())
            .args(["--write-out", "\n%{http_code}", "--request", method])
            .args(["--header", "Content-Type: application/json"]);
        if let Some(body) = body {
            curl.args(["--data", &body.to_string()]);
        } else if method == "POST" {
            curl.args(["--data", ""]);
        }
        let output = run(curl.arg(url), 2 * PATIENCE);
        let (text, status) = output.stdout.rsplit_once('\n').unwrap_or_default();
        let status: u16 = status.parse().unwrap_or_default();
        ensure!(
            (200..400).contains(&status),
            "{method} {path}: {status} {text} {}",
            output.stderr
        );
        Ok(text.to_owned())
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let text = self.text(method, path, body)?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("{method} {path}: {text}"))
    }

    fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, None)
    }

    fn post(&self, path: &str, body: Value) -> Result<Value> {
        let body = (!body.is_null()).then_some(body);
        self.ask("POST", path, body.as_ref())
    }

    /// What has no answer worth reading.
    fn order(&self, method: &str, path: &str) -> Result<()> {
        self.text(method, path, None).map(drop)
    }

    fn until(&self, what: &str, path: &str, done: impl Fn(&Value) -> bool) -> Result<()> {
        let start = Instant::now();
        while !done(&self.get(path)?) {
            if start.elapsed() > PATIENCE {
                bail!("never: {what}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// A container with something of everything.
fn container() -> Value {
    json!({
        "Image": "busybox:latest",
        "Cmd": ["sleep", "1000"],
        "Env": ["COLOUR=red"],
        "Labels": {"who": "me"},
        "WorkingDir": "/tmp",
        "User": "root",
        "Hostname": "web",
        "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {
            "Test": ["CMD-SHELL", "true"], "Interval": 1_000_000_000, "Timeout": 5_000_000_000u64, "Retries": 3,
        },
        "StopSignal": "SIGKILL",
        "StopTimeout": 1,
        "HostConfig": {
            "Binds": ["data:/data:ro"],
            "Mounts": [{"Type": "tmpfs", "Target": "/scratch"}],
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "18080"}]},
            "Memory": 67_108_864,
            "CpuShares": 512,
            "PidsLimit": 100,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 2},
            "CapAdd": ["NET_ADMIN"],
            "CapDrop": ["MKNOD"],
            "Dns": ["192.0.2.53"],
            "ExtraHosts": ["db:192.0.2.7"],
            "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}],
            "Tmpfs": {"/run": "size=1m"},
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
            "SecurityOpt": ["no-new-privileges"],
        },
    })
}

/// The day, and what there was to see.
pub fn of(arena: &Arena) -> Result<Value> {
    let client = Client { arena };
    let mut seen = Map::new();
    let mut see = |what: &str, value: Value| {
        seen.insert(what.to_owned(), shape(what, &value));
    };
    client.order("POST", "/images/create?fromImage=busybox&tag=latest")?;
    let volume = json!({"Name": "data", "Labels": {"a": "1"}});
    see("volume create", client.post("/volumes/create", volume)?);
    let network = json!({"Name": "front", "Labels": {"b": "2"}, "CheckDuplicate": true});
    see("network create", client.post("/networks/create", network)?);
    let created = client.post("/containers/create?name=web", container())?;
    see("container create", created);
    client.order("POST", "/containers/web/start")?;
    client.until("it is healthy", "/containers/web/json", |shown| {
        shown["State"]["Health"]["Status"] == "healthy"
    })?;
    let connect = json!({"Container": "web", "EndpointConfig": {"Aliases": ["www"]}});
    client.post("/networks/front/connect", connect)?;
    see("container, running", client.get("/containers/web/json")?);
    see("containers", client.get("/containers/json?all=1&size=1")?);
    see("top", client.get("/containers/web/top")?);
    see("stats", client.get("/containers/web/stats?stream=false")?);
    let exec = json!({"Cmd": ["true"], "AttachStdout": true});
    let exec = client.post("/containers/web/exec", exec)?;
    let id = exec["Id"].as_str().context("an exec has an id")?.to_owned();
    see("exec create", exec);
    client.post(&format!("/exec/{id}/start"), json!({"Detach": true}))?;
    client.until("the exec has ended", &format!("/exec/{id}/json"), |shown| {
        shown["Running"] == false
    })?;
    see("exec", client.get(&format!("/exec/{id}/json"))?);

    client.order("POST", "/containers/web/pause")?;
    client.order("POST", "/containers/web/unpause")?;
    client.order("POST", "/containers/web/rename?name=site")?;
    let update = json!({"CpuShares": 256});
    see("update", client.post("/containers/site/update", update)?);
    client.order("POST", "/containers/site/kill?signal=HUP")?;
    client.order("GET", "/containers/site/archive?path=/etc/hostname")?;
    client.order("GET", "/containers/site/export")?;
    let commit = "/commit?container=site&repo=made&tag=1&pause=0";
    see("commit", client.post(commit, Value::Null)?);
    client.order("POST", "/images/busybox/tag?repo=other&tag=1")?;
    see("untag", client.ask("DELETE", "/images/other:1", None)?);
    let disconnect = json!({"Container": "site"});
    client.post("/networks/front/disconnect", disconnect)?;
    client.order("POST", "/containers/site/restart?t=1")?;

    see("image", client.get("/images/busybox/json")?);
    see("images", client.get("/images/json")?);
    see("history", client.get("/images/made:1/history")?);
    see("network", client.get("/networks/bridge")?);
    see("networks", client.get("/networks")?);
    see("volume", client.get("/volumes/data")?);
    see("volumes", client.get("/volumes")?);
    see("disk usage", client.get("/system/df")?);
    see("info", client.get("/info")?);
    see("version", client.get("/version")?);

    client.order("POST", "/containers/site/stop?t=1")?;
    see("changes", client.get("/containers/site/changes")?);
    see("container, stopped", client.get("/containers/site/json")?);
    see("wait", client.post("/containers/site/wait", Value::Null)?);
    client.order("DELETE", "/containers/site?v=1")?;
    see(
        "image remove",
        client.ask("DELETE", "/images/made:1", None)?,
    );
    client.order("DELETE", "/volumes/data")?;
    client.order("DELETE", "/networks/front")?;
    for what in ["containers", "images", "networks", "volumes"] {
        let pruned = client.post(&format!("/{what}/prune"), Value::Null)?;
        see(&format!("{what} prune"), pruned);
    }
    // The stream ends when this second is over.
    let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 1;
    let events = client.text("GET", &format!("/events?since=0&until={until}"), None)?;
    seen.insert("events".to_owned(), events_of(&events)?);
    Ok(Value::Object(seen))
}

/// Each kind of event with its attributes' names, once.
fn events_of(text: &str) -> Result<Value> {
    let mut all = BTreeSet::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let attributes = event["Actor"]["Attributes"].as_object();
        let names: BTreeSet<&str> = attributes
            .iter()
            .flat_map(|all| all.keys().map(String::as_str))
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        let keys: BTreeSet<&str> = event
            .as_object()
            .iter()
            .flat_map(|all| all.keys().map(String::as_str))
            .collect();
        let keys: Vec<&str> = keys.into_iter().collect();
        let (kind, action) = (&event["Type"], &event["Action"]);
        all.insert(format!(
            "{} {}: {} ({})",
            kind.as_str().unwrap_or_default(),
            action.as_str().unwrap_or_default(),
            names.join(" "),
            keys.join(" ")
        ));
    }
    Ok(all.into_iter().collect::<Vec<_>>().into())
}

/// Whether a key is an id: it is another one every time.
fn is_id(key: &str) -> bool {
    let digits = key.trim_start_matches("sha256:");
    digits.len() >= 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn shape(path: &str, value: &Value) -> Value {
    let is_fixed = FIXED.iter().any(|fixed| {
        let rest = path.strip_prefix(fixed);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    });
    match value {
        Value::Object(all) => {
            let mut shapes = Map::new();
            for (key, value) in all {
                let key = if is_id(key) { "ID" } else { key };
                let new = shape(&format!("{path}.{key}"), value);
                let merged = match shapes.remove(key) {
                    Some(known) => merge(known, new),
                    None => new,
                };
                shapes.insert(key.to_owned(), merged);
            }
            Value::Object(shapes)
        }
        // As one: lists of the same things.
        Value::Array(all) if all.iter().all(Value::is_object) => all
            .iter()
            .map(|one| shape(path, one))
            .reduce(merge)
            .into_iter()
            .collect(),
        Value::Array(all) if is_fixed => all.clone().into(),
        Value::Array(all) => all
            .first()
            .map(|one| shape(path, one))
            .into_iter()
            .collect(),
        Value::String(text) if is_fixed && !varies(text) => value.clone(),
        Value::Number(_) | Value::Bool(_) if is_fixed => value.clone(),
        Value::Null => Value::Null,
        Value::String(_) => "a text".into(),
        Value::Number(_) => "a number".into(),
        Value::Bool(_) => "yes or no".into(),
    }
}

/// Ids, paths on the host and times.
fn varies(text: &str) -> bool {
    let is_time = text.len() > 19 && text.as_bytes()[10] == b'T' && !text.starts_with("0001-");
    is_id(text) || is_time || text.starts_with("/tmp/")
}

/// What is known of two things of a kind.
fn merge(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(mut all), Value::Object(more)) => {
            for (key, value) in more {
                let merged = match all.remove(&key) {
                    Some(known) => merge(known, value),
                    None => value,
                };
                all.insert(key, merged);
            }
            Value::Object(all)
        }
        (Value::Null, other) => other,
        (Value::Array(all), other @ Value::Array(_)) if all.is_empty() => other,
        (one, _) => one,
    }
}

/// Where `ours` is not as `theirs`; our own keys beside theirs are no difference. Sentences that begin with the path.
pub fn differences(theirs: &Value, ours: &Value) -> Vec<String> {
    let mut all = Vec::new();
    compare("", theirs, ours, &mut all);
    all
}

fn compare(path: &str, theirs: &Value, ours: &Value, all: &mut Vec<String>) {
    let below = |key: &str| match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    };
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (key, theirs) in theirs {
                match ours.get(key) {
                    Some(ours) => compare(&below(key), theirs, ours, all),
                    None => all.push(format!(
                        "{} is missing, in Docker it is {theirs}",
                        below(key)
                    )),
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) if path == "events" => {
            let missing = theirs.iter().filter(|event| !ours.contains(event));
            let missing = missing.map(|event| format!("events.{} is not told", plain(event)));
            let more = ours.iter().filter(|event| !theirs.contains(event));
            let more = more.map(|event| format!("events.{} is not Docker's", plain(event)));
            all.extend(missing.chain(more));
        }
        (Value::Array(theirs), Value::Array(ours))
            if theirs.len() == 1 && ours.len() == 1 && theirs[0].is_object() =>
        {
            compare(path, &theirs[0], &ours[0], all);
        }
        // Nothing is known of what would be in it.
        (Value::Array(theirs), Value::Array(_)) if theirs.is_empty() => {}
        (theirs, ours) if theirs == ours => {}
        (theirs, ours) => all.push(format!("{path} is {ours}, in Docker {theirs}")),
    }
}

fn plain(event: &Value) -> &str {
    event.as_str().unwrap_or_default()
}

fn recording() -> PathBuf {
    workspace().join("tests/e2e/compat/shapes.recorded.json")
}

/// Writes what Docker's engine showed.
pub fn write(seen: &Value) -> Result<PathBuf> {
    let path = recording();
    let mut text = serde_json::to_string_pretty(seen)?;
    text.push('\n');
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Reads it.
pub fn read() -> Result<Value> {
    let path = recording();
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "read {}: `cargo xtask compat record {NAME}` writes it",
            path.display()
        )
    })?;
    Ok(serde_json::from_str(&text)?)
}

/// Differences that nobody has given a reason for, and reasons for what is no difference (any more).
pub fn unexplained(differences: &[String], exceptions: &Exceptions) -> (Vec<String>, Vec<String>) {
    let path = |difference: &str| {
        let end = difference.find(" is ").unwrap_or(difference.len());
        difference[..end].to_owned()
    };
    let paths: Vec<String> = differences.iter().map(|one| path(one)).collect();
    let unexplained = differences
        .iter()
        .zip(&paths)
        .filter(|(_, path)| !exceptions.has(path))
        .map(|(difference, _)| difference.clone())
        .collect();
    (unexplained, exceptions.unused(&paths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_or_of_another_kind_is_found() {
        let theirs =
            json!({"Id": "a text", "List": [{"Name": "a text"}], "Left": null, "Map": {"a": 1}});
        let same = json!({"Id": "a text", "List": [{"Name": "a text", "More": 1}], "Left": null, "Map": {"a": 1}, "New": 2});
        assert_eq!(differences(&theirs, &same), Vec::<String>::new());
        let other = json!({"Id": "a number", "List": [{}], "Left": [], "Map": {"a": 2}});
        assert_eq!(
            differences(&theirs, &other),
            [
                "Id is \"a number\", in Docker \"a text\"",
                "List.Name is missing, in Docker it is \"a text\"",
                "Left is [], in Docker null",
                "Map.a is 2, in Docker 1",
            ]
        );
    }

    #[test]
    fn events_are_compared_both_ways() {
        let theirs = json!({"events": ["container start: image", "image pull: name"]});
        let ours = json!({"events": ["container start: image name", "image pull: name"]});
        assert_eq!(differences(&theirs, &ours).len(), 2);
    }

    #[test]
    fn a_shape_is_keys_and_kinds() {
        let value = json!({"Id": "x", "Size": 3, "Of": {&"ab".repeat(32): {"Name": "n"}}, "All": [{"a": null}, {"a": 1, "b": true}]});
        assert_eq!(
            shape("image", &value),
            json!({
                "Id": "a text", "Size": "a number", "Of": {"ID": {"Name": "a text"}},
                "All": [{"a": "a number", "b": "yes or no"}],
            })
        );
        let fixed = json!({"Config": {"User": "root", "Made": "2026-01-02T03:04:05Z"}});
        assert_eq!(
            shape("image", &fixed),
            json!({"Config": {"User": "root", "Made": "a text"}})
        );
    }
}
