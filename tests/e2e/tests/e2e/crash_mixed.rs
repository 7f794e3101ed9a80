//! `kill -9` of the engine at any moment of mixed operations. Afterwards kernel, records and API must agree, and what was
//! acknowledged must be so.
//!
//! 1,000 operations in the suite; more with `BERTH_CRASH_OPERATIONS=5000`, the same again with `BERTH_CRASH_SEED=...`:
//!
//! ```text
//! BERTH_CRASH_OPERATIONS=5000 cargo test -p e2e --test e2e mixed_operations -- --nocapture
//! ```

use crate::dice::Dice;
use crate::engine_with_busybox;
use crate::traces::{self, assert_nothing_left, list};
use harness::agent::Agent;
use harness::http::{Reply, request};
use harness::image::LayerTar;
use harness::run::eventually;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 4;
/// Containers there are at most at one time; beyond, one is removed for each that is made.
const MOST: usize = 12;

/// What is known of a container.
#[derive(Default)]
struct Known {
    /// Somebody has asked for its removal: it may be there or not.
    removal_asked: bool,
    /// The removal was acknowledged: it may not be there.
    removed: bool,
    /// Every name it was given or may have been given.
    names: BTreeSet<String>,
}

struct Players<'a> {
    socket: &'a Path,
    /// Operations that the engine answered, and how many there are to be.
    done: AtomicU64,
    wanted: u64,
    next_name: AtomicU64,
    made: Mutex<BTreeMap<String, Known>>,
    /// Of containers that go by themselves, and those whose create was not acknowledged.
    passing: Mutex<BTreeSet<String>>,
}

/// Told when the test ends, in whatever way.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Players<'_> {
    fn post(&self, path: &str, body: &Value) -> Option<Reply> {
        request(self.socket, "POST", path, body.to_string().as_bytes())
    }

    fn name(&self) -> String {
        format!("box{}", self.next_name.fetch_add(1, Ordering::Relaxed))
    }

    fn made(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.made.lock().expect("no panic")
    }

    /// One of those that nobody removes.
    fn any(&self, dice: &mut Dice) -> Option<String> {
        let made = self.made();
        let there: Vec<&String> = made
            .iter()
            .filter(|(_, known)| !known.removal_asked)
            .map(|(id, _)| id)
            .collect();
        if there.is_empty() {
            return None;
        }
        Some(there[dice.below(there.len() as u64) as usize].clone())
    }

    fn create(&self, dice: &mut Dice) -> Option<()> {
        let there = self
            .made()
            .values()
            .filter(|one| !one.removal_asked)
            .count();
        if there >= MOST {
            self.remove(dice)?;
        }
        let name = self.name();
        let mut host = json!({});
        match dice.below(4) {
            0 => host["Binds"] = json!(["shared:/data"]),
            1 => host["NetworkMode"] = json!("none"),
            2 => host["RestartPolicy"] = json!({"Name": "always"}),
            _ => {
                host["PortBindings"] = json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]})
            }
        }
        let program = match dice.below(3) {
            0 => vec!["sh", "-c", "echo hello; exit 3"],
            _ => vec!["sleep", "1000"],
        };
        let mut body = json!({"Image": "busybox", "Cmd": program, "HostConfig": host});
        if dice.below(4) == 0 {
            body["Healthcheck"] = json!({"Test": ["CMD", "true"], "Interval": 50_000_000});
            body["Volumes"] = json!({"/anonymous": {}});
        }
        let reply = self.post(&format!("/containers/create?name={name}"), &body)?;
        let answer: Value = serde_json::from_str(&reply.body).ok()?;
        let id = answer["Id"].as_str()?.to_owned();
        let known = Known {
            names: BTreeSet::from([name]),
            ..Known::default()
        };
        self.made().insert(id, known);
        Some(())
    }

    fn remove(&self, dice: &mut Dice) -> Option<()> {
        let id = self.any(dice)?;
        self.made().get_mut(&id)?.removal_asked = true;
        let path = format!("/containers/{id}?force=1&v=1");
        let reply = request(self.socket, "DELETE", &path, b"")?;
        if matches!(reply.status, 204 | 404) {
            self.made().get_mut(&id)?.removed = true;
        }
        Some(())
    }

    fn rename(&self, dice: &mut Dice) -> Option<()> {
        let (id, name) = (self.any(dice)?, self.name());
        self.made().get_mut(&id)?.names.insert(name.clone());
        self.post(&format!("/containers/{id}/rename?name={name}"), &json!({}))?;
        Some(())
    }

    fn exec(&self, dice: &mut Dice) -> Option<()> {
        let id = self.any(dice)?;
        let body = json!({"Cmd": ["true"], "AttachStdout": true});
        let reply = self.post(&format!("/containers/{id}/exec"), &body)?;
        let answer: Value = serde_json::from_str(&reply.body).ok()?;
        let exec = answer["Id"].as_str()?;
        self.post(&format!("/exec/{exec}/start"), &json!({"Detach": true}))?;
        Some(())
    }

    fn run(&self) -> Option<()> {
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": {"AutoRemove": true}});
        let reply = self.post("/containers/create", &body)?;
        let answer: Value = serde_json::from_str(&reply.body).ok()?;
        let id = answer["Id"].as_str()?.to_owned();
        self.passing.lock().expect("no panic").insert(id.clone());
        self.post(&format!("/containers/{id}/start"), &json!({}))?;
        self.post(&format!("/containers/{id}/wait"), &json!({}))?;
        Some(())
    }

    fn volume(&self) -> Option<()> {
        let name = self.name();
        self.post("/volumes/create", &json!({"Name": name}))?;
        request(self.socket, "DELETE", &format!("/volumes/{name}"), b"")?;
        Some(())
    }

    /// Files in and out, whether it runs or not.
    fn copy(&self, dice: &mut Dice) -> Option<()> {
        let id = self.any(dice)?;
        let path = format!("/containers/{id}/archive?path=/etc");
        let mut tar = LayerTar::new();
        tar.file("copied", 0o644, b"content");
        request(self.socket, "PUT", &path, &tar.finish())?;
        request(self.socket, "GET", &path, b"")?;
        Some(())
    }

    /// An image that comes and goes.
    fn commit(&self, dice: &mut Dice) -> Option<()> {
        let (id, name) = (self.any(dice)?, self.name());
        self.post(&format!("/commit?container={id}&repo={name}"), &json!({}))?;
        request(self.socket, "DELETE", &format!("/images/{name}"), b"")?;
        Some(())
    }

    fn simple(&self, dice: &mut Dice, verb: &str) -> Option<()> {
        let id = self.any(dice)?;
        let body = match verb {
            "update" => json!({"RestartPolicy": {"Name": "unless-stopped"}, "PidsLimit": 50}),
            _ => json!({}),
        };
        self.post(&format!("/containers/{id}/{verb}"), &body)?;
        Some(())
    }

    fn one(&self, dice: &mut Dice) -> Option<()> {
        match dice.below(20) {
            0..=2 => self.create(dice),
            3..=5 => self.simple(dice, "start"),
            6 => self.simple(dice, "stop?t=0"),
            7 => self.simple(dice, "restart?t=0"),
            8 => self.simple(dice, "kill"),
            9 => self.simple(dice, "pause"),
            10 => self.simple(dice, "unpause"),
            11 => self.simple(dice, "update"),
            12 => self.simple(dice, "attach?logs=1&stdout=1&stderr=1"),
            13 => self.exec(dice),
            14 => self.rename(dice),
            15 => self.volume(),
            16 => self.run(),
            17 => self.copy(dice),
            18 => self.commit(dice),
            _ => self.remove(dice),
        }
    }

    fn play(&self, mut dice: Dice, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && self.done.load(Ordering::Relaxed) < self.wanted {
            if self.one(&mut dice).is_some() {
                self.done.fetch_add(1, Ordering::Relaxed);
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

fn inspect(agent: &Agent, id: &str) -> Option<Value> {
    let path = format!("/containers/{id}/json");
    let reply = request(&agent.socket(), "GET", &path, b"").expect("it answers");
    (reply.status == 200).then(|| serde_json::from_str(&reply.body).expect("JSON"))
}

/// Where kernel, records and API do not agree.
fn disagreements(agent: &Agent, known: &BTreeMap<String, Known>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut running = BTreeSet::new();
    let mut listed = BTreeSet::new();
    let all = list(agent, "/containers/json?all=1");
    for container in all.as_array().expect("a list") {
        let id = container["Id"].as_str().expect("an id").to_owned();
        let Some(shown) = inspect(agent, &id) else {
            wrong.push(format!("{id} is listed but cannot be inspected"));
            continue;
        };
        let name = shown["Name"].as_str().unwrap_or_default();
        if let Some(known) = known.get(&id) {
            if known.removed {
                wrong.push(format!("{id} was removed and is listed"));
            }
            if !known.names.contains(name.trim_start_matches('/')) {
                wrong.push(format!(
                    "{id} is called {name}, not one of {:?}",
                    known.names
                ));
            }
        }
        let state = &shown["State"];
        let pid = state["Pid"].as_u64().unwrap_or(0);
        match state["Status"].as_str().unwrap_or_default() {
            "running" | "paused" => {
                running.insert(id.clone());
                let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"));
                if !groups.is_ok_and(|text| text.contains(&id)) {
                    wrong.push(format!("{id} runs, but process {pid} is none of its own"));
                }
                let settings = &shown["NetworkSettings"];
                let key = settings["SandboxKey"].as_str().unwrap_or_default();
                let inode = |path: &str| std::fs::metadata(path).map(|file| file.ino()).ok();
                let actual = inode(&format!("/proc/{pid}/ns/net"));
                if inode(key).is_none() || inode(key) != actual {
                    wrong.push(format!("{id} runs, but not in {key:?}: {settings}"));
                }
            }
            _ if pid != 0 => {
                wrong.push(format!("{id} does not run and has process {pid}: {state}"))
            }
            "created" | "exited" | "restarting" => {}
            other => wrong.push(format!("{id} is {other}")),
        }
        listed.insert(id);
    }
    for (id, _) in known
        .iter()
        .filter(|(id, known)| !known.removal_asked && !listed.contains(*id))
    {
        wrong.push(format!("{id} was made, not removed, and is lost"));
    }
    let mut compare = |what: &str, found: BTreeSet<String>, expected: &BTreeSet<String>| {
        if found != *expected {
            wrong.push(format!("{what}: {found:?}, but it should be {expected:?}"));
        }
    };
    let records = traces::entries(&agent.data_root().join("containers"));
    compare("records", records.into_iter().collect(), &listed);
    let run_folders = traces::entries(&agent.exec_root().join("containers"));
    compare(
        "run-time folders",
        run_folders.into_iter().collect(),
        &running,
    );
    let ids: BTreeSet<String> = known.keys().chain(&listed).cloned().collect();
    let mentioned = |texts: Vec<String>| -> BTreeSet<String> {
        let of = |text: &String| ids.iter().find(|id| text.contains(*id)).cloned();
        texts.iter().filter_map(of).collect()
    };
    compare("shims", mentioned(traces::shims(agent)), &running);
    let groups = traces::control_groups(&ids);
    compare("control groups", groups.into_iter().collect(), &running);
    let mounts = traces::mounts(&agent.data_root());
    compare("mounts", mentioned(mounts), &running);
    wrong
}

#[test]
fn an_engine_killed_during_mixed_operations_agrees_with_its_host() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let operations = std::env::var("BERTH_CRASH_OPERATIONS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1000);
    let socket = agent.socket();
    let players = Players {
        socket: &socket,
        done: AtomicU64::new(0),
        wanted: operations,
        next_name: AtomicU64::new(0),
        made: Mutex::default(),
        passing: Mutex::default(),
    };
    let mut dice = Dice::thrown();
    let stop = AtomicBool::new(false);
    let mut kills = 0;
    std::thread::scope(|scope| {
        let stopped = Stop(&stop);
        let threads: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let dice = dice.another();
                let (players, stop) = (&players, &stop);
                scope.spawn(move || players.play(dice, stop))
            })
            .collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            // By operations and not by time: a busy host would do nothing but start engines.
            let next = players.done.load(Ordering::Relaxed) + dice.below(60);
            let end = Instant::now() + Duration::from_secs(5);
            while players.done.load(Ordering::Relaxed) < next.min(operations)
                && Instant::now() < end
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(dice.below(50)));
            agent.kill_serve();
            agent.serve();
            kills += 1;
        }
        drop(stopped);
    });
    agent.kill_serve();
    agent.serve();
    let made = std::mem::take(&mut *players.made());
    println!(
        "{} operations, {} containers made, {kills} kills",
        players.done.load(Ordering::Relaxed),
        made.len()
    );
    let mut last = Vec::new();
    let agreed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(
            "kernel, records and API agree",
            Duration::from_secs(30),
            || {
                last = disagreements(&agent, &made);
                last.is_empty().then_some(())
            },
        );
    }));
    assert!(agreed.is_ok(), "{last:#?}\n{}", agent.log());

    for container in list(&agent, "/containers/json?all=1")
        .as_array()
        .expect("a list")
    {
        let id = container["Id"].as_str().expect("an id");
        let path = format!("/containers/{id}?force=1&v=1");
        let reply = request(&socket, "DELETE", &path, b"").expect("it answers");
        assert!(
            matches!(reply.status, 204 | 404 | 409),
            "{} {}",
            reply.status,
            reply.body
        );
    }
    for volume in list(&agent, "/volumes")["Volumes"]
        .as_array()
        .expect("a list")
    {
        let name = volume["Name"].as_str().expect("a name");
        let path = format!("/volumes/{name}");
        let reply = request(&socket, "DELETE", &path, b"").expect("it answers");
        assert_eq!(reply.status, 204, "{}", reply.body);
    }
    // What a commit had written of its image is kept as the beginning of a pull would be, until a prune.
    let pruned = request(&socket, "POST", "/images/prune", b"").expect("it answers");
    assert_eq!(pruned.status, 200, "{}", pruned.body);
    agent.run(&["run", "--rm", "busybox", "true"]).success();
    let mut ids: BTreeSet<String> = made.into_keys().collect();
    ids.append(&mut players.passing.lock().expect("no panic"));
    assert_nothing_left(&agent, &ids);
    assert!(
        !agent.log().contains("panicked"),
        "it panicked: {}",
        agent.log()
    );
}
