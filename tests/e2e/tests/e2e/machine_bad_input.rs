//! `machine` given what cannot work, with the real driver: a clear message, an exit code other than 0, nothing left over.
//! (What needs no QEMU is in the tests of `machine-cli`; what needs a boot to fail in `machine` and `machine_create`.)

use harness::machine::{LIMIT, Store};
use harness::programs;
use harness::run::{Output, run};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

#[track_caller]
fn refused(store: &Store, output: Output, parts: &[&str]) {
    let report = output.report();
    assert!(output.code.is_some_and(|code| code != 0), "{report}");
    assert!(output.stderr.starts_with("Error: "), "{report}");
    for part in parts {
        assert!(output.stderr.contains(part), "no {part:?}: {report}");
    }
    assert_nothing_left(store, &report);
}

#[track_caller]
fn assert_nothing_left(store: &Store, report: &str) {
    assert!(
        store.processes().is_empty(),
        "{:?} {report}",
        store.processes()
    );
    let machines = std::fs::read_dir(store.path().join("machines"))
        .into_iter()
        .flatten();
    let names: Vec<_> = machines.flatten().map(|entry| entry.file_name()).collect();
    assert!(names.is_empty(), "{names:?} {report}");
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_made() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    for name in ["_dev", "a b", "../x", "a/b", "", ".", "é", &"a".repeat(64)] {
        refused(&store, store.create(name, &[]), &["invalid machine name"]);
    }
    let image = programs::image().expect("for_machines looked for it");
    let image = image.to_string_lossy().into_owned();
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--driver", "warp"],
            &[
                "there is no driver \"warp\"",
                "drivers are: qemu, generic, none",
            ],
        ),
        (
            &["--warp-speed", "9"],
            &["unexpected argument '--warp-speed'", "create --help"],
        ),
        (&["--memory", "16"], &["--qemu-memory", "at least 256"]),
        (
            &["--memory", "20T"],
            &["--qemu-memory", "more than this computer has"],
        ),
        (&["--memory", "much"], &["--qemu-memory", "is not a size"]),
        (&["--disk", "1"], &["--qemu-disk-size", "at least 1024"]),
        (&["--cpus", "0"], &["--qemu-cpus", "1 to 255"]),
        (&["--accel", "warp"], &["--qemu-accel", "none of auto, kvm"]),
        (
            &["--qemu-program", "/none/qemu"],
            &["there is no program /none/qemu", "--qemu-program"],
        ),
        (
            &["--qemu-image", "/none"],
            &["no guest image in /none", "make image"],
        ),
        (
            &["--engine-registry-mirror", "mirror:5000"],
            &["--engine-registry-mirror", "must begin with http"],
        ),
        (&["--engine-opt", "data-root=/x"], &["--engine-opt"]),
        (
            &["--engine-opt", "warp=1"],
            &["this engine has no such option"],
        ),
        (
            &["--engine-label", "nothing"],
            &["--engine-label", "KEY=VALUE"],
        ),
    ];
    for (flags, parts) in cases {
        let mut arguments = vec!["create"];
        if !flags.contains(&"--qemu-image") {
            arguments.extend(["--qemu-image", &image]);
        }
        arguments.extend(*flags);
        arguments.push("dev");
        refused(&store, store.run(&arguments), parts);
    }
}

#[test]
fn a_broken_image_is_told() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    let image = programs::image().expect("for_machines looked for it");
    let manifest = std::fs::read_to_string(image.join("manifest.json")).expect("the manifest");
    let folder = store.path().join("image");
    std::fs::create_dir(&folder).expect("a folder");
    let path = folder.to_string_lossy().into_owned();
    for (text, part) in [
        (&manifest[..manifest.len() / 2], "manifest.json: EOF"),
        ("[]", "manifest.json"),
        (&manifest[..], "No such file"),
    ] {
        std::fs::write(folder.join("manifest.json"), text).expect("written");
        let output = store.run(&["create", "--qemu-image", &path, "dev"]);
        refused(&store, output, &["cannot be used", part, "make image"]);
    }
}

#[test]
fn without_qemu_it_says_how_to_install_it() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    let image = programs::image().expect("for_machines looked for it");
    let image = image.to_string_lossy().into_owned();
    let mut command = store.machine(&["create", "--qemu-image", &image, "dev"]);
    command.env("PATH", store.path());
    let output = run(&mut command, LIMIT);
    assert_eq!(output.code, Some(3), "{}", output.report());
    refused(
        &store,
        output,
        &["QEMU is not installed", "apt-get install qemu-system"],
    );
}

/// A program that listens on port 2376 of all addresses leaves none for a machine. In a network of its own: this computer's
/// port is not ours.
#[test]
fn a_port_taken_everywhere_is_told() {
    const LISTENER: &str = "ip link set lo up && { busybox httpd -f -p 0.0.0.0:2376 -h / & } && sleep 0.5 && \"$@\"; \
        code=$?; kill $!; exit $code";
    let Some(store) = Store::for_machines() else {
        return;
    };
    let namespace = run(Command::new("unshare").args(["--net", "ip", "link"]), LIMIT);
    if namespace.code != Some(0) || !Path::new("/bin/busybox").exists() {
        println!("skipped: no network namespace or no busybox here");
        return;
    }
    let image = programs::image().expect("for_machines looked for it");
    let machine = store.machine(&[]);
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-c", LISTENER, "sh"])
        .arg(machine.get_program())
        .args(["create", "--accel", "tcg", "--qemu-image"])
        .arg(image)
        .arg("dev")
        .env("MACHINE_STORAGE_PATH", store.path());
    let output = run(&mut command, LIMIT);
    refused(
        &store,
        output,
        &[
            "port 2376 is taken on every loopback address",
            "ss -ltnp 'sport = :2376'",
        ],
    );
}

/// A machine's name is its own, and so is its address: who takes one of them meanwhile changes nothing in it.
#[test]
fn a_name_and_a_port_in_use() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    let created = store.create("dev", &[]);
    assert_eq!(created.code, Some(0), "{}", created.report());
    let record = || std::fs::read(store.folder_of("dev").join("config.json")).expect("a record");
    let before = record();
    let text = store.create("dev", &[]).fails_with(1);
    assert!(text.contains("machine \"dev\" already exists"), "{text}");
    assert!(text.contains("machine rm dev"), "{text}");
    assert_eq!(record(), before);
    assert_eq!(store.run(&["status", "dev"]).success(), "Running\n");

    let address = store.run(&["ip", "dev"]).success().trim().to_owned();
    store.run(&["stop", "dev"]).success();
    let text = store.run(&["env", "dev"]).fails_with(1);
    assert!(text.contains("is not running (it is Stopped)"), "{text}");
    assert!(text.contains("machine start dev"), "{text}");
    assert!(!text.contains("export"), "{text}");
    let listener = TcpListener::bind((address.as_str(), 2376)).expect("it is free now");
    let text = store.run(&["start", "dev"]).fails_with(1);
    assert!(
        text.contains(&format!(
            "port 2376 of the machine's address {address} is taken"
        )),
        "{text}"
    );
    assert!(text.contains("ss -ltnp 'sport = :2376'"), "{text}");
    assert!(store.processes().is_empty(), "{:?}", store.processes());
    assert_eq!(store.run(&["status", "dev"]).success(), "Stopped\n");
    drop(listener);
    store.run(&["start", "dev"]).success();
    assert_eq!(store.run(&["ip", "dev"]).success().trim(), address);
    store.run(&["rm", "-y", "dev"]).success();
    assert_nothing_left(&store, "after rm");
}

#[test]
fn a_qemu_that_ends_at_once_is_quoted() {
    let Some(store) = Store::for_machines() else {
        return;
    };
    if cfg!(target_os = "macos") {
        println!("skipped: hvf is what this computer has");
        return;
    }
    let image = programs::image().expect("for_machines looked for it");
    let image = image.to_string_lossy().into_owned();
    let output = store.run(&["create", "--accel", "hvf", "--qemu-image", &image, "dev"]);
    refused(
        &store,
        output,
        &[
            "failed while booting, at stage kernel",
            "invalid accelerator hvf",
        ],
    );
}
