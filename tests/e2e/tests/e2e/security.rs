//! A container may no more than one of dockerd's; known ways out of containers lead nowhere.

use crate::{busybox_archive, engine_with_busybox};
use harness::agent::LIMIT;
use harness::dockerd::Dockerd;
use harness::namespace::Namespace;
use harness::programs::find;
use harness::run::{run, run_with_input};
use std::collections::BTreeSet;
use std::process::Command;

/// Tells what a container has and may: capabilities, devices, what it can read of masked paths, what it can write.
const PROBE: &str = r#"
grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status
for n in $(ls /dev); do echo "dev $n"; done
for p in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap /sys/firmware; do if [ -d $p ]; then [ -n "$(ls $p)" ] && echo "readable $p"; elif [ -e $p ]; then [ -n "$(head -c 1 $p 2>/dev/null | wc -c | grep -v '^0')" ] && echo "readable $p"; fi; done
for p in /proc/bus /proc/fs /proc/irq /proc/sys /sys /sys/fs/cgroup /sys/kernel /sys/module; do [ -d $p ] && mkdir $p/berth-probe 2>/dev/null && echo "writable $p"; done
find /proc/sys /sys/kernel /sys/module /sys/fs/cgroup -maxdepth 3 -type f 2>/dev/null | while read f; do ( : >> "$f" ) 2>/dev/null && echo "writable $f"; done
for f in $(ls /proc | grep -v "^[0-9]"); do [ -f /proc/$f ] && ( : >> /proc/$f ) 2>/dev/null && echo "writable /proc/$f"; done
for d in "c 1 1" "c 1 11" "c 10 200" "c 10 229" "c 10 232" "b 7 0" "b 8 0" "b 254 0" "c 4 0"; do mknod /tmp/n $d 2>/dev/null && { head -c 1 /tmp/n >/dev/null 2>/tmp/e; grep -q 'not permitted' /tmp/e || echo "device $d"; rm /tmp/n; }; done
mount -t tmpfs x /tmp 2>/dev/null && echo "may mount"
unshare -m true 2>/dev/null && echo "may unshare"
unshare -U true 2>/dev/null && echo "may unshare user"
hostname x 2>/dev/null && echo "may sethostname"
chroot / true 2>/dev/null && echo "may chroot"
true
"#;

/// The probe in a container of which nothing else is asked.
const PROBING: [&str; 8] = [
    "run",
    "--rm",
    "--network",
    "none",
    "busybox",
    "sh",
    "-c",
    PROBE,
];

/// What the probe said in a container of dockerd 20.10.24 (Debian 12, network none, nothing else asked).
const OF_DOCKERD: &str = "\
CapInh:	0000000000000000
CapPrm:	00000000a80425fb
CapEff:	00000000a80425fb
CapBnd:	00000000a80425fb
CapAmb:	0000000000000000
NoNewPrivs:	0
Seccomp:	2
dev fd
dev full
dev mqueue
dev null
dev ptmx
dev pts
dev random
dev shm
dev stderr
dev stdin
dev stdout
dev tty
dev urandom
dev zero
readable /proc/interrupts
writable /sys/fs/cgroup
writable /proc/buddyinfo
writable /proc/cgroups
writable /proc/cmdline
writable /proc/config.gz
writable /proc/consoles
writable /proc/cpuinfo
writable /proc/crypto
writable /proc/devices
writable /proc/diskstats
writable /proc/dma
writable /proc/execdomains
writable /proc/filesystems
writable /proc/interrupts
writable /proc/iomem
writable /proc/ioports
writable /proc/kallsyms
writable /proc/key-users
writable /proc/kpagecgroup
writable /proc/kpagecount
writable /proc/kpageflags
writable /proc/loadavg
writable /proc/locks
writable /proc/meminfo
writable /proc/misc
writable /proc/mounts
writable /proc/pagetypeinfo
writable /proc/partitions
writable /proc/slabinfo
writable /proc/softirqs
writable /proc/stat
writable /proc/swaps
writable /proc/uptime
writable /proc/version
writable /proc/vmallocinfo
writable /proc/vmstat
writable /proc/zoneinfo
device c 10 200
may chroot
";

/// Sets of capabilities and the like must be the same; of everything else there may be less.
#[track_caller]
fn compare(ours: &str, theirs: &str) {
    let exact = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains('\t'));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(exact(ours), exact(theirs));
    let theirs: BTreeSet<&str> = theirs.lines().collect();
    // /dev/core is a link that libcontainer makes where the kernel has /proc/kcore, which is masked.
    let more: Vec<&str> = ours
        .lines()
        .filter(|line| !theirs.contains(line) && *line != "dev core")
        .collect();
    assert!(more.is_empty(), "dockerd's containers cannot: {more:#?}");
}

#[test]
fn a_container_may_no_more_than_dockerds() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let ours = agent.run(&PROBING).success();
    assert!(
        ours.contains("may chroot") && ours.contains("dev null"),
        "the probe works: {ours}"
    );
    compare(&ours, OF_DOCKERD);
    let unconfined = agent.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        "--privileged",
        "busybox",
        "sh",
        "-c",
        "unshare -m true && echo may unshare",
    ]);
    assert_eq!(
        unconfined.success(),
        "may unshare\n",
        "the probe can find more"
    );
}

/// Which system calls a container may make, one by one.
const SYSTEM_CALLS: &str = include_str!("system_calls.py");

/// What ours may and one of dockerd 20.10 may not: calls by their numbers on x86-64 and on arm64, and why.
const NEWER: [(u32, u32, &str); 19] = [
    (
        303,
        264,
        "name_to_handle_at: allowed since Docker 25; opening such a handle is not",
    ),
    (310, 270, "process_vm_readv: as ptrace, since Docker 23"),
    (311, 271, "process_vm_writev: as ptrace, since Docker 23"),
    (
        329,
        288,
        "pkey_mprotect: a process's own memory; since Docker 23",
    ),
    (330, 289, "pkey_alloc: as pkey_mprotect"),
    (331, 290, "pkey_free: as pkey_mprotect"),
    (451, 451, "cachestat: newer than dockerd 20.10"),
    (452, 452, "fchmodat2: newer than dockerd 20.10"),
    (453, 453, "map_shadow_stack: newer than dockerd 20.10"),
    (454, 454, "futex_wake: newer than dockerd 20.10"),
    (455, 455, "futex_wait: newer than dockerd 20.10"),
    (456, 456, "futex_requeue: newer than dockerd 20.10"),
    (
        457,
        457,
        "statmount: what /proc/self/mountinfo tells; newer than dockerd 20.10",
    ),
    (458, 458, "listmount: as statmount"),
    (462, 462, "mseal: newer than dockerd 20.10"),
    (
        463,
        463,
        "setxattrat: as setxattr; newer than dockerd 20.10",
    ),
    (
        464,
        464,
        "getxattrat: as getxattr; newer than dockerd 20.10",
    ),
    (
        465,
        465,
        "listxattrat: as listxattr; newer than dockerd 20.10",
    ),
    (
        466,
        466,
        "removexattrat: as removexattr; newer than dockerd 20.10",
    ),
];

/// Runs both probes in containers of a dockerd that is here now; `None`, with a line, where there is none.
fn dockerd_says(calls: bool) -> Option<(String, String)> {
    let docker = find("docker").filter(|_| find("dockerd").is_some());
    let Some(docker) = docker else {
        println!("skipped: there is no dockerd here; compared with what one said");
        return None;
    };
    let namespace = Namespace::create().expect("a namespace");
    let dockerd = match Dockerd::start(&namespace, &["--iptables=false"]) {
        Ok(dockerd) => dockerd,
        Err(error) => {
            println!("skipped: dockerd does not run here: {error:#}");
            return None;
        }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let client = |arguments: &[&str]| {
        let mut command = Command::new(&docker);
        command
            .env(
                "DOCKER_HOST",
                format!("unix://{}", dockerd.socket().display()),
            )
            .env("DOCKER_CONFIG", folder.path())
            .args(arguments);
        command
    };
    let archive = busybox_archive("busybox:latest");
    run_with_input(&mut client(&["load"]), &archive, LIMIT).success();
    let probed = run(&mut client(&PROBING), LIMIT).success();
    let calls = calls.then(|| run(&mut client(&CALLS), LIMIT).success());
    Some((probed, calls.unwrap_or_default()))
}

/// A container whose processes have the host's Python; the filter goes with them.
const CALLS: [&str; 14] = [
    "run",
    "--rm",
    "--network",
    "none",
    "--mount",
    "type=bind,source=/,target=/host,readonly,bind-nonrecursive",
    "busybox",
    "chroot",
    "/host",
    "python3",
    "-I",
    "-S",
    "-c",
    SYSTEM_CALLS,
];

#[test]
fn beside_dockerds_own_container_ours_may_no_more_call_by_call() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let python = find("python3").is_some_and(|path| path.starts_with("/usr/bin"));
    if !python {
        println!("skipped: there is no python3 in /usr/bin to try system calls with");
    }
    let Some((probed, theirs)) = dockerd_says(python) else {
        return;
    };
    compare(&agent.run(&PROBING).success(), &probed);
    let Some(mut command) = python.then(|| agent.docker(&CALLS)).flatten() else {
        return;
    };
    let ours = run(&mut command, LIMIT).success();
    let may = |text: &str| -> BTreeSet<String> { text.lines().map(str::to_owned).collect() };
    let (ours, theirs) = (may(&ours), may(&theirs));
    // What every program needs, and what none may.
    for (all, open) in [(&ours, "personality 0x0"), (&theirs, "socket 1")] {
        assert!(
            all.len() > 200 && all.contains(open),
            "the probe works: {all:?}"
        );
        assert!(!all.contains("unshare 0x10000000"), "{all:?}");
    }
    let intel = cfg!(target_arch = "x86_64");
    let newer: BTreeSet<String> = NEWER
        .iter()
        .map(|(on_intel, on_arm, _why)| if intel { on_intel } else { on_arm })
        .map(|number| format!("call {number}"))
        .collect();
    let more: Vec<&String> = ours
        .difference(&theirs)
        .filter(|line| !newer.contains(*line))
        .collect();
    assert!(more.is_empty(), "dockerd's containers may not: {more:?}");
}

#[test]
fn the_agents_program_cannot_be_reached_from_a_container() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let program = harness::programs::program("host-agent");
    let before = harness::image::digest(&std::fs::read(&program).expect("the program"));
    // CVE-2019-5736: whoever enters the container must not show its program.
    let watch = "while :; do for p in /proc/[0-9]*; do l=$(readlink $p/exe 2>/dev/null); case \"$l\" in ''|/bin/*) ;; *) echo \"seen $l\"; ( : >> $p/exe ) 2>/dev/null && echo WRITABLE;; esac; done; done";
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "watcher",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            watch,
        ])
        .success();
    for _ in 0..15 {
        agent.run(&["exec", "watcher", "true"]).success();
    }
    let script = "printf '#!/proc/self/exe\\n' > /x; chmod 755 /x; echo made";
    agent
        .run(&["exec", "watcher", "sh", "-c", script])
        .success();
    let output = agent.run(&["exec", "watcher", "/x"]);
    assert_ne!(output.code, Some(0), "{}", output.report());
    let seen = agent.run(&["logs", "watcher"]).success();
    assert_eq!(seen, "", "a program of the host was seen");
    let after = harness::image::digest(&std::fs::read(&program).expect("the program"));
    assert_eq!(before, after);
}

#[test]
fn no_descriptor_leads_out_of_a_container() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    // CVE-2024-21626: a working directory behind a leaked descriptor of the host.
    let marker = agent.folder().join("marker");
    std::fs::write(&marker, "host").expect("a file");
    let look = format!(
        "pwd; ls /proc/self/fd; d=.; for i in 1 2 3 4 5 6 7 8; do [ -e $d{} ] && echo ESCAPED; d=$d/..; done; true",
        marker.display()
    );
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "box",
            "--network",
            "none",
            "busybox",
            "sleep",
            "1000",
        ])
        .success();
    for number in 0..24 {
        for kind in ["/proc/self/fd", "/proc/thread-self/fd", "/proc/1/fd"] {
            if kind != "/proc/self/fd" && number > 9 {
                continue;
            }
            let folder = format!("{kind}/{number}");
            let words: [&[&str]; 2] = [
                &[
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    "-w",
                    &folder,
                    "busybox",
                    "sh",
                    "-c",
                    &look,
                ],
                &["exec", "-w", &folder, "box", "sh", "-c", &look],
            ];
            for words in &words[usize::from(number > 9)..] {
                let output = agent.run(words);
                assert!(!output.stdout.contains("ESCAPED"), "{}", output.report());
            }
        }
    }
    // What a process has open is its own: three streams and the folder that `ls` reads.
    for words in [
        &["run", "--rm", "--network", "none", "busybox"][..],
        &["exec", "box"],
    ] {
        let mut words = words.to_vec();
        words.extend(["ls", "/proc/self/fd"]);
        assert_eq!(agent.run(&words).success(), "0\n1\n2\n3\n");
    }
}

#[test]
fn devices_of_a_volume_do_not_unmask_anything() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    // CVE-2025-31133 and 52565: links where the runtime expects /dev/null, /dev/console, /dev/pts.
    let target = "/proc/sys/kernel/core_pattern";
    let core = std::fs::read_to_string(target).unwrap_or_default();
    let fill = format!("for n in null console ptmx pts zero tty; do ln -s {target} /v/$n; done");
    agent
        .run(&[
            "run",
            "--rm",
            "--network",
            "none",
            "-v",
            "tricks:/v",
            "busybox",
            "sh",
            "-c",
            &fill,
        ])
        .success();
    let look = "for f in /proc/sys/kernel/core_pattern /proc/keys /proc/timer_list /dev/console; do echo '|/tricked' 2>/dev/null >> $f && echo \"WROTE $f\"; done; true";
    for terminal in [&[][..], &["-t"]] {
        let mut words = vec!["run", "--rm", "--network", "none", "-v", "tricks:/dev"];
        words.extend(terminal);
        words.extend(["busybox", "sh", "-c", look]);
        let output = agent.run(&words);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(!text.contains("WROTE /proc"), "{}", output.report());
        assert_eq!(
            std::fs::read_to_string(target).unwrap_or_default(),
            core,
            "the host's setting was changed"
        );
    }
}

#[test]
fn nothing_is_mounted_over_the_kernels_files() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    // CVE-2025-52881: what the runtime writes to /proc must reach /proc.
    for target in [
        "/proc",
        "/proc/self",
        "/proc/self/attr",
        "/proc/sys",
        "/proc/1",
        "/proc/sys/../self",
    ] {
        for flag in [
            format!("--tmpfs={target}"),
            format!("--volume=trick:{target}"),
        ] {
            let output = agent.run(&["run", "--rm", "--network", "none", &flag, "busybox", "true"]);
            assert_ne!(output.code, Some(0), "{}", output.report());
            assert!(output.stderr.contains("/proc"), "{}", output.report());
        }
    }
    // What programs such as lxcfs put there is allowed.
    let output = agent.run(&[
        "run",
        "--rm",
        "--network",
        "none",
        "-v",
        "/proc/uptime:/proc/uptime:ro",
        "busybox",
        "cat",
        "/proc/uptime",
    ]);
    output.success();
}

#[test]
fn links_in_an_image_do_not_lead_mounts_out_of_it() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let outside = agent.folder().join("outside");
    std::fs::create_dir(&outside).expect("a folder");
    // The folder a mount goes to becomes a link between two starts; the link leads to the same name inside.
    let script = format!(
        "if [ -e /done ]; then grep -c ' {0}/deep ' /proc/mounts; exit; fi; \
         touch /done; mkdir -p {0}; mv /place /old; ln -s {0} /place",
        outside.display()
    );
    let words = [
        "run",
        "--name",
        "swap",
        "--network",
        "none",
        "-v",
        "data:/place/deep",
    ];
    let words = [&words[..], &["busybox", "sh", "-c", &script]].concat();
    agent.run(&words).success();
    let output = agent.run(&["start", "-a", "swap"]);
    assert_eq!(output.clone().success(), "1\n", "it is mounted inside");
    let count = std::fs::read_dir(&outside).expect("it is there").count();
    assert_eq!(count, 0, "{}", output.report());
}
