//! Writes tar archives as a stream: ustar, with PAX records where a field does not fit (POSIX.1-2001, "pax Interchange
//! Format"), which is what Docker writes and every reader of the last twenty years reads.

use bytes::Bytes;
use engine::images::ByteStream;
use std::io::{self, Read, Write};
use tokio::sync::mpsc;

const BLOCK: usize = 512;
/// Bytes handed to the reader at a time: few enough that the allocator gives the same warm memory again and again.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for the reader.
const WAITING: usize = 8;
/// The largest number of eleven octal digits: sizes and times beyond it are PAX records.
const ELEVEN_DIGITS: u64 = 0o77_777_777_777;
const SEVEN_DIGITS: u64 = 0o7_777_777;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Folder,
    Fifo,
}

impl EntryKind {
    fn type_flag(self) -> u8 {
        match self {
            EntryKind::File => b'0',
            EntryKind::HardLink => b'1',
            EntryKind::Symlink => b'2',
            EntryKind::CharacterDevice => b'3',
            EntryKind::BlockDevice => b'4',
            EntryKind::Folder => b'5',
            EntryKind::Fifo => b'6',
        }
    }
}

/// One entry without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    pub kind: EntryKind,
    /// Folders end with a slash.
    pub path: Vec<u8>,
    /// Where a link leads; empty for others.
    pub link: Vec<u8>,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes of content that follow; 0 for all but files.
    pub size: u64,
    /// Seconds since 1970. Whole ones, as Docker writes them: fractions would cost a block each.
    pub mtime: i64,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Writes entries one after the other. Used on a blocking thread.
pub struct TarWriter<W> {
    output: W,
}

/// Bytes on their way to an async reader, in large pieces.
pub struct PieceWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl PieceWriter {
    /// The writer, and the stream where its bytes come out.
    pub fn new() -> (PieceWriter, ByteStream) {
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let writer = PieceWriter {
            sender,
            piece: Vec::with_capacity(PIECE),
        };
        let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        (writer, Box::pin(stream))
    }

    fn send(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.sender
            .blocking_send(Ok(piece.into()))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Sends what is left, or the reason why there is no more. A reader that is gone is nobody's trouble.
    pub fn finish(mut self, outcome: io::Result<()>) {
        let error = match outcome {
            Ok(()) => match self.send() {
                Ok(()) => return,
                Err(error) => error,
            },
            Err(error) => error,
        };
        if error.kind() != io::ErrorKind::BrokenPipe {
            let _ = self.sender.blocking_send(Err(error));
        }
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        if self.piece.len() == PIECE {
            self.send()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

impl<W: Write> TarWriter<W> {
    pub fn new(output: W) -> TarWriter<W> {
        TarWriter { output }
    }

    /// Writes an entry that has no content.
    pub fn entry(&mut self, entry: &NewEntry) -> io::Result<()> {
        debug_assert_eq!(entry.size, 0);
        self.header(entry)
    }

    /// Writes a file. Where `content` has become shorter than the header says, zeros stand in: the archive must stay one.
    /// What it has more is left out.
    pub fn file(&mut self, entry: &NewEntry, content: impl Read) -> io::Result<()> {
        self.header(entry)?;
        let mut content = content.take(entry.size);
        let mut buffer = vec![0u8; PIECE.min(entry.size as usize + 1)];
        let mut written = 0;
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    self.output.write_all(&buffer[..count])?;
                    written += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.zeros(entry.size - written)?;
        self.pad(entry.size)
    }

    /// The two blocks that end an archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.zeros(2 * BLOCK as u64)?;
        Ok(self.output)
    }

    fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        let zeros = [0u8; 4096];
        while count > 0 {
            let most = zeros
                .len()
                .min(usize::try_from(count).unwrap_or(usize::MAX));
            self.output.write_all(&zeros[..most])?;
            count -= most as u64;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.zeros(size.next_multiple_of(BLOCK as u64) - size)
    }

    fn header(&mut self, entry: &NewEntry) -> io::Result<()> {
        let mut records = Vec::new();
        let place = split_name(&entry.path);
        if place.is_none() {
            record(&mut records, b"path", &entry.path);
        }
        if entry.link.len() > 100 {
            record(&mut records, b"linkpath", &entry.link);
        }
        for (key, value, limit) in [
            ("uid", u64::from(entry.uid), SEVEN_DIGITS),
            ("gid", u64::from(entry.gid), SEVEN_DIGITS),
            ("size", entry.size, ELEVEN_DIGITS),
        ] {
            if value > limit {
                record(&mut records, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        if !(0..=ELEVEN_DIGITS as i64).contains(&entry.mtime) {
            record(&mut records, b"mtime", entry.mtime.to_string().as_bytes());
        }
        for (name, value) in &entry.xattrs {
            // The key ends at the first equals sign, so such a name cannot be written.
            if !name.contains(&b'=') {
                let key = [b"SCHILY.xattr.", name.as_slice()].concat();
                record(&mut records, &key, value);
            }
        }
        if !records.is_empty() {
            self.extended(entry, &records)?;
        }
        let (prefix, name) = place.unwrap_or_else(|| (b"", &entry.path[..100]));
        let block = block(entry, prefix, name, entry.kind.type_flag(), entry.size);
        self.output.write_all(&block)
    }

    fn extended(&mut self, entry: &NewEntry, records: &[u8]) -> io::Result<()> {
        let base = entry.path.strip_suffix(b"/").unwrap_or(&entry.path);
        let base = base.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
        let size = records.len() as u64;
        let block = block(entry, b"", &name, b'x', size);
        self.output.write_all(&block)?;
        self.output.write_all(records)?;
        self.pad(size)
    }
}

/// `<length> <key>=<value>\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length += 1;
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Prefix and name as ustar has them: together they are the path, joined by a slash that is in neither. `None` where no
/// slash is in the right place.
fn split_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= 100 {
        return Some((b"", path));
    }
    if path.len() > 256 {
        return None;
    }
    // The name may not be empty, so a folder's last slash does not count.
    let last = path.len() - 1;
    let slash = (path.len() - 101..last.min(156)).find(|place| path[*place] == b'/')?;
    (slash > 0).then(|| (&path[..slash], &path[slash + 1..]))
}

fn block(entry: &NewEntry, prefix: &[u8], name: &[u8], flag: u8, size: u64) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    let mut put = |place: usize, bytes: &[u8]| {
        block[place..place + bytes.len()].copy_from_slice(bytes);
    };
    let seven = |value: u64| format!("{:07o}\0", value.min(SEVEN_DIGITS)).into_bytes();
    let eleven = |value: u64| format!("{:011o}\0", value.min(ELEVEN_DIGITS)).into_bytes();
    put(0, name);
    put(100, &seven(u64::from(entry.mode & 0o7777)));
    put(108, &seven(u64::from(entry.uid)));
    put(116, &seven(u64::from(entry.gid)));
    put(124, &eleven(size));
    put(136, &eleven(u64::try_from(entry.mtime).unwrap_or(0)));
    put(148, b"        ");
    put(156, &[flag]);
    put(157, &entry.link[..entry.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &seven(u64::from(entry.device.0)));
    put(337, &seven(u64::from(entry.device.1)));
    put(345, prefix);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tar::{TarEntry, TarLimits, TarReader};
    use proptest::prelude::*;
    use tar::EntryType;

    fn plain(path: &[u8]) -> NewEntry {
        NewEntry {
            kind: EntryKind::File,
            path: path.to_vec(),
            link: Vec::new(),
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    fn read(bytes: &[u8]) -> Vec<(TarEntry, Vec<u8>)> {
        let mut reader = TarReader::new(bytes, TarLimits::default());
        let mut all = Vec::new();
        while let Some(entry) = reader.next_entry().expect("our own archive") {
            let mut content = Vec::new();
            reader.read_to_end(&mut content).expect("our own archive");
            all.push((entry, content));
        }
        all
    }

    #[test]
    fn a_file_that_shrinks_or_grows_while_it_is_read_leaves_a_good_archive() {
        let mut writer = TarWriter::new(Vec::new());
        let entry = NewEntry {
            size: 5,
            ..plain(b"file")
        };
        writer.file(&entry, &b"abc"[..]).expect("memory");
        writer.file(&entry, &b"abcdefgh"[..]).expect("memory");
        let all = read(&writer.finish().expect("memory"));
        assert_eq!(all[0].1, b"abc\0\0");
        assert_eq!(all[1].1, b"abcde");
    }

    /// Layers that were made here are known by the digests of what this writes: it must be the same for ever.
    #[test]
    fn what_is_written_never_changes() {
        use sha2::{Digest, Sha256};
        let mut writer = TarWriter::new(Vec::new());
        let entry = NewEntry {
            size: 5,
            xattrs: vec![(b"user.x".to_vec(), b"value".to_vec())],
            mtime: 1_700_000_000,
            uid: 1000,
            gid: 100,
            ..plain(b"folder/file")
        };
        writer.file(&entry, &b"hello"[..]).expect("memory");
        let link = NewEntry {
            kind: EntryKind::Symlink,
            link: b"../elsewhere".to_vec(),
            ..plain(&[b"long/".repeat(30), b"link".to_vec()].concat())
        };
        writer.entry(&link).expect("memory");
        let device = NewEntry {
            kind: EntryKind::BlockDevice,
            device: (8, 1),
            mode: 0o6600,
            ..plain(b"device")
        };
        writer.entry(&device).expect("memory");
        let bytes = writer.finish().expect("memory");
        assert_eq!(
            hex::encode(Sha256::digest(&bytes)),
            "93faac62073d2eaafc2610fee0979bca2aca762167755df4bf7fbdfea822d672"
        );
    }

    #[test]
    fn large_numbers_and_long_names_are_records() {
        let long = [b"d/".repeat(200), b"end".to_vec()].concat();
        let entry = NewEntry {
            uid: 3_000_000_000,
            mtime: -7,
            link: long.clone(),
            kind: EntryKind::Symlink,
            xattrs: vec![(b"user.x".to_vec(), b"a\n=b".to_vec())],
            ..plain(&long)
        };
        let mut writer = TarWriter::new(Vec::new());
        writer.entry(&entry).expect("memory");
        let all = read(&writer.finish().expect("memory"));
        let read = &all[0].0;
        assert_eq!(
            (read.uid, read.mtime, read.kind),
            (3_000_000_000, (-7, 0), EntryType::Symlink)
        );
        assert_eq!((&read.path, &read.link), (&long, &long));
        assert_eq!(read.xattrs, entry.xattrs);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            path in "[a-z]{1,60}(/[a-zé]{1,120}){0,4}/?",
            mode in 0u32..0o10000, uid in 0u32..u32::MAX, gid in 0u32..u32::MAX, mtime in any::<i64>(),
            content in proptest::collection::vec(any::<u8>(), 0..2000),
            value in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let entry = NewEntry {
                mode, uid, gid, mtime, size: content.len() as u64,
                xattrs: vec![(b"user.value".to_vec(), value)],
                ..plain(path.as_bytes())
            };
            let mut writer = TarWriter::new(Vec::new());
            writer.file(&entry, &content[..]).expect("memory");
            let bytes = writer.finish().expect("memory");
            prop_assert_eq!(bytes.len() % BLOCK, 0);
            let all = read(&bytes);
            prop_assert_eq!(all.len(), 1);
            let (read, body) = &all[0];
            prop_assert_eq!(&read.path, &entry.path);
            prop_assert_eq!((read.mode, read.uid, read.gid, read.mtime), (mode, uid, gid, (mtime, 0)));
            prop_assert_eq!(&read.xattrs, &entry.xattrs);
            prop_assert_eq!(body, &content);
        }
    }
}
