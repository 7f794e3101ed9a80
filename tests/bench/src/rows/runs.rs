//! One container at a time: running, executing, and what an idle one costs.

use super::{Cost, ROUNDS, create, in_turn, start_idle};
use crate::engines::{self, Engine, Kind};
use crate::memory;
use crate::table::Table;
use anyhow::{Context, Result};
use serde_json::json;
use std::time::Duration;

/// Idle containers for the row about their memory.
const IDLE: usize = 20;

pub(super) fn measure(
    ours: &Engine,
    theirs: &Engine,
    archive: &[u8],
    table: &mut Table,
) -> Result<()> {
    table.figure(
        "idle engine, RSS",
        "MB",
        memory::resident_mb(ours.pid()),
        Some(25.0),
    );
    table.ratio(
        "idle engine, RSS (dockerd + containerd)",
        "MB",
        idle(ours),
        idle(theirs),
        None,
    );
    // A third opinion, where it is installed; without bounds.
    let podman = match engines::podman_obstacle() {
        Some(why) => {
            println!("  without podman: {why}");
            None
        }
        None => {
            let podman = Engine::start(Kind::Podman)?;
            podman.api().load(archive)?;
            Some(podman)
        }
    };
    let mut engines = vec![ours, theirs];
    engines.extend(podman.as_ref());

    for network in ["none", "bridge"] {
        // podman's bridge needs a configuration of its own.
        let engines = if network == "none" {
            &engines[..]
        } else {
            &engines[..2]
        };
        let costs = in_turn(engines, ROUNDS, |engine| run(engine, network))?;
        let what = format!("run --rm true, network {network}");
        rows(table, &what, &costs, (1.0 / 12.0, 1.0 / 6.0));
    }

    let mut containers = Vec::new();
    for engine in &engines {
        containers.push((engine.kind, start_idle(engine)?));
    }
    let costs = in_turn(&engines, ROUNDS, |engine| {
        let container = containers.iter().find(|(kind, _)| *kind == engine.kind);
        exec(engine, &container.context("it was started")?.1)
    })?;
    rows(table, "exec true", &costs, (1.0 / 6.0, 1.0 / 6.0));

    let (a, b) = (idle_containers(ours)?, idle_containers(theirs)?);
    table.figure("an idle container, PSS", "MB", a, Some(1.0));
    table.ratio("an idle container, PSS, to dockerd's", "MB", a, b, None);
    Ok(())
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
