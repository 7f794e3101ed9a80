//! Image references: `[domain/]path[:tag][@digest]`, normalised and refused as Docker does
//! (github.com/distribution/reference, `normalize.go` and `regexp.go`).

use super::Digest;
use crate::error::{Class, Classify};
use std::fmt;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
/// Bytes of domain and path together.
const NAME_MAX: usize = 255;
/// Bytes of a tag.
const TAG_MAX: usize = 128;

/// A repository: `docker.io/library/alpine`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    domain: String,
    path: String,
}

impl Repository {
    /// Takes a name without tag and digest, in any of the forms people write.
    pub fn parse(text: &str) -> Result<Repository, ReferenceError> {
        match Reference::parse(text)? {
            Reference {
                repository,
                tag: None,
                digest: None,
            } => Ok(repository),
            _ => Err(ReferenceError::Format),
        }
    }

    /// Host and perhaps port, for example `docker.io` or `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether it is on Docker Hub, the only registry that mirrors stand in for.
    pub fn is_default_domain(&self) -> bool {
        self.domain == DEFAULT_DOMAIN
    }

    /// What people write: `alpine`, `user/thing`, `localhost:5000/thing`.
    pub fn familiar(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.to_string();
        }
        let short = self.path.strip_prefix("library/").unwrap_or(&self.path);
        // `docker.io/library/a/b` must keep its `library/`, or reading it again would lose it.
        if short.contains('/') {
            self.path.clone()
        } else {
            short.to_owned()
        }
    }

    pub fn with_tag(self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::TagFormat);
        }
        Ok(Reference {
            repository: self,
            tag: Some(tag.to_owned()),
            digest: None,
        })
    }

    pub fn with_digest(self, digest: Digest) -> Reference {
        Reference {
            repository: self,
            tag: None,
            digest: Some(digest),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)
    }
}

/// A repository with a tag, a digest, both or neither. Its `Display` is the full form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    pub repository: Repository,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

impl Reference {
    /// Reads and normalises: `alpine` is `docker.io/library/alpine`. Adds no tag.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        if crate::id::is_full_id(text) {
            return Err(ReferenceError::LooksLikeId {
                name: text.to_owned(),
            });
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(parse_digest(digest)?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a port.
        let name_end = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match rest[name_end..].split_once(':') {
            Some((_, tag)) if is_tag(tag) => {
                (&rest[..rest.len() - tag.len() - 1], Some(tag.to_owned()))
            }
            Some(_) => return Err(ReferenceError::Format),
            None => (rest, None),
        };
        let (domain, path) = split_domain(name);
        let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(ReferenceError::UpperCase { path });
        }
        if !is_domain(domain) || !path.split('/').all(is_path_component) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Reference {
            repository: Repository {
                domain: domain.to_owned(),
                path,
            },
            tag,
            digest,
        })
    }

    /// Whether an image can be given this name. Docker's rule: `sha256:abc` would pass for an id.
    pub fn check_as_name(&self) -> Result<(), ReferenceError> {
        match self.repository.familiar().as_str() {
            "sha256" => Err(ReferenceError::AlgorithmAsName),
            _ => Ok(()),
        }
    }

    /// The same with `latest` where neither tag nor digest is given.
    pub fn or_latest(mut self) -> Reference {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// Neither tag nor digest.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// Docker's short form: `alpine:latest`.
    pub fn familiar(&self) -> String {
        self.written(self.repository.familiar())
    }

    /// What a registry is asked for: the digest where there is one, else the tag.
    pub fn tag_or_digest(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    fn written(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written(self.repository.to_string()))
    }
}

/// Why a reference was refused; the texts are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({path}) must be lowercase")]
    UpperCase { path: String },
    #[error("repository name must not be more than {NAME_MAX} characters")]
    TooLong,
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId { name: String },
    #[error("invalid tag format")]
    TagFormat,
    #[error("refusing to create an ambiguous tag using digest algorithm as name")]
    AlgorithmAsName,
    #[error("'scratch' is a reserved name")]
    Reserved,
    #[error("invalid checksum digest length")]
    DigestLength,
    #[error("unsupported digest algorithm")]
    DigestAlgorithm,
    #[error("invalid checksum digest format")]
    DigestFormat,
}

impl Classify for ReferenceError {
    fn class(&self) -> Class {
        Class::Invalid
    }
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    if let Some(digest) = Digest::parse(text) {
        return Ok(digest);
    }
    match text.split_once(':') {
        Some(("sha256", hex)) if hex.len() != 64 => Err(ReferenceError::DigestLength),
        Some(("sha256", _)) => Err(ReferenceError::DigestFormat),
        Some(("sha384" | "sha512", _)) => Err(ReferenceError::DigestAlgorithm),
        _ => Err(ReferenceError::Format),
    }
}

/// The first part is a domain if it looks like one: a dot, a port, `localhost`, or an upper-case letter.
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            let domain = if first == LEGACY_DOMAIN {
                DEFAULT_DOMAIN
            } else {
                first
            };
            (domain, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
pub fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_MAX
        && text.bytes().next().is_some_and(word)
        && text
            .bytes()
            .all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(text: &str) -> bool {
    let mut separator = String::new();
    let mut after_word = false;
    for character in text.chars() {
        match character {
            'a'..='z' | '0'..='9' => {
                let dashes = separator.chars().all(|dash| dash == '-');
                if !dashes && !matches!(separator.as_str(), "." | "_" | "__") {
                    return false;
                }
                separator.clear();
                after_word = true;
            }
            '.' | '_' | '-' if after_word => separator.push(character),
            _ => return false,
        }
    }
    after_word && separator.is_empty()
}

fn is_domain(text: &str) -> bool {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        match rest.split_once(']') {
            Some((address, port)) => {
                let hexadecimal = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
                if address.is_empty() || !address.bytes().all(hexadecimal) {
                    return false;
                }
                return port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
            }
            None => return false,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    host.split('.').all(label) && port.is_none_or(is_port)
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[track_caller]
    fn check(text: &str, full: &str, familiar: &str) {
        let reference = Reference::parse(text).expect("a good reference");
        assert_eq!(reference.to_string(), full);
        assert_eq!(reference.familiar(), familiar);
        assert_eq!(Reference::parse(full).as_ref(), Ok(&reference));
        assert_eq!(Reference::parse(familiar).as_ref(), Ok(&reference));
    }

    #[track_caller]
    fn refuse(text: &str, error: ReferenceError) {
        assert_eq!(Reference::parse(text), Err(error), "{text}");
    }

    #[test]
    fn good_references_are_normalised_as_docker_does() {
        check("alpine", "docker.io/library/alpine", "alpine");
        check(
            "alpine:3.20",
            "docker.io/library/alpine:3.20",
            "alpine:3.20",
        );
        check("me/thing", "docker.io/me/thing", "me/thing");
        check("docker.io/alpine", "docker.io/library/alpine", "alpine");
        check("index.docker.io/me/a", "docker.io/me/a", "me/a");
        check("localhost/a", "localhost/a", "localhost/a");
        check(
            "localhost:5000/a:b",
            "localhost:5000/a:b",
            "localhost:5000/a:b",
        );
        check(
            "ghcr.io/a/b_c/d__e:V1",
            "ghcr.io/a/b_c/d__e:V1",
            "ghcr.io/a/b_c/d__e:V1",
        );
        check("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a");
        check("Host/a", "Host/a", "Host/a");
        check("library/a/b", "docker.io/library/a/b", "library/a/b");
        let digest = format!("alpine@sha256:{HEX}");
        check(&digest, &format!("docker.io/library/{digest}"), &digest);
        let both = format!("alpine:3@sha256:{HEX}");
        check(&both, &format!("docker.io/library/{both}"), &both);
    }

    #[test]
    fn bad_references_are_refused_with_dockers_text() {
        refuse("", ReferenceError::Format);
        refuse("alpine:", ReferenceError::Format);
        refuse("-alpine", ReferenceError::Format);
        refuse("a//b", ReferenceError::Format);
        refuse("a/", ReferenceError::Format);
        refuse("a b", ReferenceError::Format);
        refuse("a..b", ReferenceError::Format);
        refuse("a___b", ReferenceError::Format);
        refuse("al\u{e9}", ReferenceError::Format);
        refuse("alpine@sha256:12", ReferenceError::DigestLength);
        refuse("alpine@", ReferenceError::Format);
        refuse(HEX, ReferenceError::LooksLikeId { name: HEX.into() });
        refuse(
            "Alpine",
            ReferenceError::UpperCase {
                path: "library/Alpine".into(),
            },
        );
        refuse(&"a".repeat(256), ReferenceError::TooLong);
        refuse(&format!("a:{}", "b".repeat(129)), ReferenceError::Format);
        assert_eq!(
            Reference::parse("Alpine")
                .expect_err("upper case")
                .to_string(),
            "invalid reference format: repository name (library/Alpine) must be lowercase"
        );
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_parses_reads_back(text in "\\PC{0,80}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
            }
        }

        #[test]
        fn plausible_references_read_back(
            text in "([a-z]{1,4}(\\.[a-z]{2})?(:[0-9]{1,4})?/)?[a-z0-9]{1,5}([._/-][a-z0-9]{1,5}){0,3}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,6})?"
        ) {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
            }
        }
    }
}
