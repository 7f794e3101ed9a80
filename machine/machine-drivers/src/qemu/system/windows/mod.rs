//! Windows: named pipes in the place of Unix sockets, processes without a console in the place of daemons. What needs
//! the system's own calls goes through `winsafe`, whose functions are safe.

mod pipe;
mod process;

pub(in crate::qemu) use pipe::{Listener, Stream, connect};
pub(in crate::qemu) use process::{
    Child, begin_keeping, in_background, log, start_keeper, started, terminate,
};

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// QEMU's end of a named pipe takes one client, once: nobody can take the machine of a killed keeper over.
pub(in crate::qemu) const QEMU_OUTLIVES_ITS_KEEPER: bool = false;

/// Holds the secret part of the names of a running machine's pipes.
const SECRET: &str = "pipes";
const SECRET_BYTES: usize = 16;

/// Where a machine's pipes are. All programs of the computer share one list of pipes, and whoever makes a name first has it:
/// so each start has names that nobody can guess. That list can be read by all, which helps nobody: while the pipe is
/// there, Windows lets only its owner (and administrators) write to it, and a client that cannot write asks nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::qemu) struct SocketPlace {
    folder: PathBuf,
}

impl SocketPlace {
    pub(in crate::qemu) fn of(folder: &Path) -> SocketPlace {
        SocketPlace {
            folder: folder.to_path_buf(),
        }
    }

    /// A machine that does not run has no pipes, and this is the path of a file that does not exist.
    pub(in crate::qemu) fn path(&self, name: &str) -> PathBuf {
        match std::fs::read_to_string(self.folder.join(SECRET)) {
            Ok(secret) if is_secret(&secret) => {
                PathBuf::from(format!("{}berth-{secret}-{name}", super::PIPES))
            }
            _ => self.folder.join(format!("{name}.sock")),
        }
    }

    /// Before a machine is started: new names.
    pub(in crate::qemu) fn renew(&self) -> io::Result<()> {
        let mut bytes = [0; SECRET_BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        machine_core::store::atomic::write(&self.folder.join(SECRET), secret.as_bytes())
    }

    pub(in crate::qemu) fn make(&self) -> io::Result<()> {
        Ok(())
    }

    /// Pipes go with the processes that have them; their names go here.
    pub(in crate::qemu) fn remove(&self, _names: &[&str]) {
        let _ = std::fs::remove_file(self.folder.join(SECRET));
    }
}

fn is_secret(text: &str) -> bool {
    text.len() == 2 * SECRET_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Files inherit the rights of their folder, which is in the user's profile.
pub(in crate::qemu) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// What changes when a file is replaced.
pub(in crate::qemu) fn stamp(found: &Metadata) -> String {
    format!(
        "{}:{}:{}",
        found.file_size(),
        found.creation_time(),
        found.last_write_time()
    )
}

/// Another one after each start of the computer. Windows gives a start no name: its time does, in steps that are longer
/// than clocks are corrected by.
pub(in crate::qemu) fn boot_of_this_computer() -> String {
    const STEP: u64 = 600;
    let up = Duration::from_millis(winsafe::GetTickCount64());
    let since = SystemTime::now()
        .checked_sub(up)
        .and_then(|start| start.duration_since(SystemTime::UNIX_EPOCH).ok());
    format!("{}", since.unwrap_or_default().as_secs() / STEP)
}

/// QEMU's file name.
pub(in crate::qemu) fn program_name(usual: &str) -> String {
    format!("{usual}.exe")
}

/// Where QEMU's installer puts it; it does not change `PATH`.
pub(in crate::qemu) fn program_folders() -> Vec<PathBuf> {
    ["ProgramFiles", "ProgramW6432"]
        .into_iter()
        .filter_map(std::env::var_os)
        .map(|folder| PathBuf::from(folder).join("qemu"))
        .collect()
}

/// Windows has no such limit.
pub(in crate::qemu) fn allow_many_files() {}

/// A process without a console is not asked; logging off ends it, as it ends QEMU.
pub(in crate::qemu) fn asked_to_end() -> io::Result<impl Iterator<Item = ()> + Send + 'static> {
    Ok(std::iter::empty())
}

/// What may still be written where `folder` is, and what there is in all, in bytes.
pub(in crate::qemu) fn disk_space(folder: &Path) -> Option<(u64, u64)> {
    let (mut free, mut total) = (0, 0);
    let folder = folder.to_str()?;
    winsafe::GetDiskFreeSpaceEx(Some(folder), Some(&mut free), Some(&mut total), None).ok()?;
    Some((free, total))
}

pub(in crate::qemu) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(buffer, offset)
}

pub(in crate::qemu) fn write_all_at(
    file: &File,
    mut bytes: &[u8],
    mut offset: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = file.seek_write(bytes, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}

pub(in crate::qemu) fn memory_mib() -> Option<u64> {
    let found = winsafe::GlobalMemoryStatusEx().ok()?;
    Some(found.ullTotalPhys / (1024 * 1024))
}

/// NTFS gives a file its whole size unless it is told that zeros need no room.
pub(in crate::qemu) fn make_sparse(path: &Path, _file: &File) -> io::Result<()> {
    let mut command = std::process::Command::new("fsutil");
    command.args(["sparse", "setflag"]).arg(path);
    let output = in_background(&mut command).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "fsutil sparse setflag failed ({})",
            output.status
        ))),
    }
}

/// Finds who has a port.
pub(in crate::qemu) fn who_listens(port: u16) -> String {
    format!("netstat -ano | findstr :{port}")
}

fn told(error: winsafe::co::ERROR) -> io::Error {
    io::Error::from_raw_os_error(error.raw() as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_have_other_names_at_each_start_and_none_before() {
        let folder = tempfile::tempdir().unwrap();
        let place = SocketPlace::of(folder.path());
        assert!(place.path("qmp").starts_with(folder.path()));
        place.renew().unwrap();
        let first = place.path("qmp");
        assert!(first.to_str().unwrap().starts_with(r"\\.\pipe\berth-"));
        place.renew().unwrap();
        assert_ne!(place.path("qmp"), first);
        std::fs::write(folder.path().join(SECRET), r"..\other").unwrap();
        assert!(place.path("qmp").starts_with(folder.path()));
    }
}
