//! What a creator asks of the host takes effect: looked at from inside with the stock client.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::run::{Output, eventually, run};
use std::fs;
use std::time::Duration;

/// Runs the stock client; `None` where there is none.
fn docker(agent: &Agent, arguments: &[&str]) -> Option<Output> {
    Some(run(&mut agent.docker(arguments)?, LIMIT))
}

/// `docker run --rm FLAGS busybox sh -c SCRIPT`: what it wrote.
#[track_caller]
fn inside(agent: &Agent, flags: &[&str], script: &str) -> Option<String> {
    let mut words = vec!["run", "--rm", "--network", "none"];
    words.extend(flags);
    words.extend(["busybox", "sh", "-c", script]);
    Some(docker(agent, &words)?.success())
}

#[track_caller]
fn refused(agent: &Agent, flags: &[&str], part: &str) {
    let mut words = vec!["run", "--rm", "--network", "none"];
    words.extend(flags);
    words.extend(["busybox", "true"]);
    let Some(output) = docker(agent, &words) else {
        return;
    };
    assert_ne!(output.code, Some(0), "{}", output.report());
    assert!(output.stderr.contains(part), "{}", output.report());
}

#[test]
fn names_limits_and_settings_are_seen_inside() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let cases: [(&[&str], &str, &str); 16] = [
        (
            &["--ulimit", "nofile=123:456", "--ulimit", "core=0"],
            "ulimit -n; ulimit -Hn; ulimit -c",
            "123\n456\n0\n",
        ),
        (
            &["--shm-size", "3m"],
            "df -k /dev/shm | tail -1 | awk '{print $2}'",
            "3072\n",
        ),
        (
            &["--ipc", "none"],
            "grep -c ' /dev/shm ' /proc/mounts || true",
            "0\n",
        ),
        (
            &[
                "--sysctl",
                "kernel.msgmax=4242",
                "--sysctl",
                "net.ipv4.ip_default_ttl=11",
            ],
            "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_default_ttl",
            "4242\n11\n",
        ),
        (
            &["--oom-score-adj", "321"],
            "cat /proc/self/oom_score_adj",
            "321\n",
        ),
        (
            &["-u", "ada", "--group-add", "wheel", "--group-add", "777"],
            "id",
            "uid=1000(ada) gid=1000(ada) groups=10(wheel),50(staff),777,1000(ada)\n",
        ),
        (
            &["--hostname", "here", "--domainname", "example"],
            "hostname; cat /proc/sys/kernel/domainname",
            "here\nexample\n",
        ),
        (
            &["--cap-drop", "ALL", "--cap-add", "chown"],
            "grep CapBnd /proc/self/status",
            "CapBnd:\t0000000000000001\n",
        ),
        (
            &["--security-opt", "no-new-privileges"],
            "grep NoNewPrivs /proc/self/status",
            "NoNewPrivs:\t1\n",
        ),
        (
            &["--security-opt", "seccomp=unconfined"],
            "grep Seccomp: /proc/self/status",
            "Seccomp:\t0\n",
        ),
        (
            &["--security-opt", "label=disable"],
            "echo $$; grep Seccomp: /proc/self/status",
            "1\nSeccomp:\t2\n",
        ),
        (
            &["--security-opt", "systempaths=unconfined"],
            "grep -c ' /sys/firmware ' /proc/mounts || true; grep -c ' /proc/sys ' /proc/mounts || true",
            "0\n0\n",
        ),
        (
            &["--read-only", "--tmpfs", "/run:size=1m,mode=750,exec"],
            "touch /x 2>/dev/null || echo no; df -k /run | tail -1 | awk '{print $2}'; stat -c %a /run; grep -c ' /run .*noexec' /proc/mounts || true",
            "no\n1024\n750\n0\n",
        ),
        (
            &[
                "--tmpfs",
                "/root",
                "--mount",
                "type=tmpfs,dst=/etc,tmpfs-mode=711",
                "--tmpfs",
                "/new",
            ],
            "stat -c %a /root /etc /new",
            "700\n711\n1777\n",
        ),
        (
            &[
                "--add-host",
                "db:192.0.2.7",
                "--dns",
                "192.0.2.9",
                "--dns-search",
                "home",
                "--dns-option",
                "ndots:3",
            ],
            "grep db /etc/hosts; cat /etc/resolv.conf",
            "192.0.2.7\tdb\nnameserver 192.0.2.9\nsearch home\noptions ndots:3\n",
        ),
        (
            &[
                "--label",
                "a=b",
                "-e",
                "X=1",
                "-w",
                "/deep/down",
                "--runtime",
                "runc",
            ],
            "echo $X; pwd",
            "1\n/deep/down\n",
        ),
    ];
    for (flags, script, expected) in cases {
        let Some(text) = inside(&agent, flags, script) else {
            return;
        };
        assert_eq!(text, expected, "{flags:?}");
    }
}

#[test]
fn limits_are_in_the_control_group() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let read = |v1: &str, v2: &str| {
        format!("cat /sys/fs/cgroup/{v1} 2>/dev/null || cat /sys/fs/cgroup/{v2}")
    };
    let cases: [(&[&str], String, &[&str]); 5] = [
        (
            &["-m", "64m", "--memory-swap", "-1"],
            read("memory/memory.limit_in_bytes", "memory.max"),
            &["67108864"],
        ),
        (
            &["--memory-reservation", "32m"],
            read("memory/memory.soft_limit_in_bytes", "memory.low"),
            &["33554432"],
        ),
        (
            &["--pids-limit", "77"],
            read("pids/pids.max", "pids.max"),
            &["77"],
        ),
        (
            &["--cpus", "0.5"],
            read("cpu/cpu.cfs_quota_us", "cpu.max"),
            &["50000", "50000 100000"],
        ),
        (
            &["--cpuset-cpus", "0"],
            read("cpuset/cpuset.cpus", "cpuset.cpus"),
            &["0"],
        ),
    ];
    for (flags, script, expected) in cases {
        let Some(text) = inside(&agent, flags, &script) else {
            return;
        };
        assert!(expected.contains(&text.trim()), "{flags:?}: {text}");
    }
}

#[test]
fn what_cannot_be_is_refused_in_dockers_words() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let cases: [(&[&str], &str); 10] = [
        (
            &["--gpus", "all"],
            "could not select device driver \"\" with capabilities: [[gpu]]",
        ),
        (
            &["--storage-opt", "size=1g"],
            "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        ),
        (
            &["--log-driver", "syslog"],
            "logger: no log driver named 'syslog' is registered",
        ),
        (
            &["--log-opt", "colour=red"],
            "unknown log opt 'colour' for json-file log driver",
        ),
        (
            &["--log-opt", "compress=true"],
            "compress cannot be true when max-file is less than 2",
        ),
        (
            &["--runtime", "strange"],
            "unknown or invalid runtime name: strange",
        ),
        (
            &["--sysctl", "kernel.panic=1", "--privileged"],
            "kernel.panic",
        ),
        (&["--device", "/dev/no-such-device"], "no-such-device"),
        (&["--userns", "private"], "invalid USER mode"),
        (&["--ipc", "container:nobody"], "No such container: nobody"),
    ];
    for (flags, part) in cases {
        refused(&agent, flags, part);
    }
}

#[test]
fn namespaces_are_joined_with_their_shared_memory() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let Some(started) = docker(
        &agent,
        &[
            "run",
            "-d",
            "--name",
            "donor",
            "--ipc",
            "shareable",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "echo shared > /dev/shm/word; exec sleep 1000",
        ],
    ) else {
        return;
    };
    started.success();
    eventually("the word is there", Duration::from_secs(20), || {
        let look = ["exec", "donor", "cat", "/dev/shm/word"];
        (docker(&agent, &look)?.stdout == "shared\n").then_some(())
    });
    let script = "cat /dev/shm/word; echo back > /dev/shm/answer; readlink /proc/self/ns/ipc; ps | grep -c '[s]leep 1000'";
    let text = inside(
        &agent,
        &["--ipc", "container:donor", "--pid", "container:donor"],
        script,
    )
    .expect("there is docker");
    let lines: Vec<&str> = text.lines().collect();
    let theirs = docker(
        &agent,
        &[
            "exec",
            "donor",
            "sh",
            "-c",
            "readlink /proc/self/ns/ipc; cat /dev/shm/answer",
        ],
    )
    .expect("there is docker")
    .success();
    assert_eq!(theirs, format!("{}\nback\n", lines[1]));
    assert_eq!((lines[0], lines[2]), ("shared", "1"), "{text}");
    docker(
        &agent,
        &[
            "run",
            "-d",
            "--name",
            "alone",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ],
    );
    refused(&agent, &["--ipc", "container:alone"], "non-shareable IPC");
    // Nothing of it stays mounted on the host.
    docker(&agent, &["rm", "-f", "donor"])
        .expect("there is docker")
        .success();
    let root = agent.data_root();
    eventually("the memory is unmounted", Duration::from_secs(10), || {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let left = mounts.lines().any(|line| {
            line.contains("/mounts/shm") && line.contains(root.to_str().expect("plain"))
        });
        (!left).then_some(())
    });
}

#[test]
fn the_host_s_namespaces_are_the_host_s() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let link = |name: &str| {
        std::fs::read_link(format!("/proc/self/ns/{name}"))
            .expect("a namespace")
            .display()
            .to_string()
    };
    for (flag, name) in [
        ("--pid", "pid"),
        ("--ipc", "ipc"),
        ("--uts", "uts"),
        ("--cgroupns", "cgroup"),
        ("--network", "net"),
        ("--userns", "user"),
    ] {
        let flags = [flag, "host"];
        let mut words = vec!["run", "--rm"];
        words.extend(flags);
        let path = format!("/proc/self/ns/{name}");
        words.extend(["busybox", "readlink", &path]);
        let Some(output) = docker(&agent, &words) else {
            return;
        };
        assert_eq!(output.success().trim(), link(name), "{flags:?}");
    }
    // By default a container's own, on hosts of either version of control groups.
    let script = "readlink /proc/self/ns/cgroup; cut -d : -f 3 /proc/self/cgroup | sort -u";
    for flags in [&[][..], &["--cgroupns", "private"]] {
        let text = inside(&agent, flags, script).expect("there is docker");
        let (namespace, groups) = text.split_once('\n').expect("two lines");
        assert_ne!(namespace, link("cgroup"), "{flags:?}");
        assert_eq!(groups, "/\n", "{flags:?}");
    }
    let words = ["create", "--name", "web", "--userns", "host", "busybox"];
    docker(&agent, &words).expect("there is docker").success();
    let words = ["inspect", "-f", "{{.HostConfig.UsernsMode}}", "web"];
    let shown = docker(&agent, &words).expect("there is docker").success();
    assert_eq!(shown, "host\n");
}

#[test]
fn logs_are_read_over_rotation_and_compression() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    for (driver, options) in [
        (
            "json-file",
            &[
                "--log-opt",
                "max-size=10k",
                "--log-opt",
                "max-file=20",
                "--log-opt",
                "compress=true",
                "--log-opt",
                "tag={{.Name}}",
                "--log-opt",
                "labels=tier",
                "--label",
                "tier=web",
            ][..],
        ),
        (
            "local",
            &["--log-opt", "max-size=10k", "--log-opt", "max-file=20"],
        ),
    ] {
        let name = format!("log-{driver}");
        let mut words = vec![
            "run",
            "--name",
            &name,
            "--network",
            "none",
            "--log-driver",
            driver,
        ];
        words.extend(options);
        words.extend([
            "busybox",
            "sh",
            "-c",
            "i=0; while [ $i -lt 600 ]; do echo line number $i; i=$((i+1)); done",
        ]);
        let Some(ran) = docker(&agent, &words) else {
            return;
        };
        ran.success();
        let expected: String = (0..600)
            .map(|number| format!("line number {number}\n"))
            .collect();
        // The last rotated file may be being compressed.
        let all = docker(&agent, &["logs", &name])
            .expect("there is docker")
            .success();
        assert_eq!(all, expected, "{driver}");
        let tail = docker(&agent, &["logs", "--tail", "300", &name])
            .expect("there is docker")
            .success();
        assert_eq!(tail.lines().count(), 300, "{driver}");
        assert!(
            tail.starts_with("line number 300\n"),
            "{driver}: {tail:.40}"
        );
        let follow = docker(&agent, &["logs", "-f", "--since", "1h", &name])
            .expect("there is docker")
            .success();
        assert_eq!(follow, expected, "{driver}");
        if driver == "json-file" {
            let id = agent.run(&["inspect", "-f", "{{.Id}}", &name]).success();
            let folder = agent.data_root().join("containers").join(id.trim());
            let rotated = eventually("rotated files are compressed", LIMIT, || {
                let names = fs::read_dir(&folder).expect("there").flatten();
                let names = names.filter_map(|entry| entry.file_name().into_string().ok());
                let names: Vec<String> = names.filter(|name| name.contains("-json.log.")).collect();
                names
                    .iter()
                    .all(|name| name.ends_with(".gz"))
                    .then_some(names)
            });
            assert!(rotated.len() >= 3, "{rotated:?}");
            let details = docker(&agent, &["logs", "--details", "--tail", "1", &name])
                .expect("there is docker")
                .success();
            assert_eq!(details, format!("tag={name},tier=web line number 599\n"));
        }
        let none = docker(&agent, &["logs", "--until", "2001-01-01T00:00:00Z", &name])
            .expect("there is docker")
            .success();
        assert_eq!(none, "");
    }
    docker(
        &agent,
        &[
            "run",
            "--name",
            "silent",
            "--network",
            "none",
            "--log-driver",
            "none",
            "busybox",
            "echo",
            "x",
        ],
    );
    let text = docker(&agent, &["logs", "silent"])
        .expect("there is docker")
        .fails_with(1);
    assert!(
        text.contains("configured logging driver does not support reading"),
        "{text}"
    );
}

#[test]
fn other_runtimes_run_containers_that_ask_for_them() {
    let programs: Vec<(&str, std::path::PathBuf)> = ["runc", "crun"]
        .into_iter()
        .filter_map(|name| Some((name, harness::programs::find(name)?)))
        .collect();
    if programs.is_empty() {
        println!("skipped: there is neither runc nor crun here");
        return;
    }
    let flags: Vec<String> = programs
        .iter()
        .map(|(name, path)| format!("--add-runtime=other-{name}={}", path.display()))
        .collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let Some(agent) = engine_with_busybox(&flags) else {
        return;
    };
    for (program, path) in programs {
        let runtime = format!("other-{program}");
        let name = format!("by-{program}");
        let Some(ran) = docker(
            &agent,
            &[
                "run",
                "-d",
                "--name",
                &name,
                "--runtime",
                &runtime,
                "--network",
                "none",
                "busybox",
                "sleep",
                "1000",
            ],
        ) else {
            return;
        };
        ran.success();
        let look = |words: &[&str]| docker(&agent, words).expect("there is docker");
        assert_eq!(
            look(&[
                "exec",
                &name,
                "sh",
                "-c",
                "echo $((6*7)); grep Seccomp: /proc/self/status"
            ])
            .success(),
            "42\nSeccomp:\t2\n"
        );
        assert_eq!(look(&["exec", &name, "sh", "-c", "exit 9"]).code, Some(9));
        assert_eq!(
            look(&["inspect", "-f", "{{.HostConfig.Runtime}}", &name])
                .success()
                .trim(),
            runtime
        );
        assert_eq!(
            look(&["inspect", "-f", "{{.State.Status}}", &name])
                .success()
                .trim(),
            "running",
            "{}",
            path.display()
        );
        look(&["stop", "-t", "0", &name]).success();
        assert_eq!(
            look(&["inspect", "-f", "{{.State.ExitCode}}", &name])
                .success()
                .trim(),
            "137"
        );
        look(&["rm", &name]).success();
        let missing = look(&[
            "run",
            "--rm",
            "--runtime",
            &runtime,
            "--network",
            "none",
            "busybox",
            "no-such-program",
        ]);
        assert_eq!(missing.code, Some(127), "{}", missing.report());
    }
}

#[test]
fn a_device_may_be_used_as_far_as_it_was_given() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    // The kernel's log is on every host; who reads it needs a right of its own.
    let syslog = ["--cap-add", "SYSLOG"];
    let names = ["/dev/kmsg", "/dev/net/tun", "/dev/fuse"];
    let Some(name) = names.into_iter().find(|name| {
        std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(name)
            .is_ok()
    }) else {
        println!("skipped: this host has no device that a test may open");
        return;
    };
    let script = "( : < /dev/mine ) 2>/dev/null && echo read; ( : >> /dev/mine ) 2>/dev/null && echo write; true";
    for (permissions, expected) in [("r", "read\n"), ("w", "write\n"), ("rwm", "read\nwrite\n")] {
        let device = format!("{name}:/dev/mine:{permissions}");
        let Some(text) = inside(
            &agent,
            &[&syslog[..], &["--device", &device]].concat(),
            script,
        ) else {
            return;
        };
        assert_eq!(text, expected, "{device}");
    }
    let facts =
        std::os::unix::fs::MetadataExt::rdev(&std::fs::metadata(name).expect("it is there"));
    let (major, minor) = (
        (facts >> 8) & 0xfff,
        (facts & 0xff) | ((facts >> 12) & 0xfff00),
    );
    let script =
        format!("mknod /mine c {major} {minor}; ( : < /mine ) 2>/dev/null && echo read; true");
    let rule = format!("c {major}:* rm");
    assert_eq!(inside(&agent, &syslog, &script).as_deref(), Some(""));
    let flags = [&syslog[..], &["--device-cgroup-rule", &rule]].concat();
    assert_eq!(inside(&agent, &flags, &script).as_deref(), Some("read\n"));
    assert_eq!(
        inside(&agent, &["--privileged"], &script).as_deref(),
        Some("read\n")
    );
}
