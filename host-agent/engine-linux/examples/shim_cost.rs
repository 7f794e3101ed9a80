//! What a container costs: CPU time and wall time of starting and ending `true`, and memory of an idle shim.
//!
//! `cargo run --example shim_cost -- PATH-OF-AGENT [COUNT]` as root. The agent should be the static release build.

#[path = "../tests/runtime/host.rs"]
#[allow(dead_code)]
mod host;

use engine::runtime::Runtime;
use engine_linux::runtime::{LinuxRuntime, RuntimeConfig};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// CPU time of this process, and of its children that were waited for: the shims and what they ran.
fn cpu() -> (Duration, Duration) {
    use nix::sys::resource::{UsageWho, getrusage};
    let of = |who| {
        let usage = getrusage(who).expect("getrusage");
        let time = |value: nix::sys::time::TimeVal| {
            Duration::from_secs(value.tv_sec() as u64)
                + Duration::from_micros(value.tv_usec() as u64)
        };
        time(usage.user_time()) + time(usage.system_time())
    };
    (of(UsageWho::RUSAGE_SELF), of(UsageWho::RUSAGE_CHILDREN))
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut args = std::env::args().skip(1);
    let agent = args.next().expect("path of the agent");
    let count: u32 = args
        .next()
        .map_or(50, |text| text.parse().expect("a number"));
    let Some(host) = host::Host::new() else {
        return;
    };
    let runtime = LinuxRuntime::new(RuntimeConfig {
        exec_root: host.folder.path().join("run"),
        agent_program: agent.into(),
        runtimes: BTreeMap::new(),
        init: None,
        open_files: None,
    })
    .expect("a runtime");
    let mut walls = Vec::new();
    let mut starts = Vec::new();
    let mut before = cpu();
    let places: Vec<_> = (0..count + 3).map(|_| host.container()).collect();
    for (number, place) in places.iter().enumerate() {
        if number == 3 {
            before = cpu();
        }
        let begin = Instant::now();
        let (task, mut io) = runtime
            .start(place.plan(&["true"]))
            .await
            .expect("it starts");
        let started = begin.elapsed();
        host::collect(&mut io).await;
        assert_eq!(task.wait().await.code, 0);
        let wall = begin.elapsed();
        runtime.cleanup(&place.id).await.expect("it is cleaned up");
        if number >= 3 {
            walls.push(wall);
            starts.push(started);
        }
    }
    // The last shims are reaped.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let after = cpu();
    walls.sort();
    starts.sort();
    let each = |one: Duration| one.as_secs_f64() * 1000.0 / f64::from(count);
    println!(
        "start and end of true, {count} times: CPU {:.1} ms each (this process {:.1}, shim and container {:.1}); wall median {:.1} ms, least {:.1} ms; start median {:.1} ms",
        each(after.0 + after.1 - before.0 - before.1),
        each(after.0 - before.0),
        each(after.1 - before.1),
        walls[walls.len() / 2].as_secs_f64() * 1000.0,
        walls[0].as_secs_f64() * 1000.0,
        starts[starts.len() / 2].as_secs_f64() * 1000.0,
    );
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let place = host.container();
        let (task, io) = runtime
            .start(place.shell("echo hello; sleep 1000"))
            .await
            .expect("it starts");
        tasks.push((place.id.clone(), task, io));
    }
    tokio::time::sleep(Duration::from_millis(3000)).await;
    for (id, task, _io) in &tasks {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", task.pid())).expect("it runs");
        let shim = status
            .lines()
            .find_map(|line| line.strip_prefix("PPid:"))
            .expect("a parent")
            .trim()
            .to_owned();
        let text = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).expect("smaps");
        let field = |name: &str| {
            text.lines()
                .find(|line| line.starts_with(name))
                .and_then(|line| line.split_whitespace().nth(1))
                .unwrap_or("?")
                .to_owned()
        };
        println!(
            "idle shim: Rss {} kB, Pss {} kB, private dirty {} kB, private clean {} kB, anonymous {} kB",
            field("Rss:"),
            field("Pss:"),
            field("Private_Dirty:"),
            field("Private_Clean:"),
            field("Anonymous:")
        );
        task.signal(9).await.expect("it gets the signal");
        task.wait().await;
        runtime.cleanup(id).await.expect("it is cleaned up");
    }
}
