//! What a container may not: looked at from inside, from the first container on.

use crate::engine_with_busybox;

#[test]
fn a_container_has_docker_s_capabilities_and_a_seccomp_filter() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let status = agent
        .run(&["run", "--rm", "busybox", "cat", "/proc/self/status"])
        .success();
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_whitespace().nth(1).expect("a value").to_owned()
    };
    // chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod
    // audit_write setfcap: moby's default list.
    assert_eq!(field("CapEff:"), "00000000a80425fb");
    assert_eq!(field("CapBnd:"), "00000000a80425fb");
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("NoNewPrivs:"), "0");
}

#[test]
fn forbidden_system_calls_are_refused() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    for command in [
        "unshare -U true",
        "mount -t tmpfs none /tmp",
        "hostname other",
        "mknod /tmp/disk b 8 0 && cat /tmp/disk",
    ] {
        let output = agent.run(&["run", "--rm", "busybox", "sh", "-c", command]);
        assert_ne!(output.code, Some(0), "{command}: {}", output.report());
        assert!(
            output.stderr.contains("not permitted") || output.stderr.contains("permission denied"),
            "{command}: {}",
            output.report()
        );
    }
    let text = agent.run(&[
        "run",
        "--rm",
        "--privileged",
        "busybox",
        "mount",
        "-t",
        "tmpfs",
        "none",
        "/tmp",
    ]);
    assert_eq!(text.code, Some(0), "{}", text.report());
}

#[test]
fn kernel_files_are_masked_or_read_only() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let output = agent.run(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; echo 1 > /proc/sys/kernel/hostname",
    ]);
    assert_eq!(output.stdout, "0\n0\n", "{}", output.report());
    assert!(
        output.stderr.contains("Read-only file system"),
        "{}",
        output.report()
    );
}

#[test]
fn devices_are_the_few_that_docker_gives() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let listed = agent
        .run(&["run", "--rm", "busybox", "ls", "/dev"])
        .success();
    let mut names: Vec<&str> = listed.split_whitespace().collect();
    names.sort_unstable();
    // There only where the host's kernel has /proc/kcore.
    names.retain(|name| *name != "core");
    let expected = [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin",
        "stdout", "tty", "urandom", "zero",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_container_sees_only_itself() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let listed = agent
        .run(&[
            "run",
            "--rm",
            "--hostname",
            "inside",
            "busybox",
            "sh",
            "-c",
            "hostname; echo $$; ls /proc | grep -c '^[0-9]'",
        ])
        .success();
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines[..2], ["inside", "1"]);
    assert!(lines[2].parse::<u32>().expect("a number") <= 4, "{listed}");
}

#[test]
fn users_are_looked_up_in_the_image() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let id = |user: &str| {
        agent
            .run(&["run", "--rm", "-u", user, "busybox", "id"])
            .success()
    };
    assert!(
        id("ada").starts_with("uid=1000(ada) gid=1000(ada)"),
        "{}",
        id("ada")
    );
    assert!(
        id("1234:50").starts_with("uid=1234 gid=50(staff)"),
        "{}",
        id("1234:50")
    );
    let text = agent.run(&["run", "--rm", "-u", "nobody-here", "busybox", "id"]);
    assert_ne!(text.code, Some(0));
    assert!(
        text.stderr.contains("unable to find user nobody-here"),
        "{}",
        text.report()
    );
}

#[test]
fn limits_are_the_kernel_s() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let script = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
    let limit = agent
        .run(&["run", "--rm", "-m", "64m", "busybox", "sh", "-c", script])
        .success();
    assert_eq!(limit.trim(), (64 << 20).to_string());
    let output = agent.run(&[
        "run",
        "--rm",
        "-m",
        "16m",
        "busybox",
        "sh",
        "-c",
        "head -c 64m /dev/zero | tail -c 64m | wc -c",
    ]);
    assert_ne!(
        output.stdout.trim(),
        (64 << 20).to_string(),
        "{}",
        output.report()
    );
}
