//! The init of `docker run --init`: process 1 of a container, which starts the program, passes signals on to it and reaps
//! whatever is left to it. It is this same static program, mounted read-only into the container.

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// First argument of `shim` that means this.
pub const VERB: &str = "init";

/// Where the program is in the container, as Docker's is.
pub const PATH: &str = "/sbin/docker-init";

/// What a command line under this init begins with.
pub const OWN: &[&str] = &[PATH, "shim", VERB, "--"];

/// What a command line under somebody else's init (tini and its likes) begins with.
pub const FOREIGN: &[&str] = &[PATH, "--"];

/// Never returns before the program has ended; its exit code is ours.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter().peekable();
    args.next_if(|arg| arg == "--");
    let Some(program) = args.next() else {
        return ExitCode::from(2);
    };
    let mut all = SigSet::all();
    // Faults of our own must kill us.
    for signal in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGABRT,
    ] {
        all.remove(signal);
    }
    let mut before = SigSet::empty();
    if sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before)).is_err() {
        return ExitCode::FAILURE;
    }
    let mut command = Command::new(&program);
    command.args(args);
    // SAFETY: only async-signal-safe calls between fork and exec: a process group of its own, which gets the terminal,
    // and the signal mask this process was started with.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
            let _ = nix::unistd::tcsetpgrp(std::io::stdin(), nix::unistd::getpid());
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Ok(())
        });
    }
    let child = match command.spawn() {
        Ok(child) => Pid::from_raw(child.id() as i32),
        Err(error) => {
            eprintln!("exec: \"{}\": {error}", program.to_string_lossy());
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            return ExitCode::from(if missing { 127 } else { 126 });
        }
    };
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(code) = reap(child) {
                    return ExitCode::from(code);
                }
            }
            // The terminal's own signals reach the program's group directly.
            Ok(Signal::SIGTTIN | Signal::SIGTTOU | Signal::SIGTSTP) => {}
            Ok(signal) => {
                let _ = kill(child, signal);
            }
            Err(_) => {}
        }
    }
}

/// Reaps all that has ended; the program's code where it is among them.
fn reap(child: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status as u8),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some((128 + signal as i32) as u8);
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return code,
        }
    }
}
