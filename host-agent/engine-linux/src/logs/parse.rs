//! One line of a json-file log. Lines as the shim and Docker write them are taken apart by hand; any other form that
//! JSON allows goes through serde.

use bytes::{BufMut, Bytes, BytesMut};
use engine::logs::LogEntry;
use engine::runtime::StreamKind;
use serde::Deserialize;
use std::collections::BTreeMap;
use time::{Date, Month, OffsetDateTime, PrimitiveDateTime, Time};

/// Bytes of text that share one allocation.
const TEXT_BLOCK: usize = 64 << 10;

/// Takes lines apart, one after the other.
#[derive(Debug, Default)]
pub struct Parser {
    /// The text of many lines; each entry holds a piece of it.
    text: BytesMut,
    /// What is written at once has one time.
    last_time: Option<(Vec<u8>, OffsetDateTime)>,
}

impl Parser {
    /// Reads a line, without its newline. `None` where it is not an entry, as after a crash in mid-write.
    pub fn line(&mut self, line: &[u8]) -> Option<LogEntry> {
        self.quick(line).or_else(|| {
            self.text.clear();
            general(line)
        })
    }

    fn quick(&mut self, line: &[u8]) -> Option<LogEntry> {
        if self.text.capacity() < line.len() {
            self.text.reserve(line.len().max(TEXT_BLOCK));
        }
        let rest = line.strip_prefix(b"{\"log\":\"")?;
        let rest = self.string(rest)?;
        let rest = rest.strip_prefix(b",\"stream\":\"std")?;
        let (stream, rest) = if let Some(rest) = rest.strip_prefix(b"out\",") {
            (StreamKind::Stdout, rest)
        } else {
            (StreamKind::Stderr, rest.strip_prefix(b"err\",")?)
        };
        // Attributes are rare: serde reads them.
        let at = rest.strip_prefix(b"\"time\":\"")?.strip_suffix(b"\"}")?;
        Some(LogEntry {
            stream,
            at: self.time(at)?,
            line: self.text.split().freeze(),
            attributes: BTreeMap::new(),
        })
    }

    fn time(&mut self, text: &[u8]) -> Option<OffsetDateTime> {
        match &self.last_time {
            Some((last, at)) if last == text => Some(*at),
            _ => {
                let at = timestamp(text)?;
                self.last_time = Some((text.to_owned(), at));
                Some(at)
            }
        }
    }

    /// A JSON string whose opening quote is behind us: its text is appended; returns what follows the closing quote.
    fn string<'a>(&mut self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let text = &mut self.text;
        let mut rest = bytes;
        loop {
            let at = memchr::memchr2(b'"', b'\\', rest)?;
            text.extend_from_slice(&rest[..at]);
            if rest[at] == b'"' {
                return Some(&rest[at + 1..]);
            }
            let escape = *rest.get(at + 1)?;
            rest = &rest[at + 2..];
            match escape {
                b'n' => text.put_u8(b'\n'),
                b'r' => text.put_u8(b'\r'),
                b't' => text.put_u8(b'\t'),
                b'b' => text.put_u8(8),
                b'f' => text.put_u8(12),
                b'"' | b'\\' | b'/' => text.put_u8(escape),
                b'u' => {
                    let digits = std::str::from_utf8(rest.get(..4)?).ok()?;
                    let number = u32::from_str_radix(digits, 16).ok()?;
                    // A pair of surrogates is left to serde.
                    let one = char::from_u32(number)?;
                    text.extend_from_slice(one.encode_utf8(&mut [0; 4]).as_bytes());
                    rest = &rest[4..];
                }
                _ => return None,
            }
        }
    }
}

/// RFC 3339 in UTC with any fraction: `2026-01-02T03:04:05.6Z`.
fn timestamp(text: &[u8]) -> Option<OffsetDateTime> {
    let number = |from: usize, to: usize| -> Option<u32> {
        text.get(from..to)?.iter().try_fold(0u32, |number, digit| {
            digit
                .is_ascii_digit()
                .then(|| number * 10 + u32::from(digit - b'0'))
        })
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if text.last() != Some(&b'Z') || marks.iter().any(|(at, mark)| text.get(*at) != Some(mark)) {
        return None;
    }
    let nanoseconds = match text.get(19)? {
        b'Z' if text.len() == 20 => 0,
        b'.' => {
            let digits = text
                .len()
                .checked_sub(21)
                .filter(|count| (1..=9).contains(count))?;
            number(20, 20 + digits)? * 10u32.pow(9 - digits as u32)
        }
        _ => return None,
    };
    let month = Month::try_from(number(5, 7)? as u8).ok()?;
    let date = Date::from_calendar_date(number(0, 4)? as i32, month, number(8, 10)? as u8).ok()?;
    let time = Time::from_hms_nano(
        number(11, 13)? as u8,
        number(14, 16)? as u8,
        number(17, 19)? as u8,
        nanoseconds,
    )
    .ok()?;
    Some(PrimitiveDateTime::new(date, time).assume_utc())
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(with = "time::serde::rfc3339")]
    time: OffsetDateTime,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

fn general(line: &[u8]) -> Option<LogEntry> {
    let entry: Entry = serde_json::from_slice(line).ok()?;
    Some(LogEntry {
        stream: match entry.stream.as_str() {
            "stderr" => StreamKind::Stderr,
            _ => StreamKind::Stdout,
        },
        at: entry.time,
        line: Bytes::from(entry.log),
        attributes: entry.attrs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_ways_read_the_same() {
        for text in [
            r#"{"log":"plain\n","stream":"stdout","time":"2026-11-20T22:00:00.123456789Z"}"#,
            r#"{"log":"a\"b\\c\u003c\u0001\r\n\t€\ufffd","stream":"stderr","time":"2026-11-20T22:00:00.5Z"}"#,
            r#"{"log":"","stream":"stdout","time":"2026-11-20T22:00:00Z"}"#,
        ] {
            let quick = Parser::default().quick(text.as_bytes()).expect(text);
            assert_eq!(Some(quick), general(text.as_bytes()));
        }
    }

    #[test]
    fn other_forms_and_rubbish() {
        let entry = Parser::default().line(br#"{"stream":"stderr", "log":"x\ud83d\ude00\n","attrs":{"tag":"t"},"time":"2026-11-20T23:00:00+01:00"}"#).unwrap();
        assert_eq!(entry.line, "x😀\n");
        assert_eq!(entry.attributes["tag"], "t");
        assert_eq!(
            entry.at.unix_timestamp(),
            timestamp(b"2026-11-20T22:00:00Z").unwrap().unix_timestamp()
        );
        for rubbish in [
            "",
            "{",
            r#"{"log":"cut"#,
            "\0\0\0",
            r#"{"log":"x","stream":"stdout","time":"then"}"#,
        ] {
            let mut parser = Parser::default();
            assert_eq!(parser.line(rubbish.as_bytes()), None, "{rubbish}");
            // What of it was read is not left for the next.
            let next =
                parser.line(br#"{"log":"ok\n","stream":"stdout","time":"2026-11-20T22:00:00Z"}"#);
            assert_eq!(next.unwrap().line, "ok\n");
        }
    }

    proptest! {
        #[test]
        fn what_the_shim_writes_is_read_back(text in proptest::collection::vec(any::<u8>(), 1..200)) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("log");
            let plan = engine::runtime::LogPlan::JsonFile {
                path: path.clone(), max_size: None, max_files: 1, compress: false, attributes: BTreeMap::new(), buffer: None,
            };
            let mut log = crate::shim::log_writer::LogWriter::open(&plan).unwrap().unwrap();
            log.write(StreamKind::Stderr, &text).unwrap();
            log.finish().unwrap();
            let bytes = std::fs::read(&path).unwrap();
            let mut back = Vec::new();
            let mut parser = Parser::default();
            for one in bytes.split(|byte| *byte == b'\n').filter(|one| !one.is_empty()) {
                let quick = parser.quick(one);
                prop_assert!(quick.is_some());
                prop_assert_eq!(&quick, &general(one));
                back.extend_from_slice(&quick.unwrap().line);
            }
            let mut wanted = String::new();
            for chunk in text.utf8_chunks() {
                wanted.push_str(chunk.valid());
                wanted.extend(chunk.invalid().iter().map(|_| '\u{fffd}'));
            }
            prop_assert_eq!(String::from_utf8(back).unwrap(), wanted);
        }
    }
}
