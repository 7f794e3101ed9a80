//! One plug-in process, from its start to its orderly end.
//!
//! It prints its address within ten seconds, is called over that connection, hears a heartbeat every five seconds (or ends itself after
//! ten), and what it prints is shown. Both its pipes are read to the end: a plug-in that cannot print dies.

use super::gob::{Type, Value};
use super::rpc::{Client, RpcError, nothing, raw};
use machine_core::driver::{DriverError, DriverState};
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub const TOKEN: &str = "MACHINE_PLUGIN_TOKEN";
pub const TOKEN_VALUE: &str = "42";
pub const DRIVER_NAME: &str = "MACHINE_PLUGIN_DRIVER_NAME";

const SAYS_WHERE_WITHIN: Duration = Duration::from_secs(10);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A question that needs no provider.
const SHORT: Duration = Duration::from_secs(60);
/// Making a machine at a slow provider.
pub const LONG: Duration = Duration::from_secs(3600);
const CLOSES_WITHIN: Duration = Duration::from_secs(5);
/// What is asked of the provider when Ctrl-C comes may still be answered for so long: without the id in that answer nobody could
/// remove what was made.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Telling the record needs nobody else; a plug-in that was interrupted may be too busy for it.
const TELLS_WITHIN: Duration = Duration::from_secs(15);
/// The version of the protocol, the only one there ever was.
const VERSION: i64 = 1;

/// Where the plug-in's lines go.
pub type Show = Arc<dyn Fn(&str) + Send + Sync>;

/// A running plug-in.
pub struct Session {
    driver: &'static str,
    child: Mutex<Child>,
    client: Client,
    service: &'static str,
    /// Its last lines on stderr.
    complaints: Arc<Mutex<Vec<String>>>,
    show: Arc<Mutex<Option<Show>>>,
    /// Dropped to end the heartbeat.
    _heart: Sender<()>,
}

impl Session {
    pub fn start(driver: &'static str, program: &Path) -> Result<Session, DriverError> {
        let failed =
            |error| DriverError::failed(format!("start the plug-in {}", program.display()), error);
        let mut command = Command::new(program);
        command
            .env(TOKEN, TOKEN_VALUE)
            .env(DRIVER_NAME, driver)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        spare_from_interrupts(&mut command);
        let mut child = command.spawn().map_err(failed)?;
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let show: Arc<Mutex<Option<Show>>> = Arc::new(Mutex::new(None));
        let first = read_lines(&mut child, &complaints, &show);
        let address = first
            .recv_timeout(SAYS_WHERE_WITHIN)
            .ok()
            .and_then(|line| line.trim().parse::<SocketAddr>().ok())
            // It listens on this computer or it is none.
            .filter(|address| address.ip().is_loopback());
        let connected = match address {
            Some(address) => TcpStream::connect_timeout(&address, SAYS_WHERE_WITHIN)
                .and_then(Client::over)
                .map_err(failed),
            None => Err(DriverError::NotReady {
                what: format!(
                    "the plug-in {} did not say within {} s where it listens{}",
                    program.display(),
                    SAYS_WHERE_WITHIN.as_secs(),
                    last_words(&complaints)
                ),
                hint: "is it a docker-machine driver? Run it by hand: it says so".into(),
            }),
        };
        let client = match connected {
            Ok(client) => client,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let (heart, ended) = channel();
        let mut session = Session {
            driver,
            child: Mutex::new(child),
            client,
            service: "RPCServerDriver",
            complaints,
            show,
            _heart: heart,
        };
        session.agree_on_version()?;
        session.beat(ended);
        Ok(session)
    }

    /// Plug-ins from before 0.5.1 call their service otherwise.
    fn agree_on_version(&mut self) -> Result<(), DriverError> {
        let mut version = self.call("GetVersion", nothing(), SHORT);
        if matches!(&version, Err(RpcError::Refused(why)) if why.contains("can't find service")) {
            self.service = "RpcServerDriver";
            version = self.call("GetVersion", nothing(), SHORT);
        }
        let version = version.map_err(|error| self.failed("ask for the version", error))?;
        if version.int() != Some(VERSION) {
            return Err(DriverError::NotReady {
                what: format!(
                    "the plug-in {} speaks version {} of the protocol, this program version {VERSION}",
                    self.driver,
                    version.int().unwrap_or_default()
                ),
                hint: "use a plug-in made for docker-machine 0.16".into(),
            });
        }
        Ok(())
    }

    fn beat(&self, ended: Receiver<()>) {
        let (client, method) = (self.client.clone(), format!("{}.Heartbeat", self.service));
        std::thread::spawn(move || {
            while ended.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = client.call(&method, nothing(), SHORT) {
                    tracing::debug!(%error, "the plug-in's heart does not beat");
                    return;
                }
            }
        });
    }

    /// From now on the plug-in's lines go there; `None`: nowhere.
    pub fn show(&self, show: Option<Show>) {
        *self.show.lock().unwrap_or_else(PoisonError::into_inner) = show;
    }

    pub fn configure(&self, state: &DriverState) -> Result<(), DriverError> {
        let json = serde_json::to_vec(state).expect("a driver's state is plain data");
        self.call("SetConfigRaw", raw(json), SHORT)
            .map(drop)
            .map_err(|error| self.failed("read the machine's record", error))
    }

    /// What the plug-in wants to be told next time.
    pub fn state(&self) -> Result<DriverState, DriverError> {
        let answer = self.call("GetConfigRaw", nothing(), TELLS_WITHIN);
        match answer.map_err(|error| self.failed("tell the machine's record", error))? {
            Value::Bytes(json) => serde_json::from_slice(&json)
                .map_err(|error| DriverError::failed("read what the plug-in remembers", error)),
            other => Err(DriverError::failed(
                "read what the plug-in remembers",
                format!("it is {other:?}"),
            )),
        }
    }

    pub fn text(&self, method: &'static str) -> Result<String, DriverError> {
        let answer = self.call(method, nothing(), SHORT);
        let answer = answer.map_err(|error| self.failed(method, error))?;
        Ok(answer.text().unwrap_or_default().to_owned())
    }

    pub fn number(&self, method: &'static str) -> Result<i64, DriverError> {
        let answer = self.call(method, nothing(), SHORT);
        let answer = answer.map_err(|error| self.failed(method, error))?;
        Ok(answer.int().unwrap_or_default())
    }

    /// Something that takes its time; looks whether it is to be given up. The protocol has no way to stop one call: one that was
    /// given up goes on until the plug-in ends, which can be asked for its state meanwhile.
    pub fn act(
        &self,
        method: &'static str,
        argument: (Type, Value),
        over: &dyn Fn() -> bool,
    ) -> Result<Value, DriverError> {
        let (sender, answer) = channel();
        let (client, name) = (self.client.clone(), format!("{}.{method}", self.service));
        std::thread::spawn(move || {
            // Nobody listens once it was given up.
            let _ = sender.send(client.call(&name, argument, LONG));
        });
        let told = loop {
            match answer.recv_timeout(Duration::from_millis(50)) {
                Ok(told) => break told,
                Err(_) if over() => match answer.recv_timeout(ANSWERS_WITHIN) {
                    Ok(told) => break told,
                    Err(_) => return Err(DriverError::Interrupted),
                },
                Err(_) => {}
            }
        };
        told.map_err(|error| self.failed(method, error))
    }

    fn call(
        &self,
        method: &str,
        argument: (Type, Value),
        limit: Duration,
    ) -> Result<Value, RpcError> {
        let method = format!("{}.{method}", self.service);
        self.client.call(&method, argument, limit)
    }

    fn failed(&self, step: &str, error: RpcError) -> DriverError {
        match error {
            RpcError::Refused(why) => {
                DriverError::failed(format!("the driver {} refused {step}", self.driver), why)
            }
            RpcError::Gone => DriverError::failed(
                format!(
                    "the plug-in of the driver {} died during {step}",
                    self.driver
                ),
                self.why_it_died(),
            ),
            other => {
                DriverError::failed(format!("call {step} of the driver {}", self.driver), other)
            }
        }
    }

    fn why_it_died(&self) -> String {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + CLOSES_WITHIN;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => break "it hung up".to_owned(),
            }
        };
        format!("{status}{}", last_words(&self.complaints))
    }

    /// At once.
    fn end(&self) {
        self.client.close();
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.call("Close", nothing(), CLOSES_WITHIN);
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + CLOSES_WITHIN;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(child);
        self.end();
    }
}

/// Ctrl-C in a terminal reaches every program of its group. A plug-in that ends by it can no longer say what it has made.
fn spare_from_interrupts(command: &mut Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(windows)]
    {
        const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;
        std::os::windows::process::CommandExt::creation_flags(command, CREATE_NEW_PROCESS_GROUP);
    }
}

fn last_words(complaints: &Mutex<Vec<String>>) -> String {
    let complaints = complaints.lock().unwrap_or_else(PoisonError::into_inner);
    match complaints.is_empty() {
        true => String::new(),
        false => format!(": {}", complaints.join("; ")),
    }
}

/// Reads both pipes to their ends; the first line on stdout is the address.
fn read_lines(
    child: &mut Child,
    complaints: &Arc<Mutex<Vec<String>>>,
    show: &Arc<Mutex<Option<Show>>>,
) -> Receiver<String> {
    let (sender, first) = channel();
    if let Some(stdout) = child.stdout.take() {
        let show = show.clone();
        std::thread::spawn(move || {
            let mut lines = lines(stdout);
            if let Some(line) = lines.next() {
                let _ = sender.send(line);
            }
            for line in lines {
                let show = show.lock().unwrap_or_else(PoisonError::into_inner).clone();
                match show {
                    Some(show) => show(&line),
                    None => tracing::debug!(line, "the plug-in says"),
                }
            }
        });
    }
    if let Some(stderr) = child.stderr.take() {
        let complaints = complaints.clone();
        std::thread::spawn(move || {
            for line in lines(stderr) {
                tracing::debug!(line, "the plug-in's log");
                let mut kept = complaints.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() == 5 {
                    kept.remove(0);
                }
                kept.push(line);
            }
        });
    }
    first
}

fn lines(stream: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(stream)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).trim_end().to_owned())
}
