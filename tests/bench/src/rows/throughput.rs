//! What networks carry: iperf3 from container to container and through published ports, beside a bridge that no engine has
//! anything to do with; the loopback proxy by its CPU time; answers of the DNS server.

use super::networks::server;
use super::remove;
use crate::dns_load;
use crate::engines::{Engine, Kind};
use crate::table::Table;
use anyhow::{Context, Result, bail, ensure};
use harness::programs::find;
use serde_json::{Value, json};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Seconds of each run of iperf3.
const SECONDS: &str = "1";
/// Runs of each kind, in turn. Single ones of the same way differ by a factor of two on two cores, however long they are.
const RUNS: usize = 25;
/// What is asked for is what a way costs: a sender that paces itself (BBR is the default of some hosts) would show its timers.
const UNPACED: &str = "cubic";
/// The client's and the server's core: where the scheduler puts them would make more of a difference than the way.
const CORES: &str = "0,1";
const PORT: &str = "5201";
/// The kernel counts CPU time of processes in hundredths of a second (`USER_HZ`, the same on every Linux we run on).
const TICKS: f64 = 100.0;

pub(super) fn measure(ours: &Engine, theirs: &Engine, table: &mut Table) -> Result<()> {
    if find("iperf3").is_none() {
        println!("  without throughput: there is no iperf3 here (package iperf3)");
        return Ok(());
    }
    let bare = Bare::new()?;
    let places = [Place::new(ours)?, Place::new(theirs)?];
    let mut ways = vec![bare.direct(), bare.way_from_host()];
    for place in &places {
        ways.push(place.direct());
        ways.push(place.published());
    }
    let mut runs = vec![Vec::new(); ways.len()];
    for _ in 0..RUNS {
        for (way, runs) in ways.iter().zip(&mut runs) {
            runs.push(way.run()?.gigabits_a_second);
        }
    }
    let [
        bare_direct,
        bare_host,
        direct,
        published,
        their_direct,
        their_published,
    ] = runs.into_iter().map(middle_half).collect::<Vec<_>>()[..]
    else {
        bail!("six ways were measured");
    };
    for (what, ours, bare, theirs) in [
        ("container to container", direct, bare_direct, their_direct),
        (
            "through a published port",
            published,
            bare_host,
            their_published,
        ),
    ] {
        let unit = "Gbit/s";
        table.share(&format!("{what}, of a bare bridge"), unit, ours, bare, 0.95);
        table.share(&format!("{what}, to dockerd's"), unit, ours, theirs, 0.0);
    }

    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        for (place, rates) in places.iter().zip(&mut rates) {
            rates.push(place.proxied()?);
        }
    }
    let rates = rates.map(middle_half);
    table.share(
        "loopback proxy, to docker-proxy",
        "Gbit/CPU-s",
        rates[0],
        rates[1],
        1.5,
    );

    let answers = dns_load::within(&places[0].inside(0), &places[0].containers[0][..12])?;
    table.figure("DNS answer, median", "us", answers.median_us, Some(200.0));
    // As what one answer takes when many are asked for at once: 20,000 in a second.
    table.figure(
        "DNS answer, one of many at once",
        "us",
        1e6 / answers.per_second,
        Some(1e6 / 20_000.0),
    );
    for place in places {
        place.remove()?;
    }
    Ok(())
}

/// The mean of what is neither in the lowest nor in the highest quarter: runs are fast or slow with little between, where a
/// median jumps.
fn middle_half(mut runs: Vec<f64>) -> f64 {
    runs.sort_by(f64::total_cmp);
    let quarter = runs.len() / 4;
    let middle = &runs[quarter..runs.len() - quarter];
    middle.iter().sum::<f64>() / middle.len() as f64
}

/// From where to where, and how.
struct Way {
    server: String,
    client: String,
    address: String,
    port: String,
}

struct Run {
    gigabits: f64,
    gigabits_a_second: f64,
}

impl Way {
    fn run(&self) -> Result<Run> {
        let mut serving = Command::new("nsenter")
            .arg(format!("--net={}", self.server))
            .args(["iperf3", "-s", "-1", "-p", PORT])
            .stdout(Stdio::null())
            .spawn()?;
        let outcome = self.ask();
        let _ = serving.kill();
        let _ = serving.wait();
        outcome
    }

    fn ask(&self) -> Result<Run> {
        wait_until_listening(&self.server)?;
        let output = Command::new("nsenter")
            .arg(format!("--net={}", self.client))
            .args([
                "iperf3",
                "-J",
                "-t",
                SECONDS,
                "-C",
                UNPACED,
                "-A",
                CORES,
                "-c",
                &self.address,
                "-p",
                &self.port,
            ])
            .output()?;
        let told: Value = serde_json::from_slice(&output.stdout)?;
        let sum = &told["end"]["sum_received"];
        let number = |key: &str| {
            let number = sum[key].as_f64();
            number.with_context(|| format!("iperf3 says {}", told["error"]))
        };
        Ok(Run {
            gigabits: number("bytes")? * 8.0 / 1e9,
            gigabits_a_second: number("bits_per_second")? / 1e9,
        })
    }
}

/// A server with `-1` ends after its first connection, so it is looked for, not tried.
fn wait_until_listening(namespace: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let output = Command::new("nsenter")
            .arg(format!("--net={namespace}"))
            .args(["ss", "-Hltn", &format!("sport = :{PORT}")])
            .output()?;
        if !output.stdout.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "iperf3 does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Two containers of an engine in a network of their own; the first has its port published.
struct Place<'a> {
    engine: &'a Engine,
    containers: Vec<String>,
    pids: Vec<u64>,
    address: String,
    gateway: String,
    port: String,
}

const NETWORK: &str = "speed";

impl Place<'_> {
    fn new(engine: &Engine) -> Result<Place<'_>> {
        let api = engine.api();
        api.post("/networks/create", Some(&json!({ "Name": NETWORK })))?;
        let mut containers = Vec::new();
        let mut shown = Vec::new();
        for published in [true, false] {
            let id = server(engine, &["sleep", "1000"], NETWORK, published, false)?;
            api.post(&format!("/containers/{id}/start"), None)?;
            shown.push(api.get(&format!("/containers/{id}/json"))?);
            containers.push(id);
        }
        let settings = &shown[0]["NetworkSettings"];
        let text =
            |value: &Value, what: &'static str| value.as_str().map(str::to_owned).context(what);
        let network = &settings["Networks"][NETWORK];
        let port = &settings["Ports"]["5201/tcp"][0]["HostPort"];
        let pid = |shown: &Value| shown["State"]["Pid"].as_u64().context("a process id");
        Ok(Place {
            address: text(&network["IPAddress"], "a container has an address")?,
            gateway: text(&network["Gateway"], "a network has a gateway")?,
            port: text(port, "a published port")?,
            pids: shown.iter().map(pid).collect::<Result<_>>()?,
            engine,
            containers,
        })
    }

    fn inside(&self, number: usize) -> String {
        format!("/proc/{}/ns/net", self.pids[number])
    }

    fn way(&self, client: String, address: &str, port: &str) -> Way {
        Way {
            server: self.inside(0),
            client,
            address: address.into(),
            port: port.into(),
        }
    }

    fn direct(&self) -> Way {
        self.way(self.inside(1), &self.address, PORT)
    }

    /// From the host by one of its addresses: the firewall leads there.
    fn published(&self) -> Way {
        self.way(self.engine.namespace(), &self.gateway, &self.port)
    }

    /// From the host by loopback: gigabits for each second of the proxy's CPU time.
    fn proxied(&self) -> Result<f64> {
        let proxy = match self.engine.kind {
            Kind::Dockerd => docker_proxy(&self.port)?,
            _ => self.engine.pid(),
        };
        let way = self.way(self.engine.namespace(), "127.0.0.1", &self.port);
        let before = cpu_seconds(proxy)?;
        let run = way.run()?;
        let spent = cpu_seconds(proxy)? - before;
        ensure!(spent > 0.0, "the proxy has done nothing");
        Ok(run.gigabits / spent)
    }

    fn remove(self) -> Result<()> {
        for id in &self.containers {
            remove(self.engine, id)?;
        }
        self.engine
            .api()
            .delete(&format!("/networks/{NETWORK}"))
            .map(drop)
    }
}

/// The process that serves this port on 0.0.0.0.
fn docker_proxy(port: &str) -> Result<u32> {
    for folder in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = folder
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let line = std::fs::read(folder.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let has = |flag: &str, value: &str| {
            words
                .windows(2)
                .any(|pair| pair[0] == flag.as_bytes() && pair[1] == value.as_bytes())
        };
        if has("-host-port", port) && has("-host-ip", "0.0.0.0") {
            return Ok(pid);
        }
    }
    bail!("no docker-proxy serves port {port}")
}

/// User and system time of a process: proc(5), fields 14 and 15 of `stat`.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before may have blanks in it.
    let (_, rest) = text.rsplit_once(") ").context("a line of /proc/PID/stat")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |index: usize| -> Result<f64> {
        let field = fields.get(index).context("a short line")?;
        Ok(field.parse::<f64>()?)
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// A bridge and two pairs of links without any engine; removed when dropped.
struct Bare {
    names: [String; 3],
}

impl Bare {
    fn new() -> Result<Bare> {
        let own = std::process::id();
        let bare = Bare {
            names: ["h", "a", "b"].map(|name| format!("bench-bare-{name}-{own}")),
        };
        for name in &bare.names {
            ip(&["netns", "add", name])?;
        }
        let host = bare.names[0].as_str();
        ip(&["-n", host, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", host, "addr", "add", "10.98.0.254/24", "dev", "br0"])?;
        ip(&["-n", host, "link", "set", "br0", "up"])?;
        for (number, name) in bare.names[1..].iter().enumerate() {
            let port = format!("p{number}");
            ip(&[
                "-n", host, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns",
                name,
            ])?;
            ip(&["-n", host, "link", "set", &port, "master", "br0", "up"])?;
            let address = format!("10.98.0.{}/24", number + 1);
            ip(&["-n", name, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
        }
        Ok(bare)
    }

    fn way(&self, client: usize) -> Way {
        let path = |number: usize| format!("/run/netns/{}", self.names[number]);
        Way {
            server: path(1),
            client: path(client),
            address: "10.98.0.1".into(),
            port: PORT.into(),
        }
    }

    fn direct(&self) -> Way {
        self.way(2)
    }

    fn way_from_host(&self) -> Way {
        self.way(0)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
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
