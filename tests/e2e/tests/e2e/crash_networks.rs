//! `kill -9` of the engine at any moment of making, joining, leaving and removing networks, in a network namespace of its
//! own, so that every link, address and rule there is the engine's. Afterwards links, addresses, rules, namespaces, records
//! and API must agree, and when all is removed the host is as it was.
//!
//! 60 operations in the suite; more with `BERTH_CRASH_OPERATIONS=1000`, the same again with `BERTH_CRASH_SEED=...`. The
//! second test, without crashes, does 2000 cycles, or `BERTH_NETWORK_CYCLES`, and looks at the memory and
//! the open files, too.

use crate::dice::Dice;
use crate::{load_busybox, traces};
use harness::agent::Agent;
use harness::http::{Reply, request};
use harness::image::busybox_or_skip;
use harness::namespace::Namespace;
use harness::run::eventually;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const CLIENTS: usize = 3;
const MOST_CONTAINERS: usize = 6;
const MOST_NETWORKS: usize = 5;

/// How often something is to be done, by an environment variable.
fn times(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// An engine with a host of its own.
fn engine_on_own_host() -> Option<(Agent, Arc<Namespace>)> {
    busybox_or_skip()?;
    if let Some(why) = harness::agent::obstacle() {
        println!("skipped: {why}");
        return None;
    }
    let namespace = match Namespace::create() {
        Ok(namespace) => Arc::new(namespace),
        Err(error) => {
            println!("skipped: {error:#}");
            return None;
        }
    };
    let agent = Agent::start_in(Some(namespace.clone()), &[])?;
    load_busybox(&agent, "busybox:latest");
    Some((agent, namespace))
}

fn on(namespace: &Namespace, line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut command = namespace.command(words.next().expect("a program"));
    let output = command.args(words).output().expect("it starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Bridges with their addresses, links of containers by their bridge, and the firewall's rules.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    bridges: BTreeMap<String, BTreeSet<String>>,
    ports: BTreeMap<String, String>,
    rules: String,
}

impl Host {
    fn read(namespace: &Namespace) -> Host {
        let mut host = Host {
            bridges: BTreeMap::new(),
            ports: BTreeMap::new(),
            rules: on(namespace, "nft list ruleset"),
        };
        let name = |line: &str| {
            let name = line.split(": ").nth(1).unwrap_or_default();
            name.split('@').next().unwrap_or_default().to_owned()
        };
        for line in on(namespace, "ip -o link show type bridge").lines() {
            host.bridges.insert(name(line), BTreeSet::new());
        }
        for line in on(namespace, "ip -o link show type veth").lines() {
            let mut words = line.split_whitespace();
            let master = words
                .find(|word| *word == "master")
                .and_then(|_| words.next());
            host.ports
                .insert(name(line), master.unwrap_or_default().to_owned());
        }
        for line in on(namespace, "ip -o addr show").lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, link, _, address, ..] = words.as_slice()
                && let Some(addresses) = host.bridges.get_mut(*link)
                && !address.starts_with("fe80:")
            {
                addresses.insert((*address).to_owned());
            }
        }
        host
    }

    /// `tcp 8080`, of every port that is translated.
    fn published(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, _) in self.rules.match_indices("tcp . ") {
            let rest = &self.rules[at + 6..];
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if rest[number.len()..].starts_with(" : ") {
                found.insert(number);
            }
        }
        found
    }
}

#[derive(Default)]
struct Known {
    /// Somebody has asked for its removal: it may be there or not.
    removal_asked: bool,
    /// The removal was acknowledged.
    removed: bool,
}

type Things = BTreeMap<String, Known>;

struct Players<'a> {
    socket: &'a Path,
    done: AtomicU64,
    wanted: u64,
    next_name: AtomicU64,
    networks: Mutex<Things>,
    containers: Mutex<Things>,
    /// What was asked for and not answered: it may be there, and is to go.
    lost: Mutex<Vec<String>>,
}

fn held(things: &Mutex<Things>) -> MutexGuard<'_, Things> {
    things.lock().expect("no panic")
}

fn any(things: &Mutex<Things>, dice: &mut Dice) -> Option<String> {
    let things = held(things);
    let there: Vec<&String> = things
        .iter()
        .filter(|(_, known)| !known.removal_asked)
        .map(|(id, _)| id)
        .collect();
    match there.len() {
        0 => None,
        count => Some(there[dice.below(count as u64) as usize].clone()),
    }
}

impl Players<'_> {
    fn post(&self, path: &str, body: &Value) -> Option<Reply> {
        request(self.socket, "POST", path, body.to_string().as_bytes())
    }

    fn name(&self, what: &str) -> String {
        let number = self.next_name.fetch_add(1, Ordering::Relaxed);
        format!("{what}{number}")
    }

    /// Makes one, after removing one where there are many.
    fn make(
        &self,
        things: &Mutex<Things>,
        most: usize,
        dice: &mut Dice,
        (path, body): (&str, &Value),
        lost: String,
    ) -> Option<String> {
        let there = held(things)
            .values()
            .filter(|one| !one.removal_asked)
            .count();
        if there >= most {
            self.remove(things, dice)?;
        }
        let Some(reply) = self.post(path, body) else {
            self.lost.lock().expect("no panic").push(lost);
            return None;
        };
        let answer: Value = serde_json::from_str(&reply.body).ok()?;
        let id = answer["Id"].as_str()?.to_owned();
        held(things).insert(id.clone(), Known::default());
        Some(id)
    }

    fn remove_lost(&self) -> Option<()> {
        let Some(path) = self.lost.lock().expect("no panic").pop() else {
            return Some(());
        };
        if request(self.socket, "DELETE", &path, b"").is_none() {
            self.lost.lock().expect("no panic").push(path);
            return None;
        }
        Some(())
    }

    fn network(&self, dice: &mut Dice) -> Option<()> {
        let name = self.name("n");
        let mut body = json!({"Name": name});
        match dice.below(4) {
            0 => body["Internal"] = json!(true),
            1 => body["EnableIPv6"] = json!(true),
            2 => {
                body["Options"] = json!({"com.docker.network.bridge.enable_icc": "false"});
            }
            _ => {}
        }
        let ask = ("/networks/create", &body);
        let lost = format!("/networks/{name}");
        self.make(&self.networks, MOST_NETWORKS, dice, ask, lost)?;
        Some(())
    }

    fn container(&self, dice: &mut Dice) -> Option<()> {
        let mut host = json!({});
        if dice.below(2) == 0 {
            host["PortBindings"] = json!({"80/tcp": [{"HostPort": ""}]});
        }
        if dice.below(2) == 0
            && let Some(network) = any(&self.networks, dice)
        {
            host["NetworkMode"] = json!(network);
        }
        let body = json!({"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host});
        // No beginning of an id: one that was never made would remove another.
        let name = self.name("box");
        let path = format!("/containers/create?name={name}");
        let lost = format!("/containers/{name}?force=1&v=1");
        let id = self.make(
            &self.containers,
            MOST_CONTAINERS,
            dice,
            (&path, &body),
            lost,
        )?;
        self.post(&format!("/containers/{id}/start"), &json!({}))?;
        Some(())
    }

    fn remove(&self, things: &Mutex<Things>, dice: &mut Dice) -> Option<()> {
        let id = any(things, dice)?;
        held(things).get_mut(&id)?.removal_asked = true;
        let path = match std::ptr::eq(things, &self.networks) {
            true => format!("/networks/{id}"),
            false => format!("/containers/{id}?force=1&v=1"),
        };
        let reply = request(self.socket, "DELETE", &path, b"")?;
        let mut things = held(things);
        let known = things.get_mut(&id)?;
        match reply.status {
            204 | 404 => known.removed = true,
            // Somebody is in the network.
            _ => known.removal_asked = false,
        }
        Some(())
    }

    fn join(&self, dice: &mut Dice, verb: &str) -> Option<()> {
        let (network, container) = (any(&self.networks, dice)?, any(&self.containers, dice)?);
        let body = json!({"Container": container, "Force": true});
        self.post(&format!("/networks/{network}/{verb}"), &body)?;
        Some(())
    }

    fn one(&self, dice: &mut Dice) -> Option<()> {
        self.remove_lost()?;
        match dice.below(13) {
            0 | 1 => self.network(dice),
            2..=4 => self.container(dice),
            5..=7 => self.join(dice, "connect"),
            8 | 9 => self.join(dice, "disconnect"),
            10 => self.remove(&self.networks, dice),
            11 => {
                let id = any(&self.containers, dice)?;
                self.post(&format!("/containers/{id}/restart?t=0"), &json!({}))?;
                Some(())
            }
            _ => self.remove(&self.containers, dice),
        }
    }

    fn play(&self, mut dice: Dice, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) && self.done.load(Ordering::Relaxed) < self.wanted {
            match self.one(&mut dice) {
                Some(()) => drop(self.done.fetch_add(1, Ordering::Relaxed)),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

fn texts(list: &Value, key: &str) -> BTreeSet<String> {
    let each = list.as_array().into_iter().flatten();
    let of = |one: &Value| one[key].as_str().map(str::to_owned);
    each.filter_map(of).collect()
}

/// Where API, records and host do not agree.
fn disagreements(agent: &Agent, namespace: &Namespace, players: &Players) -> Vec<String> {
    let mut wrong = Vec::new();
    let host = Host::read(namespace);
    let networks = traces::list(agent, "/networks");
    let containers = traces::list(agent, "/containers/json?all=1");
    for (what, known, list) in [
        ("network", &players.networks, &networks),
        ("container", &players.containers, &containers),
    ] {
        let listed = texts(list, "Id");
        for (id, known) in held(known).iter() {
            match (known.removed, known.removal_asked, listed.contains(id)) {
                (true, _, true) => wrong.push(format!("{what} {id} was removed and is listed")),
                (_, false, false) => wrong.push(format!("{what} {id} is lost")),
                _ => {}
            }
        }
    }

    let mut bridges = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for network in networks.as_array().expect("a list") {
        let (id, name) = (&network["Id"], network["Name"].as_str().unwrap_or_default());
        let id = id.as_str().expect("an id");
        let bridge = match name {
            "bridge" => agent.bridge().to_owned(),
            "host" | "none" => continue,
            _ => {
                ids.insert(id.to_owned());
                format!("br-{}", &id[..12])
            }
        };
        let configured = network["IPAM"]["Config"].as_array().expect("ranges").iter();
        let gateway = |range: &Value| {
            let (_, length) = range["Subnet"].as_str()?.split_once('/')?;
            Some(format!("{}/{length}", range["Gateway"].as_str()?))
        };
        bridges.insert(bridge, configured.filter_map(gateway).collect());
    }
    if host.bridges != bridges {
        wrong.push(format!("bridges: {:?}, not {bridges:?}", host.bridges));
    }
    let records: BTreeSet<String> = traces::entries(&agent.data_root().join("networks"))
        .iter()
        .filter_map(|name| name.strip_suffix(".json"))
        .filter(|name| name.len() == 64)
        .map(str::to_owned)
        .collect();
    if records != ids {
        wrong.push(format!("records of networks: {records:?}, not {ids:?}"));
    }

    let mut ports = BTreeMap::new();
    let mut published = BTreeSet::new();
    let mut namespaces = BTreeSet::new();
    for container in containers.as_array().expect("a list") {
        let id = container["Id"].as_str().expect("an id");
        let reply = request(
            &agent.socket(),
            "GET",
            &format!("/containers/{id}/json"),
            b"",
        );
        let reply = reply.expect("it answers");
        let shown: Value = serde_json::from_str(&reply.body).expect("JSON");
        if shown["State"]["Running"] != json!(true) {
            continue;
        }
        let settings = &shown["NetworkSettings"];
        let key = settings["SandboxKey"].as_str().unwrap_or_default();
        let file = key.rsplit('/').next().unwrap_or_default().to_owned();
        let inside = std::process::Command::new("nsenter")
            .arg(format!("--net={key}"))
            .args(["ip", "-o", "addr", "show"])
            .output()
            .expect("nsenter starts");
        let inside = String::from_utf8_lossy(&inside.stdout).into_owned();
        let mut addresses = 0;
        for (name, endpoint) in settings["Networks"].as_object().into_iter().flatten() {
            let address = endpoint["IPAddress"].as_str().unwrap_or_default();
            let length = &endpoint["IPPrefixLen"];
            addresses += 1;
            if !inside.contains(&format!(" {address}/{length} ")) {
                wrong.push(format!(
                    "{id} has no {address}/{length} in {name}:\n{inside}"
                ));
            }
            let bridge = match name.as_str() {
                "bridge" => agent.bridge().to_owned(),
                _ => format!(
                    "br-{}",
                    &endpoint["NetworkID"].as_str().unwrap_or_default()[..12]
                ),
            };
            *ports.entry((file[..8].to_owned(), bridge)).or_insert(0) += 1;
        }
        let links = inside
            .lines()
            .filter(|line| line.contains(" inet "))
            .count();
        // One line is loopback's.
        if links != addresses + 1 {
            wrong.push(format!("{id} is in {addresses} networks and has\n{inside}"));
        }
        namespaces.insert(file);
        for (_, bindings) in settings["Ports"].as_object().into_iter().flatten() {
            published.extend(texts(bindings, "HostPort"));
        }
    }
    if host.published() != published {
        wrong.push(format!("ports: {:?}, not {published:?}", host.published()));
    }
    // What is no container's is a spare: one link on the default bridge, or none at all.
    let files: BTreeSet<String> = traces::entries(&agent.exec_root().join("netns"))
        .into_iter()
        .collect();
    let missing: Vec<&String> = namespaces.difference(&files).collect();
    if !missing.is_empty() {
        wrong.push(format!("namespaces are missing: {missing:?}"));
    }
    let spares: Vec<&String> = files.difference(&namespaces).collect();
    if spares.len() > 6 {
        wrong.push(format!("namespaces of nobody: {spares:?}"));
    }
    let mut links: BTreeMap<(String, String), i32> = BTreeMap::new();
    for (name, master) in &host.ports {
        let prefix = name.trim_start_matches("veth")[..8].to_owned();
        if spares.iter().any(|spare| spare.starts_with(&prefix)) && master == agent.bridge() {
            continue;
        }
        *links.entry((prefix, master.clone())).or_insert(0) += 1;
    }
    if links != ports {
        wrong.push(format!("links: {links:?}, not {ports:?}"));
    }
    wrong
}

/// Told when the test ends, in whatever way.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the host is as it was; spares have other names each time.
fn assert_as_it_was(agent: &Agent, namespace: &Namespace, before: &Host) {
    let mut last = None;
    let same = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("the host is as it was", Duration::from_secs(30), || {
            let now = Host::read(namespace);
            let same = now.bridges == before.bridges
                && now.rules == before.rules
                && now.ports.len() <= before.ports.len().max(3)
                && traces::entries(&agent.exec_root().join("netns")).len() <= 6;
            last = Some(now);
            same.then_some(())
        });
    }));
    assert!(same.is_ok(), "{last:#?}\nbut it was\n{before:#?}");
}

#[test]
fn an_engine_killed_while_networks_change_agrees_with_its_host() {
    let Some((mut agent, namespace)) = engine_on_own_host() else {
        return;
    };
    let before = Host::read(&namespace);
    let socket = agent.socket();
    let players = Players {
        socket: &socket,
        done: AtomicU64::new(0),
        wanted: times("BERTH_CRASH_OPERATIONS", 60),
        next_name: AtomicU64::new(0),
        networks: Mutex::default(),
        containers: Mutex::default(),
        lost: Mutex::default(),
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
            std::thread::sleep(Duration::from_millis(20 + dice.below(700)));
            agent.kill_serve();
            agent.serve();
            kills += 1;
        }
        drop(stopped);
    });
    agent.kill_serve();
    agent.serve();
    let (networks, containers) = (
        held(&players.networks).len(),
        held(&players.containers).len(),
    );
    println!(
        "{} operations, {networks} networks, {containers} containers, {kills} kills",
        players.done.load(Ordering::Relaxed)
    );
    let mut last = Vec::new();
    let agreed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("all agree", Duration::from_secs(30), || {
            last = disagreements(&agent, &namespace, &players);
            last.is_empty().then_some(())
        });
    }));
    assert!(agreed.is_ok(), "{last:#?}");
    for id in texts(&traces::list(&agent, "/containers/json?all=1"), "Id") {
        let path = format!("/containers/{id}?force=1&v=1");
        let reply = request(&socket, "DELETE", &path, b"").expect("it answers");
        assert!(matches!(reply.status, 204 | 404), "{}", reply.body);
    }
    let pruned = request(&socket, "POST", "/networks/prune", b"").expect("it answers");
    assert_eq!(pruned.status, 200, "{}", pruned.body);
    assert_eq!(
        traces::list(&agent, "/networks").as_array().map(Vec::len),
        Some(3)
    );
    assert_as_it_was(&agent, &namespace, &before);
    assert!(!agent.log().contains("panicked"), "it panicked");
}

/// Resident memory in kB, and open files, of the engine.
fn weight(agent: &Agent) -> (u64, usize) {
    let folder = format!("/proc/{}", agent.pid());
    let status = std::fs::read_to_string(format!("{folder}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    let files = traces::entries(Path::new(&format!("{folder}/fd"))).len();
    (number.expect("a number"), files)
}

#[test]
fn cycles_of_networks_leave_host_and_engine_as_they_were() {
    let Some((agent, namespace)) = engine_on_own_host() else {
        return;
    };
    let cycles = times("BERTH_NETWORK_CYCLES", 2000);
    let socket = agent.socket();
    let ask = |method: &str, path: &str, body: &Value| {
        let reply = request(&socket, method, path, body.to_string().as_bytes());
        let reply = reply.expect("it answers");
        assert!(reply.status < 300, "{method} {path}: {}", reply.body);
        serde_json::from_str::<Value>(&reply.body).unwrap_or_default()
    };
    let body = json!({
        "Image": "busybox", "Cmd": ["sleep", "100000"],
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": ""}]}},
    });
    let container = ask("POST", "/containers/create", &body);
    let id = container["Id"].as_str().expect("an id");
    ask("POST", &format!("/containers/{id}/start"), &json!({}));
    let before = Host::read(&namespace);
    // What is allocated once is there after some of them.
    let warm = cycles / 3;
    let mut weight_before = (0, 0);
    for cycle in 0..cycles {
        if cycle == warm {
            weight_before = weight(&agent);
        }
        let network = ask(
            "POST",
            "/networks/create",
            &json!({"Name": "cycle", "EnableIPv6": cycle % 2 == 0}),
        );
        let network = network["Id"].as_str().expect("an id");
        let body = json!({"Container": id, "EndpointConfig": {"Aliases": ["again"]}});
        ask("POST", &format!("/networks/{network}/connect"), &body);
        ask("POST", &format!("/networks/{network}/disconnect"), &body);
        ask("DELETE", &format!("/networks/{network}"), &json!({}));
    }
    assert_eq!(Host::read(&namespace), before);
    let after = weight(&agent);
    println!("{cycles} cycles: kB and files {weight_before:?}, then {after:?}");
    assert!(
        after.0 <= weight_before.0 + 1000 && after.1 <= weight_before.1 + 4,
        "{weight_before:?}, then {after:?}"
    );
}
