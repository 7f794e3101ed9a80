//! Answers one guest's requests for one shared folder.

use super::folder::{self, Access, Folder, Listed, Time};
use super::nodes::{Kept as KeptNodes, Nodes};
use super::wire::{self, Answer, Attributes, Body, ENTRY_LENGTH, Errno, Opcode, Request};
use crate::qemu::system;
use guest_contract::share::MOST_DATA;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Open files of one share, at most; the system's own limit may come first.
const MOST_HANDLES: usize = 100_000;

pub struct Server {
    folder: Folder,
    read_only: bool,
    nodes: Nodes,
    handles: HashMap<u64, Handle>,
    last_handle: u64,
}

enum Handle {
    File {
        node: u64,
        access: Access,
        file: File,
    },
    /// As it was when it was opened, or last read from its beginning.
    Folder {
        node: u64,
        listed: Vec<Listed>,
        /// Nobody has read it yet.
        fresh: bool,
    },
}

/// What a suspended machine's kernel knows by number.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    nodes: KeptNodes,
    last_handle: u64,
    /// (number, node, how it was opened; `None`: a folder).
    handles: Vec<(u64, u64, Option<Access>)>,
}

impl Server {
    pub fn new(folder: Folder, read_only: bool) -> Server {
        Server {
            folder,
            read_only,
            nodes: Nodes::new(),
            handles: HashMap::new(),
            last_handle: 0,
        }
    }

    pub fn keep(&self) -> Kept {
        let handles = self.handles.iter().map(|(number, handle)| match handle {
            Handle::File { node, access, .. } => (*number, *node, Some(*access)),
            Handle::Folder { node, .. } => (*number, *node, None),
        });
        Kept {
            nodes: self.nodes.keep(),
            last_handle: self.last_handle,
            handles: handles.collect(),
        }
    }

    /// Whoever served this guest before gave numbers that are not known here. New ones begin above all of theirs, which count
    /// from 1 or from an earlier time, so that an old number is an error and never another file.
    pub fn forget_all(&mut self) {
        let since = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let above = since.as_micros() as u64;
        self.handles.clear();
        self.last_handle = above;
        self.nodes = Nodes::above(above);
    }

    /// Files that are gone meanwhile stay closed: the guest gets an error for them.
    pub fn restore(&mut self, kept: Kept) {
        self.nodes = Nodes::from_kept(kept.nodes);
        self.last_handle = kept.last_handle;
        for (number, node, access) in kept.handles {
            let Some(path) = self.nodes.path(node) else {
                continue;
            };
            let opened = match access {
                Some(access) => self
                    .folder
                    .open_file(path, access)
                    .map(|file| Handle::File { node, access, file }),
                None => self.folder.list(path).map(|listed| Handle::Folder {
                    node,
                    listed,
                    fresh: false,
                }),
            };
            if let Ok(handle) = opened {
                self.handles.insert(number, handle);
            }
        }
    }

    /// The answer; `None` where the kernel wants none.
    pub fn serve(&mut self, request: Request<'_>) -> Option<Vec<u8>> {
        match request.opcode {
            Opcode::Forget => {
                if let Ok(times) = { request.body }.u64() {
                    self.nodes.forget(request.node, times);
                }
                return None;
            }
            Opcode::BatchForget => {
                self.forget_many(request.body);
                return None;
            }
            // Nothing here takes long enough to be worth stopping.
            Opcode::Interrupt => return None,
            _ => {}
        }
        let result = match self.read_only && request.opcode.changes() {
            true => Err(Errno::ROFS),
            false => self.answer(&request),
        };
        Some(wire::answer(request.unique, result))
    }

    fn forget_many(&mut self, mut body: Body<'_>) {
        let Ok(count) = body.u32() else { return };
        let _ = body.u32();
        for _ in 0..count {
            let (Ok(node), Ok(times)) = (body.u64(), body.u64()) else {
                return;
            };
            self.nodes.forget(node, times);
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Result<Answer, Errno> {
        let mut body = request.body;
        let node = request.node;
        let mut answer = Answer::default();
        match request.opcode {
            Opcode::Init => return wire::greet(body, MOST_DATA),
            Opcode::Lookup => {
                let name = body.name()?;
                let parent = self.path(node)?;
                let found = match folder::name(name) {
                    Ok(name) => {
                        let path = parent.join(name);
                        self.folder.stat(&path).map(|found| (path, found))
                    }
                    // A name that this computer cannot have is not there.
                    Err(_) => Err(Errno(2)),
                };
                match found {
                    Ok((path, found)) => {
                        self.tell(&mut answer, &path, &found)?;
                    }
                    // Believed as long as everything else.
                    Err(Errno(2)) => {
                        answer.entry(0, &Attributes::default());
                    }
                    Err(errno) => return Err(errno),
                }
            }
            Opcode::Getattr => {
                let flags = body.u32()?;
                let _ = body.u32()?;
                let handle = (flags & 1 != 0).then(|| body.u64()).transpose()?;
                let found = self.attributes(node, handle)?;
                answer.believed_attributes(&found);
            }
            Opcode::Setattr => {
                let found = self.set_attributes(node, body)?;
                answer.believed_attributes(&found);
            }
            Opcode::Readlink => answer.0 = self.folder.read_link(self.path(node)?)?,
            Opcode::Symlink => {
                let path = self.below(node, body.name()?)?;
                self.folder.symlink(body.text()?, &path)?;
                self.tell_new(&mut answer, &path)?;
            }
            Opcode::Mknod => {
                let mode = body.u32()?;
                body.bytes(12)?; // the device, the umask that has been applied, padding
                let path = self.below(node, body.name()?)?;
                self.folder.make_node(&path, mode)?;
                self.tell_new(&mut answer, &path)?;
            }
            Opcode::Mkdir => {
                let mode = body.u32()?;
                body.u32()?;
                let path = self.below(node, body.name()?)?;
                self.folder.make_folder(&path, mode)?;
                self.tell_new(&mut answer, &path)?;
            }
            Opcode::Unlink => {
                let path = self.below(node, body.name()?)?;
                self.folder.remove_file(&path)?;
                self.nodes.removed(&path);
            }
            Opcode::Rmdir => {
                let path = self.below(node, body.name()?)?;
                self.folder.remove_folder(&path)?;
                self.nodes.removed(&path);
            }
            Opcode::Rename | Opcode::Rename2 => self.rename(request)?,
            Opcode::Link => {
                let from = self.path(body.u64()?)?.to_owned();
                let path = self.below(node, body.name()?)?;
                self.folder.link(&from, &path)?;
                self.tell_new(&mut answer, &path)?;
            }
            Opcode::Open => {
                let access = Access::from_flags(body.u32()?);
                if access.write && self.read_only {
                    return Err(Errno::ROFS);
                }
                let file = self.folder.open_file(self.path(node)?, access)?;
                answer.opened(self.hold(Handle::File { node, access, file })?);
            }
            Opcode::Create => {
                let flags = body.u32()?;
                let mode = body.u32()?;
                body.bytes(8)?;
                let path = self.below(node, body.name()?)?;
                let access = Access::from_flags(flags);
                let exclusive = flags & 0o200 != 0;
                let file = self.folder.create(&path, access, exclusive, mode)?;
                if flags & 0o1000 != 0 {
                    file.set_len(0)?;
                }
                let found = folder::attributes_of(&file)?;
                let node = self.tell(&mut answer, &path, &found)?;
                answer.opened(self.hold(Handle::File { node, access, file })?);
            }
            Opcode::Read => answer.0 = self.read(body)?,
            Opcode::Write => {
                let (handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?);
                body.bytes(20)?;
                let data = body.bytes(size as usize)?;
                match self.file(handle)? {
                    (access, file) if access.write => system::write_all_at(file, data, offset)?,
                    _ => return Err(Errno::BADF),
                }
                answer.u32(size);
                answer.u32(0);
            }
            Opcode::Statfs => answer.space(&self.folder.space()?),
            Opcode::Fsync => {
                let (handle, flags) = (body.u64()?, body.u32()?);
                let (_, file) = self.file(handle)?;
                match flags & 1 {
                    1 => file.sync_data()?,
                    _ => file.sync_all()?,
                }
            }
            Opcode::Fsyncdir => self.folder.sync(self.path(node)?)?,
            Opcode::Flush | Opcode::Destroy => {}
            Opcode::Opendir => {
                let listed = self.folder.list(self.path(node)?)?;
                answer.opened(self.hold(Handle::Folder {
                    node,
                    listed,
                    fresh: true,
                })?);
            }
            Opcode::Readdir => answer = self.list(body, false)?,
            Opcode::Readdirplus => answer = self.list(body, true)?,
            Opcode::Release | Opcode::Releasedir => {
                self.handles.remove(&body.u64()?);
            }
            Opcode::Forget | Opcode::BatchForget | Opcode::Interrupt | Opcode::Other(_) => {
                return Err(Errno::NOSYS);
            }
        }
        Ok(answer)
    }

    fn path(&self, node: u64) -> Result<&Path, Errno> {
        self.nodes.path(node).ok_or(Errno::STALE)
    }

    fn below(&self, node: u64, name: &[u8]) -> Result<PathBuf, Errno> {
        Ok(self.path(node)?.join(folder::name(name)?))
    }

    /// Writes the entry of what is at `path`, and remembers that the kernel knows it.
    fn tell(&mut self, answer: &mut Answer, path: &Path, is: &Attributes) -> Result<u64, Errno> {
        let told = self.nodes.tell(path, (is.device, is.inode));
        let node = told.ok_or(Errno(23))?; // ENFILE
        answer.entry(node, is);
        Ok(node)
    }

    fn tell_new(&mut self, answer: &mut Answer, path: &Path) -> Result<u64, Errno> {
        let is = self.folder.stat(path)?;
        self.tell(answer, path, &is)
    }

    fn hold(&mut self, handle: Handle) -> Result<u64, Errno> {
        if self.handles.len() >= MOST_HANDLES {
            return Err(Errno::MFILE);
        }
        self.last_handle += 1;
        self.handles.insert(self.last_handle, handle);
        Ok(self.last_handle)
    }

    fn file(&self, handle: u64) -> Result<(Access, &File), Errno> {
        match self.handles.get(&handle) {
            Some(Handle::File { access, file, .. }) => Ok((*access, file)),
            _ => Err(Errno::BADF),
        }
    }

    /// By the open file where there is one: its name may be gone.
    fn attributes(&self, node: u64, handle: Option<u64>) -> Result<Attributes, Errno> {
        if let Some(handle) = handle
            && let Ok((_, file)) = self.file(handle)
        {
            return folder::attributes_of(file);
        }
        if let Some(path) = self.nodes.path(node) {
            return self.folder.stat(path);
        }
        let open = self.handles.values().find_map(|handle| match handle {
            Handle::File {
                node: other, file, ..
            } if *other == node => Some(file),
            _ => None,
        });
        folder::attributes_of(open.ok_or(Errno::STALE)?)
    }

    fn set_attributes(&mut self, node: u64, mut body: Body<'_>) -> Result<Attributes, Errno> {
        const MODE: u32 = 1;
        const USER: u32 = 1 << 1;
        const GROUP: u32 = 1 << 2;
        const SIZE: u32 = 1 << 3;
        const ACCESSED: u32 = 1 << 4;
        const MODIFIED: u32 = 1 << 5;
        const HANDLE: u32 = 1 << 6;
        const ACCESSED_NOW: u32 = 1 << 7;
        const MODIFIED_NOW: u32 = 1 << 8;
        let valid = body.u32()?;
        body.u32()?;
        let handle = body.u64()?;
        let size = body.u64()?;
        body.u64()?; // the lock's owner
        let (accessed, modified) = (body.u64()? as i64, body.u64()? as i64);
        body.u64()?;
        let (accessed_ns, modified_ns) = (body.u32()?, body.u32()?);
        body.u32()?;
        let mode = body.u32()?;
        body.u32()?;
        let (user, group) = (body.u32()?, body.u32()?);
        let given = |bit: u32| valid & bit != 0;
        let handle = given(HANDLE).then_some(handle);

        if given(SIZE) {
            match handle.map(|handle| self.file(handle)) {
                Some(Ok((access, file))) if access.write => file.set_len(size)?,
                _ => {
                    let access = Access {
                        read: false,
                        write: true,
                        append: false,
                    };
                    self.folder
                        .open_file(self.path(node)?, access)?
                        .set_len(size)?;
                }
            }
        }
        if given(MODE) {
            self.folder.set_mode(self.path(node)?, mode)?;
        }
        if given(USER) || given(GROUP) {
            self.folder.set_owner(
                self.path(node)?,
                given(USER).then_some(user),
                given(GROUP).then_some(group),
            )?;
        }
        let time = |now, set, seconds, nanoseconds| match (given(now), given(set)) {
            (true, _) => Time::Now,
            (false, true) => Time::At(seconds, nanoseconds),
            (false, false) => Time::Keep,
        };
        let accessed = time(ACCESSED_NOW, ACCESSED, accessed, accessed_ns);
        let modified = time(MODIFIED_NOW, MODIFIED, modified, modified_ns);
        if !matches!((accessed, modified), (Time::Keep, Time::Keep)) {
            self.folder
                .set_times(self.path(node)?, accessed, modified)?;
        }
        self.attributes(node, handle)
    }

    fn rename(&mut self, request: &Request<'_>) -> Result<(), Errno> {
        const NO_REPLACE: u32 = 1;
        let mut body = request.body;
        let to_folder = body.u64()?;
        let flags = match request.opcode {
            Opcode::Rename2 => {
                let flags = body.u32()?;
                body.u32()?;
                flags
            }
            _ => 0,
        };
        if flags & !NO_REPLACE != 0 {
            return Err(Errno::INVAL);
        }
        let from = self.below(request.node, body.name()?)?;
        let to = self.below(to_folder, body.name()?)?;
        self.folder.rename(&from, &to, flags & NO_REPLACE == 0)?;
        // Two names of one file: the system does nothing, and so do we.
        if self.folder.stat(&from).is_err() {
            self.nodes.renamed(&from, &to);
        }
        Ok(())
    }

    fn read(&self, mut body: Body<'_>) -> Result<Vec<u8>, Errno> {
        let (handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?);
        let (_, file) = self.file(handle)?;
        let mut data = vec![0; (size as usize).min(MOST_DATA)];
        let mut filled = 0;
        // A file's end is where nothing comes any more, not where a read was short.
        while filled < data.len() {
            match system::read_at(file, &mut data[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        data.truncate(filled);
        Ok(data)
    }

    fn list(&mut self, mut body: Body<'_>, with_attributes: bool) -> Result<Answer, Errno> {
        let (handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?);
        let size = (size as usize).min(MOST_DATA);
        let Some(Handle::Folder {
            node,
            listed,
            fresh,
        }) = self.handles.get_mut(&handle)
        else {
            return Err(Errno::BADF);
        };
        let folder = self.nodes.path(*node).ok_or(Errno::STALE)?.to_owned();
        if offset == 0 && !std::mem::take(fresh) {
            *listed = self.folder.list(&folder)?; // rewinddir
        }
        let listed = std::mem::take(listed);
        let mut answer = Answer::default();
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for (index, entry) in listed.iter().enumerate().skip(first) {
            let mut length = wire::directory_entry_length(&entry.name);
            if with_attributes {
                length += ENTRY_LENGTH;
            }
            if answer.0.len() + length > size {
                break;
            }
            if with_attributes {
                let itself = entry.name == b"." || entry.name == b"..";
                // What vanished since is looked up by the kernel itself when it matters.
                let found = match (itself, folder::name(&entry.name)) {
                    (false, Ok(name)) => {
                        let path = folder.join(name);
                        self.folder.stat(&path).ok().map(|found| (path, found))
                    }
                    _ => None,
                };
                match found {
                    Some((path, found)) => {
                        self.tell(&mut answer, &path, &found)?;
                    }
                    None => answer.no_entry(),
                }
            }
            answer.directory_entry(entry.inode, index as u64 + 1, entry.kind, &entry.name);
        }
        if let Some(Handle::Folder { listed: place, .. }) = self.handles.get_mut(&handle) {
            *place = listed;
        }
        Ok(answer)
    }
}
