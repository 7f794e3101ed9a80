//! Networks: made and removed, with published ports, and how much they carry.

use super::{ROUNDS, in_turn, remove};
use crate::engines::Engine;
use crate::table::Table;
use anyhow::{Context, Result, ensure};
use harness::programs::find;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Seconds of each run of iperf3.
const SECONDS: &str = "3";
const RUNS: usize = 3;

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
    throughput(ours, theirs, table)
}

/// Makes a container; `published`: its port 5201 on a free port.
fn server(
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
    let body = json!({
        "Image": "busybox:latest",
        "Cmd": command,
        "HostConfig": {
            "NetworkMode": network, "AutoRemove": auto_remove, "PortBindings": bindings,
            "CgroupParent": engine.group.parent(),
        },
    });
    let created = engine.api().post("/containers/create", Some(&body))?;
    let id = created["Id"].as_str().context("a container has an id")?;
    Ok(id.to_owned())
}

fn throughput(ours: &Engine, theirs: &Engine, table: &mut Table) -> Result<()> {
    if find("iperf3").is_none() {
        println!("  without throughput: there is no iperf3 here");
        return Ok(());
    }
    let bare = bare_bridge()?;
    let mut figures = Vec::new();
    for engine in [ours, theirs] {
        engine
            .api()
            .post("/networks/create", Some(&json!({ "Name": "speed" })))?;
        let mut containers = Vec::new();
        for _ in 0..2 {
            let id = server(engine, &["sleep", "1000"], "speed", true, false)?;
            engine
                .api()
                .post(&format!("/containers/{id}/start"), None)?;
            containers.push(id);
        }
        let shown = engine
            .api()
            .get(&format!("/containers/{}/json", containers[0]))?;
        let address = shown["NetworkSettings"]["Networks"]["speed"]["IPAddress"]
            .as_str()
            .context("a container has an address")?
            .to_owned();
        let port = shown["NetworkSettings"]["Ports"]["5201/tcp"][0]["HostPort"]
            .as_str()
            .context("a published port")?
            .to_owned();
        let pid = |shown: &Value| shown["State"]["Pid"].as_u64().context("a process id");
        let inside = format!("/proc/{}/ns/net", pid(&shown)?);
        let client = engine
            .api()
            .get(&format!("/containers/{}/json", containers[1]))?;
        let client = format!("/proc/{}/ns/net", pid(&client)?);
        let direct = best(&inside, &client, &address, "5201")?;
        // From the engine's host by the host's loopback address: the proxy.
        let host = engine.namespace();
        let proxied = best(&inside, &host, "127.0.0.1", &port)?;
        figures.push((direct, proxied));
        for id in &containers {
            remove(engine, id)?;
        }
        engine.api().delete("/networks/speed")?;
    }
    let (direct, proxied) = figures[0];
    table.share(
        "container to container, of a bare bridge",
        "Gbit/s",
        direct,
        bare,
        0.95,
    );
    table.share(
        "container to container, to dockerd's",
        "Gbit/s",
        direct,
        figures[1].0,
        0.0,
    );
    table.share(
        "by the loopback proxy, to docker-proxy",
        "Gbit/s",
        proxied,
        figures[1].1,
        0.0,
    );
    Ok(())
}

/// Gigabits a second between two namespaces; the best of several runs, because others use the machine too.
fn best(server: &str, client: &str, address: &str, port: &str) -> Result<f64> {
    let mut best: f64 = 0.0;
    for _ in 0..RUNS {
        best = best.max(once(server, client, address, port)?);
    }
    Ok(best)
}

fn once(server: &str, client: &str, address: &str, port: &str) -> Result<f64> {
    let mut serving = Command::new("nsenter")
        .args([
            &format!("--net={server}"),
            "iperf3",
            "-s",
            "-1",
            "-p",
            "5201",
        ])
        .stdout(Stdio::null())
        .spawn()?;
    std::thread::sleep(Duration::from_millis(500));
    let output = Command::new("nsenter")
        .args([
            &format!("--net={client}"),
            "iperf3",
            "-J",
            "-t",
            SECONDS,
            "-c",
            address,
            "-p",
            port,
        ])
        .output()?;
    let _ = serving.kill();
    let _ = serving.wait();
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let bits = told["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits = bits.with_context(|| format!("iperf3 says {}", told["error"]))?;
    Ok(bits / 1e9)
}

/// What a bridge and two pairs of links carry without any engine.
fn bare_bridge() -> Result<f64> {
    let own = std::process::id();
    let names = ["h", "a", "b"].map(|name| format!("bench-bare-{name}-{own}"));
    let outcome = (|| {
        for name in &names {
            ip(&["netns", "add", name])?;
        }
        let host = names[0].as_str();
        ip(&["-n", host, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", host, "link", "set", "br0", "up"])?;
        for (number, name) in names[1..].iter().enumerate() {
            let port = format!("p{number}");
            ip(&[
                "-n", host, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
                name,
            ])?;
            ip(&["-n", host, "link", "set", &port, "master", "br0", "up"])?;
            let address = format!("10.99.0.{}/24", number + 1);
            ip(&["-n", name, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
        }
        let path = |name: &str| format!("/run/netns/{name}");
        best(&path(&names[1]), &path(&names[2]), "10.99.0.1", "5201")
    })();
    for name in &names {
        let _ = ip(&["netns", "del", name]);
    }
    outcome
}

fn ip(words: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(words).output()?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
