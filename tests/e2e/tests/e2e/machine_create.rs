//! `machine create` when it goes wrong half-way, and two of them at once. With real VMs: what must be gone is QEMU and its keeper.

use harness::machine::Store;
use harness::programs;
use harness::run::eventually;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

/// Starts `machine create NAME` and returns while the VM boots.
fn booting(store: &Store, name: &str) -> (Child, BufReader<ChildStdout>) {
    let image = programs::image().expect("for_machines looked for it");
    let image = image.to_string_lossy().into_owned();
    let mut child = store
        .machine(&["create", "--qemu-image", &image, "--accel", "tcg"])
        .args(["--memory", "512", "--disk", "2048", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("machine runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("Booting") {
        line.clear();
        if stdout.read_line(&mut line).expect("text") == 0 {
            let mut stderr = String::new();
            let mut pipe = child.stderr.take().expect("piped");
            pipe.read_to_string(&mut stderr).expect("text");
            panic!("it did not boot: {stderr}");
        }
    }
    eventually("QEMU runs", Duration::from_secs(60), || {
        let processes = store.processes();
        processes
            .iter()
            .any(|line| line.contains("qemu-system"))
            .then_some(())
    });
    (child, stdout)
}

fn assert_nothing_left(store: &Store) {
    eventually("every process is gone", Duration::from_secs(20), || {
        store.processes().is_empty().then_some(())
    });
    let machines = std::fs::read_dir(store.path().join("machines")).expect("the folder");
    let names: Vec<_> = machines.flatten().map(|entry| entry.file_name()).collect();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn an_interrupted_create_leaves_nothing() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    let (mut child, mut stdout) = booting(&store, "dev");
    let kill = Command::new("sh")
        .args(["-c", &format!("kill -INT {}", child.id())])
        .status();
    assert!(kill.expect("sh runs").success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).expect("text");
    assert_eq!(child.wait().expect("it ends").code(), Some(130), "{rest}");
    assert!(
        rest.contains("Interrupted: removing what was made"),
        "{rest}"
    );
    assert_nothing_left(&store);
}

/// Nothing catches a SIGKILL; the record tells `rm` what there is.
#[test]
fn what_a_killed_create_left_can_be_removed() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    let (mut child, _stdout) = booting(&store, "dev");
    child.kill().expect("it runs");
    child.wait().expect("it ends");
    let text = store.run(&["start", "dev"]).fails_with(1);
    assert!(text.contains("half made"), "{text}");
    assert!(store.run(&["ls"]).success().contains("half made"));
    store.run(&["rm", "-y", "dev"]).success();
    assert_nothing_left(&store);
}

/// Two first creates share one authority and have addresses of their own.
#[test]
fn two_creates_at_once_in_a_new_store() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    std::thread::scope(|scope| {
        for name in ["a", "b"] {
            let store = &store;
            scope.spawn(move || {
                let output = store.create(name, &[]);
                assert_eq!(output.code, Some(0), "{}", output.report());
            });
        }
    });
    let version = store.run(&["version", "a"]).success();
    assert_eq!(store.run(&["version", "b"]).success(), version);
    assert_ne!(
        store.run(&["ip", "a"]).success(),
        store.run(&["ip", "b"]).success()
    );
    store.run(&["rm", "-y", "a", "b"]).success();
    assert_nothing_left(&store);
}
