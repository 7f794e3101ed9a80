//! The keeper: the desktop process that owns one running machine.
//!
//! ```text
//!   machine create/start --starts--> keeper --starts--> QEMU
//!        |  watch, stop, kill          |  <--- control port: readiness; requests --->  guest's init
//!        '------- keeper.sock ---------'  <--- QMP: ports, power, end
//!                                         <--- mutual TLS: /events --->  guest's engine
//! ```
//!
//! It ends when QEMU ends and leaves no socket behind. When it is killed, QEMU goes on with its containers, and the next
//! `machine` command starts another keeper that takes it over: QEMU listens at its sockets and `keeper.json` says which
//! process it is and which ports are open.

mod boot_files;
mod clock;
mod engine;
mod ports;
mod qmp;
pub mod share;
pub mod status;
mod vm;

use super::files::Files;
use super::process::ProcessId;
use super::system::{self, Listener, Stream};
use boot_files::BootFiles;
use guest_contract::control::ControlRequest;
use guest_contract::readiness::ReadinessEvent;
use machine_core::store::atomic;
use qmp::Qmp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use share::{Session, SharedFolder};
use status::{Board, KeeperRecord, Phase, RECORD_VERSION, Request};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vm::Vm;

/// The hidden verb of `machine` that runs [`main`].
pub const VERB: &str = "keeper";
/// Before the folder: take over the machine that a killed keeper left running.
pub const ADOPT: &str = "--adopt";

/// The exit code of a keeper that is not needed: another one keeps the machine.
pub const TAKEN: u8 = 3;

/// How long a guest that is stopped in order may say nothing: while it waits for containers it speaks every few seconds.
const SILENT_WITHIN: Duration = Duration::from_secs(30);
/// How long it may wait for them, with all that comes after.
const STOPS_WITHIN: Duration = Duration::from_secs(guest_contract::STOP_TIMEOUT_SECONDS + 60);
const SUSPENDS_WITHIN: Duration = Duration::from_secs(600);
const QUITS_WITHIN: Duration = Duration::from_secs(5);
/// How soon a lost connection to the engine is tried again.
const RECONNECT: Duration = Duration::from_millis(300);
/// How often ports that another program had are tried again.
const RETRY_PORTS: Duration = Duration::from_secs(5);

/// `vm.json`: what the keeper is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmPlan {
    pub version: u32,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub ip: Ipv4Addr,
    pub api_port: u16,
    /// The machine was suspended: it goes on where it was.
    #[serde(default)]
    pub resumes: bool,
    /// Its processors are QEMU's own.
    #[serde(default)]
    pub emulated: bool,
    /// In the order of their ports.
    #[serde(default)]
    pub shares: Vec<SharedFolder>,
}

pub const PLAN_VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
enum KeeperError {
    #[error("cannot read {}", path.display())]
    Plan {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen at {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another keeper runs this machine")]
    Taken,
    #[error("cannot start {program}")]
    Start {
        program: String,
        #[source]
        source: io::Error,
    },
    #[error("QEMU cannot be reached: {why}")]
    NotConnected { why: String },
    #[error("there is no QEMU to take over")]
    NothingToAdopt,
    #[error("cannot share {}", path.display())]
    Share {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Qmp(#[from] qmp::QmpError),
    #[error("cannot {step}")]
    Io {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// `machine keeper FOLDER`. Not for people: `create` and `start` run it.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let Some(first) = args.next() else {
        eprintln!("usage: machine {VERB} FOLDER (started by `machine create` and `machine start`)");
        return ExitCode::from(2);
    };
    let (adopts, folder) = match args.next() {
        Some(folder) if first == ADOPT => (true, folder),
        _ => (false, first),
    };
    system::begin_keeping(&Files::in_folder(Path::new(&folder)).keeper_log());
    let _ = tracing_subscriber::fmt()
        .with_writer(system::log)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .try_init();
    match keep(Path::new(&folder), adopts) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(inner) = source {
                text.push_str(&format!(": {inner}"));
                source = inner.source();
            }
            // Read by `machine` when it finds nobody to talk to.
            let _ = writeln!(system::log(), "keeper: {text}");
            match error {
                KeeperError::Taken => ExitCode::from(TAKEN),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// What the threads share.
struct Shared {
    files: Files,
    board: Board,
    qmp: Qmp,
    /// The control port's writing half.
    control: Mutex<Stream>,
    vm: ProcessId,
    record: Mutex<KeeperRecord>,
    heard: Mutex<Instant>,
    shares: Vec<Arc<Session>>,
}

fn keep(folder: &Path, adopts: bool) -> Result<(), KeeperError> {
    let files = Files::in_folder(folder);
    let mut plan = read_plan(&files)?;
    let io = |step| move |source| KeeperError::Io { step, source };
    files
        .make_socket_folder()
        .map_err(io("make the folder for sockets"))?;
    // Two verbs at once may both find that nobody keeps the machine. The lock ends with this process.
    let claim = File::open(files.plan()).map_err(io("open the plan"))?;
    if claim.try_lock().is_err() || system::connect(&files.keeper_socket()).is_ok() {
        return Err(KeeperError::Taken);
    }
    if adopts {
        let record = KeeperRecord::load(&files).ok_or(KeeperError::NothingToAdopt)?;
        let vm = record.vm.filter(|vm| vm.is_alive());
        let vm = Vm::adopt(vm.ok_or(KeeperError::NothingToAdopt)?);
        // After a failure everything stays: whoever asked for this decides.
        keep_machine(
            &files,
            &plan,
            vm,
            Some(&record.status),
            BootFiles::default(),
        )?;
        files.remove_running();
        return Ok(());
    }
    let boot_files = BootFiles::lend(&mut plan.arguments);
    let result = Vm::start(&plan).and_then(|vm| keep_machine(&files, &plan, vm, None, boot_files));
    files.remove_running();
    result
}

fn read_plan(files: &Files) -> Result<VmPlan, KeeperError> {
    let path = files.plan();
    let failed = |source| KeeperError::Plan {
        path: path.clone(),
        source,
    };
    let plan: VmPlan = serde_json::from_slice(&std::fs::read(&path).map_err(failed)?)
        .map_err(|error| failed(io::Error::other(error)))?;
    if plan.version != PLAN_VERSION {
        return Err(failed(io::Error::other(format!(
            "it has version {}, this program knows {PLAN_VERSION}",
            plan.version
        ))));
    }
    Ok(plan)
}

/// Keeps a machine that has just been started, or one that another keeper left in the state `earlier`.
fn keep_machine(
    files: &Files,
    plan: &VmPlan,
    mut vm: Vm,
    earlier: Option<&status::Status>,
    boot_files: BootFiles,
) -> Result<(), KeeperError> {
    let asked = listen(&files.keeper_socket())?;
    system::allow_many_files();
    let (qmp, control, shares) = match reach(files, plan, &mut vm) {
        Ok(reached) => reached,
        Err(error) => {
            vm.kill();
            return Err(error);
        }
    };
    if earlier.is_some() {
        shares.iter().for_each(|session| session.forget_all());
    }

    let record = KeeperRecord {
        version: RECORD_VERSION,
        keeper: ProcessId::of(std::process::id()),
        vm: Some(vm.id),
        status: status::Status::new(),
    };
    let io = |step| move |source| KeeperError::Io { step, source };
    let reader = control
        .try_clone()
        .map_err(io("duplicate the control port"))?;
    let shared = Arc::new(Shared {
        files: files.clone(),
        board: Board::of(earlier.map_or_else(status::Status::new, status::Status::taken_over)),
        qmp,
        control: Mutex::new(control),
        vm: vm.id,
        record: Mutex::new(record),
        heard: Mutex::new(Instant::now()),
        shares,
    });
    shared.store();
    match earlier {
        None => tracing::info!(pid = vm.id.pid, "QEMU started"),
        Some(_) => tracing::info!(pid = vm.id.pid, "QEMU taken over"),
    }

    spawn(&shared, "control", move |shared| {
        listen_to_guest(shared, reader)
    });
    spawn(&shared, "answers", move |shared| answer_all(shared, &asked));
    for session in shared.shares.clone() {
        spawn(&shared, "share", move |_| session.run());
    }
    spawn(&shared, "record", keep_record);
    spawn(&shared, "boot files", |shared| {
        shared
            .board
            .wait_until(|status| status.phase != Phase::Booting);
        boot_files.give_back();
    });
    spawn(&shared, "clock", |shared| {
        clock::keep(|unix_ms| shared.tell_guest(ControlRequest::SetTime { unix_ms }));
    });
    let address = SocketAddr::new(plan.ip.into(), plan.api_port);
    let forwards = ports::Forwards::new(plan.ip, earlier.map_or(&[], |status| &status.ports));
    spawn(&shared, "ports", move |shared| {
        follow_engine(shared, forwards, address)
    });
    if earlier.is_some() {
        spawn(&shared, "take over", |shared| {
            undo_suspend(shared);
            welcome_back(shared);
        });
    } else if plan.resumes {
        spawn(&shared, "resume", |shared| {
            share::restore_all(&shared.shares, &shared.files.shares_state());
            welcome_back(shared);
        });
    }
    stop_on_signals(&shared).map_err(io("wait for signals"))?;

    let why = match vm.wait().map_err(io("wait for QEMU"))? {
        Some(why) => why,
        None if shared.board.now().phase == Phase::Stopping => "the guest powered off".to_owned(),
        None => "the guest ended by itself".to_owned(),
    };
    tracing::info!(why, "end");
    shared.board.change(|status| {
        status.phase = Phase::Ended;
        status.ended = Some(why);
    });
    // Whoever watches is to read that line before the connection is cut.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// What a keeper holds of QEMU: monitor, control port, shared folders.
type Reached = (Qmp, Stream, Vec<Arc<Session>>);

fn reach(files: &Files, plan: &VmPlan, vm: &mut Vm) -> Result<Reached, KeeperError> {
    let qmp = vm.connect(&files.qmp_socket())?;
    let control = vm.connect(&files.control_socket())?;
    let mut shares = Vec::new();
    for (index, shared) in plan.shares.iter().enumerate() {
        let stream = vm.connect(&files.share_socket(index))?;
        let session = Session::new(shared, stream).map_err(|source| KeeperError::Share {
            path: shared.host.clone(),
            source,
        })?;
        shares.push(Arc::new(session));
    }
    // It greets once it has made its machine.
    let qmp = Qmp::over(qmp, vm::CONNECTS_WITHIN);
    let qmp = qmp.or_else(|error| match vm.has_ended()? {
        Some(why) => Err(KeeperError::NotConnected { why }),
        None => Err(error.into()),
    })?;
    Ok((qmp, control, shares))
}

fn spawn(shared: &Arc<Shared>, name: &str, work: impl FnOnce(&Arc<Shared>) + Send + 'static) {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || work(&shared))
        .expect("a desktop has room for a thread");
}

fn listen(path: &Path) -> Result<Listener, KeeperError> {
    Listener::bind(path).map_err(|source| KeeperError::Listen {
        path: path.to_path_buf(),
        source,
    })
}

impl Shared {
    /// Writes one request to the guest. False when the guest is gone.
    fn tell_guest(&self, request: ControlRequest) -> bool {
        let mut control = self
            .control
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // A guest that does not read must not hold up a stop.
        let _ = control.set_write_timeout(Some(Duration::from_secs(1)));
        control.write_all(request.to_line().as_bytes()).is_ok()
    }

    fn store(&self) {
        let mut record = self
            .record
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        record.status = self.board.now();
        if let Err(error) = record.save(&self.files) {
            tracing::warn!(%error, "cannot write keeper.json");
        }
    }

    /// Asks the guest to stop and makes sure that it does. Called on a thread of its own; once is enough.
    fn stop(&self) {
        let mut first = false;
        self.board.change(|status| {
            if matches!(status.phase, Phase::Booting | Phase::Running) {
                status.phase = Phase::Stopping;
                first = true;
            }
        });
        if !first {
            return;
        }
        tracing::info!("stopping");
        self.tell_guest(ControlRequest::PowerOff);
        // The power button as well: init may not be reading yet.
        let _ = self.qmp.execute("system_powerdown", Value::Null);
        let began = Instant::now();
        let silent = || began.max(self.heard()).elapsed() > SILENT_WITHIN;
        while began.elapsed() < STOPS_WITHIN && !silent() {
            if self.ends_within(Duration::from_secs(1)) {
                return;
            }
        }
        tracing::warn!(
            "the guest did not power off within {} s: ending QEMU",
            began.elapsed().as_secs()
        );
        let _ = self.qmp.execute("quit", Value::Null);
        if !self.ends_within(QUITS_WITHIN) {
            self.vm.kill(QUITS_WITHIN);
        }
    }

    /// Writes the memory to a file and ends QEMU. After a failure the machine goes on.
    fn suspend(&self) {
        let mut first = false;
        self.board.change(|status| {
            if status.phase == Phase::Running {
                status.phase = Phase::Stopping;
                status.suspend_problem = None;
                first = true;
            }
        });
        if !first {
            return;
        }
        tracing::info!("suspending");
        let (writing, memory) = (self.files.memory_being_written(), self.files.memory());
        let written = share::hold_all(&self.shares, &self.files.shares_state())
            .and_then(|()| self.write_memory(&writing))
            .and_then(|()| move_memory(&writing, &memory).map_err(|error| error.to_string()))
            .and_then(|()| {
                atomic::sync_folder(self.files.folder()).map_err(|error| error.to_string())
            });
        match written {
            Ok(()) => {
                let _ = self.qmp.execute("quit", Value::Null);
                if !self.ends_within(QUITS_WITHIN) {
                    self.vm.kill(QUITS_WITHIN);
                }
            }
            Err(why) => {
                tracing::warn!(why, "cannot suspend");
                let _ = std::fs::remove_file(&writing);
                let _ = std::fs::remove_file(&memory);
                let _ = std::fs::remove_file(self.files.shares_state());
                let _ = self.qmp.execute("migrate_cancel", Value::Null);
                let _ = self.qmp.execute("cont", Value::Null);
                self.shares.iter().for_each(|session| session.go());
                self.board.change(|status| {
                    status.phase = Phase::Running;
                    status.suspend_problem = Some(why);
                });
            }
        }
    }

    fn write_memory(&self, to: &Path) -> Result<(), String> {
        let told = |error: qmp::QmpError| error.to_string();
        // Nobody waits at the other end of a line: as fast as the disk can.
        let fast = serde_json::json!({"max-bandwidth": 1u64 << 40});
        self.qmp
            .execute("migrate-set-parameters", fast)
            .map_err(told)?;
        self.qmp.execute("stop", Value::Null).map_err(told)?;
        let uri = super::arguments::outgoing(to);
        self.qmp
            .execute("migrate", serde_json::json!({"uri": uri}))
            .map_err(told)?;
        let deadline = Instant::now() + SUSPENDS_WITHIN;
        loop {
            let state = self
                .qmp
                .execute("query-migrate", Value::Null)
                .map_err(told)?;
            match state["status"].as_str() {
                Some("completed") => break,
                Some("failed" | "cancelled") => {
                    let why = state["error-desc"].as_str().unwrap_or("no reason given");
                    return Err(format!("QEMU could not write {}: {why}", to.display()));
                }
                _ if Instant::now() > deadline => return Err("it takes too long".into()),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
        // QEMU does not wait for the end of `cat`.
        let deadline = Instant::now() + QUITS_WITHIN;
        let mut size = 0;
        loop {
            let now = std::fs::metadata(to)
                .map_err(|error| error.to_string())?
                .len();
            if now == size && now > 0 {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not come to an end", to.display()));
            }
            size = now;
            std::thread::sleep(Duration::from_millis(200));
        }
        let file = std::fs::OpenOptions::new().write(true).open(to);
        file.and_then(|file| file.sync_all())
            .map_err(|error| error.to_string())
    }

    /// When the guest last said something.
    fn heard(&self) -> Instant {
        *self
            .heard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn ends_within(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.vm.is_alive() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

/// Gives the memory the name by which it counts.
fn move_memory(from: &Path, to: &Path) -> io::Result<()> {
    let deadline = Instant::now() + QUITS_WITHIN;
    loop {
        match std::fs::rename(from, to) {
            // There an open file keeps its name, and QEMU may be about to close this one.
            Err(_) if cfg!(windows) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            result => return result,
        }
    }
}

/// The keeper may have been killed while it wrote the memory. The machine goes on, so what was written must not be resumed.
fn undo_suspend(shared: &Shared) {
    let _ = shared.qmp.execute("migrate_cancel", Value::Null);
    let files = &shared.files;
    for path in [
        files.memory_being_written(),
        files.memory(),
        files.shares_state(),
    ] {
        let _ = std::fs::remove_file(path);
    }
    shared.shares.iter().for_each(|session| session.go());
}

/// A guest that goes on does not know that time has passed, and has told how it is to another keeper.
fn welcome_back(shared: &Arc<Shared>) {
    // It was stopped when its memory was written, and so it is when that has been read.
    loop {
        match shared.qmp.execute("query-status", Value::Null) {
            Ok(state) if state["status"] == "inmigrate" => {}
            Ok(state) if state["status"] == "running" => break,
            Ok(_) => drop(shared.qmp.execute("cont", Value::Null)),
            Err(error) => return tracing::warn!(%error, "cannot go on"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    loop {
        let unix_ms = clock::wall().as_millis() as u64;
        shared.tell_guest(ControlRequest::SetTime { unix_ms });
        shared.tell_guest(ControlRequest::Report);
        if shared.board.now().phase != Phase::Booting {
            return;
        }
        std::thread::sleep(Duration::from_millis(300));
    }
}

/// Reads the guest's readiness. A stream of bytes from inside the machine: long and odd lines are dropped.
fn listen_to_guest(shared: &Arc<Shared>, stream: Stream) {
    // It may have spoken before we listened.
    shared.tell_guest(ControlRequest::Report);
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(64 * 1024).read_until(b'\n', &mut line) {
            Ok(count) if count > 0 => {}
            _ => return,
        }
        if let Ok(mut heard) = shared.heard.lock() {
            *heard = Instant::now();
        }
        if let Some(event) = ReadinessEvent::from_line(&String::from_utf8_lossy(&line)) {
            tracing::info!(stage = %event.stage, outcome = ?event.outcome, uptime_ms = event.uptime_ms, message = event.message, "guest");
            shared.board.change(|status| status.learn(event));
        }
    }
}

fn keep_record(shared: &Arc<Shared>) {
    let mut seen = None;
    loop {
        let (number, status) = shared.board.next(seen, Duration::from_secs(3600));
        if status.phase == Phase::Ended {
            return; // the files of a running machine are about to be removed
        }
        if seen != Some(number) {
            seen = Some(number);
            shared.store();
        }
    }
}

fn answer_all(shared: &Arc<Shared>, listener: &Listener) {
    loop {
        let Ok(stream) = listener.accept() else {
            // The asker is gone again, or this computer has no room for it.
            std::thread::sleep(Duration::from_millis(10));
            continue;
        };
        spawn(shared, "answer", move |shared| {
            // An asker that left is no concern of ours.
            let _ = answer(shared, stream);
        });
    }
}

fn answer(shared: &Arc<Shared>, stream: Stream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    (&mut reader).take(4096).read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line).map_err(io::Error::other)?;
    let mut stream = reader.into_inner();
    match request {
        Request::Status => return write_status(&mut stream, &shared.board.now()),
        Request::Watch => {}
        Request::Stop => spawn(shared, "stop", |shared| shared.stop()),
        Request::Suspend => spawn(shared, "suspend", |shared| shared.suspend()),
        Request::Kill => spawn(shared, "kill", |shared| {
            tracing::info!("killed on request");
            shared.vm.kill(QUITS_WITHIN);
        }),
    }
    let mut seen = None;
    loop {
        let (number, status) = shared.board.next(seen, Duration::from_secs(3600));
        if seen != Some(number) {
            seen = Some(number);
            write_status(&mut stream, &status)?;
        }
        if status.phase == Phase::Ended {
            return Ok(());
        }
    }
}

fn write_status(stream: &mut Stream, status: &status::Status) -> io::Result<()> {
    let mut line = serde_json::to_vec(status).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Opens and closes ports as containers come and go, for as long as the machine runs.
fn follow_engine(shared: &Arc<Shared>, mut forwards: ports::Forwards, address: SocketAddr) {
    let mut seen = None;
    loop {
        match shared.board.next(seen, Duration::from_secs(3600)) {
            (_, status) if status.phase == Phase::Running => {
                if let Err(error) = follow_once(shared, &mut forwards, address) {
                    tracing::debug!(%error, "the engine's events ended");
                    std::thread::sleep(RECONNECT);
                }
            }
            (_, status) if matches!(status.phase, Phase::Stopping | Phase::Ended) => return,
            (number, _) => seen = Some(number),
        }
    }
}

fn follow_once(
    shared: &Arc<Shared>,
    forwards: &mut ports::Forwards,
    address: SocketAddr,
) -> io::Result<()> {
    // Read anew each time: the certificates may have been renewed.
    let engine = engine::Engine::new(shared.files.folder(), address).map_err(io::Error::other)?;
    let mut events = engine.events()?;
    let mut told = None;
    loop {
        let wanted = ports::wanted(&engine.containers()?);
        forwards
            .bring_to(&wanted, &shared.qmp, &shared.board)
            .map_err(io::Error::other)?;
        let problems = forwards.problems();
        if told.as_ref() != Some(&problems) {
            // An older engine does not want to know.
            if let Err(error) = engine.tell_port_problems(&problems) {
                tracing::debug!(%error, "the engine was not told of ports");
            }
            told = Some(problems);
        }
        let limit = if forwards.has_failed() {
            RETRY_PORTS
        } else {
            Duration::from_secs(3600)
        };
        let since = Instant::now();
        while events.next(limit)? == engine::Told::Nothing {
            if forwards.has_failed() && since.elapsed() >= RETRY_PORTS {
                break;
            }
        }
    }
}

/// A log-out or shutdown of the desktop asks the keeper to end: the guest is stopped in order.
fn stop_on_signals(shared: &Arc<Shared>) -> io::Result<()> {
    let asked = system::asked_to_end()?;
    spawn(shared, "signals", move |shared| {
        for () in asked {
            shared.stop();
        }
    });
    Ok(())
}
