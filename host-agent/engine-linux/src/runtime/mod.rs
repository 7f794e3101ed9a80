//! [`engine::runtime::Runtime`] on Linux: every container has a shim process ([`crate::shim`]) of its own; this is serve's
//! side of it.
//!
//! Under `exec_root` each container has a folder `containers/<id>` (0700): the shim's socket, its log, the OCI bundle
//! and what is needed to clean up after it. It holds nothing that must survive the host.

mod client;
mod facts;

use crate::cgroup::{Cgroup, Hierarchies};
pub use crate::shim::Program;
use crate::shim::protocol::{self, Order, Reply};
use crate::shim::{FOREIGN_INIT, OWN_INIT};
use crate::shim::{exit_file, protocol::Purpose};
use async_trait::async_trait;
use client::{Control, ShimTask, Stream};
use engine::id::ContainerId;
use engine::runtime::{
    LaunchPlan, ProcessIo, Recovered, Runtime, RuntimeError, RuntimeFacts, Task,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// Where things are.
#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Folder for run-time state, for example /run/berth. Made if missing.
    pub exec_root: PathBuf,
    /// The program shims are started from: it must dispatch its first argument `shim` to [`crate::shim::main`]. For
    /// serve itself /proc/self/exe, which stays right when the file is replaced.
    pub agent_program: PathBuf,
    /// Other OCI runtimes by name.
    pub runtimes: BTreeMap<String, Program>,
    /// The static program for `--init`; `None`: the agent itself where it is static, else one of the host's.
    pub init: Option<PathBuf>,
    /// The soft limit of open files that containers begin with, where it is not this process's own.
    pub open_files: Option<u64>,
}

/// The name of the built-in runtime in [`RuntimeFacts::runtimes`] and [`LaunchPlan::runtime`].
pub const BUILT_IN: &str = "berth";

/// The AppArmor profile of containers that name none, on hosts with AppArmor.
pub const APPARMOR_PROFILE: &str = crate::apparmor::DEFAULT;

/// Longest a shim may take to start a container before it counts as stuck.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Runs containers on this host.
pub struct LinuxRuntime {
    config: RuntimeConfig,
    facts: RuntimeFacts,
    hierarchies: Arc<Hierarchies>,
}

/// What cleaning up needs to know when the shim cannot be asked any more.
#[derive(Serialize, Deserialize)]
struct Left {
    version: u32,
    cgroup: String,
}

const LEFT: &str = "left.json";

impl LinuxRuntime {
    /// Makes the run-time folder and looks at what the host offers.
    pub fn new(config: RuntimeConfig) -> Result<LinuxRuntime, RuntimeError> {
        let containers = config.exec_root.join("containers");
        private_folder(&containers, true).map_err(|error| {
            RuntimeError::failed(format!("make {}", containers.display()), error)
        })?;
        let hierarchies = Hierarchies::of_this_host();
        let facts = facts::probe(&config, &hierarchies);
        Ok(LinuxRuntime {
            config,
            facts,
            hierarchies,
        })
    }

    fn cgroup(&self, path: &str) -> Cgroup {
        Cgroup::new(&self.hierarchies, path)
    }

    fn folder(&self, id: &ContainerId) -> PathBuf {
        self.config.exec_root.join("containers").join(id.as_str())
    }

    /// Replaces the runtime's name by its program's path, which is what the shim needs.
    fn choose_runtime(&self, plan: &mut LaunchPlan) -> Result<(), RuntimeError> {
        let Some(name) = plan.runtime.take().filter(|name| name != BUILT_IN) else {
            return Ok(());
        };
        let Some(program) = self.config.runtimes.get(&name) else {
            if engine::containers::plan::names_built_in(&name) {
                return Ok(());
            }
            return Err(RuntimeError::Invalid {
                what: format!("runtime {name:?}"),
                why: "it is not configured".to_owned(),
            });
        };
        plan.runtime = Some(program.path.display().to_string());
        plan.runtime_arguments.clone_from(&program.arguments);
        Ok(())
    }

    /// Puts an init in front of the program.
    fn add_init(&self, plan: &mut LaunchPlan) -> Result<(), RuntimeError> {
        let own = || {
            let program = fs::canonicalize(&self.config.agent_program).ok()?;
            is_dynamic(&program)
                .is_ok_and(|dynamic| !dynamic)
                .then_some(program)
        };
        let (program, words) = match (&self.config.init, own()) {
            (Some(given), _) => (Some(given.clone()), FOREIGN_INIT),
            (None, Some(own)) => (Some(own), OWN_INIT),
            (None, None) => (init_of_host(), FOREIGN_INIT),
        };
        let program = program.ok_or_else(|| RuntimeError::Unsupported {
            what: "--init".to_owned(),
            why: "this build of the agent needs a loader that is not in the container, and the host has neither docker-init nor tini-static: name a static init with --init-path, or use the static build (cargo xtask agent)".to_owned(),
        })?;
        let words = words.iter().map(|word| (*word).to_owned());
        plan.process.args = words.chain(plan.process.args.drain(..)).collect();
        plan.mounts.push(crate::shim::init_mount(program));
        Ok(())
    }

    async fn launch(
        &self,
        plan: LaunchPlan,
        run: &Path,
    ) -> Result<(Box<dyn Task>, ProcessIo), RuntimeError> {
        let short = plan.id.short().to_owned();
        let failed =
            |error: io::Error| RuntimeError::failed(format!("start the shim of {short}"), error);
        let left = Left {
            version: 1,
            cgroup: plan.cgroup.clone(),
        };
        let prepare = || -> io::Result<_> {
            fs::write(run.join(LEFT), serde_json::to_vec(&left)?)?;
            let log = fs::File::create(run.join("shim.log"))?;
            Ok((UnixStream::pair()?, UnixStream::pair()?, log))
        };
        let ((control, shims_control), (stream, shims_stream), log) = prepare().map_err(failed)?;
        let mut child = Command::new(&self.config.agent_program)
            .arg0("host-agent")
            .arg("shim")
            .arg(run)
            .args(self.config.open_files.map(|limit| limit.to_string()))
            .env_clear()
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(shims_control)))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(shims_stream)))
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let place = client::Place {
            id: plan.id.clone(),
            run: run.to_owned(),
            folder: plan.folder.clone(),
            cgroup: self.cgroup(&plan.cgroup),
        };
        // Reaped here while serve lives; by process 1 afterwards.
        tokio::spawn(async move { child.wait().await });
        let open_stdin = plan.process.open_stdin;
        let control = Control::new(control, place).map_err(failed)?;
        let (stream, io) = Stream::new(stream, open_stdin).map_err(failed)?;
        let start = Order::Start {
            plan: Box::new(plan),
            hierarchies: Hierarchies::clone(&self.hierarchies),
        };
        let answer = tokio::time::timeout(START_LIMIT, control.ask(start))
            .await
            .unwrap_or_else(|_| {
                Err(RuntimeError::failed(
                    format!("start the shim of {short}"),
                    format!("no answer within {} s", START_LIMIT.as_secs()),
                ))
            });
        match answer {
            Ok(Reply::Running {
                pid, started_at, ..
            }) => Ok((
                Box::new(ShimTask::new(control, stream, pid, started_at)),
                io,
            )),
            Ok(_) => Err(RuntimeError::failed(
                format!("start the shim of {short}"),
                "it answered something else",
            )),
            // The shim died before it answered: its log may say why.
            Err(RuntimeError::NotRunning) => Err(RuntimeError::failed(
                format!("start the shim of {short}"),
                match fs::read_to_string(run.join("shim.log")) {
                    Ok(text) if !text.trim().is_empty() => text.trim().to_owned(),
                    _ => "it ended without an answer".to_owned(),
                },
            )),
            Err(error) => Err(error),
        }
    }

    async fn reconnect(&self, id: &ContainerId, folder: &Path) -> Result<Recovered, RuntimeError> {
        let run = self.folder(id);
        let exited = |folder: &Path| -> Result<Option<Recovered>, RuntimeError> {
            let status = exit_file::read(folder).map_err(|error| {
                RuntimeError::failed(format!("read the exit status of {}", id.short()), error)
            })?;
            Ok(status.map(Recovered::Exited))
        };
        let cgroup = read_left(&run).map(|path| self.cgroup(&path));
        // A shim that is still making its container (the engine was killed meanwhile) has no state yet, and one that
        // ends while we ask is judged by what it left: both are asked again until they answer or nobody listens.
        let patience = Instant::now() + Duration::from_secs(10);
        while let Some(cgroup) = cgroup.clone()
            && let Ok(socket) = connect(&run)
        {
            let place = client::Place {
                id: id.clone(),
                run: run.clone(),
                folder: folder.to_owned(),
                cgroup,
            };
            match attach(socket, place).await {
                Ok(found) => return Ok(found),
                Err(error) if Instant::now() > patience => {
                    return Err(RuntimeError::failed(
                        format!("talk to the shim of {}", id.short()),
                        error,
                    ));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        if let Some(found) = exited(folder)? {
            return Ok(found);
        }
        if let Some(cgroup) = cgroup {
            // The shim was killed: its container ends with it, and whoever did not hear of it is ended here.
            blocking(move || {
                cgroup.kill();
                Ok(())
            })
            .await
            .map_err(|error| {
                RuntimeError::failed(format!("end what is left of {}", id.short()), error)
            })?;
        }
        Ok(Recovered::Lost)
    }
}

#[async_trait]
impl Runtime for LinuxRuntime {
    async fn start(
        &self,
        mut plan: LaunchPlan,
    ) -> Result<(Box<dyn Task>, ProcessIo), RuntimeError> {
        self.choose_runtime(&mut plan)?;
        if plan.init {
            self.add_init(&mut plan)?;
        }
        let id = plan.id.clone();
        let run = self.folder(&id);
        let failed =
            |error: io::Error| RuntimeError::failed(format!("make {}", run.display()), error);
        match private_folder(&run, false) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Left by an earlier run.
                self.cleanup(&id).await?;
                private_folder(&run, false).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        match self.launch(plan, &run).await {
            Ok(started) => Ok(started),
            Err(error) => {
                if let Err(second) = self.cleanup(&id).await {
                    tracing::warn!(container = id.short(), error = %engine::error::full_message(&second), "clean up after a failed start");
                }
                Err(error)
            }
        }
    }

    async fn recover(&self, id: &ContainerId, folder: &Path) -> Result<Recovered, RuntimeError> {
        self.reconnect(id, folder).await
    }

    async fn cleanup(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        let run = self.folder(id);
        let hierarchies = Arc::clone(&self.hierarchies);
        blocking(move || {
            if let Some(path) = read_left(&run) {
                Cgroup::new(&hierarchies, &path).remove()?;
            }
            match fs::remove_dir_all(&run) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
        .await
        .map_err(|error| RuntimeError::failed(format!("clean up {}", id.short()), error))
    }

    fn facts(&self) -> RuntimeFacts {
        self.facts.clone()
    }

    fn has_weights(&self, device: &str) -> bool {
        facts::has_weights(&self.hierarchies, device)
    }
}

/// The static inits that other engines bring along.
fn init_of_host() -> Option<PathBuf> {
    const FOLDERS: [&str; 4] = [
        "/usr/libexec/docker",
        "/usr/local/bin",
        "/usr/bin",
        "/usr/sbin",
    ];
    let names = ["docker-init", "tini-static"];
    FOLDERS
        .iter()
        .flat_map(|folder| names.map(|name| Path::new(folder).join(name)))
        .filter_map(|path| fs::canonicalize(path).ok())
        .find(|path| is_dynamic(path).is_ok_and(|dynamic| !dynamic))
}

/// Whether a program names a loader (a PT_INTERP header of ELF, 64 bits, little end first: what we are built for).
fn is_dynamic(program: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    const PT_INTERP: u32 = 3;
    let file = fs::File::open(program)?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    let half = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let mut table = [0; 8];
    table.copy_from_slice(&header[32..40]);
    let (table, size, count) = (u64::from_le_bytes(table), half(54), half(56));
    for number in 0..count {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, table + number * size)?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

fn private_folder(path: &Path, with_parents: bool) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(with_parents)
        .mode(0o700)
        .create(path)
}

fn read_left(run: &Path) -> Option<String> {
    let bytes = fs::read(run.join(LEFT)).ok()?;
    let left: Left = serde_json::from_slice(&bytes).ok()?;
    Some(left.cgroup)
}

/// Connects to a shim's socket, whose path may be longer than an address allows.
fn connect(run: &Path) -> io::Result<UnixStream> {
    use std::os::fd::AsRawFd;
    let folder = fs::File::open(run)?;
    UnixStream::connect(format!(
        "/proc/self/fd/{}/{}",
        folder.as_raw_fd(),
        protocol::SOCKET
    ))
}

/// Asks a shim what it has, and takes over its streams where that runs.
async fn attach(socket: UnixStream, place: client::Place) -> io::Result<Recovered> {
    let run = place.run.clone();
    let control = Control::greet(socket, place).await?;
    match control.ask(Order::State).await {
        Ok(Reply::Running {
            pid,
            started_at,
            open_stdin,
        }) => {
            let (stream, io) = Stream::greet(connect(&run)?, None, open_stdin).await?;
            let task = ShimTask::new(control, stream, pid, started_at);
            Ok(Recovered::Running(Box::new(task), io))
        }
        Ok(Reply::Ended(status)) => Ok(Recovered::Exited(status)),
        Ok(_) => Err(io::Error::other("it answered something else")),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// The purpose of a stream connection, for the client.
fn stream_purpose(exec: Option<engine::id::ExecId>) -> Purpose {
    Purpose::Stream(exec)
}
