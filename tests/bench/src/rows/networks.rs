//! Networks: made and removed, and containers with published ports. How much they carry is in `throughput`.

use super::{ROUNDS, create_as, in_turn, rows, throughput, with_networks};
use crate::engines::Engine;
use crate::table::Table;
use anyhow::{Context, Result};
use serde_json::json;

pub(super) fn measure(
    ours: &Engine,
    theirs: &Engine,
    podman: Option<&Engine>,
    table: &mut Table,
) -> Result<()> {
    let engines = with_networks(ours, theirs, podman);
    let costs = in_turn(&engines, ROUNDS, |engine| {
        let api = engine.api();
        let made = api.post("/networks/create", Some(&json!({ "Name": "bench" })))?;
        let id = made["Id"].as_str().context("a network has an id")?;
        api.delete(&format!("/networks/{id}")).map(drop)
    })?;
    rows(
        table,
        "network create and rm",
        &costs,
        (1.0 / 4.0, 1.0 / 4.0),
    );
    let costs = in_turn(&engines, ROUNDS, |engine| {
        let id = server(engine, &["true"], "bridge", true, true)?;
        let api = engine.api();
        api.post(&format!("/containers/{id}/start"), None)?;
        // `--rm`: gone when it has ended.
        let waited = api.post(&format!("/containers/{id}/wait?condition=removed"), None);
        drop(waited);
        Ok(())
    })?;
    let what = "run --rm true with a published port";
    rows(table, what, &costs, (1.0 / 12.0, 1.0 / 6.0));
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
    create_as(
        engine,
        json!({
            "Image": "busybox:latest",
            "Cmd": command,
            "ExposedPorts": exposed,
            "HostConfig": {
                "NetworkMode": network, "AutoRemove": auto_remove, "PortBindings": bindings,
            },
        }),
    )
}
