//! Limits and statistics in a machine: cgroup v2 as our own guest has it.

use harness::machine::{LIMIT, Store};
use harness::run::{Output, run};
use std::path::Path;

/// Looks at containers of the machine `name`, which has the image busybox, with the stock client.
pub fn check(store: &Store, name: &str, docker: &Path) {
    let docker = |words: &[&str]| -> Output { run(&mut store.client(docker, name, words), LIMIT) };
    docker(&[
        "run",
        "-d",
        "--name",
        "limited",
        "-m",
        "32m",
        "--memory-swap",
        "48m",
        "--cpus",
        "0.5",
        "--cpu-shares",
        "512",
        "--pids-limit",
        "77",
        "busybox",
        "sh",
        "-c",
        "while :; do :; done",
    ])
    .success();
    let read = "cd /sys/fs/cgroup; cat memory.max memory.swap.max cpu.max cpu.weight pids.max";
    let limits = docker(&["exec", "limited", "sh", "-c", read]).success();
    assert_eq!(limits, "33554432\n16777216\n50000 100000\n59\n77\n");
    let format = "{{.MemUsage}} {{.PIDs}} {{.CPUPerc}}";
    let stats = docker(&["stats", "--no-stream", "--format", format, "limited"]).success();
    let words: Vec<&str> = stats.split_whitespace().collect();
    let [used, "/", "32MiB", "1", percent] = words.as_slice() else {
        panic!("{stats}")
    };
    assert_ne!(*used, "0B", "{stats}");
    let percent: f64 = percent.trim_end_matches('%').parse().expect("a number");
    // It wants a whole processor and gets half of one.
    assert!((5.0..80.0).contains(&percent), "{stats}");
    let update = ["update", "--memory", "64m", "--memory-swap", "64m"];
    let update: Vec<&str> = update
        .into_iter()
        .chain(["--pids-limit", "99", "limited"])
        .collect();
    docker(&update).success();
    let limits = docker(&["exec", "limited", "sh", "-c", read]).success();
    assert_eq!(limits, "67108864\n0\n50000 100000\n59\n99\n");
    docker(&["rm", "-f", "limited"]).success();
    let greedy = ["run", "--name", "greedy", "-m", "16m"];
    let greedy: Vec<&str> = greedy
        .into_iter()
        .chain(["--memory-swap", "16m", "busybox", "tail", "/dev/zero"])
        .collect();
    docker(&greedy).fails_with(137);
    let words = ["inspect", "-f", "{{.State.OOMKilled}}", "greedy"];
    assert_eq!(docker(&words).success(), "true\n");
    docker(&["rm", "greedy"]).success();
    // The data disk keeps account by project.
    let fill = "dd if=/dev/zero of=/large bs=1M count=12 2>&1; rm -f /large; echo x > /small";
    let large = ["run", "--rm", "--storage-opt", "size=8m", "busybox"];
    let large: Vec<&str> = large.into_iter().chain(["sh", "-c", fill]).collect();
    let told = docker(&large).success();
    assert!(told.contains("uota exceeded"), "{told}");
}
