//! An sftp server on standard input and output: version 3 of the protocol, which every client speaks, with the OpenSSH
//! extensions that its `sftp` and `scp` use. One request at a time; clients send many ahead.
//!
//! Format: draft-ietf-secsh-filexfer-02; the extensions: OpenSSH's PROTOCOL file.

mod files;
mod wire;

use files::{Attributes, Files};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::process::ExitCode;
use wire::{Packet, Reader};

const VERSION: u32 = 3;
/// OpenSSH's own limit; also what we tell clients.
const LARGEST_PACKET: u32 = 256 * 1024;
/// The largest read or write: leaves room for the packet's head.
const LARGEST_DATA: u32 = LARGEST_PACKET - 1024;

const INIT: u8 = 1;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const LSTAT: u8 = 7;
const FSTAT: u8 = 8;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const READDIR: u8 = 12;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const REALPATH: u8 = 16;
const STAT: u8 = 17;
const RENAME: u8 = 18;
const READLINK: u8 = 19;
const SYMLINK: u8 = 20;
const EXTENDED: u8 = 200;

const VERSION_REPLY: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

/// What a request is answered with.
enum Reply {
    Done,
    Handle(u32),
    Data(Vec<u8>),
    /// Name, the line `ls -l` would print, attributes.
    Names(Vec<(Vec<u8>, String, Attributes)>),
    Attributes(Attributes),
    Limits,
}

/// Why not.
#[derive(Debug)]
enum Refusal {
    End,
    Unsupported,
    BadMessage,
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Refusal {
        Refusal::Failed(error)
    }
}

impl From<rustix::io::Errno> for Refusal {
    fn from(error: rustix::io::Errno) -> Refusal {
        Refusal::Failed(error.into())
    }
}

impl From<wire::Short> for Refusal {
    fn from(_: wire::Short) -> Refusal {
        Refusal::BadMessage
    }
}

/// Serves the client at the other end of standard input and output.
pub(super) fn main() -> ExitCode {
    match serve(io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sftp-server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(input: impl Read, output: impl Write) -> io::Result<()> {
    let mut input = BufReader::with_capacity(64 * 1024, input);
    let mut output = BufWriter::with_capacity(64 * 1024, output);
    let mut files = Files::default();
    while let Some(packet) = read_packet(&mut input)? {
        output.write_all(&answer(&mut files, &packet)?)?;
        // Several requests that are here already are answered together.
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
    output.flush()
}

fn read_packet(input: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if let Err(error) = input.read_exact(&mut length) {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(error),
        };
    }
    let length = u32::from_be_bytes(length);
    if length == 0 || length > LARGEST_PACKET {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a packet of {length} bytes"),
        ));
    }
    let mut packet = vec![0; length as usize];
    input.read_exact(&mut packet)?;
    Ok(Some(packet))
}

fn answer(files: &mut Files, packet: &[u8]) -> io::Result<Vec<u8>> {
    let mut reader = Reader::new(packet);
    let bad = |_| io::Error::new(io::ErrorKind::InvalidData, "a packet without a head");
    let kind = reader.byte().map_err(bad)?;
    if kind == INIT {
        let mut reply = Packet::new(VERSION_REPLY);
        reply.number(VERSION);
        for (name, version) in [
            ("posix-rename@openssh.com", "1"),
            ("hardlink@openssh.com", "1"),
            ("fsync@openssh.com", "1"),
            ("lsetstat@openssh.com", "1"),
            ("limits@openssh.com", "1"),
        ] {
            reply.text(name.as_bytes()).text(version.as_bytes());
        }
        return Ok(reply.finish());
    }
    let id = reader.number().map_err(bad)?;
    let reply = handle(files, kind, &mut reader);
    Ok(encode(id, reply))
}

fn handle(files: &mut Files, kind: u8, request: &mut Reader<'_>) -> Result<Reply, Refusal> {
    match kind {
        OPEN => {
            let path = request.path()?;
            let flags = request.number()?;
            let attributes = Attributes::read(request)?;
            Ok(Reply::Handle(files.open(path, flags, &attributes)?))
        }
        CLOSE => {
            files.close(request.handle()?)?;
            Ok(Reply::Done)
        }
        READ => {
            let handle = request.handle()?;
            let offset = request.long()?;
            let length = request.number()?.min(LARGEST_DATA);
            Ok(Reply::Data(files.read(handle, offset, length as usize)?))
        }
        WRITE => {
            let handle = request.handle()?;
            let offset = request.long()?;
            files.write(handle, offset, request.text()?)?;
            Ok(Reply::Done)
        }
        LSTAT => Ok(Reply::Attributes(files::status(&request.path()?, false)?)),
        STAT => Ok(Reply::Attributes(files::status(&request.path()?, true)?)),
        FSTAT => Ok(Reply::Attributes(files.status_of(request.handle()?)?)),
        SETSTAT => {
            let path = request.path()?;
            files::change(&path, &Attributes::read(request)?)?;
            Ok(Reply::Done)
        }
        FSETSTAT => {
            let handle = request.handle()?;
            files.change_of(handle, &Attributes::read(request)?)?;
            Ok(Reply::Done)
        }
        OPENDIR => Ok(Reply::Handle(files.open_folder(request.path()?)?)),
        READDIR => Ok(Reply::Names(files.read_folder(request.handle()?)?)),
        REMOVE => {
            std::fs::remove_file(request.path()?)?;
            Ok(Reply::Done)
        }
        MKDIR => {
            let path = request.path()?;
            files::make_folder(&path, &Attributes::read(request)?)?;
            Ok(Reply::Done)
        }
        RMDIR => {
            std::fs::remove_dir(request.path()?)?;
            Ok(Reply::Done)
        }
        REALPATH => {
            let path = files::real_path(&request.path()?)?;
            Ok(Reply::Names(vec![one_name(path)]))
        }
        RENAME => {
            files::rename(&request.path()?, &request.path()?)?;
            Ok(Reply::Done)
        }
        READLINK => {
            let target = std::fs::read_link(request.path()?)?;
            Ok(Reply::Names(vec![one_name(target)]))
        }
        SYMLINK => {
            // OpenSSH's order, which all follow: the target first, not the link as the draft says.
            let target = request.path()?;
            std::os::unix::fs::symlink(target, request.path()?)?;
            Ok(Reply::Done)
        }
        EXTENDED => extended(files, request),
        _ => Err(Refusal::Unsupported),
    }
}

fn extended(files: &mut Files, request: &mut Reader<'_>) -> Result<Reply, Refusal> {
    match request.text()? {
        b"posix-rename@openssh.com" => {
            std::fs::rename(request.path()?, request.path()?)?;
            Ok(Reply::Done)
        }
        b"hardlink@openssh.com" => {
            std::fs::hard_link(request.path()?, request.path()?)?;
            Ok(Reply::Done)
        }
        b"fsync@openssh.com" => {
            files.sync(request.handle()?)?;
            Ok(Reply::Done)
        }
        b"lsetstat@openssh.com" => {
            let path = request.path()?;
            files::change_link(&path, &Attributes::read(request)?)?;
            Ok(Reply::Done)
        }
        b"limits@openssh.com" => Ok(Reply::Limits),
        _ => Err(Refusal::Unsupported),
    }
}

fn one_name(path: std::path::PathBuf) -> (Vec<u8>, String, Attributes) {
    use std::os::unix::ffi::OsStringExt;
    let line = path.display().to_string();
    (
        path.into_os_string().into_vec(),
        line,
        Attributes::default(),
    )
}

fn encode(id: u32, reply: Result<Reply, Refusal>) -> Vec<u8> {
    let head = |kind| {
        let mut packet = Packet::new(kind);
        packet.number(id);
        packet
    };
    let status = |code: u32, text: &str| {
        let mut packet = head(STATUS);
        packet.number(code).text(text.as_bytes()).text(b"");
        packet
    };
    let packet = match reply {
        Ok(Reply::Done) => status(0, "Success"),
        Ok(Reply::Handle(handle)) => {
            let mut packet = head(HANDLE);
            packet.text(&handle.to_be_bytes());
            packet
        }
        Ok(Reply::Data(data)) => {
            let mut packet = head(DATA);
            packet.text(&data);
            packet
        }
        Ok(Reply::Names(names)) => {
            let mut packet = head(NAME);
            packet.number(names.len() as u32);
            for (name, line, attributes) in &names {
                packet.text(name).text(line.as_bytes());
                attributes.write(&mut packet);
            }
            packet
        }
        Ok(Reply::Attributes(attributes)) => {
            let mut packet = head(ATTRS);
            attributes.write(&mut packet);
            packet
        }
        Ok(Reply::Limits) => {
            let mut packet = head(EXTENDED_REPLY);
            packet
                .long(u64::from(LARGEST_PACKET))
                .long(u64::from(LARGEST_DATA))
                .long(u64::from(LARGEST_DATA))
                .long(files::MOST_OPEN as u64);
            packet
        }
        Err(Refusal::End) => status(1, "End of file"),
        Err(Refusal::BadMessage) => status(5, "Bad message"),
        Err(Refusal::Unsupported) => status(8, "Operation unsupported"),
        Err(Refusal::Failed(error)) => {
            let code = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => 2,
                io::ErrorKind::PermissionDenied => 3,
                _ => 4,
            };
            status(code, &error.to_string())
        }
    };
    packet.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(files: &mut Files, kind: u8, fill: impl FnOnce(&mut Packet)) -> (u8, Vec<u8>) {
        let mut packet = Packet::new(kind);
        packet.number(7);
        fill(&mut packet);
        let reply = answer(files, &packet.finish()[4..]).unwrap();
        assert_eq!(
            u32::from_be_bytes(reply[..4].try_into().unwrap()) as usize,
            reply.len() - 4
        );
        assert_eq!(reply[5..9], [0, 0, 0, 7]);
        (reply[4], reply[9..].to_vec())
    }

    #[track_caller]
    fn check_status(reply: (u8, Vec<u8>), code: u8) {
        assert_eq!(reply.0, STATUS);
        assert_eq!(
            reply.1[..4],
            [0, 0, 0, code],
            "{:?}",
            String::from_utf8_lossy(&reply.1)
        );
    }

    #[test]
    fn nonsense_is_refused_and_the_server_goes_on() {
        let mut files = Files::default();
        check_status(ask(&mut files, OPEN, |_| {}), 5);
        check_status(
            ask(&mut files, OPEN, |packet| {
                packet.number(u32::MAX);
            }),
            5,
        );
        check_status(
            ask(&mut files, LSTAT, |packet| {
                packet.text(b"/with\0zero");
            }),
            5,
        );
        check_status(
            ask(&mut files, LSTAT, |packet| {
                packet.text(b"/does/not/exist");
            }),
            2,
        );
        check_status(
            ask(&mut files, CLOSE, |packet| {
                packet.text(&9u32.to_be_bytes());
            }),
            4,
        );
        check_status(ask(&mut files, 99, |_| {}), 8);
        check_status(
            ask(&mut files, EXTENDED, |packet| {
                packet.text(b"unknown@example.com");
            }),
            8,
        );
        assert!(answer(&mut files, &[OPEN]).is_err());
        assert!(serve(&[0xff, 0xff, 0xff, 0xff, 1][..], io::sink()).is_err());
        assert!(serve(&[0, 0, 0, 0][..], io::sink()).is_err());
        assert!(serve(&[0, 0, 0, 9, 3][..], io::sink()).is_err());
        assert!(serve(&[][..], io::sink()).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn no_request_makes_it_panic(kind in 0u8..25, rest in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            // Only requests that cannot change anything.
            proptest::prop_assume!(matches!(kind, CLOSE | READ | FSTAT | READDIR | STAT | LSTAT | READLINK | REALPATH | OPENDIR));
            let mut packet = vec![kind];
            packet.extend(rest);
            let _ = answer(&mut Files::default(), &packet);
        }
    }
}
