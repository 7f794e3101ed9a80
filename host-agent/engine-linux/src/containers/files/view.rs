//! A container's files as it sees them, for one thread.
//!
//! ```text
//!  unshare(mount namespace) -> root file system, already mounted -> volumes and binds on it -> a descriptor of the root
//! ```
//!
//! Volumes are mounted by descriptors, not by paths: a link that a running container swaps in the way leads somewhere
//! else in the container at worst. Nothing of it is visible to anybody else, and it goes with the thread.

use super::failed;
use crate::archive::tree::{descriptor_path, retry};
use crate::layers::mount::mount_image;
use engine::containers::files::{FileError, FileView, ViewMount, ViewSource};
use engine::images::LayerFolders;
use nix::sched::CloneFlags;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Links followed on the way to one file; the kernel's number.
const LINKS_MAX: usize = 40;

/// The root of a container's files. Only the thread that entered it may use it.
pub(super) struct Root {
    root: OwnedFd,
}

/// A folder of the host by its path.
pub(super) fn open_folder(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

impl Root {
    /// Takes this thread into a mount namespace of its own, for good, and mounts what the view has.
    pub(super) fn enter(view: &FileView) -> Result<Root, FileError> {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)
            .map_err(|error| failed("make a mount namespace", error))?;
        // What is mounted here must not show up outside.
        rustix::mount::mount_change(
            "/",
            MountPropagationFlags::REC | MountPropagationFlags::PRIVATE,
        )
        .map_err(|error| failed("make mounts private", error))?;
        // Opened only now: a descriptor from before would belong to the host's mounts.
        let root = open_folder(&view.root.path)
            .map_err(|error| failed("open the root file system", error))?;
        let root = Root { root };
        for mount in &view.mounts {
            root.mount(mount, &view.root.path)?;
        }
        if view.read_only_root {
            make_read_only(root.as_fd())
                .map_err(|error| failed("make the root file system read-only", error))?;
        }
        Ok(root)
    }

    /// Over a folder, without a namespace of its own: for tests that need no root.
    #[cfg(test)]
    pub(super) fn at(path: &Path) -> Root {
        Root {
            root: open_folder(path).expect("the folder is there"),
        }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a path of the container; links are followed as the container would, and cannot lead out of it.
    pub(super) fn open(
        &self,
        path: impl AsRef<[u8]>,
        flags: OFlags,
    ) -> rustix::io::Result<OwnedFd> {
        let path = path.as_ref();
        let path = if path.is_empty() { b"/" } else { path };
        retry(|| {
            rustix::fs::openat2(
                &self.root,
                OsStr::from_bytes(path),
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
        })
    }

    /// Where a path leads in the end, as text without links; what is missing at its end is kept as it is written. For
    /// answers and for rules about paths, never for opening anything.
    pub(super) fn resolve(&self, path: &str) -> rustix::io::Result<String> {
        let mut left: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut resolved = String::new();
        let mut links = 0;
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    resolved.truncate(resolved.rfind('/').unwrap_or(0));
                    continue;
                }
                _ => {}
            }
            let here = format!("{resolved}/{part}");
            let opened = self.open(&here, OFlags::PATH | OFlags::NOFOLLOW);
            let target = match opened {
                Ok(opened) => match rustix::fs::readlinkat(&opened, "", Vec::new()) {
                    Ok(target) => Some(target.to_string_lossy().into_owned()),
                    // The kernel's answers for what is no link.
                    Err(Errno::NOENT | Errno::INVAL | Errno::NOTDIR) => None,
                    Err(error) => return Err(error),
                },
                Err(Errno::NOENT | Errno::NOTDIR) => None,
                Err(error) => return Err(error),
            };
            match target {
                None => resolved = here,
                Some(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    if target.starts_with('/') {
                        resolved.clear();
                    }
                    left.extend(target.rsplit('/').map(str::to_owned));
                }
            }
        }
        if resolved.is_empty() {
            resolved.push('/');
        }
        Ok(resolved)
    }

    /// `cover`: a folder at which something may be mounted for a moment.
    fn mount(&self, mount: &ViewMount, cover: &Path) -> Result<(), FileError> {
        let step = || match &mount.source {
            ViewSource::Path(path) => format!("mount {} at {}", path.display(), mount.target),
            ViewSource::Image(_) => format!("mount an image at {}", mount.target),
        };
        let (path, image) = match &mount.source {
            ViewSource::Path(path) => (path.as_path(), None),
            ViewSource::Image(layers) => {
                let image = Covering::mount(layers, cover);
                (cover, Some(image.map_err(|error| failed(step(), error))?))
            }
        };
        let source = match open_source(path, &mount.subpath) {
            Err(Errno::NOENT | Errno::NOTDIR) if mount.is_own => return Ok(()),
            Err(Errno::NOENT) => {
                let why = match image {
                    None => format!(
                        "invalid mount config: bind source path does not exist: {}",
                        path.display()
                    ),
                    Some(_) => format!(
                        "invalid mount config: cannot access path {} of the image",
                        mount.subpath
                    ),
                };
                return Err(FileError::Invalid { why });
            }
            outcome => outcome.map_err(|error| failed(step(), error))?,
        };
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        if mount.recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = match rustix::mount::open_tree(&source, "", flags) {
            Err(_) if mount.is_own => return Ok(()),
            outcome => outcome.map_err(|error| failed(step(), error))?,
        };
        // The tree is a mount of its own.
        drop(image);
        let facts = rustix::fs::fstat(&source).map_err(|error| failed(step(), error))?;
        let is_folder = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
        let target = match self.make_target(&mount.target, is_folder) {
            // The engine's own files are a courtesy: an image may have something odd in their place.
            Err(_) if mount.is_own => return Ok(()),
            outcome => outcome.map_err(|error| failed(step(), error))?,
        };
        let attach = || {
            rustix::mount::move_mount(
                &tree,
                "",
                &target,
                "",
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH,
            )?;
            match mount.read_only {
                true => make_read_only(tree.as_fd()),
                false => Ok(()),
            }
        };
        match attach() {
            Err(_) if mount.is_own => Ok(()),
            outcome => outcome.map_err(|error| failed(step(), error)),
        }
    }

    /// The place where something is mounted, made where it is missing, as a container's start makes it.
    fn make_target(&self, path: &str, is_folder: bool) -> rustix::io::Result<OwnedFd> {
        match self.open(path, OFlags::PATH) {
            Err(Errno::NOENT) => {}
            outcome => return outcome,
        }
        let resolved = self.resolve(path)?;
        let mut parent = self.open("/", OFlags::PATH | OFlags::DIRECTORY)?;
        let parts: Vec<&str> = resolved
            .split('/')
            .filter(|part| !part.is_empty())
            .collect();
        let mut so_far = String::new();
        for (number, part) in parts.iter().enumerate() {
            let is_last = number + 1 == parts.len();
            so_far.push('/');
            so_far.push_str(part);
            let made = if is_last && !is_folder {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
                let mode = Mode::from_raw_mode(0o755);
                rustix::fs::openat(&parent, *part, flags | OFlags::CLOEXEC, mode).map(drop)
            } else {
                rustix::fs::mkdirat(&parent, *part, Mode::from_raw_mode(0o755))
            };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
            if !is_last {
                parent = self.open(&so_far, OFlags::PATH | OFlags::DIRECTORY)?;
            }
        }
        self.open(&so_far, OFlags::PATH)
    }
}

/// An image, mounted over a folder until this is dropped.
struct Covering<'a>(&'a Path);

impl Covering<'_> {
    fn mount<'a>(layers: &LayerFolders, folder: &'a Path) -> io::Result<Covering<'a>> {
        mount_image(layers, folder)?;
        Ok(Covering(folder))
    }
}

impl Drop for Covering<'_> {
    fn drop(&mut self) {
        // If it fails the thread's namespace, which ends with the thread, keeps it.
        let _ = rustix::mount::unmount(self.0, UnmountFlags::DETACH);
    }
}

/// The source of a mount on the host, and the path inside of it that its container may have filled with links.
fn open_source(path: &Path, subpath: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let source = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
    if subpath.is_empty() {
        return Ok(source);
    }
    retry(|| {
        rustix::fs::openat2(
            &source,
            subpath,
            flags,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    })
}

/// Makes one mount of this thread's namespace read-only. `mount` is its root.
fn make_read_only(mount: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let path = descriptor_path(mount);
    // The other flags of a mount must be said again or the kernel takes them for withdrawn.
    let now = rustix::fs::fstatvfs(mount)?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::RDONLY;
    for (is, flag) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (
            rustix::fs::StatVfsMountFlags::NODIRATIME,
            MountFlags::NODIRATIME,
        ),
        (
            rustix::fs::StatVfsMountFlags::RELATIME,
            MountFlags::RELATIME,
        ),
    ] {
        if now.contains(is) {
            flags |= flag;
        }
    }
    rustix::mount::mount_remount(path, flags, c"")
}
