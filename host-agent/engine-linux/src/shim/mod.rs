//! The owner of one container: a small single-threaded process that starts it, holds its streams, writes its log, reaps
//! its processes and stores how it ended. It does not end with the engine; a new engine finds it by its socket.
//!
//! ```text
//! serve --spawn--> shim <exec-root>/containers/<id>       fd 0: control socket, fd 1: stream socket, fd 2: shim.log
//!                   |-- fork: launch (libcontainer) --> the container's first process, a child of the shim
//!                   |-- pipes or terminal <-> log file and stream connections
//!                   |-- SIGCHLD: reap, drain, exit.json (durable), then tell
//!                   '-- shim.sock: control and stream connections of whichever serve runs now
//! ```
//!
//! What is deliberately absent: threads, an async runtime, a logger. Idle, it waits in one poll(2).

#![allow(unsafe_code)]

mod cgroup_mounts;
mod connection;
mod devices;
mod executor;
pub mod exit_file;
mod init;
mod join;
mod launch;
mod log;
mod log_ring;
pub mod log_writer;
mod memory;
mod process;
mod program;
mod propagation;
pub mod protocol;
mod report;
pub mod seccomp;
mod server;
mod spec;
mod subpath;
pub(crate) mod users;

use crate::cgroup::{Cgroup, Version};
use engine::runtime::{MountPlan, MountSource, TtySize};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{ForkResult, Pid};
use std::ffi::OsString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

pub(crate) use init::{FOREIGN as FOREIGN_INIT, OWN as OWN_INIT};
pub use program::Program;

/// The mount of a small static init into a container.
pub fn init_mount(program: PathBuf) -> MountPlan {
    MountPlan {
        target: init::PATH.to_owned(),
        source: MountSource::Bind {
            path: program,
            subpath: String::new(),
            recursive: false,
            propagation: "rprivate".to_owned(),
        },
        read_only: true,
        submounts_writable: false,
    }
}

/// Runs a shim until its container has ended and everybody has been told. `args` is the container's run-time folder and,
/// where serve has raised its own, the soft limit of open files for processes; or `init` and a command line for the small
/// init inside a container.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let Some(folder) = args.next() else {
        eprintln!("shim: started by `host-agent serve`, not by people");
        return ExitCode::from(2);
    };
    if folder == init::VERB {
        return init::main(args.collect());
    }
    if let Some(soft) = args.next().and_then(|text| text.to_str()?.parse().ok()) {
        let _ = limit_open_files(soft);
    }
    match serve(PathBuf::from(folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn limit_open_files(soft: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)
}

/// Lets this process have as many files open as its hard limit says: every running container takes some. Returns the soft
/// limit it had, for the containers: some programs do something for each number up to it.
pub fn raise_open_files() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft >= hard {
        return None;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some(soft)
}

fn serve(run: PathBuf) -> io::Result<()> {
    // Away from serve's session and process group: a Ctrl-C there is not for containers.
    let _ = nix::unistd::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    let mut blocked = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        blocked.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?;
    let control = take_over(0)?;
    let stream = take_over(1)?;
    std::env::set_current_dir("/")?;
    server::Server::new(run, control, stream)?.run()
}

/// Moves a socket the shim was born with away from the standard streams, which become /dev/null.
fn take_over(fd: RawFd) -> io::Result<OwnedFd> {
    let moved = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(3))?;
    // SAFETY: F_DUPFD_CLOEXEC has just made this descriptor; nobody else owns it.
    let moved = unsafe { OwnedFd::from_raw_fd(moved) };
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), fd)?;
    Ok(moved)
}

/// Whether a child process was born in the control group asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Born {
    Inside,
    Outside,
}

/// Runs `work` in a child process, which ends with it. Where the kernel can, the child begins its life in a group of
/// cgroup v2: moving a process there later makes it wait for all processors.
fn fork_child(
    group: Option<&Cgroup>,
    work: impl FnOnce(Born) -> io::Result<()>,
) -> nix::Result<Pid> {
    let folder = group
        .filter(|group| group.version() == Version::V2)
        .and_then(|group| std::fs::File::open(group.unified()).ok());
    let born_inside = folder.and_then(|folder| fork_into(&folder).ok());
    let (child, born) = match born_inside {
        Some(child) => (child, Born::Inside),
        // SAFETY: the shim has one thread, so the child may do whatever the parent may.
        None => match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => (Some(child), Born::Outside),
            ForkResult::Child => (None, Born::Outside),
        },
    };
    match child {
        Some(child) => Ok(child),
        None => {
            let code = i32::from(work(born).is_err());
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(code) }
        }
    }
}

/// fork(2) into a cgroup v2 folder; `None` in the child.
fn fork_into(folder: &std::fs::File) -> nix::Result<Option<Pid>> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    /// linux/sched.h, `struct clone_args`.
    #[repr(C)]
    #[derive(Default)]
    struct Arguments {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let arguments = Arguments {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: std::os::fd::AsRawFd::as_raw_fd(folder) as u64,
        ..Arguments::default()
    };
    // SAFETY: the structure has the size given and outlives the call. The shim has one thread, so the child may do
    // whatever the parent may; without a stack of its own it goes on with a copy of this one.
    let result = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<Arguments>(),
        )
    };
    match nix::errno::Errno::result(result)? {
        0 => Ok(None),
        pid => Ok(Some(Pid::from_raw(pid as i32))),
    }
}

/// The program starts with no signal blocked or ignored.
fn with_clean_signals(command: &mut Command) {
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            Ok(())
        });
    }
}

/// mount_setattr(2) of one mount, which no longer shares what is mounted on it.
fn make_private_with(mount: &OwnedFd, set: u64) -> io::Result<()> {
    // struct mount_attr: attr_set, attr_clr, propagation, userns_fd
    let attributes: [u64; 4] = [set, 0, libc::MS_PRIVATE, 0];
    // SAFETY: the path is empty and NUL-terminated, the attributes have the size given; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            std::os::fd::AsRawFd::as_raw_fd(mount),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            attributes.as_ptr(),
            size_of_val(&attributes),
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

fn set_tty_size(fd: RawFd, size: TtySize) -> io::Result<()> {
    // SAFETY: callers pass a descriptor they hold open; the borrow ends with the call.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    let size = rustix::termios::Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(fd, size)?)
}

/// The kernel's resource of that name in Docker's API.
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "locks" => Resource::RLIMIT_LOCKS,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "msgqueue" => Resource::RLIMIT_MSGQUEUE,
        "nice" => Resource::RLIMIT_NICE,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "rss" => Resource::RLIMIT_RSS,
        "rtprio" => Resource::RLIMIT_RTPRIO,
        "rttime" => Resource::RLIMIT_RTTIME,
        "sigpending" => Resource::RLIMIT_SIGPENDING,
        "stack" => Resource::RLIMIT_STACK,
        _ => return None,
    })
}

/// This process's own hard limit of that name.
pub fn hard_limit(name: &str) -> Option<u64> {
    getrlimit(resource(name)?).ok().map(|(_, hard)| hard)
}

/// Whether this process has CAP_SYS_RESOURCE.
pub fn may_raise_limits() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .is_some_and(|mask| mask & 1 << CAP_SYS_RESOURCE != 0)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_limit_docker_has_is_the_kernels() {
        for name in engine::runtime::Rlimit::NAMES {
            assert!(super::hard_limit(name).is_some(), "{name}");
        }
    }
}
