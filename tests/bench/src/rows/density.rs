//! Many containers: a hundred at once on both engines, a thousand on ours.

use super::{eight_at_a_time, remove, settle, start_idle};
use crate::engines::Engine;
use crate::memory;
use crate::table::Table;
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::time::Instant;

const BURST: usize = 100;
const BURSTS: usize = 3;
const MANY: usize = 1000;

pub(super) fn measure(ours: &Engine, theirs: &Engine, table: &mut Table) -> Result<()> {
    let mut seconds = [Vec::new(), Vec::new()];
    let mut cpu = [Vec::new(), Vec::new()];
    for _ in 0..BURSTS {
        for (number, engine) in [ours, theirs].into_iter().enumerate() {
            settle(engine)?;
            let before = engine.group.cpu_ms()?;
            let start = Instant::now();
            let ids = eight_at_a_time(BURST, |_| start_idle(engine))?;
            seconds[number].push(start.elapsed().as_secs_f64());
            cpu[number].push(engine.group.cpu_ms()? - before);
            eight_at_a_time(ids.len(), |one| remove(engine, &ids[one]))?;
        }
    }
    let median = |mut list: Vec<f64>| {
        list.sort_by(f64::total_cmp);
        list[list.len() / 2]
    };
    let [a, b] = seconds;
    table.ratio(
        &format!("{BURST} started eight at a time, wall each"),
        "ms",
        median(a) * 1000.0 / BURST as f64,
        median(b) * 1000.0 / BURST as f64,
        Some(1.0 / 10.0),
    );
    let [a, b] = cpu;
    table.ratio(
        &format!("{BURST} started eight at a time, CPU each"),
        "ms",
        median(a) / BURST as f64,
        median(b) / BURST as f64,
        None,
    );
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
