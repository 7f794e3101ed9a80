//! Limits of containers as the kernel has them, and what happens where it has not: looked at with the stock client.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::run::{Output, eventually, run};
use std::path::Path;
use std::time::Duration;

/// Runs the stock client; `None` where there is none.
fn docker(agent: &Agent, arguments: &[&str]) -> Option<Output> {
    Some(run(&mut agent.docker(arguments)?, LIMIT))
}

/// `docker run --rm FLAGS busybox sh -c SCRIPT`.
fn inside(agent: &Agent, flags: &[&str], script: &str) -> Option<Output> {
    let mut words = vec!["run", "--rm", "--network", "none"];
    words.extend(flags);
    words.extend(["busybox", "sh", "-c", script]);
    docker(agent, &words)
}

fn is_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The control file of either version, as a container sees its own.
fn file(v1: &str, v2: &str) -> String {
    match is_v2() {
        true => format!("/sys/fs/cgroup/{v2}"),
        false => format!("/sys/fs/cgroup/{v1}"),
    }
}

/// Whether containers of this host have such a file.
fn has(agent: &Agent, path: &str) -> Option<bool> {
    let script = format!("test -e {path} && echo yes; true");
    Some(inside(agent, &[], &script)?.success() == "yes\n")
}

#[test]
fn processors_and_memory_are_shared_as_asked() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let cases: [(&[&str], String, &str, &str); 6] = [
        (
            &["--cpu-shares", "512"],
            file("cpu/cpu.shares", "cpu.weight"),
            "512",
            "59",
        ),
        (
            &["--cpu-period", "50000", "--cpu-quota", "20000"],
            file("cpu/cpu.cfs_quota_us", "cpu.max"),
            "20000",
            "20000 50000",
        ),
        (
            &["--cpu-period", "50000", "--cpu-quota", "20000"],
            file("cpu/cpu.cfs_period_us", "cpu.max"),
            "50000",
            "20000 50000",
        ),
        (
            &["--cpuset-mems", "0"],
            file("cpuset/cpuset.mems", "cpuset.mems"),
            "0",
            "0",
        ),
        (
            &["-m", "64m", "--memory-swap", "96m"],
            file("memory/memory.memsw.limit_in_bytes", "memory.swap.max"),
            "100663296",
            "33554432",
        ),
        (
            &["-m", "64m", "--memory-swappiness", "7"],
            file("memory/memory.swappiness", "memory.max"),
            "7",
            "67108864",
        ),
    ];
    for (flags, path, v1, v2) in cases {
        match has(&agent, &path) {
            None => return,
            Some(false) => println!("skipped: this host has no {path}"),
            Some(true) => {
                let read = format!("cat {path}");
                let output = inside(&agent, flags, &read).expect("there is docker");
                let expected = if is_v2() { v2 } else { v1 };
                assert_eq!(output.clone().success().trim(), expected, "{flags:?}");
                if is_v2() && flags.contains(&"--memory-swappiness") {
                    assert!(
                        output.stderr.contains("Memory swappiness discarded"),
                        "{}",
                        output.report()
                    );
                }
            }
        }
    }
}

#[test]
fn the_kernel_does_not_kill_where_it_is_told_not_to() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let path = "/sys/fs/cgroup/memory/memory.oom_control";
    let flags = ["-m", "64m", "--oom-kill-disable"];
    let script = format!("grep oom_kill_disable {path} 2>/dev/null; true");
    let Some(output) = inside(&agent, &flags, &script) else {
        return;
    };
    if is_v2() {
        assert!(
            output.stderr.contains("OomKillDisable discarded"),
            "{}",
            output.report()
        );
    } else {
        assert_eq!(output.success(), "oom_kill_disable 1\n");
    }
}

/// The name and number of a block device of this host.
fn block_device() -> Option<(String, String)> {
    let entries = std::fs::read_dir("/sys/block").ok()?;
    entries.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let node = format!("/dev/{name}");
        let size = std::fs::read_to_string(entry.path().join("size")).ok()?;
        let number = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        let there = size.trim() != "0" && Path::new(&node).exists();
        there.then(|| (node, number.trim().to_owned()))
    })
}

#[test]
fn block_devices_are_held_back_or_it_is_said_that_they_cannot_be() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let Some((device, number)) = block_device() else {
        println!("skipped: this host has no block device");
        return;
    };
    // Much: the container itself reads from this device.
    const LIMIT_EACH: u64 = 100 << 20;
    for (flag, v1, key) in [
        ("--device-read-bps", "read_bps", "rbps"),
        ("--device-write-bps", "write_bps", "wbps"),
        ("--device-read-iops", "read_iops", "riops"),
        ("--device-write-iops", "write_iops", "wiops"),
    ] {
        let path = file(&format!("blkio/blkio.throttle.{v1}_device"), "io.max");
        let limit = format!("{device}:{LIMIT_EACH}");
        let script = format!("cat {path} 2>/dev/null; true");
        let Some(output) = inside(&agent, &[flag, &limit], &script) else {
            return;
        };
        let expected = match is_v2() {
            true => format!("{key}={LIMIT_EACH}"),
            false => format!("{number} {LIMIT_EACH}"),
        };
        let warned = output.stderr.contains("Your kernel does not support");
        let limited = output.stdout.contains(&expected);
        assert!(limited != warned, "{}", output.report());
        assert_eq!(output.code, Some(0), "{}", output.report());
    }
    let weights = [
        file("blkio/blkio.weight", "io.weight"),
        file("blkio/blkio.bfq.weight", "io.bfq.weight"),
    ];
    let there = weights
        .iter()
        .any(|path| has(&agent, path).unwrap_or(false));
    let script = format!("cat {} 2>/dev/null; true", weights.join(" "));
    let output =
        inside(&agent, &["--blkio-weight", "300"], &script).expect("it was there a moment ago");
    if there {
        let expected = if is_v2() { "2930" } else { "300" };
        assert!(
            output.stdout.contains(expected) || output.stdout.contains("300"),
            "{}",
            output.report()
        );
    } else {
        let warning = "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.";
        assert!(output.stderr.contains(warning), "{}", output.report());
    }
    let files = [
        file("blkio/blkio.weight_device", "io.weight"),
        file("blkio/blkio.bfq.weight_device", "io.bfq.weight"),
    ];
    let script = format!("cat {} 2>/dev/null; true", files.join(" "));
    let weight = format!("{device}:300");
    let output = inside(&agent, &["--blkio-weight-device", &weight], &script);
    let output = output.expect("it was there a moment ago");
    let warned = output.stderr.contains(
        "Your kernel does not support Block I/O weight_device or the cgroup is not mounted. Weight-device discarded.",
    );
    let of_device = format!("{number} ");
    let set = output
        .stdout
        .lines()
        .any(|line| line.starts_with(&of_device));
    // The kernel has weights, and the device's scheduler has not.
    let refused = output.code == Some(125)
        && output.stderr.contains("weight")
        && output.stderr.contains("operation not supported");
    let outcomes = [warned, set, refused];
    let seen = outcomes.iter().filter(|outcome| **outcome).count();
    assert_eq!(seen, 1, "{outcomes:?} {}", output.report());
    let missing = inside(&agent, &["--device-read-bps", "/dev/no-such:1mb"], "true");
    let missing = missing.expect("there is docker");
    assert_ne!(missing.code, Some(0));
    assert!(
        missing.stderr.contains("/dev/no-such"),
        "{}",
        missing.report()
    );
}

#[test]
fn groups_are_made_where_they_were_asked_for() {
    let own = format!("/berth-test-parent-{}", std::process::id());
    let default = format!("/berth-test-default-{}", std::process::id());
    let Some(agent) = engine_with_busybox(&["--cgroup-parent", &default]) else {
        return;
    };
    let group = |flags: &[&str]| -> Option<String> {
        let mut words = vec!["run", "-d", "--network", "none"];
        words.extend(flags);
        words.extend(["busybox", "sleep", "1000"]);
        let id = docker(&agent, &words)?.success().trim().to_owned();
        let words = ["inspect", "-f", "{{.State.Pid}}", &id];
        let pid = docker(&agent, &words)?.success();
        let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).ok()?;
        let controller = if is_v2() { "0::" } else { ":memory:" };
        let line = groups.lines().find(|line| line.contains(controller))?;
        docker(&agent, &["rm", "-f", &id])?.success();
        Some(line.replace(&id, "ID"))
    };
    let Some(found) = group(&["--cgroup-parent", &own]) else {
        return;
    };
    assert!(found.ends_with(&format!(":{own}/ID")), "{found}");
    let found = group(&[]).expect("there is docker");
    assert!(found.ends_with(&format!(":{default}/ID")), "{found}");
    // The parents are whoever asked for them's; a test's own go.
    for mount in std::fs::read_to_string("/proc/self/mounts")
        .unwrap_or_default()
        .lines()
        .filter(|line| line.contains(" cgroup"))
        .filter_map(|line| line.split(' ').nth(1))
    {
        for parent in [&own, &default] {
            let _ = std::fs::remove_dir(format!("{mount}{parent}"));
        }
    }
}

#[test]
fn memory_that_runs_out_is_told_and_shown() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    // The first process goes on; one of its children is killed. It takes more than the moments in which nobody looks.
    let script = "sleep 4; tail /dev/zero; echo survived; exec sleep 1000";
    let words = [
        "run",
        "-d",
        "--name",
        "greedy",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let Some(started) = docker(&agent, &words) else {
        return;
    };
    started.success();
    let shown = |template: &str| {
        let words = ["inspect", "-f", template, "greedy"];
        docker(&agent, &words)
            .expect("there is docker")
            .success()
            .trim()
            .to_owned()
    };
    eventually("the kill is told", Duration::from_secs(60), || {
        (shown("{{.State.OOMKilled}} {{.State.Running}}") == "true true").then_some(())
    });
    eventually("the container goes on", Duration::from_secs(20), || {
        let logs = docker(&agent, &["logs", "greedy"])?;
        logs.stdout.contains("survived").then_some(())
    });
    docker(&agent, &["kill", "greedy"])
        .expect("there is docker")
        .success();
    // Where the first process is what is killed, too.
    let words = [
        "run",
        "--name",
        "first",
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "--network",
        "none",
        "busybox",
        "tail",
        "/dev/zero",
    ];
    assert_eq!(
        docker(&agent, &words).expect("there is docker").code,
        Some(137)
    );
    let words = ["inspect", "-f", "{{.State.OOMKilled}}", "first"];
    let killed = docker(&agent, &words).expect("there is docker").success();
    assert_eq!(killed, "true\n");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed();
    let until = now.expect("after 1970").as_secs() + 1;
    let words = [
        "events",
        "--since",
        "1",
        "--until",
        &until.to_string(),
        "--filter",
        "event=oom",
        "--format",
        "{{.Actor.Attributes.name}}",
    ];
    let events = docker(&agent, &words).expect("there is docker").success();
    let mut names: Vec<&str> = events.lines().collect();
    names.dedup();
    assert_eq!(names, ["greedy", "first"], "{events}");
}

#[test]
fn what_this_host_cannot_limit_is_refused_in_dockers_words() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let said = |words: &[&str]| Some(docker(&agent, words)?.stderr);
    let Some(error) = said(&["volume", "create", "-o", "size=10m", "small"]) else {
        return;
    };
    let quota = "quota size requested but no quota support";
    assert!(error.is_empty() || error.contains(quota), "{error}");
    docker(
        &agent,
        &[
            "volume",
            "create",
            "-o",
            "type=nfs",
            "-o",
            "o=addr=127.0.0.1,nfsvers=4",
            "-o",
            "device=:/no/export",
            "far",
        ],
    )
    .expect("there is docker")
    .success();
    let error = said(&["run", "--rm", "-v", "far:/far", "busybox", "true"]);
    let error = error.expect("there is docker");
    let source = agent.data_root().join("volumes/far/_data");
    let mount = format!(
        "failed to mount local volume: mount :/no/export:{}, flags: 0x0",
        source.display()
    );
    assert!(error.contains(&mount), "{error}");
    if Path::new("/sys/kernel/security/apparmor").is_dir() {
        println!("skipped: this host has AppArmor; its absence is not seen here");
    } else {
        let flags = ["run", "--rm", "--security-opt", "apparmor=docker-default"];
        let words: Vec<&str> = flags.into_iter().chain(["busybox", "true"]).collect();
        let error = said(&words).expect("there is docker");
        let why = "invalid --security-opt: \"apparmor=docker-default\": AppArmor is not enabled on this host";
        assert!(error.contains(why), "{error}");
        // Saying that none is wanted is no wish that cannot be granted.
        let words: Vec<&str> = ["run", "--rm", "--security-opt", "apparmor=unconfined"]
            .into_iter()
            .chain(["busybox", "true"])
            .collect();
        docker(&agent, &words).expect("there is docker").success();
    }
}

#[test]
fn an_init_is_process_one_and_reaps() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let script = "(sleep 0.1 &) ; sleep 0.6; cat /proc/1/cmdline | tr '\\0' ' '; echo; ps -o stat | grep -c Z; true";
    let Some(output) = inside(&agent, &["--init"], script) else {
        return;
    };
    if output.stderr.contains("--init-path") {
        println!("skipped: neither a static agent nor an init of the host");
        return;
    }
    let text = output.success();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("/sbin/docker-init "), "{text}");
    assert_eq!(lines[1], "0", "{text}");
}
