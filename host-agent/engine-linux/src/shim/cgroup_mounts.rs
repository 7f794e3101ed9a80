//! The control groups a container sees at /sys/fs/cgroup on a v1 host: its own group of each hierarchy.
//!
//! Done here and not by libcontainer, for which a mount costs seventy system calls and which there are ten of. The groups
//! are taken while the host's mounts can still be reached, and put in their places when the container's root is in
//! force; everything goes by descriptors, so nothing in an image can lead it astray.

use crate::cgroup::Cgroup;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Mounts that are nowhere yet.
pub struct CgroupMounts {
    /// Name below /sys/fs/cgroup, and the mount.
    groups: Vec<(String, OwnedFd)>,
    /// Other names of hierarchies with more than one controller.
    links: Vec<(String, String)>,
}

impl CgroupMounts {
    /// Takes the group's folder of every hierarchy.
    pub fn take(cgroup: &Cgroup) -> io::Result<CgroupMounts> {
        let mut mounts = CgroupMounts {
            groups: Vec::new(),
            links: Vec::new(),
        };
        for (hierarchy, folder) in cgroup.places() {
            let Some(name) = hierarchy.mount.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let tree = rustix::mount::open_tree(CWD, &folder, flags)?;
            super::make_private_with(&tree, RESTRICTED)?;
            mounts.groups.push((name.to_owned(), tree));
            // Docker's containers find `cpu` where the host has `cpu,cpuacct`.
            for controller in hierarchy.controllers.iter().filter(|one| *one != name) {
                if !controller.contains('=') {
                    mounts.links.push((controller.clone(), name.to_owned()));
                }
            }
        }
        Ok(mounts)
    }

    /// Puts them into the root that is in force now.
    pub fn place(&self) -> io::Result<()> {
        let folder = rustix::fs::openat2(
            CWD,
            "/sys/fs/cgroup",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
        )?;
        let kind = rustix::fs::fstatfs(&folder)?.f_type;
        if kind as u64 != SYSFS_MAGIC {
            return Err(io::Error::other("/sys/fs/cgroup is not the kernel's"));
        }
        let new = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // This process may be the container's user already.
        for (name, value) in [("mode", "755"), ("uid", "0"), ("gid", "0")] {
            rustix::mount::fsconfig_set_string(new.as_fd(), name, value)?;
        }
        rustix::mount::fsconfig_create(new.as_fd())?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let top = rustix::mount::fsmount(new.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        // First in its place: nothing can be mounted on a mount that is nowhere.
        attach(&top, &folder)?;
        for (name, tree) in &self.groups {
            rustix::fs::mkdirat(&top, name, Mode::from_raw_mode(0o755))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let place = rustix::fs::openat(&top, name, flags, Mode::empty())?;
            attach(tree, &place)?;
        }
        for (name, target) in &self.links {
            match rustix::fs::symlinkat(target, &top, name) {
                // A hierarchy is mounted under that name.
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// linux/magic.h
const SYSFS_MAGIC: u64 = 0x6265_6572;

/// linux/mount.h: MOUNT_ATTR_NOSUID, NODEV, NOEXEC.
const RESTRICTED: u64 = 2 | 4 | 8;

fn attach(mount: &OwnedFd, place: &OwnedFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", place, "", flags)?;
    Ok(())
}
