//! Another OCI runtime (runc, crun, runsc, kata-runtime), through the command line they all share.

use super::launch::{Place, Stdio};
use super::protocol::Refusal;
use std::fs;
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
    command
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
