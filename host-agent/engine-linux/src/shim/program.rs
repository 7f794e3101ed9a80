//! Another OCI runtime (runc, crun, runsc, kata-runtime), through the command line they all share.

use super::launch::{Place, Stdio};
use super::protocol::Refusal;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as ProcessStdio};

/// An OCI runtime, and what its command line begins with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

/// `create` and `start`; the runtime's process goes and leaves the container's first process to the shim, which is a
/// subreaper.
pub fn start(
    program: &Program,
    place: &Place,
    bundle: &Path,
    stdio: Stdio,
) -> Result<i32, Refusal> {
    let pid_file = place.run.join("init.pid");
    let mut create = command(program, place);
    create.arg("create").arg("--bundle").arg(bundle);
    create.arg("--pid-file").arg(&pid_file);
    connect(&mut create, stdio);
    run(create.arg(place.id), place, "create the container")?;
    let mut start = command(program, place);
    run(
        start.arg("start").arg(place.id),
        place,
        "start the container",
    )?;
    read_pid(&pid_file)
}

/// `exec --detach` with a prepared process.
pub fn exec(
    program: &Program,
    place: &Place,
    process: &Path,
    stdio: Stdio,
) -> Result<i32, Refusal> {
    let pid_file = process.with_extension("pid");
    let mut exec = command(program, place);
    exec.arg("exec")
        .arg("--detach")
        .arg("--process")
        .arg(process);
    exec.arg("--pid-file").arg(&pid_file);
    connect(&mut exec, stdio);
    run(exec.arg(place.id), place, "start the process")?;
    let pid = read_pid(&pid_file);
    let _ = fs::remove_file(pid_file);
    pid
}

/// Removes the runtime's state of a container that has ended.
pub fn delete(program: &Program, place: &Place) {
    let mut delete = command(program, place);
    let _ = delete.arg("delete").arg("--force").arg(place.id).output();
}

fn command(program: &Program, place: &Place) -> Command {
    let mut command = Command::new(&program.path);
    command.args(&program.arguments);
    command.arg("--root").arg(place.state());
    command.arg("--log").arg(place.run.join("runtime.log"));
    command.arg("--log-format").arg("json");
    command
        .stdin(ProcessStdio::null())
        .stdout(ProcessStdio::null())
        .stderr(ProcessStdio::null());
    super::with_clean_signals(&mut command);
    if cannot_read_both_kinds(&program.path) {
        // SAFETY: only system calls between fork and exec; the paths are short enough to be put on the stack.
        unsafe {
            command.pre_exec(hide_unified);
        }
    }
    command
}

/// Where the second version of control groups is, on hosts that have both.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// crun refuses to start on a host that has both kinds of control groups ("cgroups in hybrid mode not supported"), even where
/// the second has no controller that anybody could use.
fn cannot_read_both_kinds(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "crun") && Path::new(UNIFIED).exists()
}

/// In a mount namespace of the program's own there is only the first version. Mounts of containers are not concerned: what
/// the host's other mounts share with containers they share as before.
fn hide_unified() -> std::io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let none = None::<&str>;
    mount(none, "/sys/fs/cgroup", none, private, none)?;
    mount(Some("none"), UNIFIED, Some("tmpfs"), MsFlags::empty(), none)?;
    Ok(())
}

fn connect(command: &mut Command, stdio: Stdio) {
    if let Some(fd) = stdio.stdin {
        command.stdin(fd);
    }
    if let Some(fd) = stdio.stdout {
        command.stdout(fd);
    }
    if let Some(fd) = stdio.stderr {
        command.stderr(fd);
    }
    if let Some(console) = stdio.console {
        command.arg("--console-socket").arg(console);
    }
}

fn run(command: &mut Command, place: &Place, step: &str) -> Result<(), Refusal> {
    let log = place.run.join("runtime.log");
    let _ = fs::remove_file(&log);
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| Refusal::failed(format!("run {name}"), error))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(&log).unwrap_or_default();
    let message = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|entry| entry["level"] == "error")
        .filter_map(|entry| entry["msg"].as_str().map(str::to_owned))
        .next_back()
        .unwrap_or_else(|| format!("{name} ended with {status}"));
    Err(refusal(step, &message))
}

/// The runtimes' words for a program that cannot run (moby's translateContainerdStartErr looks for the same).
fn refusal(step: &str, message: &str) -> Refusal {
    let quoted = || {
        let mut parts = message.split('"');
        parts.next();
        parts.next().unwrap_or("").to_owned()
    };
    if message.contains("executable file not found") || message.contains("executable file `") {
        return Refusal::ProgramNotFound { program: quoted() };
    }
    if let Some((_, reason)) = message.split_once("set in config.json failed: ") {
        return Refusal::WorkingDirectory {
            path: quoted(),
            reason: reason.lines().next().unwrap_or("").to_owned(),
        };
    }
    for reason in [
        "permission denied",
        "is a directory",
        "no such file or directory",
        "exec format error",
    ] {
        if message.contains("exec") && message.contains(reason) {
            return Refusal::ProgramNotExecutable {
                program: quoted(),
                reason: reason.to_owned(),
            };
        }
    }
    Refusal::failed(step, message)
}

fn read_pid(path: &Path) -> Result<i32, Refusal> {
    fs::read_to_string(path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| Refusal::failed("read the runtime's pid file", path.display()))
}
