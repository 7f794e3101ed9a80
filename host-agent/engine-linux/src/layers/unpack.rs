//! Unpacks one layer's tar into a folder, as overlayfs wants it. The tar is a stranger's.
//!
//! - Nothing is ever opened by a path from the archive alone: folders are opened with `openat2(RESOLVE_IN_ROOT |
//!   RESOLVE_NO_MAGICLINKS)` relative to the layer's root, and the last name is used relative to that folder, never
//!   followed. So `..`, absolute names, and symbolic links put there by earlier entries all end inside the root.
//! - `.wh.NAME` becomes overlayfs's whiteout (character device 0:0), `.wh..wh..opq` its opaque mark. Both hold for what is
//!   *below* this layer, in whatever order they come (OCI image spec, `layer.md`, "Whiteouts").

mod metadata;

use super::lookup::{
    entry_path, file_type, is_whiteout, is_whiteout_stat, normalise, open_folder, split, stat,
    times,
};
use super::remove::remove_tree;
use crate::archive::copy::{CopyError, copy, copy_hashed, copy_parts};
use crate::archive::tar::{TarEntry, TarLimits, TarReader};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use tar::EntryType;

/// Bounds on one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    pub tar: TarLimits,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes that are free on the disk: better to stop there than to fill it.
    pub free: u64,
    /// Bytes of one extended attribute's value; the kernel's XATTR_SIZE_MAX.
    pub xattr: usize,
}

impl Default for UnpackLimits {
    fn default() -> Self {
        UnpackLimits {
            tar: TarLimits {
                entries: 2_000_000,
                ..TarLimits::default()
            },
            bytes: 128 << 30,
            free: u64::MAX,
            xattr: 64 * 1024,
        }
    }
}

/// What an archive is unpacked as.
#[derive(Clone, Copy)]
pub enum UnpackAs<'a> {
    /// A layer, with whiteouts.
    Layer,
    /// Files as they are, all of them root's. Some of their contents may be here already.
    Files(Option<&'a dyn Contents>),
}

/// Contents of files that came earlier, by their sha256.
pub trait Contents {
    /// Makes the file `name` of an entry without a content and answers its size; `None`: the content is not here.
    fn place(
        &self,
        digest: &str,
        entry: &TarEntry,
        folder: BorrowedFd<'_>,
        name: &OsStr,
    ) -> io::Result<Option<u64>>;

    /// Told of a file that is complete: its digest where that is known, what it was in the archive, and what it is on the
    /// disk.
    fn keep(
        &self,
        digest: Option<&[u8; 32]>,
        entry: &TarEntry,
        facts: &Stat,
        folder: BorrowedFd<'_>,
        name: &OsStr,
    );
}

/// What was unpacked.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Bytes of all regular files.
    pub size: u64,
    /// Folders that had to be made although the archive has no entry for them, parents first: their owner and mode are
    /// those of the layers below, which we may not have yet.
    pub implied: Vec<Vec<u8>>,
    /// Hard links to files that this layer does not have: those below may ([`super::links`]).
    pub links_below: Vec<LinkBelow>,
}

/// A hard link to a file of the layers below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkBelow {
    /// Normalised.
    pub path: Vec<u8>,
    pub target: Vec<u8>,
    /// What the archive says of it.
    pub entry: TarEntry,
}

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("cannot read the layer's archive")]
    Archive(#[source] io::Error),
    #[error("{path:?} leads out of the layer")]
    Outside { path: String },
    #[error("{path:?}: {why}")]
    Invalid { path: String, why: String },
    #[error("the layer's files have more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error(
        "no space left on device: the layer's files have more than the {free} bytes that are free"
    )]
    NoSpace { free: u64 },
    #[error("the content of {path:?} is not here any more")]
    ContentGone { path: String },
    #[error("cannot {step} {path:?}")]
    Entry {
        step: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
}

impl UnpackError {
    /// Whether the layer's content is wrong, and not this host's disk.
    pub fn is_the_layers_fault(&self) -> bool {
        match self {
            UnpackError::Archive(_)
            | UnpackError::Outside { .. }
            | UnpackError::Invalid { .. }
            | UnpackError::ContentGone { .. }
            | UnpackError::TooLarge { .. } => true,
            UnpackError::NoSpace { .. } => false,
            UnpackError::Entry { source, .. } => matches!(
                source.raw_os_error().map(Errno::from_raw_os_error),
                Some(
                    Errno::EXIST
                        | Errno::NOTDIR
                        | Errno::ISDIR
                        | Errno::LOOP
                        | Errno::NAMETOOLONG
                        | Errno::INVAL
                        | Errno::XDEV
                        | Errno::NOENT
                        | Errno::MLINK
                        | Errno::RANGE
                        | Errno::TOOBIG
                )
            ),
        }
    }
}

/// Unpacks a layer's plain tar into the empty folder `root`. Reads the archive to its end mark; what follows is the caller's.
pub fn unpack(
    input: &mut dyn BufRead,
    root: &OwnedFd,
    limits: &UnpackLimits,
) -> Result<Unpacked, UnpackError> {
    unpack_as(UnpackAs::Layer, input, root, limits)
}

/// The same for other archives.
pub fn unpack_as(
    kind: UnpackAs<'_>,
    input: &mut dyn BufRead,
    root: &OwnedFd,
    limits: &UnpackLimits,
) -> Result<Unpacked, UnpackError> {
    let mut reader = TarReader::new(input, limits.tar);
    let mut unpacker = Unpacker {
        kind,
        root: root.as_fd(),
        limits,
        parent: None,
        implied: BTreeSet::new(),
        folder_times: Vec::new(),
        links_below: Vec::new(),
        size: 0,
        content: 0,
    };
    while let Some(entry) = reader.next_entry().map_err(UnpackError::Archive)? {
        unpacker.apply(&entry, &mut reader)?;
    }
    unpacker.finish()
}

struct Unpacker<'a> {
    kind: UnpackAs<'a>,
    root: BorrowedFd<'a>,
    limits: &'a UnpackLimits,
    /// The folder used last: entries come folder by folder.
    parent: Option<(Vec<u8>, OwnedFd)>,
    implied: BTreeSet<Vec<u8>>,
    /// Set at the end, because making files in a folder changes its time.
    folder_times: Vec<(Vec<u8>, (i64, u32))>,
    links_below: Vec<LinkBelow>,
    /// Bytes of all files, and without their holes.
    size: u64,
    content: u64,
}

pub(super) const OPAQUE: &str = "trusted.overlay.opaque";

impl Unpacker<'_> {
    fn apply(
        &mut self,
        entry: &TarEntry,
        content: &mut TarReader<&mut dyn BufRead>,
    ) -> Result<(), UnpackError> {
        let outside = || UnpackError::Outside {
            path: entry.display(),
        };
        let path = normalise(&entry.path).ok_or_else(outside)?;
        if path.is_empty() {
            return self.apply_root(entry);
        }
        let (parent_path, name) = split(&path);
        if name.len() > 255 {
            return Err(self.invalid(entry, "the name is longer than 255 bytes"));
        }
        if let UnpackAs::Layer = self.kind
            && let Some(hidden) = name.strip_prefix(b".wh.")
        {
            return self.whiteout(entry, parent_path, hidden);
        }
        self.enter(parent_path, entry)?;
        // Old archives mark folders by a slash alone.
        let kind = match entry.kind {
            EntryType::Regular | EntryType::Continuous if entry.path.ends_with(b"/") => {
                EntryType::Directory
            }
            other => other,
        };
        if kind == EntryType::Directory {
            self.folder(entry, &path, name)?;
            self.implied.remove(&path);
            return Ok(());
        }
        if matches!(kind, EntryType::Regular | EntryType::Continuous) {
            return self.file(entry, &path, name, content);
        }
        self.make_room(entry, &path, name)?;
        match kind {
            EntryType::Symlink => {
                if entry.link.is_empty() {
                    return Err(self.invalid(entry, "a symbolic link to nowhere"));
                }
                // Where it leads matters to the container, not to us.
                let target = OsStr::from_bytes(&entry.link);
                rustix::fs::symlinkat(target, self.folder_fd(), OsStr::from_bytes(name))
                    .map_err(|error| failed("make the link", entry, error))?;
                self.set_metadata(entry, name)?;
                self.set_time(entry, name)
            }
            EntryType::Link => self.hard_link(entry, &path, name),
            EntryType::Char => self.node(entry, name, FileType::CharacterDevice),
            EntryType::Block => self.node(entry, name, FileType::BlockDevice),
            EntryType::Fifo => self.node(entry, name, FileType::Fifo),
            other => Err(self.invalid(
                entry,
                &format!(
                    "entries of type {:?} are not supported",
                    other.as_byte() as char
                ),
            )),
        }
    }

    fn invalid(&self, entry: &TarEntry, why: &str) -> UnpackError {
        UnpackError::Invalid {
            path: entry.display(),
            why: why.to_owned(),
        }
    }

    fn apply_root(&mut self, entry: &TarEntry) -> Result<(), UnpackError> {
        if entry.kind != EntryType::Directory
            && !(entry.kind == EntryType::Regular && entry.path.ends_with(b"/"))
        {
            return Err(self.invalid(entry, "the layer's root can only be a folder"));
        }
        self.enter(b"", entry)?;
        self.set_metadata(entry, b".")?;
        self.folder_times.push((Vec::new(), entry.mtime));
        Ok(())
    }

    /// Makes `parent` the current folder, making what is missing of it.
    fn enter(&mut self, parent: &[u8], entry: &TarEntry) -> Result<(), UnpackError> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == parent) {
            return Ok(());
        }
        self.parent = None;
        let folder = match open_folder(self.root, parent) {
            Ok(folder) => folder,
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_folders(parent, entry)?,
            Err(error) => return Err(failed("open the folder of", entry, error)),
        };
        self.parent = Some((parent.to_vec(), folder));
        Ok(())
    }

    fn make_folders(&mut self, path: &[u8], entry: &TarEntry) -> Result<OwnedFd, UnpackError> {
        let mut current = open_folder(self.root, b"")
            .map_err(|error| failed("open the root for", entry, error))?;
        let mut so_far: Vec<u8> = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            if !so_far.is_empty() {
                so_far.push(b'/');
            }
            so_far.extend_from_slice(part);
            let part = OsStr::from_bytes(part);
            let opened = match open_folder(self.root, &so_far) {
                Err(Errno::NOTDIR) if is_whiteout(current.as_fd(), part) => {
                    rustix::fs::unlinkat(&current, part, AtFlags::empty())
                        .map_err(|error| failed("make room for", entry, error))?;
                    self.make_folder(current.as_fd(), part, &so_far, entry)?;
                    set_opaque(current.as_fd(), part)
                        .map_err(|error| failed("mark opaque the folder of", entry, error))?;
                    open_folder(self.root, &so_far)
                }
                Err(Errno::NOENT) => {
                    self.make_folder(current.as_fd(), part, &so_far, entry)?;
                    open_folder(self.root, &so_far)
                }
                other => other,
            };
            current = opened.map_err(|error| failed("open the folder of", entry, error))?;
        }
        Ok(current)
    }

    fn make_folder(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &[u8],
        entry: &TarEntry,
    ) -> Result<(), UnpackError> {
        // EEXIST is a symbolic link to nowhere in this layer: what it means depends on the layers below.
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
            .map_err(|error| failed("make the folder of", entry, error))?;
        self.implied.insert(path.to_vec());
        Ok(())
    }

    fn folder_fd(&self) -> BorrowedFd<'_> {
        let (_, folder) = self.parent.as_ref().expect("`enter` was called");
        folder.as_fd()
    }

    fn folder(&mut self, entry: &TarEntry, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let os_name = OsStr::from_bytes(name);
        let mut was_hidden = false;
        let is_there = match stat(self.folder_fd(), os_name) {
            Some(facts) if file_type(&facts) == FileType::Directory => true,
            Some(facts) => {
                was_hidden = is_whiteout_stat(&facts);
                self.make_room(entry, path, name)?;
                false
            }
            None => false,
        };
        if !is_there {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::mkdirat(self.folder_fd(), os_name, mode)
                .map_err(|error| failed("make the folder", entry, error))?;
        }
        if was_hidden {
            set_opaque(self.folder_fd(), os_name)
                .map_err(|error| failed("mark opaque", entry, error))?;
        }
        self.set_metadata(entry, name)?;
        self.folder_times.push((path.to_vec(), entry.mtime));
        Ok(())
    }

    /// Removes what an earlier entry of the same layer put in this place.
    fn make_room(&mut self, entry: &TarEntry, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        self.forget_link_below(path);
        let name = OsStr::from_bytes(name);
        let Some(facts) = stat(self.folder_fd(), name) else {
            return Ok(());
        };
        let outcome = if file_type(&facts) == FileType::Directory {
            remove_tree(self.folder_fd(), name)
        } else {
            rustix::fs::unlinkat(self.folder_fd(), name, AtFlags::empty()).map_err(io::Error::from)
        };
        outcome.map_err(|source| UnpackError::Entry {
            step: "replace",
            path: entry.display(),
            source,
        })?;
        let inside = [path, b"/"].concat();
        self.folder_times
            .retain(|(folder, _)| folder != path && !folder.starts_with(&inside));
        self.implied
            .retain(|folder| folder != path && !folder.starts_with(&inside));
        Ok(())
    }

    fn file(
        &mut self,
        entry: &TarEntry,
        path: &[u8],
        name: &[u8],
        content: &mut TarReader<&mut dyn BufRead>,
    ) -> Result<(), UnpackError> {
        let contents = match self.kind {
            UnpackAs::Files(contents) => contents,
            UnpackAs::Layer => None,
        };
        if let (Some(contents), Some(digest)) = (contents, &entry.content) {
            return self.known_file(contents, digest, entry, path, name);
        }
        let size = entry.sparse.as_ref().map_or(entry.size, |map| map.size);
        self.size = self.size.saturating_add(size);
        self.content = self.content.saturating_add(entry.size);
        if self.content > self.limits.free {
            return Err(UnpackError::NoSpace {
                free: self.limits.free,
            });
        }
        if self.size > self.limits.bytes {
            return Err(UnpackError::TooLarge {
                limit: self.limits.bytes,
            });
        }
        let mut file = self.create(entry, path, name)?;
        let mut hash = Sha256::new();
        let copied = match &entry.sparse {
            None if contents.is_some() => copy_hashed(content, &mut file, &mut hash),
            None => copy(content, u64::MAX, &mut file),
            Some(map) => copy_parts(content, &mut file, map),
        };
        copied.map_err(|error| match error {
            CopyError::Read(error) => UnpackError::Archive(error),
            CopyError::Write(source) => UnpackError::Entry {
                step: "write",
                path: entry.display(),
                source,
            },
        })?;
        // Looking is cheaper than setting what is right already, and mostly it is: root's file with the mode it was made
        // with. A folder's own group, a umask or an inherited access list are found out here, too.
        let facts = rustix::fs::fstat(&file).map_err(|error| failed("look at", entry, error))?;
        let has_owner = self.has_owner(&facts, entry);
        // The owner first: chown takes setuid and capabilities away.
        if !has_owner {
            rustix::fs::fchown(
                &file,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
            )
            .map_err(|error| failed("set the owner of", entry, error))?;
        }
        if !has_owner || facts.st_mode & 0o7777 != entry.mode {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode))
                .map_err(|error| failed("set the mode of", entry, error))?;
        }
        self.set_xattrs(entry, |name, value| {
            rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty())
        })?;
        rustix::fs::futimens(&file, &times(entry.mtime))
            .map_err(|error| failed("set the time of", entry, error))?;
        if let Some(contents) = contents {
            let digest: [u8; 32] = hash.finalize().into();
            // Of one with holes only the parts have come by.
            let digest = entry.sparse.is_none().then_some(&digest);
            let name = OsStr::from_bytes(name);
            contents.keep(digest, entry, &facts, self.folder_fd(), name);
        }
        Ok(())
    }

    /// A file whose content came earlier.
    fn known_file(
        &mut self,
        contents: &dyn Contents,
        digest: &str,
        entry: &TarEntry,
        path: &[u8],
        name: &[u8],
    ) -> Result<(), UnpackError> {
        self.forget_link_below(path);
        let place =
            |folder: BorrowedFd<'_>| contents.place(digest, entry, folder, OsStr::from_bytes(name));
        let placed = match place(self.folder_fd()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.make_room(entry, path, name)?;
                place(self.folder_fd())
            }
            placed => placed,
        };
        let size = placed
            .map_err(|source| UnpackError::Entry {
                step: "make",
                path: entry.display(),
                source,
            })?
            .ok_or_else(|| UnpackError::ContentGone {
                path: entry.display(),
            })?;
        self.size = self.size.saturating_add(size);
        if self.size > self.limits.bytes {
            return Err(UnpackError::TooLarge {
                limit: self.limits.bytes,
            });
        }
        Ok(())
    }

    /// Makes an empty file in the current folder. Nearly always it is the first of its name, so nobody looks before.
    fn create(&mut self, entry: &TarEntry, path: &[u8], name: &[u8]) -> Result<File, UnpackError> {
        let open = |folder: BorrowedFd<'_>| {
            rustix::fs::openat(
                folder,
                OsStr::from_bytes(name),
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                // The folder above is ours alone until the layer is complete.
                Mode::from_raw_mode(entry.mode),
            )
        };
        self.forget_link_below(path);
        let opened = match open(self.folder_fd()) {
            Err(Errno::EXIST) => {
                self.make_room(entry, path, name)?;
                open(self.folder_fd())
            }
            outcome => outcome,
        };
        opened
            .map(File::from)
            .map_err(|error| failed("make", entry, error))
    }

    /// What an earlier entry of this name would have linked is replaced by this one.
    fn forget_link_below(&mut self, path: &[u8]) {
        self.links_below.retain(|link| link.path != path);
    }

    fn hard_link(&mut self, entry: &TarEntry, path: &[u8], name: &[u8]) -> Result<(), UnpackError> {
        let target = normalise(&entry.link).ok_or_else(|| UnpackError::Outside {
            path: format!(
                "{} -> {}",
                entry.display(),
                String::from_utf8_lossy(&entry.link)
            ),
        })?;
        let (target_parent, target_name) = split(&target);
        if target_name.is_empty() {
            return Err(self.invalid(entry, "a hard link to the root"));
        }
        let target_name = OsStr::from_bytes(target_name);
        let linked = open_folder(self.root, target_parent).and_then(|folder| {
            if is_whiteout(folder.as_fd(), target_name) {
                // Hidden by this very layer.
                return Err(Errno::INVAL);
            }
            rustix::fs::linkat(
                &folder,
                target_name,
                self.folder_fd(),
                OsStr::from_bytes(name),
                AtFlags::empty(),
            )
        });
        match linked {
            Ok(()) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => {
                self.links_below.push(LinkBelow {
                    path: path.to_vec(),
                    target,
                    entry: entry.clone(),
                });
                return Ok(());
            }
            Err(Errno::INVAL) => {
                return Err(self.invalid(
                    entry,
                    &format!(
                        "a hard link to {:?}, which this layer removes",
                        String::from_utf8_lossy(&entry.link)
                    ),
                ));
            }
            Err(error) => return Err(failed("make the hard link", entry, error)),
        }
        self.set_link_metadata(self.folder_fd(), entry, OsStr::from_bytes(name))
    }

    fn node(&mut self, entry: &TarEntry, name: &[u8], kind: FileType) -> Result<(), UnpackError> {
        let device = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(entry.device.0, entry.device.1),
        };
        match rustix::fs::mknodat(
            self.folder_fd(),
            OsStr::from_bytes(name),
            kind,
            Mode::from_raw_mode(0o600),
            device,
        ) {
            // Nobody may make devices there, and containers have their own: left out, as Docker does.
            Err(Errno::PERM) if kind != FileType::Fifo && in_user_namespace() => {
                tracing::debug!(path = entry.display(), "device of a layer left out");
                return Ok(());
            }
            outcome => outcome.map_err(|error| failed("make the device", entry, error))?,
        }
        self.set_metadata(entry, name)?;
        self.set_time(entry, name)
    }

    fn whiteout(
        &mut self,
        entry: &TarEntry,
        parent: &[u8],
        hidden: &[u8],
    ) -> Result<(), UnpackError> {
        self.enter(parent, entry)?;
        if hidden == b".wh..opq" {
            return set_opaque(self.folder_fd(), OsStr::new("."))
                .map_err(|error| failed("mark opaque the folder of", entry, error));
        }
        if hidden.starts_with(b".wh.") {
            // aufs's own bookkeeping, which old images have; Docker skips it too.
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(self.invalid(entry, "a whiteout without a name"));
        }
        let name = OsStr::from_bytes(hidden);
        match stat(self.folder_fd(), name) {
            None => rustix::fs::mknodat(
                self.folder_fd(),
                name,
                FileType::CharacterDevice,
                Mode::empty(),
                0,
            )
            .map_err(|error| failed("make the whiteout", entry, error)),
            // The layer has its own: what is below is hidden by that, for a folder with the opaque mark.
            Some(facts) if file_type(&facts) == FileType::Directory => {
                set_opaque(self.folder_fd(), name)
                    .map_err(|error| failed("mark opaque", entry, error))
            }
            Some(_) => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        // Children before parents or after does not matter: setting a time changes no other folder's.
        let mut above: Option<(&[u8], OwnedFd)> = None;
        let folder_times = std::mem::take(&mut self.folder_times);
        for (path, mtime) in &folder_times {
            let (parent, name) = split(path);
            let name: &[u8] = if name.is_empty() { b"." } else { name };
            if above.as_ref().is_none_or(|(path, _)| *path != parent) {
                above = match open_folder(self.root, parent) {
                    Ok(folder) => Some((parent, folder)),
                    // Something else was put there later.
                    Err(Errno::NOENT | Errno::NOTDIR) => continue,
                    Err(error) => return Err(no_time(path, error)),
                };
            }
            let Some((_, folder)) = &above else { continue };
            let name = OsStr::from_bytes(name);
            match rustix::fs::utimensat(folder, name, &times(*mtime), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(no_time(path, error)),
            }
        }
        Ok(Unpacked {
            size: self.size,
            implied: self.implied.into_iter().collect(),
            links_below: self.links_below,
        })
    }
}

/// Gives a folder that this layer only implies the owner and mode it has in the layers below, the nearest first.
pub fn adopt_folder(root: &OwnedFd, path: &[u8], below: &[OwnedFd]) -> io::Result<()> {
    for layer in below {
        let Ok(original) = open_folder(layer.as_fd(), path) else {
            continue;
        };
        let facts = rustix::fs::fstat(&original)?;
        let folder = open_folder(root.as_fd(), path)?;
        rustix::fs::chownat(
            &folder,
            ".",
            Some(Uid::from_raw(facts.st_uid)),
            Some(Gid::from_raw(facts.st_gid)),
            AtFlags::empty(),
        )?;
        let mode = Mode::from_raw_mode(facts.st_mode & 0o7777);
        rustix::fs::chmodat(&folder, ".", mode, AtFlags::empty())?;
        return Ok(());
    }
    Ok(())
}

fn no_time(path: &[u8], error: Errno) -> UnpackError {
    UnpackError::Entry {
        step: "set the time of",
        path: String::from_utf8_lossy(path).into_owned(),
        source: error.into(),
    }
}

fn failed(step: &'static str, entry: &TarEntry, error: Errno) -> UnpackError {
    UnpackError::Entry {
        step,
        path: entry.display(),
        source: error.into(),
    }
}

fn set_opaque(folder: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<()> {
    rustix::fs::lsetxattr(
        entry_path(folder, name).as_slice(),
        OPAQUE,
        b"y",
        XattrFlags::empty(),
    )
}

/// Whether this process is in a user namespace other than the host's own, whose map is of all ids there are.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.is_empty() && !map.split_whitespace().eq(["0", "0", "4294967295"])
}
