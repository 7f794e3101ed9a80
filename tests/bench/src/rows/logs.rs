//! What a line of output costs the engine, written and read back.

use super::{in_turn, remove, settle, start};
use crate::engines::Engine;
use crate::table::Table;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// Lines of one measurement.
const LINES: usize = 200_000;
/// Bytes of a line.
const LENGTH: usize = 100;
const ROUNDS: usize = 5;

pub(super) fn measure(ours: &Engine, theirs: &Engine, table: &mut Table) -> Result<()> {
    let mut written = [Vec::new(), Vec::new()];
    let mut last = Vec::new();
    for round in 0..ROUNDS {
        for (number, engine) in [ours, theirs].into_iter().enumerate() {
            let (container, cost) = write(engine)?;
            written[number].push(cost);
            if round + 1 < ROUNDS {
                remove(engine, &container)?;
            } else {
                last.push((engine.kind, container));
            }
        }
    }
    let per_line = |mut costs: Vec<f64>| {
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2] * 1e6 / LINES as f64
    };
    let [a, b] = written;
    table.ratio(
        "log, a line written, CPU",
        "ns",
        per_line(a),
        per_line(b),
        Some(1.0 / 10.0),
    );
    let costs = in_turn(&[ours, theirs], ROUNDS, |engine| {
        let container = last.iter().find(|(kind, _)| *kind == engine.kind);
        let id = container.map_or("", |(_, id)| id);
        let size = engine
            .api()
            .download(&format!("/containers/{id}/logs?stdout=1"))?;
        // Each line, or each part of one, has a frame of eight bytes.
        ensure!(size >= LINES * LENGTH, "the log has {size} bytes");
        Ok(())
    })?;
    let per_line = |cost: f64| cost * 1e6 / LINES as f64;
    table.ratio(
        "log, a line read, CPU",
        "ns",
        per_line(costs[0].cpu),
        per_line(costs[1].cpu),
        Some(1.0 / 15.0),
    );
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
