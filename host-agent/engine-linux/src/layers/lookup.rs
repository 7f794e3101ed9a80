//! Names in a layer, and what is there: nothing outside of the layer's root is ever opened.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Resolves `.` and `..` by name alone, as Docker does; `None` if it leads above the root.
pub fn normalise(path: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join(&b'/'))
}

/// Opens a folder of the layer, wherever links inside the layer lead, but never outside.
pub fn open_folder(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        match rustix::fs::openat2(
            root,
            OsStr::from_bytes(path),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            // Something on the host was renamed meanwhile; the kernel asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

/// Folder and name of a normalised path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

pub(super) fn stat(folder: BorrowedFd<'_>, name: &OsStr) -> Option<Stat> {
    rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()
}

pub(super) fn file_type(facts: &Stat) -> FileType {
    FileType::from_raw_mode(facts.st_mode)
}

pub(super) fn is_whiteout_stat(facts: &Stat) -> bool {
    file_type(facts) == FileType::CharacterDevice && facts.st_rdev == 0
}

pub(super) fn is_whiteout(folder: BorrowedFd<'_>, name: &OsStr) -> bool {
    stat(folder, name).is_some_and(|facts| is_whiteout_stat(&facts))
}

/// A path to `name` in an opened folder, for system calls that take no folder (extended attributes).
pub(super) fn entry_path(folder: BorrowedFd<'_>, name: &OsStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    path
}

pub fn times(mtime: (i64, u32)) -> Timestamps {
    let at = Timespec {
        tv_sec: mtime.0,
        tv_nsec: i64::from(mtime.1),
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}
