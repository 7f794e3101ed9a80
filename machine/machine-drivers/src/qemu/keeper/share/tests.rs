//! A guest's kernel, played: requests as bytes, answers as bytes.

use super::folder::Folder;
use super::server::Server;
use super::wire::{REQUEST_HEADER, ROOT, Request};
use super::{Session, SharedFolder, hold_all, read_message, restore_all};
use guest_contract::share::Word;
use std::io::{BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const READLINK: u32 = 5;
const SYMLINK: u32 = 6;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RENAME: u32 = 12;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const INIT: u32 = 26;
const OPENDIR: u32 = 27;
const READDIRPLUS: u32 = 44;
const CREATE: u32 = 35;
const GETXATTR: u32 = 22;

fn message(opcode: u32, node: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = ((REQUEST_HEADER + body.len()) as u32)
        .to_le_bytes()
        .to_vec();
    bytes.extend(opcode.to_le_bytes());
    bytes.extend(7u64.to_le_bytes());
    bytes.extend(node.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(body);
    bytes
}

/// Fields of four and eight bytes, then text.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u32(mut self, value: u32) -> Fields {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Fields {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn text(mut self, text: &str) -> Fields {
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self
    }

    fn bytes(mut self, bytes: &[u8]) -> Fields {
        self.0.extend(bytes);
        self
    }
}

fn fields() -> Fields {
    Fields::default()
}

/// A number in an answer.
fn u64_at(answer: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(answer[at..at + 8].try_into().unwrap())
}

fn u32_at(answer: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(answer[at..at + 4].try_into().unwrap())
}

struct Kernel {
    server: Server,
    folder: tempfile::TempDir,
}

impl Kernel {
    fn new(read_only: bool) -> Kernel {
        let folder = tempfile::tempdir().unwrap();
        Kernel {
            server: Server::new(Folder::open(folder.path()).unwrap(), read_only),
            folder,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// The answer's body, or Linux's number of the error.
    fn ask(&mut self, opcode: u32, node: u64, body: Fields) -> Result<Vec<u8>, i32> {
        let message = message(opcode, node, &body.0);
        let request = Request::parse(&message).unwrap();
        let answer = self.server.serve(request).expect("an answer");
        assert_eq!(u32_at(&answer, 0) as usize, answer.len());
        assert_eq!(u64_at(&answer, 8), 7, "the request's number");
        match u32_at(&answer, 4) as i32 {
            0 => Ok(answer[16..].to_vec()),
            error => Err(-error),
        }
    }

    fn look_up(&mut self, node: u64, name: &str) -> Result<u64, i32> {
        let answer = self.ask(LOOKUP, node, fields().text(name))?;
        match u64_at(&answer, 0) {
            0 => Err(2),
            node => Ok(node),
        }
    }

    fn open(&mut self, node: u64, flags: u32) -> Result<u64, i32> {
        let answer = self.ask(OPEN, node, fields().u32(flags).u32(0))?;
        Ok(u64_at(&answer, 0))
    }

    fn read(&mut self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>, i32> {
        let body = fields().u64(handle).u64(offset).u32(size);
        self.ask(READ, 2, body.u32(0).u64(0).u64(0))
    }

    fn write(&mut self, handle: u64, offset: u64, data: &[u8]) -> Result<u32, i32> {
        let body = fields().u64(handle).u64(offset).u32(data.len() as u32);
        let answer = self.ask(WRITE, 2, body.u32(0).u64(0).u64(0).bytes(data))?;
        Ok(u32_at(&answer, 0))
    }
}

#[test]
fn files_are_found_read_and_written() {
    let mut kernel = Kernel::new(false);
    std::fs::create_dir(kernel.path("a")).unwrap();
    std::fs::write(kernel.path("a/f"), "hello").unwrap();
    let greeting = kernel
        .ask(INIT, 0, fields().u32(7).u32(39).u32(131_072).u32(u32::MAX))
        .unwrap();
    assert_eq!((greeting.len(), u32_at(&greeting, 0)), (64, 7));

    let folder = kernel.look_up(ROOT, "a").unwrap();
    let file = kernel.look_up(folder, "f").unwrap();
    assert_eq!(kernel.look_up(folder, "none"), Err(2));
    let handle = kernel.open(file, 2).unwrap();
    assert_eq!(kernel.read(handle, 0, 4096).unwrap(), b"hello");
    assert_eq!(kernel.read(handle, 3, 4096).unwrap(), b"lo");
    assert_eq!(kernel.write(handle, 5, b" there"), Ok(6));
    assert_eq!(std::fs::read(kernel.path("a/f")).unwrap(), b"hello there");

    // A file keeps its node through a rename, and its handle through its removal.
    let rename = fields().u64(ROOT).text("f").text("g");
    kernel.ask(RENAME, folder, rename).unwrap();
    assert_eq!(kernel.look_up(ROOT, "g"), Ok(file));
    kernel.ask(UNLINK, ROOT, fields().text("g")).unwrap();
    let found = kernel
        .ask(GETATTR, file, fields().u32(1).u32(0).u64(handle))
        .unwrap();
    assert_eq!(u64_at(&found, 16 + 8), 11, "its size");
    assert_eq!(kernel.open(file, 0), Err(116));

    let create = fields().u32(0o102).u32(0o640).u32(0o022).u32(0);
    let made = kernel.ask(CREATE, ROOT, create.text("new")).unwrap();
    let handle = u64_at(&made, 128);
    assert_eq!(kernel.write(handle, 0, b"x"), Ok(1));
    let mode = std::fs::metadata(kernel.path("new")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o7777, 0o640);
    // The size through the name; a mode that would make it run as this person is cut.
    let node = u64_at(&made, 0);
    let set = |valid, size, mode| {
        let zeros = fields().u32(valid).u32(0).u64(0).u64(size).bytes(&[0; 32]);
        zeros.bytes(&[0; 12]).u32(mode).bytes(&[0; 16])
    };
    kernel.ask(SETATTR, node, set(8, 1000, 0)).unwrap();
    kernel.ask(SETATTR, node, set(1, 0, 0o4755)).unwrap();
    let found = std::fs::metadata(kernel.path("new")).unwrap();
    assert_eq!(found.len(), 1000);
    assert_eq!(found.permissions().mode() & 0o7777, 0o755);
    // What we have not: the kernel does not ask again.
    assert_eq!(
        kernel.ask(GETXATTR, node, fields().u64(0).text("user.x")),
        Err(38)
    );
    let forget = message(FORGET, node, &1u64.to_le_bytes());
    assert_eq!(kernel.server.serve(Request::parse(&forget).unwrap()), None);
}

#[test]
fn a_folder_is_listed_with_what_is_in_it() {
    let mut kernel = Kernel::new(false);
    for number in 0..100 {
        std::fs::write(kernel.path(&format!("file-{number}")), "").unwrap();
    }
    let opened = kernel.ask(OPENDIR, ROOT, fields().u32(0).u32(0)).unwrap();
    let handle = u64_at(&opened, 0);
    let mut names = Vec::new();
    let mut offset = 0;
    loop {
        let body = fields().u64(handle).u64(offset).u32(4096);
        let listed = kernel
            .ask(READDIRPLUS, ROOT, body.u32(0).u64(0).u64(0))
            .unwrap();
        if listed.is_empty() {
            break;
        }
        assert!(listed.len() <= 4096);
        let mut at = 0;
        while at < listed.len() {
            offset = u64_at(&listed, at + 128 + 8);
            let length = u32_at(&listed, at + 128 + 16) as usize;
            let name = at + 128 + 24;
            names.push(String::from_utf8(listed[name..name + length].to_vec()).unwrap());
            at = (name + length).next_multiple_of(8);
        }
    }
    names.sort();
    assert_eq!(names.len(), 102);
    assert_eq!(&names[..2], [".", ".."]);
    names.dedup();
    assert_eq!(names.len(), 102);
}

#[test]
fn nothing_leads_out_of_the_folder() {
    let mut kernel = Kernel::new(false);
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    symlink(outside.path(), kernel.path("link")).unwrap();
    let link = kernel.look_up(ROOT, "link").unwrap();
    // The guest gets the text of the link and follows it itself.
    let target = kernel.ask(READLINK, link, fields()).unwrap();
    assert_eq!(target, outside.path().to_str().unwrap().as_bytes());
    // A kernel that lies: through the link, over names that are paths.
    assert!(kernel.look_up(link, "secret").is_err());
    for name in ["..", ".", "", "link/secret", "/etc/passwd"] {
        assert_eq!(kernel.look_up(ROOT, name), Err(22), "{name:?}");
    }
    assert!(kernel.open(link, 0).is_err());
    // A folder becomes a link behind the server's back.
    std::fs::create_dir(kernel.path("d")).unwrap();
    std::fs::write(kernel.path("d/secret"), "mine").unwrap();
    let folder = kernel.look_up(ROOT, "d").unwrap();
    let file = kernel.look_up(folder, "secret").unwrap();
    std::fs::remove_dir_all(kernel.path("d")).unwrap();
    symlink(outside.path(), kernel.path("d")).unwrap();
    assert!(kernel.open(file, 0).is_err());
    assert!(kernel.look_up(folder, "secret").is_err());
    let body = fields().text("new").text("x");
    assert!(kernel.ask(SYMLINK, folder, body).is_err());
    assert!(!outside.path().join("new").exists());
    // A pipe is not opened: nobody could be sure to come back from that.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        kernel.path("pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let pipe = kernel.look_up(ROOT, "pipe").unwrap();
    assert!(kernel.open(pipe, 0).is_err());
}

#[test]
fn what_is_shared_for_reading_is_not_changed() {
    let mut kernel = Kernel::new(true);
    std::fs::write(kernel.path("f"), "hello").unwrap();
    let file = kernel.look_up(ROOT, "f").unwrap();
    let handle = kernel.open(file, 0).unwrap();
    assert_eq!(kernel.read(handle, 0, 10).unwrap(), b"hello");
    const READ_ONLY: i32 = 30;
    assert_eq!(kernel.open(file, 2), Err(READ_ONLY));
    assert_eq!(kernel.write(handle, 0, b"x"), Err(READ_ONLY));
    for (opcode, body) in [
        (MKDIR, fields().u32(0o755).u32(0).text("d")),
        (UNLINK, fields().text("f")),
        (RENAME, fields().u64(ROOT).text("f").text("g")),
        (CREATE, fields().u32(0o102).u32(0o644).u64(0).text("n")),
        (SYMLINK, fields().text("l").text("f")),
        (SETATTR, fields().bytes(&[0; 88])),
    ] {
        assert_eq!(kernel.ask(opcode, ROOT, body), Err(READ_ONLY), "{opcode}");
    }
    assert_eq!(std::fs::read(kernel.path("f")).unwrap(), b"hello");
}

#[test]
fn nonsense_is_an_error_and_no_more() {
    let mut kernel = Kernel::new(false);
    // Every request cut short at every length.
    for opcode in 0..60 {
        for length in 0..48 {
            for filling in [0, 1, 0xff] {
                let message = message(opcode, ROOT, &vec![filling; length]);
                let _ = kernel.server.serve(Request::parse(&message).unwrap());
            }
        }
    }
    assert!(Request::parse(&[0; 39]).is_none());
    assert_eq!(kernel.look_up(999, "x"), Err(116));
    assert_eq!(kernel.read(999, 0, 1), Err(9));
}

/// The guest's end of a port.
struct Port(UnixStream, BufReader<UnixStream>);

impl Port {
    fn read(&mut self) -> Vec<u8> {
        let mut message = Vec::new();
        read_message(&mut self.1, &mut message).unwrap();
        message
    }

    fn ask(&mut self, opcode: u32, node: u64, body: Fields) -> Vec<u8> {
        self.0.write_all(&message(opcode, node, &body.0)).unwrap();
        self.read()
    }
}

fn session(folder: &Path) -> (Arc<Session>, Port) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let shared = SharedFolder {
        host: folder.to_owned(),
        read_only: false,
    };
    let session = Arc::new(Session::new(&shared, ours).unwrap());
    let runs = session.clone();
    std::thread::spawn(move || runs.run());
    let reader = BufReader::new(theirs.try_clone().unwrap());
    (session, Port(theirs, reader))
}

#[test]
fn a_suspended_machine_goes_on_with_its_open_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("f"), "hello").unwrap();
    let state = folder.path().join("state");
    let (first, mut port) = session(folder.path());
    let node = u64_at(&port.ask(LOOKUP, ROOT, fields().text("f")), 16);
    let handle = u64_at(&port.ask(OPEN, node, fields().u32(0).u32(0)), 16);

    let holding = {
        let (sessions, state) = ([first.clone()], state.clone());
        std::thread::spawn(move || hold_all(&sessions, &state))
    };
    assert_eq!(Word::from_bytes(&port.read()), Some(Word::Hold));
    // A request that was on the way is still answered.
    let late = port.ask(GETATTR, node, fields().u32(0).u32(0).u64(0));
    assert_eq!(u32_at(&late, 4), 0);
    port.0.write_all(&Word::Hold.to_bytes()).unwrap();
    assert_eq!(Word::from_bytes(&port.read()), Some(Word::Sync));
    port.0.write_all(&Word::Sync.to_bytes()).unwrap();
    holding.join().unwrap().unwrap();
    drop(port);

    let (second, mut port) = session(folder.path());
    restore_all(&[second], &state);
    assert_eq!(Word::from_bytes(&port.read()), Some(Word::Go));
    let read = fields().u64(handle).u64(0).u32(100);
    let answer = port.ask(READ, node, read.u32(0).u64(0).u64(0));
    assert_eq!(&answer[16..], b"hello");
}

#[test]
fn a_guest_that_is_gone_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let (session, port) = session(folder.path());
    drop(port);
    let why = hold_all(&[session], &folder.path().join("state")).unwrap_err();
    assert!(!why.is_empty());
    assert!(!folder.path().join("state").exists());
}
