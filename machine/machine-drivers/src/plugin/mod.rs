//! Drivers that are programs of their own: every `docker-machine-driver-NAME` on `PATH`, as docker-machine runs them.
//!
//! ```text
//! machine --starts--> docker-machine-driver-NAME     (session: one process for the calls of one step)
//!    '---- Go net/rpc over gob on loopback ----'     (rpc, gob)
//! ```
//!
//! The plug-in makes a machine; the engine is put on it over ssh. `serve` is the other side: our own drivers as such a
//! plug-in.

pub mod gob;
pub mod rpc;
pub mod serve;
pub mod session;

use gob::Value;
use machine_core::driver::{
    Address, Capabilities, Checkpoint, Driver, DriverError, DriverState, Flag, FlagKind, FlagValue,
    FlagValues, MachinePlace, Progress, SeedFiles, Status,
};
use machine_core::secrets;
use serde_json::json;
use session::{Session, Show};
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const PROGRAM_PREFIX: &str = "docker-machine-driver-";

/// The driver of that name, where its program is on `PATH`. A path to a program names one, too.
pub fn find(name: &str) -> Option<Arc<dyn Driver>> {
    let program = match name.contains(std::path::MAIN_SEPARATOR) {
        true => Some(PathBuf::from(name)).filter(|path| path.is_file()),
        false => on_path(name, std::env::var_os("PATH")?.as_os_str()),
    }?;
    Some(Arc::new(PluginDriver::new(name, program)))
}

fn on_path(name: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    let file = format!("{PROGRAM_PREFIX}{name}{}", std::env::consts::EXE_SUFFIX);
    std::env::split_paths(path)
        .map(|folder| folder.join(&file))
        .find(|path| path.is_file())
}

/// One driver that is a program.
pub struct PluginDriver {
    /// Lives as long as the program: flags and names of drivers are constants everywhere else.
    name: &'static str,
    program: PathBuf,
    flags: OnceLock<Vec<Offered>>,
    /// What `check` began goes on in `create`: plug-ins keep in memory what they were told of flags.
    begun: Mutex<BTreeMap<String, Session>>,
}

/// A flag of the plug-in.
#[derive(Debug, Clone)]
struct Offered {
    flag: Flag,
    /// A list's default, which our own flags do not have.
    list: Vec<String>,
}

impl PluginDriver {
    pub fn new(name: &str, program: PathBuf) -> PluginDriver {
        PluginDriver {
            name: leak(name),
            program,
            flags: OnceLock::new(),
            begun: Mutex::new(BTreeMap::new()),
        }
    }

    fn start(&self) -> Result<Session, DriverError> {
        Session::start(self.name, &self.program)
    }

    /// A plug-in that knows the machine.
    fn open(&self, state: &DriverState) -> Result<Session, DriverError> {
        let session = self.start()?;
        session.configure(&secrets::looked_up(state).map_err(no_secret)?)?;
        Ok(session)
    }

    fn offered(&self) -> Result<&[Offered], DriverError> {
        if let Some(flags) = self.flags.get() {
            return Ok(flags);
        }
        let session = self.start()?;
        let flags = self.ask_flags(&session)?;
        Ok(self.flags.get_or_init(|| flags))
    }

    fn ask_flags(&self, session: &Session) -> Result<Vec<Offered>, DriverError> {
        let answer = session.act("GetCreateFlags", rpc::nothing(), &|| false)?;
        let Value::List(flags) = answer else {
            return Err(DriverError::failed(
                format!("read the flags of the driver {}", self.name),
                "they are no list",
            ));
        };
        Ok(flags.iter().filter_map(offered).collect())
    }

    /// A session that was told the flags: the one that `check` began, or a new one.
    fn begin(&self, place: &MachinePlace, values: &FlagValues) -> Result<Session, DriverError> {
        let begun = self.lock().remove(&place.name);
        if let Some(session) = begun {
            return Ok(session);
        }
        let session = self.start()?;
        session.configure(&first_state(place))?;
        let flags = self.flags.get().cloned();
        let flags = match flags {
            Some(flags) => flags,
            None => self.ask_flags(&session)?,
        };
        let argument = rpc::interface(rpc_flags(&flags, &looked_up(values)?));
        session.act("SetConfigFromFlags", argument, &|| false)?;
        Ok(session)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Session>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thing done to a machine; what the plug-in remembers then is stored even when it failed.
    fn act(
        &self,
        method: &'static str,
        state: &mut DriverState,
        show: &dyn Progress,
    ) -> Result<(), DriverError> {
        let session = self.open(state)?;
        let done = with_lines(&session, show, |over| {
            session.act(method, rpc::nothing(), over)
        });
        if let Ok(mut new) = session.state() {
            secrets::keep_references(state, &mut new);
            *state = new;
        }
        done.map(drop)
    }
}

/// Shows a plug-in's lines while it works.
fn with_lines<T>(
    session: &Session,
    progress: &dyn Progress,
    work: impl FnOnce(&dyn Fn() -> bool) -> Result<T, DriverError>,
) -> Result<T, DriverError> {
    let (sender, lines) = std::sync::mpsc::channel::<String>();
    let sender = Mutex::new(sender);
    let show: Show = Arc::new(move |line| {
        if let Ok(sender) = sender.lock() {
            let _ = sender.send(line.to_owned());
        }
    });
    session.show(Some(show));
    let say_all = || lines.try_iter().for_each(|line| progress.say(&line));
    // Asked every moment, and so the place where what was said meanwhile is shown.
    let done = work(&|| {
        say_all();
        progress.interrupted()
    });
    // The last lines may still be on their way through the pipe.
    std::thread::sleep(std::time::Duration::from_millis(20));
    session.show(None);
    say_all();
    done
}

impl Driver for PluginDriver {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            boots_our_image: false,
            provisions_over_ssh: true,
            start_stop: true,
        }
    }

    fn flags(&self) -> Result<Vec<Flag>, DriverError> {
        Ok(self
            .offered()?
            .iter()
            .map(|offered| offered.flag.clone())
            .collect())
    }

    fn check(&self, place: &MachinePlace, values: &FlagValues) -> Result<(), DriverError> {
        self.lock().remove(&place.name);
        let session = self.begin(place, values)?;
        session.act("PreCreateCheck", rpc::nothing(), &|| false)?;
        self.lock().insert(place.name.clone(), session);
        Ok(())
    }

    fn plan(&self, place: &MachinePlace, values: &FlagValues) -> Result<DriverState, DriverError> {
        let session = self.begin(place, values)?;
        let mut state = session.state()?;
        refer(values, &mut state);
        self.lock().insert(place.name.clone(), session);
        Ok(state)
    }

    fn create(
        &self,
        place: &MachinePlace,
        state: &mut DriverState,
        _seed: &SeedFiles,
        checkpoint: &mut dyn Checkpoint,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        checkpoint.save(state)?;
        let begun = self.lock().remove(&place.name);
        let session = match begun {
            Some(session) => session,
            None => self.open(state)?,
        };
        let done = with_lines(&session, progress, |over| {
            session.act("Create", rpc::nothing(), over)
        });
        // Also after a failure or Ctrl-C: what exists at the provider must be known to `remove`.
        if let Ok(mut new) = session.state() {
            secrets::keep_references(state, &mut new);
            *state = new;
            if done.is_ok()
                && let Ok(key) = session.text("GetSSHKeyPath")
            {
                state.insert("SSHKeyPath".into(), key.into());
            }
            checkpoint.save(state)?;
        }
        done.map(drop)
    }

    fn start(
        &self,
        _place: &MachinePlace,
        state: &mut DriverState,
        _seed: &SeedFiles,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.act("Start", state, progress)
    }

    fn stop(
        &self,
        _place: &MachinePlace,
        state: &mut DriverState,
        progress: &dyn Progress,
    ) -> Result<(), DriverError> {
        self.act("Stop", state, progress)
    }

    fn kill(&self, _place: &MachinePlace, state: &mut DriverState) -> Result<(), DriverError> {
        self.act("Kill", state, &Silent)
    }

    fn remove(&self, _place: &MachinePlace, state: &mut DriverState) -> Result<(), DriverError> {
        self.act("Remove", state, &Silent)
    }

    fn status(&self, _place: &MachinePlace, state: &DriverState) -> Result<Status, DriverError> {
        Ok(match self.open(state)?.number("GetState")? {
            1 => Status::Running,
            2 => Status::Paused,
            3 => Status::Saved,
            4 => Status::Stopped,
            5 => Status::Stopping,
            6 => Status::Starting,
            8 => Status::Timeout,
            // 0 is "none": docker-machine shows an empty text.
            0 | 9 => Status::NotFound,
            _ => Status::Error,
        })
    }

    fn address(&self, _place: &MachinePlace, state: &DriverState) -> Result<Address, DriverError> {
        let session = self.open(state)?;
        let host = session.text("GetIP")?;
        let api_port = session
            .text("GetURL")
            .ok()
            .and_then(|url| url.rsplit_once(':')?.1.parse().ok())
            .unwrap_or(guest_contract::API_PORT);
        Ok(Address {
            ip: resolve(&host, api_port)?,
            api_port,
            ssh_port: u16::try_from(session.number("GetSSHPort")?).unwrap_or(22),
            ssh_user: session.text("GetSSHUsername")?,
            ssh_host: None,
        })
    }
}

fn no_secret(error: secrets::SecretError) -> DriverError {
    DriverError::NotReady {
        what: error.to_string(),
        hint: "a secret is env:NAME, file:PATH, cmd:COMMAND or the secret itself".into(),
    }
}

/// Flags that hold secrets may say where those are.
fn looked_up(values: &FlagValues) -> Result<FlagValues, DriverError> {
    let mut values = values.clone();
    for (name, value) in &mut values.0 {
        if let FlagValue::Text(text) = value
            && secrets::is_secret(name)
        {
            *text = secrets::look_up(text).map_err(no_secret)?;
        }
    }
    Ok(values)
}

/// Puts the references that flags gave into the record, where the driver wrote the secrets themselves.
fn refer(values: &FlagValues, state: &mut DriverState) {
    for (name, value) in &values.0 {
        let FlagValue::Text(reference) = value else {
            continue;
        };
        if !secrets::is_secret(name) || !secrets::is_reference(reference) {
            continue;
        }
        let Ok(secret) = secrets::look_up(reference) else {
            continue;
        };
        for (key, value) in state.iter_mut() {
            if secrets::is_secret(key) && value.as_str() == Some(&secret) {
                *value = reference.clone().into();
            }
        }
    }
}

struct Silent;

impl Progress for Silent {
    fn say(&self, line: &str) {
        tracing::debug!(line, "the plug-in says");
    }

    fn interrupted(&self) -> bool {
        false
    }
}

fn resolve(host: &str, port: u16) -> Result<IpAddr, DriverError> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let step = || format!("find the address of {host:?}");
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|error| DriverError::failed(step(), error))?;
    let found = found.next();
    found
        .map(|address| address.ip())
        .ok_or_else(|| DriverError::failed(step(), "it has none"))
}

/// docker-machine's `BaseDriver` of a machine that does not exist yet.
fn first_state(place: &MachinePlace) -> DriverState {
    let base = json!({
        "IPAddress": "",
        "MachineName": place.name,
        "SSHUser": "",
        "SSHPort": 0,
        "SSHKeyPath": "",
        "StorePath": place.store.to_string_lossy(),
        "SwarmMaster": false,
        "SwarmHost": "",
        "SwarmDiscovery": "",
    });
    match base {
        serde_json::Value::Object(map) => map,
        _ => DriverState::new(),
    }
}

fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

/// One flag as a plug-in tells it.
fn offered(value: &Value) -> Option<Offered> {
    let Value::Interface(of, fields) = value else {
        return None;
    };
    let text = |name: &str| fields.field(name).and_then(Value::text).unwrap_or_default();
    let name = text("Name");
    if name.is_empty() {
        return None;
    }
    let mut list = Vec::new();
    let kind = match of.rsplit('.').next()? {
        "StringFlag" => FlagKind::Text(leak(text("Value"))),
        "IntFlag" => FlagKind::Int(fields.field("Value").and_then(Value::int).unwrap_or(0)),
        "BoolFlag" => FlagKind::Bool,
        "StringSliceFlag" => {
            if let Some(Value::List(values)) = fields.field("Value") {
                list = values
                    .iter()
                    .filter_map(Value::text)
                    .map(str::to_owned)
                    .collect();
            }
            FlagKind::List
        }
        other => {
            tracing::debug!(other, name, "a flag of an unknown kind");
            return None;
        }
    };
    let environment = Some(text("EnvVar"))
        .filter(|name| !name.is_empty())
        .map(leak);
    Some(Offered {
        flag: Flag {
            name: leak(name),
            aliases: &[],
            help: leak(text("Usage")),
            environment,
            kind,
        },
        list,
    })
}

/// Every flag with the type it was offered with, defaults included: a driver silently takes zero for what is missing.
fn rpc_flags(offered: &[Offered], values: &FlagValues) -> Value {
    let boxed = |of: &str, value| Value::Interface(of.to_owned(), Box::new(value));
    let text = |text: &str| boxed("string", Value::Text(text.to_owned()));
    let mut pairs: BTreeMap<&str, Value> = BTreeMap::from([
        ("swarm-master", boxed("bool", Value::Bool(false))),
        ("swarm-host", text("")),
        ("swarm-discovery", text("")),
    ]);
    for offer in offered {
        let given = values.0.get(offer.flag.name);
        let value = match (&offer.flag.kind, given) {
            (FlagKind::Bool, given) => {
                boxed("bool", Value::Bool(given == Some(&FlagValue::Bool(true))))
            }
            (FlagKind::Int(_), Some(FlagValue::Int(number))) => boxed("int", Value::Int(*number)),
            (FlagKind::Int(default), _) => boxed("int", Value::Int(*default)),
            (FlagKind::Text(_), Some(FlagValue::Text(given))) => text(given),
            (FlagKind::Text(default), _) => text(default),
            (FlagKind::List, given) => {
                let list = match given {
                    Some(FlagValue::List(list)) if !list.is_empty() => list,
                    _ => &offer.list,
                };
                let texts = list.iter().cloned().map(Value::Text).collect();
                boxed("[]string", Value::List(texts))
            }
        };
        pairs.insert(offer.flag.name, value);
    }
    let map = pairs
        .into_iter()
        .map(|(name, value)| (Value::Text(name.to_owned()), value))
        .collect();
    boxed(
        "*rpcdriver.RPCFlags",
        Value::Struct(BTreeMap::from([("Values".to_owned(), Value::Map(map))])),
    )
}

/// Where a program of that name would be looked for, for messages.
pub fn program_of(name: &str) -> String {
    format!("{PROGRAM_PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_driver_is_found_on_the_path_only() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(format!(
            "docker-machine-driver-x{}",
            std::env::consts::EXE_SUFFIX
        ));
        std::fs::write(&program, "").unwrap();
        let path = std::env::join_paths([Path::new("/nowhere"), folder.path()]).unwrap();
        assert_eq!(on_path("x", &path), Some(program));
        assert_eq!(on_path("y", &path), None);
    }

    #[test]
    fn every_flag_is_sent_with_its_type() {
        let field = |name: &str, value: Value| (name.to_owned(), value);
        let flag = |of: &str, name: &str, value: Option<Value>| {
            let mut fields = BTreeMap::from([field("Name", Value::Text(name.into()))]);
            fields.extend(value.map(|value| field("Value", value)));
            offered(&Value::Interface(
                of.into(),
                Box::new(Value::Struct(fields)),
            ))
            .unwrap()
        };
        let flags = [
            flag("*mcnflag.StringFlag", "text", Some(Value::Text("d".into()))),
            flag("*mcnflag.IntFlag", "number", Some(Value::Int(7))),
            flag("*mcnflag.BoolFlag", "switch", None),
            flag(
                "*mcnflag.StringSliceFlag",
                "list",
                Some(Value::List(vec![Value::Text("z".into())])),
            ),
        ];
        let values = FlagValues(BTreeMap::from([("number".to_owned(), FlagValue::Int(8))]));
        let Value::Interface(_, inner) = rpc_flags(&flags, &values) else {
            panic!()
        };
        let text = format!("{inner:?}");
        for part in [
            "Text(\"number\"), Interface(\"int\", Int(8))",
            "Text(\"text\"), Interface(\"string\", Text(\"d\"))",
            "Text(\"switch\"), Interface(\"bool\", Bool(false))",
            "Text(\"list\"), Interface(\"[]string\", List([Text(\"z\")]))",
            "Text(\"swarm-master\"), Interface(\"bool\", Bool(false))",
            "Text(\"swarm-host\")",
            "Text(\"swarm-discovery\")",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
