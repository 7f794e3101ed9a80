//! Files from elsewhere: git repositories and addresses, for contexts and for `ADD`.

use crate::error::{Class, Classify};
use crate::images::BorrowedRoot;
use async_trait::async_trait;

/// A git repository: `https://host/repo.git#ref:folder`, `git@host:repo.git`, `git://`, `ssh://`, `host/repo.git` of the
/// well-known hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitAddress {
    /// What git is given.
    pub remote: String,
    /// Branch, tag or commit; empty: the repository's default.
    pub reference: String,
    /// Folder in the repository; empty: all of it.
    pub folder: String,
}

/// Hosts whose addresses are repositories without saying so.
const GIT_HOSTS: [&str; 3] = ["github.com/", "gitlab.com/", "bitbucket.org/"];

impl GitAddress {
    /// Reads an address of a repository; `None` is something else (a file of a web server, a path).
    pub fn parse(text: &str) -> Option<GitAddress> {
        let (remote, fragment) = text.split_once('#').unwrap_or((text, ""));
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
        Some(GitAddress {
            remote,
            reference: reference.to_owned(),
            folder: folder.trim_matches('/').to_owned(),
        })
    }

    /// Nothing in it may be taken for an option, or for a helper program, by git or by ssh.
    pub fn check(&self) -> Result<(), SourceError> {
        let refused = |what: &str| {
            Err(SourceError::Invalid(format!(
                "invalid git address {:?}: {what}",
                self.remote
            )))
        };
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
        check("https://a.example/file.tar.gz", None);
        check("folder/file", None);
        check("ext::sh -c x", None);
        check("file:///etc", None);
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
