//! A folder of this computer, and nothing outside it. Paths are followed from the folder's own descriptor, one component
//! after the other and never through a symbolic link: links are the guest's kernel's to follow, inside the guest. So
//! neither a guest that lies nor a link that appears meanwhile leads out of what is shared.
//!
//! Everything is done as the person who runs the keeper, with that person's rights.

use super::{Access, Listed, Time};
use crate::qemu::keeper::share::wire::{Attributes, Errno, Space};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Opens folders on the way; where there is a flag for it without the right to read them.
#[cfg(target_os = "linux")]
const ON_THE_WAY: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const ON_THE_WAY: OFlags = OFlags::RDONLY;

/// Permission bits a guest may set: a program that runs as this person for everybody is not its to make.
const PERMISSIONS: u32 = 0o1777;

pub struct Folder {
    root: OwnedFd,
}

fn flags(access: Access) -> OFlags {
    let mut flags = match (access.read, access.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    };
    flags.set(OFlags::APPEND, access.append);
    flags
}

impl Folder {
    pub fn open(path: &Path) -> std::io::Result<Folder> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let root = fs::open(path, flags, Mode::empty())?;
        Ok(Folder { root })
    }

    pub fn stat(&self, path: &Path) -> Result<Attributes, Errno> {
        self.at(path, |folder, name| {
            Ok(attributes(&fs::statat(
                folder,
                name,
                AtFlags::SYMLINK_NOFOLLOW,
            )?))
        })
    }

    pub fn read_link(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        self.at(path, |folder, name| {
            Ok(fs::readlinkat(folder, name, Vec::new())?.into_bytes())
        })
    }

    /// Opens a regular file. Others are the guest's kernel's own business and are never asked for.
    pub fn open_file(&self, path: &Path, access: Access) -> Result<File, Errno> {
        self.at(path, |folder, name| {
            let flags = flags(access) | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            regular(fs::openat(folder, name, flags, Mode::empty())?)
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
        self.at(path, |folder, name| {
            let base = flags(access) | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            match fs::openat(
                folder,
                name,
                base | OFlags::CREATE | OFlags::EXCL,
                Mode::from_raw_mode(0o600),
            ) {
                Ok(file) => {
                    // The guest's umask has been applied; ours is not to be on top.
                    fs::fchmod(&file, permissions(mode))?;
                    regular(file)
                }
                Err(rustix::io::Errno::EXIST) if !exclusive => {
                    regular(fs::openat(folder, name, base, Mode::empty())?)
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    pub fn make_folder(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        self.at(path, |folder, name| {
            fs::mkdirat(folder, name, Mode::from_raw_mode(0o700))?;
            let made = fs::openat(
                folder,
                name,
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            Ok(fs::fchmod(made, permissions(mode))?)
        })
    }

    /// Regular files, and where the system can, pipes and sockets; devices are nothing a guest makes on a desktop.
    pub fn make_node(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        match mode & 0o170_000 {
            0o100_000 | 0 => {
                let access = Access {
                    read: true,
                    write: true,
                    append: false,
                };
                self.create(path, access, true, mode).map(drop)
            }
            #[cfg(target_os = "linux")]
            kind @ (0o010_000 | 0o140_000) => self.at(path, |folder, name| {
                let kind = FileType::from_raw_mode(kind);
                Ok(fs::mknodat(folder, name, kind, permissions(mode), 0)?)
            }),
            _ => Err(Errno::PERM),
        }
    }

    pub fn remove_file(&self, path: &Path) -> Result<(), Errno> {
        self.at(path, |folder, name| {
            Ok(fs::unlinkat(folder, name, AtFlags::empty())?)
        })
    }

    pub fn remove_folder(&self, path: &Path) -> Result<(), Errno> {
        self.at(path, |folder, name| {
            Ok(fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
        })
    }

    pub fn rename(&self, from: &Path, to: &Path, replace: bool) -> Result<(), Errno> {
        self.at(from, |from_folder, from_name| {
            self.at(to, |to_folder, to_name| match replace {
                true => Ok(fs::renameat(from_folder, from_name, to_folder, to_name)?),
                false => Ok(fs::renameat_with(
                    from_folder,
                    from_name,
                    to_folder,
                    to_name,
                    fs::RenameFlags::NOREPLACE,
                )?),
            })
        })
    }

    pub fn link(&self, from: &Path, to: &Path) -> Result<(), Errno> {
        self.at(from, |from_folder, from_name| {
            self.at(to, |to_folder, to_name| {
                // No flag: a link is linked, not what it points to.
                Ok(fs::linkat(
                    from_folder,
                    from_name,
                    to_folder,
                    to_name,
                    AtFlags::empty(),
                )?)
            })
        })
    }

    pub fn symlink(&self, target: &[u8], path: &Path) -> Result<(), Errno> {
        self.at(path, |folder, name| {
            Ok(fs::symlinkat(OsStr::from_bytes(target), folder, name)?)
        })
    }

    pub fn set_mode(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        self.at(path, |folder, name| {
            set_mode(folder, name, permissions(mode))
        })
    }

    pub fn set_owner(
        &self,
        path: &Path,
        user: Option<u32>,
        group: Option<u32>,
    ) -> Result<(), Errno> {
        self.at(path, |folder, name| {
            let user = user.map(fs::Uid::from_raw);
            let group = group.map(fs::Gid::from_raw);
            Ok(fs::chownat(
                folder,
                name,
                user,
                group,
                AtFlags::SYMLINK_NOFOLLOW,
            )?)
        })
    }

    pub fn set_times(&self, path: &Path, accessed: Time, modified: Time) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: timespec(accessed),
            last_modification: timespec(modified),
        };
        self.at(path, |folder, name| {
            Ok(fs::utimensat(
                folder,
                name,
                &times,
                AtFlags::SYMLINK_NOFOLLOW,
            )?)
        })
    }

    pub fn list(&self, path: &Path) -> Result<Vec<Listed>, Errno> {
        self.at(path, |folder, name| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder = fs::openat(folder, name, flags, Mode::empty())?;
            let mut listed = Vec::new();
            for entry in Dir::read_from(&folder)? {
                let entry = entry?;
                listed.push(Listed {
                    name: entry.file_name().to_bytes().to_vec(),
                    inode: entry.ino(),
                    kind: kind(entry.file_type()),
                });
            }
            Ok(listed)
        })
    }

    pub fn sync(&self, path: &Path) -> Result<(), Errno> {
        self.at(path, |folder, name| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(fs::fsync(fs::openat(folder, name, flags, Mode::empty())?)?)
        })
    }

    pub fn space(&self) -> Result<Space, Errno> {
        let is = fs::fstatvfs(&self.root)?;
        Ok(Space {
            blocks: is.f_blocks,
            free: is.f_bfree,
            available: is.f_bavail,
            files: is.f_files,
            files_free: is.f_ffree,
            block_size: is.f_bsize as u32,
            fragment_size: is.f_frsize as u32,
        })
    }

    /// Calls `work` with the folder that `path` is in and its name there; the shared folder itself is `.` in itself.
    fn at<T>(
        &self,
        path: &Path,
        work: impl FnOnce(BorrowedFd<'_>, &OsStr) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let Some(name) = path.file_name() else {
            return work(self.root.as_fd(), OsStr::new("."));
        };
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                work(self.walk(parent)?.as_fd(), name)
            }
            _ => work(self.root.as_fd(), name),
        }
    }

    fn walk(&self, path: &Path) -> Result<OwnedFd, Errno> {
        #[cfg(target_os = "linux")]
        {
            use rustix::fs::ResolveFlags;
            let flags = ON_THE_WAY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve =
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // Kernels before 5.6 do not have it, and some sandboxes forbid it.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {}
                result => return Ok(result?),
            }
        }
        let mut folder = None::<OwnedFd>;
        for component in path.components() {
            let from = folder.as_ref().unwrap_or(&self.root);
            let flags = ON_THE_WAY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            folder = Some(fs::openat(
                from,
                component.as_os_str(),
                flags,
                Mode::empty(),
            )?);
        }
        folder.ok_or(Errno::INVAL)
    }
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode((mode & PERMISSIONS) as fs::RawMode)
}

fn regular(file: OwnedFd) -> Result<File, Errno> {
    let is = fs::fstat(&file)?;
    match FileType::from_raw_mode(is.st_mode) {
        FileType::RegularFile => Ok(File::from(file)),
        _ => Err(Errno::INVAL),
    }
}

/// Without following a link, which `fchmodat` of older kernels cannot be told.
#[cfg(target_os = "linux")]
fn set_mode(folder: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(folder, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) == FileType::Symlink {
        return Err(Errno(95)); // EOPNOTSUPP: links have no mode
    }
    Ok(fs::chmod(
        format!("/proc/self/fd/{}", file.as_raw_fd()),
        mode,
    )?)
}

#[cfg(not(target_os = "linux"))]
fn set_mode(folder: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    Ok(fs::chmodat(folder, name, mode, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// What is known of an open file, whatever its name is now.
pub fn attributes_of(file: &File) -> Result<Attributes, Errno> {
    Ok(attributes(&fs::fstat(file)?))
}

/// The fields' types differ between systems, so that some of these casts do nothing.
#[allow(clippy::unnecessary_cast)]
fn attributes(is: &Stat) -> Attributes {
    let device = is.st_rdev as fs::Dev;
    let (major, minor) = (fs::major(device) as u32, fs::minor(device) as u32);
    Attributes {
        inode: is.st_ino as u64,
        device: is.st_dev as u64,
        size: is.st_size as u64,
        blocks: is.st_blocks as u64,
        accessed: (is.st_atime as i64, is.st_atime_nsec as u32),
        modified: (is.st_mtime as i64, is.st_mtime_nsec as u32),
        changed: (is.st_ctime as i64, is.st_ctime_nsec as u32),
        mode: is.st_mode as u32,
        links: is.st_nlink as u32,
        user: is.st_uid,
        group: is.st_gid,
        // As Linux's kernel packs it for programs.
        special_device: (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12),
        block_size: is.st_blksize as u32,
    }
}

/// `DT_*`.
fn kind(kind: FileType) -> u32 {
    match kind {
        FileType::Fifo => 1,
        FileType::CharacterDevice => 2,
        FileType::Directory => 4,
        FileType::BlockDevice => 6,
        FileType::RegularFile => 8,
        FileType::Symlink => 10,
        FileType::Socket => 12,
        FileType::Unknown => 0,
    }
}

fn timespec(time: Time) -> Timespec {
    let (seconds, nanoseconds) = match time {
        Time::Keep => {
            return Timespec {
                tv_sec: 0,
                tv_nsec: fs::UTIME_OMIT,
            };
        }
        Time::Now => {
            return Timespec {
                tv_sec: 0,
                tv_nsec: fs::UTIME_NOW,
            };
        }
        Time::At(seconds, nanoseconds) => (seconds, nanoseconds),
    };
    Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Errno {
        match rustix::io::Errno::from_io_error(&error) {
            Some(errno) => errno.into(),
            None => Errno::IO,
        }
    }
}

/// By name: the numbers of other systems are others.
impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Errno {
        use rustix::io::Errno as Here;
        Errno(match error {
            Here::PERM => 1,
            Here::NOENT => 2,
            Here::INTR => 4,
            Here::NXIO => 6,
            Here::BADF => 9,
            Here::AGAIN => 11,
            Here::NOMEM => 12,
            Here::ACCESS => 13,
            Here::BUSY => 16,
            Here::EXIST => 17,
            Here::XDEV => 18,
            Here::NODEV => 19,
            Here::NOTDIR => 20,
            Here::ISDIR => 21,
            Here::INVAL => 22,
            Here::NFILE => 23,
            Here::MFILE => 24,
            Here::TXTBSY => 26,
            Here::FBIG => 27,
            Here::NOSPC => 28,
            Here::SPIPE => 29,
            Here::ROFS => 30,
            Here::MLINK => 31,
            Here::NAMETOOLONG => 36,
            Here::NOTEMPTY => 39,
            Here::LOOP => 40,
            Here::OPNOTSUPP => 95,
            Here::STALE => 116,
            Here::DQUOT => 122,
            _ => return Errno::IO,
        })
    }
}
