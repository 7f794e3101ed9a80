//! The real program, with the real drivers.

use super::*;

/// `ssh` gets the machine's key, its pinned host keys and all that follows the name, and its exit status is ours.
#[cfg(unix)]
#[test]
fn ssh_runs_the_systems_ssh() {
    let bench = bench();
    let bin = bench.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    write_program(&bin.join("ssh"), "#!/bin/sh\necho \"ssh $@\"\nexit 37\n");
    // The session ends where ssh takes its place.
    let output = bench
        .command(&[
            "machine create dev",
            "machine ssh dev -L 80:x:80 ls -l --color",
        ])
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(37));
    let (stdout, _) = bench.told(output);
    let line = stdout.lines().last().unwrap();
    assert!(
        line.ends_with("docker@127.0.0.1 -L 80:x:80 ls -l --color"),
        "{line}"
    );
    assert!(
        line.contains("-oIdentityFile=\"[FOLDER]/store/machines/dev/id_ed25519\""),
        "{line}"
    );
    assert!(
        line.contains("-oUserKnownHostsFile=\"[FOLDER]/store/machines/dev/known_hosts\""),
        "{line}"
    );

    let output = bench
        .command(&["machine rm -y dev", "machine create dev", "machine ssh dev"])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    let (stdout, stderr) = bench.told(output);
    assert!(stdout.ends_with("-> 1\n"), "{stdout}");
    assert!(stderr.contains("there is no `ssh` program"), "{stderr}");
}

/// Folders are mounted by the system's sshfs, and differences copied by its rsync: both log in as `ssh` does.
#[cfg(unix)]
#[test]
fn mount_and_delta_copies_run_the_systems_programs() {
    let bench = bench();
    let bin = bench.folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    for (program, code) in [("sshfs", 0), ("fusermount", 0), ("rsync", 23)] {
        let text = format!("#!/bin/sh\nprintf '%s|' {program} \"$@\"\necho\nexit {code}\n");
        write_program(&bin.join(program), &text);
    }
    let there = bench.folder.path().join("there");
    std::fs::create_dir(&there).unwrap();
    let (there, nowhere) = (there.display(), bench.folder.path().join("nowhere"));
    let output = bench
        .command(&[
            "machine create dev",
            &format!("machine mount dev:/srv {there}"),
            &format!("machine mount root@dev:/srv {there}"),
            &format!("machine mount dev:/srv {}", nowhere.display()),
            &format!("machine mount -u dev:/srv {there}"),
            "machine stop dev",
            &format!("machine mount -u dev:/srv {there}"),
            &format!("machine mount dev:/srv {there}"),
            "machine start dev",
            "machine scp -r -d a dev:b",
        ])
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .output()
        .unwrap();
    let (stdout, stderr) = bench.told(output);
    let said = |program: &str| -> Vec<&str> {
        let start = format!("{program}|");
        let lines = stdout.lines().filter(|line| line.starts_with(&start));
        lines.collect()
    };
    let mounted = said("sshfs");
    assert_eq!(mounted.len(), 2, "{stdout}{stderr}");
    assert!(
        mounted[0].starts_with("sshfs|docker@127.0.0.1:[PORT]/srv|[FOLDER]/there|"),
        "{}",
        mounted[0]
    );
    assert!(
        mounted[0].contains("IdentityFile=\"[FOLDER]/store/machines/dev/id_ed25519\""),
        "{}",
        mounted[0]
    );
    assert!(
        mounted[1].starts_with("sshfs|root@127.0.0.1:[PORT]/srv|"),
        "{}",
        mounted[1]
    );
    assert!(stderr.contains("nowhere is not a folder"), "{stderr}");
    // A stopped machine's mount is taken away, and no new one made.
    assert_eq!(said("fusermount"), ["fusermount|-u|[FOLDER]/there|"; 2]);
    let copied = said("rsync");
    assert_eq!(copied.len(), 1, "{stdout}{stderr}");
    assert!(
        copied[0].contains("|-r|") && copied[0].ends_with("|a|docker@127.0.0.1:[PORT]b|"),
        "{}",
        copied[0]
    );
    assert!(copied[0].contains("known_hosts"), "{}", copied[0]);
    assert!(stdout.trim_end().ends_with("-> 23"), "{stdout}");
}

#[cfg(unix)]
fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The real program has the real drivers; a host that is there already is only remembered.
#[test]
fn the_program_remembers_a_host() {
    let bench = bench();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
        bench.environment(&mut command);
        let output = command.args(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| bench.steady(&String::from_utf8(bytes).unwrap());
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, stdout, stderr) =
        run(&["create", "-d", "none", "--url", "tcp://127.0.0.1:9", "far"]);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    // Nobody asked.
    assert!(!stdout.contains("Docker is up"), "{stdout}");
    assert_eq!(run(&["url", "far"]).1, "tcp://127.0.0.1:[PORT]\n");
    assert_eq!(run(&["status", "far"]).1, "Running\n");
    let (_, listed, _) = run(&["ls", "-f", "{{.State}}|{{.DockerVersion}}|{{.Error}}"]);
    assert!(listed.starts_with("Running|Unknown|"), "{listed}");
    assert!(listed.contains("cannot connect to 127.0.0.1"), "{listed}");
    let (code, stdout, stderr) = run(&["env", "far"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("cannot connect to 127.0.0.1"), "{stderr}");
    let (code, _, stderr) = run(&["start", "far"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("cannot start machines"), "{stderr}");
    let (code, _, stderr) = run(&["create", "-d", "none", "nowhere"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("--url"), "{stderr}");
    let (code, _, stderr) = run(&["create", "-d", "warp", "x"]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("drivers are: ") && stderr.contains("none"),
        "{stderr}"
    );
    let (code, stdout, _) = run(&["create", "--help", "-d", "qemu"]);
    assert_eq!(code, Some(0));
    for flag in ["--memory", "--cpus", "--disk", "--accel", "--qemu-image"] {
        assert!(stdout.contains(flag), "{flag} in {stdout}");
    }
    let (code, _, stderr) = run(&["rm", "-y", "far"]);
    assert_eq!(code, Some(0), "{stderr}");
    bench.assert_nothing_left();
}

/// Eight first creates at once, each a process of its own: one authority, and each machine whole.
#[test]
fn eight_programs_create_in_a_new_store() {
    let bench = bench();
    let program = |arguments: &[&str]| {
        let mut command = Command::new(machine_program());
        bench.environment(&mut command);
        command.args(arguments);
        command
    };
    let names: Vec<String> = (1..=8).map(|number| format!("m{number}")).collect();
    let children: Vec<_> = names
        .iter()
        .map(|name| {
            program(&["create", "-d", "none", "--url", "tcp://127.0.0.1:9", name])
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    let certs = bench.store().join("certs");
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        let shared = std::fs::read(certs.join(file)).unwrap();
        for name in &names {
            let copy = bench.store().join("machines").join(name).join(file);
            assert_eq!(std::fs::read(copy).unwrap(), shared, "{name}/{file}");
        }
    }
    let listed = program(&["ls", "-q"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().collect::<Vec<_>>(), names);
    let entries = std::fs::read_dir(bench.store().join("machines")).unwrap();
    assert_eq!(entries.count(), 8, "no lock is left");
}

/// What programs read, as JSON, and addresses in the order of the names.
#[test]
fn machines_for_programs() {
    let bench = bench();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(machine_program());
        bench.environment(&mut command);
        let output = command.args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    for (name, host) in [("near", "127.0.0.1"), ("far", "127.0.0.2")] {
        let url = format!("tcp://{host}:9");
        let (code, said) = run(&[
            "create",
            "-d",
            "none",
            "--url",
            &url,
            "--engine-label",
            "a=b",
            name,
        ]);
        assert_eq!(code, Some(0), "{said}");
    }
    let (code, list) = run(&["ls", "-t", "20", "-f", "json"]);
    assert_eq!(code, Some(0));
    let list: Vec<serde_json::Value> = list
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let shown: Vec<_> = list
        .iter()
        .map(|machine| [&machine["Name"], &machine["DriverName"], &machine["URL"]])
        .collect();
    assert_eq!(
        shown,
        [
            ["far", "none", "tcp://127.0.0.2:9"],
            ["near", "none", "tcp://127.0.0.1:9"],
        ]
    );
    for format in [&["inspect", "near"][..], &["inspect", "-f", "json", "near"]] {
        let record: serde_json::Value = serde_json::from_str(&run(format).1).unwrap();
        assert_eq!(record["ConfigVersion"], 3);
        assert_eq!(record["Driver"]["URL"], "tcp://127.0.0.1:9");
    }
    let inspect = |format: &str| run(&["inspect", "-f", format, "near"]).1;
    assert_eq!(
        inspect("{{json .HostOptions.EngineOptions.Labels}}"),
        "[\"a=b\"]\n"
    );
    assert_eq!(
        inspect("{{prettyjson .HostOptions.EngineOptions.Labels}}"),
        "[\n    \"a=b\"\n]\n"
    );
    assert_eq!(
        run(&["ip", "near", "nobody", "far"]),
        (Some(1), "127.0.0.1\n127.0.0.2\n".into())
    );
}

/// The real program: verbs that need no machine are quick. The bound is loose, since tests run under load and this build is not
/// optimised; the number is printed.
#[test]
fn the_program_starts_quickly() {
    let bench = bench();
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
        bench.environment(&mut command);
        let started = Instant::now();
        let output = command.arg("ls").output().unwrap();
        fastest = fastest.min(started.elapsed());
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "NAME   ACTIVE   DRIVER   STATE   URL   SWARM   DOCKER   ERRORS\n"
        );
        assert!(output.status.success());
    }
    println!("machine ls, empty store, fastest of 10: {fastest:?}");
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
    assert!(!bench.store().exists(), "a look makes nothing");
}
