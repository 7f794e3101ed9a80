//! Writes a container's output in Docker's json-file form:
//! `{"log":"a line\n","stream":"stdout","time":"2026-01-02T03:04:05.6Z"}`, one object a line.
//!
//! One read of the container's pipe becomes one write of the file. A line longer than 16 KiB is written in parts
//! without a newline, as Docker does (moby daemon/logger/copier.go); a line not yet ended waits for its rest.

use engine::runtime::{LogPlan, StreamKind};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Longest piece of a line that is logged as one entry, bytes (Docker's `defaultBufSize`).
pub const LONGEST_PART: usize = 16 << 10;

/// The open log of one container.
pub struct LogWriter {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    compress: bool,
    /// `"attrs":{...},` or nothing.
    attributes: String,
    /// The begun line of each stream.
    rest: [Vec<u8>; 2],
    batch: Vec<u8>,
    /// The process that compresses the file rotated last.
    compressor: Option<nix::unistd::Pid>,
}

impl LogWriter {
    /// Opens the log for appending; `None` where the plan wants no log.
    pub fn open(plan: &LogPlan) -> io::Result<Option<LogWriter>> {
        let LogPlan::JsonFile {
            path,
            max_size,
            max_files,
            compress,
            attributes,
            ..
        } = plan
        else {
            return Ok(None);
        };
        let file = open_file(path)?;
        Ok(Some(LogWriter {
            size: file.metadata()?.len(),
            file,
            path: path.clone(),
            max_size: *max_size,
            max_files: (*max_files).max(1),
            compress: *compress,
            attributes: attributes_text(attributes),
            rest: [Vec::new(), Vec::new()],
            batch: Vec::new(),
            compressor: None,
        }))
    }

    /// Takes what one read of a stream gave.
    pub fn write(&mut self, stream: StreamKind, data: &[u8]) -> io::Result<()> {
        self.append(stream, data, OffsetDateTime::now_utc())?;
        self.flush()
    }

    /// As [`LogWriter::write`], of this time, and without writing it yet.
    pub(super) fn append(
        &mut self,
        stream: StreamKind,
        mut data: &[u8],
        at: OffsetDateTime,
    ) -> io::Result<()> {
        let tail = tail_of(stream, &self.attributes, at);
        while !data.is_empty() {
            let rest = &mut self.rest[stream as usize];
            let room = LONGEST_PART - rest.len();
            let window = &data[..data.len().min(room)];
            let (taken, whole) = match memchr::memchr(b'\n', window) {
                Some(position) => (position + 1, true),
                None => (window.len(), window.len() == room),
            };
            if !whole {
                rest.extend_from_slice(window);
                break;
            }
            if rest.is_empty() {
                append_entry(&mut self.batch, &data[..taken], &tail);
            } else {
                rest.extend_from_slice(&data[..taken]);
                let line = std::mem::take(rest);
                append_entry(&mut self.batch, &line, &tail);
            }
            data = &data[taken..];
            if self
                .max_size
                .is_some_and(|most| self.size + self.batch.len() as u64 >= most)
            {
                self.flush()?;
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// Writes the begun lines: the streams have ended.
    pub fn finish(&mut self) -> io::Result<()> {
        for stream in [StreamKind::Stdout, StreamKind::Stderr] {
            let line = std::mem::take(&mut self.rest[stream as usize]);
            if !line.is_empty() {
                let tail = tail_of(stream, &self.attributes, OffsetDateTime::now_utc());
                append_entry(&mut self.batch, &line, &tail);
            }
        }
        self.flush()
    }

    /// Gives back the memory that output needed: none has come for a while.
    pub fn rest(&mut self) {
        self.batch = Vec::new();
    }

    /// To be told of every reaped process: a compressor may be among them.
    pub fn reaped(&mut self, pid: nix::unistd::Pid) {
        if self.compressor == Some(pid) {
            self.compressor = None;
        }
    }

    /// Writes what has been appended.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            let result = self.file.write_all(&self.batch);
            self.size += self.batch.len() as u64;
            self.batch.clear();
            result?;
        }
        Ok(())
    }

    /// `x.log` becomes `x.log.1`, that becomes `x.log.2` (`.gz` when compressed), the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        if self.max_files == 1 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        if let Some(compressor) = self.compressor.take() {
            let _ = nix::sys::wait::waitpid(compressor, None);
        }
        let newest = rotated(&self.path, 1, false);
        for number in (1..self.max_files - 1).rev() {
            for zipped in [false, true] {
                ignore_missing(fs::rename(
                    rotated(&self.path, number, zipped),
                    rotated(&self.path, number + 1, zipped),
                ))?;
            }
        }
        fs::rename(&self.path, &newest)?;
        self.file = open_file(&self.path)?;
        self.size = 0;
        if self.compress {
            self.compressor = super::fork_child(None, |_| compress(&newest)).ok();
        }
        Ok(())
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// The name of a rotated file.
pub fn rotated(path: &Path, number: u32, zipped: bool) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}{}", if zipped { ".gz" } else { "" }));
    PathBuf::from(name)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Runs in a process of its own, so that the container's output goes on meanwhile.
fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let mut temporary = target.clone();
    temporary.push(".new");
    let mut encoder =
        flate2::write::GzEncoder::new(open_new(Path::new(&temporary))?, Default::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::rename(&temporary, &target)?;
    fs::remove_file(path)
}

fn open_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)
}

fn attributes_text(attributes: &BTreeMap<String, String>) -> String {
    if attributes.is_empty() {
        return String::new();
    }
    let json = serde_json::to_string(attributes).expect("strings are JSON");
    format!("\"attrs\":{json},")
}

/// What follows the text in every entry of one batch.
fn tail_of(stream: StreamKind, attributes: &str, at: OffsetDateTime) -> String {
    let stream = match stream {
        StreamKind::Stdout => "stdout",
        StreamKind::Stderr => "stderr",
    };
    format!(
        "\",\"stream\":\"{stream}\",{attributes}\"time\":\"{}\"}}\n",
        timestamp(at)
    )
}

/// Go's RFC3339Nano in UTC: no trailing zeros in the fraction.
pub fn timestamp(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    let mut text = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    if at.nanosecond() != 0 {
        let fraction = format!(".{:09}", at.nanosecond());
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

fn append_entry(batch: &mut Vec<u8>, text: &[u8], tail: &str) {
    batch.reserve(text.len() + tail.len() + 16);
    batch.extend_from_slice(b"{\"log\":\"");
    append_escaped(batch, text);
    batch.extend_from_slice(tail.as_bytes());
}

/// Escapes as Docker's own encoder (moby daemon/logger/jsonfilelog/jsonlog): what is not UTF-8 becomes U+FFFD, and
/// `<`, `>`, `&` and the two line separators are escaped as encoding/json does.
fn append_escaped(out: &mut Vec<u8>, text: &[u8]) {
    // Most lines need nothing but their newline escaped.
    let (plain, text) = text.split_at(plain_length(text));
    out.extend_from_slice(plain);
    match text {
        [] => return,
        b"\n" => return out.extend_from_slice(b"\\n"),
        _ => {}
    }
    // Looking for the whole at once is many times faster than looking for the parts that are good.
    if std::str::from_utf8(text).is_ok() {
        return append_valid(out, text);
    }
    for chunk in text.utf8_chunks() {
        append_valid(out, chunk.valid().as_bytes());
        if !chunk.invalid().is_empty() {
            // encoding/json writes one replacement for each bad byte.
            for _ in chunk.invalid() {
                out.extend_from_slice(b"\\ufffd");
            }
        }
    }
}

/// How many bytes at the beginning are ASCII that is written as it is. Looked at in blocks without a branch, which the
/// compiler makes vector instructions of.
fn plain_length(text: &[u8]) -> usize {
    let is_special = |byte: u8| {
        !(32..128).contains(&byte)
            | (byte == b'"')
            | (byte == b'\\')
            | (byte == b'<')
            | (byte == b'>')
            | (byte == b'&')
    };
    let blocks = text.chunks_exact(32);
    let blocks = blocks.take_while(|block| {
        let special = block
            .iter()
            .fold(false, |any, byte| any | is_special(*byte));
        !special
    });
    let begin = blocks.count() * 32;
    let rest = text[begin..].iter();
    begin + rest.take_while(|byte| !is_special(**byte)).count()
}

/// Escapes what is UTF-8.
fn append_valid(out: &mut Vec<u8>, valid: &[u8]) {
    let mut rest = valid;
    while let Some(position) = rest.iter().position(|byte| !PLAIN[*byte as usize]) {
        let (plain, special) = rest.split_at(position);
        out.extend_from_slice(plain);
        let (escape, length): (&[u8], usize) = match special {
            [b'"', ..] => (b"\\\"", 1),
            [b'\\', ..] => (b"\\\\", 1),
            [b'\n', ..] => (b"\\n", 1),
            [b'\r', ..] => (b"\\r", 1),
            [b'\t', ..] => (b"\\t", 1),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            [0xe2, ..] => (&special[..1], 1),
            [byte, ..] => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                let digits = [HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]];
                out.extend_from_slice(&digits);
                (b"", 1)
            }
            [] => break,
        };
        out.extend_from_slice(escape);
        rest = &special[length..];
    }
    out.extend_from_slice(rest);
}

/// Bytes that are written as they are. 0xe2 may begin a line separator.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut byte = 0;
    while byte < 32 {
        plain[byte] = false;
        byte += 1;
    }
    plain[b'"' as usize] = false;
    plain[b'\\' as usize] = false;
    plain[b'<' as usize] = false;
    plain[b'>' as usize] = false;
    plain[b'&' as usize] = false;
    plain[0xe2] = false;
    plain
};

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        append_escaped(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    fn plan(path: &Path, max_size: Option<u64>, max_files: u32) -> LogPlan {
        LogPlan::JsonFile {
            path: path.to_owned(),
            max_size,
            max_files,
            compress: false,
            attributes: BTreeMap::new(),
            buffer: None,
        }
    }

    fn texts(path: &Path) -> Vec<String> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|line| {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                value["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn escapes_as_docker_does() {
        assert_eq!(
            escaped(b"a\"b\\c\n\r\t\x01<>&"),
            r#"a\"b\\c\n\r\t\u0001\u003c\u003e\u0026"#
        );
        assert_eq!(
            escaped("x\u{2028}y\u{2029}z€".as_bytes()),
            "x\\u2028y\\u2029z€"
        );
        assert_eq!(escaped(b"\xff\xfeok"), "\\ufffd\\ufffdok");
        let long = "x".repeat(100);
        for place in [0, 31, 32, 33, 63, 64, 99] {
            let mut text = long.clone();
            text.replace_range(place..=place, "<");
            let wanted = text.replace('<', "\\u003c");
            assert_eq!(escaped(format!("{text}\n").as_bytes()), wanted + "\\n");
        }
    }

    #[test]
    fn timestamps_are_gos() {
        let at = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_120_000_000).unwrap();
        assert_eq!(timestamp(at), "2023-11-14T22:13:20.12Z");
        let at = OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap();
        assert_eq!(timestamp(at), "2023-11-14T22:13:20Z");
    }

    #[test]
    fn begun_lines_wait_and_long_ones_are_split() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut log = LogWriter::open(&plan(&path, None, 1)).unwrap().unwrap();
        log.write(StreamKind::Stdout, b"one\ntw").unwrap();
        assert_eq!(texts(&path), ["one\n"]);
        log.write(StreamKind::Stderr, b"err\n").unwrap();
        log.write(StreamKind::Stdout, b"o\n").unwrap();
        let long = vec![b'x'; LONGEST_PART * 2 + 3];
        log.write(StreamKind::Stdout, &long).unwrap();
        log.write(StreamKind::Stdout, b"end").unwrap();
        log.finish().unwrap();
        let texts = texts(&path);
        assert_eq!(texts[..3], ["one\n", "err\n", "two\n"]);
        assert_eq!(texts[3].len(), LONGEST_PART);
        assert_eq!(texts[4].len(), LONGEST_PART);
        assert_eq!(texts[5], "xxxend");
    }

    #[test]
    fn rotates_and_keeps_only_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let mut log = LogWriter::open(&plan(&path, Some(300), 3))
            .unwrap()
            .unwrap();
        for number in 0..40 {
            log.write(StreamKind::Stdout, format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let mut all = texts(&rotated(&path, 2, false));
        all.extend(texts(&rotated(&path, 1, false)));
        all.extend(texts(&path));
        assert!(!rotated(&path, 3, false).exists());
        let wanted: Vec<String> = (40 - all.len()..40)
            .map(|n| format!("line {n}\n"))
            .collect();
        assert_eq!(all, wanted);
        assert!(all.len() >= 6);
    }
}
