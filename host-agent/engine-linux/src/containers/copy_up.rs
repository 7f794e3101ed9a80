//! Filling a new volume with what the image has in its place.

use crate::archive::tree;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags,
};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Copies `target` of `rootfs` into the folder `volume` if that is empty. Links in the image are followed inside of the
/// image only: an image must not be able to copy the host's files.
pub(super) fn copy_up(rootfs: &Path, target: &str, volume: &Path) -> io::Result<()> {
    if fs::read_dir(volume)?.next().is_some() {
        return Ok(());
    }
    let root = File::open(rootfs)?;
    let opened = rustix::fs::openat2(
        &root,
        target.trim_start_matches('/'),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    let folder = match opened {
        Ok(folder) => folder,
        // Nothing there, or a file: an empty volume.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    // The path through the descriptor stays inside whatever happens to the names above it.
    let source = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
    copy_children(&source, volume, &mut Links::new())?;
    copy_attributes(&source, &fs::metadata(&source)?, volume)
}

/// (device, inode) -> where the first name of a file with several was copied to.
type Links = HashMap<(u64, u64), PathBuf>;

fn copy_children(from: &Path, to: &Path, links: &mut Links) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_entry(&entry.path(), &to.join(entry.file_name()), links)?;
    }
    Ok(())
}

fn copy_entry(from: &Path, to: &Path, links: &mut Links) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    let kind = metadata.file_type();
    if !kind.is_dir() && metadata.nlink() > 1 {
        let place = (metadata.dev(), metadata.ino());
        if let Some(first) = links.get(&place) {
            return fs::hard_link(first, to);
        }
        links.insert(place, to.to_owned());
    }
    if kind.is_dir() {
        fs::create_dir(to)?;
        copy_children(from, to, links)?;
    } else if kind.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        fs::copy(from, to)?;
    } else {
        // Devices, pipes and sockets.
        let mode = Mode::from_raw_mode(metadata.mode());
        let device = metadata.rdev();
        rustix::fs::mknodat(
            CWD,
            to,
            FileType::from_raw_mode(metadata.mode()),
            mode,
            device,
        )?;
    }
    copy_attributes(from, &metadata, to)
}

/// Owner, mode, extended attributes and times; the owner first, because changing it takes setuid bits away.
fn copy_attributes(from: &Path, metadata: &fs::Metadata, to: &Path) -> io::Result<()> {
    std::os::unix::fs::lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !metadata.file_type().is_symlink() {
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    if metadata.is_dir() || metadata.is_file() {
        for (name, value) in tree::xattrs(File::open(from)?.as_fd())? {
            match rustix::fs::lsetxattr(to, name.as_slice(), &value, XattrFlags::empty()) {
                // Not every file system has them all.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: metadata.atime(),
            tv_nsec: metadata.atime_nsec() as _,
        },
        last_modification: Timespec {
            tv_sec: metadata.mtime(),
            tv_nsec: metadata.mtime_nsec() as _,
        },
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_volume_gets_what_the_image_has() {
        let folder = tempfile::tempdir().unwrap();
        let (rootfs, volume) = (folder.path().join("rootfs"), folder.path().join("volume"));
        fs::create_dir_all(rootfs.join("srv/real/inner")).unwrap();
        fs::create_dir(&volume).unwrap();
        fs::write(rootfs.join("srv/real/inner/file"), "text").unwrap();
        fs::set_permissions(rootfs.join("srv/real"), fs::Permissions::from_mode(0o1770)).unwrap();
        std::os::unix::fs::symlink("inner/file", rootfs.join("srv/real/link")).unwrap();
        std::os::unix::fs::symlink("/srv/real", rootfs.join("data")).unwrap();
        copy_up(&rootfs, "/data", &volume).unwrap();
        assert_eq!(
            fs::read_to_string(volume.join("inner/file")).unwrap(),
            "text"
        );
        assert_eq!(
            fs::read_link(volume.join("link")).unwrap(),
            Path::new("inner/file")
        );
        assert_eq!(fs::metadata(&volume).unwrap().mode() & 0o7777, 0o1770);

        fs::write(rootfs.join("srv/real/new"), "new").unwrap();
        copy_up(&rootfs, "/data", &volume).unwrap();
        assert!(
            !volume.join("new").exists(),
            "a volume with something in it stays as it is"
        );
    }

    #[test]
    fn attributes_and_second_names_come_along() {
        let folder = tempfile::tempdir().unwrap();
        let (rootfs, volume) = (folder.path().join("rootfs"), folder.path().join("volume"));
        fs::create_dir_all(rootfs.join("data/inner")).unwrap();
        fs::create_dir(&volume).unwrap();
        let file = rootfs.join("data/inner/file");
        fs::write(&file, "text").unwrap();
        fs::hard_link(&file, rootfs.join("data/same")).unwrap();
        for path in [&file, &rootfs.join("data")] {
            let set = rustix::fs::setxattr(path, "user.note", b"kept", XattrFlags::empty());
            if set == Err(rustix::io::Errno::OPNOTSUPP) {
                println!("skipped: the file system of temporary files has no attributes");
                return;
            }
            set.unwrap();
        }
        copy_up(&rootfs, "/data", &volume).unwrap();
        let inode = |path: &str| fs::metadata(volume.join(path)).unwrap().ino();
        assert_eq!(inode("inner/file"), inode("same"));
        for path in [&volume, &volume.join("same")] {
            let mut value = [0u8; 16];
            let length = rustix::fs::getxattr(path, "user.note", &mut value).unwrap();
            assert_eq!(&value[..length], b"kept");
        }
    }

    #[test]
    fn an_image_cannot_copy_the_hosts_files() {
        let folder = tempfile::tempdir().unwrap();
        let (rootfs, volume, secret) = (
            folder.path().join("rootfs"),
            folder.path().join("volume"),
            folder.path().join("secret"),
        );
        for path in [&rootfs, &volume, &secret] {
            fs::create_dir(path).unwrap();
        }
        fs::write(secret.join("key"), "key").unwrap();
        std::os::unix::fs::symlink("../secret", rootfs.join("data")).unwrap();
        std::os::unix::fs::symlink(&secret, rootfs.join("absolute")).unwrap();
        for target in ["/data", "/absolute", "/nothing", "/../secret"] {
            copy_up(&rootfs, target, &volume).unwrap();
            assert_eq!(fs::read_dir(&volume).unwrap().count(), 0, "{target}");
        }
    }
}
