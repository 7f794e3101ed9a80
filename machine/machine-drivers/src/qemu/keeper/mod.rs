//! The keeper: the desktop process that owns one running machine.
//!
//! ```text
//!   machine create/start --starts--> keeper --starts--> QEMU
//!        |  watch, stop, kill          |  <--- control port: readiness; requests --->  guest's init
//!        '------- keeper.sock ---------'  <--- QMP: ports, power, end
//!                                         <--- mutual TLS: /events --->  guest's engine
//! ```
//!
//! It ends when QEMU ends and leaves no socket behind. When it is killed, QEMU dies with it (on Linux through the
//! parent-death signal; elsewhere the next `machine` command finds QEMU by `keeper.json` and ends it).

mod clock;
mod engine;
mod ports;
mod qmp;
pub mod share;
pub mod status;

use super::files::Files;
use super::process::ProcessId;
use guest_contract::control::ControlRequest;
use guest_contract::readiness::ReadinessEvent;
use machine_core::store::atomic;
use qmp::Qmp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use share::{Session, SharedFolder};
use status::{Board, KeeperRecord, Phase, RECORD_VERSION, Request};
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The hidden verb of `machine` that runs [`main`].
pub const VERB: &str = "keeper";
/// As first argument of the verb: become QEMU, and die with the parent.
const BECOME: &str = "--become";

/// How long QEMU may take to connect its monitor.
const CONNECTS_WITHIN: Duration = Duration::from_secs(20);
/// How long an orderly stop may take: the guest gives its containers 20 s.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
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
    #[error("QEMU did not connect: {why}")]
    NotConnected { why: String },
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
    if first == BECOME {
        return become_program(args.collect());
    }
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .try_init();
    // Away from the terminal: its Ctrl-C and its end are not ours.
    let _ = rustix::process::setsid();
    match keep(Path::new(&first)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(&error);
            while let Some(inner) = source {
                text.push_str(&format!(": {inner}"));
                source = inner.source();
            }
            // Read by `machine` when it finds nobody to talk to.
            eprintln!("keeper: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Replaces this process by a program that dies with the keeper. (Between fork and exec the keeper itself could ask
/// for that only with unsafe code; a process of its own, one exec earlier, needs none.)
fn become_program(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let parent = args
        .next()
        .and_then(|text| text.to_str()?.parse::<i32>().ok());
    let (Some(parent), Some(program)) = (parent, args.next()) else {
        eprintln!("usage: machine {VERB} {BECOME} PARENT PROGRAM ARGUMENTS");
        return ExitCode::from(2);
    };
    #[cfg(target_os = "linux")]
    {
        let _ =
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        // Had the keeper died before the line above, nobody would send the signal any more.
        let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        if now != Some(parent) {
            eprintln!("keeper: gone before QEMU started");
            return ExitCode::FAILURE;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    let error = Command::new(&program).args(args).exec();
    eprintln!(
        "keeper: cannot run {}: {error}",
        Path::new(&program).display()
    );
    ExitCode::FAILURE
}

/// What the threads share.
struct Shared {
    files: Files,
    board: Board,
    qmp: Qmp,
    /// The control port's writing half.
    control: Mutex<UnixStream>,
    vm: ProcessId,
    record: Mutex<KeeperRecord>,
    /// QEMU's last words.
    complaints: Arc<Mutex<Vec<String>>>,
    shares: Vec<Arc<Session>>,
}

fn keep(folder: &Path) -> Result<(), KeeperError> {
    let files = Files::in_folder(folder);
    let plan = read_plan(&files)?;
    files
        .make_socket_folder()
        .map_err(|source| KeeperError::Io {
            step: "make the folder for sockets",
            source,
        })?;
    if UnixStream::connect(files.keeper_socket()).is_ok() {
        return Err(KeeperError::Taken);
    }
    let result = keep_machine(&files, &plan);
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

fn keep_machine(files: &Files, plan: &VmPlan) -> Result<(), KeeperError> {
    let monitor = listen(&files.qmp_socket())?;
    let control = listen(&files.control_socket())?;
    let asked = listen(&files.keeper_socket())?;
    let ports = (0..plan.shares.len()).map(|index| listen(&files.share_socket(index)));
    let ports = ports.collect::<Result<Vec<_>, _>>()?;
    allow_many_files();
    let mut child = start(plan)?;
    let complaints = complaints_of(&mut child);
    let connected = (|| {
        let qmp = accept(&monitor, &mut child, &complaints)?;
        let control = accept(&control, &mut child, &complaints)?;
        let mut shares = Vec::new();
        for (shared, port) in plan.shares.iter().zip(&ports) {
            let stream = accept(port, &mut child, &complaints)?;
            let session = Session::new(shared, stream).map_err(|source| KeeperError::Share {
                path: shared.host.clone(),
                source,
            })?;
            shares.push(Arc::new(session));
        }
        Ok::<_, KeeperError>((Qmp::over(qmp)?, control, shares))
    })();
    let (qmp, control, shares) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    // Only QEMU was to connect, and only once.
    let _ = std::fs::remove_file(files.qmp_socket());
    let _ = std::fs::remove_file(files.control_socket());
    for index in 0..shares.len() {
        let _ = std::fs::remove_file(files.share_socket(index));
    }

    let vm = ProcessId::of(child.id()).unwrap_or(ProcessId {
        pid: child.id(),
        started: 0,
    });
    let record = KeeperRecord {
        version: RECORD_VERSION,
        keeper: ProcessId::of(std::process::id()),
        vm: Some(vm),
        status: status::Status::new(),
    };
    let io = |step| move |source| KeeperError::Io { step, source };
    let reader = control
        .try_clone()
        .map_err(io("duplicate the control port"))?;
    let shared = Arc::new(Shared {
        files: files.clone(),
        board: Board::new(),
        qmp,
        control: Mutex::new(control),
        vm,
        record: Mutex::new(record),
        complaints,
        shares,
    });
    shared.store();
    tracing::info!(pid = vm.pid, "QEMU started");

    spawn(&shared, "control", move |shared| {
        listen_to_guest(shared, reader)
    });
    spawn(&shared, "answers", move |shared| answer_all(shared, &asked));
    for session in shared.shares.clone() {
        spawn(&shared, "share", move |_| session.run());
    }
    spawn(&shared, "record", keep_record);
    spawn(&shared, "clock", |shared| {
        clock::keep(|unix_ms| shared.tell_guest(ControlRequest::SetTime { unix_ms }));
    });
    let address = SocketAddr::new(plan.ip.into(), plan.api_port);
    let ip = plan.ip;
    spawn(&shared, "ports", move |shared| {
        follow_engine(shared, ip, address)
    });
    if plan.resumes {
        spawn(&shared, "resume", welcome_back);
    }
    stop_on_signals(&shared).map_err(io("wait for signals"))?;

    let ended = child.wait().map_err(io("wait for QEMU"))?;
    let last = shared
        .complaints
        .lock()
        .map(|lines| lines.last().cloned())
        .ok()
        .flatten();
    let why = match (ended.success(), last) {
        (true, _) if shared.board.now().phase == Phase::Stopping => {
            "the guest powered off".to_owned()
        }
        (true, _) => "the guest ended by itself".to_owned(),
        (false, Some(last)) => format!("QEMU ended ({ended}): {last}"),
        (false, None) => format!("QEMU ended ({ended})"),
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

/// Containers may hold many files of a shared folder open at once; each is one of ours.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

fn spawn(shared: &Arc<Shared>, name: &str, work: impl FnOnce(&Arc<Shared>) + Send + 'static) {
    let shared = shared.clone();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || work(&shared))
        .expect("a desktop has room for a thread");
}

fn listen(path: &Path) -> Result<UnixListener, KeeperError> {
    // Left over from a keeper that was killed; one that lives was looked for before.
    let _ = std::fs::remove_file(path);
    UnixListener::bind(path).map_err(|source| KeeperError::Listen {
        path: path.to_path_buf(),
        source,
    })
}

/// Starts QEMU from the keeper's main thread: the parent-death signal is tied to the thread.
fn start(plan: &VmPlan) -> Result<Child, KeeperError> {
    let failed = |source| KeeperError::Start {
        program: plan.program.display().to_string(),
        source,
    };
    let mut command = if cfg!(target_os = "linux") {
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .args([VERB, BECOME])
            .arg(std::process::id().to_string())
            .arg(&plan.program);
        command
    } else {
        Command::new(&plan.program)
    };
    command
        .args(&plan.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)
}

/// Copies what QEMU says to the log and keeps the last lines.
fn complaints_of(child: &mut Child) -> Arc<Mutex<Vec<String>>> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    if let Some(stderr) = child.stderr.take() {
        let kept = kept.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("qemu: {line}");
                if let Ok(mut kept) = kept.lock() {
                    let kept: &mut Vec<String> = &mut kept;
                    if kept.len() == 10 {
                        kept.remove(0);
                    }
                    kept.push(line);
                }
            }
        });
    }
    kept
}

fn accept(
    listener: &UnixListener,
    child: &mut Child,
    complaints: &Mutex<Vec<String>>,
) -> Result<UnixStream, KeeperError> {
    let io = |source| KeeperError::Io {
        step: "wait for QEMU",
        source,
    };
    listener.set_nonblocking(true).map_err(io)?;
    let deadline = Instant::now() + CONNECTS_WITHIN;
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).map_err(io)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(io(error)),
        }
        if let Some(status) = child.try_wait().map_err(io)? {
            // Its last words may still be on the way.
            std::thread::sleep(Duration::from_millis(50));
            let last = complaints
                .lock()
                .map(|lines| lines.join("; "))
                .unwrap_or_default();
            return Err(KeeperError::NotConnected {
                why: format!("it ended ({status}): {last}"),
            });
        }
        if Instant::now() > deadline {
            return Err(KeeperError::NotConnected {
                why: format!("nothing happened for {} s", CONNECTS_WITHIN.as_secs()),
            });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
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
        if self.ends_within(STOPS_WITHIN) {
            return;
        }
        tracing::warn!(
            "the guest did not power off within {} s: ending QEMU",
            STOPS_WITHIN.as_secs()
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
            .and_then(|()| std::fs::rename(&writing, &memory).map_err(|error| error.to_string()))
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
        let file = machine_core::ssh::shell_word(&to.display().to_string());
        let uri = format!("exec:umask 077; cat > {file} && sync {file}");
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
        let file = std::fs::File::open(to).and_then(|file| file.sync_all());
        file.map_err(|error| error.to_string())
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

/// A guest that goes on does not know that time has passed, and has told how it is to another keeper.
fn welcome_back(shared: &Arc<Shared>) {
    share::restore_all(&shared.shares, &shared.files.shares_state());
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
    while shared.board.now().phase == Phase::Booting {
        std::thread::sleep(Duration::from_millis(300));
        let unix_ms = clock::wall().as_millis() as u64;
        shared.tell_guest(ControlRequest::SetTime { unix_ms });
        shared.tell_guest(ControlRequest::Report);
    }
}

/// Reads the guest's readiness. A stream of bytes from inside the machine: long and odd lines are dropped.
fn listen_to_guest(shared: &Arc<Shared>, stream: UnixStream) {
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

fn answer_all(shared: &Arc<Shared>, listener: &UnixListener) {
    for stream in listener.incoming().flatten() {
        spawn(shared, "answer", move |shared| {
            // An asker that left is no concern of ours.
            let _ = answer(shared, stream);
        });
    }
}

fn answer(shared: &Arc<Shared>, stream: UnixStream) -> io::Result<()> {
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

fn write_status(stream: &mut UnixStream, status: &status::Status) -> io::Result<()> {
    let mut line = serde_json::to_vec(status).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Opens and closes ports as containers come and go, for as long as the machine runs.
fn follow_engine(shared: &Arc<Shared>, ip: Ipv4Addr, address: SocketAddr) {
    let mut forwards = ports::Forwards::new(ip);
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
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ])?;
    spawn(shared, "signals", move |shared| {
        for _ in signals.forever() {
            shared.stop();
        }
    });
    Ok(())
}
