//! Plug-ins of docker-machine, seen from both sides.
//!
//! The stand-in is this program again, under the name `docker-machine-driver-standin`. It knows nothing of our codec: what it
//! sends are bytes written down by hand after the captured ones, so that it agrees with Go and not merely with us.

#![cfg_attr(not(unix), allow(dead_code, unused_imports))]

use machine_core::driver::{
    Checkpoint, Driver, DriverError, DriverState, FlagKind, FlagValue, FlagValues, MachinePlace,
    Progress, SeedFiles, Status,
};
use machine_drivers::plugin::PluginDriver;
use std::io::{Read, Write};
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
    let tests: [(&str, Test); 6] = [
        ("a_machine_of_a_plug_in", a_machine_of_a_plug_in),
        ("a_refusal_is_told", a_refusal_is_told),
        ("a_death_is_told", a_death_is_told),
        ("a_program_that_is_no_plug_in", a_program_that_is_no_plug_in),
        ("its_flags_are_in_the_help", its_flags_are_in_the_help),
        ("our_drivers_are_plug_ins", our_drivers_are_plug_ins),
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

/// A folder with a store's machine in it and one with the plug-in.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("store/machines/dev")).unwrap();
        std::fs::create_dir(folder.path().join("bin")).unwrap();
        std::os::unix::fs::symlink(
            std::env::current_exe().unwrap(),
            folder.path().join("bin/docker-machine-driver-standin"),
        )
        .unwrap();
        World { folder }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("bin/docker-machine-driver-standin")
    }

    fn driver(&self) -> PluginDriver {
        PluginDriver::new("standin", self.program())
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
    assert_eq!(lines, ["Making dev...", "Made."]);
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
    let path = std::env::join_paths(
        std::iter::once(world.folder.path().join("bin"))
            .chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    )
    .unwrap();
    let run = |line: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_machine"))
            .args(line)
            .env("PATH", &path)
            .env("MACHINE_STORAGE_PATH", world.folder.path().join("store"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, help, _) = run(&["create", "-d", "standin", "--help"]);
    assert_eq!(code, Some(0));
    assert!(
        help.contains("--standin-token") && help.contains("The size [default: 7]"),
        "{help}"
    );
    let (code, _, said) = run(&["create", "-d", "standin", "other"]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the token is missing"), "{said}");
    assert!(!world.folder.path().join("store/machines/other").exists());
    let (code, _, said) = run(&["create", "-d", "nobody", "other"]);
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

/// A plug-in as Go's would be, from bytes written by hand.
mod stand_in {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct State {
        config: Mutex<DriverState>,
        heartbeats: AtomicU64,
        header_was_defined: Mutex<bool>,
        nothing_was_defined: Mutex<bool>,
    }

    pub fn main() -> ExitCode {
        assert_eq!(std::env::var("MACHINE_PLUGIN_TOKEN").unwrap(), "42");
        assert_eq!(
            std::env::var("MACHINE_PLUGIN_DRIVER_NAME").unwrap(),
            "standin"
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        println!("{}", listener.local_addr().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 27];
        stream.read_exact(&mut hello).unwrap();
        assert_eq!(&hello, b"CONNECT /_goRPC_ HTTP/1.0\n\n");
        stream
            .write_all(b"HTTP/1.0 200 Connected to Go RPC\n\n")
            .unwrap();
        let state = Arc::new(State {
            config: Mutex::default(),
            heartbeats: AtomicU64::new(0),
            header_was_defined: Mutex::new(false),
            nothing_was_defined: Mutex::new(false),
        });
        let writer = Arc::new(Mutex::new(stream.try_clone().unwrap()));
        loop {
            let Some((method, number, body)) = read_call(&mut stream) else {
                return ExitCode::SUCCESS;
            };
            if method == "Close" {
                return ExitCode::SUCCESS;
            }
            let (state, writer) = (state.clone(), writer.clone());
            let work = move || answer(&state, &writer, &method, number, &body);
            // As in Go every call has a thread of its own, but what depends on order comes in order.
            std::thread::spawn(work);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn read_number(stream: &mut impl Read) -> Option<u64> {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        if byte[0] < 128 {
            return Some(byte[0].into());
        }
        let mut bytes = [0; 8];
        let count = 256 - usize::from(byte[0]);
        stream.read_exact(&mut bytes[8 - count..]).ok()?;
        Some(u64::from_be_bytes(bytes))
    }

    fn read_message(stream: &mut impl Read) -> Option<Vec<u8>> {
        let mut message = vec![0; read_number(stream)? as usize];
        stream.read_exact(&mut message).ok()?;
        Some(message)
    }

    /// Odd numbers are negative: a definition.
    fn is_definition(message: &[u8]) -> bool {
        read_number(&mut &message[..]).unwrap() % 2 == 1
    }

    fn read_value(stream: &mut impl Read) -> Option<Vec<u8>> {
        loop {
            let message = read_message(stream)?;
            if !is_definition(&message) {
                return Some(message);
            }
        }
    }

    fn read_call(stream: &mut impl Read) -> Option<(String, u64, Vec<u8>)> {
        let header = read_value(stream)?;
        assert_eq!(header[..3], [0xff, 0x80, 1], "{header:02x?}");
        let length = usize::from(header[3]);
        let method = String::from_utf8(header[4..4 + length].to_vec()).unwrap();
        let rest = &header[4 + length..];
        let number = match rest[0] {
            0 => 0,
            _ => read_number(&mut &rest[1..])?,
        };
        let method = method.strip_prefix("RPCServerDriver.").unwrap().to_owned();
        let mut body = read_value(stream)?;
        if method == "SetConfigFromFlags" {
            // The definition of RPCFlags goes with its name, that of its map follows, then the value.
            let name = b"\x10\x00\x13*rpcdriver.RPCFlags\xff\x83\x03\x01\x01\x08RPCFlags";
            assert!(body.starts_with(name), "{body:02x?}");
            body = read_value(stream)?;
            assert_eq!(body[..2], [0xff, 0x84], "{body:02x?}");
        }
        Some((method, number, body))
    }

    fn send(
        state: &State,
        writer: &Mutex<TcpStream>,
        method: &str,
        number: u64,
        error: &str,
        body: &[u8],
    ) {
        let mut out = Vec::new();
        let mut writer = writer.lock().unwrap();
        if !std::mem::replace(&mut *state.header_was_defined.lock().unwrap(), true) {
            out.extend_from_slice(
                b"\x39\x7f\x03\x01\x01\x08Response\x01\xff\x80\x00\x01\x03\x01\x0dServiceMethod\x01\x0c\x00\x01\x03Seq\x01\x06\x00\
                  \x01\x05Error\x01\x0c\x00\x00\x00",
            );
        }
        let method = format!("RPCServerDriver.{method}");
        let mut header = vec![0xff, 0x80, 1, method.len() as u8];
        header.extend_from_slice(method.as_bytes());
        if number > 0 {
            header.extend_from_slice(&[1, number as u8]);
        }
        if !error.is_empty() {
            header.extend_from_slice(&[if number > 0 { 1 } else { 2 }, error.len() as u8]);
            header.extend_from_slice(error.as_bytes());
        }
        header.push(0);
        out.push(header.len() as u8);
        out.extend(header);
        if body.is_empty() {
            if !std::mem::replace(&mut *state.nothing_was_defined.lock().unwrap(), true) {
                out.extend_from_slice(b"\x0a\xff\x81\x03\x01\x02\xff\x82\x00\x00\x00");
            }
            out.extend_from_slice(b"\x03\xff\x82\x00");
        }
        out.extend_from_slice(body);
        writer.write_all(&out).unwrap();
    }

    fn text(text: &str) -> Vec<u8> {
        let mut body = vec![text.len() as u8 + 3, 0x0c, 0, text.len() as u8];
        body.extend_from_slice(text.as_bytes());
        body
    }

    fn int(number: u16) -> Vec<u8> {
        match number * 2 {
            small if small < 128 => vec![3, 4, 0, small as u8],
            twice => [&[5, 4, 0, 0xfe][..], &twice.to_be_bytes()].concat(),
        }
    }

    fn bytes(contents: &[u8]) -> Vec<u8> {
        let length = (contents.len() as u16).to_be_bytes();
        let mut message = vec![0x0a, 0, 0xfe];
        message.extend_from_slice(&length);
        message.extend_from_slice(contents);
        let mut body = vec![0xfe];
        body.extend_from_slice(&(message.len() as u16).to_be_bytes());
        body.extend(message);
        body
    }

    /// Slices of interfaces: each type's definition ends a message.
    fn flags() -> Vec<u8> {
        let mut out = b"\x0c\xff\x83\x02\x01\x02\xff\x84\x00\x01\x10\x00\x00".to_vec();
        let mut part = vec![0xff, 0x84, 0, 4];
        let field =
            |name: &str, of: u8| [&[1, name.len() as u8], name.as_bytes(), &[1, of, 0]].concat();
        let define = |part: &mut Vec<u8>,
                      out: &mut Vec<u8>,
                      full: &str,
                      id: u8,
                      value: Option<Vec<u8>>| {
            let name = full.rsplit('.').next().unwrap();
            part.push(full.len() as u8);
            part.extend_from_slice(full.as_bytes());
            // -id, StructT, CommonType{Name, Id}, the fields.
            part.extend_from_slice(&[0xff, id * 2 - 1, 3, 1, 1, name.len() as u8]);
            part.extend_from_slice(name.as_bytes());
            part.extend_from_slice(&[1, 0xff, id * 2, 0, 1, if value.is_some() { 4 } else { 3 }]);
            for name in ["Name", "Usage", "EnvVar"] {
                part.extend(field(name, 0x0c));
            }
            part.extend(value.unwrap_or_default());
            part.extend_from_slice(&[0, 0]);
            out.push(part.len() as u8);
            out.append(part);
        };
        let value =
            |part: &mut Vec<u8>, id: u8, name: &str, usage: &str, variable: &str, rest: &[u8]| {
                let mut inner = Vec::new();
                for text in [name, usage] {
                    inner.extend_from_slice(&[1, text.len() as u8]);
                    inner.extend_from_slice(text.as_bytes());
                }
                let mut delta = 2;
                if !variable.is_empty() {
                    inner.extend_from_slice(&[1, variable.len() as u8]);
                    inner.extend_from_slice(variable.as_bytes());
                    delta = 1;
                }
                if !rest.is_empty() {
                    inner.push(delta);
                    inner.extend_from_slice(rest);
                }
                inner.push(0);
                part.extend_from_slice(&[0xff, id * 2, inner.len() as u8]);
                part.extend(inner);
            };
        define(
            &mut part,
            &mut out,
            "*mcnflag.StringFlag",
            67,
            Some(field("Value", 0x0c)),
        );
        value(
            &mut part,
            67,
            "standin-token",
            "The token",
            "STANDIN_TOKEN",
            &[],
        );
        define(
            &mut part,
            &mut out,
            "*mcnflag.IntFlag",
            68,
            Some(field("Value", 4)),
        );
        value(&mut part, 68, "standin-size", "The size", "", &[14]);
        let slice = [&[1, 5][..], b"Value", &[1, 0xff, 70 * 2, 0]].concat();
        define(
            &mut part,
            &mut out,
            "*mcnflag.StringSliceFlag",
            69,
            Some(slice),
        );
        // []string has its definition after that.
        out.extend_from_slice(&[
            0x0c,
            0xff,
            70 * 2 - 1,
            2,
            1,
            2,
            0xff,
            70 * 2,
            0,
            1,
            0x0c,
            0,
            0,
        ]);
        value(&mut part, 69, "standin-tag", "Tags", "", &[]);
        define(&mut part, &mut out, "*mcnflag.BoolFlag", 71, None);
        value(&mut part, 71, "standin-loud", "Die", "", &[]);
        out.push(0xff);
        out.push(part.len() as u8);
        out.append(&mut part);
        out
    }

    fn contains(body: &[u8], part: &[u8]) -> bool {
        body.windows(part.len()).any(|window| window == part)
    }

    fn answer(state: &State, writer: &Mutex<TcpStream>, method: &str, number: u64, body: &[u8]) {
        let say = |error: &str, body: &[u8]| send(state, writer, method, number, error, body);
        let called = |state: &State| {
            let mut config = state.config.lock().unwrap();
            let mut calls = config
                .get("Calls")
                .and_then(|c| c.as_str())
                .unwrap_or("")
                .to_owned();
            if !calls.is_empty() {
                calls.push(',');
            }
            calls.push_str(method);
            config.insert("Calls".into(), calls.into());
        };
        let set_state = |state: &State, number: u64| {
            state
                .config
                .lock()
                .unwrap()
                .insert("State".into(), number.into());
        };
        match method {
            "GetVersion" => say("", &int(1)),
            "Heartbeat" => {
                state.heartbeats.fetch_add(1, Ordering::Relaxed);
                say("", &[]);
            }
            "SetConfigRaw" => {
                let start = body.iter().position(|byte| *byte == b'{').unwrap();
                *state.config.lock().unwrap() = serde_json::from_slice(&body[start..]).unwrap();
                say("", &[]);
            }
            "GetConfigRaw" => {
                let json = serde_json::to_vec(&*state.config.lock().unwrap()).unwrap();
                say("", &bytes(&json));
            }
            "GetCreateFlags" => say("", &flags()),
            "SetConfigFromFlags" => {
                // Every flag, with Go's own type, defaults and swarm's included.
                for part in [
                    &b"\x0cstandin-size\x03int\x04\x02\x00\x0e"[..],
                    b"\x0bstandin-tag\x08[]string",
                    b"\x0cstandin-loud\x04bool\x02\x02\x00",
                    b"\x0cswarm-master\x04bool\x02\x02\x00\x00",
                    b"\x0aswarm-host\x06string\x0c\x02\x00\x00",
                    b"\x0fswarm-discovery\x06string\x0c\x02\x00\x00",
                ] {
                    assert!(contains(body, part), "{part:?} in {body:02x?}");
                }
                let mut config = state.config.lock().unwrap();
                if contains(body, b"\x0dstandin-token\x06string\x0c\x08\x00\x06secret") {
                    config.insert("Token".into(), "secret".into());
                }
                config.insert(
                    "Die".into(),
                    contains(body, b"standin-loud\x04bool\x02\x02\x00\x01").into(),
                );
                drop(config);
                say("", &[]);
            }
            "PreCreateCheck" => {
                called(state);
                let has_token = state.config.lock().unwrap().contains_key("Token");
                say(
                    if has_token {
                        ""
                    } else {
                        "the token is missing"
                    },
                    &[],
                );
            }
            "Create" => {
                called(state);
                let config = state.config.lock().unwrap().clone();
                println!("Making {}...", config["MachineName"].as_str().unwrap());
                if config["Die"] == true {
                    eprintln!("panic: boom");
                    std::process::exit(2);
                }
                // Longer than a heartbeat takes to come.
                std::thread::sleep(Duration::from_millis(5300));
                let key = format!(
                    "{}/machines/dev/id_rsa",
                    config["StorePath"].as_str().unwrap()
                );
                std::fs::write(&key, "key").unwrap();
                let mut config = state.config.lock().unwrap();
                config.insert("SSHKeyPath".into(), key.into());
                config.insert("IPAddress".into(), "127.0.0.9".into());
                config.insert(
                    "Heartbeats".into(),
                    state.heartbeats.load(Ordering::Relaxed).into(),
                );
                config.insert("State".into(), 1.into());
                drop(config);
                println!("Made.");
                say("", &[]);
            }
            "Start" => {
                set_state(state, 1);
                say("", &[]);
            }
            "Stop" | "Kill" => {
                set_state(state, 4);
                say("", &[]);
            }
            "Remove" => say("", &[]),
            "GetState" => {
                let number = state.config.lock().unwrap()["State"].as_u64().unwrap();
                say("", &int(number as u16));
            }
            "GetIP" => say("", &text("127.0.0.9")),
            "GetURL" => say("", &text("tcp://127.0.0.9:2376")),
            "GetSSHUsername" => say("", &text("root")),
            "GetSSHPort" => say("", &int(2222)),
            "GetSSHKeyPath" => {
                let key = state.config.lock().unwrap()["SSHKeyPath"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                say("", &text(&key));
            }
            other => say(
                &format!("rpc: can't find method RPCServerDriver.{other}"),
                &[],
            ),
        }
    }
}
