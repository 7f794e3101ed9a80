//! The rows about engines.

mod builds;
mod copy;
mod density;
mod images;
mod lists;
mod logs;
mod networks;
mod runs;
mod throughput;

use crate::engines::{self, Engine, Kind};
use crate::table::Table;
use anyhow::{Context, Result};
use harness::image::TestImage;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Rounds of each kind of run; the median counts.
const ROUNDS: usize = 15;

/// What can be asked for by name, in the order of the rows.
pub(crate) const NAMES: [&str; 8] = [
    "engine", "networks", "lists", "logs", "images", "builds", "copy", "density",
];

/// CPU and wall milliseconds.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
}

pub(crate) fn measure(chosen: &[&str], table: &mut Table) -> Result<()> {
    println!("Engines: berth and its peers in turn, {ROUNDS} rounds unless said");
    let ours = Engine::start(Kind::Berth)?;
    let theirs = Engine::start(Kind::Dockerd)?;
    let archive = TestImage::busybox("bench")?.docker_archive(&["busybox:latest"]);
    for engine in [&ours, &theirs] {
        engine.api().load(&archive)?;
    }
    // The rows about images start one of their own.
    let podman = match chosen.iter().any(|name| *name != "images") {
        true => podman(&archive)?,
        false => None,
    };
    let podman = podman.as_ref();
    for name in chosen {
        match *name {
            "engine" => runs::measure(&ours, &theirs, podman, table)?,
            "networks" => networks::measure(&ours, &theirs, podman, table)?,
            "lists" => lists::measure(&ours, &theirs, podman, table)?,
            "logs" => logs::measure(&ours, &theirs, podman, table)?,
            "images" => images::measure(&ours, &theirs, table)?,
            "builds" => builds::measure(&ours, &theirs, podman, table)?,
            "copy" => copy::measure(&ours, &theirs, podman, table)?,
            "density" => density::measure(&ours, &theirs, podman, table)?,
            other => unreachable!("{other} is in NAMES"),
        }
    }
    Ok(())
}

/// A third opinion, where it is installed; without bounds.
fn podman(archive: &[u8]) -> Result<Option<Engine>> {
    if let Some(why) = engines::podman_obstacle() {
        println!("  without podman: {why}");
        return Ok(None);
    }
    if let Some(why) = engines::podman_networks_obstacle() {
        println!("  without podman where networks are: {why}");
    }
    let podman = Engine::start(Kind::Podman)?;
    podman.api().load(archive)?;
    Ok(Some(podman))
}

/// Those to compare where there are networks: podman only with its programs for them.
fn with_networks<'a>(
    ours: &'a Engine,
    theirs: &'a Engine,
    podman: Option<&'a Engine>,
) -> Vec<&'a Engine> {
    let podman = podman.filter(|_| engines::podman_networks_obstacle().is_none());
    [ours, theirs].into_iter().chain(podman).collect()
}

/// CPU and wall, to dockerd and to podman.
fn rows(table: &mut Table, what: &str, costs: &[Cost], bounds: (f64, f64)) {
    let (ours, theirs) = (costs[0], costs[1]);
    table.ratio(
        &format!("{what}, CPU"),
        "ms",
        ours.cpu,
        theirs.cpu,
        Some(bounds.0),
    );
    table.ratio(
        &format!("{what}, wall"),
        "ms",
        ours.wall,
        theirs.wall,
        Some(bounds.1),
    );
    if let Some(podman) = costs.get(2) {
        let row = |name: &str| format!("{what}, {name}, podman");
        table.ratio(&row("CPU"), "ms", ours.cpu, podman.cpu, None);
        table.ratio(&row("wall"), "ms", ours.wall, podman.wall, None);
    }
}

/// One warm-up each, then A B A B; medians of each figure.
fn in_turn(
    engines: &[&Engine],
    rounds: usize,
    mut work: impl FnMut(&Engine) -> Result<()>,
) -> Result<Vec<Cost>> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); engines.len()];
    for round in 0..=rounds {
        for (engine, list) in engines.iter().copied().zip(&mut costs) {
            settle(engine)?;
            let before = engine.group.cpu_ms()?;
            let start = Instant::now();
            work(engine)?;
            let wall = start.elapsed().as_secs_f64() * 1000.0;
            // What is done after the answer belongs to the work.
            settle(engine)?;
            let cpu = engine.group.cpu_ms()? - before;
            if round > 0 {
                list.push(Cost { cpu, wall });
            }
        }
    }
    Ok(costs.into_iter().map(median).collect())
}

/// Waits until an engine is quiet: less than a millisecond of CPU in a tenth of a second.
fn settle(engine: &Engine) -> Result<()> {
    for _ in 0..50 {
        let before = engine.group.cpu_ms()?;
        std::thread::sleep(Duration::from_millis(100));
        if engine.group.cpu_ms()? - before < 1.0 {
            return Ok(());
        }
    }
    Ok(())
}

fn median(costs: Vec<Cost>) -> Cost {
    let middle = |mut list: Vec<f64>| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    };
    Cost {
        cpu: middle(costs.iter().map(|cost| cost.cpu).collect()),
        wall: middle(costs.iter().map(|cost| cost.wall).collect()),
    }
}

fn create(engine: &Engine, network: &str, command: &[&str], remove: bool) -> Result<String> {
    let body = json!({
        "Image": "busybox:latest",
        "Cmd": command,
        "HostConfig": { "NetworkMode": network, "AutoRemove": remove },
    });
    create_as(engine, body)
}

/// In the engine's group, with limits that podman may set: its own choice needs CAP_SYS_RESOURCE.
fn create_as(engine: &Engine, mut body: Value) -> Result<String> {
    body["HostConfig"]["CgroupParent"] = engine.group.parent().into();
    if engine.kind == Kind::Podman {
        let limit = |name: &str| json!({ "Name": name, "Soft": 1024, "Hard": 1024 });
        body["HostConfig"]["Ulimits"] = json!([limit("nofile"), limit("nproc")]);
    }
    let created = engine.api().post("/containers/create", Some(&body))?;
    Ok(created["Id"]
        .as_str()
        .context("a container has an id")?
        .to_owned())
}

fn start(engine: &Engine, command: &[&str]) -> Result<String> {
    let id = create(engine, "none", command, false)?;
    engine
        .api()
        .post(&format!("/containers/{id}/start"), None)?;
    Ok(id)
}

fn start_idle(engine: &Engine) -> Result<String> {
    start(engine, &["sleep", "10000"])
}

fn remove(engine: &Engine, id: &str) -> Result<()> {
    engine
        .api()
        .delete(&format!("/containers/{id}?force=1"))
        .map(drop)
}

/// The same work on a number of things, eight at a time.
fn eight_at_a_time<T: Send>(
    count: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let worker = || -> Result<Vec<T>> {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if number >= count {
                return Ok(done);
            }
            done.push(work(number)?);
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().expect("a worker does not panic")?);
        }
        Ok(all)
    })
}
