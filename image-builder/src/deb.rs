//! Unpacks the files of a .deb: an `ar` archive with a compressed tar in it. Nothing is written to disk and nothing of
//! a package is run; packages whose maintainer scripts matter do not belong in a recipe.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

/// No Debian package we take holds more files, or as many bytes: anything beyond is a bomb or a mistake.
const MAX_ENTRIES: usize = 100_000;
const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Memory that an xz decoder may ask for, in KiB: the largest dictionary that dpkg-deb writes is 64 MiB.
const XZ_MEMORY_KIB: u32 = 128 * 1024;

/// Why a package cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    #[error("it is no whole .deb")]
    Read(#[source] std::io::Error),
    #[error("it has no data.tar in a form that this program can read (found: {members})")]
    NoData { members: String },
    #[error("it holds more than {MAX_ENTRIES} files or {MAX_BYTES} bytes")]
    TooLarge,
    #[error("its file {path:?} {why}")]
    Entry { path: String, why: &'static str },
}

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    File { mode: u32, data: Vec<u8> },
    Symlink { target: String },
}

/// Files by their normal path, without the leading `/`.
pub(crate) type Entries = BTreeMap<String, Entry>;

/// Unpacks the files whose normal path passes `wanted`.
pub(crate) fn unpack(deb: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Entries, DebError> {
    let mut archive = ar::Archive::new(deb);
    let mut members = Vec::new();
    while let Some(member) = archive.next_entry() {
        let member = member.map_err(DebError::Read)?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        if let Some(compression) = name.strip_prefix("data.tar")
            && let Some(reader) = decoder(compression, member)
        {
            return unpack_tar(reader.map_err(DebError::Read)?, wanted);
        }
        members.push(name);
    }
    Err(DebError::NoData {
        members: members.join(", "),
    })
}

/// A reader for a file with this ending (`.xz`, `.gz`, `.zst` or none); `None` for other endings.
pub(crate) fn decoder<'a>(
    ending: &str,
    reader: impl Read + 'a,
) -> Option<std::io::Result<Box<dyn Read + 'a>>> {
    let reader: std::io::Result<Box<dyn Read + 'a>> = match ending {
        "" => Ok(Box::new(reader)),
        ".gz" => Ok(Box::new(flate2::read::MultiGzDecoder::new(reader))),
        ".xz" => Ok(Box::new(lzma_rust2::XzReader::new_mem_limit(
            reader,
            true,
            XZ_MEMORY_KIB,
        ))),
        ".zst" => zstd::Decoder::new(reader).map(|decoder| Box::new(decoder) as Box<dyn Read>),
        _ => return None,
    };
    Some(reader)
}

fn unpack_tar(reader: impl Read, wanted: impl Fn(&str) -> bool) -> Result<Entries, DebError> {
    let mut entries = Entries::new();
    let mut hard_links = Vec::new();
    let mut bytes = 0u64;
    let mut archive = tar::Archive::new(reader);
    for (count, entry) in archive.entries().map_err(DebError::Read)?.enumerate() {
        let mut entry = entry.map_err(DebError::Read)?;
        bytes = bytes.saturating_add(entry.size());
        if count >= MAX_ENTRIES || bytes > MAX_BYTES {
            return Err(DebError::TooLarge);
        }
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let faulty = |why| DebError::Entry {
            path: raw.clone(),
            why,
        };
        let path = normal_path(&raw).ok_or_else(|| faulty("lies outside of the package"))?;
        if !wanted(&path) {
            continue;
        }
        let link = entry
            .link_name_bytes()
            .map(|name| String::from_utf8_lossy(&name).into_owned());
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let mode = entry.header().mode().map_err(DebError::Read)? & 0o7777;
                let mut data = Vec::new();
                entry.read_to_end(&mut data).map_err(DebError::Read)?;
                entries.insert(path, Entry::File { mode, data });
            }
            tar::EntryType::Symlink => {
                let target = link.ok_or_else(|| faulty("is a link to nothing"))?;
                entries.insert(path, Entry::Symlink { target });
            }
            tar::EntryType::Link => {
                let target = link.and_then(|target| normal_path(&target));
                hard_links.push((path, target.ok_or_else(|| faulty("is a link to nothing"))?));
            }
            tar::EntryType::Directory => {}
            _ => return Err(faulty("is neither a file, a link nor a folder")),
        }
    }
    for (path, target) in hard_links {
        let entry = entries.get(&target).cloned();
        let entry = entry.ok_or(DebError::Entry {
            path: path.clone(),
            why: "is a hard link to a file that was not unpacked",
        })?;
        entries.insert(path, entry);
    }
    Ok(entries)
}

/// A path as the image has it: no leading `/` or `./`, `/bin`, `/sbin` and `/usr/sbin` merged into `/usr/bin`, `/lib*`
/// into `/usr`. `None` if it climbs out with `..`.
pub(crate) fn normal_path(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    match parts.as_slice() {
        ["bin" | "sbin", ..] => {
            parts[0] = "bin";
            parts.insert(0, "usr");
        }
        ["lib" | "lib64", ..] => parts.insert(0, "usr"),
        ["usr", "sbin", ..] => parts[1] = "bin",
        _ => {}
    }
    Some(parts.join("/"))
}

/// Decompresses a whole file by the ending of its name.
pub(crate) fn decompress(name: &str, data: &[u8]) -> Result<Vec<u8>, std::io::Error> {
    let ending = [".xz", ".gz", ".zst"]
        .into_iter()
        .find(|ending| name.ends_with(ending))
        .unwrap_or("");
    let reader = decoder(ending, Cursor::new(data)).expect("the endings are decoder's own")?;
    let mut out = Vec::new();
    reader.take(MAX_BYTES).read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, content: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        if kind.is_file() {
            header.set_size(content.len() as u64);
        } else {
            header.set_size(0);
            header.set_link_name(content).unwrap();
        }
        // `set_path` refuses what a hostile archive would hold.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        let data = if kind.is_file() {
            content.as_bytes()
        } else {
            b""
        };
        builder.append(&header, data).unwrap();
    }

    fn deb(member: &str, data: &[u8]) -> Vec<u8> {
        let mut builder = ar::Builder::new(Vec::new());
        for (name, data) in [("debian-binary", &b"2.0\n"[..]), (member, data)] {
            let header = ar::Header::new(name.into(), data.len() as u64);
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn sample() -> Vec<u8> {
        tar(|builder| {
            add(builder, "./bin/tool", tar::EntryType::Regular, "tool");
            add(
                builder,
                "./usr/sbin/same",
                tar::EntryType::Link,
                "./bin/tool",
            );
            add(
                builder,
                "./lib64/ld.so",
                tar::EntryType::Symlink,
                "../lib/ld.so",
            );
            add(
                builder,
                "./usr/share/doc/x",
                tar::EntryType::Regular,
                "words",
            );
        })
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::read::GzEncoder::new(data, flate2::Compression::fast());
        let mut out = Vec::new();
        encoder.read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn files_arrive_under_their_normal_names() {
        let packed = [
            ("data.tar", sample()),
            ("data.tar.gz", gzip(&sample())),
            ("data.tar.zst", zstd::encode_all(&sample()[..], 1).unwrap()),
        ];
        for (member, data) in packed {
            let entries = unpack(&deb(member, &data), |path| !path.contains("doc")).unwrap();
            let tool = Entry::File {
                mode: 0o755,
                data: b"tool".into(),
            };
            let link = Entry::Symlink {
                target: "../lib/ld.so".into(),
            };
            let expected = [
                ("usr/bin/same".to_owned(), tool.clone()),
                ("usr/bin/tool".to_owned(), tool),
                ("usr/lib64/ld.so".to_owned(), link),
            ];
            assert_eq!(entries, expected.into(), "{member}");
        }
    }

    #[track_caller]
    fn check_refused(deb: &[u8], expected: &str) {
        let error = unpack(deb, |_| true).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }

    #[test]
    fn bad_packages_are_refused() {
        check_refused(b"not a package", "no whole .deb");
        check_refused(&deb("data.tar.lz9", b""), "data.tar.lz9");
        let whole = deb("data.tar.gz", &gzip(&sample()));
        check_refused(&whole[..whole.len() - 40], "no whole .deb");
        let climbing = tar(|builder| add(builder, "../../etc/x", tar::EntryType::Regular, "x"));
        check_refused(&deb("data.tar", &climbing), "outside");
        let dangling = tar(|builder| add(builder, "a", tar::EntryType::Link, "b"));
        check_refused(&deb("data.tar", &dangling), "hard link");
        let device = tar(|builder| add(builder, "dev", tar::EntryType::Block, "x"));
        check_refused(&deb("data.tar", &device), "neither");
    }
}
