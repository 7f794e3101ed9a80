//! The last steps inside a container before its program runs, done by us instead of libcontainer.
//!
//! Order matters, and is runc's: the seccomp filter is installed while the process still has CAP_SYS_ADMIN (so that
//! `no_new_privs` need not be set and sudo works in the container), then the capabilities are dropped, then the
//! program is looked for and run as the user it will run as. Only memory of this process and plain system calls are
//! used; nothing here may start a thread.

use super::cgroup_mounts::CgroupMounts;
use super::protocol::Refusal;
use super::report::{self, Report};
use super::seccomp::Instruction;
use engine::runtime::TtySize;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use std::collections::HashMap;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What the new process has to do to itself. Shared, because libcontainer clones its executor.
#[derive(Clone)]
pub struct ContainerExecutor(pub Rc<Steps>);

pub struct Steps {
    pub args: Vec<String>,
    pub environment: Vec<String>,
    pub working_directory: String,
    pub uid: u32,
    /// Bit numbers of linux/capability.h as a mask.
    pub capabilities: u64,
    pub filter: Option<Vec<Instruction>>,
    pub oom_score_adj: Option<i32>,
    pub tty_size: Option<TtySize>,
    pub tty: bool,
    /// What libcontainer leaves out of mounting; see [`super::launch`].
    pub mount_changes: Vec<MountChange>,
    /// The control groups it sees (first process on v1 only).
    pub cgroup_mounts: Option<CgroupMounts>,
    /// The container ends when its shim does (first process only).
    pub dies_with_shim: bool,
    /// A missing working directory is made (first process only; of an exec it is a mistake).
    pub makes_working_directory: bool,
    /// Where failures are told; closed by a successful exec.
    pub report: RawFd,
}

impl Executor for ContainerExecutor {
    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        let Err(refusal) = self.0.run();
        // Not back into libcontainer: it would tell the same error in other words.
        self.0.give_up(refusal)
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The program is looked for in `exec`, as the user who will run it.
        Ok(())
    }

    fn setup_envs(
        &self,
        _envs: HashMap<String, String>,
    ) -> Result<(), libcontainer::workload::ExecutorSetEnvsError> {
        // `exec` passes the environment itself, in the plan's order.
        Ok(())
    }
}

impl Steps {
    /// Tells why the program does not run and ends this process.
    pub fn give_up(&self, refusal: Refusal) -> ! {
        report::send(self.report, &Report::Failed(refusal));
        // SAFETY: _exit only ends this process; destructors of the parent's copied state must not run.
        unsafe { libc::_exit(1) }
    }

    /// Does all steps and becomes the program.
    pub fn run(&self) -> Result<Infallible, Refusal> {
        let failed = |step: &'static str| move |error: io::Error| Refusal::failed(step, error);
        let call = |step: &'static str| move |error: Errno| Refusal::failed(step, error.desc());
        if self.dies_with_shim {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
                .map_err(call("tie the process to its shim"))?;
        }
        if let Some(score) = self.oom_score_adj {
            // A host without CAP_SYS_RESOURCE cannot lower it; facts() says so.
            let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
        }
        if let (true, Some(size)) = (self.tty, self.tty_size) {
            super::set_tty_size(0, size).map_err(failed("set the terminal's size"))?;
        }
        if let Some(mounts) = &self.cgroup_mounts {
            mounts.place().map_err(failed("mount the control groups"))?;
        }
        for change in &self.mount_changes {
            change.apply().map_err(|error| {
                Refusal::failed(
                    format!("change the mount at {}", change.path.to_string_lossy()),
                    error,
                )
            })?;
        }
        self.own_standard_streams();
        self.enter_working_directory()?;
        reset_signals().map_err(call("reset the signals"))?;
        let strings = |list: &[String]| -> Result<Vec<CString>, Refusal> {
            list.iter()
                .map(|text| {
                    CString::new(text.as_bytes()).map_err(|_| Refusal::Invalid {
                        what: format!("{text:?}"),
                        why: "it contains a NUL byte".to_owned(),
                    })
                })
                .collect()
        };
        let args = strings(&self.args)?;
        let environment = strings(&self.environment)?;
        if let Some(filter) = &self.filter {
            install(filter).map_err(failed("install the seccomp filter"))?;
        }
        drop_capabilities(self.capabilities, self.uid).map_err(failed("drop capabilities"))?;
        self.execute(&args, &environment)
    }

    /// A user who is not root may open /dev/stdout again (as runc's fixStdioPermissions).
    fn own_standard_streams(&self) {
        if self.uid == 0 {
            return;
        }
        let null = std::fs::metadata("/dev/null")
            .map(|meta| meta.rdev())
            .unwrap_or(0);
        for fd in 0..3 {
            if let Ok(stat) = nix::sys::stat::fstat(fd)
                && stat.st_rdev != null
                && stat.st_uid != self.uid
            {
                // Not ours to change (a file of a read-only volume): the program still has the open stream.
                // SAFETY: fd 0 to 2 are open and stay this process's; the borrow ends with the call.
                let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
                let _ = rustix::fs::fchown(fd, Some(rustix::fs::Uid::from_raw(self.uid)), None);
            }
        }
    }

    fn enter_working_directory(&self) -> Result<(), Refusal> {
        let path = if self.working_directory.is_empty() {
            "/"
        } else {
            &self.working_directory
        };
        let refuse = |reason: String| Refusal::WorkingDirectory {
            path: path.to_owned(),
            reason,
        };
        let words = |error: io::Error| match error.raw_os_error() {
            Some(number) => refuse(go_words(Errno::from_raw(number))),
            None => refuse(error.to_string()),
        };
        if !path.starts_with('/') {
            return Err(refuse("it is not an absolute path".to_owned()));
        }
        if let Err(error) = std::env::set_current_dir(path) {
            if error.kind() != io::ErrorKind::NotFound || !self.makes_working_directory {
                return Err(words(error));
            }
            make_directories(Path::new(path)).map_err(words)?;
            std::env::set_current_dir(path).map_err(words)?;
        }
        // A path through a leaked descriptor would lead out of the container (CVE-2024-21626): its name then does not
        // begin at the root.
        let inside = nix::unistd::getcwd().is_ok_and(|path| path.is_absolute());
        if !inside {
            return Err(refuse("it is outside of the container".to_owned()));
        }
        Ok(())
    }

    /// Go's LookPath and its words, which Docker's users know.
    fn execute(&self, args: &[CString], environment: &[CString]) -> Result<Infallible, Refusal> {
        let program = &self.args[0];
        if program.contains('/') {
            let error = execute(&args[0], args, environment);
            return Err(self.refusal(program, program, error));
        }
        let path = self
            .environment
            .iter()
            .rev()
            .find_map(|one| one.strip_prefix("PATH="))
            .unwrap_or("");
        let mut denied = None;
        for folder in path.split(':') {
            let folder = if folder.is_empty() { "." } else { folder };
            let candidate = PathBuf::from(folder).join(program);
            let Some(name) = candidate.to_str().and_then(|name| CString::new(name).ok()) else {
                continue;
            };
            if !candidate.is_file() {
                continue;
            }
            match execute(&name, args, environment) {
                Errno::ENOENT | Errno::ENOTDIR if !candidate.exists() => {}
                Errno::EACCES => denied = Some((candidate, Errno::EACCES)),
                error => return Err(self.refusal(program, &candidate.to_string_lossy(), error)),
            }
        }
        Err(match denied {
            Some((candidate, error)) => self.refusal(program, &candidate.to_string_lossy(), error),
            None => Refusal::ProgramNotFound {
                program: program.clone(),
            },
        })
    }

    fn refusal(&self, program: &str, path: &str, error: Errno) -> Refusal {
        let reason = match error {
            Errno::ENOENT if Path::new(path).exists() => {
                // The interpreter of a script or the loader of a program is missing.
                format!("{path}: no such file or directory")
            }
            Errno::ENOENT => format!("stat {path}: no such file or directory"),
            Errno::EACCES if Path::new(path).is_dir() => "is a directory".to_owned(),
            other => go_words(other),
        };
        Refusal::ProgramNotExecutable {
            program: program.to_owned(),
            reason,
        }
    }
}

/// Go's text of an error number: lower case, as in Docker's messages.
fn go_words(error: Errno) -> String {
    match error {
        Errno::ENOEXEC => "exec format error".to_owned(),
        other => other.desc().to_lowercase(),
    }
}

fn execute(path: &CStr, args: &[CString], environment: &[CString]) -> Errno {
    match nix::unistd::execve(path, args, environment) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Makes missing folders as root's, whoever the process runs as.
fn make_directories(path: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = path;
    while !at.exists() {
        missing.push(at);
        let Some(parent) = at.parent() else { break };
        at = parent;
    }
    for folder in missing.into_iter().rev() {
        std::fs::create_dir(folder)?;
        std::os::unix::fs::chown(folder, Some(0), Some(0))?;
    }
    Ok(())
}

/// The program starts with every signal at its default and none blocked, whatever the shim and those before it set: Rust
/// ignores SIGPIPE, C libraries ignore signals of their own in a spawned process, shells ignore more.
fn reset_signals() -> nix::Result<()> {
    /// The kernel's `struct sigaction`, all zero: SIG_DFL. The C library's call refuses its own signals.
    #[repr(C)]
    struct Default([usize; 3], u64);
    let default = Default([0; 3], 0);
    for signal in 1..=64 {
        // SAFETY: the structure is at least as long as the kernel's and outlives the call; the default action runs no
        // code of ours. SIGKILL and SIGSTOP are refused, which is fine.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const default,
                0usize,
                8usize,
            );
        }
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}

/// A change of a mount and, where recursive, of all mounts below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountChange {
    pub path: CString,
    pub recursive: bool,
    pub read_only: bool,
    /// MS_PRIVATE, MS_SLAVE or MS_SHARED; 0 leaves it.
    pub propagation: u64,
}

impl MountChange {
    fn apply(&self) -> io::Result<()> {
        const MOUNT_ATTR_RDONLY: u64 = 1;
        let set = if self.read_only { MOUNT_ATTR_RDONLY } else { 0 };
        // struct mount_attr: attr_set, attr_clr, propagation, userns_fd
        let attributes: [u64; 4] = [set, 0, self.propagation, 0];
        let flags = if self.recursive {
            libc::AT_RECURSIVE
        } else {
            0
        };
        // SAFETY: the path is NUL-terminated and the attributes have the size given; both outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                libc::AT_FDCWD,
                self.path.as_ptr(),
                flags,
                attributes.as_ptr(),
                size_of_val(&attributes),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// `struct sock_fprog`
#[repr(C)]
struct Program {
    length: u16,
    filter: *const Instruction,
}

fn install(filter: &[Instruction]) -> io::Result<()> {
    let program = Program {
        length: u16::try_from(filter.len())
            .map_err(|_| io::Error::other("the profile is too long for the kernel"))?,
        filter: filter.as_ptr(),
    };
    const SECCOMP_SET_MODE_FILTER: libc::c_ulong = 1;
    // SAFETY: `program` describes `filter`, both live until the call returns; the kernel copies them. `Instruction` has
    // the layout of `struct sock_filter` (repr(C), u16 u8 u8 u32).
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Docker's sets: root gets the mask as permitted and effective, others nothing; the bounding set is the mask for
/// both; inheritable and ambient are empty.
fn drop_capabilities(mask: u64, uid: u32) -> io::Result<()> {
    const PR_CAPBSET_READ: i32 = 23;
    const PR_CAPBSET_DROP: i32 = 24;
    const PR_CAP_AMBIENT: i32 = 47;
    const PR_CAP_AMBIENT_CLEAR_ALL: u64 = 4;
    let prctl = |option: i32, argument: u64| {
        // SAFETY: these options take numbers only.
        let result = unsafe { libc::prctl(option, argument, 0u64, 0u64, 0u64) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    };
    for number in 0..64u64 {
        if mask & (1 << number) != 0 {
            continue;
        }
        match prctl(PR_CAPBSET_READ, number) {
            Ok(0) => {}
            Ok(_) => {
                prctl(PR_CAPBSET_DROP, number)?;
            }
            // One more than the kernel knows.
            Err(_) => break,
        }
    }
    // Kernels before 4.3 have no ambient set.
    let _ = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
    // _LINUX_CAPABILITY_VERSION_3 with two halves: effective, permitted, inheritable.
    let mut header: [u32; 2] = [0x2008_0522, 0];
    let mut now = [0u32; 6];
    // SAFETY: both arrays have the sizes version 3 has and outlive the calls.
    let result = unsafe { libc::syscall(libc::SYS_capget, header.as_mut_ptr(), now.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // A host may itself lack some: what is not permitted cannot be asked for.
    let have = u64::from(now[1]) | u64::from(now[4]) << 32;
    let wanted = if uid == 0 { mask & have } else { 0 };
    let (low, high) = (wanted as u32, (wanted >> 32) as u32);
    let sets = [low, low, 0, high, high, 0];
    // SAFETY: as above.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The names of linux/capability.h in the order of their numbers.
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Every capability there is, by name.
pub fn all_capabilities() -> Vec<String> {
    CAPABILITIES.iter().map(|name| (*name).to_owned()).collect()
}

/// The mask of these names.
pub fn capability_mask(names: &[String]) -> Result<u64, Refusal> {
    names.iter().try_fold(0, |mask, name| {
        let number = CAPABILITIES
            .iter()
            .position(|known| known == name)
            .ok_or_else(|| Refusal::Invalid {
                what: format!("capability {name:?}"),
                why: "it is not known".to_owned(),
            })?;
        Ok(mask | 1 << number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_the_kernels_numbers() {
        let names = ["CAP_CHOWN".to_owned(), "CAP_SYS_ADMIN".to_owned()];
        assert_eq!(capability_mask(&names).unwrap(), 1 | 1 << 21);
        assert_eq!(capability_mask(&all_capabilities()).unwrap(), (1 << 41) - 1);
        assert!(capability_mask(&["CAP_NONE".to_owned()]).is_err());
    }
}
