//! Plug-ins of docker-machine, seen from both sides.
//!
//! The stand-in is this program again, under the name `docker-machine-driver-standin`. It knows nothing of our codec: what it
//! sends are bytes written down by hand after the captured ones, so that it agrees with Go and not merely with us.

#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

#[cfg(target_os = "linux")]
#[allow(dead_code)] // The tests of the driver generic use all of it.
#[path = "../generic/host.rs"]
mod host;
mod stand_in;

use machine_core::driver::{
    Checkpoint, Driver, DriverError, DriverState, FlagKind, FlagValue, FlagValues, MachinePlace,
    Progress, SeedFiles, Status,
};
use machine_drivers::plugin::PluginDriver;
use std::io::{BufRead, BufReader, Read, Write};
#[cfg(unix)]
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[cfg(not(unix))]
fn main() {
    println!("skipped: the stand-in is a symbolic link");
}

#[cfg(unix)]
fn main() -> ExitCode {
    if std::env::var_os("MACHINE_PLUGIN_TOKEN").is_some() {
        return stand_in::main();
    }
    type Test = fn();
    let tests: [(&str, Test); 10] = [
        ("a_machine_of_a_plug_in", a_machine_of_a_plug_in),
        ("a_refusal_is_told", a_refusal_is_told),
        ("a_death_is_told", a_death_is_told),
        ("a_program_that_is_no_plug_in", a_program_that_is_no_plug_in),
        ("its_flags_are_in_the_help", its_flags_are_in_the_help),
        ("our_drivers_are_plug_ins", our_drivers_are_plug_ins),
        ("its_service_has_an_old_name", its_service_has_an_old_name),
        ("an_interrupt_orphans_nothing", an_interrupt_orphans_nothing),
        ("a_failure_is_undone_once", a_failure_is_undone_once),
        ("a_machine_with_its_engine", a_machine_with_its_engine),
    ];
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        if !arguments.iter().any(|argument| argument == "--ignored") {
            tests.iter().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|text| !text.starts_with('-'));
    for (name, test) in tests {
        if filter.is_none_or(|filter| name.contains(filter.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

/// The stand-in under this name calls its service as plug-ins from before docker-machine 0.5.1 do.
const OLD: &str = "oldstandin";
/// What is set for the stand-in: the folder of [`World::provider`]; where its `Create` ends (`hangs`, `fails`); the address and
/// key of a host that is its machine.
const PROVIDER: &str = "STANDIN_PROVIDER";
const CREATE: &str = "STANDIN_CREATE";
const HOST: &str = "STANDIN_HOST";
const KEY: &str = "STANDIN_KEY";
/// What the stand-in says when the provider was asked for a machine, and before it has answered.
const ASKED: &str = "Asked for a machine.";

/// A folder with a store's machine in it and one with the plug-in.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("store/machines/dev")).unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::fs::create_dir(folder.path().join("provider")).unwrap();
        let world = World { folder };
        for name in ["standin", OLD] {
            let program = world.program(name);
            std::os::unix::fs::symlink(std::env::current_exe().unwrap(), program).unwrap();
        }
        world
    }

    fn program(&self, name: &str) -> PathBuf {
        let bin = self.folder.path().join("bin");
        bin.join(format!("docker-machine-driver-{name}"))
    }

    fn driver(&self) -> PluginDriver {
        PluginDriver::new("standin", self.program("standin"))
    }

    /// The program `machine`, with the plug-in on its path.
    fn machine(&self, line: &str) -> Command {
        let path = std::env::join_paths(
            std::iter::once(self.folder.path().join("bin"))
                .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        )
        .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_machine"));
        command
            .args(line.split(' '))
            .env("PATH", path)
            .env("MACHINE_STORAGE_PATH", self.folder.path().join("store"))
            .env(PROVIDER, self.provider())
            .stdin(Stdio::null());
        command
    }

    /// Where each machine that exists has a file, and `calls` what was done.
    fn provider(&self) -> PathBuf {
        self.folder.path().join("provider")
    }

    #[track_caller]
    fn assert_undone_once(&self) {
        let entries = std::fs::read_dir(self.provider()).unwrap();
        let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["calls"], "no machine is left");
        let calls = std::fs::read_to_string(self.provider().join("calls")).unwrap();
        assert_eq!(calls, "Create\nRemove\n");
        let machines = self.folder.path().join("store/machines");
        assert!(!machines.join("new").exists());
    }

    fn place(&self) -> MachinePlace {
        let store = self.folder.path().join("store");
        MachinePlace {
            name: "dev".into(),
            folder: store.join("machines/dev"),
            store,
        }
    }
}

fn values(pairs: &[(&str, FlagValue)]) -> FlagValues {
    let pairs = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), value.clone()));
    FlagValues(pairs.collect())
}

fn token() -> (&'static str, FlagValue) {
    ("standin-token", FlagValue::Text("secret".into()))
}

#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl Progress for Lines {
    fn say(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }

    fn interrupted(&self) -> bool {
        false
    }
}

#[derive(Default)]
struct Saved(Vec<DriverState>);

impl Checkpoint for Saved {
    fn save(&mut self, state: &DriverState) -> Result<(), DriverError> {
        self.0.push(state.clone());
        Ok(())
    }
}

fn no_seed() -> SeedFiles {
    SeedFiles { files: Vec::new() }
}

fn a_machine_of_a_plug_in() {
    let world = World::new();
    let (driver, place) = (world.driver(), world.place());
    let flags = driver.flags().unwrap();
    let shown: Vec<(&str, &FlagKind)> = flags.iter().map(|flag| (flag.name, &flag.kind)).collect();
    assert_eq!(
        shown,
        [
            ("standin-token", &FlagKind::Text("")),
            ("standin-size", &FlagKind::Int(7)),
            ("standin-tag", &FlagKind::List),
            ("standin-loud", &FlagKind::Bool),
        ]
    );
    assert_eq!(flags[0].environment, Some("STANDIN_TOKEN"));

    let values = values(&[
        token(),
        ("standin-tag", FlagValue::List(vec!["a".into(), "b".into()])),
    ]);
    driver.check(&place, &values).unwrap();
    let mut state = driver.plan(&place, &values).unwrap();
    assert_eq!(state["Token"], "secret");
    // Told where it is, the token itself is in no record.
    let referred = FlagValue::Text("cmd:printf secret".into());
    let elsewhere = self::values(&[("standin-token", referred)]);
    let other = world.driver();
    other.check(&place, &elsewhere).unwrap();
    assert_eq!(
        other.plan(&place, &elsewhere).unwrap()["Token"],
        "cmd:printf secret"
    );
    drop(other);
    let (lines, mut saved) = (Lines::default(), Saved::default());
    driver
        .create(&place, &mut state, &no_seed(), &mut saved, &lines)
        .unwrap();
    // Checked, planned and made by one process, as plug-ins expect, and its heart was kept beating.
    assert_eq!(state["Calls"], "PreCreateCheck,Create");
    assert!(state["Heartbeats"].as_u64().unwrap() >= 1, "{state:?}");
    let lines = lines.0.into_inner().unwrap();
    assert_eq!(lines, ["Making dev...", ASKED, "Made."]);
    assert_eq!(saved.0.last(), Some(&state));
    assert!(
        state["SSHKeyPath"]
            .as_str()
            .unwrap()
            .ends_with("machines/dev/id_rsa")
    );

    assert_eq!(driver.status(&place, &state).unwrap(), Status::Running);
    let address = driver.address(&place, &state).unwrap();
    assert_eq!(address.ip.to_string(), "127.0.0.9");
    assert_eq!((address.api_port, address.ssh_port), (2376, 2222));
    assert_eq!(address.ssh_user, "root");
    driver.stop(&place, &mut state, &Lines::default()).unwrap();
    assert_eq!(driver.status(&place, &state).unwrap(), Status::Stopped);
    driver
        .start(&place, &mut state, &no_seed(), &Lines::default())
        .unwrap();
    driver.kill(&place, &mut state).unwrap();
    driver.remove(&place, &mut state).unwrap();
}

fn a_refusal_is_told() {
    let world = World::new();
    let error = world
        .driver()
        .check(&world.place(), &values(&[]))
        .unwrap_err();
    let text = machine_core::error::chain(&error);
    assert!(text.contains("the token is missing"), "{text}");
}

fn a_death_is_told() {
    let world = World::new();
    let (driver, place) = (world.driver(), world.place());
    let values = values(&[token(), ("standin-loud", FlagValue::Bool(true))]);
    let mut state = driver.plan(&place, &values).unwrap();
    let began = Instant::now();
    let error = driver
        .create(
            &place,
            &mut state,
            &no_seed(),
            &mut Saved::default(),
            &Lines::default(),
        )
        .unwrap_err();
    let text = machine_core::error::chain(&error);
    assert!(
        text.contains("died during Create")
            && text.contains("exit status: 2")
            && text.contains("panic: boom"),
        "{text}"
    );
    assert!(began.elapsed() < Duration::from_secs(30));
}

fn a_program_that_is_no_plug_in() {
    for (program, why) in [
        ("/bin/true", "did not say"),
        ("/nowhere/x", "start the plug-in"),
    ] {
        let driver = PluginDriver::new("x", PathBuf::from(program));
        let text = machine_core::error::chain(&driver.flags().unwrap_err());
        assert!(text.contains(why), "{text}");
    }
}

fn its_flags_are_in_the_help() {
    let world = World::new();
    let run = |line: &str| {
        let output = world.machine(line).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, help, _) = run("create -d standin --help");
    assert_eq!(code, Some(0));
    assert!(
        help.contains("--standin-token") && help.contains("The size [default: 7]"),
        "{help}"
    );
    let (code, _, said) = run("create -d standin other");
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the token is missing"), "{said}");
    assert!(!world.folder.path().join("store/machines/other").exists());
    let (code, _, said) = run("create -d nobody other");
    assert_eq!(code, Some(1));
    assert!(said.contains("docker-machine-driver-NAME"), "{said}");
}

/// The program itself, served as plug-ins.
fn our_drivers_are_plug_ins() {
    let world = World::new();
    let place = world.place();
    let served = |name| PluginDriver::new(name, PathBuf::from(env!("CARGO_BIN_EXE_machine")));
    let none = served("none");
    let values = values(&[("url", FlagValue::Text("tcp://192.0.2.7:99".into()))]);
    none.check(&place, &values).unwrap();
    let mut state = none.plan(&place, &values).unwrap();
    assert_eq!(state["URL"], "tcp://192.0.2.7:99");
    none.create(
        &place,
        &mut state,
        &no_seed(),
        &mut Saved::default(),
        &Lines::default(),
    )
    .unwrap();
    assert_eq!(none.status(&place, &state).unwrap(), Status::Running);
    assert_eq!(none.address(&place, &state).unwrap().api_port, 99);
    let error = none
        .stop(&place, &mut state, &Lines::default())
        .unwrap_err();
    assert!(machine_core::error::chain(&error).contains("cannot do that"));
    let flags = served("generic").flags().unwrap();
    assert!(flags.iter().any(|flag| flag.name == "generic-ip-address"));
    assert!(served("nobody").flags().is_err());
    assert!(Path::new(env!("CARGO_BIN_EXE_machine")).exists());
}

fn its_service_has_an_old_name() {
    let world = World::new();
    let driver = PluginDriver::new(OLD, world.program(OLD));
    assert_eq!(driver.flags().unwrap()[0].name, "standin-token");
    driver.check(&world.place(), &values(&[token()])).unwrap();
}

/// Ctrl-C in a terminal, while the provider is asked for a machine: its answer, and so the machine's id, is waited for.
fn an_interrupt_orphans_nothing() {
    let world = World::new();
    let mut child = world
        .machine("create -d standin --standin-token secret new")
        .env(CREATE, "hangs")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(ASKED) {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "it must be asked");
    }
    // The whole group, as a terminal does.
    let kill = format!("kill -s INT -- -{}", child.id());
    let killed = Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(killed.success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}{said}");
    assert!(
        rest.contains("Interrupted: removing what was made"),
        "{rest}"
    );
    world.assert_undone_once();
}

fn a_failure_is_undone_once() {
    let world = World::new();
    let output = world
        .machine("create -d standin --standin-token secret new")
        .env(CREATE, "fails")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no quota"), "{said}");
    world.assert_undone_once();
}

/// From nothing to an engine that answers, with the plug-in's part played by a host of the test's own.
#[cfg(target_os = "linux")]
fn a_machine_with_its_engine() {
    let Some(host) = host::start() else { return };
    let world = World::new();
    let machine = |line: &str| {
        let mut command = world.machine(line);
        command
            .env(HOST, &host.address)
            .env(KEY, host.key())
            .env("MACHINE_AGENT", host::agent().unwrap());
        command
    };
    let made = host::run(&mut machine(
        "create -d standin --standin-token secret --standin-tag a new",
    ));
    assert!(made.contains("(new) Made."), "{made}");
    assert!(made.contains("Docker is up and running!"), "{made}");
    let list = host::run(&mut machine("ls"));
    let url = format!("tcp://{}:2376", host.address);
    for part in ["new", "standin", "Running", &url] {
        assert!(list.contains(part), "{part}: {list}");
    }
    host::run(&mut machine("config new"));
    assert_eq!(host::run(&mut machine("ip new")).trim(), host.address);
    assert_eq!(host::run(&mut machine("ssh new id -un")).trim(), "root");

    // What the machine was made with is known, but for the secret.
    let file = world.folder.path().join("machine.toml");
    let apply = |size: u32, tag: &str| {
        let text = format!(
            "[machine.new]\ndriver = 'standin'\nstandin-tag = '{tag}'\nstandin-size = {size}\n"
        );
        std::fs::write(&file, text).unwrap();
        let line = format!("apply -f {}", file.display());
        let output = machine(&line).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(apply(7, "a"), "new: as declared\n");
    assert_eq!(
        apply(8, "b"),
        "new: standin-size differs and cannot be changed\nnew: standin-tag differs and cannot be changed\n"
    );
    let config = world.folder.path().join("store/machines/new/config.json");
    assert!(
        !std::fs::read_to_string(config)
            .unwrap()
            .contains("\"secret\"")
    );

    host::run(&mut machine("stop new"));
    assert_eq!(host::run(&mut machine("status new")).trim(), "Stopped");
    host::run(&mut machine("start new"));
    host::run(&mut machine("rm -y new"));
    world.assert_undone_once();
}

#[cfg(not(target_os = "linux"))]
fn a_machine_with_its_engine() {
    println!("skipped: its host is one of Linux");
}
