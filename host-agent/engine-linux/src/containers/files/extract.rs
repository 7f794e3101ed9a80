//! Unpacks a stranger's tar into a folder of a container that may run and change that folder meanwhile.
//!
//! - A path of the archive is taken apart by name, so it cannot climb out of the folder; a link on its way is followed
//!   inside of the container, as Docker does.
//! - What is made is made exclusively and looked at through its own descriptor: owner, mode and attributes can only hit
//!   what was made, not what the container put in its place.
//! - Rules about what replaces what: moby `archive.Unpack`.

use super::failed;
use super::view::Root;
use crate::archive::copy::{CopyError, copy, copy_parts};
use crate::archive::decode::read_decoded;
use crate::archive::tar::{TarEntry, TarLimits, TarReader};
use crate::archive::tree::{descriptor_path, travels};
use crate::layers::{normalise, remove_tree};
use engine::containers::files::FileError;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use tar::EntryType;

/// How often something is made again that the container put another thing in the place of.
const ATTEMPTS: usize = 16;

pub(super) struct Extractor<'a> {
    root: &'a Root,
    /// Absolute in the container, without links.
    folder: Vec<u8>,
    keep_kinds: bool,
    owner: Option<(u32, u32)>,
    /// Bytes that files may still have.
    left: u64,
    largest: Option<u64>,
    /// The folder used last: entries come folder by folder.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Set at the end, because making files in a folder changes its time.
    folder_times: Vec<(Vec<u8>, (i64, u32))>,
}

impl Extractor<'_> {
    pub(super) fn new<'a>(
        root: &'a Root,
        folder: &str,
        keep_kinds: bool,
        owner: Option<(u32, u32)>,
        largest: Option<u64>,
    ) -> Extractor<'a> {
        Extractor {
            root,
            folder: folder.trim_end_matches('/').as_bytes().to_vec(),
            keep_kinds,
            owner,
            left: largest.unwrap_or(u64::MAX),
            largest,
            parent: None,
            folder_times: Vec::new(),
        }
    }

    /// Reads the archive to its end.
    pub(super) fn extract(mut self, content: impl BufRead + Send) -> Result<(), FileError> {
        read_decoded(content, |reader| {
            let mut archive = TarReader::new(reader, TarLimits::default());
            while let Some(entry) = archive.next_entry().map_err(FileError::Archive)? {
                self.apply(&entry, &mut archive)?;
            }
            // What follows the end mark is nothing, but must be taken: the sender would see a broken connection.
            io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(FileError::Archive)?;
            self.set_folder_times();
            Ok(())
        })
        .map_err(FileError::Archive)?
    }

    /// The absolute path in the container.
    fn place(&self, path: &[u8]) -> Vec<u8> {
        [self.folder.as_slice(), b"/", path].concat()
    }

    fn apply(&mut self, entry: &TarEntry, content: &mut dyn BufRead) -> Result<(), FileError> {
        let outside = || FileError::Invalid {
            why: format!(
                "{:?} is outside of the folder it is unpacked into",
                entry.display()
            ),
        };
        let path = normalise(&entry.path).ok_or_else(outside)?;
        // The folder itself stays as it is.
        if path.is_empty() {
            return Ok(());
        }
        let kind = match entry.kind {
            // Old archives mark folders by a slash alone.
            EntryType::Regular | EntryType::Continuous if entry.path.ends_with(b"/") => {
                EntryType::Directory
            }
            kind => kind,
        };
        // Whoever copies the file on may fill its holes.
        let size = entry.sparse.as_ref().map_or(entry.size, |map| map.size);
        self.left = match self.left.checked_sub(size) {
            Some(left) => left,
            None => {
                return Err(FileError::Invalid {
                    why: format!(
                        "the archive's files have more than the {} bytes that there is room for",
                        self.largest.unwrap_or_default()
                    ),
                });
            }
        };
        let (parent, name) = split(&path);
        if name.len() > 255 {
            return Err(FileError::Invalid {
                why: format!("{:?}: file name too long", entry.display()),
            });
        }
        self.enter(parent, entry)?;
        let os_name = OsStr::from_bytes(name);
        for _ in 0..ATTEMPTS {
            self.make_room(entry, kind, os_name)?;
            let made = match kind {
                EntryType::Directory => self.make_folder(entry, os_name, &path),
                EntryType::Regular | EntryType::Continuous => self.make_file(os_name),
                EntryType::Symlink => self.make_symlink(entry, os_name),
                EntryType::Link => self.make_hard_link(entry, os_name)?,
                EntryType::Char => self.make_node(entry, os_name, FileType::CharacterDevice),
                EntryType::Block => self.make_node(entry, os_name, FileType::BlockDevice),
                EntryType::Fifo => self.make_node(entry, os_name, FileType::Fifo),
                other => {
                    return Err(FileError::Invalid {
                        why: format!(
                            "{:?}: entries of type {:?} are not supported",
                            entry.display(),
                            char::from(other.as_byte())
                        ),
                    });
                }
            };
            match made {
                Ok(Some(made)) => return self.complete(entry, kind, &made, content),
                Ok(None) => return Ok(()),
                // The container was quicker.
                Err(Errno::EXIST | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(failed(format!("make {}", entry.display()), error)),
            }
        }
        Err(failed(
            format!("make {}", entry.display()),
            io::Error::other("something else is put in its place again and again"),
        ))
    }

    /// Makes `parent` the current folder, making what is missing of it.
    fn enter(&mut self, parent: &[u8], entry: &TarEntry) -> Result<(), FileError> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == parent) {
            return Ok(());
        }
        self.parent = None;
        let step = || format!("open the folder of {}", entry.display());
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let folder = match self.root.open(self.place(parent), flags) {
            Err(Errno::NOENT) => self.make_parents(parent),
            outcome => outcome,
        };
        let folder = match folder {
            Err(Errno::NOTDIR | Errno::EXIST) => Err(FileError::Invalid {
                why: format!("{:?}: not a directory", entry.display()),
            }),
            outcome => outcome.map_err(|error| failed(step(), error)),
        }?;
        self.parent = Some((parent.to_vec(), folder));
        Ok(())
    }

    /// Missing folders of an archive belong to root, or to whom everything belongs.
    fn make_parents(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let mut current = self.root.open(self.place(b""), flags)?;
        let mut so_far = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            if !so_far.is_empty() {
                so_far.push(b'/');
            }
            so_far.extend_from_slice(part);
            current = match self.root.open(self.place(&so_far), flags) {
                Err(Errno::NOENT) => {
                    let name = OsStr::from_bytes(part);
                    match rustix::fs::mkdirat(&current, name, Mode::from_raw_mode(0o755)) {
                        Ok(()) => {}
                        // A link to nowhere stays one, and the next line says so.
                        Err(Errno::EXIST) => {}
                        Err(error) => return Err(error),
                    }
                    let opened = rustix::fs::openat(
                        &current,
                        name,
                        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                        Mode::empty(),
                    )?;
                    if let Some((uid, gid)) = self.owner {
                        chown(opened.as_fd(), uid, gid)?;
                    }
                    opened
                }
                outcome => outcome?,
            };
        }
        Ok(current)
    }

    fn folder_fd(&self) -> BorrowedFd<'_> {
        let (_, folder) = self.parent.as_ref().expect("`enter` was called");
        folder.as_fd()
    }

    /// Removes what is in the way of an entry, where the rules let it.
    fn make_room(
        &mut self,
        entry: &TarEntry,
        kind: EntryType,
        name: &OsStr,
    ) -> Result<(), FileError> {
        let step = || format!("replace {}", entry.display());
        let facts = match rustix::fs::statat(self.folder_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(facts) => facts,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed(step(), error)),
        };
        let is_folder = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
        let to_folder = kind == EntryType::Directory;
        if is_folder && to_folder {
            return Ok(());
        }
        let folder = String::from_utf8_lossy(&self.folder).into_owned();
        if self.keep_kinds && is_folder {
            return Err(FileError::Invalid {
                why: format!(
                    "cannot overwrite directory {:?} with non-directory {folder:?}",
                    format!("{folder}/{}", entry.display().trim_end_matches('/')),
                ),
            });
        }
        if self.keep_kinds && to_folder {
            return Err(FileError::Invalid {
                why: format!(
                    "cannot overwrite non-directory {:?} with directory {folder:?}",
                    format!("{folder}/{}", entry.display().trim_end_matches('/')),
                ),
            });
        }
        let outcome = match is_folder {
            true => remove_tree(self.folder_fd(), name),
            false => rustix::fs::unlinkat(self.folder_fd(), name, AtFlags::empty())
                .map_err(io::Error::from),
        };
        match outcome {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(step(), error)),
            _ => Ok(()),
        }
    }

    // Each makes one thing and opens it; `None` is for what has nothing to be set. An answer that it is there already is
    // the container's doing, since room was made.

    fn make_folder(
        &mut self,
        entry: &TarEntry,
        name: &OsStr,
        path: &[u8],
    ) -> rustix::io::Result<Option<OwnedFd>> {
        match rustix::fs::mkdirat(self.folder_fd(), name, Mode::from_raw_mode(0o700)) {
            // Folders are joined.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.folder_fd(), name, flags, Mode::empty())?;
        self.folder_times.push((path.to_vec(), entry.mtime));
        Ok(Some(opened))
    }

    fn make_file(&self, name: &OsStr) -> rustix::io::Result<Option<OwnedFd>> {
        rustix::fs::openat(
            self.folder_fd(),
            name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o600),
        )
        .map(Some)
    }

    fn make_symlink(&self, entry: &TarEntry, name: &OsStr) -> rustix::io::Result<Option<OwnedFd>> {
        // Where it leads is the container's matter: only the container follows it freely.
        rustix::fs::symlinkat(OsStr::from_bytes(&entry.link), self.folder_fd(), name)?;
        self.look_at(name, FileType::Symlink)
    }

    fn make_node(
        &self,
        entry: &TarEntry,
        name: &OsStr,
        kind: FileType,
    ) -> rustix::io::Result<Option<OwnedFd>> {
        let device = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(entry.device.0, entry.device.1),
        };
        rustix::fs::mknodat(
            self.folder_fd(),
            name,
            kind,
            Mode::from_raw_mode(0o600),
            device,
        )?;
        self.look_at(name, kind)
    }

    /// A hard link leads to another entry: its path is one in the folder that is unpacked into.
    fn make_hard_link(
        &self,
        entry: &TarEntry,
        name: &OsStr,
    ) -> Result<rustix::io::Result<Option<OwnedFd>>, FileError> {
        let missing = || FileError::Invalid {
            why: format!(
                "invalid hardlink {:?} -> {:?}",
                entry.display(),
                String::from_utf8_lossy(&entry.link)
            ),
        };
        let target = normalise(&entry.link).ok_or_else(missing)?;
        let (parent, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(missing());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let folder = match self.root.open(self.place(parent), flags) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(missing()),
            outcome => outcome.map_err(|error| {
                failed(format!("open the target of {}", entry.display()), error)
            })?,
        };
        let target_name = OsStr::from_bytes(target_name);
        let linked = rustix::fs::linkat(
            &folder,
            target_name,
            self.folder_fd(),
            name,
            AtFlags::empty(),
        );
        match linked {
            Err(Errno::NOENT) => Err(missing()),
            // Its owner and mode are those of the file it is a name of.
            outcome => Ok(outcome.map(|()| None)),
        }
    }

    /// A descriptor of what was just made, if it is still that.
    fn look_at(&self, name: &OsStr, kind: FileType) -> rustix::io::Result<Option<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(self.folder_fd(), name, flags, Mode::empty())?;
        let facts = rustix::fs::fstat(&opened)?;
        match FileType::from_raw_mode(facts.st_mode) == kind {
            true => Ok(Some(opened)),
            false => Err(Errno::NOENT),
        }
    }

    /// Content, owner, mode, attributes and time of what was made.
    fn complete(
        &mut self,
        entry: &TarEntry,
        kind: EntryType,
        made: &OwnedFd,
        content: &mut dyn BufRead,
    ) -> Result<(), FileError> {
        let step = |what: &str| format!("set the {what} of {}", entry.display());
        if matches!(kind, EntryType::Regular | EntryType::Continuous) {
            write_content(entry, made, content)?;
        }
        let (uid, gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        // The owner first: chown takes setuid and capabilities away.
        chown(made.as_fd(), uid, gid).map_err(|error| failed(step("owner"), error))?;
        if kind == EntryType::Symlink {
            return set_time(made.as_fd(), entry.mtime)
                .map_err(|error| failed(step("time"), error));
        }
        let path = descriptor_path(made.as_fd());
        rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(entry.mode))
            .map_err(|error| failed(step("mode"), error))?;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| travels(name)) {
            match rustix::fs::setxattr(path.as_str(), name.as_slice(), value, XattrFlags::empty()) {
                // Not every file system has them (moby `archive.createTarFile` goes on, too).
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(error) => return Err(failed(step("attributes"), error)),
            }
        }
        set_time(made.as_fd(), entry.mtime).map_err(|error| failed(step("time"), error))
    }

    /// A folder that is gone or is something else by now needs no time.
    fn set_folder_times(&mut self) {
        for (path, mtime) in std::mem::take(&mut self.folder_times) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            if let Ok(folder) = self.root.open(self.place(&path), flags) {
                let _ = set_time(folder.as_fd(), mtime);
            }
        }
    }
}

fn write_content(
    entry: &TarEntry,
    to: &OwnedFd,
    content: &mut dyn BufRead,
) -> Result<(), FileError> {
    let step = || format!("write {}", entry.display());
    let to = to.try_clone().map_err(|error| failed(step(), error))?;
    let mut file = File::from(to);
    let copied = match &entry.sparse {
        None => copy(content, u64::MAX, &mut file),
        Some(map) => copy_parts(content, &mut file, map),
    };
    copied.map_err(|error| match error {
        CopyError::Read(error) => FileError::Archive(error),
        CopyError::Write(error) => failed(step(), error),
    })
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn chown(file: BorrowedFd<'_>, uid: u32, gid: u32) -> rustix::io::Result<()> {
    rustix::fs::chownat(
        file,
        "",
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
    )
}

fn set_time(file: BorrowedFd<'_>, mtime: (i64, u32)) -> rustix::io::Result<()> {
    let at = Timespec {
        tv_sec: mtime.0,
        tv_nsec: i64::from(mtime.1),
    };
    let times = Timestamps {
        last_access: at,
        last_modification: at,
    };
    rustix::fs::utimensat(
        file,
        "",
        &times,
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
    )
}
