//! The form for Windows, over cap-std. Handles of folders are opened one after the other, never through a link.
//!
//! Windows has no modes and no owners by number, so these are made up: everybody may do everything, except where a file is
//! marked read-only; `chmod` sets that mark and forgets the rest. Names are kept as they are and compared without case.

use super::{Access, Listed, Time};
use crate::qemu::keeper::share::wire::{Attributes, Errno, Space};
use crate::qemu::system;
use cap_fs_ext::{DirExt, FollowSymlinks, MetadataExt, OpenOptionsFollowExt, SystemTimeSpec};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, FileType, Metadata, OpenOptions};
use cap_std::time::SystemTime;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Whose everything is: the first person of a Linux system.
const OWNER: u32 = 1000;
const BLOCK: u32 = 4096;

pub struct Folder {
    root: Dir,
    path: PathBuf,
}

impl Folder {
    pub fn open(path: &Path) -> std::io::Result<Folder> {
        Ok(Folder {
            root: Dir::open_ambient_dir(path, ambient_authority())?,
            path: path.to_path_buf(),
        })
    }

    pub fn stat(&self, path: &Path) -> Result<Attributes, Errno> {
        if path.as_os_str().is_empty() {
            return Ok(attributes(&self.root.dir_metadata()?));
        }
        self.at(path, |folder, name| {
            Ok(attributes(&folder.symlink_metadata(name)?))
        })
    }

    pub fn read_link(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        self.at(path, |folder, name| {
            let target = folder.read_link_contents(name)?;
            let target = target.to_str().ok_or(Errno::INVAL)?;
            Ok(super::target_for_guest(target).into_bytes())
        })
    }

    pub fn open_file(&self, path: &Path, access: Access) -> Result<File, Errno> {
        self.at(path, |folder, name| {
            regular(folder.open_with(name, &options(access))?)
        })
    }

    /// Makes a regular file, or opens it where `exclusive` does not forbid that.
    pub fn create(
        &self,
        path: &Path,
        access: Access,
        exclusive: bool,
        mode: u32,
    ) -> Result<File, Errno> {
        let made = self.at(path, |folder, name| {
            // Windows wants the right to write of whoever makes a file.
            let access = Access {
                write: true,
                ..access
            };
            Ok(folder.open_with(name, options(access).create_new(true))?)
        });
        match made {
            Ok(file) => {
                if mode & 0o222 == 0 {
                    self.set_mode(path, mode)?;
                }
                regular(file)
            }
            Err(Errno(17)) if !exclusive => self.open_file(path, access),
            Err(errno) => Err(errno),
        }
    }

    pub fn make_folder(&self, path: &Path, _mode: u32) -> Result<(), Errno> {
        self.at(path, |folder, name| Ok(folder.create_dir(name)?))
    }

    /// Regular files only.
    pub fn make_node(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        let access = Access {
            read: true,
            write: true,
            append: false,
        };
        match mode & 0o170_000 {
            0o100_000 | 0 => self.create(path, access, true, mode).map(drop),
            _ => Err(Errno::PERM),
        }
    }

    pub fn remove_file(&self, path: &Path) -> Result<(), Errno> {
        self.at(path, |folder, name| {
            // To Unix a file that may only be read is removed like others.
            if cfg!(windows) {
                set_read_only(folder, name, false)?;
            }
            Ok(folder.remove_file_or_symlink(name)?)
        })
    }

    pub fn remove_folder(&self, path: &Path) -> Result<(), Errno> {
        self.at(path, |folder, name| Ok(folder.remove_dir(name)?))
    }

    /// Without `replace` Windows has no way to look and move at once: somebody on the desktop who makes the name in that
    /// moment loses.
    pub fn rename(&self, from: &Path, to: &Path, replace: bool) -> Result<(), Errno> {
        self.at(from, |from_folder, from_name| {
            self.at(to, |to_folder, to_name| {
                if !replace && to_folder.symlink_metadata(to_name).is_ok() {
                    return Err(Errno(17)); // EEXIST
                }
                Ok(from_folder.rename(from_name, to_folder, to_name)?)
            })
        })
    }

    pub fn link(&self, from: &Path, to: &Path) -> Result<(), Errno> {
        self.at(from, |from_folder, from_name| {
            self.at(to, |to_folder, to_name| {
                Ok(from_folder.hard_link(from_name, to_folder, to_name)?)
            })
        })
    }

    /// Windows lets only some people make links (developer mode), and links know whether they lead to a folder.
    pub fn symlink(&self, target: &[u8], path: &Path) -> Result<(), Errno> {
        let target = std::str::from_utf8(target).map_err(|_| Errno::INVAL)?;
        // A place of the guest's is none of this computer's.
        if target.starts_with('/') || target.contains(['\\', ':']) {
            return Err(Errno::PERM);
        }
        self.at(path, |folder, name| {
            let is_folder = folder
                .symlink_metadata(target)
                .is_ok_and(|found| found.is_dir());
            let target = match cfg!(windows) {
                true => PathBuf::from(target.replace('/', "\\")),
                false => PathBuf::from(target),
            };
            match is_folder {
                true => Ok(DirExt::symlink_dir(folder, &target, Path::new(name))?),
                false => Ok(DirExt::symlink_file(folder, &target, Path::new(name))?),
            }
        })
    }

    /// Read-only or not is all there is.
    pub fn set_mode(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        self.at(path, |folder, name| {
            set_read_only(folder, name, mode & 0o222 == 0)
        })
    }

    /// There is one owner.
    pub fn set_owner(
        &self,
        path: &Path,
        user: Option<u32>,
        group: Option<u32>,
    ) -> Result<(), Errno> {
        self.stat(path)?;
        let is_it = |id: Option<u32>| id.is_none_or(|id| id == OWNER);
        match is_it(user) && is_it(group) {
            true => Ok(()),
            false => Err(Errno::PERM),
        }
    }

    pub fn set_times(&self, path: &Path, accessed: Time, modified: Time) -> Result<(), Errno> {
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        self.at(path, |folder, name| {
            Ok(folder.set_symlink_times(name, spec(accessed), spec(modified))?)
        })
    }

    /// A name that is no Unicode is shown with replacement signs, and not found by them.
    pub fn list(&self, path: &Path) -> Result<Vec<Listed>, Errno> {
        let mut listed: Vec<Listed> = [".", ".."]
            .map(|name| Listed {
                name: name.into(),
                inode: 1,
                kind: 4,
            })
            .into();
        let walked = self.walk(path)?;
        for entry in walked.as_ref().unwrap_or(&self.root).entries()? {
            let entry = entry?;
            let name = entry
                .file_name()
                .to_string_lossy()
                .into_owned()
                .into_bytes();
            listed.push(Listed {
                inode: crate::qemu::files::stable_hash(&name) | 1,
                kind: kind(entry.file_type()?),
                name,
            });
        }
        Ok(listed)
    }

    /// Windows writes its folders by itself.
    pub fn sync(&self, path: &Path) -> Result<(), Errno> {
        self.walk(path).map(drop)
    }

    pub fn space(&self) -> Result<Space, Errno> {
        let (free, total) = system::disk_space(&self.path).ok_or(Errno::IO)?;
        let blocks = |bytes: u64| bytes / u64::from(BLOCK);
        Ok(Space {
            blocks: blocks(total),
            free: blocks(free),
            available: blocks(free),
            files: 0,
            files_free: 0,
            block_size: BLOCK,
            fragment_size: BLOCK,
        })
    }

    /// Calls `work` with the folder that `path` is in and its name there.
    fn at<T>(
        &self,
        path: &Path,
        work: impl FnOnce(&Dir, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let folder = self.walk(path.parent().unwrap_or(Path::new("")))?;
        work(folder.as_ref().unwrap_or(&self.root), name)
    }

    /// The folder at `path`; `None`: the shared one itself.
    fn walk(&self, path: &Path) -> Result<Option<Dir>, Errno> {
        let mut folder = None::<Dir>;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(Errno::INVAL);
            };
            let from = folder.as_ref().unwrap_or(&self.root);
            folder = Some(from.open_dir_nofollow(name)?);
        }
        Ok(folder)
    }
}

fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(access.read).write(access.write);
    // The guest's kernel says where it writes; `append` is its own business.
    options.follow(FollowSymlinks::No);
    options
}

fn regular(file: cap_std::fs::File) -> Result<File, Errno> {
    match file.metadata()?.is_file() {
        true => Ok(file.into_std()),
        false => Err(Errno::INVAL),
    }
}

fn set_read_only(folder: &Dir, name: &OsStr, read_only: bool) -> Result<(), Errno> {
    let found = folder.symlink_metadata(name)?;
    let mut permissions = found.permissions();
    // On a folder the mark means something else, and links have none.
    if found.is_file() && permissions.readonly() != read_only {
        permissions.set_readonly(read_only);
        folder.set_permissions(name, permissions)?;
    }
    Ok(())
}

/// What is known of an open file, whatever its name is now.
pub fn attributes_of(file: &File) -> Result<Attributes, Errno> {
    Ok(attributes(&Metadata::from_file(file)?))
}

fn attributes(is: &Metadata) -> Attributes {
    let modified = since_1970(is.modified());
    let read_only = is.permissions().readonly();
    let mode = match is.file_type() {
        kind if kind.is_dir() => 0o040_777,
        kind if kind.is_symlink() => 0o120_777,
        _ if read_only => 0o100_555,
        _ => 0o100_777,
    };
    Attributes {
        inode: is.ino(),
        device: is.dev(),
        size: is.len(),
        blocks: is.len().div_ceil(512),
        accessed: since_1970(is.accessed()),
        modified,
        changed: modified,
        mode,
        links: is.nlink() as u32,
        user: OWNER,
        group: OWNER,
        special_device: 0,
        block_size: BLOCK,
    }
}

fn since_1970(time: std::io::Result<SystemTime>) -> (i64, u32) {
    let since = time.map(|time| time.into_std().duration_since(UNIX_EPOCH));
    match since {
        Ok(Ok(since)) => (since.as_secs() as i64, since.subsec_nanos()),
        Ok(Err(before)) => (-(before.duration().as_secs() as i64), 0),
        Err(_) => (0, 0),
    }
}

fn spec(time: Time) -> Option<SystemTimeSpec> {
    match time {
        Time::Keep => None,
        Time::Now => Some(SystemTimeSpec::SymbolicNow),
        Time::At(seconds, nanoseconds) => {
            let distance = Duration::new(seconds.unsigned_abs(), nanoseconds);
            let time = match seconds < 0 {
                true => UNIX_EPOCH.checked_sub(distance),
                false => UNIX_EPOCH.checked_add(distance),
            };
            let time = SystemTime::from_std(time.unwrap_or(UNIX_EPOCH));
            Some(SystemTimeSpec::Absolute(time))
        }
    }
}

/// `DT_*`.
fn kind(kind: FileType) -> u32 {
    match kind {
        kind if kind.is_dir() => 4,
        kind if kind.is_file() => 8,
        kind if kind.is_symlink() => 10,
        _ => 0,
    }
}

#[cfg(windows)]
impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Errno {
        use std::io::ErrorKind as Kind;
        // Errors that have no kind of their own.
        const SHARING_VIOLATION: i32 = 32;
        const LOCK_VIOLATION: i32 = 33;
        const STOPPED_ON_SYMLINK: i32 = 681;
        const PRIVILEGE_NOT_HELD: i32 = 1314;
        match error.raw_os_error() {
            Some(SHARING_VIOLATION | LOCK_VIOLATION) => return Errno(16),
            Some(STOPPED_ON_SYMLINK) => return Errno(40),
            Some(PRIVILEGE_NOT_HELD) => return Errno::PERM,
            _ => {}
        }
        Errno(match error.kind() {
            Kind::NotFound => 2,
            Kind::OutOfMemory => 12,
            Kind::PermissionDenied => 13,
            Kind::ResourceBusy => 16,
            Kind::AlreadyExists => 17,
            Kind::CrossesDevices => 18,
            Kind::NotADirectory => 20,
            Kind::IsADirectory => 21,
            Kind::InvalidInput | Kind::InvalidFilename => 22,
            Kind::FileTooLarge => 27,
            Kind::StorageFull => 28,
            Kind::ReadOnlyFilesystem => 30,
            Kind::TooManyLinks => 31,
            Kind::DirectoryNotEmpty => 39,
            Kind::Unsupported => 95,
            Kind::QuotaExceeded => 122,
            _ => return Errno::IO,
        })
    }
}
