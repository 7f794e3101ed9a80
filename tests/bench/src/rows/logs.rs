//! What a line of output costs the engine, written and read back.

use super::{in_turn, remove, settle, start};
use crate::engines::Engine;
use crate::table::{Table, median};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// Lines of one measurement.
const LINES: usize = 200_000;
/// Bytes of a line.
const LENGTH: usize = 100;
const ROUNDS: usize = 5;

pub(super) fn measure(
    ours: &Engine,
    theirs: &Engine,
    podman: Option<&Engine>,
    table: &mut Table,
) -> Result<()> {
    let engines: Vec<&Engine> = [ours, theirs].into_iter().chain(podman).collect();
    let mut written = vec![Vec::new(); engines.len()];
    let mut last = Vec::new();
    for round in 0..ROUNDS {
        for (number, engine) in engines.iter().copied().enumerate() {
            let (container, cost) = write(engine)?;
            written[number].push(cost);
            if round + 1 < ROUNDS {
                remove(engine, &container)?;
            } else {
                last.push((engine.kind, container));
            }
        }
    }
    let per_line = |cost: f64| cost * 1e6 / LINES as f64;
    let written: Vec<f64> = written
        .into_iter()
        .map(|costs| per_line(median(costs)))
        .collect();
    table.ratio(
        "log, a line written, CPU",
        "ns",
        written[0],
        written[1],
        Some(1.0 / 10.0),
    );
    if let Some(podman) = written.get(2) {
        let what = "log, a line written, CPU, podman";
        table.ratio(what, "ns", written[0], *podman, None);
    }
    let costs = in_turn(&engines, ROUNDS, |engine| {
        let container = last.iter().find(|(kind, _)| *kind == engine.kind);
        let id = container.map_or("", |(_, id)| id);
        let size = engine
            .api()
            .download(&format!("/containers/{id}/logs?stdout=1"))?;
        // Each line, or each part of one, has a frame of eight bytes.
        ensure!(size >= LINES * LENGTH, "the log has {size} bytes");
        Ok(())
    })?;
    table.ratio(
        "log, a line read, CPU",
        "ns",
        per_line(costs[0].cpu),
        per_line(costs[1].cpu),
        Some(1.0 / 15.0),
    );
    if let Some(podman) = costs.get(2) {
        let (ours, podman) = (per_line(costs[0].cpu), per_line(podman.cpu));
        table.ratio("log, a line read, CPU, podman", "ns", ours, podman, None);
    }
    Ok(())
}

/// Runs a container that writes the lines; returns the engine's CPU milliseconds without the container's own.
fn write(engine: &Engine) -> Result<(String, f64)> {
    let line = "x".repeat(LENGTH - 1);
    let script = format!("yes {line} | head -n {LINES}; echo done; sleep 10000");
    settle(engine)?;
    let before = engine.group.cpu_ms()?;
    let container = start(engine, &["sh", "-c", &script])?;
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        settle(engine)?;
        let total = engine.group.cpu_ms()? - before;
        let own = engine.group.cpu_ms_of(&container)?;
        let tail = engine
            .api()
            .text(&format!("/containers/{container}/logs?stdout=1&tail=1"))?;
        if tail.contains("done") {
            return Ok((container, total - own));
        }
        ensure!(
            Instant::now() < end,
            "the container does not come to its end"
        );
    }
}
