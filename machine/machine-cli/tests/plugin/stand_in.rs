//! A plug-in as Go's would be, from bytes written by hand.

use super::*;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct State {
    service: &'static str,
    config: Mutex<DriverState>,
    heartbeats: AtomicU64,
    header_was_defined: Mutex<bool>,
    nothing_was_defined: Mutex<bool>,
}

pub fn main() -> ExitCode {
    assert_eq!(std::env::var("MACHINE_PLUGIN_TOKEN").unwrap(), "42");
    let service = match std::env::var("MACHINE_PLUGIN_DRIVER_NAME").as_deref() {
        Ok("standin") => "RPCServerDriver",
        Ok(OLD) => "RpcServerDriver",
        other => panic!("{other:?}"),
    };
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
        service,
        config: Mutex::default(),
        heartbeats: AtomicU64::new(0),
        header_was_defined: Mutex::new(false),
        nothing_was_defined: Mutex::new(false),
    });
    let writer = Arc::new(Mutex::new(stream.try_clone().unwrap()));
    loop {
        let Some((called, number, body)) = read_call(&mut stream) else {
            return ExitCode::SUCCESS;
        };
        let Some(method) = called
            .strip_prefix(&format!("{service}."))
            .map(str::to_owned)
        else {
            let error = format!("rpc: can't find service {called}");
            send(&state, &writer, &called, number, &error, &[]);
            continue;
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
    let mut body = read_value(stream)?;
    if method.ends_with(".SetConfigFromFlags") {
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
    out.push(
        u8::try_from(header.len())
            .ok()
            .filter(|length| *length < 128)
            .unwrap(),
    );
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
    let define =
        |part: &mut Vec<u8>, out: &mut Vec<u8>, full: &str, id: u8, value: Option<Vec<u8>>| {
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

fn provider() -> Option<PathBuf> {
    std::env::var_os(PROVIDER).map(PathBuf::from)
}

/// Writes down for the test what is done at the provider.
fn done(method: &str) {
    let Some(provider) = provider() else { return };
    let mut options = std::fs::OpenOptions::new();
    let calls = options
        .append(true)
        .create(true)
        .open(provider.join("calls"));
    calls
        .unwrap()
        .write_all(format!("{method}\n").as_bytes())
        .unwrap();
}

fn ip() -> String {
    std::env::var(HOST).unwrap_or_else(|_| "127.0.0.9".into())
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

fn answer(state: &State, writer: &Mutex<TcpStream>, method: &str, number: u64, body: &[u8]) {
    let called_as = format!("{}.{method}", state.service);
    let say = |error: &str, body: &[u8]| send(state, writer, &called_as, number, error, body);
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
            done(method);
            println!("{ASKED}");
            if let Ok(how) = std::env::var(CREATE) {
                // The provider takes a moment; who was not waited for until then does not know the id.
                std::thread::sleep(Duration::from_secs(1));
                let id = format!("vm-{}", std::process::id());
                std::fs::write(provider().unwrap().join(&id), "").unwrap();
                state.config.lock().unwrap().insert("Id".into(), id.into());
                match how.as_str() {
                    "fails" => return say("no quota", &[]),
                    _ => std::thread::sleep(Duration::from_secs(600)),
                }
            }
            // Longer than a heartbeat takes to come.
            std::thread::sleep(Duration::from_millis(5300));
            let key = format!(
                "{}/machines/{}/id_rsa",
                config["StorePath"].as_str().unwrap(),
                config["MachineName"].as_str().unwrap()
            );
            match std::env::var(KEY) {
                Ok(given) => drop(std::fs::copy(given, &key).unwrap()),
                Err(_) => std::fs::write(&key, "key").unwrap(),
            }
            let mut config = state.config.lock().unwrap();
            config.insert("SSHKeyPath".into(), key.into());
            config.insert("IPAddress".into(), ip().into());
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
        "Remove" => {
            done(method);
            // A machine without an id was never made.
            if let (Some(provider), Some(id)) = (provider(), state.config.lock().unwrap().get("Id"))
            {
                std::fs::remove_file(provider.join(id.as_str().unwrap())).unwrap();
            }
            say("", &[]);
        }
        "GetState" => {
            let number = state.config.lock().unwrap()["State"].as_u64().unwrap();
            say("", &int(number as u16));
        }
        "GetIP" => say("", &text(&ip())),
        "GetURL" => say("", &text(&format!("tcp://{}:2376", ip()))),
        "GetSSHUsername" => say("", &text("root")),
        "GetSSHPort" => say(
            "",
            &int(if std::env::var_os(HOST).is_some() {
                22
            } else {
                2222
            }),
        ),
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
