//! `machine` as people and scripts meet it: command lines in, texts and exit codes out. The machines are those of the fake
//! driver and live as long as the process, so a test writes down all the lines of one session.
//!
//! The program under test is this file itself, started anew with the role [`SESSION`]: the real program's driver list has
//! no fake, and should not.

mod apply;
mod autostart;
mod docker_machine;
mod program;
mod robust;
mod shells;

use machine_core::fake::FakeDriver;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SESSION: &str = "BERTH_TEST_SESSION";
const PROVIDER: &str = "BERTH_TEST_PROVIDER";
const BOOT_MS: &str = "BERTH_TEST_BOOT_MS";
const BEGIN: &str = "-- the session begins --\n";

/// Not a test: runs a session's lines where [`SESSION`] is set, printing each line's exit code.
#[test]
fn session() {
    let Ok(session) = std::env::var(SESSION) else {
        return;
    };
    let boot_ms = std::env::var(BOOT_MS).map_or(0, |text| text.parse().unwrap());
    let driver = FakeDriver::new(std::env::var(PROVIDER).unwrap().into())
        .with_boot_time(Duration::from_millis(boot_ms));
    print!("\n{BEGIN}");
    for line in session.lines() {
        println!("$ {line}");
        let words = line.split(' ').filter(|word| !word.is_empty());
        let code = machine_cli::run(
            words.map(Into::into).collect(),
            vec![Arc::new(driver.clone())],
        );
        if code != 0 {
            println!("-> {code}");
        }
    }
    std::io::stdout().flush().unwrap();
    std::process::exit(0);
}

struct Bench {
    folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("provider")).unwrap();
    Bench { folder }
}

/// The real program, where no fake driver is needed.
fn machine_program() -> &'static str {
    env!("CARGO_BIN_EXE_machine")
}

impl Bench {
    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn command(&self, lines: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "session", "--nocapture", "--quiet"])
            .env(SESSION, lines.join("\n"))
            .env(PROVIDER, self.folder.path().join("provider"));
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        command
            .env("HOME", self.folder.path())
            .env("MACHINE_STORAGE_PATH", self.store())
            .env("MACHINE_DRIVER", "fake")
            .env("SHELL", "/bin/bash")
            .stdin(Stdio::null());
        for variable in [
            "DOCKER_HOST",
            "HTTP_PROXY",
            "http_proxy",
            "HTTPS_PROXY",
            "https_proxy",
            "NO_PROXY",
            "no_proxy",
            "MACHINE_DEBUG",
            "DOCKER_CONFIG",
            "DOCKER_CERT_PATH",
            "XDG_CONFIG_HOME",
        ] {
            command.env_remove(variable);
        }
    }

    /// What a session printed on stdout and on stderr, without what differs from run to run.
    fn run(&self, lines: &[&str]) -> (String, String) {
        self.told(self.command(lines).output().unwrap())
    }

    fn told(&self, output: Output) -> (String, String) {
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let told = stdout.split(BEGIN).nth(1);
        let told = told.unwrap_or_else(|| panic!("no session in {stdout}\n{stderr}"));
        (self.steady(told), self.steady(&stderr))
    }

    fn steady(&self, text: &str) -> String {
        let text = text.replace(&*self.folder.path().to_string_lossy(), "[FOLDER]");
        // The fake's port: digits after its address.
        let mut parts = text.split("127.0.0.1:");
        let mut steady = parts.next().unwrap().to_owned();
        for part in parts {
            steady.push_str("127.0.0.1:[PORT]");
            steady.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
        steady
    }

    /// Neither a machine's folder, nor a lock, nor anything at the provider.
    #[track_caller]
    fn assert_nothing_left(&self) {
        for folder in [
            self.store().join("machines"),
            self.folder.path().join("provider"),
        ] {
            if let Ok(entries) = std::fs::read_dir(folder) {
                let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
                assert!(names.is_empty(), "{names:?}");
            }
        }
    }
}

#[test]
fn a_day_with_a_machine() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "machine create dev --memory 2048 --fake-port 80 --fake-port=443 --fake-loud --engine-label a=b",
        "machine ls",
        "machine ls -q",
        "machine status dev",
        "machine ip dev",
        "machine url dev",
        "machine env dev",
        "machine env --shell fish --no-proxy dev",
        "machine config dev",
        "machine version dev",
        "machine inspect -f {{.Driver.Memory}}/{{.Driver.Ports}}/{{.Driver.Loud}}/{{.HostOptions.EngineOptions.Labels}} dev",
        "machine inspect -f {{.HostOptions.AuthOptions.StorePath}} dev",
        "machine ls -f {{.Name}}:{{.State}}:{{.DockerVersion}}:{{.DriverName}}",
        "machine stop dev",
        "machine stop dev",
        "machine ls",
        "machine start dev",
        "machine restart dev",
        "machine kill dev",
        "machine status dev",
        "machine rm -y dev",
        "machine ls",
    ]);
    insta::assert_snapshot!(stdout);
    insta::assert_snapshot!(stderr);
    bench.assert_nothing_left();
}

/// Called by the old name, all is the same, and hints repeat what was typed.
#[test]
fn the_old_name() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "docker-machine --bugsnag-api-token=no-report create --driver fake default",
        "docker-machine env",
        "docker-machine -v",
        "docker-machine rm -f default",
    ]);
    assert_eq!(stderr, "");
    assert!(
        stdout.contains("run: docker-machine env default\n"),
        "{stdout}"
    );
    assert!(
        stdout.contains("# eval $(docker-machine env)\n"),
        "{stdout}"
    );
    assert!(
        stdout.contains(concat!(
            "docker-machine version ",
            env!("CARGO_PKG_VERSION")
        )),
        "{stdout}"
    );
    assert!(!stdout.contains("->"), "{stdout}");
}

/// Bad input: an exit code other than 0, what failed, what to try.
#[test]
fn bad_input() {
    let bench = bench();
    let mut text = String::new();
    for line in [
        "machine create",
        "machine create -x",
        "machine create _dev",
        "machine create dev --warp-speed 9",
        "machine create -d warp dev",
        "machine create dev --fake-memory much",
        "machine create dev --fake-memory 1",
        "machine create dev --engine-opt host=tcp://0.0.0.0:1",
        "machine create dev --tls-san a,b",
        "machine create dev --engine-registry-mirror mirror:5000",
        "machine create dev --engine-insecure-registry http://registry:5000",
        "machine dance",
        "machine --dance ls",
        "machine ls --filter state",
        "machine ls --filter colour=red",
        "machine ls --filter name=(",
        "machine ls --format {{.Nam",
        "machine status dev",
        "machine status",
        "machine env dev",
        "machine env -u dev",
        "machine create dev --engine-opt swarm-default-advertise-addr=eth0",
        "machine create dev --engine-env A=b",
        "machine env --swarm dev",
        "machine start a b",
        "machine stop ../x",
        "machine rm",
        "machine rm -y dev",
        "machine rm -f dev",
        "machine rm dev",
        "machine ssh dev",
        "machine active",
        "machine provision dev",
        "machine regenerate-certs -f dev",
        "machine keeper x",
        "machine upgrade",
        "machine scp dev:/a b",
        "machine mount dev:/x",
        "machine mount x",
        "machine use dev",
        "machine context dev",
        "machine context --rm dev",
        "machine completion tcsh",
    ] {
        let (stdout, stderr) = bench.run(&[line]);
        assert!(stdout.contains("-> "), "{line} must fail: {stdout}{stderr}");
        assert!(stderr.starts_with("Error: "), "{line}: {stderr}");
        text.push_str(&stdout);
        text.push_str(&stderr);
        text.push('\n');
    }
    insta::assert_snapshot!(text);
    bench.assert_nothing_left();
}

/// The verbs that look at a machine in other ways, and those that set its engine up anew.
#[test]
fn more_verbs() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "machine create dev",
        "machine status -f json dev",
        "machine status -f {{.State}} dev",
        "machine env --shell json dev",
        "machine env --shell dotenv dev",
    ]);
    insta::assert_snapshot!(stdout);
    assert_eq!(stderr, "");
    let bench = self::bench();
    let (stdout, stderr) = bench.run(&[
        "machine create dev",
        "machine context --use dev",
        "machine context --name other dev",
        "machine context --rm --name other dev",
        "machine provision dev",
        "machine upgrade dev",
        "machine stop dev",
        "machine provision dev",
        "machine upgrade dev",
        "machine rm -y dev",
    ]);
    insta::assert_snapshot!(stdout);
    insta::assert_snapshot!(stderr);
    bench.assert_nothing_left();
    assert!(
        !bench
            .folder
            .path()
            .join(".docker/contexts/tls")
            .read_dir()
            .unwrap()
            .any(|_| true)
    );
}

/// What one does with a machine over the years.
#[test]
fn years_with_a_machine() {
    let bench = bench();
    let folder = bench.folder.path();
    let data = bench.store().join("machines/dev/data.raw");
    let (stdout, stderr) = bench.run(&[
        "machine create dev",
        "machine set --memory 2G dev",
        "machine set dev",
        "machine inspect -f {{.Driver.Memory}} dev",
        "machine suspend dev",
        "machine status dev",
        "machine suspend dev",
        "machine set --memory 1G dev",
        "machine resume dev",
        "machine resume dev",
        "machine snapshot create dev first",
        "machine snapshot create dev first",
        "machine snapshot restore dev first",
        "machine rename dev web",
        "machine clone dev web",
        "machine stop dev",
        "machine snapshot restore dev second",
        "machine snapshot restore dev first",
        "machine status dev",
        "machine kill dev",
        "machine resume dev",
        "machine logs dev",
        "machine protect dev",
        "machine rm -f dev",
        "machine protect --off dev",
        "machine rm -y dev",
    ]);
    insta::assert_snapshot!(stdout);
    insta::assert_snapshot!(stderr);
    bench.assert_nothing_left();

    let (stdout, stderr) = bench.run(&[
        "machine create dev",
        "machine stop dev",
        "machine clone dev web",
        "machine clone dev web",
        "machine start web",
        "machine config web",
        "machine stop web",
        "machine rename web site",
        "machine start site",
        "machine config site",
        "machine stop site",
        &format!("machine diagnose -o {}/d.tar site", folder.display()),
        &format!("machine export -o {}/x.tar site", folder.display()),
        &format!("machine export --disk -o {}/x.tar site", folder.display()),
        &format!("machine import {}/x.tar", folder.display()),
        &format!("machine import {}/x.tar here", folder.display()),
        "machine start here",
        "machine config here",
        "machine snapshot ls here",
        "machine ls -q",
    ]);
    insta::assert_snapshot!(stdout);
    insta::assert_snapshot!(stderr);
    assert_eq!(std::fs::read(&data).unwrap(), b"data");
    // Nothing in the two files is a key.
    for file in ["d.tar", "x.tar"] {
        let bytes = std::fs::read(folder.join(file)).unwrap();
        let key = b"PRIVATE KEY";
        assert!(!bytes.windows(key.len()).any(|part| part == key), "{file}");
    }
}

/// An engine that somebody else keeps, with the certificates they gave.
#[test]
fn an_attached_machine() {
    let bench = bench();
    let given = bench.folder.path().join("given");
    std::fs::create_dir(&given).unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        std::fs::write(given.join(file), "nonsense").unwrap();
    }
    let mut command = Command::new(machine_program());
    bench.environment(&mut command);
    let output = command
        .args(["attach", "far", "tcp://127.0.0.1:1", "--certs"])
        .arg(&given)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot be reached"), "{said}");
    assert!(!bench.store().join("machines/far").exists());
}

#[test]
fn a_corrupt_record() {
    let bench = bench();
    let config = bench.store().join("machines/bad/config.json");
    bench.run(&["machine create good"]);
    std::fs::create_dir(config.parent().unwrap()).unwrap();
    std::fs::write(&config, "{\"ConfigVersion\": 3,").unwrap();
    let (stdout, stderr) = bench.run(&[
        "machine ls",
        "machine status bad",
        "machine status good",
        "machine create bad",
        "machine rm -y bad",
    ]);
    assert_eq!(
        std::fs::read_to_string(&config).unwrap(),
        "{\"ConfigVersion\": 3,"
    );
    insta::assert_snapshot!(format!("{stdout}{stderr}"));
    let (stdout, _) = bench.run(&["machine rm -f bad", "machine ls -q"]);
    assert!(stdout.contains("Successfully removed bad"), "{stdout}");
    assert!(stdout.ends_with("good\n"), "{stdout}");
}

/// A store that docker-machine made, with a driver we do not have: everything that needs no driver works.
#[test]
fn a_machine_of_docker_machine() {
    let bench = bench();
    let config = bench.store().join("machines/old/config.json");
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    let record = include_str!("../../../machine-core/src/store/docker-machine-0.16.json");
    std::fs::write(&config, record).unwrap();
    let (stdout, stderr) = bench.run(&[
        "machine ls",
        "machine ls -q",
        "machine inspect -f {{.Driver.IPAddress}} old",
        "machine inspect -f {{.HostOptions.AuthOptions.StorePath}} old",
        "machine start old",
        "machine rm -y old",
    ]);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), record);
    insta::assert_snapshot!(format!("{stdout}{stderr}"));
    let (stdout, _) = bench.run(&["machine rm -f old"]);
    assert!(stdout.ends_with("Successfully removed old\n"), "{stdout}");
    bench.assert_nothing_left();
}

#[test]
fn new_certificates() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "machine create one",
        "machine create two",
        "machine stop two",
        "machine regenerate-certs one",
        "machine regenerate-certs -f --client-certs one two",
        "machine start two",
        "machine ls -f {{.Name}}:{{.State}}:{{.Error}}",
    ]);
    assert!(stderr.starts_with("Error: nothing was changed"), "{stderr}");
    assert!(
        stdout.contains("Restarting \"one\", which reads them"),
        "{stdout}"
    );
    assert!(!stdout.contains("Restarting \"two\""), "{stdout}");
    assert!(
        stdout.ends_with("one:Running:\ntwo:Running:\n"),
        "{stdout}{stderr}"
    );
}

/// `rm` asks; without anyone to answer it removes nothing.
#[test]
fn rm_asks() {
    for (answer, removed, code) in [("y\n", true, ""), ("n\n", false, ""), ("", false, "-> 1")] {
        let bench = bench();
        bench.run(&["machine create dev"]);
        let mut child = bench
            .command(&["machine rm dev"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(answer.as_bytes())
            .unwrap();
        let (stdout, stderr) = bench.told(child.wait_with_output().unwrap());
        assert!(stdout.contains("Are you sure? (y/n)"), "{stdout}");
        assert!(stdout.contains(code), "{stdout}{stderr}");
        assert_eq!(
            stdout.contains("Successfully removed dev"),
            removed,
            "{stdout}"
        );
        assert_eq!(
            bench.store().join("machines/dev/config.json").exists(),
            !removed
        );
    }
}

/// Ctrl-C while the machine boots: a clear end, exit code 130, nothing left.
#[cfg(unix)]
#[test]
fn interrupting_create() {
    let bench = bench();
    let mut child = bench
        .command(&["machine create dev"])
        .env(BOOT_MS, "600000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("Booting (fake)") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "it must boot");
    }
    assert!(bench.store().join("machines/dev/config.json").exists());
    let kill = format!("kill -INT {}", child.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    child.wait().unwrap();
    assert!(
        rest.contains("Interrupted: removing what was made"),
        "{rest}"
    );
    assert!(rest.contains("-> 130"), "{rest}");
    assert_eq!(stderr, "Error: interrupted\n");
    bench.assert_nothing_left();
}

/// A killed `create` leaves a record that the next one clears away.
#[cfg(unix)]
#[test]
fn killing_create() {
    let bench = bench();
    let mut child = bench
        .command(&["machine create dev"])
        .env(BOOT_MS, "600000")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("Booting (fake)") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "it must boot");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (stdout, stderr) = bench.run(&["machine ls", "machine start dev"]);
    assert!(stdout.contains("half made"), "{stdout}");
    assert!(
        stderr.contains("Hint: wait for `create`, or remove"),
        "{stderr}"
    );
    let (stdout, _) = bench.run(&[
        "machine create dev",
        "machine status dev",
        "machine rm -y dev",
    ]);
    assert!(
        stdout.contains("Removing what an interrupted create left"),
        "{stdout}"
    );
    assert!(stdout.contains("Running\n"), "{stdout}");
    bench.assert_nothing_left();
}

#[test]
fn a_drivers_flags_and_variables() {
    let bench = bench();
    let (help, _) = bench.run(&["machine create -d fake --help"]);
    for part in [
        "--fake-memory",
        "--memory",
        "[default: 1024]",
        "FAKE_MEMORY",
        "--engine-label",
    ] {
        assert!(help.contains(part), "{part} in {help}");
    }
    let output = bench
        .command(&[
            "machine create one",
            "machine create two --fake-memory 256 --fake-port 1",
            "machine inspect -f {{.Driver.Memory}}{{.Driver.Ports}} one",
            "machine inspect -f {{.Driver.Memory}}{{.Driver.Ports}} two",
        ])
        .env("FAKE_MEMORY", "512")
        .env("FAKE_PORTS", "7, 8")
        .output()
        .unwrap();
    let (stdout, stderr) = bench.told(output);
    assert!(stdout.contains("512[7 8]"), "{stdout}{stderr}");
    assert!(stdout.contains("256[1]"), "{stdout}");
}

#[test]
fn swarm_is_remembered_with_a_warning() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "machine create --swarm --swarm-master --swarm-discovery token://x dev",
        "machine inspect -f {{.HostOptions.SwarmOptions.Discovery}} dev",
        "machine ls --filter swarm=dev -q",
        "machine ls --filter swarm=other -q",
    ]);
    assert!(
        stderr.contains("Warning: classic Swarm has ended"),
        "{stderr}"
    );
    assert!(stdout.contains("token://x\n"), "{stdout}");
    assert!(stdout.contains("swarm=dev -q\ndev\n"), "{stdout}");
    assert!(stdout.ends_with("swarm=other -q\n"), "{stdout}");
}

/// A swarm is called by its master, whoever of it is asked for.
#[test]
fn a_swarm_is_listed_by_its_master() {
    let bench = bench();
    let (stdout, _) = bench.run(&[
        "machine create --swarm --swarm-master --swarm-discovery token://x boss",
        "machine create --swarm --swarm-discovery token://x worker",
        "machine create --swarm --swarm-discovery token://y stray",
        "machine create alone",
        "machine ls -f {{.Name}}:{{.Swarm}}",
        "machine ls --filter swarm=Boss -q",
    ]);
    let (_, listed) = stdout.split_once("{{.Swarm}}\n").unwrap();
    assert_eq!(
        listed,
        "alone:\nboss:boss (master)\nstray:\nworker:boss\n$ machine ls --filter swarm=Boss -q\nboss\nworker\n"
    );
}

#[test]
fn filters() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "machine create node1 --engine-label tier=web",
        "machine create node10 --engine-label tier=db",
        "machine create node2",
        "machine stop node2",
        "machine ls -q --filter name=node1",
        "machine ls -q --filter label=tier=db --filter label=tier=web --filter state=running",
        "machine ls -q --filter label=tier",
        "machine ls -q --filter state=STOPPED",
        "machine ls -q --filter driver=other",
        "machine ls -q",
    ]);
    assert_eq!(stderr, "");
    let lists: Vec<&str> = stdout.split("$ machine ls").skip(1).collect();
    let names: Vec<Vec<&str>> = lists
        .iter()
        .map(|list| list.lines().skip(1).collect())
        .collect();
    assert_eq!(
        names,
        [
            vec!["node1", "node10"],
            vec!["node1", "node10"],
            vec!["node1", "node10"],
            vec!["node2"],
            vec![],
            vec!["node1", "node2", "node10"],
        ]
    );
}

#[test]
fn help_is_no_failure() {
    for line in [
        "machine",
        "machine help",
        "machine -h",
        "machine help create",
        "machine ls --help",
    ] {
        let (stdout, stderr) = bench().run(&[line]);
        assert!(stdout.contains("Usage: machine"), "{line}: {stdout}");
        assert!(!stdout.contains("-> "), "{line}: {stdout}");
        assert_eq!(stderr, "", "{line}");
    }
}

#[test]
fn completion_has_a_script_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (stdout, stderr) = bench().run(&[&format!("machine completion {shell}")]);
        assert_eq!(stderr, "");
        assert!(stdout.contains("MACHINE_COMPLETE"), "{stdout}");
        assert!(!stdout.contains("-> "), "{stdout}");
    }
}
