//! Our own drivers as a plug-in: the side of the protocol that answers. docker-machine, or `machine` itself, starts this program with
//! the token in its environment and calls it.

use super::gob::{Decoder, Encoder, INT, INTERFACE, STRING, Type, Value};
use super::rpc::{HELLO, WELCOME, nothing, raw, response_type};
use super::session::{DRIVER_NAME, TOKEN, TOKEN_VALUE};
use machine_core::driver::{
    Checkpoint, Driver, DriverError, DriverState, Flag, FlagKind, FlagValue, FlagValues,
    MachinePlace, Progress, SeedFiles, Status,
};
use machine_core::error::chain;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Silence of the caller after which a plug-in ends itself.
const LISTENS_FOR: Duration = Duration::from_secs(10);

/// Makes what a guest of ours is told at its creation, for drivers that boot our image.
pub type MakeSeed =
    dyn Fn(&MachinePlace, &mut DriverState) -> Result<SeedFiles, DriverError> + Send + Sync;

/// The name of the driver to serve, where this program was started as a plug-in.
pub fn asked_for() -> Option<String> {
    if std::env::var_os(TOKEN).is_none_or(|token| token != TOKEN_VALUE) {
        return None;
    }
    std::env::var(DRIVER_NAME)
        .ok()
        .filter(|name| !name.is_empty())
}

/// Serves one driver until the caller says `Close` or falls silent.
pub fn serve(driver: Arc<dyn Driver>, make_seed: Box<MakeSeed>) -> ExitCode {
    match try_serve(driver, make_seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn try_serve(driver: Arc<dyn Driver>, make_seed: Box<MakeSeed>) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    io::stdout().flush()?;
    let served = Arc::new(Served {
        driver,
        make_seed,
        machine: Mutex::new(Machine::default()),
        heard: Mutex::new(Instant::now()),
    });
    let watched = served.clone();
    std::thread::spawn(move || {
        while lock(&watched.heard).elapsed() < LISTENS_FOR {
            std::thread::sleep(Duration::from_millis(500));
        }
        std::process::exit(1);
    });
    // One caller, as in docker-machine.
    let (stream, _) = listener.accept()?;
    answer_all(&served, stream)
}

struct Served {
    driver: Arc<dyn Driver>,
    make_seed: Box<MakeSeed>,
    machine: Mutex<Machine>,
    heard: Mutex<Instant>,
}

/// What the caller told us of the machine.
#[derive(Default, Clone)]
struct Machine {
    state: DriverState,
    values: FlagValues,
}

impl Machine {
    fn place(&self) -> MachinePlace {
        let text = |key: &str| {
            let value = self.state.get(key).and_then(|value| value.as_str());
            value.unwrap_or_default().to_owned()
        };
        let (name, store) = (text("MachineName"), PathBuf::from(text("StorePath")));
        MachinePlace {
            folder: store.join("machines").join(&name),
            name,
            store,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls are answered side by side: a heartbeat must not wait for a `Create`.
fn answer_all(served: &Arc<Served>, mut stream: TcpStream) -> io::Result<()> {
    let mut hello = vec![0; HELLO.len()];
    stream.read_exact(&mut hello)?;
    if hello != HELLO {
        return Err(io::Error::other("the caller does not speak Go RPC"));
    }
    stream.write_all(WELCOME)?;
    stream.set_nodelay(true)?;
    let writer = Arc::new(Mutex::new((stream.try_clone()?, Encoder::default())));
    let mut decoder = Decoder::new(BufReader::new(stream));
    loop {
        let Ok(header) = decoder.decode() else {
            return Ok(()); // the caller hung up
        };
        let argument = decoder.decode()?;
        *lock(&served.heard) = Instant::now();
        let number = match header.field("Seq") {
            Some(Value::Uint(number)) => *number,
            _ => 0,
        };
        let service = header.field("ServiceMethod").and_then(Value::text);
        let service = service.unwrap_or_default().to_owned();
        if service.ends_with(".Close") {
            return respond(&writer, &service, number, Ok(nothing()));
        }
        let (served, writer) = (served.clone(), writer.clone());
        std::thread::spawn(move || {
            let answer = match service.strip_prefix("RPCServerDriver.") {
                Some(method) => served.answer(method, argument),
                None => Err(format!("rpc: can't find service {service}")),
            };
            // A caller that is gone needs no answer.
            let _ = respond(&writer, &service, number, answer);
        });
    }
}

fn respond(
    writer: &Mutex<(TcpStream, Encoder)>,
    service: &str,
    number: u64,
    answer: Result<(Type, Value), String>,
) -> io::Result<()> {
    let mut fields = BTreeMap::from([
        ("ServiceMethod".to_owned(), Value::Text(service.to_owned())),
        ("Seq".to_owned(), Value::Uint(number)),
    ]);
    let (of, value) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            fields.insert("Error".to_owned(), Value::Text(error));
            nothing()
        }
    };
    let mut writer = lock(writer);
    let (stream, encoder) = &mut *writer;
    let mut bytes = encoder.encode(&response_type(), &Value::Struct(fields))?;
    bytes.extend(encoder.encode(&of, &value)?);
    stream.write_all(&bytes)
}

impl Served {
    fn answer(&self, method: &str, argument: Value) -> Result<(Type, Value), String> {
        let text = |text: String| Ok((Type::Basic(STRING), Value::Text(text)));
        let number = |number: i64| Ok((Type::Basic(INT), Value::Int(number)));
        let told = |error: DriverError| chain(&error);
        match method {
            "GetVersion" => number(1),
            "Heartbeat" => Ok(nothing()),
            "DriverName" => text(self.driver.name().to_owned()),
            "GetCreateFlags" => {
                let flags = self.driver.flags().map_err(told)?;
                let list = flags.iter().map(flag).collect();
                let of = Type::Slice(Box::new(Type::Basic(INTERFACE)));
                Ok((of, Value::List(list)))
            }
            "SetConfigRaw" => {
                let Value::Bytes(json) = argument else {
                    return Err("the configuration is no text".into());
                };
                let state = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
                lock(&self.machine).state = state;
                Ok(nothing())
            }
            "GetConfigRaw" => {
                let state = lock(&self.machine).state.clone();
                Ok(raw(
                    serde_json::to_vec(&state).map_err(|error| error.to_string())?
                ))
            }
            "SetConfigFromFlags" => {
                let mut machine = lock(&self.machine);
                machine.values = values(&argument).ok_or("the flags cannot be understood")?;
                let place = machine.place();
                let planned = self.driver.plan(&place, &machine.values).map_err(told)?;
                // What the caller said of the machine stays, what the driver chose is added.
                machine.state.extend(planned);
                Ok(nothing())
            }
            "PreCreateCheck" => {
                let machine = lock(&self.machine).clone();
                let checked = self.driver.check(&machine.place(), &machine.values);
                checked.map(|()| nothing()).map_err(told)
            }
            "Create" => self.change(|driver, place, state| {
                let seed = match driver.capabilities().boots_our_image {
                    true => (self.make_seed)(place, state)?,
                    false => SeedFiles { files: Vec::new() },
                };
                driver.create(place, state, &seed, &mut Nowhere, &Stdout)
            }),
            "Start" => self.change(|driver, place, state| {
                let seed = match driver.capabilities().boots_our_image {
                    true => (self.make_seed)(place, state)?,
                    false => SeedFiles { files: Vec::new() },
                };
                driver.start(place, state, &seed, &Stdout)
            }),
            "Stop" => self.change(|driver, place, state| driver.stop(place, state, &Stdout)),
            "Restart" => self.change(|driver, place, state| {
                driver.stop(place, state, &Stdout)?;
                let seed = match driver.capabilities().boots_our_image {
                    true => (self.make_seed)(place, state)?,
                    false => SeedFiles { files: Vec::new() },
                };
                driver.start(place, state, &seed, &Stdout)
            }),
            "Kill" => self.change(|driver, place, state| driver.kill(place, state)),
            "Remove" => self.change(|driver, place, state| driver.remove(place, state)),
            "GetState" => {
                let machine = lock(&self.machine).clone();
                let status = self.driver.status(&machine.place(), &machine.state);
                number(state_number(status.map_err(told)?))
            }
            "GetMachineName" => text(lock(&self.machine).place().name),
            "GetIP" | "GetSSHHostname" => text(self.address().map_err(told)?.ip.to_string()),
            "GetSSHUsername" => text(self.address().map_err(told)?.ssh_user),
            "GetSSHPort" => number(self.address().map_err(told)?.ssh_port.into()),
            "GetURL" => {
                let address = self.address().map_err(told)?;
                text(machine_core::use_cases::url_of(&address))
            }
            "GetSSHKeyPath" => {
                let machine = lock(&self.machine);
                let key = machine.state.get("SSHKeyPath").and_then(|key| key.as_str());
                text(key.unwrap_or_default().to_owned())
            }
            _ => Err(format!("rpc: can't find method RPCServerDriver.{method}")),
        }
    }

    fn address(&self) -> Result<machine_core::driver::Address, DriverError> {
        let machine = lock(&self.machine).clone();
        self.driver.address(&machine.place(), &machine.state)
    }

    /// Lets the driver work on a copy, so that questions are answered meanwhile.
    fn change(
        &self,
        work: impl FnOnce(&dyn Driver, &MachinePlace, &mut DriverState) -> Result<(), DriverError>,
    ) -> Result<(Type, Value), String> {
        let machine = lock(&self.machine).clone();
        let mut state = machine.state.clone();
        let done = work(self.driver.as_ref(), &machine.place(), &mut state);
        lock(&self.machine).state = state;
        done.map(|()| nothing()).map_err(|error| chain(&error))
    }
}

/// Lines on stdout are shown by the caller.
struct Stdout;

impl Progress for Stdout {
    fn say(&self, line: &str) {
        let _ = writeln!(io::stdout(), "{line}");
    }

    fn interrupted(&self) -> bool {
        false
    }
}

/// The caller asks for the configuration when it wants it.
struct Nowhere;

impl Checkpoint for Nowhere {
    fn save(&mut self, _state: &DriverState) -> Result<(), DriverError> {
        Ok(())
    }
}

fn state_number(status: Status) -> i64 {
    match status {
        Status::NotFound => 0,
        Status::Running => 1,
        Status::Paused => 2,
        Status::Saved => 3,
        Status::Stopped => 4,
        Status::Stopping => 5,
        Status::Starting => 6,
        Status::Error => 7,
        Status::Timeout => 8,
    }
}

fn flag(flag: &Flag) -> Value {
    let text = |text: &str| Value::Text(text.to_owned());
    let mut fields = BTreeMap::from([
        ("Name".to_owned(), text(flag.name)),
        ("Usage".to_owned(), text(flag.help)),
        (
            "EnvVar".to_owned(),
            text(flag.environment.unwrap_or_default()),
        ),
    ]);
    let (of, value) = match flag.kind {
        FlagKind::Bool => ("*mcnflag.BoolFlag", None),
        FlagKind::Int(default) => ("*mcnflag.IntFlag", Some(Value::Int(default))),
        FlagKind::Text(default) => ("*mcnflag.StringFlag", Some(text(default))),
        FlagKind::List => ("*mcnflag.StringSliceFlag", Some(Value::List(Vec::new()))),
    };
    if let Some(value) = value {
        fields.insert("Value".to_owned(), value);
    }
    Value::Interface(of.to_owned(), Box::new(Value::Struct(fields)))
}

/// The values in an `RPCFlags`.
fn values(argument: &Value) -> Option<FlagValues> {
    let Value::Interface(_, inner) = argument else {
        return None;
    };
    let mut values = FlagValues::default();
    if let Some(Value::Map(pairs)) = inner.field("Values") {
        for (name, value) in pairs {
            let Value::Interface(_, value) = value else {
                continue;
            };
            let value = match value.as_ref() {
                Value::Bool(value) => FlagValue::Bool(*value),
                Value::Int(value) => FlagValue::Int(*value),
                Value::Text(text) => FlagValue::Text(text.clone()),
                Value::List(list) => FlagValue::List(
                    list.iter()
                        .filter_map(Value::text)
                        .map(str::to_owned)
                        .collect(),
                ),
                _ => continue,
            };
            values.0.insert(name.text()?.to_owned(), value);
        }
    }
    Some(values)
}
