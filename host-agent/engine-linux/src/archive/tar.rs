//! Reads tar archives that strangers made: ustar, GNU and PAX, with a bound on everything that is held in memory.
//!
//! The `tar` crate reads the header fields; the sequence of entries is ours because the crate reads long names and
//! PAX records of any size into memory.

use super::decode::read_buffered;
use super::sparse::{self, PaxSparse, SparseMap};
use std::io::{self, BufRead, Read};
use std::ops::Range;
use tar::EntryType;

const BLOCK: usize = 512;

/// Bounds on what one archive may ask of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TarLimits {
    pub entries: u64,
    /// Bytes of a path or link target; the kernel's PATH_MAX.
    pub name: usize,
    /// Bytes of one PAX header or long name record: all extended attributes of an entry together.
    pub records: u64,
}

impl Default for TarLimits {
    fn default() -> Self {
        TarLimits {
            entries: 4_000_000,
            name: 4096,
            records: 1 << 20,
        }
    }
}

/// One entry; its content is read from the [`TarReader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    pub kind: EntryType,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    pub size: u64,
    pub device: (u32, u32),
    /// `SCHILY.xattr.*`: name and value.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the content belongs, for a file with holes.
    pub sparse: Option<SparseMap>,
    /// `BERTH.sha256`: the digest of a content that is not sent because the reader has it (build contexts only).
    pub content: Option<String>,
}

impl TarEntry {
    /// The path for messages.
    pub fn display(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// A tar archive being read. `Read` and `BufRead` give the content of the current entry; the latter without a copy.
pub struct TarReader<R> {
    input: R,
    limits: TarLimits,
    entries: u64,
    /// Bytes of the current entry still unread, and of the padding behind it.
    remaining: u64,
    padding: u64,
    /// `None`: in a block boundary where the archive may end.
    global: Records,
}

/// PAX records we understand.
#[derive(Debug, Clone, Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
    content: Option<String>,
}

pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl<R: BufRead> TarReader<R> {
    pub fn new(input: R, limits: TarLimits) -> TarReader<R> {
        TarReader {
            input,
            limits,
            entries: 0,
            remaining: 0,
            padding: 0,
            global: Records::default(),
        }
    }

    /// The input, wherever it stands.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; what is unread of the current one is skipped.
    pub fn next_entry(&mut self) -> io::Result<Option<TarEntry>> {
        let mut long_name = None;
        let mut long_link = None;
        let mut records: Option<Records> = None;
        loop {
            self.skip_current()?;
            let Some(header) = self.read_header()? else {
                if long_name.is_some() || long_link.is_some() || records.is_some() {
                    return Err(invalid(
                        "the archive ends after a header that announces an entry",
                    ));
                }
                return Ok(None);
            };
            self.entries += 1;
            if self.entries > self.limits.entries {
                return Err(invalid(format!(
                    "the archive has more than {} entries",
                    self.limits.entries
                )));
            }
            let size = unsigned(&header, SIZE)?;
            let kind = header.entry_type();
            match kind {
                EntryType::GNULongName => long_name = Some(self.read_name(size)?),
                EntryType::GNULongLink => long_link = Some(self.read_name(size)?),
                EntryType::XHeader => {
                    let bytes = self.read_records(size)?;
                    records = Some(parse_records(&bytes, self.global.clone())?);
                }
                EntryType::XGlobalHeader => {
                    let bytes = self.read_records(size)?;
                    self.global = parse_records(&bytes, self.global.clone())?;
                }
                _ => {
                    let records = records.take().unwrap_or_else(|| self.global.clone());
                    let old_map = match kind {
                        EntryType::GNUSparse => Some(self.old_sparse_map(&header)?),
                        _ => None,
                    };
                    let kind = match kind {
                        EntryType::GNUSparse => EntryType::Regular,
                        other => other,
                    };
                    let mut entry =
                        self.entry(&header, kind, size, long_name, long_link, &records)?;
                    entry.sparse = match old_map {
                        Some(map) => Some(map),
                        None if kind == EntryType::Regular => {
                            self.pax_sparse_map(&records.sparse)?
                        }
                        None => None,
                    };
                    if let Some(map) = &entry.sparse {
                        entry.size = self.remaining;
                        map.check(entry.size)?;
                    }
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn entry(
        &mut self,
        header: &tar::Header,
        kind: EntryType,
        size: u64,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        records: &Records,
    ) -> io::Result<TarEntry> {
        let records = records.clone();
        let size = records.size.unwrap_or(size);
        let path = records
            .sparse
            .name
            .or(records.path)
            .or(long_name)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = records.link.or(long_link).unwrap_or_else(|| {
            header
                .link_name_bytes()
                .map_or_else(Vec::new, |link| link.into_owned())
        });
        for name in [&path, &link] {
            if name.len() > self.limits.name {
                return Err(invalid(format!(
                    "a name of {} bytes is longer than {}",
                    name.len(),
                    self.limits.name
                )));
            }
            if name.contains(&0) {
                return Err(invalid("a name has a zero byte in it"));
            }
        }
        let owner = |given: Option<u64>, header: io::Result<u64>, what: &str| {
            let number = match given {
                Some(number) => number,
                None => header?,
            };
            // 2^32 - 1 means "do not change" to chown.
            u32::try_from(number)
                .ok()
                .filter(|number| *number != u32::MAX)
                .ok_or_else(|| invalid(format!("{what} {number} is too large")))
        };
        let has_content = matches!(
            kind,
            EntryType::Regular | EntryType::Continuous | EntryType::Link
        ) || !matches!(
            kind,
            EntryType::Symlink
                | EntryType::Char
                | EntryType::Block
                | EntryType::Directory
                | EntryType::Fifo
        );
        // A size on an entry that can have no content is only a remark (old tars write it for hard links too, and Go
        // ignores it there).
        let content = if has_content && kind != EntryType::Link {
            size
        } else {
            0
        };
        self.remaining = content;
        self.padding = padding(content);
        // Other entries may have anything there, and the oldest format has no such fields.
        let device = match kind {
            EntryType::Char | EntryType::Block => {
                let part = |field| {
                    u32::try_from(unsigned(header, field)?)
                        .map_err(|_| invalid("a device number is too large"))
                };
                (part(MAJOR)?, part(MINOR)?)
            }
            _ => (0, 0),
        };
        Ok(TarEntry {
            kind,
            path,
            link,
            mode: (unsigned(header, MODE)? & 0o7777) as u32,
            uid: owner(records.uid, unsigned(header, UID), "uid")?,
            gid: owner(records.gid, unsigned(header, GID), "gid")?,
            mtime: match records.mtime {
                Some(mtime) => mtime,
                None => (number(header, MTIME)?, 0),
            },
            size: content,
            device,
            xattrs: records.xattrs,
            sparse: None,
            content: records.content,
        })
    }

    /// The map of GNU's oldest form: four parts in the header, more in blocks behind it.
    fn old_sparse_map(&mut self, header: &tar::Header) -> io::Result<SparseMap> {
        let mut map = SparseMap {
            size: unsigned(header, sparse::OLD_SIZE)?,
            parts: Vec::new(),
        };
        let mut has_more =
            sparse::old_parts(header.as_bytes(), sparse::OLD_PARTS, &mut map, number_of)?;
        let mut blocks = 0;
        while has_more {
            blocks += 1;
            if blocks * BLOCK as u64 > self.limits.records {
                return Err(invalid("a sparse entry has too many parts"));
            }
            let mut block = [0u8; BLOCK];
            self.input.read_exact(&mut block).map_err(|_| truncated())?;
            has_more = sparse::old_parts(&block, sparse::OLD_MORE_PARTS, &mut map, number_of)?;
        }
        Ok(map)
    }

    /// The map of the PAX forms 0.0 and 0.1 (in the records) and 1.0 (at the beginning of the content).
    fn pax_sparse_map(&mut self, records: &PaxSparse) -> io::Result<Option<SparseMap>> {
        if !records.is_given() {
            return Ok(None);
        }
        if records.major != 1 {
            return records.map().map(Some);
        }
        let mut text = Vec::new();
        loop {
            let mut block = [0u8; BLOCK];
            self.read_exact(&mut block).map_err(|_| truncated())?;
            text.extend_from_slice(&block);
            if text.len() as u64 > self.limits.records {
                return Err(invalid("a sparse entry has too many parts"));
            }
            if let Some(parts) = sparse::parse_lines(&text)? {
                return Ok(Some(SparseMap {
                    size: records.size.unwrap_or(0),
                    parts,
                }));
            }
        }
    }

    /// A header block; `None` at the archive's end: two zero blocks, or no more bytes.
    fn read_header(&mut self) -> io::Result<Option<tar::Header>> {
        for _ in 0..2 {
            let mut block = [0u8; BLOCK];
            let mut filled = 0;
            while filled < BLOCK {
                match self.input.read(&mut block[filled..])? {
                    0 if filled == 0 => return Ok(None),
                    0 => return Err(truncated()),
                    count => filled += count,
                }
            }
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let header = tar::Header::from_byte_slice(&block).clone();
            // The sum counts its own eight bytes as blanks.
            let sum_of = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
            let sum = sum_of(&block) - sum_of(&block[SUM]) + 8 * u32::from(b' ');
            if header.cksum().ok() != Some(sum) {
                return Err(invalid(
                    "a header's checksum is wrong: this is not a tar archive, or it is damaged",
                ));
            }
            return Ok(Some(header));
        }
        Ok(None)
    }

    fn read_name(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut name = self.read_records(size)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_records(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > self.limits.records {
            return Err(invalid(format!(
                "an extended header has {size} bytes, more than {}",
                self.limits.records
            )));
        }
        self.remaining = size;
        self.padding = padding(size);
        let mut bytes = Vec::with_capacity(size as usize);
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn skip_current(&mut self) -> io::Result<()> {
        loop {
            let count = self.fill_buf()?.len();
            if count == 0 {
                break;
            }
            self.consume(count);
        }
        let mut block = [0u8; BLOCK];
        let padding = std::mem::take(&mut self.padding) as usize;
        match self.input.read_exact(&mut block[..padding]) {
            // As Go's reader, and so Docker, has it: padding that is not there ends the archive. The stock client sends such
            // a context where its Dockerfile is not one of its files.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            outcome => outcome,
        }
    }
}

impl<R: BufRead> BufRead for TarReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let ready = self.input.fill_buf()?;
        if ready.is_empty() {
            return Err(truncated());
        }
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        Ok(&ready[..ready.len().min(most)])
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.remaining -= count as u64;
    }
}

impl<R: BufRead> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the archive ends in the middle of an entry",
    )
}

// Where the numbers are in a header (POSIX.1-1988 ustar).
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const SUM: Range<usize> = 148..156;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;

/// A number of a header: octal digits, or GNU's base 256 where the top bit is set. Blank is 0, as Go reads it; the `tar`
/// crate refuses that.
fn number(header: &tar::Header, field: Range<usize>) -> io::Result<i64> {
    number_of(&header.as_bytes()[field])
}

fn number_of(bytes: &[u8]) -> io::Result<i64> {
    let bad = || invalid("a number in a header is malformed");
    if bytes[0] & 0x80 != 0 {
        let is_negative = bytes[0] & 0x40 != 0;
        let mut value: i128 = if is_negative { -1 } else { 0 };
        for (at, byte) in bytes.iter().enumerate() {
            let byte = match at {
                0 if is_negative => byte | 0x80,
                0 => byte & 0x7f,
                _ => *byte,
            };
            value = (value << 8) | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| bad());
    }
    let digits = bytes
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default()
        .trim_ascii();
    if digits.is_empty() {
        return Ok(0);
    }
    let text = std::str::from_utf8(digits).map_err(|_| bad())?;
    i64::from_str_radix(text, 8).map_err(|_| bad())
}

fn unsigned(header: &tar::Header, field: Range<usize>) -> io::Result<u64> {
    u64::try_from(number(header, field)?).map_err(|_| invalid("a number in a header is negative"))
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

/// `<length> <key>=<value>\n`, again and again (POSIX pax, "Extended Header").
fn parse_records(mut bytes: &[u8], mut records: Records) -> io::Result<Records> {
    let bad = || invalid("a PAX header is malformed");
    while !bytes.is_empty() {
        let space = bytes
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(bad)?;
        let length: usize = std::str::from_utf8(&bytes[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(bad)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(bad());
        }
        let record = &bytes[space + 1..length - 1];
        bytes = &bytes[length..];
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(bad)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let number = || -> io::Result<Option<u64>> {
            // An empty value takes a global record back.
            if value.is_empty() {
                return Ok(None);
            }
            let text = std::str::from_utf8(value).map_err(|_| bad())?;
            text.parse().map(Some).map_err(|_| bad())
        };
        let text = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => records.path = text(),
            b"linkpath" => records.link = text(),
            b"size" => records.size = number()?,
            b"uid" => records.uid = number()?,
            b"gid" => records.gid = number()?,
            b"mtime" => records.mtime = parse_mtime(value),
            b"BERTH.sha256" => {
                records.content = text().and_then(|text| String::from_utf8(text).ok());
            }
            _ if key.starts_with(b"GNU.sparse.") => {
                records.sparse.take(&key[b"GNU.sparse.".len()..], value)?;
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
                    && !name.is_empty()
                    && !name.contains(&0)
                {
                    records.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
    }
    Ok(records)
}

/// Seconds, perhaps negative, perhaps with a fraction.
fn parse_mtime(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some((seconds - 1, 1_000_000_000 - nanoseconds)),
        false => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> io::Result<Vec<(TarEntry, Vec<u8>)>> {
        let mut reader = TarReader::new(bytes, TarLimits::default());
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            reader.read_to_end(&mut content)?;
            found.push((entry, content));
        }
        Ok(found)
    }

    fn archive_of(names: &[&str]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for name in names {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            header.set_mode(0o644);
            builder
                .append_data(&mut header, name, &b"abc"[..])
                .expect("memory");
        }
        builder.into_inner().expect("memory")
    }

    #[test]
    fn entries_long_names_and_pax_records_are_read() {
        let long = "d/".repeat(150) + "file";
        let mut builder = tar::Builder::new(archive_of(&["a", &long])[..].to_vec());
        builder
            .append_pax_extensions([
                ("SCHILY.xattr.user.x", &b"v\n="[..]),
                ("mtime", &b"-1.5"[..]),
            ])
            .expect("memory");
        // The builder was begun behind a finished archive: read the parts apart.
        drop(builder);
        let found = read_all(&archive_of(&["a", &long])).expect("good");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].1, b"abc");
        assert_eq!(found[1].0.path, long.as_bytes());

        let mut builder = tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([
                ("SCHILY.xattr.user.x", &b"v\n="[..]),
                ("mtime", &b"-1.5"[..]),
            ])
            .expect("memory");
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_mode(0o4755);
        builder
            .append_data(&mut header, "x", io::empty())
            .expect("memory");
        let found = read_all(&builder.into_inner().expect("memory")).expect("good");
        assert_eq!(found[0].0.xattrs, [(b"user.x".to_vec(), b"v\n=".to_vec())]);
        assert_eq!(found[0].0.mtime, (-2, 500_000_000));
        assert_eq!(found[0].0.mode, 0o4755);
    }

    #[test]
    fn a_truncated_or_damaged_archive_is_an_error() {
        let whole = archive_of(&["a", "b"]);
        assert!(read_all(&whole[..513]).is_err());
        assert!(read_all(&whole[..BLOCK * 2 + 100]).is_err());
        let mut damaged = whole.clone();
        damaged[3] ^= 1;
        assert!(read_all(&damaged).is_err());
        assert!(read_all(b"").expect("an empty archive").is_empty());
    }

    #[test]
    fn an_archive_may_end_in_the_padding_of_an_entry() {
        let whole = archive_of(&["a", "b"]);
        let contents = |bytes: &[u8]| -> Vec<Vec<u8>> {
            let found = read_all(bytes).expect("good");
            found.into_iter().map(|(_, content)| content).collect()
        };
        // The header and the three bytes of the second entry are there, of its padding some, or nothing.
        for end in [BLOCK * 3 + 3, BLOCK * 3 + 88, BLOCK * 4] {
            assert_eq!(contents(&whole[..end]), [b"abc", b"abc"], "{end}");
        }
        assert_eq!(contents(&whole[..600]), [b"abc"]);
    }

    #[test]
    fn numbers_are_octal_blank_or_base_256() {
        let read = |bytes: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[MTIME].fill(0);
            header.as_mut_bytes()[MTIME][..bytes.len()].copy_from_slice(bytes);
            number(&header, MTIME).ok()
        };
        assert_eq!(read(b""), Some(0));
        assert_eq!(read(b"       "), Some(0));
        assert_eq!(read(b" 0000755 "), Some(0o755));
        assert_eq!(read(b"12x"), None);
        assert_eq!(
            read(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1]),
            Some(0x2_0000_0001)
        );
        assert_eq!(read(&[0xff; 12]), Some(-1));
        assert_eq!(
            read(&[
                0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0
            ]),
            None
        );
    }

    #[test]
    fn a_huge_long_name_is_refused_before_it_is_read() {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(10 << 30);
        header.set_cksum();
        let mut input = header.as_bytes().to_vec();
        input.resize(4096, b'a');
        let error = read_all(&input).expect_err("refused");
        assert!(error.to_string().contains("more than"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..3000)) {
            let _ = read_all(&bytes);
            // And with a good checksum, so that the fields are looked at.
            if bytes.len() >= BLOCK {
                let mut header = tar::Header::from_byte_slice(&bytes[..BLOCK]).clone();
                header.set_cksum();
                bytes[..BLOCK].copy_from_slice(header.as_bytes());
                let _ = read_all(&bytes);
            }
        }
    }
}
