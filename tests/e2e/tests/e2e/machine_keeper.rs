//! The keeper of a machine is killed; the machine and its containers go on, and the next verb gives it another keeper.

use crate::{busybox_archive, fetch};
use harness::machine::Store;
use harness::programs;
use harness::run::{eventually, run_with_input};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

fn record(store: &Store) -> serde_json::Value {
    let text = std::fs::read(store.folder_of("dev").join("keeper.json")).expect("keeper.json");
    serde_json::from_slice(&text).expect("JSON")
}

fn kill_keeper(store: &Store) {
    let pid = record(store)["keeper"]["pid"].to_string();
    let killed = Command::new("sh")
        .args(["-c", &format!("kill -9 {pid}")])
        .status();
    assert!(killed.expect("kill runs").success());
    eventually("the keeper is gone", PATIENCE, || {
        let processes = store.processes();
        let keepers = processes.iter().filter(|line| line.contains(" keeper "));
        (keepers.count() == 0).then_some(())
    });
}

#[test]
fn a_killed_keeper_is_replaced() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    let work = tempfile::tempdir().expect("a folder");
    let path = work.path().display().to_string();
    std::fs::write(work.path().join("note"), "kept\n").expect("a file");
    let created = store.create("dev", &["--mount", &path]);
    assert_eq!(created.code, Some(0), "{}", created.report());
    let address = store.run(&["ip", "dev"]).success().trim().to_owned();
    let boot = || {
        let line = "cat /proc/sys/kernel/random/boot_id";
        store.run(&["ssh", "dev", line]).success()
    };
    let first_boot = boot();
    let archive = busybox_archive("busybox:latest");
    let mut load = store.client(&programs::program("berth"), "dev", &["load"]);
    run_with_input(&mut load, &archive, harness::machine::LIMIT).success();
    let serve = |name: &str, port: &str| {
        let server = "echo still here > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
        let line = [
            "run", "-d", "--name", name, "-p", port, "busybox", "sh", "-c", server,
        ];
        store.berth("dev", &line).success();
    };
    let answers = |port: u16| {
        eventually("the port answers", PATIENCE, || {
            fetch(&format!("{address}:{port}")).filter(|answer| answer.ends_with("still here\n"))
        });
    };
    serve("web", "8080:80");
    answers(8080);

    // It holds a shared folder when the keeper is killed, and needs longer for its end than a guest may be silent.
    let slow =
        "trap 'sleep 33; echo orderly > /src/last; exit 0' TERM; while :; do sleep 0.2; done";
    let bind = format!("{path}:/src");
    let line = ["run", "-d", "--name", "slow", "--stop-timeout", "120"];
    let line = [&line[..], &["-v", &bind, "busybox", "sh", "-c", slow]].concat();
    store.berth("dev", &line).success();

    let before = record(&store);
    kill_keeper(&store);
    // Nobody keeps it, and everything goes on.
    answers(8080);
    assert_eq!(store.run(&["status", "dev"]).success(), "Running\n");
    let after = record(&store);
    assert_eq!(before["vm"], after["vm"]);
    assert_ne!(before["keeper"], after["keeper"]);
    assert_eq!(boot(), first_boot);
    // What a keeper is for: ports come and go again, folders are shared, the clock is set.
    serve("late", "8081:80");
    answers(8081);
    answers(8080);
    store.berth("dev", &["rm", "-f", "web"]).success();
    eventually("the port is gone", PATIENCE, || {
        TcpStream::connect((address.as_str(), 8080)).err()
    });
    let script = "cat /src/note; echo back > /src/answer";
    let line = ["run", "--rm", "-v", &bind, "busybox", "sh", "-c", script];
    assert_eq!(store.berth("dev", &line).success(), "kept\n");
    let answer = std::fs::read_to_string(work.path().join("answer"));
    assert_eq!(answer.expect("the answer"), "back\n");
    store
        .run(&["ssh", "dev", "date -s 2001-01-01 >/dev/null"])
        .success();

    // Two verbs at once give it one keeper; suspending and an orderly end work as with the first.
    kill_keeper(&store);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| assert_eq!(store.run(&["status", "dev"]).success(), "Running\n"));
        }
    });
    let keepers = store.processes();
    let keepers = keepers.iter().filter(|line| line.contains(" keeper "));
    assert_eq!(keepers.count(), 1);
    eventually("the clock is right", PATIENCE, || {
        let year = store.run(&["ssh", "dev", "date +%Y"]).success();
        (year != "2001\n").then_some(())
    });
    // Started again it sees the folder as if nothing had been.
    store
        .berth("dev", &["restart", "-t", "1", "slow"])
        .success();
    let seen = store.berth("dev", &["exec", "slow", "cat", "/src/note"]);
    assert_eq!(seen.success(), "kept\n");
    store.run(&["suspend", "dev"]).success();
    assert_eq!(store.run(&["status", "dev"]).success(), "Saved\n");
    store.run(&["resume", "dev"]).success();
    assert_eq!(boot(), first_boot);
    store
        .berth("dev", &["restart", "-t", "1", "slow"])
        .success();
    let held = store.run(&["status", "dev"]).success();
    assert_eq!(held, "Running\n");
    store.run(&["stop", "dev"]).success();
    assert_eq!(store.run(&["status", "dev"]).success(), "Stopped\n");
    // The guest was not cut off while a container took the time it has.
    let last = std::fs::read_to_string(work.path().join("last"));
    assert_eq!(last.expect("the container's last words"), "orderly\n");
    let again = store.run(&["stop", "dev"]).fails_with(1);
    assert!(again.contains("is already stopped"), "{again}");
    let console = std::fs::read_to_string(store.folder_of("dev").join("console.log"));
    assert!(console.expect("the console").contains("init: power off"));
    eventually("every process is gone", PATIENCE, || {
        store.processes().is_empty().then_some(())
    });
    store.run(&["rm", "-y", "dev"]).success();
}
