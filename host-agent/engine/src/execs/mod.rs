//! Processes started in running containers: `docker exec`.
//!
//! ```text
//!  create -> Created --start--> Running --(ends)--> Ended, kept a while so that its exit code can be read
//!                     '-- could not --> Ended (126, 127)
//! ```

mod attached;

use crate::clock::Clock;
use crate::containers::container::Container;
use crate::containers::lifecycle::Request;
use crate::containers::plan::{self, ExecSettings};
use crate::containers::{ContainerError, ContainerService};
use crate::id::{ContainerId, ExecId};
use crate::runtime::{ExecPlan, ExecTask, ProcessIo, RuntimeError, TtySize};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use time::OffsetDateTime;

/// How long an ended exec can be asked about. Docker looks every five minutes for those to forget.
const KEPT: Duration = Duration::from_secs(300);

/// What to run.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub working_directory: String,
    pub user: String,
    pub tty: bool,
    pub tty_size: Option<TtySize>,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    pub privileged: bool,
    pub detach_keys: String,
}

/// What can be told of an exec.
#[derive(Debug, Clone)]
pub struct ExecFacts {
    pub id: ExecId,
    pub container: ContainerId,
    pub request: ExecRequest,
    pub running: bool,
    /// `None` until it has ended.
    pub exit_code: Option<i32>,
    /// 0 until it runs.
    pub pid: u32,
}

/// How to start it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExecStartOptions {
    pub tty_size: Option<TtySize>,
    pub failures: FailureCodes,
}

/// The exit code of an exec that could not be started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FailureCodes {
    /// 127 for a program that is not there, 126 for one that cannot be executed.
    #[default]
    ByReason,
    /// 126 for all.
    Alike,
}

struct Exec {
    id: ExecId,
    container: Arc<Container>,
    request: ExecRequest,
    state: Mutex<State>,
}

enum State {
    Created,
    Starting,
    Running {
        task: Arc<dyn ExecTask>,
    },
    Ended {
        code: i32,
        pid: u32,
        at: OffsetDateTime,
    },
}

/// The right to start an exec. Given back when it is dropped unused.
pub struct Claim {
    exec: Arc<Exec>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = self.exec.state();
        if matches!(*state, State::Starting) {
            *state = State::Created;
        }
    }
}

impl Exec {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no code panics while it holds this lock")
    }
}

/// Makes and runs execs.
pub struct ExecService {
    containers: Arc<ContainerService>,
    clock: Arc<dyn Clock>,
    execs: Mutex<HashMap<ExecId, Arc<Exec>>>,
}

impl ExecService {
    pub fn new(containers: Arc<ContainerService>, clock: Arc<dyn Clock>) -> Arc<ExecService> {
        Arc::new(ExecService {
            containers,
            clock,
            execs: Mutex::default(),
        })
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<ExecId, Arc<Exec>>> {
        self.execs
            .lock()
            .expect("no code panics while it holds this lock")
    }

    fn find(&self, asked: &str) -> Result<Arc<Exec>, ContainerError> {
        let missing = || ContainerError::NoSuchExec {
            name: asked.to_owned(),
        };
        let id = ExecId::parse(asked).ok_or_else(missing)?;
        self.execs().get(&id).cloned().ok_or_else(missing)
    }

    /// Prepares an exec in a running container.
    pub fn create(&self, container: &str, request: ExecRequest) -> Result<ExecId, ContainerError> {
        if request.args.is_empty() || request.args[0].is_empty() {
            return Err(ContainerError::invalid("No exec command specified"));
        }
        if !request.working_directory.is_empty() && !request.working_directory.starts_with('/') {
            return Err(ContainerError::invalid(format!(
                "the working directory '{}' is invalid, it needs to be an absolute path",
                request.working_directory
            )));
        }
        if crate::containers::output::DetachKeys::parse(&request.detach_keys).is_none() {
            return Err(ContainerError::invalid(format!(
                "Invalid detach keys ({}) provided",
                request.detach_keys
            )));
        }
        let found = self.containers.find(container)?;
        found.decide(Request::Exec, container)?;
        self.forget_old();
        let id = ExecId::random();
        self.tell(&found, "exec_create", &request, &id);
        let exec = Exec {
            id: id.clone(),
            container: found,
            request,
            state: Mutex::new(State::Created),
        };
        self.execs().insert(id.clone(), Arc::new(exec));
        Ok(id)
    }

    /// Starts a detached one: its output is thrown away.
    pub async fn start_detached(
        &self,
        asked: &str,
        options: ExecStartOptions,
    ) -> Result<(), ContainerError> {
        let claim = self.claim(asked)?;
        let (_, io) = self.start(claim, options, false).await?;
        let mut output = io.output;
        tokio::spawn(async move { while output.recv().await.is_some() {} });
        Ok(())
    }

    /// Checks that it can be started, and lets nobody else start it. The answer to an attached client goes out between this
    /// and [`ExecService::start_attached`].
    pub fn claim(&self, asked: &str) -> Result<Claim, ContainerError> {
        let exec = self.find(asked)?;
        exec.container
            .decide(Request::Exec, exec.container.id.as_str())?;
        let mut state = exec.state();
        match &*state {
            State::Created => *state = State::Starting,
            State::Ended { .. } => {
                return Err(ContainerError::Conflict {
                    why: format!("exec {} has already run", exec.id),
                });
            }
            State::Starting | State::Running { .. } => {
                return Err(ContainerError::Conflict {
                    why: format!("exec {} is already running", exec.id),
                });
            }
        }
        drop(state);
        Ok(Claim { exec })
    }

    /// Starts it for a client that gets its streams.
    pub async fn start_attached(
        self: &Arc<Self>,
        claim: Claim,
        options: ExecStartOptions,
    ) -> Result<ProcessIo, ContainerError> {
        let exec = claim.exec.clone();
        let (task, io) = self.start(claim, options, true).await?;
        Ok(attached::connect(self.clone(), exec, task, io))
    }

    async fn start(
        &self,
        claim: Claim,
        options: ExecStartOptions,
        attached: bool,
    ) -> Result<(Arc<dyn ExecTask>, ProcessIo), ContainerError> {
        let started = self.run(&claim.exec, options, attached).await;
        if let Err(error) = &started {
            let code = match options.failures {
                FailureCodes::ByReason => error.exit_code(),
                FailureCodes::Alike => 126,
            };
            let at = self.clock.now();
            *claim.exec.state() = State::Ended { code, pid: 0, at };
        }
        started
    }

    async fn run(
        &self,
        exec: &Arc<Exec>,
        options: ExecStartOptions,
        attached: bool,
    ) -> Result<(Arc<dyn ExecTask>, ProcessIo), ContainerError> {
        let container = &exec.container;
        // It may have ended since the exec was made.
        let not_running = || ContainerError::Conflict {
            why: format!("container {} is not running", container.id),
        };
        let Some(task) = container.task() else {
            return Err(container
                .decide(Request::Exec, container.id.as_str())
                .err()
                .unwrap_or_else(not_running));
        };
        let request = &exec.request;
        let settings = ExecSettings {
            args: request.args.clone(),
            linked: self.containers.linked_environment(container),
            env: request.env.clone(),
            working_directory: request.working_directory.clone(),
            user: request.user.clone(),
            tty: request.tty,
            tty_size: options
                .tty_size
                .or(request.tty_size)
                .filter(|size| size.rows > 0 && size.columns > 0),
            open_stdin: request.attach_stdin && attached,
            privileged: request.privileged,
        };
        let process = plan::exec_process(&container.id, &container.spec, &settings)
            .map_err(ContainerError::invalid)?;
        let plan = ExecPlan {
            id: exec.id.clone(),
            process,
            privileged: request.privileged,
        };
        let (started, io) = task.exec(plan).await.map_err(|cause| match cause {
            RuntimeError::NotRunning => not_running(),
            cause => ContainerError::Exec { cause },
        })?;
        let started: Arc<dyn ExecTask> = Arc::from(started);
        *exec.state() = State::Running {
            task: started.clone(),
        };
        self.tell(container, "exec_start", request, &exec.id);
        let running = started.clone();
        let (exec, containers, clock) = (exec.clone(), self.containers.clone(), self.clock.clone());
        tokio::spawn(async move {
            let exit = started.wait().await;
            *exec.state() = State::Ended {
                code: exit.code,
                pid: started.pid(),
                at: clock.now(),
            };
            let attributes = [
                ("execID", exec.id.to_string()),
                ("exitCode", exit.code.to_string()),
            ];
            containers
                .deps()
                .tell(&exec.container, "exec_die", attributes);
        });
        Ok((running, io))
    }

    /// What is known of an exec.
    pub fn inspect(&self, asked: &str) -> Result<ExecFacts, ContainerError> {
        let exec = self.find(asked)?;
        let facts = |exec: &Exec| {
            let (running, exit_code, pid) = match &*exec.state() {
                State::Created | State::Starting => (false, None, 0),
                State::Running { task } => (true, None, task.pid()),
                State::Ended { code, pid, .. } => (false, Some(*code), *pid),
            };
            ExecFacts {
                id: exec.id.clone(),
                container: exec.container.id.clone(),
                request: ExecRequest {
                    // Who says nothing runs as the container does.
                    user: match exec.request.user.as_str() {
                        "" => exec.container.spec.config.user.clone(),
                        user => user.to_owned(),
                    },
                    ..exec.request.clone()
                },
                running,
                exit_code,
                pid,
            }
        };
        Ok(facts(&exec))
    }

    /// Notes the end of a process; whoever hears of it first.
    fn settle(&self, exec: &Exec, task: &dyn ExecTask, code: i32) {
        let mut state = exec.state();
        if let State::Running { .. } = &*state {
            *state = State::Ended {
                code,
                pid: task.pid(),
                at: self.clock.now(),
            };
        }
    }

    /// Sets the size of its terminal.
    pub async fn resize(&self, asked: &str, size: TtySize) -> Result<(), ContainerError> {
        let exec = self.find(asked)?;
        let task = match &*exec.state() {
            State::Running { task } => task.clone(),
            _ => {
                return Err(ContainerError::Conflict {
                    why: format!("exec {} is not running", exec.id),
                });
            }
        };
        Ok(task.resize(size).await?)
    }

    /// Ids of a container's execs, for inspect; those of processes that run or may still be started.
    pub fn of_container(&self, container: &ContainerId) -> Vec<ExecId> {
        self.execs()
            .values()
            .filter(|exec| exec.container.id == *container)
            .filter(|exec| !matches!(*exec.state(), State::Ended { .. }))
            .map(|exec| exec.id.clone())
            .collect()
    }

    fn forget_old(&self) {
        let now = self.clock.now();
        self.execs().retain(|_, exec| match &*exec.state() {
            State::Ended { at, .. } => now - *at < KEPT,
            State::Created => !exec.container.watch().borrow().removed,
            State::Starting | State::Running { .. } => true,
        });
    }

    fn tell(&self, container: &Container, action: &str, request: &ExecRequest, id: &ExecId) {
        // As Docker writes it: with the blank before arguments, also where there is none.
        let (program, arguments) = request.args.split_first().expect("checked at create");
        let action = format!("{action}: {program} {}", arguments.join(" "));
        self.containers
            .deps()
            .tell(container, &action, [("execID", id.to_string())]);
    }
}

#[cfg(test)]
mod tests;
