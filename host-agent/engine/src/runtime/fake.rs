//! A runtime without processes, for tests of what uses one. It knows a few programs: `true`, `false`, `echo WORDS`,
//! `cat`, `sleep` (until a signal), `sh -c "exit N"`, `sh -c "echo WORDS"`; any other is not found.

use super::{
    ExecPlan, ExecTask, ExitStatus, LaunchPlan, ProcessIo, ProcessPlan, Recovered, ResourcePlan,
    Runtime, RuntimeError, RuntimeFacts, Stats, StreamKind, Task, TtySize, stats,
};
use crate::id::ContainerId;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};

/// Clones share their containers: a clone is the runtime as a new engine process finds it.
#[derive(Clone, Default)]
pub struct FakeRuntime(Arc<Shared>);

#[derive(Default)]
struct Shared {
    pids: AtomicU32,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    containers: HashMap<ContainerId, Arc<Process>>,
    plans: Vec<LaunchPlan>,
    failure: Option<RuntimeError>,
    updates: Vec<ResourcePlan>,
    sizes: Vec<TtySize>,
}

impl FakeRuntime {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next start fail.
    pub fn fail_next_start(&self, error: RuntimeError) {
        self.state().failure = Some(error);
    }

    /// Every plan that was started, in order.
    pub fn plans(&self) -> Vec<LaunchPlan> {
        self.state().plans.clone()
    }

    /// Every limit change asked for.
    pub fn updates(&self) -> Vec<ResourcePlan> {
        self.state().updates.clone()
    }

    /// Every terminal size asked for.
    pub fn sizes(&self) -> Vec<TtySize> {
        self.state().sizes.clone()
    }

    /// Forgets a container, as when the host went down with it.
    pub fn lose(&self, id: &ContainerId) {
        self.state().containers.remove(id);
    }

    /// Ends a container's first process from outside, for example as the kernel does for want of memory.
    pub fn end(&self, id: &ContainerId, code: i32, oom_killed: bool) {
        if let Some(process) = self.state().containers.get(id) {
            process.end(code, oom_killed);
        }
    }

    /// Kills one of a container's processes, not the first, for want of memory.
    pub fn run_out_of_memory(&self, id: &ContainerId) {
        if let Some(process) = self.state().containers.get(id) {
            process.out_of_memory.send_modify(|times| *times += 1);
        }
    }

    fn launch(&self, plan: &ProcessPlan) -> Result<(Arc<Process>, ProcessIo), RuntimeError> {
        let program = Program::of(plan)?;
        let pid = 100_000 + self.0.pids.fetch_add(1, Ordering::Relaxed);
        let (output_sender, output) = mpsc::channel(16);
        let (stdin, input) = if plan.open_stdin {
            let (sender, receiver) = mpsc::channel(16);
            (Some(sender), Some(receiver))
        } else {
            (None, None)
        };
        let process = Arc::new(Process {
            pid,
            started_at: OffsetDateTime::now_utc(),
            exit: watch::channel(None).0,
            paused: watch::channel(false).0,
            out_of_memory: watch::channel(0).0,
        });
        tokio::spawn(run(program, Arc::clone(&process), input, output_sender));
        Ok((process, ProcessIo { stdin, output }))
    }
}

enum Program {
    Exit(i32),
    Print(String),
    Copy,
    Wait,
}

impl Program {
    fn of(plan: &ProcessPlan) -> Result<Program, RuntimeError> {
        let mut words = plan.args.iter().map(String::as_str);
        let program = words.next().unwrap_or("");
        let rest: Vec<&str> = words.collect();
        let name = program.strip_prefix("/bin/").unwrap_or(program);
        Ok(match (name, rest.as_slice()) {
            ("true", _) => Program::Exit(0),
            ("false", _) => Program::Exit(1),
            ("echo", words) => Program::Print(words.join(" ") + "\n"),
            ("cat", []) => Program::Copy,
            ("sleep", _) => Program::Wait,
            ("sh", ["-c", script]) => {
                match (script.strip_prefix("exit "), script.strip_prefix("echo ")) {
                    (Some(code), _) => Program::Exit(code.parse().unwrap_or(2)),
                    (_, Some(text)) => Program::Print(text.to_owned() + "\n"),
                    _ => Program::Exit(0),
                }
            }
            _ => {
                return Err(RuntimeError::ProgramNotFound {
                    program: program.to_owned(),
                });
            }
        })
    }
}

struct Process {
    pid: u32,
    started_at: OffsetDateTime,
    exit: watch::Sender<Option<ExitStatus>>,
    paused: watch::Sender<bool>,
    out_of_memory: watch::Sender<u64>,
}

impl Process {
    fn end(&self, code: i32, oom_killed: bool) {
        self.exit.send_if_modified(|status| {
            let running = status.is_none();
            if running {
                *status = Some(ExitStatus {
                    code,
                    at: OffsetDateTime::now_utc(),
                    oom_killed,
                });
            }
            running
        });
    }

    fn running(&self) -> Result<(), RuntimeError> {
        match *self.exit.borrow() {
            Some(_) => Err(RuntimeError::NotRunning),
            None => Ok(()),
        }
    }

    fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.running()?;
        match signal {
            0 | 17 | 28 => {}
            1..=64 => self.end(128 + signal, false),
            _ => {
                return Err(RuntimeError::Invalid {
                    what: format!("signal {signal}"),
                    why: "there is no such signal".to_owned(),
                });
            }
        }
        Ok(())
    }

    async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.subscribe();
        let status = exit
            .wait_for(Option::is_some)
            .await
            .expect("the sender is ours");
        status.clone().expect("it is some")
    }
}

async fn run(
    program: Program,
    process: Arc<Process>,
    input: Option<mpsc::Receiver<Bytes>>,
    output: mpsc::Sender<(StreamKind, Bytes)>,
) {
    let mut exit = process.exit.subscribe();
    let work = async {
        match program {
            Program::Exit(code) => code,
            Program::Print(text) => {
                let _ = output.send((StreamKind::Stdout, Bytes::from(text))).await;
                0
            }
            Program::Copy => {
                let mut input = input;
                while let Some(data) = match &mut input {
                    Some(input) => input.recv().await,
                    None => None,
                } {
                    if output.send((StreamKind::Stdout, data)).await.is_err() {
                        break;
                    }
                }
                0
            }
            Program::Wait => std::future::pending().await,
        }
    };
    tokio::select! {
        code = work => process.end(code, false),
        _ = exit.wait_for(Option::is_some) => {}
    }
}

/// Counters of a process that has had half of one processor since `started`.
pub fn stats(started: OffsetDateTime) -> Stats {
    let at = OffsetDateTime::now_utc();
    let ran = u64::try_from((at - started).whole_nanoseconds()).unwrap_or(0);
    Stats {
        at,
        cgroup_version: 2,
        cpu: stats::CpuStats {
            total: ran / 2,
            user: ran / 4,
            kernel: ran / 4,
            ..stats::CpuStats::default()
        },
        memory: stats::MemoryStats {
            usage: 10 << 20,
            stat: [("inactive_file".to_owned(), 2 << 20)].into(),
            ..stats::MemoryStats::default()
        },
        pids: stats::PidStats {
            current: 1,
            limit: None,
        },
        blkio: stats::BlkioStats::default(),
    }
}

struct FakeTask {
    runtime: FakeRuntime,
    process: Arc<Process>,
}

#[async_trait]
impl Task for FakeTask {
    fn pid(&self) -> u32 {
        self.process.pid
    }

    fn started_at(&self) -> OffsetDateTime {
        self.process.started_at
    }

    async fn exec(&self, plan: ExecPlan) -> Result<(Box<dyn ExecTask>, ProcessIo), RuntimeError> {
        self.process.running()?;
        let (process, io) = self.runtime.launch(&plan.process)?;
        // It does not outlive the container.
        let (first, exec) = (Arc::clone(&self.process), Arc::clone(&process));
        tokio::spawn(async move {
            first.wait().await;
            exec.end(137, false);
        });
        let runtime = self.runtime.clone();
        Ok((Box::new(FakeTask { runtime, process }), io))
    }

    async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.process.signal(signal)
    }

    async fn resize(&self, size: TtySize) -> Result<(), RuntimeError> {
        self.process.running()?;
        self.runtime.state().sizes.push(size);
        Ok(())
    }

    async fn pause(&self) -> Result<(), RuntimeError> {
        self.process.running()?;
        self.process.paused.send_replace(true);
        Ok(())
    }

    async fn resume(&self) -> Result<(), RuntimeError> {
        self.process.running()?;
        self.process.paused.send_replace(false);
        Ok(())
    }

    async fn update(&self, resources: ResourcePlan) -> Result<(), RuntimeError> {
        self.process.running()?;
        self.runtime.state().updates.push(resources);
        Ok(())
    }

    async fn stats(&self) -> Result<Stats, RuntimeError> {
        self.process.running()?;
        Ok(stats(self.process.started_at))
    }

    async fn processes(&self) -> Result<Vec<u32>, RuntimeError> {
        self.process.running()?;
        Ok(vec![self.process.pid])
    }

    async fn out_of_memory(&self, known: u64) -> u64 {
        let mut times = self.process.out_of_memory.subscribe();
        let times = times.wait_for(|times| *times > known).await;
        *times.expect("the sender is ours")
    }

    async fn wait(&self) -> ExitStatus {
        self.process.wait().await
    }
}

#[async_trait]
impl ExecTask for FakeTask {
    fn pid(&self) -> u32 {
        self.process.pid
    }

    async fn resize(&self, size: TtySize) -> Result<(), RuntimeError> {
        Task::resize(self, size).await
    }

    async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        self.process.signal(signal)
    }

    async fn wait(&self) -> ExitStatus {
        self.process.wait().await
    }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn start(&self, plan: LaunchPlan) -> Result<(Box<dyn Task>, ProcessIo), RuntimeError> {
        if let Some(error) = self.state().failure.take() {
            return Err(error);
        }
        let (process, io) = self.launch(&plan.process)?;
        let mut state = self.state();
        state
            .containers
            .insert(plan.id.clone(), Arc::clone(&process));
        state.plans.push(plan);
        let runtime = self.clone();
        Ok((Box::new(FakeTask { runtime, process }), io))
    }

    async fn recover(&self, id: &ContainerId, _folder: &Path) -> Result<Recovered, RuntimeError> {
        let process = self.state().containers.get(id).cloned();
        let Some(process) = process else {
            return Ok(Recovered::Lost);
        };
        let ended = process.exit.borrow().clone();
        if let Some(status) = ended {
            return Ok(Recovered::Exited(status));
        }
        // Nothing comes from it any more: its streams are with the first engine.
        let (sender, output) = mpsc::channel(1);
        let (held, runtime) = (Arc::clone(&process), self.clone());
        tokio::spawn(async move {
            held.wait().await;
            drop(sender);
        });
        Ok(Recovered::Running(
            Box::new(FakeTask { runtime, process }),
            ProcessIo {
                stdin: None,
                output,
            },
        ))
    }

    async fn cleanup(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.state().containers.remove(id);
        Ok(())
    }

    fn has_weights(&self, device: &str) -> bool {
        device != "/dev/weightless"
    }

    fn facts(&self) -> RuntimeFacts {
        RuntimeFacts {
            cgroup_version: 2,
            memory_limit: true,
            swap_limit: true,
            cpu_cfs: true,
            cpu_shares: true,
            cpuset: true,
            pids_limit: true,
            blkio_weight: true,
            blkio_throttle: true,
            seccomp: true,
            ..RuntimeFacts::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        super::super::contract::check(&FakeRuntime::default(), &|args| {
            super::super::contract::plan(args)
        })
        .await;
    }
}
