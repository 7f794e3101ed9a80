//! Full disks, stores that cannot be written, machines that are half there.

use super::*;

/// The real program with its store on a file system of its own: `prepare` is a shell script that has the store's folder in $1.
#[cfg(target_os = "linux")]
fn on_a_file_system(bench: &Bench, prepare: &str, line: &str) -> Option<Output> {
    let script = format!("{prepare}\nexec {} {line}", machine_program());
    let mut command = Command::new("unshare");
    bench.environment(&mut command);
    std::fs::create_dir_all(bench.store()).unwrap();
    let output = command
        .args(["--mount", "sh", "-ec", &script, "sh"])
        .arg(bench.store())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("unshare failed") || said.contains("must be superuser") {
        println!("skipped: mounting needs root");
        return None;
    }
    Some(output)
}

#[cfg(target_os = "linux")]
#[track_caller]
fn assert_told(output: &Output, what: &str, hint: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("Error: ") && said.contains(what), "{said}");
    assert!(said.contains(hint), "{said}");
}

#[cfg(target_os = "linux")]
const CREATE: &str = "create -d none --url tcp://127.0.0.1:1 dev";

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk() {
    let bench = bench();
    // Full at once, and full once the authority is there.
    for room in [0, 24] {
        let prepare = format!(
            "mount -t tmpfs -o size=64k none $1\ndd if=/dev/zero of=$1/filler bs=1k count={} 2>/dev/null || true",
            64 - room
        );
        let Some(output) = on_a_file_system(&bench, &prepare, CREATE) else {
            return;
        };
        assert_told(&output, "No space left", "Hint: make room");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_read_only_store() {
    let bench = bench();
    let made = Command::new(machine_program())
        .args(CREATE.split(' '))
        .env("MACHINE_STORAGE_PATH", bench.store())
        .output()
        .unwrap();
    assert!(made.status.success());
    let read_only = "mount --bind $1 $1\nmount -o remount,bind,ro $1";
    for line in [
        CREATE,
        "create -d none --url tcp://127.0.0.1:1 other",
        "rm -y dev",
    ] {
        let Some(output) = on_a_file_system(&bench, read_only, line) else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}: {said}");
        assert!(
            said.contains("Read-only file system") || said.contains("already exists"),
            "{said}"
        );
    }
    // Reading needs no writing.
    for line in ["ls", "status dev", "url dev", "inspect dev"] {
        let output = on_a_file_system(&bench, read_only, line).unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
    }
    assert!(bench.store().join("machines/dev/config.json").exists());
}

/// A folder whose config.json is gone is no machine, and is nobody's to overwrite.
#[test]
fn a_half_deleted_machine() {
    let bench = bench();
    bench.run(&["machine create dev"]);
    std::fs::remove_file(bench.store().join("machines/dev/config.json")).unwrap();
    let (stdout, stderr) = bench.run(&[
        "machine ls -q",
        "machine status dev",
        "machine create dev",
        "machine rm -f dev",
    ]);
    assert!(
        !stdout.contains("dev\n-> 0") && stdout.matches("-> 1").count() == 3,
        "{stdout}"
    );
    assert!(
        stderr.contains("is in the way: it is not a machine"),
        "{stderr}"
    );
    assert!(bench.store().join("machines/dev/data.raw").exists());
}

/// A clock that is set back a day after the certificates were made.
#[test]
fn yesterdays_clock_takes_todays_certificates() {
    let bench = bench();
    bench.run(&["machine create dev"]);
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-startdate", "-in"])
        .arg(bench.store().join("machines/dev/server.pem"))
        .output();
    let Ok(output) = output else {
        println!("skipped: there is no openssl");
        return;
    };
    let start = String::from_utf8(output.stdout).unwrap();
    let date = start.trim().trim_start_matches("notBefore=");
    let seconds = |date: &str| -> i64 {
        let output = Command::new("date")
            .args(["-d", date, "+%s"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse()
            .unwrap()
    };
    assert!(seconds(date) < seconds("1 day ago"), "{date}");
}
