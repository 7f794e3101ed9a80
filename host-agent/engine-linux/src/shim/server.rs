//! The shim's one loop: signals, connections, process output and input, all over poll(2).
//!
//! Order of things when a process ends: reap it, read what its pipes still hold, write the log, store the status
//! durably, and only then tell: the stream connection gets `OutputEnd` and `Ended` behind all output, the control
//! connections get the status.

use super::connection::{Connection, Purpose, Read};
use super::launch::{self, Place};
use super::log_writer::LogWriter;
use super::process::{self, Ends, INPUT_LIMIT, Output, Process, State};
use super::program::{self, Program};
use super::protocol::{
    Answer, Event, Greeting, Kind, Order, Purpose as Wanted, Refusal, Reply, Request, VERSION,
};
use super::report::{self, Report};
use super::{Born, exit_file, fork_child};
use crate::cgroup::{Cgroup, Hierarchies, MemoryWatch};
use engine::id::ExecId;
use engine::runtime::{ExecPlan, ExitStatus, LaunchPlan, SharedNamespace, StreamKind, TtySize};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// Output waiting for serve, bytes, above which the container's pipes are not read.
const OUTPUT_LIMIT: usize = 256 << 10;

/// Bytes of one read of a pipe: as much as a pipe holds.
const READ_SIZE: usize = 64 << 10;
/// Output that comes again within this time is a stream ...
const STREAMING: Duration = Duration::from_millis(1);
/// ... which is left alone so long before the next read: to wake up for every small write of a container costs several
/// times what the bytes do. A pipe that fills up meanwhile allows 200 MB a second.
const GATHER: Duration = Duration::from_micros(300);

/// How long streams that nobody ought to hold open any more may keep the shim alive.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Milliseconds without anything to do after which a shim counts as idle. Most containers that end soon have by then.
const LEAN_AFTER: u16 = 2000;

pub struct Server {
    /// Run-time folder.
    run: PathBuf,
    signals: SignalFd,
    listener: UnixListener,
    connections: BTreeMap<u32, Connection>,
    processes: BTreeMap<u32, Process>,
    next_key: u32,
    container: Option<Container>,
    log: Option<LogWriter>,
    /// Reaped before it was known whose they are.
    unknown: Vec<WaitStatus>,
    /// The pages only starting needed have been given back.
    lean: bool,
    /// Begun when the container has run for a while: one that ends soon is looked at when it has ended.
    memory: Option<MemoryWatch>,
    /// What one read of an output gave.
    buffer: Vec<u8>,
    /// When output last came.
    last_output: Option<Instant>,
    /// Whether to let output gather before the next read.
    gather: bool,
    /// The container has ended or never ran; since when.
    over: Option<Instant>,
}

/// What stays of the plan.
struct Container {
    id: String,
    folder: PathBuf,
    cgroup: Cgroup,
    program: Option<Program>,
    own_pid_namespace: bool,
    open_stdin: bool,
    started_at: OffsetDateTime,
    status: Option<ExitStatus>,
}

/// The first process's key in `processes`.
const FIRST: u32 = 0;

enum Token {
    Signal,
    Listener,
    Connection(u32),
    Report(u32),
    Output(u32, StreamKind),
    Input(u32),
    Memory,
}

impl Server {
    /// `control` and `stream` are the two connections a shim is born with.
    pub fn new(run: PathBuf, control: OwnedFd, stream: OwnedFd) -> io::Result<Server> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let listener = process::listen(&run, super::protocol::SOCKET)?;
        let mut connections = BTreeMap::new();
        connections.insert(1, Connection::new(control, Purpose::Control)?);
        connections.insert(2, Connection::new(stream, Purpose::Stream(None))?);
        Ok(Server {
            run,
            signals,
            listener,
            connections,
            processes: BTreeMap::new(),
            next_key: 3,
            container: None,
            log: None,
            unknown: Vec::new(),
            lean: false,
            memory: None,
            buffer: Vec::new(),
            last_output: None,
            gather: false,
            over: None,
        })
    }

    pub fn run(mut self) -> io::Result<()> {
        loop {
            if self.finished() {
                return Ok(());
            }
            for (token, events) in self.wait()? {
                self.handle(&token, events)?;
            }
        }
    }

    /// Nothing is left to do or to tell.
    fn finished(&self) -> bool {
        let Some(since) = self.over else { return false };
        let patient = since.elapsed() < LAST_WORDS;
        let ended = self.processes.values().all(|process| {
            matches!(process.state, State::Ended) && (process.outputs_ended() || !patient)
        });
        // A serve that reads slowly gets everything; one that is gone has no connection.
        let told = self.connections.values().all(|one| one.backlog() == 0);
        (ended || !patient) && told
    }

    fn wait(&mut self) -> io::Result<Vec<(Token, PollFlags)>> {
        if std::mem::take(&mut self.gather) {
            std::thread::sleep(GATHER);
        }
        let mut idle = false;
        let mut tokens = vec![Token::Signal, Token::Listener];
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for (key, connection) in &self.connections {
            let mut wanted = PollFlags::empty();
            let full = self
                .attached_to(*key)
                .is_some_and(|process| process.input.len() >= INPUT_LIMIT);
            if !full {
                wanted |= PollFlags::POLLIN;
            }
            if connection.backlog() > 0 {
                wanted |= PollFlags::POLLOUT;
            }
            tokens.push(Token::Connection(*key));
            fds.push(PollFd::new(connection.fd(), wanted));
        }
        for (key, process) in &self.processes {
            if let State::Making { report, .. } = &process.state {
                tokens.push(Token::Report(*key));
                fds.push(PollFd::new(report.as_fd(), PollFlags::POLLIN));
            }
            let behind = process
                .stream
                .and_then(|stream| self.connections.get(&stream))
                .is_some_and(|stream| stream.backlog() >= OUTPUT_LIMIT);
            for stream in [StreamKind::Stdout, StreamKind::Stderr] {
                if let (false, Some(fd)) = (behind, &process.outputs[stream as usize]) {
                    tokens.push(Token::Output(*key, stream));
                    fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLIN));
                }
            }
            if let (false, Some(fd)) = (process.input.is_empty(), &process.stdin) {
                tokens.push(Token::Input(*key));
                fds.push(PollFd::new(fd.as_fd(), PollFlags::POLLOUT));
            }
        }
        if let Some(watch) = &self.memory {
            tokens.push(Token::Memory);
            fds.push(PollFd::new(watch.fd(), watch.wanted()));
        }
        let timeout = match self.over {
            Some(_) => PollTimeout::from(100u16),
            // Once more after output, to give back its buffers.
            None if !self.lean || self.buffer.capacity() > 0 => PollTimeout::from(LEAN_AFTER),
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(0) => idle = true,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let events: Vec<PollFlags> = fds
            .iter()
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        drop(fds);
        if !self.lean && self.over.is_none() {
            self.settle(idle);
        }
        if idle && self.over.is_none() {
            self.buffer = Vec::new();
            if let Some(log) = &mut self.log {
                log.rest();
            }
        }
        Ok(tokens
            .into_iter()
            .zip(events)
            .filter(|(_, events)| !events.is_empty())
            .collect())
    }

    /// Once, when the container has run for a while.
    fn settle(&mut self, idle: bool) {
        let runs = |process: &Process| process.pid().is_some();
        let first = self.processes.get(&FIRST).is_some_and(runs);
        let Some(container) = self.container.as_ref().filter(|_| first) else {
            return;
        };
        let since = OffsetDateTime::now_utc() - container.started_at;
        if !idle && since < Duration::from_millis(LEAN_AFTER.into()) {
            return;
        }
        self.lean = true;
        match container.cgroup.watch_memory() {
            Ok(watch) => self.memory = watch,
            Err(error) => eprintln!("shim: watch the container's memory: {error}"),
        }
        self.memory_ran_out();
        super::memory::forget_clean_pages();
    }

    fn memory_ran_out(&mut self) {
        let ran_out = self.memory.as_mut().is_some_and(MemoryWatch::take);
        // The status of a container that has ended says it.
        if ran_out && self.over.is_none() {
            self.tell(&Event::OutOfMemory);
        }
    }

    fn attached_to(&self, connection: u32) -> Option<&Process> {
        self.processes
            .values()
            .find(|process| process.stream == Some(connection))
    }

    fn handle(&mut self, token: &Token, events: PollFlags) -> io::Result<()> {
        match *token {
            Token::Signal => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Token::Listener => {
                while let Ok((socket, _)) = self.listener.accept() {
                    let key = self.new_key();
                    let connection = Connection::new(socket.into(), Purpose::Unknown)?;
                    self.connections.insert(key, connection);
                }
            }
            Token::Connection(key) => self.connection_ready(key, events),
            Token::Report(key) => self.report_ready(key),
            Token::Memory => self.memory_ran_out(),
            Token::Output(key, stream) => {
                self.move_output(key, stream);
                self.tidy(key);
            }
            Token::Input(key) => {
                if let Some(process) = self.processes.get_mut(&key) {
                    process.write_input();
                }
            }
        }
        Ok(())
    }

    fn new_key(&mut self) -> u32 {
        self.next_key += 1;
        self.next_key
    }

    // Connections

    fn connection_ready(&mut self, key: u32, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(&key) else {
            return;
        };
        if events.contains(PollFlags::POLLOUT) {
            connection.flush();
        }
        if !events.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
        let mut closed = !matches!(connection.read(), Ok(Read::More));
        loop {
            let Some(connection) = self.connections.get_mut(&key) else {
                return;
            };
            match connection.next_frame() {
                Ok(Some((kind, payload))) => {
                    if let Err(why) = self.frame(key, kind, &payload) {
                        eprintln!("shim: {why}");
                        closed = true;
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    eprintln!("shim: {error}");
                    closed = true;
                    break;
                }
            }
        }
        if closed {
            self.close(key);
        }
    }

    fn close(&mut self, key: u32) {
        self.connections.remove(&key);
        let attached = self
            .processes
            .iter()
            .find(|(_, process)| process.stream == Some(key))
            .map(|(key, _)| *key);
        if let Some(process_key) = attached {
            if let Some(process) = self.processes.get_mut(&process_key) {
                process.stream = None;
                // Whoever waited for an exec is gone with serve. The first process's input stays open for the next.
                if process.exec.is_some() {
                    process.input_ended = true;
                    process.write_input();
                }
            }
            self.tidy(process_key);
        }
        // A container that never ran and has nobody to ask for it.
        if self.container.is_none() && self.connections.is_empty() {
            self.over.get_or_insert_with(Instant::now);
        }
    }

    fn frame(&mut self, key: u32, kind: Kind, payload: &[u8]) -> Result<(), String> {
        let purpose = self.connections[&key].purpose.clone();
        match (purpose, kind) {
            (Purpose::Unknown, Kind::Greeting) => self.greeting(key, payload),
            (Purpose::Control, Kind::Request) => {
                let request: Request = serde_json::from_slice(payload)
                    .map_err(|error| format!("a request that cannot be read: {error}"))?;
                self.request(key, request);
                Ok(())
            }
            (Purpose::Stream(_), Kind::Stdin | Kind::StdinEnd) => {
                let process = self
                    .processes
                    .values_mut()
                    .find(|process| process.stream == Some(key));
                if let Some(process) = process {
                    if kind == Kind::StdinEnd {
                        process.input_ended = true;
                    } else if process.stdin.is_some() {
                        process.input.extend_from_slice(payload);
                    }
                    process.write_input();
                }
                Ok(())
            }
            (purpose, kind) => Err(format!("a {kind:?} frame on a {purpose:?} connection")),
        }
    }

    fn greeting(&mut self, key: u32, payload: &[u8]) -> Result<(), String> {
        let greeting: Greeting = serde_json::from_slice(payload)
            .map_err(|error| format!("a greeting that cannot be read: {error}"))?;
        if greeting.version != VERSION {
            return Err(format!(
                "serve speaks version {} of the protocol, this shim {VERSION}",
                greeting.version
            ));
        }
        let purpose = match greeting.purpose {
            Wanted::Control => Purpose::Control,
            Wanted::Stream(process) => Purpose::Stream(process),
        };
        let connection = self
            .connections
            .get_mut(&key)
            .expect("it has just sent a frame");
        connection.purpose = purpose.clone();
        connection.send(Kind::Greeting, b"");
        if let Purpose::Stream(wanted) = purpose {
            let found = self
                .processes
                .iter_mut()
                .find(|(_, process)| process.exec == wanted);
            if let Some((process_key, process)) = found {
                let process_key = *process_key;
                let before = process.stream.replace(key);
                if let Some(before) = before {
                    self.connections.remove(&before);
                }
                self.announce_end(process_key);
            }
        }
        Ok(())
    }

    fn answer(&mut self, asked: (u32, u64), result: Result<Reply, Refusal>) {
        if let Some(connection) = self.connections.get_mut(&asked.0) {
            let answer = Answer {
                number: asked.1,
                result,
            };
            let payload = serde_json::to_vec(&answer).expect("plain data");
            connection.send(Kind::Answer, &payload);
        }
    }

    // Requests

    fn request(&mut self, key: u32, request: Request) {
        let asked = (key, request.number);
        let result = match request.order {
            // These two are answered when the program runs or could not.
            Order::Start { plan, hierarchies } => match self.start(*plan, hierarchies, asked) {
                Ok(()) => return,
                Err(refusal) => {
                    self.over = Some(Instant::now());
                    Err(refusal)
                }
            },
            Order::Exec(plan) => match self.exec(*plan, asked) {
                Ok(()) => return,
                Err(refusal) => Err(refusal),
            },
            Order::State => self.state(),
            Order::Signal { process, signal } => self.signal(process.as_ref(), signal),
            Order::Resize { process, size } => self.resize(process.as_ref(), size),
        };
        self.answer(asked, result);
    }

    fn start(
        &mut self,
        mut plan: LaunchPlan,
        hierarchies: Hierarchies,
        asked: (u32, u64),
    ) -> Result<(), Refusal> {
        if self.container.is_some() {
            return Err(Refusal::failed(
                "start the container",
                "this shim has one already",
            ));
        }
        self.log = LogWriter::open(&plan.log)
            .map_err(|error| Refusal::failed("open the container's log", error))?;
        exit_file::remove(&plan.folder)
            .map_err(|error| Refusal::failed("remove the status of the last run", error))?;
        let arguments = std::mem::take(&mut plan.runtime_arguments);
        let program = plan.runtime.take().map(|path| Program {
            path: path.into(),
            arguments,
        });
        let cgroup = Cgroup::new(&Arc::new(hierarchies), &plan.cgroup);
        let container = Container {
            id: plan.id.as_str().to_owned(),
            folder: plan.folder.clone(),
            cgroup: cgroup.clone(),
            program,
            own_pid_namespace: plan.namespaces.pid == SharedNamespace::Own,
            open_stdin: plan.process.open_stdin,
            started_at: OffsetDateTime::now_utc(),
            status: None,
        };
        let stream = self
            .connections
            .iter()
            .find(|(_, connection)| connection.purpose == Purpose::Stream(None))
            .map(|(key, _)| *key);
        let run = self.run.clone();
        let (id, program) = (container.id.clone(), container.program.clone());
        let own_runtime = program.is_none();
        self.container = Some(container);
        if own_runtime {
            cgroup.create().map_err(|error| {
                Refusal::failed(format!("make the control group {}", plan.cgroup), error)
            })?;
        }
        let group = own_runtime.then(|| cgroup.clone());
        let (tty, open_stdin) = (plan.process.tty, plan.process.open_stdin);
        self.make(
            FIRST,
            None,
            tty,
            open_stdin,
            stream,
            asked,
            group.as_ref(),
            move |born, report, stdio| {
                let place = Place {
                    run: &run,
                    id: &id,
                    program: program.as_ref(),
                    report,
                };
                launch::start(&plan, &cgroup, born, &place, stdio)
            },
        )
    }

    fn exec(&mut self, plan: ExecPlan, asked: (u32, u64)) -> Result<(), Refusal> {
        let init = self.running(None)?;
        let container = self.container.as_ref().ok_or(Refusal::NotRunning)?;
        let stream = self
            .connections
            .iter()
            .find(|(_, connection)| connection.purpose == Purpose::Stream(Some(plan.id.clone())))
            .map(|(key, _)| *key);
        let run = self.run.clone();
        let (id, program) = (container.id.clone(), container.program.clone());
        let cgroup = container.cgroup.clone();
        let group = program.is_none().then(|| cgroup.clone());
        let key = self.new_key();
        let (tty, open_stdin) = (plan.process.tty, plan.process.open_stdin);
        let exec = plan.id.clone();
        self.make(
            key,
            Some(exec),
            tty,
            open_stdin,
            stream,
            asked,
            group.as_ref(),
            move |born, report, stdio| {
                let place = Place {
                    run: &run,
                    id: &id,
                    program: program.as_ref(),
                    report,
                };
                launch::exec(&plan, init.as_raw(), &cgroup, born, &place, stdio)
            },
        )
    }

    /// Forks the process that makes a process; what comes of it is known when its report ends.
    #[allow(clippy::too_many_arguments)]
    fn make(
        &mut self,
        key: u32,
        exec: Option<ExecId>,
        tty: bool,
        open_stdin: bool,
        stream: Option<u32>,
        asked: (u32, u64),
        group: Option<&Cgroup>,
        work: impl FnOnce(Born, i32, launch::Stdio) -> Result<i32, Refusal>,
    ) -> Result<(), Refusal> {
        let failed = |error: io::Error| Refusal::failed("make the process's streams", error);
        let (report, report_end) =
            nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|error| failed(error.into()))?;
        process::not_blocking(report.as_raw_fd()).map_err(|error| failed(error.into()))?;
        let (theirs, ours, console, console_path) = if tty {
            let name = format!("console-{key}.sock");
            let listener = process::listen(&self.run, &name).map_err(failed)?;
            (
                launch::Stdio::default(),
                Ends::default(),
                Some(listener),
                Some(self.run.join(name)),
            )
        } else {
            let (theirs, ours) =
                process::pipes(open_stdin).map_err(|error| failed(error.into()))?;
            (theirs, ours, None, None)
        };
        let stdio = launch::Stdio {
            console: console_path,
            ..theirs
        };
        fork_child(group, move |born| {
            let pipe = report_end.as_raw_fd();
            match work(born, pipe, stdio) {
                Ok(pid) => report::send(pipe, &Report::Process(pid)),
                Err(refusal) => report::send(pipe, &Report::Failed(refusal)),
            }
            Ok(())
        })
        .map_err(|error| failed(error.into()))?;
        self.processes.insert(
            key,
            Process {
                exec,
                state: State::Making {
                    report,
                    heard: Vec::new(),
                    console,
                    asked,
                },
                stdin: ours.stdin,
                input: Vec::new(),
                input_ended: false,
                outputs: ours.outputs,
                tty,
                stream,
            },
        );
        Ok(())
    }

    fn report_ready(&mut self, key: u32) {
        let Some(Process {
            state: State::Making { report, heard, .. },
            ..
        }) = self.processes.get_mut(&key)
        else {
            return;
        };
        let mut buffer = [0u8; 4096];
        match nix::unistd::read(report.as_raw_fd(), &mut buffer) {
            Ok(0) => {}
            Ok(count) => return heard.extend_from_slice(&buffer[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => return,
            Err(_) => {}
        }
        let outcome = report::outcome(heard);
        let Some(process) = self.processes.get_mut(&key) else {
            return;
        };
        let State::Making { console, asked, .. } =
            std::mem::replace(&mut process.state, State::Running(Pid::from_raw(0)))
        else {
            return;
        };
        let outcome = outcome.and_then(|pid| {
            let Some(listener) = console else {
                return Ok(pid);
            };
            let terminal = process::receive_terminal(&listener)
                .and_then(|terminal| Ok((terminal.try_clone()?, terminal)));
            let (input, output) =
                terminal.map_err(|error| Refusal::failed("take the process's terminal", error))?;
            process.stdin = Some(input);
            process.outputs[0] = Some(output);
            process.write_input();
            Ok(pid)
        });
        let _ = std::fs::remove_file(self.run.join(format!("console-{key}.sock")));
        match outcome {
            Ok(pid) => self.runs(key, pid, asked),
            Err(refusal) => self.never_ran(key, asked, refusal),
        }
    }

    fn runs(&mut self, key: u32, pid: Pid, asked: (u32, u64)) {
        if let Some(process) = self.processes.get_mut(&key) {
            process.state = State::Running(pid);
        }
        if let (FIRST, Some(container)) = (key, &mut self.container) {
            container.started_at = OffsetDateTime::now_utc();
        }
        let reply = self.running_reply(pid);
        self.answer(asked, Ok(reply));
        // It may have ended before its id was known.
        let early = self
            .unknown
            .iter()
            .filter_map(|status| process::exit_code(*status))
            .find(|(ended, _)| *ended == pid);
        if let Some((pid, code)) = early {
            self.ended(pid, code);
        }
        self.forget_unknown();
    }

    fn running_reply(&self, pid: Pid) -> Reply {
        let container = self.container.as_ref();
        Reply::Running {
            pid: pid.as_raw() as u32,
            started_at: container.map_or_else(OffsetDateTime::now_utc, |one| one.started_at),
            open_stdin: container.is_some_and(|one| one.open_stdin),
        }
    }

    fn never_ran(&mut self, key: u32, asked: (u32, u64), refusal: Refusal) {
        self.processes.remove(&key);
        self.forget_unknown();
        if key == FIRST {
            if let Some(container) = self.container.take() {
                // libcontainer may have got as far as a waiting process.
                container.cgroup.kill();
                if let Err(error) = container.cgroup.remove() {
                    eprintln!("shim: remove the control group: {error}");
                }
            }
            self.over = Some(Instant::now());
        }
        self.answer(asked, Err(refusal));
    }

    fn forget_unknown(&mut self) {
        let making = self
            .processes
            .values()
            .any(|process| matches!(process.state, State::Making { .. }));
        if !making {
            self.unknown = Vec::new();
        }
    }

    fn running(&self, exec: Option<&ExecId>) -> Result<Pid, Refusal> {
        self.processes
            .values()
            .find(|process| process.exec.as_ref() == exec)
            .and_then(Process::pid)
            .ok_or(Refusal::NotRunning)
    }

    fn state(&self) -> Result<Reply, Refusal> {
        if let Some(status) = self.container.as_ref().and_then(|one| one.status.clone()) {
            return Ok(Reply::Ended(status));
        }
        self.running(None).map(|pid| self.running_reply(pid))
    }

    fn signal(&mut self, exec: Option<&ExecId>, signal: i32) -> Result<Reply, Refusal> {
        let pid = self.running(exec)?;
        // It cannot be another process by now: only we reap it.
        // SAFETY: kill(2) takes numbers only. Not nix's, because Docker passes real-time signals too.
        if unsafe { libc::kill(pid.as_raw(), signal) } != 0 {
            return Err(match Errno::last() {
                Errno::ESRCH => Refusal::NotRunning,
                Errno::EINVAL => Refusal::Invalid {
                    what: format!("signal {signal}"),
                    why: "there is no such signal".to_owned(),
                },
                error => Refusal::failed("send the signal", error.desc()),
            });
        }
        Ok(Reply::Done)
    }

    fn resize(&mut self, exec: Option<&ExecId>, size: TtySize) -> Result<Reply, Refusal> {
        let process = self
            .processes
            .values()
            .find(|process| process.exec.as_ref() == exec)
            .ok_or(Refusal::NotRunning)?;
        match (&process.stdin, process.tty) {
            (Some(terminal), true) => super::set_tty_size(terminal.as_raw_fd(), size)
                .map(|()| Reply::Done)
                .map_err(|error| Refusal::failed("resize the terminal", error)),
            (None, true) => Err(Refusal::NotRunning),
            // Docker ignores it as well.
            (_, false) => Ok(Reply::Done),
        }
    }

    // Output and ends

    /// One read of an output: to the log and to whoever is attached. Whether there was anything.
    fn move_output(&mut self, key: u32, stream: StreamKind) -> bool {
        let Some(process) = self.processes.get_mut(&key) else {
            return false;
        };
        // Its pages are touched only as far as a read fills them.
        self.buffer.reserve(READ_SIZE);
        match process.read_output(stream, &mut self.buffer) {
            Output::Data => {}
            Output::Nothing => return false,
            Output::End => {
                self.announce_end(key);
                return false;
            }
        }
        let data = &self.buffer[..];
        let now = Instant::now();
        let streams = |last: Instant| now.duration_since(last) < STREAMING;
        self.gather = data.len() < READ_SIZE / 2 && self.last_output.is_some_and(streams);
        self.last_output = Some(now);
        if process.exec.is_none()
            && let Some(log) = &mut self.log
            && let Err(error) = log.write(stream, data)
        {
            // A full disk must not stop the container; Docker drops the lines as well.
            eprintln!("shim: write the log: {error}");
        }
        let attached = process
            .stream
            .and_then(|key| self.connections.get_mut(&key));
        if let Some(connection) = attached {
            connection.send(Kind::of_stream(stream), data);
        }
        true
    }

    /// Tells the attached stream what has ended: the output, the process.
    fn announce_end(&mut self, key: u32) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        let attached = process
            .stream
            .and_then(|key| self.connections.get_mut(&key));
        let Some(connection) = attached else { return };
        if process.outputs_ended() && !matches!(process.state, State::Making { .. }) {
            connection.send(Kind::OutputEnd, b"");
        }
        if matches!(process.state, State::Ended) {
            connection.send(Kind::Ended, b"");
        }
    }

    /// Forgets an exec whose end everybody has been told.
    fn tidy(&mut self, key: u32) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        let over = matches!(process.state, State::Ended) && process.outputs_ended();
        if process.exec.is_some() && over {
            // The connection stays until its reader closes it: output may still be on its way.
            self.processes.remove(&key);
        }
    }

    fn reap(&mut self) {
        loop {
            let status = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(status) => status,
            };
            let Some((pid, code)) = process::exit_code(status) else {
                continue;
            };
            if let Some(log) = &mut self.log {
                log.reaped(pid);
            }
            if self.processes.values().any(|one| one.pid() == Some(pid)) {
                self.ended(pid, code);
            } else {
                self.unknown.push(status);
                self.forget_unknown();
            }
        }
    }

    fn ended(&mut self, pid: Pid, code: i32) {
        let key = self
            .processes
            .iter()
            .find(|(_, process)| process.pid() == Some(pid))
            .map(|(key, _)| *key);
        let Some(key) = key else { return };
        let first = key == FIRST;
        let at = OffsetDateTime::now_utc();
        let mut oom_killed = false;
        if first && let Some(container) = &self.container {
            oom_killed = container.cgroup.oom_killed();
            // In a process id namespace of its own the kernel has ended all others already.
            if !container.own_pid_namespace {
                container.cgroup.kill();
            }
        }
        // What it wrote is in its pipes; they hold no more than that, so this ends.
        for stream in [StreamKind::Stdout, StreamKind::Stderr] {
            while self.move_output(key, stream) {}
        }
        let status = ExitStatus {
            code,
            at,
            oom_killed,
        };
        let exec = self
            .processes
            .get(&key)
            .and_then(|process| process.exec.clone());
        if let Some(process) = self.processes.get_mut(&key) {
            process.state = State::Ended;
            process.input_ended = true;
            process.stdin = None;
            process.input = Vec::new();
        }
        if first {
            if let Some(log) = &mut self.log
                && let Err(error) = log.finish()
            {
                eprintln!("shim: write the log: {error}");
            }
            if let Some(container) = &mut self.container {
                if let Err(error) = exit_file::write(&container.folder, &status) {
                    eprintln!("shim: store the exit status: {error}");
                }
                container.status = Some(status.clone());
                if let Some(path) = &container.program {
                    let place = Place {
                        run: &self.run,
                        id: &container.id,
                        program: Some(path),
                        report: -1,
                    };
                    program::delete(path, &place);
                }
            }
            self.over = Some(Instant::now());
        }
        let event = Event::Exited {
            process: exec,
            status,
        };
        self.announce_end(key);
        self.tell(&event);
        self.tidy(key);
    }

    fn tell(&mut self, event: &Event) {
        let payload = serde_json::to_vec(event).expect("plain data");
        for connection in self.connections.values_mut() {
            if connection.purpose == Purpose::Control {
                connection.send(Kind::Event, &payload);
            }
        }
    }
}
