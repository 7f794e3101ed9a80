//! What listing many containers costs.

use super::{create, eight_at_a_time, in_turn, remove};
use crate::engines::Engine;
use crate::table::Table;
use anyhow::{Result, ensure};

/// Containers in the list.
const CONTAINERS: usize = 500;
/// Lists in one measurement.
const LISTS: usize = 20;

pub(super) fn measure(
    ours: &Engine,
    theirs: &Engine,
    podman: Option<&Engine>,
    table: &mut Table,
) -> Result<()> {
    let engines: Vec<&Engine> = [ours, theirs].into_iter().chain(podman).collect();
    let mut made = Vec::new();
    for engine in engines.iter().copied() {
        let before = list(engine)?;
        let ids = eight_at_a_time(CONTAINERS, |_| create(engine, "none", &["true"], false))?;
        ensure!(list(engine)? == before + CONTAINERS, "not all are listed");
        made.push((engine, ids));
    }
    let costs = in_turn(&engines, 5, |engine| {
        for _ in 0..LISTS {
            list(engine)?;
        }
        Ok(())
    })?;
    table.ratio(
        &format!("/containers/json of {CONTAINERS}, CPU"),
        "ms",
        costs[0].cpu / LISTS as f64,
        costs[1].cpu / LISTS as f64,
        Some(1.0 / 10.0),
    );
    if let Some(podman) = costs.get(2) {
        table.ratio(
            &format!("/containers/json of {CONTAINERS}, CPU, podman"),
            "ms",
            costs[0].cpu / LISTS as f64,
            podman.cpu / LISTS as f64,
            None,
        );
    }
    for (engine, ids) in made {
        eight_at_a_time(ids.len(), |number| remove(engine, &ids[number]))?;
    }
    Ok(())
}

fn list(engine: &Engine) -> Result<usize> {
    let list = engine.api().get("/containers/json?all=1")?;
    Ok(list.as_array().map_or(0, Vec::len))
}
