//! Files and folders for the sftp server.

use super::wire::{Packet, Reader, Short};
use super::{LARGEST_DATA, Refusal};
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{
    DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown,
};
use std::path::{Path, PathBuf};

/// Files and folders one client may have open.
pub(super) const MOST_OPEN: usize = 512;
/// Names in one answer.
const NAMES: usize = 128;

const HAS_SIZE: u32 = 1;
const HAS_OWNER: u32 = 2;
const HAS_MODE: u32 = 4;
const HAS_TIMES: u32 = 8;
const HAS_EXTENDED: u32 = 0x8000_0000;

const FLAG_READ: u32 = 1;
const FLAG_WRITE: u32 = 2;
const FLAG_APPEND: u32 = 4;
const FLAG_CREATE: u32 = 8;
const FLAG_TRUNCATE: u32 = 16;
const FLAG_EXCLUSIVE: u32 = 32;

/// What the protocol knows of a file. Times are in whole seconds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    size: Option<u64>,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    /// Last access, last modification.
    times: Option<(u32, u32)>,
}

impl Attributes {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Attributes, Short> {
        let flags = reader.number()?;
        let mut attributes = Attributes::default();
        if flags & HAS_SIZE != 0 {
            attributes.size = Some(reader.long()?);
        }
        if flags & HAS_OWNER != 0 {
            attributes.owner = Some((reader.number()?, reader.number()?));
        }
        if flags & HAS_MODE != 0 {
            attributes.mode = Some(reader.number()?);
        }
        if flags & HAS_TIMES != 0 {
            attributes.times = Some((reader.number()?, reader.number()?));
        }
        if flags & HAS_EXTENDED != 0 {
            for _ in 0..reader.number()? {
                reader.text()?;
                reader.text()?;
            }
        }
        Ok(attributes)
    }

    pub(super) fn write(&self, packet: &mut Packet) {
        let flag = |has: bool, flag: u32| if has { flag } else { 0 };
        packet.number(
            flag(self.size.is_some(), HAS_SIZE)
                | flag(self.owner.is_some(), HAS_OWNER)
                | flag(self.mode.is_some(), HAS_MODE)
                | flag(self.times.is_some(), HAS_TIMES),
        );
        if let Some(size) = self.size {
            packet.long(size);
        }
        if let Some((user, group)) = self.owner {
            packet.number(user).number(group);
        }
        if let Some(mode) = self.mode {
            packet.number(mode);
        }
        if let Some((access, modification)) = self.times {
            packet.number(access).number(modification);
        }
    }

    fn of(metadata: &Metadata) -> Attributes {
        // The protocol's times end in 2106.
        let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
        Attributes {
            size: Some(metadata.size()),
            owner: Some((metadata.uid(), metadata.gid())),
            mode: Some(metadata.mode()),
            times: Some((seconds(metadata.atime()), seconds(metadata.mtime()))),
        }
    }

    fn permissions(&self) -> Option<u32> {
        self.mode.map(|mode| mode & 0o7777)
    }

    fn timestamps(&self) -> Option<Timestamps> {
        let time = |seconds: u32| Timespec {
            tv_sec: i64::from(seconds),
            tv_nsec: 0,
        };
        self.times.map(|(access, modification)| Timestamps {
            last_access: time(access),
            last_modification: time(modification),
        })
    }
}

enum Open {
    File { file: File, append: bool },
    Folder { path: PathBuf, entries: fs::ReadDir },
}

/// What one client has open.
#[derive(Default)]
pub(super) struct Files {
    open: BTreeMap<u32, Open>,
    next: u32,
}

impl Files {
    fn keep(&mut self, open: Open) -> Result<u32, Refusal> {
        if self.open.len() >= MOST_OPEN {
            return Err(io::Error::other("too many open files").into());
        }
        let handle = self.next;
        self.next = self.next.wrapping_add(1);
        self.open.insert(handle, open);
        Ok(handle)
    }

    fn file(&self, handle: u32) -> Result<(&File, bool), Refusal> {
        match self.open.get(&handle) {
            Some(Open::File { file, append }) => Ok((file, *append)),
            _ => Err(unknown_handle()),
        }
    }

    pub(super) fn open(
        &mut self,
        path: PathBuf,
        flags: u32,
        attributes: &Attributes,
    ) -> Result<u32, Refusal> {
        let append = flags & FLAG_APPEND != 0;
        let file = OpenOptions::new()
            .read(flags & FLAG_READ != 0)
            .write(flags & (FLAG_WRITE | FLAG_APPEND) != 0)
            .append(append)
            .create(flags & FLAG_CREATE != 0)
            .create_new(flags & FLAG_CREATE != 0 && flags & FLAG_EXCLUSIVE != 0)
            .truncate(flags & FLAG_TRUNCATE != 0 && !append)
            .mode(attributes.permissions().unwrap_or(0o666))
            .open(path)?;
        self.keep(Open::File { file, append })
    }

    pub(super) fn close(&mut self, handle: u32) -> Result<(), Refusal> {
        self.open
            .remove(&handle)
            .map(drop)
            .ok_or_else(unknown_handle)
    }

    pub(super) fn read(&self, handle: u32, offset: u64, length: usize) -> Result<Vec<u8>, Refusal> {
        let (file, _) = self.file(handle)?;
        let mut data = vec![0; length.min(LARGEST_DATA as usize)];
        let mut filled = 0;
        while filled < data.len() {
            match file.read_at(&mut data[filled..], offset.saturating_add(filled as u64)) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if filled == 0 => return Err(error.into()),
                Err(_) => break,
            }
        }
        if filled == 0 && length > 0 {
            return Err(Refusal::End);
        }
        data.truncate(filled);
        Ok(data)
    }

    pub(super) fn write(&self, handle: u32, offset: u64, data: &[u8]) -> Result<(), Refusal> {
        let (file, append) = self.file(handle)?;
        if append {
            io::Write::write_all(&mut &*file, data)?;
        } else {
            file.write_all_at(data, offset)?;
        }
        Ok(())
    }

    pub(super) fn sync(&self, handle: u32) -> Result<(), Refusal> {
        Ok(self.file(handle)?.0.sync_all()?)
    }

    pub(super) fn status_of(&self, handle: u32) -> Result<Attributes, Refusal> {
        Ok(match self.open.get(&handle) {
            Some(Open::File { file, .. }) => Attributes::of(&file.metadata()?),
            Some(Open::Folder { path, .. }) => status(path, true)?,
            None => return Err(unknown_handle()),
        })
    }

    pub(super) fn change_of(&self, handle: u32, wanted: &Attributes) -> Result<(), Refusal> {
        if let Some(Open::Folder { path, .. }) = self.open.get(&handle) {
            return change(path, wanted);
        }
        let (file, _) = self.file(handle)?;
        if let Some(size) = wanted.size {
            file.set_len(size)?;
        }
        // The owner before the mode: changing it clears set-user-id.
        if let Some((user, group)) = wanted.owner {
            fchown(file, Some(user), Some(group))?;
        }
        if let Some(mode) = wanted.permissions() {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        if let Some(times) = wanted.timestamps() {
            rustix::fs::futimens(file, &times)?;
        }
        Ok(())
    }

    pub(super) fn open_folder(&mut self, path: PathBuf) -> Result<u32, Refusal> {
        let entries = fs::read_dir(&path)?;
        self.keep(Open::Folder { path, entries })
    }

    /// Some of the folder's names; [`Refusal::End`] after the last ones.
    pub(super) fn read_folder(
        &mut self,
        handle: u32,
    ) -> Result<Vec<(Vec<u8>, String, Attributes)>, Refusal> {
        let Some(Open::Folder { entries, .. }) = self.open.get_mut(&handle) else {
            return Err(unknown_handle());
        };
        let mut names = Vec::new();
        for entry in entries.by_ref().take(NAMES) {
            let entry = entry?;
            // It may be gone already.
            let metadata = entry.metadata().ok();
            let attributes = metadata.as_ref().map(Attributes::of).unwrap_or_default();
            let name = entry.file_name();
            let line = long_line(&name.to_string_lossy(), metadata.as_ref());
            names.push((name.into_vec(), line, attributes));
        }
        if names.is_empty() {
            return Err(Refusal::End);
        }
        Ok(names)
    }
}

fn unknown_handle() -> Refusal {
    io::Error::new(io::ErrorKind::InvalidInput, "unknown handle").into()
}

/// The line that old clients print for a name.
fn long_line(name: &str, metadata: Option<&Metadata>) -> String {
    let Some(metadata) = metadata else {
        return format!("?---------    ? ?        ?               ? {name}");
    };
    let mode = metadata.mode();
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let bits: String = (0..9)
        .map(|index| {
            if mode & (0o400 >> index) == 0 {
                '-'
            } else {
                ['r', 'w', 'x'][index % 3]
            }
        })
        .collect();
    let time = time::OffsetDateTime::from_unix_timestamp(metadata.mtime())
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let month = &time.month().to_string()[..3];
    format!(
        "{kind}{bits} {:4} {:<8} {:<8} {:8} {month} {:2} {:5} {name}",
        metadata.nlink(),
        metadata.uid(),
        metadata.gid(),
        metadata.size(),
        time.day(),
        time.year(),
    )
}

pub(super) fn status(path: &Path, follow: bool) -> Result<Attributes, Refusal> {
    let metadata = if follow {
        fs::metadata(path)?
    } else {
        fs::symlink_metadata(path)?
    };
    Ok(Attributes::of(&metadata))
}

pub(super) fn change(path: &Path, wanted: &Attributes) -> Result<(), Refusal> {
    if let Some(size) = wanted.size {
        OpenOptions::new().write(true).open(path)?.set_len(size)?;
    }
    if let Some((user, group)) = wanted.owner {
        std::os::unix::fs::chown(path, Some(user), Some(group))?;
    }
    if let Some(mode) = wanted.permissions() {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    if let Some(times) = wanted.timestamps() {
        rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?;
    }
    Ok(())
}

/// As [`change`], for the link itself; a link has no size and no mode to change.
pub(super) fn change_link(path: &Path, wanted: &Attributes) -> Result<(), Refusal> {
    if wanted.size.is_some() {
        return Err(Refusal::Unsupported);
    }
    if let Some((user, group)) = wanted.owner {
        lchown(path, Some(user), Some(group))?;
    }
    if let Some(mode) = wanted.permissions() {
        if fs::symlink_metadata(path)?.is_symlink() {
            return Err(Refusal::Unsupported);
        }
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    if let Some(times) = wanted.timestamps() {
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

pub(super) fn make_folder(path: &Path, wanted: &Attributes) -> Result<(), Refusal> {
    let mode = wanted.permissions().unwrap_or(0o777);
    Ok(DirBuilder::new().mode(mode).create(path)?)
}

/// Moves, and never over something: version 3 says so. (Replacing is `posix-rename`.)
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Refusal> {
    Ok(rustix::fs::renameat_with(
        CWD,
        from,
        CWD,
        to,
        RenameFlags::NOREPLACE,
    )?)
}

/// The absolute path without links; its last part need not exist.
pub(super) fn real_path(path: &Path) -> Result<PathBuf, Refusal> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(error.into());
            };
            let folder = if folder.as_os_str().is_empty() {
                Path::new(".")
            } else {
                folder
            };
            Ok(fs::canonicalize(folder)?.join(name))
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back() {
        for attributes in [
            Attributes::default(),
            Attributes {
                size: Some(1 << 40),
                owner: Some((1, 2)),
                mode: Some(0o100_644),
                times: Some((3, 4)),
            },
            Attributes {
                mode: Some(0o755),
                ..Attributes::default()
            },
            Attributes {
                owner: Some((0, 0)),
                times: Some((5, 6)),
                ..Attributes::default()
            },
        ] {
            let mut packet = Packet::new(0);
            attributes.write(&mut packet);
            let bytes = packet.finish();
            let read = Attributes::read(&mut Reader::new(&bytes[5..])).unwrap();
            assert_eq!(read, attributes);
        }
    }

    #[test]
    fn a_rename_does_not_replace() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        fs::write(&one, "1").unwrap();
        fs::write(&other, "2").unwrap();
        assert!(rename(&one, &other).is_err());
        rename(&one, &folder.path().join("third")).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "2");
        let missing = folder.path().join("not/there");
        assert!(real_path(&missing).is_err());
        let last = real_path(&folder.path().join("new")).unwrap();
        assert!(last.is_absolute() && last.ends_with("new"));
    }
}
