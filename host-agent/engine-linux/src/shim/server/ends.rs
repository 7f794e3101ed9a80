//! What processes write, and how they end.

use super::{FIRST, READ_SIZE, STREAMING, Server};
use crate::shim::launch::Place;
use crate::shim::process::{self, Output, State};
use crate::shim::protocol::{Event, Kind};
use crate::shim::{exit_file, program};
use engine::runtime::{ExitStatus, StreamKind};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::time::Instant;
use time::OffsetDateTime;

impl Server {
    /// One read of an output: to the log and to whoever is attached. Whether there was anything.
    pub(super) fn move_output(&mut self, key: u32, stream: StreamKind) -> bool {
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
    pub(super) fn announce_end(&mut self, key: u32) {
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
    pub(super) fn tidy(&mut self, key: u32) {
        let Some(process) = self.processes.get(&key) else {
            return;
        };
        let over = matches!(process.state, State::Ended) && process.outputs_ended();
        if process.exec.is_some() && over {
            // The connection stays until its reader closes it: output may still be on its way.
            self.processes.remove(&key);
        }
    }

    pub(super) fn reap(&mut self) {
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

    pub(super) fn ended(&mut self, pid: Pid, code: i32) {
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
}
