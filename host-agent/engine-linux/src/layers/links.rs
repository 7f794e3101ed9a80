//! Hard links to files of the layers below: what overlayfs does when somebody makes one in a container. The file is copied
//! up into this layer under its own name, and the link made beside it.

use super::lookup::{entry_path, file_type, is_whiteout_stat, open_folder, split, stat, times};
use super::unpack::{LinkBelow, OPAQUE, adopt_folder};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

/// Makes one link. `below` are the layers below, the nearest first. Returns the bytes copied.
pub(super) fn make(root: &OwnedFd, link: &LinkBelow, below: &[OwnedFd]) -> io::Result<u64> {
    let missing = || {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "{:?} is a hard link to {:?}, which is not in this layer nor below",
                link.entry.display(),
                String::from_utf8_lossy(&link.target)
            ),
        )
    };
    let (target_parent, target_name) = split(&link.target);
    let (parent, name) = split(&link.path);
    let target_name = OsStr::from_bytes(target_name);
    let mut copied = 0;
    // An earlier link may have brought it.
    let is_here = open_folder(root.as_fd(), target_parent)
        .is_ok_and(|folder| stat(folder.as_fd(), target_name).is_some());
    if !is_here {
        let found = find(root, &link.target, below).ok_or_else(missing)?;
        let folder = make_folders(root, target_parent, below)?;
        copied = copy_up(found.as_fd(), folder.as_fd(), target_name)?;
    }
    let from = open_folder(root.as_fd(), target_parent)?;
    let to = make_folders(root, parent, below)?;
    let name = OsStr::from_bytes(name);
    rustix::fs::linkat(&from, target_name, &to, name, AtFlags::empty())?;
    // As with Docker, the link's entry has the last word on owner, mode and time.
    let entry = &link.entry;
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let facts = stat(to.as_fd(), name).ok_or_else(missing)?;
    if (facts.st_uid, facts.st_gid) != (entry.uid, entry.gid) {
        rustix::fs::chownat(&to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if file_type(&facts) != FileType::Symlink {
        rustix::fs::chmodat(&to, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    rustix::fs::utimensat(&to, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(copied)
}

/// The folder a file below is in, or rather the file itself, as overlayfs would find it: whiteouts and opaque folders of
/// this layer and of each one on the way hide what is below them. Links on the way are not followed.
fn find(root: &OwnedFd, path: &[u8], below: &[OwnedFd]) -> Option<OwnedFd> {
    for layer in std::iter::once(root).chain(below) {
        let mut folder = layer.try_clone().ok()?;
        let mut is_opaque = false;
        let mut parts = path.split(|byte| *byte == b'/').peekable();
        while let Some(part) = parts.next() {
            let name = OsStr::from_bytes(part);
            let Some(facts) = stat(folder.as_fd(), name) else {
                break;
            };
            if is_whiteout_stat(&facts) {
                return None;
            }
            let opened = rustix::fs::openat(
                &folder,
                name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .ok()?;
            if parts.peek().is_none() {
                return matches!(file_type(&facts), FileType::RegularFile | FileType::Symlink)
                    .then_some(opened);
            }
            if file_type(&facts) != FileType::Directory {
                return None;
            }
            is_opaque |= has_opaque_mark(folder.as_fd(), name);
            folder = opened;
        }
        if is_opaque {
            return None;
        }
    }
    None
}

fn has_opaque_mark(folder: BorrowedFd<'_>, name: &OsStr) -> bool {
    let mut value = [0u8; 1];
    rustix::fs::lgetxattr(entry_path(folder, name).as_slice(), OPAQUE, &mut value)
        .is_ok_and(|count| value[..count] == *b"y")
}

/// Opens a folder of this layer, making what is missing of it with the owner and mode it has below.
fn make_folders(root: &OwnedFd, path: &[u8], below: &[OwnedFd]) -> io::Result<OwnedFd> {
    let mut so_far: Vec<u8> = Vec::new();
    let mut current = open_folder(root.as_fd(), b"")?;
    for part in path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty())
    {
        if !so_far.is_empty() {
            so_far.push(b'/');
        }
        so_far.extend_from_slice(part);
        current = match open_folder(root.as_fd(), &so_far) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(
                    &current,
                    OsStr::from_bytes(part),
                    Mode::from_raw_mode(0o755),
                )?;
                adopt_folder(root, &so_far, below)?;
                open_folder(root.as_fd(), &so_far)?
            }
            other => other?,
        };
    }
    Ok(current)
}

/// Copies a file or a symbolic link with all that belongs to it.
fn copy_up(from: BorrowedFd<'_>, folder: BorrowedFd<'_>, name: &OsStr) -> io::Result<u64> {
    let facts = rustix::fs::fstat(from)?;
    let owner = (Uid::from_raw(facts.st_uid), Gid::from_raw(facts.st_gid));
    if file_type(&facts) == FileType::Symlink {
        let target = rustix::fs::readlinkat(from, "", Vec::new())?;
        rustix::fs::symlinkat(&target, folder, name)?;
        rustix::fs::chownat(
            folder,
            name,
            Some(owner.0),
            Some(owner.1),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        return Ok(0);
    }
    // A path to what is opened already: nothing can be put in its place meanwhile.
    let path = entry_path(from, OsStr::new(""));
    let path = OsStr::from_bytes(path.strip_suffix(b"/").unwrap_or(&path)).to_owned();
    let input = std::fs::File::open(&path)?;
    let output = std::fs::File::from(rustix::fs::openat(
        folder,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o600),
    )?);
    let mut buffer = vec![0u8; 128 * 1024];
    let mut at = 0u64;
    loop {
        let count = input.read_at(&mut buffer, at)?;
        if count == 0 {
            break;
        }
        output.write_all_at(&buffer[..count], at)?;
        at += count as u64;
    }
    rustix::fs::fchown(&output, Some(owner.0), Some(owner.1))?;
    rustix::fs::fchmod(&output, Mode::from_raw_mode(facts.st_mode & 0o7777))?;
    for key in attributes(&path)? {
        let mut value = vec![0u8; 64 * 1024];
        let count = rustix::fs::getxattr(&path, &key, &mut value)?;
        if !key.as_bytes().starts_with(b"trusted.overlay.") {
            rustix::fs::fsetxattr(&output, &key, &value[..count], XattrFlags::empty())?;
        }
    }
    Ok(at)
}

fn attributes(path: &OsStr) -> io::Result<Vec<OsString>> {
    let mut list = vec![0u8; 64 * 1024];
    let count = match rustix::fs::listxattr(path, &mut list) {
        Err(Errno::NOTSUP) => 0,
        outcome => outcome?,
    };
    Ok(list[..count]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| OsStr::from_bytes(name).to_owned())
        .collect())
}
