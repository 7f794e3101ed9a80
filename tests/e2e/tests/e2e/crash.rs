//! `kill -9` of the engine in the middle of whatever it does: it starts again, what it lists is true, nothing leaks.

use crate::dice::Dice;
use crate::traces::{assert_nothing_left, list};
use crate::{busybox_archive, engine_with_busybox};
use harness::agent::Agent;
use harness::http::{Reply, request};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const KILLS: usize = 6;

/// What the clients of an engine that dies do over and over.
struct Clients<'a> {
    socket: &'a Path,
    stop: AtomicBool,
    /// Ids of all containers that were made.
    made: Mutex<BTreeSet<String>>,
}

impl Clients<'_> {
    fn post(&self, path: &str, body: &Value) -> Option<Reply> {
        request(self.socket, "POST", path, body.to_string().as_bytes())
    }

    fn create(&self, command: &[&str], settings: Value) -> Option<String> {
        let body = json!({"Image": "busybox", "Cmd": command, "HostConfig": settings});
        let reply = self.post("/containers/create", &body)?;
        let body: Value = serde_json::from_str(&reply.body).ok()?;
        let id = body["Id"].as_str()?.to_owned();
        self.made.lock().expect("no panic").insert(id.clone());
        Some(id)
    }

    /// `run --rm`, with a port and a volume of its own.
    fn run(&self) -> Option<()> {
        let settings = json!({
            "AutoRemove": true,
            "Binds": ["shared:/data"],
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        });
        let id = self.create(&["true"], settings)?;
        self.post(&format!("/containers/{id}/start"), &json!({}))?;
        self.post(&format!("/containers/{id}/wait"), &json!({}))?;
        Some(())
    }

    /// Created, started, removed by force.
    fn remove(&self) -> Option<()> {
        let id = self.create(&["sleep", "1000"], json!({"NetworkMode": "none"}))?;
        self.post(&format!("/containers/{id}/start"), &json!({}))?;
        request(
            self.socket,
            "DELETE",
            &format!("/containers/{id}?force=1&v=1"),
            b"",
        )?;
        Some(())
    }

    fn load(&self, archive: &[u8]) -> Option<()> {
        request(self.socket, "POST", "/images/load", archive)?;
        request(self.socket, "DELETE", "/images/other:1", b"")?;
        Some(())
    }

    fn volume(&self, number: usize) -> Option<()> {
        let name = format!("volume{number}");
        self.post("/volumes/create", &json!({"Name": name}))?;
        request(self.socket, "DELETE", &format!("/volumes/{name}"), b"")?;
        Some(())
    }

    /// Until told to stop; an engine that is not there is tried again.
    fn over_and_over(&self, mut work: impl FnMut(usize) -> Option<()>) {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if work(number).is_none() {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Every container that is listed can be inspected, and runs exactly where it says so.
fn assert_consistent(agent: &Agent) {
    for container in list(agent, "/containers/json?all=1")
        .as_array()
        .expect("a list")
    {
        let id = container["Id"].as_str().expect("an id");
        let Some(reply) = request(
            &agent.socket(),
            "GET",
            &format!("/containers/{id}/json"),
            b"",
        ) else {
            panic!("{id} is listed but not answered");
        };
        if reply.status == 404 {
            continue; // removed in the meantime
        }
        assert_eq!(reply.status, 200, "{}", reply.body);
        let inspected: Value = serde_json::from_str(&reply.body).expect("JSON");
        let running = inspected["State"]["Running"].as_bool().expect("a boolean");
        let pid = inspected["State"]["Pid"].as_u64().expect("a number");
        assert_eq!(running, pid != 0, "{}", reply.body);
    }
    let images = list(agent, "/images/json");
    let tags: Vec<&str> = images
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|image| image["RepoTags"][0].as_str())
        .collect();
    assert!(tags.contains(&"busybox:latest"), "{tags:?}");
}

#[test]
fn an_engine_killed_at_any_moment_starts_again_and_leaks_nothing() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let socket = agent.socket();
    let clients = Clients {
        socket: &socket,
        stop: AtomicBool::new(false),
        made: Mutex::default(),
    };
    let archive = busybox_archive("other:1");
    let mut dice = Dice::thrown();
    // Whatever fails below, the clients must be told to stop.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let stop = Stop(&clients.stop);
        scope.spawn(|| clients.over_and_over(|_| clients.run()));
        scope.spawn(|| clients.over_and_over(|_| clients.remove()));
        scope.spawn(|| clients.over_and_over(|_| clients.load(&archive)));
        scope.spawn(|| clients.over_and_over(|number| clients.volume(number)));
        let since = Instant::now();
        for kill in 0..KILLS {
            // On a busy computer fewer will do.
            if kill >= 3 && since.elapsed() > Duration::from_secs(8) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50 + dice.below(700)));
            agent.kill_serve();
            agent.serve();
            assert_consistent(&agent);
        }
        drop(stop);
    });

    // Once more, with nobody there: what is left now was left by a kill.
    agent.kill_serve();
    agent.serve();
    assert_consistent(&agent);
    for container in list(&agent, "/containers/json?all=1")
        .as_array()
        .expect("a list")
    {
        let id = container["Id"].as_str().expect("an id");
        let reply = request(
            &socket,
            "DELETE",
            &format!("/containers/{id}?force=1&v=1"),
            b"",
        );
        let reply = reply.expect("it answers");
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
        let reply = request(&socket, "DELETE", &format!("/volumes/{name}"), b"");
        let reply = reply.expect("it answers");
        assert_eq!(reply.status, 204, "{}", reply.body);
    }
    agent.run(&["run", "--rm", "busybox", "true"]).success();
    // What a load that was cut off left waits for the next pull, or for this.
    agent.run(&["image", "prune", "--force"]).success();

    let made = clients.made.into_inner().expect("no panic");
    assert!(made.len() > 3, "hardly anything was made: {made:?}");
    println!("{} containers were made", made.len());
    assert_nothing_left(&agent, &made);
    assert!(!agent.log().contains("panicked"), "it panicked");
}
