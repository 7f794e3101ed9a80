//! From an order to a process that runs, or the reason why it does not: a forked process makes it, and reports over a pipe.

use super::{Container, FIRST, Server};
use crate::cgroup::{Cgroup, Hierarchies};
use crate::shim::connection::Purpose;
use crate::shim::launch::{self, Place};
use crate::shim::log::Log;
use crate::shim::process::{self, Ends, Process, State};
use crate::shim::program::Program;
use crate::shim::protocol::{Refusal, Reply};
use crate::shim::report::{self, Report};
use crate::shim::{Born, exit_file, fork_child};
use engine::id::ExecId;
use engine::runtime::{ExecPlan, LaunchPlan, SharedNamespace};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Instant;
use time::OffsetDateTime;

impl Server {
    pub(super) fn start(
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
        self.log = Log::open(&plan.log)
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

    pub(super) fn exec(&mut self, plan: ExecPlan, asked: (u32, u64)) -> Result<(), Refusal> {
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
    pub(super) fn make(
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

    pub(super) fn report_ready(&mut self, key: u32) {
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

    pub(super) fn runs(&mut self, key: u32, pid: Pid, asked: (u32, u64)) {
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

    pub(super) fn running_reply(&self, pid: Pid) -> Reply {
        let container = self.container.as_ref();
        Reply::Running {
            pid: pid.as_raw() as u32,
            started_at: container.map_or_else(OffsetDateTime::now_utc, |one| one.started_at),
            open_stdin: container.is_some_and(|one| one.open_stdin),
        }
    }

    pub(super) fn never_ran(&mut self, key: u32, asked: (u32, u64), refusal: Refusal) {
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

    pub(super) fn forget_unknown(&mut self) {
        let making = self
            .processes
            .values()
            .any(|process| matches!(process.state, State::Making { .. }));
        if !making {
            self.unknown = Vec::new();
        }
    }
}
