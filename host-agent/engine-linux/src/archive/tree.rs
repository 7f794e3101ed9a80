//! A folder on the disk, read as a tar or walked, while strangers may change it: nothing outside of it is ever opened.

use super::write::{EntryKind, NewEntry, TarWriter};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Something found in a walk.
pub struct Found<'a> {
    /// The open folder it is in.
    pub folder: BorrowedFd<'a>,
    pub name: &'a OsStr,
    /// Relative to where the walk began.
    pub path: &'a [u8],
    pub facts: &'a Stat,
}

impl Found<'_> {
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.facts.st_mode)
    }
}

/// Whether a walk goes into a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    Yes,
    No,
}

/// Visits everything below `root` in the order of names, folders before what is in them. Holds two open folders at a time
/// however deep the tree is, and follows no link. What vanishes meanwhile is left out.
pub fn walk(
    root: BorrowedFd<'_>,
    visit: &mut dyn FnMut(&Found<'_>) -> io::Result<Descend>,
) -> io::Result<()> {
    // Folders that are not finished: the path and the names still to come, last first.
    let mut open: Vec<(Vec<u8>, Vec<OsString>)> = Vec::new();
    let mut current = open_below(root, b"")?;
    open.push((Vec::new(), names(&current)?));
    while let Some((path, names_left)) = open.last_mut() {
        let Some(name) = names_left.pop() else {
            open.pop();
            let Some((parent, _)) = open.last_mut() else {
                break;
            };
            match open_below(root, parent) {
                Ok(folder) => current = folder,
                // It was moved or removed: nothing more of it can be had.
                Err(error) if is_gone(error) => {
                    open.last_mut().expect("just looked at").1.clear();
                }
                Err(error) => return Err(error.into()),
            }
            continue;
        };
        let mut inner = path.clone();
        if !inner.is_empty() {
            inner.push(b'/');
        }
        inner.extend_from_slice(name.as_bytes());
        let facts = match rustix::fs::statat(&current, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(facts) => facts,
            Err(error) if is_gone(error) => continue,
            Err(error) => return Err(error.into()),
        };
        let found = Found {
            folder: current.as_fd(),
            name: &name,
            path: &inner,
            facts: &facts,
        };
        let is_folder = found.kind() == FileType::Directory;
        if visit(&found)? == Descend::No || !is_folder {
            continue;
        }
        match open_below(root, &inner) {
            Ok(folder) => {
                let inside = names(&folder)?;
                current = folder;
                open.push((inner, inside));
            }
            Err(error) if is_gone(error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What a lookup says where something else was put in the place of what was there.
fn is_gone(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE
    )
}

/// A folder below `root`, reached without a link.
pub fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    retry(|| {
        rustix::fs::openat2(
            root,
            OsStr::from_bytes(path),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
    })
}

/// Asks again where the kernel wants that because something was renamed meanwhile; not for ever, because a container
/// can rename without end.
pub fn retry<T>(mut open: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    const ATTEMPTS: usize = 10_000;
    for _ in 0..ATTEMPTS {
        match open() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            outcome => return outcome,
        }
    }
    Err(Errno::BUSY)
}

/// Last first.
fn names(folder: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// Writes files of a tree into a tar; names of one file after the first are hard links.
pub struct TreeWriter<W> {
    tar: TarWriter<W>,
    /// (device, inode) -> name in the archive.
    links: HashMap<(u64, u64), Vec<u8>>,
    content: u64,
}

impl<W: Write> TreeWriter<W> {
    pub fn new(output: W) -> TreeWriter<W> {
        TreeWriter {
            tar: TarWriter::new(output),
            links: HashMap::new(),
            content: 0,
        }
    }

    /// Bytes of all files so far.
    pub fn content(&self) -> u64 {
        self.content
    }

    /// Adds everything in `root`, each name with `prefix` in front; the folder itself is not added.
    pub fn add_tree(&mut self, root: BorrowedFd<'_>, prefix: &[u8]) -> io::Result<()> {
        walk(root, &mut |found| {
            let name = [prefix, found.path].concat();
            self.add(found.folder, found.name, name, found.facts)?;
            Ok(Descend::Yes)
        })
    }

    /// Adds what `name` in `folder` is, without what is in it. `path` is its name in the archive, without a slash at the
    /// end. Sockets are left out: no archive has them, in Docker neither.
    pub fn add(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: Vec<u8>,
        facts: &Stat,
    ) -> io::Result<()> {
        match FileType::from_raw_mode(facts.st_mode) {
            FileType::RegularFile => return self.add_file(folder, name, path),
            FileType::Socket | FileType::Unknown => return Ok(()),
            FileType::Directory => {
                let opened = retry(|| {
                    rustix::fs::openat(
                        folder,
                        name,
                        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                });
                return match opened {
                    Ok(opened) => self.add_folder(opened.as_fd(), path),
                    Err(error) if is_gone(error) => Ok(()),
                    Err(error) => Err(error.into()),
                };
            }
            _ => {}
        }
        let Some(mut entry) = self.begin(path, facts) else {
            return Ok(());
        };
        if entry.kind == EntryKind::Symlink {
            entry.link = match rustix::fs::readlinkat(folder, name, Vec::new()) {
                Ok(target) => target.into_bytes(),
                // It is something else by now.
                Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
        }
        self.tar.entry(&entry)
    }

    /// Adds a folder, without what is in it.
    pub fn add_folder(&mut self, folder: BorrowedFd<'_>, mut path: Vec<u8>) -> io::Result<()> {
        let facts = rustix::fs::fstat(folder)?;
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        let Some(mut entry) = self.begin(path, &facts) else {
            return Ok(());
        };
        entry.xattrs = xattrs(folder)?;
        self.tar.entry(&entry)
    }

    fn add_file(&mut self, folder: BorrowedFd<'_>, name: &OsStr, path: Vec<u8>) -> io::Result<()> {
        let opened = rustix::fs::openat(
            folder,
            name,
            // It may have become a pipe that nobody writes.
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let file = match opened {
            Ok(file) => file,
            Err(error) if is_gone(error) || error == Errno::NXIO => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        // What is open counts, not what was there before.
        let facts = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let Some(mut entry) = self.begin(path, &facts) else {
            return Ok(());
        };
        if entry.kind == EntryKind::HardLink {
            return self.tar.entry(&entry);
        }
        entry.size = u64::try_from(facts.st_size).unwrap_or(0);
        self.content += entry.size;
        entry.xattrs = xattrs(file.as_fd())?;
        self.tar.file(&entry, File::from(file))
    }

    /// An empty file, as whiteouts are.
    pub fn add_marker(&mut self, path: Vec<u8>) -> io::Result<()> {
        self.tar.entry(&NewEntry {
            kind: EntryKind::File,
            path,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 0,
            device: (0, 0),
            xattrs: Vec::new(),
        })
    }

    /// Ends the archive.
    pub fn finish(self) -> io::Result<W> {
        self.tar.finish()
    }

    fn begin(&mut self, path: Vec<u8>, facts: &Stat) -> Option<NewEntry> {
        let mut kind = match FileType::from_raw_mode(facts.st_mode) {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Folder,
            FileType::Symlink => EntryKind::Symlink,
            FileType::CharacterDevice => EntryKind::CharacterDevice,
            FileType::BlockDevice => EntryKind::BlockDevice,
            FileType::Fifo => EntryKind::Fifo,
            _ => return None,
        };
        let mut link = Vec::new();
        if kind != EntryKind::Folder && facts.st_nlink > 1 {
            let place = (facts.st_dev, facts.st_ino);
            match self.links.get(&place) {
                Some(first) => {
                    kind = EntryKind::HardLink;
                    link.clone_from(first);
                }
                None => {
                    self.links.insert(place, path.clone());
                }
            }
        }
        let device = match kind {
            EntryKind::CharacterDevice | EntryKind::BlockDevice => (
                rustix::fs::major(facts.st_rdev),
                rustix::fs::minor(facts.st_rdev),
            ),
            _ => (0, 0),
        };
        Some(NewEntry {
            kind,
            path,
            link,
            mode: facts.st_mode & 0o7777,
            uid: facts.st_uid,
            gid: facts.st_gid,
            size: 0,
            mtime: facts.st_mtime,
            device,
            xattrs: Vec::new(),
        })
    }
}

/// Whether an attribute is a file's own matter and goes with it: capabilities, access lists, and what users put there.
/// Labels of the host's security modules and overlayfs's own marks stay behind.
pub fn travels(name: &[u8]) -> bool {
    name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
        || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

/// The attributes of an opened file that go with it.
pub fn xattrs(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut list = vec![0u8; 4096];
    let length = loop {
        match rustix::fs::flistxattr(file, list.as_mut_slice()) {
            Ok(0) | Err(Errno::OPNOTSUPP | Errno::BADF) => return Ok(Vec::new()),
            Ok(length) => break length,
            // The kernel's bound is 64 KiB (XATTR_LIST_MAX).
            Err(Errno::RANGE) if list.len() < 64 * 1024 => list.resize(64 * 1024, 0),
            Err(error) => return Err(error.into()),
        }
    };
    let mut found = Vec::new();
    for name in list[..length].split(|byte| *byte == 0) {
        if !travels(name) {
            continue;
        }
        // XATTR_SIZE_MAX
        let mut value = vec![0u8; 64 * 1024];
        match rustix::fs::fgetxattr(file, name, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_vec(), value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

/// A path to an opened file, whatever its type and however it was opened, for system calls that know no descriptors
/// opened with `O_PATH`.
pub fn descriptor_path(file: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn paths(root: &std::path::Path) -> Vec<String> {
        let folder = File::open(root).expect("it is there");
        let mut seen = Vec::new();
        walk(folder.as_fd(), &mut |found| {
            seen.push(String::from_utf8_lossy(found.path).into_owned());
            Ok(Descend::Yes)
        })
        .expect("readable");
        seen
    }

    #[test]
    fn a_walk_sees_everything_once_in_order_and_follows_no_link() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        for path in ["root/b/c/d", "root/a", "outside"] {
            fs::create_dir_all(folder.path().join(path)).expect("made");
        }
        for path in ["root/b/c/file", "root/a/one", "root/z", "outside/secret"] {
            fs::write(folder.path().join(path), path).expect("written");
        }
        std::os::unix::fs::symlink("../../outside", root.join("b/link")).expect("made");
        assert_eq!(
            paths(&root),
            ["a", "a/one", "b", "b/c", "b/c/d", "b/c/file", "b/link", "z"]
        );
    }

    #[test]
    fn a_folder_that_is_swapped_for_a_link_in_the_middle_of_a_walk_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("a")).expect("made");
        fs::create_dir_all(folder.path().join("outside")).expect("made");
        fs::write(folder.path().join("outside/secret"), "secret").expect("written");
        let opened = File::open(&root).expect("it is there");
        let mut seen = Vec::new();
        walk(opened.as_fd(), &mut |found| {
            seen.push(String::from_utf8_lossy(found.path).into_owned());
            if found.path == b"a" {
                fs::remove_dir(root.join("a"))?;
                std::os::unix::fs::symlink("../outside", root.join("a"))?;
            }
            Ok(Descend::Yes)
        })
        .expect("readable");
        assert_eq!(seen, ["a"]);
    }
}
