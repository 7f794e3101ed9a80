//! Many containers: a hundred at once on each engine, a thousand on ours.

use super::{eight_at_a_time, remove, settle, start_idle};
use crate::engines::Engine;
use crate::memory;
use crate::table::{Table, median};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::time::Instant;

const BURST: usize = 100;
const BURSTS: usize = 3;
const MANY: usize = 1000;

pub(super) fn measure(
    ours: &Engine,
    theirs: &Engine,
    podman: Option<&Engine>,
    table: &mut Table,
) -> Result<()> {
    let engines: Vec<&Engine> = [ours, theirs].into_iter().chain(podman).collect();
    let mut wall = vec![Vec::new(); engines.len()];
    let mut cpu = vec![Vec::new(); engines.len()];
    for _ in 0..BURSTS {
        for (number, engine) in engines.iter().copied().enumerate() {
            settle(engine)?;
            let before = engine.group.cpu_ms()?;
            let start = Instant::now();
            let ids = eight_at_a_time(BURST, |_| start_idle(engine))?;
            wall[number].push(start.elapsed().as_secs_f64() * 1000.0);
            cpu[number].push(engine.group.cpu_ms()? - before);
            eight_at_a_time(ids.len(), |one| remove(engine, &ids[one]))?;
        }
    }
    let each = |milliseconds: Vec<f64>| median(milliseconds) / BURST as f64;
    let wall: Vec<f64> = wall.into_iter().map(each).collect();
    let cpu: Vec<f64> = cpu.into_iter().map(each).collect();
    for (figure, list, bound) in [("wall", wall, Some(1.0 / 10.0)), ("CPU", cpu, None)] {
        let what = format!("{BURST} started eight at a time, {figure} each");
        table.ratio(&what, "ms", list[0], list[1], bound);
        if let Some(podman) = list.get(2) {
            table.ratio(&format!("{what}, podman"), "ms", list[0], *podman, None);
        }
    }
    thousand(ours, table)
}

/// They all run at once, and nothing is left of them.
fn thousand(engine: &Engine, table: &mut Table) -> Result<()> {
    let before = Traces::of(engine)?;
    let start = Instant::now();
    let ids = eight_at_a_time(MANY, |_| start_idle(engine))?;
    let started = start.elapsed().as_secs_f64();
    let listed = engine.api().get("/containers/json")?;
    let running = listed.as_array().map_or(0, Vec::len);
    let sleeping = engine.group.processes()?;
    ensure!(
        running == before.running + MANY && sleeping >= MANY,
        "{running} run as the API says, {sleeping} processes are in their groups"
    );
    let megabytes: f64 = memory::processes_naming(&engine.folder())
        .into_iter()
        .map(memory::proportional_mb)
        .sum();
    let start = Instant::now();
    eight_at_a_time(ids.len(), |number| remove(engine, &ids[number]))?;
    let removed = start.elapsed().as_secs_f64();
    settle(engine)?;
    let after = Traces::of(engine)?;
    ensure!(
        after == before,
        "left behind: {after:?}, before: {before:?}"
    );
    table.figure(
        &format!("{MANY} at once, started, a second"),
        "",
        MANY as f64 / started,
        None,
    );
    table.figure(
        &format!("{MANY} at once, removed, a second"),
        "",
        MANY as f64 / removed,
        None,
    );
    table.figure(
        &format!("{MANY} at once, engine and shims, PSS each"),
        "MB",
        megabytes / MANY as f64,
        Some(1.0),
    );
    Ok(())
}

/// What containers leave on a host while they are there.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    running: usize,
    processes: usize,
    mounts: usize,
    groups: BTreeSet<String>,
}

impl Traces {
    fn of(engine: &Engine) -> Result<Traces> {
        let folder = engine.folder();
        let listed = engine.api().get("/containers/json?all=1")?;
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let needle = folder.display().to_string();
        Ok(Traces {
            running: listed.as_array().map_or(0, Vec::len),
            processes: memory::processes_naming(&folder).len(),
            mounts: mounts.lines().filter(|line| line.contains(&needle)).count(),
            groups: engine.group.children()?,
        })
    }
}
