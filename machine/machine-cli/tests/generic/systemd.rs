//! A host that systemd has booted: Debian's own, as process 1 of namespaces and control groups of its own.

use crate::host::{self, Host, Init, run};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn said(host: &Host, line: &str) -> String {
    let output = host.on(line);
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn engine(host: &Host) -> String {
    said(host, "systemctl show --value --property MainPID berth")
}

/// What Docker's own client prints, over mutual TLS.
fn ask(host: &Host, line: &str) -> String {
    let config = run(&mut host.machine("store", "config dev"));
    let mut docker = Command::new("docker");
    for flag in config.lines() {
        docker.arg(flag.replace('"', ""));
    }
    run(docker.args(line.split(' ')).stdin(Stdio::null()))
        .trim()
        .to_owned()
}

#[test]
fn systemd_keeps_the_engine_and_containers_outlive_it() {
    let Some(host) = host::start_with(Init::Systemd) else {
        return;
    };
    let deadline = Instant::now() + Duration::from_secs(120);
    while !host.on("systemctl is-system-running").status.success() {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            host.on("systemctl list-jobs; systemctl --failed")
        );
        std::thread::sleep(Duration::from_millis(200));
    }

    let made = run(&mut host.machine("store", &host.create("dev")));
    assert!(made.contains("Docker is up and running!"), "{made}");
    assert_eq!(said(&host, "systemctl is-active berth"), "active");
    assert_eq!(said(&host, "systemctl is-enabled berth"), "enabled");
    let first = engine(&host);

    // New certificates come without a new engine.
    run(&mut host.machine("store", "regenerate-certs -f dev"));
    assert_eq!(engine(&host), first);
    said(&host, "systemctl reload berth");
    assert_eq!(engine(&host), first);

    // Containers go on while the engine is replaced, stopped by its service, or killed.
    let container = Command::new("docker")
        .arg("--version")
        .output()
        .is_ok()
        .then(|| {
            let busybox = host.file("/tmp/bin");
            std::fs::create_dir_all(&busybox).unwrap();
            std::fs::copy("/bin/busybox", busybox.join("busybox")).unwrap();
            let tar = host.folder.path().join("busybox.tar");
            run(Command::new("tar")
                .arg("-C")
                .arg(host.file("/tmp"))
                .arg("-cf")
                .arg(&tar)
                .arg("bin"));
            ask(&host, &format!("import {} busybox:1", tar.display()));
            let id = ask(
                &host,
                "run -d --network none busybox:1 /bin/busybox sleep 1000",
            );
            let pid = ask(&host, &format!("inspect -f {{{{.State.Pid}}}} {id}"));
            (id, pid)
        });
    run(&mut host.machine("store", "provision dev"));
    let second = engine(&host);
    assert_ne!(second, first);
    said(&host, &format!("kill -9 {second}"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while [second.as_str(), "0", ""].contains(&engine(&host).as_str())
        || !host.on("systemctl is-active berth").status.success()
    {
        assert!(Instant::now() < deadline, "nobody starts it again");
        std::thread::sleep(Duration::from_millis(100));
    }
    if let Some((id, pid)) = container {
        let now = ask(&host, &format!("inspect -f {{{{.State.Pid}}}} {id}"));
        assert_eq!(now, pid, "the container is another one");
        said(&host, "systemctl stop berth");
        said(&host, &format!("kill -0 {pid}"));
        said(&host, "systemctl start berth");
        ask(&host, &format!("rm -f {id}"));
    }
    said(&host, "systemctl stop berth");
    assert_eq!(engine(&host), "0");
}
