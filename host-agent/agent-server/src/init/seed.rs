//! The seed: who this machine is. A tar stream on a read-only disk, see `guest_contract::seed`.

use anyhow::{Context, Result, bail};
use guest_contract::seed::{MAX_SEED_BYTES, SEED_JSON, SEED_VERSION, Seed};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// More entries than this are no seed of ours.
const MAX_ENTRIES: usize = 64;

/// What the disk held: the description, and the other files by name.
#[derive(Debug)]
pub struct SeedContents {
    pub seed: Seed,
    pub files: BTreeMap<String, Vec<u8>>,
}

/// Reads a seed from a tar stream, trusting neither its lengths nor its names.
pub fn read(stream: impl Read) -> Result<SeedContents> {
    let mut archive = tar::Archive::new(stream.take(MAX_SEED_BYTES));
    let mut files = BTreeMap::new();
    for (count, entry) in archive.entries()?.enumerate() {
        let mut entry = entry.context("the seed is no tar archive, or larger than allowed")?;
        if count >= MAX_ENTRIES {
            bail!("the seed has more than {MAX_ENTRIES} entries");
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = entry.path()?.to_string_lossy().into_owned();
        if !is_plain(&name) {
            bail!("the seed has a file named {name:?}; only plain names are allowed");
        }
        if entry.size() > MAX_SEED_BYTES {
            bail!("the seed's file {name} is larger than a whole seed may be");
        }
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents)?;
        if contents.len() as u64 != entry.size() {
            bail!("the seed ends inside {name}");
        }
        files.insert(name, contents);
    }
    let json = files
        .get(SEED_JSON)
        .with_context(|| format!("the seed has no {SEED_JSON}"))?;
    // The version first: a newer structure may not even parse as ours.
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let version: Version =
        serde_json::from_slice(json).with_context(|| format!("{SEED_JSON} is malformed"))?;
    if version.version > SEED_VERSION {
        bail!(
            "the seed has version {}, this image understands {SEED_VERSION}: the image is older than the desktop's programs",
            version.version
        );
    }
    let seed: Seed =
        serde_json::from_slice(json).with_context(|| format!("{SEED_JSON} is malformed"))?;
    if seed.hostname.is_empty()
        || seed.hostname.len() > 63
        || !seed.hostname.bytes().all(is_host_byte)
    {
        bail!("the seed's hostname {:?} is not one", seed.hostname);
    }
    Ok(SeedContents { seed, files })
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && !name.starts_with('.')
        && name.bytes().all(|b| is_host_byte(b) || b == b'_')
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.'
}

/// Writes the files where `serve` and `sshd` read them; readable by root alone.
pub fn install(contents: &SeedContents, folder: &Path) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    for (name, bytes) in &contents.files {
        let mut file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(folder.join(name))?;
        file.write_all(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o600);
            // Not `set_path`: it refuses the names we want to see refused by the reader.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    const JSON: &[u8] =
        br#"{"version":1,"hostname":"dev","unix_ms":1795000000000,"ssh_user":"docker","new":1}"#;

    #[track_caller]
    fn refused(files: &[(&str, &[u8])], why: &str) {
        let error = format!("{:#}", read(&archive(files)[..]).unwrap_err());
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn a_seed_is_read_and_installed_for_root_alone() {
        let contents =
            read(&archive(&[("seed.json", JSON), ("server-key.pem", b"secret")])[..]).unwrap();
        assert_eq!(contents.seed.hostname, "dev");
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("seed");
        install(&contents, &place).unwrap();
        assert_eq!(
            std::fs::read(place.join("server-key.pem")).unwrap(),
            b"secret"
        );
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place), 0o700);
        assert_eq!(mode(&place.join("server-key.pem")), 0o600);
    }

    #[test]
    fn what_is_not_a_seed_is_refused() {
        refused(&[("ca.pem", b"x")], "no seed.json");
        refused(&[("seed.json", b"{}")], "malformed");
        refused(
            &[("seed.json", b"{\"version\":2}")],
            "older than the desktop",
        );
        refused(
            &[("../etc/passwd", b"x"), ("seed.json", JSON)],
            "plain names",
        );
        refused(&[("/etc/passwd", b"x"), ("seed.json", JSON)], "plain names");
        refused(
            &[(
                "seed.json",
                br#"{"version":1,"hostname":"a b","unix_ms":1,"ssh_user":"x"}"#,
            )],
            "hostname",
        );
        let many: Vec<String> = (0..70).map(|number| format!("f{number}")).collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|name| (name.as_str(), &b"x"[..])).collect();
        refused(&many, "more than 64");
        assert!(read(&[7u8; 4096][..]).is_err());
    }

    #[test]
    fn an_archive_that_promises_more_than_it_holds_is_refused() {
        let big = vec![0u8; MAX_SEED_BYTES as usize];
        assert!(read(&archive(&[("seed.json", JSON), ("big", &big)])[..]).is_err());
        let mut cut = archive(&[("seed.json", JSON), ("big", &big[..100_000])]);
        cut.truncate(50_000);
        assert!(read(&cut[..]).is_err());
    }
}
