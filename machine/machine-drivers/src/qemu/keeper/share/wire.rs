//! FUSE's messages, version 7.31 and later: `struct`s of `include/uapi/linux/fuse.h`, little-endian as both processors
//! are that guests have. The numbers are Linux's, whatever system this program runs on.

use std::time::Duration;

pub const ROOT: u64 = 1;
/// How long the guest may believe a name or attributes without asking again. Short: somebody edits a file on the
/// desktop and runs a container the next moment. Long enough for one `find` or `git status` not to ask twice.
const BELIEVED_FOR: Duration = Duration::from_millis(100);

/// What the guest's kernel asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    Lookup,
    Forget,
    Getattr,
    Setattr,
    Readlink,
    Symlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Rename,
    Link,
    Open,
    Read,
    Write,
    Statfs,
    Release,
    Fsync,
    Flush,
    Init,
    Opendir,
    Readdir,
    Releasedir,
    Fsyncdir,
    Create,
    Interrupt,
    Destroy,
    BatchForget,
    Readdirplus,
    Rename2,
    /// Extended attributes, locks, ioctls and whatever comes later: the kernel is told that there is no such thing and
    /// does not ask again.
    Other(u32),
}

impl Opcode {
    fn from_number(number: u32) -> Opcode {
        match number {
            1 => Opcode::Lookup,
            2 => Opcode::Forget,
            3 => Opcode::Getattr,
            4 => Opcode::Setattr,
            5 => Opcode::Readlink,
            6 => Opcode::Symlink,
            8 => Opcode::Mknod,
            9 => Opcode::Mkdir,
            10 => Opcode::Unlink,
            11 => Opcode::Rmdir,
            12 => Opcode::Rename,
            13 => Opcode::Link,
            14 => Opcode::Open,
            15 => Opcode::Read,
            16 => Opcode::Write,
            17 => Opcode::Statfs,
            18 => Opcode::Release,
            20 => Opcode::Fsync,
            25 => Opcode::Flush,
            26 => Opcode::Init,
            27 => Opcode::Opendir,
            28 => Opcode::Readdir,
            29 => Opcode::Releasedir,
            30 => Opcode::Fsyncdir,
            35 => Opcode::Create,
            36 => Opcode::Interrupt,
            38 => Opcode::Destroy,
            42 => Opcode::BatchForget,
            44 => Opcode::Readdirplus,
            45 => Opcode::Rename2,
            other => Opcode::Other(other),
        }
    }

    /// Whether it changes something: refused where a folder is shared for reading.
    pub fn changes(self) -> bool {
        matches!(
            self,
            Opcode::Setattr
                | Opcode::Symlink
                | Opcode::Mknod
                | Opcode::Mkdir
                | Opcode::Unlink
                | Opcode::Rmdir
                | Opcode::Rename
                | Opcode::Rename2
                | Opcode::Link
                | Opcode::Write
                | Opcode::Create
        )
    }
}

/// Errors by Linux's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const PERM: Errno = Errno(1);
    pub const IO: Errno = Errno(5);
    pub const BADF: Errno = Errno(9);
    pub const INVAL: Errno = Errno(22);
    pub const MFILE: Errno = Errno(24);
    pub const ROFS: Errno = Errno(30);
    pub const NAMETOOLONG: Errno = Errno(36);
    pub const NOSYS: Errno = Errno(38);
    pub const STALE: Errno = Errno(116);
}

/// `fuse_in_header` and what follows it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub opcode: Opcode,
    pub unique: u64,
    pub node: u64,
    pub body: Body<'a>,
}

pub const REQUEST_HEADER: usize = 40;

impl<'a> Request<'a> {
    /// `None` when the message is shorter than its header.
    pub fn parse(message: &'a [u8]) -> Option<Request<'a>> {
        let mut header = Body(message.get(..REQUEST_HEADER)?);
        let _length = header.u32().ok()?;
        Some(Request {
            opcode: Opcode::from_number(header.u32().ok()?),
            unique: header.u64().ok()?,
            node: header.u64().ok()?,
            body: Body(&message[REQUEST_HEADER..]),
        })
    }
}

/// Reads fields one after the other; too short a message is invalid.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a>(pub &'a [u8]);

impl<'a> Body<'a> {
    pub fn u32(&mut self) -> Result<u32, Errno> {
        self.bytes(4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    pub fn u64(&mut self) -> Result<u64, Errno> {
        self.bytes(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(taken)
    }

    /// Text up to a NUL.
    pub fn text(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.bytes(end.ok_or(Errno::INVAL)?)?;
        self.bytes(1)?;
        Ok(text)
    }

    /// One component of a path. Whatever a guest sends, it cannot lead elsewhere.
    pub fn name(&mut self) -> Result<&'a [u8], Errno> {
        let name = self.text()?;
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        Ok(name)
    }
}

/// What `stat` says, in FUSE's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    pub inode: u64,
    pub device: u64,
    pub size: u64,
    pub blocks: u64,
    /// (seconds, nanoseconds): last access, change of the contents, change of the attributes.
    pub accessed: (i64, u32),
    pub modified: (i64, u32),
    pub changed: (i64, u32),
    pub mode: u32,
    pub links: u32,
    pub user: u32,
    pub group: u32,
    pub special_device: u32,
    pub block_size: u32,
}

/// `statfs`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Space {
    pub blocks: u64,
    pub free: u64,
    pub available: u64,
    pub files: u64,
    pub files_free: u64,
    pub block_size: u32,
    pub fragment_size: u32,
}

/// An answer that grows.
#[derive(Debug, Default)]
pub struct Answer(pub Vec<u8>);

impl Answer {
    pub fn u16(&mut self, value: u16) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend(value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    /// `fuse_attr`.
    fn attributes(&mut self, is: &Attributes) {
        for value in [is.inode, is.size, is.blocks] {
            self.u64(value);
        }
        let times = [is.accessed, is.modified, is.changed];
        times.iter().for_each(|time| self.u64(time.0 as u64));
        times.iter().for_each(|time| self.u32(time.1));
        for value in [
            is.mode,
            is.links,
            is.user,
            is.group,
            is.special_device,
            is.block_size,
            0,
        ] {
            self.u32(value);
        }
    }

    /// `fuse_attr_out`.
    pub fn believed_attributes(&mut self, is: &Attributes) {
        self.u64(0);
        self.u32(BELIEVED_FOR.subsec_nanos());
        self.u32(0);
        self.attributes(is);
    }

    /// `fuse_entry_out`.
    pub fn entry(&mut self, node: u64, is: &Attributes) {
        self.u64(node);
        self.u64(0); // generation: numbers of nodes are never used twice
        self.u64(0);
        self.u64(0);
        self.u32(BELIEVED_FOR.subsec_nanos());
        self.u32(BELIEVED_FOR.subsec_nanos());
        self.attributes(is);
    }

    /// `fuse_entry_out` of a name the kernel is to look up itself.
    pub fn no_entry(&mut self) {
        self.0.extend([0; ENTRY_LENGTH]);
    }

    /// `fuse_open_out`.
    pub fn opened(&mut self, handle: u64) {
        self.u64(handle);
        self.u32(0);
        self.u32(0);
    }

    /// `fuse_dirent`, padded to eight bytes.
    pub fn directory_entry(&mut self, inode: u64, next: u64, kind: u32, name: &[u8]) {
        self.u64(inode);
        self.u64(next);
        self.u32(name.len() as u32);
        self.u32(kind);
        self.0.extend(name);
        self.0.extend(std::iter::repeat_n(0, padding(name)));
    }

    /// `fuse_statfs_out`.
    pub fn space(&mut self, is: &Space) {
        for value in [is.blocks, is.free, is.available, is.files, is.files_free] {
            self.u64(value);
        }
        for value in [is.block_size, 255, is.fragment_size, 0] {
            self.u32(value);
        }
        self.0.extend([0; 24]);
    }
}

pub const ENTRY_LENGTH: usize = 128;

fn padding(name: &[u8]) -> usize {
    name.len().next_multiple_of(8) - name.len()
}

/// Bytes of one entry of a folder.
pub fn directory_entry_length(name: &[u8]) -> usize {
    24 + name.len() + padding(name)
}

/// `fuse_out_header` and the answer behind it.
pub fn answer(unique: u64, result: Result<Answer, Errno>) -> Vec<u8> {
    let (error, body) = match result {
        Ok(answer) => (0, answer.0),
        Err(errno) => (-errno.0, Vec::new()),
    };
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_le_bytes());
    message.extend(error.to_le_bytes());
    message.extend(unique.to_le_bytes());
    message.extend(body);
    message
}

/// `fuse_init_in` in, `fuse_init_out` out.
pub fn greet(mut body: Body<'_>, most_data: usize) -> Result<Answer, Errno> {
    let major = body.u32()?;
    let _minor = body.u32()?;
    let read_ahead = body.u32()?;
    let offered = body.u32()?;
    if major != 7 {
        return Err(Errno(71)); // EPROTO
    }
    const ASYNC_READ: u32 = 1 << 0;
    const BIG_WRITES: u32 = 1 << 5;
    const AUTO_INVALIDATE: u32 = 1 << 12;
    const READDIRPLUS: u32 = 1 << 13;
    const READDIRPLUS_AUTO: u32 = 1 << 14;
    const PARALLEL_DIROPS: u32 = 1 << 18;
    const MAX_PAGES: u32 = 1 << 22;
    let wanted = ASYNC_READ
        | BIG_WRITES
        | AUTO_INVALIDATE
        | READDIRPLUS
        | READDIRPLUS_AUTO
        | PARALLEL_DIROPS
        | MAX_PAGES;
    let mut answer = Answer::default();
    answer.u32(7);
    answer.u32(31);
    answer.u32(read_ahead.max(most_data as u32));
    answer.u32(offered & wanted);
    answer.u16(64); // requests that nobody waits for, at once
    answer.u16(48);
    answer.u32(most_data as u32);
    answer.u32(1); // times count nanoseconds
    answer.u16((most_data / 4096) as u16);
    answer.0.resize(64, 0);
    Ok(answer)
}
