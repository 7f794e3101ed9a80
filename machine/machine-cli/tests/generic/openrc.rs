//! A host whose services OpenRC keeps: Debian's own openrc package, in a system that counts as booted.

use crate::host::{self, Host, run};
use std::time::{Duration, Instant};

/// The engine's process, and not the one that supervises it.
fn engine(host: &Host) -> Option<String> {
    let found = host.on("pgrep -x host-agent");
    let text = String::from_utf8(found.stdout).unwrap();
    text.lines().next().map(str::to_owned)
}

#[test]
fn openrc_keeps_the_engine() {
    let Some(host) = host::start() else { return };
    // What `openrc default` leaves at a boot: detection and rc-service look for it.
    for state in [
        "starting",
        "started",
        "stopping",
        "inactive",
        "wasinactive",
        "failed",
        "hotplugged",
        "daemons",
        "options",
        "exclusive",
        "scheduled",
        "tmp",
    ] {
        std::fs::create_dir_all(host.file("/run/openrc").join(state)).unwrap();
    }
    std::fs::write(host.file("/run/openrc/softlevel"), "default").unwrap();

    let made = run(&mut host.machine("store", &host.create("dev")));
    assert!(made.contains("Docker is up and running!"), "{made}");
    assert!(!made.contains("neither systemd nor OpenRC"), "{made}");
    let status = host.on("rc-service berth status");
    assert!(status.status.success(), "{status:?}");
    // It starts at the next boot, too.
    let level = host.on("rc-update show default");
    let level = String::from_utf8(level.stdout).unwrap();
    assert!(level.contains("berth"), "{level}");

    // Installed once more it is another process, and certificates come without one.
    let first = engine(&host).unwrap();
    run(&mut host.machine("store", "regenerate-certs -f dev"));
    assert_eq!(engine(&host).as_deref(), Some(first.as_str()));
    run(&mut host.machine("store", "provision dev"));
    let second = engine(&host).unwrap();
    assert_ne!(second, first);

    // An engine that dies is started again.
    assert!(host.on(&format!("kill -9 {second}")).status.success());
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine(&host).is_none_or(|pid| pid == second) {
        assert!(Instant::now() < deadline, "nobody starts it again");
        std::thread::sleep(Duration::from_millis(100));
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    while !host
        .machine("store", "config dev")
        .output()
        .unwrap()
        .status
        .success()
    {
        assert!(Instant::now() < deadline, "it does not answer");
        std::thread::sleep(Duration::from_millis(200));
    }
    let stopped = host.on("rc-service berth stop");
    assert!(stopped.status.success(), "{stopped:?}");
    assert_eq!(engine(&host), None);
}
