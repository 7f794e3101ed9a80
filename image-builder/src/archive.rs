//! The two index files of a Debian archive: the Release file names the digests of the Packages file, and the Packages
//! file those of the packages.

use crate::version;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;

/// What is needed of a Release file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub codename: String,
    /// Files may be fetched under the name of their digest, which no mirror update can pull away.
    pub has_by_hash: bool,
    /// `Valid-Until` in its own words; main archives have none.
    pub valid_until: Option<String>,
    /// Path below the suite's folder -> size and sha256.
    files: BTreeMap<String, (u64, String)>,
}

/// A file named by the index above it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Path below the archive's base address.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// One package of a Packages file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub depends: String,
    pub file: Named,
}

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the Release file of {suite} is of no use: {why}")]
    Release { suite: String, why: String },
    #[error("the Release file of {suite} was valid until {until}: the mirror is out of date")]
    Stale { suite: String, until: String },
    #[error("cannot read the package index")]
    Read(#[source] std::io::Error),
    #[error("the entry of {package} in the package index is of no use: {why}")]
    Entry { package: String, why: &'static str },
    #[error("the suite {suite} has no package {name}")]
    Missing { suite: String, name: String },
}

impl Release {
    /// Reads the signed text of an InRelease file.
    pub fn parse(text: &str, suite: &str) -> Result<Release, ArchiveError> {
        let faulty = |why: &str| ArchiveError::Release {
            suite: suite.to_owned(),
            why: why.to_owned(),
        };
        let mut fields = BTreeMap::new();
        let mut files = BTreeMap::new();
        let mut section = "";
        for line in text.lines() {
            if let Some(entry) = line.strip_prefix(' ') {
                if section == "SHA256" {
                    let mut words = entry.split_whitespace();
                    let (Some(sha256), Some(bytes), Some(path)) =
                        (words.next(), words.next(), words.next())
                    else {
                        return Err(faulty("a line of its list of digests is cut short"));
                    };
                    let bytes = bytes.parse().map_err(|_| faulty("a size is no number"))?;
                    check_sha256(sha256).map_err(faulty)?;
                    files.insert(path.to_owned(), (bytes, sha256.to_owned()));
                }
            } else if let Some((key, value)) = line.split_once(':') {
                section = key;
                fields.insert(key, value.trim());
            }
        }
        let codename = fields.get("Codename").copied().unwrap_or_default();
        let alias = fields.get("Suite").copied().unwrap_or_default();
        // A mirror must not be able to answer a question about one suite with the (validly signed) files of another.
        if suite != codename && suite != alias {
            return Err(faulty(&format!("it belongs to {codename:?} ({alias})")));
        }
        if files.is_empty() {
            return Err(faulty("it names no sha256 digests"));
        }
        Ok(Release {
            codename: codename.to_owned(),
            has_by_hash: fields.get("Acquire-By-Hash") == Some(&"yes"),
            valid_until: fields.get("Valid-Until").map(|date| (*date).to_owned()),
            files,
        })
    }

    /// Fails once `Valid-Until` has passed.
    pub fn check_valid_until(&self, now: time::OffsetDateTime) -> Result<(), ArchiveError> {
        let Some(until) = &self.valid_until else {
            return Ok(());
        };
        let format = time::macros::format_description!(
            "[weekday repr:short], [day padding:none] [month repr:short] [year] [hour]:[minute]:[second] UTC"
        );
        match time::PrimitiveDateTime::parse(until, format) {
            Ok(date) if date.assume_utc() >= now => Ok(()),
            Ok(_) => Err(ArchiveError::Stale {
                suite: self.codename.clone(),
                until: until.clone(),
            }),
            Err(_) => Err(ArchiveError::Release {
                suite: self.codename.clone(),
                why: format!("cannot read the date {until:?}"),
            }),
        }
    }

    /// The Packages file of a component, the smallest form that this program can read.
    pub fn packages_file(
        &self,
        suite: &str,
        component: &str,
        architecture: &str,
    ) -> Result<Named, ArchiveError> {
        let folder = format!("{component}/binary-{architecture}");
        for ending in [".xz", ".gz", ""] {
            let name = format!("{folder}/Packages{ending}");
            if let Some((bytes, sha256)) = self.files.get(&name) {
                let path = if self.has_by_hash {
                    format!("dists/{suite}/{folder}/by-hash/SHA256/{sha256}")
                } else {
                    format!("dists/{suite}/{name}")
                };
                return Ok(Named {
                    path,
                    bytes: *bytes,
                    sha256: sha256.clone(),
                });
            }
        }
        Err(ArchiveError::Release {
            suite: suite.to_owned(),
            why: format!("it has no package index for {component} on {architecture}"),
        })
    }
}

fn check_sha256(digest: &str) -> Result<(), &'static str> {
    let is_digest = digest.len() == 64
        && digest
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_digest
        .then_some(())
        .ok_or("a sha256 digest is malformed")
}

/// The packages of an index that a recipe may ask for.
#[derive(Debug)]
pub struct Packages {
    suite: String,
    packages: BTreeMap<String, Package>,
}

impl Packages {
    /// Reads an index, keeping the packages whose name passes `wanted`; of several versions the newest.
    pub fn read(
        mut index: impl BufRead,
        suite: &str,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Packages, ArchiveError> {
        let mut packages: BTreeMap<String, Package> = BTreeMap::new();
        let mut fields: BTreeMap<String, String> = BTreeMap::new();
        let mut is_wanted = false;
        let mut line = String::new();
        loop {
            line.clear();
            let read = index.read_line(&mut line).map_err(ArchiveError::Read)?;
            let text = line.trim_end();
            if text.is_empty() {
                if is_wanted {
                    let package = Package::from_fields(&fields)?;
                    let is_newer = packages.get(&package.name).is_none_or(|known| {
                        version::compare(&package.version, &known.version) == Ordering::Greater
                    });
                    if is_newer {
                        packages.insert(package.name.clone(), package);
                    }
                }
                fields.clear();
                is_wanted = false;
                if read == 0 {
                    break;
                }
                continue;
            }
            // `Package` is always the first field; the other 69,000 packages cost no allocation.
            if let Some(name) = text.strip_prefix("Package: ") {
                is_wanted = wanted(name);
            }
            if is_wanted
                && !text.starts_with(' ')
                && let Some((key, value)) = text.split_once(':')
            {
                fields.insert(key.to_owned(), value.trim().to_owned());
            }
        }
        Ok(Packages {
            suite: suite.to_owned(),
            packages,
        })
    }

    /// Finds `a | b | c`: the first that exists.
    pub fn find(&self, alternatives: &str) -> Result<&Package, ArchiveError> {
        names_of(alternatives)
            .find_map(|name| self.packages.get(name))
            .ok_or_else(|| ArchiveError::Missing {
                suite: self.suite.clone(),
                name: alternatives.to_owned(),
            })
    }

    /// Follows a kernel's meta package to the package that holds the kernel.
    pub fn find_kernel(&self, name: &str) -> Result<&Package, ArchiveError> {
        let mut package = self.find(name)?;
        let mut seen = BTreeSet::new();
        while seen.insert(&package.name) {
            let next = package
                .depends
                .split(',')
                .map(|dependency| dependency.split(['(', '|']).next().unwrap_or("").trim())
                .find(|dependency| dependency.starts_with("linux-image-"));
            match next {
                Some(next) => package = self.find(next)?,
                None => break,
            }
        }
        Ok(package)
    }
}

/// The names in `a | b | c`.
pub(crate) fn names_of(alternatives: &str) -> impl Iterator<Item = &str> {
    alternatives.split('|').map(str::trim)
}

impl Package {
    fn from_fields(fields: &BTreeMap<String, String>) -> Result<Package, ArchiveError> {
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let name = field("Package");
        let faulty = |why| ArchiveError::Entry {
            package: name.clone(),
            why,
        };
        let path = field("Filename");
        // The index is signed, but a path from outside is never joined to anything unread.
        if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return Err(faulty("it has no usable Filename"));
        }
        let sha256 = field("SHA256");
        check_sha256(&sha256).map_err(faulty)?;
        let bytes = field("Size")
            .parse()
            .map_err(|_| faulty("it has no Size"))?;
        Ok(Package {
            version: field("Version"),
            depends: field("Depends"),
            file: Named {
                path,
                bytes,
                sha256,
            },
            name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn release() -> String {
        format!(
            "Origin: Debian\nSuite: stable\nCodename: trixie\nAcquire-By-Hash: yes\nMD5Sum:\n x 1 main/binary-amd64/Packages.xz\n\
             SHA256:\n {DIGEST} 12 main/binary-amd64/Packages.gz\n {DIGEST}  7 main/binary-amd64/Packages.xz\n"
        )
    }

    #[test]
    fn the_smallest_index_is_found_by_its_digest() {
        let release = Release::parse(&release(), "trixie").unwrap();
        let file = release.packages_file("trixie", "main", "amd64").unwrap();
        assert_eq!(file.bytes, 7);
        assert_eq!(
            file.path,
            format!("dists/trixie/main/binary-amd64/by-hash/SHA256/{DIGEST}")
        );
        assert!(release.packages_file("trixie", "main", "arm64").is_err());
    }

    #[test]
    fn another_suites_release_is_refused() {
        let error = Release::parse(&release(), "bookworm").unwrap_err();
        assert!(error.to_string().contains("trixie"), "{error}");
        Release::parse(&release(), "stable").unwrap();
    }

    #[test]
    fn valid_until_is_kept() {
        let text = release() + "Valid-Until: Sat, 5 Sep 2026 07:55:41 UTC\n";
        let release = Release::parse(&text, "trixie").unwrap();
        let at = |seconds| time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
        release.check_valid_until(at(1_788_594_941)).unwrap();
        let error = release.check_valid_until(at(1_788_594_942)).unwrap_err();
        assert!(matches!(error, ArchiveError::Stale { .. }), "{error}");
    }

    fn index() -> String {
        let entry = |name: &str, version: &str, depends: &str| {
            format!(
                "Package: {name}\nVersion: {version}\nDepends: {depends}\nDescription: words\n more words\n\
                 Filename: pool/{name}_{version}.deb\nSize: 5\nSHA256: {DIGEST}\n\n"
            )
        };
        entry("busybox", "1:1.9-1", "")
            + &entry("busybox", "1:1.37-1", "libc6 (>= 2.3)")
            + &entry("busybox", "1:1.4-1", "")
            + &entry(
                "linux-image-cloud-amd64",
                "6.12-1",
                "linux-image-6.12-cloud-amd64 (= 6.12-1)",
            )
            + &entry(
                "linux-image-6.12-cloud-amd64",
                "6.12-1",
                "kmod, linux-base (>= 4)",
            )
            + &entry("unwanted", "1", "")
    }

    #[test]
    fn packages_are_found() {
        let packages =
            Packages::read(index().as_bytes(), "trixie", |name| name != "unwanted").unwrap();
        assert_eq!(packages.find("none | busybox").unwrap().version, "1:1.37-1");
        assert!(packages.find("unwanted").is_err());
        assert_eq!(
            packages
                .find_kernel("linux-image-cloud-amd64")
                .unwrap()
                .name,
            "linux-image-6.12-cloud-amd64"
        );
    }

    #[test]
    fn a_path_out_of_the_archive_is_refused() {
        let text = index().replace("pool/busybox_1:1.9-1", "../../etc/passwd");
        let error = Packages::read(text.as_bytes(), "trixie", |_| true).unwrap_err();
        assert!(error.to_string().contains("busybox"), "{error}");
    }
}
