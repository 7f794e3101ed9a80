//! Removes trees that strangers made.

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// Removes a folder and all in it. Goes down with one open folder at a time and no recursion: a stranger's tree may be
/// deeper than the stack and the table of open files.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let open = |parent: BorrowedFd<'_>, name: &OsStr| {
        rustix::fs::openat(
            parent,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = open(parent, name)?;
    // Folders found one level below `top` are emptied by moving their own folders up to `top`, so the depth shrinks.
    let mut serial = 0u64;
    loop {
        let mut folders = Vec::new();
        empty_files(top.as_fd(), &mut folders)?;
        if folders.is_empty() {
            break;
        }
        for folder in folders {
            let inner = open(top.as_fd(), &folder)?;
            let mut deeper = Vec::new();
            empty_files(inner.as_fd(), &mut deeper)?;
            for name in deeper {
                loop {
                    serial += 1;
                    let lifted = format!(".berth-removed-{serial}");
                    let flags = rustix::fs::RenameFlags::NOREPLACE;
                    match rustix::fs::renameat_with(&inner, &name, &top, &lifted, flags) {
                        Err(Errno::EXIST) => {}
                        outcome => break outcome?,
                    }
                }
            }
            rustix::fs::unlinkat(&top, &folder, AtFlags::REMOVEDIR)?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}

/// Unlinks everything in a folder but folders, whose names it returns.
fn empty_files(folder: BorrowedFd<'_>, folders: &mut Vec<std::ffi::OsString>) -> io::Result<()> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((OsStr::from_bytes(name).to_owned(), entry.file_type()));
        }
    }
    for (name, kind) in names {
        if kind == FileType::Directory {
            folders.push(name);
            continue;
        }
        match rustix::fs::unlinkat(folder, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => folders.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// [`remove_tree`] by path; not being there is no error.
pub fn remove_path(path: &std::path::Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match rustix::fs::openat(
        CWD,
        parent,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Err(Errno::NOENT) => return Ok(()),
        outcome => outcome?,
    };
    remove_tree(parent.as_fd(), name)
}
