//! What a container changed: its own layer held against those below, as a list and as an image layer.
//!
//! Overlayfs marks in the upper folder: a character device 0:0 hides a name, and `trusted.overlay.opaque` on a folder
//! hides what the folders below have in it (kernel documentation, `overlayfs.rst`). The layers below are looked up as
//! overlayfs does it, one after the other from the top down, without following any link.
//!
//! Docker keeps what the engine itself puts into a container in a layer of its own between image and container, so that
//! nobody sees it as a change. Here most of it is in a layer below the image (`PLACES`); what is in the container's own
//! layer is left out by name.

use crate::archive::tree::{Descend, Found, TreeWriter, retry, walk};
use engine::images::{Change, ChangeKind};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// What a container's start makes: places for mounts (moby `daemon/initlayer`). Folders end with a slash.
const OWN: [&[u8]; 13] = [
    b".dockerenv",
    b"dev/",
    b"dev/console",
    b"dev/mqueue/",
    b"dev/pts/",
    b"dev/shm/",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/mtab",
    b"etc/resolv.conf",
    b"proc/",
    b"sys/",
    b"etc/",
];

/// A container's layers, opened.
pub(super) struct Stack {
    pub(super) upper: OwnedFd,
    /// From the top down.
    pub(super) lower: Vec<OwnedFd>,
}

/// What the layers below have at a path.
enum Below {
    Nothing,
    Something,
    /// A folder, and in which of the layers below it goes on.
    Folder(Stat, Vec<usize>),
}

impl Stack {
    /// What is at `name` in a folder that the layers `within` have.
    fn below(&self, path: &[u8], within: &[usize]) -> io::Result<Below> {
        let mut folder: Option<(Stat, Vec<usize>)> = None;
        for &number in within {
            let opened = retry(|| {
                rustix::fs::openat2(
                    &self.lower[number],
                    OsStr::from_bytes(path),
                    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
                )
            });
            let opened = match opened {
                Ok(opened) => opened,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    // NO_SYMLINKS also refuses a link at the end, which is something here.
                    match link_at(&self.lower[number], path)? {
                        Some(_) if folder.is_none() => return Ok(Below::Something),
                        Some(_) => break,
                        None => continue,
                    }
                }
                Err(error) => return Err(error.into()),
            };
            let facts = rustix::fs::fstat(&opened)?;
            let is_folder = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
            match &mut folder {
                _ if is_whiteout(&facts) => break,
                None if !is_folder => return Ok(Below::Something),
                Some(_) if !is_folder => break,
                None => folder = Some((facts, vec![number])),
                Some((_, layers)) => layers.push(number),
            }
            if is_opaque(opened.as_fd())? {
                break;
            }
        }
        Ok(match folder {
            Some((facts, layers)) => Below::Folder(facts, layers),
            None => Below::Nothing,
        })
    }

    /// Calls `each` with everything in the container's own layer that the engine did not put there, what is below it,
    /// and whether the folder hides what the layers below have in it.
    fn visit(
        &self,
        each: &mut dyn FnMut(&Found<'_>, &Below, bool) -> io::Result<()>,
    ) -> io::Result<()> {
        // Folder -> the layers below that go on in it.
        let mut within: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        within.insert(Vec::new(), (0..self.lower.len()).collect());
        let own = self.own()?;
        walk(self.upper.as_fd(), &mut |found| {
            if own.contains(found.path) {
                return Ok(Descend::No);
            }
            let parent = parent(found.path);
            let below = match within.get(parent) {
                Some(layers) => self.below(found.path, layers)?,
                None => Below::Nothing,
            };
            let mut opaque = false;
            if found.kind() == FileType::Directory {
                opaque = is_opaque_at(found)?;
                let inside = match &below {
                    Below::Folder(_, layers) if !opaque => layers.clone(),
                    _ => Vec::new(),
                };
                within.insert(found.path.to_vec(), inside);
            }
            each(found, &below, opaque)?;
            Ok(Descend::Yes)
        })
    }

    /// Paths of the engine's own that nobody has made anything else of.
    fn own(&self) -> io::Result<BTreeSet<Vec<u8>>> {
        let mut own = BTreeSet::new();
        // What is in folders comes before the folders.
        let mut paths = OWN.to_vec();
        paths.sort_by_key(|path| std::cmp::Reverse(path.strip_suffix(b"/").unwrap_or(path).len()));
        for path in paths {
            let is_folder = path.ends_with(b"/");
            let path = path.strip_suffix(b"/").unwrap_or(path);
            let opened = retry(|| {
                rustix::fs::openat2(
                    &self.upper,
                    OsStr::from_bytes(path),
                    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
                )
            });
            let Ok(opened) = opened else { continue };
            let facts = rustix::fs::fstat(&opened)?;
            let kind = FileType::from_raw_mode(facts.st_mode);
            let is_ours = match kind {
                FileType::Directory if is_folder => {
                    self.is_untouched(path, &facts, &own)? && !is_opaque(opened.as_fd())?
                }
                FileType::RegularFile => !is_folder && facts.st_size == 0,
                _ => false,
            };
            if is_ours {
                own.insert(path.to_vec());
            }
        }
        Ok(own)
    }

    /// Whether a folder has only things of the engine's in it, and owner and mode it would have anyway: its time alone
    /// says that something was made in it, which was us.
    fn is_untouched(&self, path: &[u8], facts: &Stat, own: &BTreeSet<Vec<u8>>) -> io::Result<bool> {
        let all: Vec<usize> = (0..self.lower.len()).collect();
        let same = match self.below(path, &all)? {
            Below::Folder(below, _) => same_owner_and_mode(facts, &below),
            Below::Something => false,
            Below::Nothing => (facts.st_uid, facts.st_gid) == (0, 0),
        };
        if !same {
            return Ok(false);
        }
        let folder = crate::archive::tree::open_below(self.upper.as_fd(), path)?;
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && !own.contains(&[path, b"/", name].concat()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What `docker diff` shows, by path.
    pub(super) fn changes(&self) -> io::Result<Vec<Change>> {
        let mut changes: BTreeMap<Vec<u8>, ChangeKind> = BTreeMap::new();
        let mut opaque_folders = Vec::new();
        self.visit(&mut |found, below, opaque| {
            let kind = match below {
                _ if is_whiteout(found.facts) => match below {
                    // It hides what is not there, which nobody sees.
                    Below::Nothing => return Ok(()),
                    _ => ChangeKind::Deleted,
                },
                Below::Nothing => ChangeKind::Added,
                Below::Folder(facts, layers) => {
                    if opaque {
                        opaque_folders.push((found.path.to_vec(), layers.clone()));
                    }
                    // A folder is copied up for what is in it: that alone is no change.
                    if found.kind() == FileType::Directory
                        && same_folder(found.facts, facts)
                        && !opaque
                    {
                        return Ok(());
                    }
                    ChangeKind::Modified
                }
                Below::Something => ChangeKind::Modified,
            };
            changes.insert(found.path.to_vec(), kind);
            Ok(())
        })?;
        for (path, layers) in opaque_folders {
            self.add_hidden(&path, &layers, &mut changes)?;
        }
        // Where something inside has changed, so have the folders around it, whatever their own facts say.
        let changed: Vec<Vec<u8>> = changes.keys().cloned().collect();
        for path in &changed {
            let mut folder = parent(path);
            while !folder.is_empty() {
                changes
                    .entry(folder.to_vec())
                    .or_insert(ChangeKind::Modified);
                folder = parent(folder);
            }
        }
        Ok(changes
            .into_iter()
            .map(|(path, kind)| Change {
                kind,
                path: format!("/{}", String::from_utf8_lossy(&path)),
            })
            .collect())
    }

    /// What an opaque folder hides was deleted, or made anew.
    fn add_hidden(
        &self,
        path: &[u8],
        layers: &[usize],
        changes: &mut BTreeMap<Vec<u8>, ChangeKind>,
    ) -> io::Result<()> {
        for &number in layers {
            let Ok(folder) = crate::archive::tree::open_below(self.lower[number].as_fd(), path)
            else {
                continue;
            };
            for entry in rustix::fs::Dir::read_from(&folder)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let inner = [path, b"/", name].concat();
                if let Below::Nothing = self.below(&inner, layers)? {
                    continue;
                }
                match changes.get_mut(&inner) {
                    Some(kind @ ChangeKind::Added) => *kind = ChangeKind::Modified,
                    Some(_) => {}
                    None => {
                        changes.insert(inner, ChangeKind::Deleted);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes out of the container's own layer what is no change: what the engine put there, marks that hide nothing, and
    /// sockets, which no layer has. Nobody may use the container any more.
    pub(super) fn strip(&self) -> io::Result<()> {
        let (mut doomed, mut not_opaque) = (Vec::new(), Vec::new());
        self.visit(&mut |found, below, opaque| {
            let is_nothing = matches!(below, Below::Nothing);
            if found.kind() == FileType::Socket || (is_whiteout(found.facts) && is_nothing) {
                doomed.push(found.path.to_vec());
            }
            if opaque && is_nothing {
                not_opaque.push(found.path.to_vec());
            }
            Ok(())
        })?;
        for path in not_opaque {
            let folder = crate::archive::tree::open_below(self.upper.as_fd(), &path)?;
            rustix::fs::fremovexattr(&folder, "trusted.overlay.opaque")?;
        }
        // What is in a folder comes after it, and has to go before.
        doomed.extend(self.own()?);
        doomed.sort_by(|a, b| b.cmp(a));
        for path in doomed {
            self.remove_own(&path)?;
        }
        Ok(())
    }

    /// Removes something from the container's own layer, whose folder stays as old as it is.
    fn remove_own(&self, path: &[u8]) -> io::Result<()> {
        let above = parent(path);
        let name = OsStr::from_bytes(match above.len() {
            0 => path,
            length => &path[length + 1..],
        });
        let folder = crate::archive::tree::open_below(self.upper.as_fd(), above)?;
        let before = rustix::fs::fstat(&folder)?;
        let facts = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let how = match FileType::from_raw_mode(facts.st_mode) {
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&folder, name, how)?;
        let time = |seconds, nanoseconds| Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        };
        let times = Timestamps {
            last_access: time(before.st_atime, before.st_atime_nsec as _),
            last_modification: time(before.st_mtime, before.st_mtime_nsec as _),
        };
        Ok(rustix::fs::futimens(&folder, &times)?)
    }

    /// The container's own layer as the tar of an image layer.
    pub(super) fn write_diff(&self, output: &mut dyn Write) -> io::Result<()> {
        let mut tree = TreeWriter::new(output);
        self.visit(&mut |found, below, opaque| {
            if is_whiteout(found.facts) {
                if let Below::Nothing = below {
                    return Ok(());
                }
                return tree.add_marker(marker(found.path, b".wh."));
            }
            tree.add(found.folder, found.name, found.path.to_vec(), found.facts)?;
            if opaque && !matches!(below, Below::Nothing) {
                let inside = [found.path, b"/.wh..wh..opq"].concat();
                tree.add_marker(inside)?;
            }
            Ok(())
        })?;
        tree.finish().map(|_| ())
    }
}

/// The tar of an unpacked layer; answers the bytes of its files.
pub(super) fn write_layer(root: &OwnedFd, output: &mut dyn Write) -> io::Result<u64> {
    let mut tree = TreeWriter::new(output);
    walk(root.as_fd(), &mut |found| {
        if is_whiteout(found.facts) {
            tree.add_marker(marker(found.path, b".wh."))?;
            return Ok(Descend::No);
        }
        tree.add(found.folder, found.name, found.path.to_vec(), found.facts)?;
        if found.kind() == FileType::Directory && is_opaque_at(found)? {
            tree.add_marker([found.path, b"/.wh..wh..opq"].concat())?;
        }
        Ok(Descend::Yes)
    })?;
    let content = tree.content();
    tree.finish()?;
    Ok(content)
}

/// The path with something in front of its last name.
fn marker(path: &[u8], before: &[u8]) -> Vec<u8> {
    let folder = parent(path);
    let (slash, name) = match folder.len() {
        0 => (&b""[..], path),
        length => (&b"/"[..], &path[length + 1..]),
    };
    [folder, slash, before, name].concat()
}

fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/');
    &path[..slash.unwrap_or(0)]
}

fn link_at(layer: &OwnedFd, path: &[u8]) -> io::Result<Option<Stat>> {
    let folder = parent(path);
    let name = match folder.len() {
        0 => path,
        length => &path[length + 1..],
    };
    let opened = match crate::archive::tree::open_below(layer.as_fd(), folder) {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    match rustix::fs::statat(
        &opened,
        OsStr::from_bytes(name),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    ) {
        Ok(facts) => Ok(Some(facts)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn is_whiteout(facts: &Stat) -> bool {
    FileType::from_raw_mode(facts.st_mode) == FileType::CharacterDevice && facts.st_rdev == 0
}

fn is_opaque_at(found: &Found<'_>) -> io::Result<bool> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(found.folder, found.name, flags, Mode::empty()) {
        Ok(folder) => is_opaque(folder.as_fd()),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// `y`; newer kernels write `x` where a folder only has marks of another kind in it.
fn is_opaque(folder: BorrowedFd<'_>) -> io::Result<bool> {
    let mut value = [0u8; 1];
    let path = crate::archive::tree::descriptor_path(folder);
    match rustix::fs::getxattr(path.as_str(), "trusted.overlay.opaque", &mut value) {
        Ok(length) => Ok(length == 1 && value[0] == b'y'),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn same_owner_and_mode(a: &Stat, b: &Stat) -> bool {
    (a.st_mode, a.st_uid, a.st_gid) == (b.st_mode, b.st_uid, b.st_gid)
}

/// As Docker compares folders: their own facts and the time they were changed, in whole seconds where one has no more
/// (an image's times have none).
fn same_folder(a: &Stat, b: &Stat) -> bool {
    let same_time = a.st_mtime == b.st_mtime
        && (a.st_mtime_nsec == b.st_mtime_nsec || a.st_mtime_nsec == 0 || b.st_mtime_nsec == 0);
    same_owner_and_mode(a, b) && same_time
}
