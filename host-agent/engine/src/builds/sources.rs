//! Files from elsewhere: git repositories and addresses, for contexts and for `ADD`.

use crate::error::{Class, Classify};
use crate::images::BorrowedRoot;
use async_trait::async_trait;
use std::collections::BTreeMap;

/// A git repository: `https://host/repo.git#ref:folder`, `git@host:repo.git`, `git://`, `ssh://`, `host/repo.git` of the
/// well-known hosts; or `https://host/repo.git?ref=..&subdir=..` (also `tag`, `branch`, `commit`, `checksum`,
/// `keep-git-dir`, `submodules`), as BuildKit reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitAddress {
    /// What git is given.
    pub remote: String,
    /// Branch, tag or commit; empty: the repository's default.
    pub reference: String,
    /// Folder in the repository; empty: all of it.
    pub folder: String,
    /// Beginning of the commit that the reference must be; empty: any.
    pub commit: String,
    /// `.git` stays.
    pub keep_git_folder: bool,
    pub submodules: bool,
    /// What [`GitAddress::check`] tells of the query.
    wrong_query: Option<String>,
}

/// Hosts whose addresses are repositories without saying so.
const GIT_HOSTS: [&str; 3] = ["github.com/", "gitlab.com/", "bitbucket.org/"];

impl GitAddress {
    /// Reads an address of a repository; `None` is something else (a file of a web server, a path).
    pub fn parse(text: &str) -> Option<GitAddress> {
        let (place, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (remote, query) = place.split_once('?').unwrap_or((place, ""));
        let scheme = remote.split_once("://").map(|(scheme, _)| scheme);
        let is_git = match scheme {
            Some("git" | "ssh") => true,
            // As Docker decides it: by the name's end.
            Some("http" | "https") => remote.ends_with(".git"),
            Some(_) => false,
            None => GIT_HOSTS.iter().any(|host| remote.starts_with(host)) || is_scp_like(remote),
        };
        if !is_git {
            return None;
        }
        let remote = match scheme {
            None if !is_scp_like(remote) => format!("https://{remote}"),
            _ => remote.to_owned(),
        };
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut address = GitAddress {
            remote,
            reference: reference.to_owned(),
            folder: folder.trim_matches('/').to_owned(),
            commit: String::new(),
            keep_git_folder: false,
            submodules: true,
            wrong_query: None,
        };
        address.wrong_query = address.take_query(query).err();
        Some(address)
    }

    /// Reads what is behind a `?`. The sentences are BuildKit's (`dfgitutil`).
    fn take_query(&mut self, query: &str) -> Result<(), String> {
        let mut given: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if given.insert(name.to_string(), value.to_string()).is_some() {
                return Err(format!("query {name:?} has multiple values"));
            }
        }
        let mut named = None;
        for (name, value) in &given {
            let is_switch = matches!(name.as_str(), "keep-git-dir" | "submodules");
            if value.is_empty() && !is_switch {
                return Err(format!("query {name:?} has no value"));
            }
            let switch = || match value.as_str() {
                "" | "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
                "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
                _ => Err(format!("invalid {name} value: {value:?}")),
            };
            match name.as_str() {
                "ref" => set_once("ref", &mut self.reference, value)?,
                "subdir" => set_once("subdir", &mut self.folder, value.trim_matches('/'))?,
                "checksum" | "commit" => self.commit.clone_from(value),
                "keep-git-dir" => self.keep_git_folder = switch()?,
                "submodules" => self.submodules = switch()?,
                "tag" | "branch" if named.is_some() => {
                    return Err("branch conflicts with tag".to_owned());
                }
                "tag" => named = Some(("refs/tags/", value)),
                "branch" => named = Some(("refs/heads/", value)),
                _ => return Err(format!("unexpected query {name:?}")),
            }
        }
        if let Some((prefix, name)) = named {
            let whole = match name.starts_with(prefix) {
                true => name.clone(),
                false => format!("{prefix}{name}"),
            };
            set_once("ref", &mut self.reference, &whole)?;
        }
        if self.reference.is_empty() {
            self.reference.clone_from(&self.commit);
        }
        Ok(())
    }

    /// Whether the commit is the one that was asked for.
    pub fn check_commit(&self, commit: &str) -> Result<(), SourceError> {
        if self.commit.is_empty() || is_commit_of(&self.commit, commit) {
            return Ok(());
        }
        Err(SourceError::Invalid(format!(
            "expected checksum to match {} for {}, got {commit}",
            self.commit, self.remote
        )))
    }

    /// Nothing in it may be taken for an option, or for a helper program, by git or by ssh.
    pub fn check(&self) -> Result<(), SourceError> {
        let refused = |what: &str| {
            Err(SourceError::Invalid(format!(
                "invalid git address {:?}: {what}",
                self.remote
            )))
        };
        if let Some(wrong) = &self.wrong_query {
            return refused(wrong);
        }
        let is_plain = |text: &str| !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if !is_plain(&self.remote) {
            return refused("it has spaces or control characters");
        }
        let place = match self.remote.split_once("://") {
            Some(("http" | "https" | "git" | "ssh", place)) => place,
            None if is_scp_like(&self.remote) => self.remote.as_str(),
            _ => return refused("only http, https, git and ssh are spoken"),
        };
        let host = place.rsplit_once('@').map_or(place, |(_, host)| host);
        if place.starts_with('-') || host.starts_with('-') || host.is_empty() {
            return refused("a host's name cannot begin with a dash");
        }
        let is_reference = self
            .reference
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || "._/+-@".contains(character));
        if self.reference.starts_with('-') || !is_reference || self.reference.contains("..") {
            return refused(&format!("{:?} is no branch, tag or commit", self.reference));
        }
        Ok(())
    }
}

/// Beginnings of commits count, too, from seven digits on.
pub(super) fn is_commit_of(beginning: &str, commit: &str) -> bool {
    beginning.len() >= 7 && commit.starts_with(beginning)
}

/// The same may be said twice.
fn set_once(name: &str, place: &mut String, value: &str) -> Result<(), String> {
    if !place.is_empty() && place != value {
        return Err(format!("{name} conflicts: {place:?} vs {value:?}"));
    }
    value.clone_into(place);
    Ok(())
}

/// `user@host:path`
fn is_scp_like(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else {
        return false;
    };
    let is_name = |name: &str| {
        !name.is_empty()
            && !name.starts_with('-')
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    match rest.split_once(':') {
        Some((host, path)) => is_name(user) && is_name(host) && !path.starts_with("//"),
        None => false,
    }
}

/// Fetches repositories. Implemented by `engine_linux::builds`: with the `git` program, where there is one.
#[async_trait]
pub trait GitFetcher: Send + Sync + 'static {
    /// The commit a reference is now (40 hex digits), without fetching it.
    async fn resolve(&self, address: &GitAddress) -> Result<String, SourceError>;

    /// The files of the commit. `.git` is left out unless `keep_git_folder`.
    async fn fetch(
        &self,
        address: &GitAddress,
        commit: &str,
        keep_git_folder: bool,
    ) -> Result<BorrowedRoot, SourceError>;
}

/// Why files could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A complete sentence.
    #[error("{0}")]
    Invalid(String),
    #[error(
        "cannot fetch {address}: there is no git program on this host; install git, or send the files"
    )]
    NoGit { address: String },
    /// `said` is what git or the server answered.
    #[error("cannot fetch {address}: {said}")]
    Refused { address: String, said: String },
    #[error("cannot fetch {address}")]
    Failed {
        address: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classify for SourceError {
    fn class(&self) -> Class {
        match self {
            SourceError::Invalid(_) => Class::Invalid,
            SourceError::NoGit { .. } => Class::Unsupported,
            SourceError::Refused { .. } => Class::Unavailable,
            SourceError::Failed { .. } => Class::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(&str, &str, &str)>) {
        let parsed = GitAddress::parse(text);
        let shown = parsed.as_ref().map(|address| {
            (
                address.remote.as_str(),
                address.reference.as_str(),
                address.folder.as_str(),
            )
        });
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn addresses_of_repositories_are_told_from_others() {
        check(
            "https://a.example/r.git",
            Some(("https://a.example/r.git", "", "")),
        );
        check(
            "https://a.example/r.git#v1:docker/base",
            Some(("https://a.example/r.git", "v1", "docker/base")),
        );
        check("github.com/a/b", Some(("https://github.com/a/b", "", "")));
        check(
            "git@a.example:r.git#main",
            Some(("git@a.example:r.git", "main", "")),
        );
        check("git://a.example/r", Some(("git://a.example/r", "", "")));
        check(
            "https://a.example/r.git?ref=v1&subdir=/docker/base/",
            Some(("https://a.example/r.git", "v1", "docker/base")),
        );
        check(
            "git@a.example:r.git?branch=feature%2Fx#:sub",
            Some(("git@a.example:r.git", "refs/heads/feature/x", "sub")),
        );
        check(
            "https://a.example/r.git?tag=refs/tags/v1",
            Some(("https://a.example/r.git", "refs/tags/v1", "")),
        );
        check(
            "https://a.example/r.git?commit=0123456789",
            Some(("https://a.example/r.git", "0123456789", "")),
        );
        check("https://a.example/file.tar.gz", None);
        check("https://a.example/file?x=.git", None);
        check("folder/file", None);
        check("ext::sh -c x", None);
        check("file:///etc", None);
    }

    #[test]
    fn queries_are_read_as_buildkit_does() {
        let read = |query: &str| {
            let address = GitAddress::parse(&format!("https://a.example/r.git?{query}"));
            let address = address.expect("a repository");
            address.check().map(|()| address)
        };
        let all = read("ref=main&commit=0123456&keep-git-dir&submodules=false").expect("good");
        assert_eq!(
            (all.reference.as_str(), all.keep_git_folder, all.submodules),
            ("main", true, false)
        );
        assert!(all.check_commit("0123456789").is_ok());
        assert!(all.check_commit("9123456789").is_err());
        for (query, why) in [
            ("rev=1", "unexpected query \"rev\""),
            ("ref=", "query \"ref\" has no value"),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("ref=a&tag=b", "ref conflicts: \"a\" vs \"refs/tags/b\""),
            ("subdir=a#main:b", "subdir conflicts: \"b\" vs \"a\""),
            ("submodules=maybe", "invalid submodules value: \"maybe\""),
            ("ref=--upload-pack%3Dx", "no branch, tag or commit"),
        ] {
            let error = read(query).expect_err(query).to_string();
            assert!(error.contains(why), "{query}: {error}");
        }
    }

    #[test]
    fn nothing_is_taken_for_an_option() {
        for text in [
            "ssh://-oProxyCommand=x/r.git",
            "ssh://user@-oProxyCommand=x/r",
            "git://a.example/r#--upload-pack=x",
            "git://a.example/r#-x",
            "git://a.example/r#a b",
            "git://a.example/r#a..b",
            "https:///r.git",
        ] {
            let Some(address) = GitAddress::parse(text) else {
                continue;
            };
            assert!(
                address.check().is_err() || text == "https:///r.git",
                "{text}"
            );
        }
        let helper = GitAddress {
            remote: "ext::sh -c x".into(),
            ..GitAddress::parse("git://a.example/r").expect("one")
        };
        assert!(helper.check().is_err());
        let good = GitAddress::parse("git@a.example:r.git#feature/x-1").expect("one");
        assert!(good.check().is_ok());
    }
}
