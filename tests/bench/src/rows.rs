//! The rows about engines.

use crate::engines::{Engine, Kind};
use crate::memory;
use crate::table::Table;
use anyhow::{Context, Result};
use harness::image::TestImage;
use serde_json::json;
use std::time::{Duration, Instant};

/// Rounds of each kind of run; the median counts.
const ROUNDS: usize = 15;
/// Idle containers for the row about their memory.
const IDLE: usize = 20;

/// CPU and wall milliseconds.
#[derive(Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
}

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    println!("Engines: berth and dockerd, {ROUNDS} rounds each, in turn");
    let ours = Engine::start(Kind::Berth)?;
    let theirs = Engine::start(Kind::Dockerd)?;
    let archive = TestImage::busybox("bench")?.docker_archive(&["busybox:latest"]);
    for engine in [&ours, &theirs] {
        engine.api().load(&archive)?;
    }
    table.figure(
        "idle engine, RSS",
        "MB",
        memory::resident_mb(ours.pid()),
        Some(25.0),
    );
    table.ratio(
        "idle engine, RSS (dockerd + containerd)",
        "MB",
        idle(&ours),
        idle(&theirs),
        None,
    );

    for (network, name) in [("none", "network none"), ("bridge", "network bridge")] {
        let (a, b) = in_turn(&ours, &theirs, |engine| run(engine, network))?;
        table.ratio(
            &format!("run --rm true, {name}, CPU"),
            "ms",
            a.cpu,
            b.cpu,
            Some(1.0 / 8.0),
        );
        table.ratio(
            &format!("run --rm true, {name}, wall"),
            "ms",
            a.wall,
            b.wall,
            Some(1.0 / 4.0),
        );
    }

    let containers = [start_idle(&ours)?, start_idle(&theirs)?];
    let (a, b) = in_turn(&ours, &theirs, |engine| {
        let id = if engine.kind == Kind::Berth {
            &containers[0]
        } else {
            &containers[1]
        };
        exec(engine, id)
    })?;
    table.ratio("exec true, CPU", "ms", a.cpu, b.cpu, None);
    table.ratio("exec true, wall", "ms", a.wall, b.wall, None);

    let (a, b) = (idle_containers(&ours)?, idle_containers(&theirs)?);
    table.ratio("an idle container, PSS", "MB", a, b, None);
    Ok(())
}

/// One warm-up each, then A B A B; medians of each figure.
fn in_turn(
    ours: &Engine,
    theirs: &Engine,
    mut work: impl FnMut(&Engine) -> Result<()>,
) -> Result<(Cost, Cost)> {
    let mut costs: [Vec<Cost>; 2] = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for (engine, list) in [ours, theirs].into_iter().zip(&mut costs) {
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
    let [ours, theirs] = costs;
    Ok((median(ours), median(theirs)))
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

/// What `docker run --rm` asks of the engine: create, wait for the removal, start.
fn run(engine: &Engine, network: &str) -> Result<()> {
    let id = create(engine, network, &["true"], true)?;
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            engine
                .api()
                .post(&format!("/containers/{id}/wait?condition=removed"), None)
        });
        engine
            .api()
            .post(&format!("/containers/{id}/start"), None)?;
        waiter.join().expect("the waiter does not panic")?;
        Ok(())
    })
}

fn exec(engine: &Engine, container: &str) -> Result<()> {
    let body = json!({ "Cmd": ["true"], "AttachStdout": true, "AttachStderr": true });
    let created = engine
        .api()
        .post(&format!("/containers/{container}/exec"), Some(&body))?;
    let id = created["Id"].as_str().context("an exec has an id")?;
    // Read to the end of its output, as a client does.
    engine.api().post(
        &format!("/exec/{id}/start"),
        Some(&json!({ "Detach": false, "Tty": false })),
    )?;
    engine.api().get(&format!("/exec/{id}/json"))?;
    Ok(())
}

fn create(engine: &Engine, network: &str, command: &[&str], remove: bool) -> Result<String> {
    let body = json!({
        "Image": "busybox:latest",
        "Cmd": command,
        "HostConfig": { "NetworkMode": network, "AutoRemove": remove, "CgroupParent": engine.group.parent() },
    });
    let created = engine.api().post("/containers/create", Some(&body))?;
    Ok(created["Id"]
        .as_str()
        .context("a container has an id")?
        .to_owned())
}

fn start_idle(engine: &Engine) -> Result<String> {
    let id = create(engine, "none", &["sleep", "10000"], false)?;
    engine
        .api()
        .post(&format!("/containers/{id}/start"), None)?;
    Ok(id)
}

/// Resident memory of an engine with all its daemons.
fn idle(engine: &Engine) -> f64 {
    memory::family_of(engine.pid())
        .into_iter()
        .map(memory::resident_mb)
        .sum()
}

/// What each of [`IDLE`] more containers adds to the memory of daemons and shims.
fn idle_containers(engine: &Engine) -> Result<f64> {
    let folder = engine.folder();
    let total = || -> f64 {
        let mut processes = memory::family_of(engine.pid());
        processes.extend(memory::processes_naming(&folder));
        processes
            .into_iter()
            .filter(|pid| !is_sleep(*pid))
            .map(memory::proportional_mb)
            .sum()
    };
    let before = total();
    for _ in 0..IDLE {
        start_idle(engine)?;
    }
    std::thread::sleep(Duration::from_secs(1));
    Ok((total() - before) / IDLE as f64)
}

/// The container's own program is nobody's overhead.
fn is_sleep(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep\0"))
}
