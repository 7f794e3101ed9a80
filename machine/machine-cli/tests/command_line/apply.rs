//! `machine apply`: the real program and a file that declares machines.

use super::*;

struct Declared {
    bench: Bench,
}

impl Declared {
    /// Writes the file and applies it: exit code, stdout, stderr.
    fn apply(&self, text: &str, global: &[&str], more: &[&str]) -> (Option<i32>, String, String) {
        let file = self.bench.folder.path().join("machine.toml");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(machine_program());
        self.bench.environment(&mut command);
        command.args(global).args(["apply", "-f"]).arg(&file);
        let output = command.args(more).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    }
}

const FAR: &str = "[machine.far]
driver = \"none\"
url = \"tcp://192.0.2.7:2376\"
engine-label = [\"a=b\"]
engine-env = \"NO_PROXY=here\"
engine-storage-driver = \"overlay2\"
tls-san = \"far.example\"
swarm-strategy = \"random\"
swarm-experimental = true
";

/// Machines that a file declares are made once; what differs later is told, whatever key it is.
#[test]
fn declared_machines() {
    let declared = Declared { bench: bench() };
    let apply = |text: &str, more: &[&str]| declared.apply(text, &[], more);
    assert_eq!(apply(FAR, &["--dry-run"]).1, "far: create\n");
    assert!(!declared.bench.store().join("machines/far").exists());
    let (code, _, said) = apply(FAR, &[]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        apply(FAR, &[]),
        (Some(0), "far: as declared\n".into(), String::new())
    );
    for (key, from, to) in [
        ("url", "192.0.2.7", "192.0.2.8"),
        ("engine-label", "a=b", "a=c"),
        ("engine-env", "=here", "=there"),
        ("engine-storage-driver", "overlay2", "vfs"),
        ("tls-san", "far.example", "near.example"),
        ("swarm-strategy", "random", "spread"),
        ("swarm-experimental", "true", "false"),
        ("driver", "none", "generic"),
    ] {
        let (code, told, said) = apply(&FAR.replace(from, to), &[]);
        assert_eq!(
            told,
            format!("far: {key} differs and cannot be changed\n"),
            "{said}"
        );
        assert_eq!(code, Some(1));
        assert!(said.contains("Hint: "), "{said}");
    }
    for (text, part) in [
        ("[machines.far]\n", "[machine.NAME]"),
        ("[machine.far]\ncolour = 7\n", "no flag --colour"),
    ] {
        let (code, _, said) = apply(text, &[]);
        assert_eq!(code, Some(1));
        assert!(said.contains(part) && said.contains("Hint: "), "{said}");
    }
}

/// A stopped machine of this computer gets what is declared; what only a new one can have is told.
#[test]
fn a_declared_machine_is_changed() {
    let declared = Declared { bench: bench() };
    let folder = declared.bench.store().join("machines/dev");
    std::fs::create_dir_all(&folder).unwrap();
    let record = serde_json::json!({
        "ConfigVersion": 3,
        "DriverName": "qemu",
        "Name": "dev",
        "Driver": {
            "IPAddress": "127.77.7.7", "EnginePort": 2376, "SSHPort": 2222, "MachineName": "dev",
            "CPU": 1, "Memory": 1024, "DiskSize": 20480, "Mounts": [],
        },
        "Berth": {
            "Version": 1, "Stage": "Created", "MadeBy": "0.1.0",
            "Flags": { "qemu-accel": "tcg", "qemu-cpus": 1 },
        },
    });
    std::fs::write(folder.join("config.json"), record.to_string()).unwrap();
    let text = "[machine.dev]\ncpus = 2\nqemu-memory = \"512M\"\ndisk = \"30G\"\nmount = \"/tmp:/work:ro\"\naccel = \"tcg\"\n";
    let apply = |text: &str, more: &[&str]| declared.apply(text, &[], more);
    let told = "dev: 2 processors from the next start\n\
        dev: a disk of 30720 MiB from the next start\n\
        dev: /tmp:/work:ro shared from the next start\n\
        dev: 512 MiB of memory from the next start\n";
    for more in [&["--dry-run"][..], &[]] {
        assert_eq!(apply(text, more), (Some(0), told.into(), String::new()));
    }
    assert_eq!(apply(text, &[]).1, "dev: as declared\n");
    let now = std::fs::read(folder.join("config.json")).unwrap();
    let now: serde_json::Value = serde_json::from_slice(&now).unwrap();
    for (key, value) in [
        ("CPU", serde_json::json!(2)),
        ("Memory", serde_json::json!(512)),
        ("DiskSize", serde_json::json!(30720)),
        ("Mounts", serde_json::json!(["/tmp:/work:ro"])),
    ] {
        assert_eq!(now["Driver"][key], value, "{key}");
    }
    assert_eq!(
        apply("[machine.dev]\nmount = []\n", &[]).1,
        "dev: the home is shared from the next start\n"
    );
    let other = "[machine.dev]\naccel = \"kvm\"\nqemu-image = \"/i\"\n";
    let (code, told, said) = apply(other, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(
        told,
        "dev: accel differs and cannot be changed\n\
         dev: qemu-image cannot be compared: what it was made with is not remembered\n"
    );
    for (bad, part) in [
        ("cpus = \"2G\"", "cpus is no number"),
        ("memory = \"much\"", "is no size"),
        ("disk = \"10G\"", "only grows"),
    ] {
        let (code, _, said) = apply(&format!("[machine.dev]\n{bad}\n"), &[]);
        assert_eq!(code, Some(1));
        assert!(said.contains(part), "{said}");
    }
}

/// What was said before the verb counts for the machines that are made.
#[test]
fn flags_before_the_verb_are_handed_on() {
    let declared = Declared { bench: bench() };
    let folder = declared.bench.folder.path().join("own");
    std::fs::create_dir(&folder).unwrap();
    let flags = ["ca-cert", "ca-key", "client-cert", "client-key"]
        .map(|name| format!("--tls-{name}={}/{name}.pem", folder.display()));
    let global: Vec<&str> = flags.iter().map(String::as_str).collect();
    let (code, _, said) = declared.apply(FAR, &global, &[]);
    assert_eq!(code, Some(0), "{said}");
    let copy = declared.bench.store().join("machines/far/ca.pem");
    assert_eq!(
        std::fs::read(copy).unwrap(),
        std::fs::read(folder.join("ca-cert.pem")).unwrap()
    );
    assert!(!declared.bench.store().join("certs").exists());
}
