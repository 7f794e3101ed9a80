//! Starts one more process in a running container: what `docker exec` does. By a few system calls of our own, because
//! libcontainer reads the container's whole specification again and, on v1 hosts, the table of mounts a dozen times.
//!
//! ```text
//! shim --fork--> this: control groups, namespaces --clone(CLONE_PARENT)--> the process: itself, then its program
//! ```
//! As in [`super::launch`] the process is the shim's child, so that the shim reaps it.

use super::executor::Steps;
use super::launch::Stdio;
use super::protocol::Refusal;
use super::spec::Resolved;
use crate::cgroup::Cgroup;
use engine::error::full_message;
use libcontainer::syscall::syscall::create_syscall;
use libcontainer::tty::{TTYError, setup_console, setup_console_socket};
use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::sys::resource::setrlimit;
use nix::unistd::{Gid, Uid};
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// What the process is apart from its [`Steps`].
pub struct Joining<'a> {
    /// The container's first process, on the host.
    pub init: i32,
    /// The group to enter; `None` is that this process is in it already.
    pub cgroup: Option<&'a Cgroup>,
    /// The container's run-time folder.
    pub run: &'a Path,
    pub resolved: &'a Resolved,
    pub no_new_privileges: bool,
    pub apparmor_profile: Option<&'a str>,
}

/// Starts the process; returns its id on the host. What goes wrong in the process itself is told through the report.
pub fn start(joining: &Joining, stdio: Stdio, steps: &Steps) -> Result<i32, Refusal> {
    let failed = |step: &'static str| move |error: Errno| Refusal::failed(step, error.desc());
    let container = open_process(joining.init).map_err(failed("find the container"))?;
    // Its path is the host's.
    let console = match &stdio.console {
        Some(path) => Some(
            connect_console(joining.run, path)
                .map_err(|error| Refusal::failed("reach for a terminal", full_message(&error)))?,
        ),
        None => None,
    };
    if let Some(cgroup) = joining.cgroup {
        enter(cgroup, joining.init)
            .map_err(|error| Refusal::failed("enter the container's control group", error))?;
    }
    // From here on the container's processes may see this one: they must not get at its memory and files. The program
    // becomes readable again by its execve.
    nix::sys::prctl::set_dumpable(false).map_err(failed("hide from the container"))?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    nix::sched::setns(&container, namespaces).map_err(failed("enter the container"))?;
    drop(container);
    // SAFETY: this process has one thread, so the new one may do whatever this may. No stack is given: it goes on with
    // a copy of this one. The exit signal is this process's own (CLONE_PARENT).
    match unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_PARENT, 0, 0, 0, 0) } {
        -1 => Err(failed("start the process")(Errno::last())),
        0 => {
            let Err(refusal) = become_it(joining, &stdio, console, steps);
            steps.give_up(refusal)
        }
        pid => Ok(pid as i32),
    }
}

/// Connects to the socket the terminal is sent to, through a link in the run-time folder: its path may be longer than an
/// address allows.
fn connect_console(run: &Path, socket: &Path) -> Result<OwnedFd, TTYError> {
    let link = format!("console-{}.link", std::process::id());
    let console = setup_console_socket(run, socket, &link);
    let _ = std::fs::remove_file(run.join(link));
    console
}

fn open_process(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn enter(cgroup: &Cgroup, init: i32) -> io::Result<()> {
    match cgroup.enter() {
        // The container has made groups of its own (docker in docker, systemd): a v2 group with groups below it takes
        // no processes. The first process's own group does (runc does the same).
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => match cgroup.below_of(init) {
            Some(below) => below.enter(),
            None => Err(error),
        },
        result => result,
    }
}

/// What libcontainer does in a process before its executor, in the same order.
fn become_it(
    joining: &Joining,
    stdio: &Stdio,
    console: Option<OwnedFd>,
    steps: &Steps,
) -> Result<Infallible, Refusal> {
    let failed = |step: &'static str| move |error: Errno| Refusal::failed(step, error.desc());
    nix::unistd::setsid().map_err(failed("make a session"))?;
    for (number, stream) in [&stdio.stdin, &stdio.stdout, &stdio.stderr]
        .into_iter()
        .enumerate()
    {
        if let Some(fd) = stream {
            nix::unistd::dup2(fd.as_raw_fd(), number as i32)
                .map_err(failed("set the standard streams"))?;
        }
    }
    let syscall = create_syscall();
    if joining.no_new_privileges {
        nix::sys::prctl::set_no_new_privs().map_err(failed("give up new privileges"))?;
    }
    if let Some(console) = console {
        use std::os::fd::IntoRawFd;
        setup_console(syscall.as_ref(), console.into_raw_fd(), false)
            .map_err(|error| Refusal::failed("make a terminal", full_message(&error)))?;
    }
    if let Some(profile) = joining.apparmor_profile {
        libcontainer::apparmor::apply_profile(profile)
            .map_err(|error| Refusal::failed("apply the AppArmor profile", full_message(&error)))?;
    }
    for limit in &joining.resolved.rlimits {
        let resource = super::resource(&limit.name).ok_or_else(|| Refusal::Invalid {
            what: format!("limit {:?}", limit.name),
            why: "it is not known".to_owned(),
        })?;
        setrlimit(resource, limit.soft, limit.hard).map_err(|error| {
            Refusal::failed(format!("set the limit {:?}", limit.name), error.desc())
        })?;
    }
    let identity = &joining.resolved.identity;
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups).map_err(failed("set the groups"))?;
    // Keeps the capabilities, which the steps need and then drop.
    syscall
        .set_id(Uid::from_raw(identity.uid), Gid::from_raw(identity.gid))
        .map_err(|error| Refusal::failed("become the user", full_message(&error)))?;
    syscall
        .close_range(0)
        .map_err(|error| Refusal::failed("close files", full_message(&error)))?;
    steps.run()
}
