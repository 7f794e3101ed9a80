//! One container at a time: running, executing, and what an idle one costs.

use super::{ROUNDS, create, in_turn, rows, start_idle, with_networks};
use crate::engines::Engine;
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
    podman: Option<&Engine>,
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
    let engines: Vec<&Engine> = [ours, theirs].into_iter().chain(podman).collect();
    for (network, engines) in [
        ("none", engines.clone()),
        ("bridge", with_networks(ours, theirs, podman)),
    ] {
        let costs = in_turn(&engines, ROUNDS, |engine| run(engine, network))?;
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
