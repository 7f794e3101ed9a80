//! Networks: made and removed, and containers with published ports. How much they carry is in `throughput`.

use super::{ROUNDS, in_turn, throughput};
use crate::engines::Engine;
use crate::table::Table;
use anyhow::{Context, Result};
use serde_json::json;

pub(super) fn measure(ours: &Engine, theirs: &Engine, table: &mut Table) -> Result<()> {
    let both = [ours, theirs];
    let costs = in_turn(&both, ROUNDS, |engine| {
        let api = engine.api();
        let made = api.post("/networks/create", Some(&json!({ "Name": "bench" })))?;
        let id = made["Id"].as_str().context("a network has an id")?;
        api.delete(&format!("/networks/{id}")).map(drop)
    })?;
    for (unit, pick) in [("CPU", 0), ("wall", 1)] {
        let of = |cost: &super::Cost| if pick == 0 { cost.cpu } else { cost.wall };
        let (a, b) = (of(&costs[0]), of(&costs[1]));
        table.ratio(
            &format!("network create and rm, {unit}"),
            "ms",
            a,
            b,
            Some(1.0 / 4.0),
        );
    }
    let costs = in_turn(&both, ROUNDS, |engine| {
        let id = server(engine, &["true"], "bridge", true, true)?;
        let api = engine.api();
        api.post(&format!("/containers/{id}/start"), None)?;
        // `--rm`: gone when it has ended.
        let waited = api.post(&format!("/containers/{id}/wait?condition=removed"), None);
        drop(waited);
        Ok(())
    })?;
    for (unit, pick, bound) in [("CPU", 0, 1.0 / 12.0), ("wall", 1, 1.0 / 6.0)] {
        let of = |cost: &super::Cost| if pick == 0 { cost.cpu } else { cost.wall };
        let (a, b) = (of(&costs[0]), of(&costs[1]));
        table.ratio(
            &format!("run --rm true with a published port, {unit}"),
            "ms",
            a,
            b,
            Some(bound),
        );
    }
    throughput::measure(ours, theirs, table)
}

/// Makes a container; `published`: its port 5201 on a free port.
pub(super) fn server(
    engine: &Engine,
    command: &[&str],
    network: &str,
    published: bool,
    auto_remove: bool,
) -> Result<String> {
    let bindings = if published {
        json!({ "5201/tcp": [{ "HostPort": "" }] })
    } else {
        json!({})
    };
    // dockerd publishes only what is exposed, too; its client says both.
    let exposed = if published {
        json!({ "5201/tcp": {} })
    } else {
        json!({})
    };
    let body = json!({
        "Image": "busybox:latest",
        "Cmd": command,
        "ExposedPorts": exposed,
        "HostConfig": {
            "NetworkMode": network, "AutoRemove": auto_remove, "PortBindings": bindings,
            "CgroupParent": engine.group.parent(),
        },
    });
    let created = engine.api().post("/containers/create", Some(&body))?;
    let id = created["Id"].as_str().context("a container has an id")?;
    Ok(id.to_owned())
}
