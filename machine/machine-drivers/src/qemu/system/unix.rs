//! Linux and macOS.

use crate::qemu::process::ProcessId;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(in crate::qemu) use std::process::Child;

/// A killed keeper's QEMU listens on: the next one connects to it again.
pub(in crate::qemu) const QEMU_OUTLIVES_ITS_KEEPER: bool = true;

/// `sun_path` holds 104 bytes on macOS and 108 on Linux, with a final NUL.
const LONGEST_SOCKET_PATH: usize = 103;
const LONGEST_SOCKET_NAME: &str = "control.sock";

/// Where a machine's sockets are: in its folder, or below /tmp where that one's path is too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::qemu) struct SocketPlace {
    folder: PathBuf,
    is_own: bool,
}

impl SocketPlace {
    pub(in crate::qemu) fn of(folder: &Path) -> SocketPlace {
        let longest = folder.join(LONGEST_SOCKET_NAME).as_os_str().len();
        if longest <= LONGEST_SOCKET_PATH {
            return SocketPlace {
                folder: folder.to_path_buf(),
                is_own: false,
            };
        }
        // Not $XDG_RUNTIME_DIR: it differs between log-ins and vanishes with the last one; the machine stays.
        let user = rustix::process::getuid().as_raw();
        let hash = crate::qemu::files::stable_hash(folder.as_os_str().as_encoded_bytes());
        SocketPlace {
            folder: PathBuf::from(format!("/tmp/berth-{user}")).join(format!("{hash:016x}")),
            is_own: true,
        }
    }

    pub(in crate::qemu) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.sock"))
    }

    /// Before a machine is started.
    pub(in crate::qemu) fn renew(&self) -> io::Result<()> {
        self.make()
    }

    /// Makes the folder, when it is not the machine's own, safe from other users of `/tmp`.
    pub(in crate::qemu) fn make(&self) -> io::Result<()> {
        if !self.is_own {
            return Ok(());
        }
        let parent = self.folder.parent().expect("two levels below /tmp");
        for folder in [parent, &self.folder] {
            match std::fs::DirBuilder::new().mode(0o700).create(folder) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let found = std::fs::symlink_metadata(folder)?;
            let ours = found.uid() == rustix::process::getuid().as_raw();
            if !found.is_dir() || !ours || found.mode() & 0o077 != 0 {
                return Err(io::Error::other(format!(
                    "{} is not a folder that only you can use",
                    folder.display()
                )));
            }
        }
        Ok(())
    }

    /// Removes the sockets of these names, and the folder.
    pub(in crate::qemu) fn remove(&self, names: &[&str]) {
        for name in names {
            let _ = std::fs::remove_file(self.path(name));
        }
        if self.is_own {
            let _ = std::fs::remove_dir(&self.folder);
            // Succeeds for the last machine only.
            let _ = self.folder.parent().map(std::fs::remove_dir);
        }
    }
}

pub(in crate::qemu) type Stream = UnixStream;

pub(in crate::qemu) fn connect(path: &Path) -> io::Result<Stream> {
    UnixStream::connect(path)
}

pub(in crate::qemu) struct Listener(UnixListener);

impl Listener {
    pub(in crate::qemu) fn bind(path: &Path) -> io::Result<Listener> {
        // Left over from a keeper that was killed; one that lives was looked for before.
        let _ = std::fs::remove_file(path);
        UnixListener::bind(path).map(Listener)
    }

    pub(in crate::qemu) fn accept(&self) -> io::Result<Stream> {
        self.0.accept().map(|(stream, _)| stream)
    }
}

/// A file that this makes is its owner's only.
pub(in crate::qemu) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(0o600)
}

/// What changes when a file is replaced.
pub(in crate::qemu) fn stamp(found: &Metadata) -> String {
    format!(
        "{}:{}:{}:{}",
        found.ino(),
        found.size(),
        found.mtime(),
        found.mode()
    )
}

/// Another one after each start of the computer.
pub(in crate::qemu) fn boot_of_this_computer() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// QEMU's file name.
pub(in crate::qemu) fn program_name(usual: &str) -> String {
    usual.to_owned()
}

/// Where QEMU may be, apart from `PATH`.
pub(in crate::qemu) fn program_folders() -> Vec<PathBuf> {
    Vec::new()
}

pub(in crate::qemu) fn terminate(process: ProcessId) {
    if let Some(pid) = i32::try_from(process.pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// When the process with this number started; `None` when there is none or it is only waiting to be reaped.
#[cfg(target_os = "linux")]
pub(in crate::qemu) fn started(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&text)
}

/// Field 22 of proc_pid_stat(5); the name in field 2 may hold anything.
#[cfg(target_os = "linux")]
fn parse_stat(text: &str) -> Option<u64> {
    let (_, after) = text.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
pub(in crate::qemu) fn started(pid: u32) -> Option<u64> {
    let output = std::process::Command::new("ps")
        .args(["-o", "stat=,lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let text = text.trim();
    let (state, since) = text.split_once(' ')?;
    (!state.starts_with('Z')).then(|| crate::qemu::files::stable_hash(since.trim().as_bytes()))
}

/// Starts the keeper. What it says goes to `log`.
pub(in crate::qemu) fn start_keeper(
    program: &Path,
    arguments: &[&OsStr],
    log: &Path,
    forget_log: bool,
) -> io::Result<Child> {
    let log = private(OpenOptions::new().create(true).append(true)).open(log)?;
    if forget_log {
        log.set_len(0)?;
    }
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Not the creator's: the folder it was called in may be unmounted while the machine runs.
        .current_dir("/")
        .spawn()
}

/// The keeper's first step: away from the terminal, whose Ctrl-C and end are not ours.
pub(in crate::qemu) fn begin_keeping(_log: &Path) {
    let _ = rustix::process::setsid();
}

/// The keeper's log, which it was started with.
pub(in crate::qemu) fn log() -> impl Write {
    io::stderr()
}

/// What a program in the background needs.
pub(in crate::qemu) fn in_background(command: &mut Command) -> &mut Command {
    command
}

/// Containers may hold many files of a shared folder open at once; each is one of ours.
pub(in crate::qemu) fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: maximum,
            maximum,
        },
    );
}

/// Returns whenever this process is asked to end; never, where nobody asks.
pub(in crate::qemu) fn asked_to_end() -> io::Result<impl Iterator<Item = ()> + Send + 'static> {
    let mut signals = signal_hook::iterator::Signals::new([
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGHUP,
    ])?;
    Ok(std::iter::from_fn(move || {
        signals.forever().next().map(|_| ())
    }))
}

/// What may still be written where `folder` is, and what there is in all, in bytes.
pub(in crate::qemu) fn disk_space(folder: &Path) -> Option<(u64, u64)> {
    let space = rustix::fs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize);
    Some((bytes(space.f_bavail), bytes(space.f_blocks)))
}

pub(in crate::qemu) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(buffer, offset)
}

pub(in crate::qemu) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

/// The computer's memory, where it tells.
pub(in crate::qemu) fn memory_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let total = text.lines().find_map(|line| {
        let kibibytes = line.strip_prefix("MemTotal:")?.split_whitespace().next()?;
        kibibytes.parse::<u64>().ok()
    });
    total.map(|kibibytes| kibibytes / 1024)
}

/// A file of holes takes no space.
pub(in crate::qemu) fn make_sparse(_path: &Path, _file: &File) -> io::Result<()> {
    Ok(())
}

/// Finds who has a port.
pub(in crate::qemu) fn who_listens(port: u16) -> String {
    format!("ss -ltnp 'sport = :{port}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_stay_with_the_machine_unless_their_path_is_too_long() {
        let short = SocketPlace::of(Path::new("/home/a/.docker/machine/machines/dev"));
        assert!(
            short
                .path("keeper")
                .starts_with("/home/a/.docker/machine/machines/dev")
        );
        let long = SocketPlace::of(&Path::new("/home").join("x".repeat(100)));
        assert!(long.path("control").as_os_str().len() <= LONGEST_SOCKET_PATH);
        assert!(long.path("keeper").starts_with("/tmp"));
        assert_ne!(
            long.path("keeper"),
            SocketPlace::of(&Path::new("/home").join("y".repeat(100))).path("keeper")
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn odd_names_do_not_confuse() {
        let fields: Vec<String> = (4..=30).map(|field| field.to_string()).collect();
        let line = format!("7 (a) b) S {}", fields.join(" "));
        assert_eq!(parse_stat(&line), Some(22));
        assert_eq!(parse_stat("7 (x) Z 1 2"), None);
        assert_eq!(parse_stat(""), None);
    }
}
