//! The shim's one loop: signals, connections, process output and input, all over poll(2).
//!
//! Order of things when a process ends: reap it, read what its pipes still hold, write the log, store the status
//! durably, and only then tell: the stream connection gets `OutputEnd` and `Ended` behind all output, the control
//! connections get the status.

mod connections;
mod ends;
mod making;

use super::connection::{Connection, Purpose};
use super::log::Log;
use super::process::{self, INPUT_LIMIT, Process, State};
use super::program::Program;
use super::protocol::{Event, Order, Refusal, Reply, Request};
use crate::cgroup::{Cgroup, MemoryWatch};
use engine::id::ExecId;
use engine::runtime::{ExitStatus, StreamKind, TtySize};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
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
    log: Option<Log>,
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
    Log,
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
        if let Some(pipe) = self.log.as_ref().and_then(Log::waits_for) {
            tokens.push(Token::Log);
            fds.push(PollFd::new(pipe, PollFlags::POLLOUT));
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
            Token::Log => {
                if let Some(log) = &mut self.log {
                    log.go_on();
                }
            }
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
}
