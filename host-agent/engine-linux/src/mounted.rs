//! Whether something is mounted at a path, and taking it away.

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use std::io;
use std::path::Path;

/// Whether the path is the root of a mount.
pub(crate) fn is_mount_point(path: &Path) -> io::Result<bool> {
    let facts = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE)?;
    Ok(facts.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Unmounts; not being mounted, or not being there, is no error. Who has it mounted elsewhere (a container) keeps it.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    let mounted = match is_mount_point(path) {
        Ok(mounted) => mounted,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A file server that is gone: the mount is still there.
        Err(error) if error.raw_os_error() == Some(Errno::STALE.raw_os_error()) => true,
        Err(error) => return Err(error),
    };
    if mounted {
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
    }
    Ok(())
}
