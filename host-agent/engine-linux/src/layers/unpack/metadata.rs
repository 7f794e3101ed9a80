//! Whose a file is and what it may: owner, mode, extended attributes, time.

use super::{UnpackAs, UnpackError, Unpacker, entry_path, failed, file_type, stat, times};
use crate::archive::tar::TarEntry;
use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

impl Unpacker<'_> {
    /// Whose it is need not be set. What is no layer belongs to us.
    pub(super) fn has_owner(&self, facts: &Stat, entry: &TarEntry) -> bool {
        match self.kind {
            UnpackAs::Layer => (facts.st_uid, facts.st_gid) == (entry.uid, entry.gid),
            UnpackAs::Files(_) => true,
        }
    }

    /// What a hard link's entry says of owner, mode and time holds for the file, as with Docker: the last word counts.
    pub(super) fn set_link_metadata(
        &self,
        folder: BorrowedFd<'_>,
        entry: &TarEntry,
        name: &OsStr,
    ) -> Result<(), UnpackError> {
        let Some(facts) = stat(folder, name) else {
            return Ok(());
        };
        // Setting the owner takes capabilities and setuid away, so only where it says something else.
        if !self.has_owner(&facts, entry) {
            rustix::fs::chownat(
                folder,
                name,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|error| failed("set the owner of", entry, error))?;
        }
        if file_type(&facts) != FileType::Symlink {
            rustix::fs::chmodat(
                folder,
                name,
                Mode::from_raw_mode(entry.mode),
                AtFlags::empty(),
            )
            .map_err(|error| failed("set the mode of", entry, error))?;
        }
        let path = entry_path(folder, name);
        self.set_xattrs(entry, |key, value| {
            rustix::fs::lsetxattr(path.as_slice(), key, value, XattrFlags::empty())
        })?;
        rustix::fs::utimensat(folder, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("set the time of", entry, error))
    }

    /// Owner, mode and attributes of something that is not an opened file. Links are not followed.
    pub(super) fn set_metadata(
        &mut self,
        entry: &TarEntry,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let os_name = OsStr::from_bytes(name);
        let folder = self.folder_fd();
        let facts = rustix::fs::statat(folder, os_name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| failed("look at", entry, error))?;
        let has_owner = self.has_owner(&facts, entry);
        if !has_owner {
            rustix::fs::chownat(
                folder,
                os_name,
                Some(Uid::from_raw(entry.uid)),
                Some(Gid::from_raw(entry.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|error| failed("set the owner of", entry, error))?;
        }
        let has_mode = has_owner && facts.st_mode & 0o7777 == entry.mode;
        if file_type(&facts) != FileType::Symlink && !has_mode {
            // Not a link, and nobody else can put one here: the folder is ours alone until it is complete.
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::chmodat(folder, os_name, mode, AtFlags::empty())
                .map_err(|error| failed("set the mode of", entry, error))?;
        }
        if entry.xattrs.is_empty() {
            return Ok(());
        }
        let path = entry_path(folder, os_name);
        self.set_xattrs(entry, |key, value| {
            rustix::fs::lsetxattr(path.as_slice(), key, value, XattrFlags::empty())
        })
    }

    /// The time of something that is no folder: theirs are set at the end.
    pub(super) fn set_time(&self, entry: &TarEntry, name: &[u8]) -> Result<(), UnpackError> {
        rustix::fs::utimensat(
            self.folder_fd(),
            OsStr::from_bytes(name),
            &times(entry.mtime),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|error| failed("set the time of", entry, error))
    }

    pub(super) fn set_xattrs(
        &self,
        entry: &TarEntry,
        set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), UnpackError> {
        for (name, value) in &entry.xattrs {
            // overlayfs's own: in a stranger's layer they could redirect or hide files of other layers.
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                tracing::debug!(
                    path = entry.display(),
                    "overlayfs attribute in a layer left out"
                );
                continue;
            }
            if value.len() > self.limits.xattr || name.len() > 255 {
                return Err(self.invalid(entry, "an extended attribute is too long"));
            }
            match set(name, value) {
                Ok(()) => {}
                // Without its capabilities a program would behave differently; other attributes may be missing where
                // the file system has none, as with Docker.
                Err(Errno::NOTSUP | Errno::PERM) if name != b"security.capability" => {
                    tracing::debug!(path = entry.display(), name = %String::from_utf8_lossy(name),
                        "this file system does not take an extended attribute of the layer");
                }
                Err(error) => return Err(failed("set an extended attribute of", entry, error)),
            }
        }
        Ok(())
    }
}
