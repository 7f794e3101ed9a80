//! Files with holes in tars: GNU's oldest form and the PAX forms 0.0, 0.1 and 1.0 (GNU tar manual, "Sparse Formats").

use super::tar::invalid;
use std::io;
use std::ops::Range;

/// Parts of one file.
const PARTS_MAX: usize = 100_000;
/// In a header of the oldest form: the file's size with its holes, and four parts of 24 bytes with a flag behind them.
pub(super) const OLD_SIZE: Range<usize> = 483..495;
pub(super) const OLD_PARTS: Range<usize> = 386..482;
/// The same in a block behind the header: 21 parts.
pub(super) const OLD_MORE_PARTS: Range<usize> = 0..504;

/// Where the content of a file with holes belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SparseMap {
    /// Bytes of the file with its holes.
    pub size: u64,
    /// Offset and length of each part; the content is all of them, one behind the other.
    pub parts: Vec<(u64, u64)>,
}

impl SparseMap {
    /// Whether the parts are in order, within the file, and what the archive has of it.
    pub(super) fn check(&self, content: u64) -> io::Result<()> {
        let bad = |why: &str| Err(invalid(format!("a sparse entry's map is malformed: {why}")));
        let mut end = 0u64;
        let mut total = 0u64;
        for (offset, length) in &self.parts {
            let Some(next) = offset.checked_add(*length) else {
                return bad("a part has no end");
            };
            if *offset < end || next > self.size {
                return bad("a part is out of place");
            }
            end = next;
            total += length;
        }
        match total == content {
            true => Ok(()),
            false => bad("its parts are not its content"),
        }
    }

    fn push(&mut self, offset: u64, length: u64) -> io::Result<()> {
        if self.parts.len() == PARTS_MAX {
            return Err(invalid(format!(
                "a sparse entry has more than {PARTS_MAX} parts"
            )));
        }
        self.parts.push((offset, length));
        Ok(())
    }
}

/// Reads the parts in a block; tells whether another block follows.
pub(super) fn old_parts(
    block: &[u8],
    parts: Range<usize>,
    map: &mut SparseMap,
    number: impl Fn(&[u8]) -> io::Result<i64>,
) -> io::Result<bool> {
    let more = block[parts.end];
    for part in block[parts].chunks_exact(24) {
        // An unused part is blank.
        if part[..12].iter().all(|byte| *byte == 0) {
            break;
        }
        let field = |bytes: &[u8]| {
            u64::try_from(number(bytes)?)
                .map_err(|_| invalid("a sparse entry's map has a negative number"))
        };
        map.push(field(&part[..12])?, field(&part[12..])?)?;
    }
    Ok(more != 0)
}

/// What PAX records say of a file with holes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub major: u64,
    pub name: Option<Vec<u8>>,
    pub size: Option<u64>,
    parts: SparseMap,
    /// The first half of a part of form 0.0.
    offset: Option<u64>,
}

impl PaxSparse {
    pub fn is_given(&self) -> bool {
        self.size.is_some()
    }

    /// Takes the record `GNU.sparse.<key>`.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"major" => self.major = decimal(value)?,
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(decimal(value)?),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self
                    .offset
                    .take()
                    .ok_or_else(|| invalid("a sparse entry's map is malformed"))?;
                self.parts.push(offset, decimal(value)?)?;
            }
            b"map" => {
                let numbers = value
                    .split(|byte| *byte == b',')
                    .filter(|text| !text.is_empty())
                    .map(decimal)
                    .collect::<io::Result<Vec<u64>>>()?;
                for pair in numbers.chunks(2) {
                    let [offset, length] = pair else {
                        return Err(invalid("a sparse entry's map is malformed"));
                    };
                    self.parts.push(*offset, *length)?;
                }
            }
            // `minor` and `numblocks` say nothing we need.
            _ => {}
        }
        Ok(())
    }

    /// The map of the forms that have it in the records.
    pub fn map(&self) -> io::Result<SparseMap> {
        if self.major > 1 {
            return Err(invalid("a sparse entry is of a form newer than 1.0"));
        }
        Ok(SparseMap {
            size: self.size.unwrap_or(0),
            parts: self.parts.parts.clone(),
        })
    }
}

fn decimal(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| invalid("a number of a sparse entry is malformed"))
}

/// Form 1.0: the number of parts, then offset and length of each, a number a line. `None` while there are not enough.
pub(super) fn parse_lines(text: &[u8]) -> io::Result<Option<Vec<(u64, u64)>>> {
    let end = match text.iter().rposition(|byte| *byte == b'\n') {
        None if text.len() > 512 => return Err(invalid("a sparse entry's map is malformed")),
        None => return Ok(None),
        Some(end) => end,
    };
    let mut lines = text[..end].split(|byte| *byte == b'\n');
    let count = decimal(lines.next().unwrap_or_default())?;
    if count > PARTS_MAX as u64 {
        return Err(invalid(format!(
            "a sparse entry has more than {PARTS_MAX} parts"
        )));
    }
    let mut map = SparseMap::default();
    while (map.parts.len() as u64) < count {
        let (Some(offset), Some(length)) = (lines.next(), lines.next()) else {
            return Ok(None);
        };
        map.push(decimal(offset)?, decimal(length)?)?;
    }
    Ok(Some(map.parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_must_fit_its_file_and_its_content() {
        let map = |size, parts: &[(u64, u64)]| SparseMap {
            size,
            parts: parts.to_vec(),
        };
        assert!(map(100, &[(0, 10), (50, 50)]).check(60).is_ok());
        assert!(map(100, &[]).check(0).is_ok());
        for (bad, content) in [
            (map(100, &[(50, 10), (0, 10)]), 20),
            (map(100, &[(0, 10), (5, 10)]), 20),
            (map(100, &[(95, 10)]), 10),
            (map(100, &[(0, 10)]), 9),
            (map(u64::MAX, &[(u64::MAX, 2)]), 2),
        ] {
            assert!(bad.check(content).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lines_are_read_when_they_are_there() {
        assert_eq!(parse_lines(b"2\n0\n5\n9\n").expect("good"), None);
        assert_eq!(
            parse_lines(b"2\n0\n5\n9\n1\n\0\0").expect("good"),
            Some(vec![(0, 5), (9, 1)])
        );
        assert!(parse_lines(b"x\n").is_err());
        assert!(parse_lines(b"99999999999\n").is_err());
    }
}

/// For tests of whoever unpacks.
#[cfg(test)]
pub(crate) mod testing {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::path::Path;
    use std::process::Command;

    /// A file with holes in every form that GNU tar writes.
    pub(crate) struct Holes {
        content: Vec<u8>,
        /// The form, and the archive in it.
        pub(crate) packed: Vec<(String, Vec<u8>)>,
    }

    impl Holes {
        /// The file's name in the archives.
        pub(crate) const NAME: &str = "holes";

        /// `None`, with a line, where there is no tar program.
        pub(crate) fn pack() -> Option<Holes> {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let original = folder.path().join(Holes::NAME);
            let file = fs::File::create(&original).expect("made");
            let parts: [(u64, &[u8]); 6] = [
                (0, b"begin"),
                (3 << 20, b"middle"),
                (5 << 20, b"x"),
                (6 << 20, b"x"),
                (7 << 20, b"x"),
                (8 << 20, b"x"),
            ];
            for (at, text) in parts {
                file.write_all_at(text, at).expect("written");
            }
            file.set_len(20 << 20).expect("longer");
            let mut packed = Vec::new();
            for form in [
                "--format=gnu",
                "--format=posix --sparse-version=0.0",
                "--format=posix --sparse-version=0.1",
                "--format=posix --sparse-version=1.0",
            ] {
                let output = Command::new("tar")
                    .args(["--create", "--sparse", "--hole-detection=raw"])
                    .args(form.split(' '))
                    .arg("--directory")
                    .arg(folder.path())
                    .arg(Holes::NAME)
                    .output();
                let Ok(output) = output else {
                    println!("skipped: there is no tar program");
                    return None;
                };
                assert!(output.status.success(), "{output:?}");
                assert!(output.stdout.len() < 1 << 20, "it is sparse");
                packed.push((form.to_owned(), output.stdout));
            }
            Some(Holes {
                content: fs::read(&original).expect("there"),
                packed,
            })
        }

        /// It came out as it went in.
        #[track_caller]
        pub(crate) fn check(&self, form: &str, unpacked: &Path) {
            assert!(fs::read(unpacked).expect("there") == self.content, "{form}");
            let facts = fs::metadata(unpacked).expect("there");
            assert!(
                facts.blocks() * 512 < 1 << 20,
                "{form}: the holes are holes"
            );
        }
    }
}
