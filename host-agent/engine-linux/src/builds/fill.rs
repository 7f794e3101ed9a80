//! What was selected, put into a folder: the draft of a layer, or a folder of its own.
//!
//! Files of a tree that nobody else reads are moved. So a context is written once, when it is received, and a folder that
//! is taken as it is costs one rename, however many files it has. All others are copied.

use super::failed;
use super::select::{Entry, hides, open_file, visit};
use super::tree::Tree;
use crate::archive::tree::{Descend, xattrs};
use crate::layers::remove_tree;
use engine::builds::files::{BuildFilesError, FillForm, FillPart, SelectedSource, Selection};
use engine::builds::ignore;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, Uid,
    XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where it goes.
pub(super) enum Into<'a> {
    /// A layer on top of these files: folders on the way are as they are there.
    Layer(&'a Tree),
    /// Files as they are.
    Folder,
}

/// Fills an empty folder.
pub(super) fn fill(
    target: &Path,
    into: Into<'_>,
    parts: &[FillPart],
) -> Result<(), BuildFilesError> {
    let mut fill = Fill::new(super::tree::open_tree(target)?, into);
    for part in parts {
        let tree = Tree::open(&part.tree)?;
        fill.part(&tree, &part.selection, &part.form, part.take)
            .map_err(|error| failed("copy files", error))?;
    }
    fill.finish()
        .map_err(|error| failed("set the times of folders", error))
}

/// Copies what is in a folder of a tree into an empty folder, with owners, modes and times.
pub(super) fn copy_folder(tree: &Tree, path: &str, target: &Path) -> Result<(), BuildFilesError> {
    let selection = Selection {
        digest: String::new(),
        sources: vec![SelectedSource {
            path: ignore::clean(path),
            name: String::new(),
            is_folder: true,
            is_whole: false,
        }],
        from: Default::default(),
    };
    let form = FillForm {
        keep_owners: true,
        ..FillForm::default()
    };
    let mut fill = Fill::new(super::tree::open_tree(target)?, Into::Folder);
    fill.part(tree, &selection, &form, false)
        .and_then(|()| fill.finish())
        .map_err(|error| failed(format!("copy {path}"), error))
}

/// Owner, mode and time of something new.
#[derive(Clone, Copy)]
struct Facts {
    uid: u32,
    gid: u32,
    mode: u32,
    /// Seconds and nanoseconds.
    time: (i64, i64),
}

struct Fill<'a> {
    root: OwnedFd,
    into: Into<'a>,
    /// The folder used last: entries come folder by folder.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Folders that an entry has made: the first one counts.
    made: HashSet<Vec<u8>>,
    /// Folders that are only on the way.
    implied: HashSet<Vec<u8>>,
    /// Set at the end, because what comes into a folder changes its time.
    times: Vec<(Vec<u8>, (i64, i64))>,
    buffer: Vec<u8>,
}

fn split(path: &[u8]) -> (&[u8], &OsStr) {
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    (parent, OsStr::from_bytes(name))
}

fn at(time: (i64, i64)) -> Timestamps {
    let at = Timespec {
        tv_sec: time.0,
        tv_nsec: time.1,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

impl<'a> Fill<'a> {
    fn new(root: OwnedFd, into: Into<'a>) -> Fill<'a> {
        Fill {
            root,
            into,
            parent: None,
            made: HashSet::new(),
            implied: HashSet::new(),
            times: Vec::new(),
            buffer: vec![0; 64 * 1024],
        }
    }

    fn part(
        &mut self,
        tree: &Tree,
        selection: &Selection,
        form: &FillForm,
        take: bool,
    ) -> io::Result<()> {
        let (uid, gid) = form.owner.unwrap_or((0, 0));
        let clamped = |time: (i64, i64)| match form.latest {
            Some(latest) if time >= (latest, 0) => (latest, 0),
            _ => time,
        };
        for folder in &form.new_folders {
            let facts = Facts {
                uid,
                gid,
                mode: 0o755,
                time: clamped((form.new_folders_time, 0)),
            };
            self.folder(folder.as_bytes(), facts, None)?;
        }
        let as_it_is = form.owner.is_none() && form.mode.is_none() && form.latest.is_none();
        for source in &selection.sources {
            let moves_folders = take && source.is_whole && as_it_is;
            visit(tree, source, &selection.from.0, &mut |entry| {
                let mut path = form.prefix.clone().into_bytes();
                match &form.rename {
                    Some(name) => path.extend_from_slice(name.as_bytes()),
                    None => path.extend_from_slice(&entry.path),
                }
                let path = path.strip_suffix(b"/").unwrap_or(&path);
                let found = entry.facts;
                let (uid, gid) = match form.owner {
                    Some(owner) => owner,
                    None if form.keep_owners => (found.st_uid, found.st_gid),
                    None => (0, 0),
                };
                let kind = FileType::from_raw_mode(found.st_mode);
                let is_folder = kind == FileType::Directory;
                let facts = Facts {
                    uid,
                    gid,
                    mode: match &form.mode {
                        Some(mode) => mode.apply(found.st_mode, is_folder),
                        None => found.st_mode & 0o7777,
                    },
                    time: clamped((found.st_mtime, found.st_mtime_nsec as _)),
                };
                self.check_name(entry, path)?;
                if !is_folder {
                    self.entry(entry, path, facts, take)?;
                    return Ok(Descend::No);
                }
                if moves_folders && self.move_folder(entry, path)? {
                    return Ok(Descend::No);
                }
                self.folder(path, facts, Some(entry))?;
                Ok(Descend::Yes)
            })?;
        }
        Ok(())
    }

    /// In a layer some names would hide other files instead of being ones.
    fn check_name(&self, entry: &Entry<'_>, path: &[u8]) -> io::Result<()> {
        let is_layer = matches!(self.into, Into::Layer(_));
        let is_mark = FileType::from_raw_mode(entry.facts.st_mode) == FileType::CharacterDevice
            && entry.facts.st_rdev == 0;
        if is_layer && (hides(split(path).1) || is_mark) {
            let why = match is_mark {
                true => "the device 0:0 marks deleted files in images and cannot be copied",
                false => {
                    "names that begin with .wh. mark deleted files in images and cannot be copied"
                }
            };
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{:?}: {why}", String::from_utf8_lossy(path)),
            ));
        }
        Ok(())
    }

    /// Makes `parent` the current folder, making what is missing of it.
    fn enter(&mut self, parent: &[u8]) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == parent) {
            return Ok(());
        }
        self.parent = None;
        let opened = match open_plain(self.root.as_fd(), parent) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                let mut so_far: Vec<u8> = Vec::new();
                for name in parent.split(|byte| *byte == b'/') {
                    if !so_far.is_empty() {
                        so_far.push(b'/');
                    }
                    so_far.extend_from_slice(name);
                    self.imply(&so_far)?;
                }
                open_plain(self.root.as_fd(), parent)?
            }
            outcome => outcome?,
        };
        self.parent = Some((parent.to_vec(), opened));
        Ok(())
    }

    /// Makes a folder on the way as it is in the files below, if it is not there.
    fn imply(&mut self, path: &[u8]) -> io::Result<()> {
        let (parent, name) = split(path);
        let folder = open_plain(self.root.as_fd(), parent)?;
        match make_folder(folder.as_fd(), name)? {
            MadeFolder::New => {}
            MadeFolder::WasThere => return Ok(()),
        }
        let below = match &self.into {
            Into::Layer(tree) => tree.facts_of(&String::from_utf8_lossy(path)).ok(),
            Into::Folder => None,
        };
        let below =
            below.filter(|facts| FileType::from_raw_mode(facts.st_mode) == FileType::Directory);
        if let Some(below) = below {
            let facts = Facts {
                uid: below.st_uid,
                gid: below.st_gid,
                mode: below.st_mode & 0o7777,
                time: (below.st_mtime, below.st_mtime_nsec as _),
            };
            set_owner_and_mode(folder.as_fd(), name, facts)?;
            self.times.push((path.to_vec(), facts.time));
        }
        self.implied.insert(path.to_vec());
        Ok(())
    }

    fn current(&self) -> BorrowedFd<'_> {
        let (_, folder) = self.parent.as_ref().expect("`enter` was called");
        folder.as_fd()
    }

    fn folder(&mut self, path: &[u8], facts: Facts, from: Option<&Entry<'_>>) -> io::Result<()> {
        if path.is_empty() || !self.made.insert(path.to_vec()) {
            return Ok(());
        }
        let (parent, name) = split(path);
        self.enter(parent)?;
        let made = make_folder(self.current(), name)?;
        if matches!(made, MadeFolder::WasThere) && !self.implied.remove(path) {
            return Ok(());
        }
        set_owner_and_mode(self.current(), name, facts)?;
        if let Some(entry) = from {
            let source = open_folder(entry.folder, entry.name)?;
            let attributes = xattrs(source.as_fd())?;
            if !attributes.is_empty() {
                let made = open_folder(self.current(), name)?;
                set_xattrs(made.as_fd(), &attributes)?;
            }
        }
        self.times.push((path.to_vec(), facts.time));
        Ok(())
    }

    /// Moves a folder with everything in it; `false` where there is something already.
    fn move_folder(&mut self, entry: &Entry<'_>, path: &[u8]) -> io::Result<bool> {
        let (parent, name) = split(path);
        self.enter(parent)?;
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(entry.folder, entry.name, self.current(), name, flags) {
            Ok(()) => {
                self.made.insert(path.to_vec());
                Ok(true)
            }
            Err(Errno::EXIST | Errno::XDEV | Errno::INVAL | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Anything but a folder.
    fn entry(
        &mut self,
        entry: &Entry<'_>,
        path: &[u8],
        facts: Facts,
        take: bool,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(entry.facts.st_mode);
        // No layer has sockets.
        if matches!(kind, FileType::Socket | FileType::Unknown) {
            return Ok(());
        }
        let (parent, name) = split(path);
        self.enter(parent)?;
        if let Ok(there) = rustix::fs::statat(self.current(), name, AtFlags::SYMLINK_NOFOLLOW) {
            match FileType::from_raw_mode(there.st_mode) {
                FileType::Directory => remove_tree(self.current(), name)?,
                _ => rustix::fs::unlinkat(self.current(), name, AtFlags::empty())?,
            }
        }
        if take && super::select::may_move(entry.facts) {
            match rustix::fs::renameat(entry.folder, entry.name, self.current(), name) {
                Ok(()) => return set_moved(self.current(), name, entry, facts),
                Err(Errno::XDEV) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match kind {
            FileType::RegularFile => return self.copy_file(entry, name, facts),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(entry.folder, entry.name, Vec::new())?;
                rustix::fs::symlinkat(&target, self.current(), name)?;
                chown(self.current(), name, facts)?;
            }
            _ => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(self.current(), name, kind, mode, entry.facts.st_rdev)?;
                set_owner_and_mode(self.current(), name, facts)?;
            }
        }
        let times = at(facts.time);
        rustix::fs::utimensat(self.current(), name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn copy_file(&mut self, entry: &Entry<'_>, name: &OsStr, facts: Facts) -> io::Result<()> {
        let mut from = open_file(entry)?;
        let made = rustix::fs::openat(
            self.current(),
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(facts.mode & 0o777),
        )?;
        let mut to = File::from(made);
        let size = u64::try_from(entry.facts.st_size).unwrap_or(0);
        if size > self.buffer.len() as u64 {
            io::copy(&mut from, &mut to)?;
        } else if size > 0 {
            // Three system calls less than `io::copy`.
            let count = read_full(&mut from, &mut self.buffer)?;
            to.write_all(&self.buffer[..count])?;
        }
        let made = rustix::fs::fstat(&to)?;
        let has_owner = (made.st_uid, made.st_gid) == (facts.uid, facts.gid);
        // The owner first: chown takes setuid and capabilities away.
        if !has_owner {
            let (uid, gid) = (Uid::from_raw(facts.uid), Gid::from_raw(facts.gid));
            rustix::fs::fchown(&to, Some(uid), Some(gid))?;
        }
        if !has_owner || made.st_mode & 0o7777 != facts.mode {
            rustix::fs::fchmod(&to, Mode::from_raw_mode(facts.mode))?;
        }
        set_xattrs(to.as_fd(), &xattrs(from.as_fd())?)?;
        rustix::fs::futimens(&to, &at(facts.time))?;
        Ok(())
    }

    fn finish(&self) -> io::Result<()> {
        for (path, time) in &self.times {
            let (parent, name) = split(path);
            let set = || {
                let folder = open_plain(self.root.as_fd(), parent)?;
                rustix::fs::utimensat(&folder, name, &at(*time), AtFlags::SYMLINK_NOFOLLOW)
            };
            match set() {
                // Something else was put there later.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(from: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// A folder below, reached without a link: what is filled is ours, but links in it are strangers'.
fn open_plain(root: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    crate::archive::tree::retry(|| {
        rustix::fs::openat2(
            root,
            OsStr::from_bytes(path),
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )
    })
}

fn open_folder(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(
        folder,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

enum MadeFolder {
    New,
    WasThere,
}

/// Makes a folder, in the place of anything that is none.
fn make_folder(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<MadeFolder> {
    let mode = Mode::from_raw_mode(0o755);
    match rustix::fs::mkdirat(parent, name, mode) {
        Ok(()) => return Ok(MadeFolder::New),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let facts = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(facts.st_mode) == FileType::Directory {
        return Ok(MadeFolder::WasThere);
    }
    rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
    rustix::fs::mkdirat(parent, name, mode)?;
    Ok(MadeFolder::New)
}

fn chown(folder: BorrowedFd<'_>, name: &OsStr, facts: Facts) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(facts.uid), Gid::from_raw(facts.gid));
    Ok(rustix::fs::chownat(
        folder,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Of something that is no link.
fn set_owner_and_mode(folder: BorrowedFd<'_>, name: &OsStr, facts: Facts) -> io::Result<()> {
    chown(folder, name, facts)?;
    let mode = Mode::from_raw_mode(facts.mode);
    Ok(rustix::fs::chmodat(folder, name, mode, AtFlags::empty())?)
}

/// Gives something that was moved the facts that it does not have.
fn set_moved(
    folder: BorrowedFd<'_>,
    name: &OsStr,
    entry: &Entry<'_>,
    facts: Facts,
) -> io::Result<()> {
    let was = entry.facts;
    let has_owner = (was.st_uid, was.st_gid) == (facts.uid, facts.gid);
    let is_link = FileType::from_raw_mode(was.st_mode) == FileType::Symlink;
    if !has_owner {
        chown(folder, name, facts)?;
    }
    if !is_link && (!has_owner || was.st_mode & 0o7777 != facts.mode) {
        let mode = Mode::from_raw_mode(facts.mode);
        rustix::fs::chmodat(folder, name, mode, AtFlags::empty())?;
    }
    if (was.st_mtime, was.st_mtime_nsec as i64) != facts.time {
        let times = at(facts.time);
        rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn set_xattrs(file: BorrowedFd<'_>, attributes: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    for (name, value) in attributes {
        match rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // Without its capabilities a program would behave differently; others may be missing where the file system
            // has none.
            Err(Errno::NOTSUP | Errno::PERM) if name != b"security.capability" => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
