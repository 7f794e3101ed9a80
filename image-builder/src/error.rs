//! What can go wrong when an image is built, and what to try next.

use crate::archive::ArchiveError;
use crate::deb::DebError;
use crate::fetch::FetchError;
use crate::kernel::KernelError;
use crate::modules::ModulesError;
use crate::recipe::RecipeError;
use crate::signature::SignatureError;
use crate::userland::UserlandError;
use std::path::{Path, PathBuf};

/// A file or folder of ours that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {path}", path = .path.display())]
pub struct FileError {
    pub verb: &'static str,
    pub path: PathBuf,
    pub source: std::io::Error,
}

impl FileError {
    /// For `map_err`.
    pub(crate) fn on(verb: &'static str, path: &Path) -> impl Fn(std::io::Error) -> FileError {
        let path = path.to_owned();
        move |source| FileError {
            verb,
            path: path.clone(),
            source,
        }
    }
}

/// Why there is no image. Nothing is left at the output's path that was not there before.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error("no Debian mirror is known: apt has none configured here, and none was named")]
    NoMirror,
    #[error("cannot fetch from the mirror")]
    Fetch(#[from] FetchError),
    #[error("none of the suites {suites} is on {mirrors}")]
    NoSuite { suites: String, mirrors: String },
    #[error("the file {url} cannot be trusted")]
    Untrusted { url: String, source: SignatureError },
    #[error(transparent)]
    Keyring(SignatureError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("cannot unpack the package {package}")]
    Deb { package: String, source: DebError },
    #[error("the kernel of {package} cannot be used")]
    Kernel {
        package: String,
        source: KernelError,
    },
    #[error("the modules of {package} cannot be used")]
    Modules {
        package: String,
        source: ModulesError,
    },
    #[error("cannot put the guest's programs together")]
    Userland(#[from] UserlandError),
    #[error("cannot read the host agent {path}", path = .path.display())]
    ReadAgent {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path} is no host agent for this image: {why}", path = .path.display())]
    Agent { path: PathBuf, why: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the output {path} exists and is not an image: it has no {manifest}", path = .path.display(), manifest = guest_contract::manifest::MANIFEST_FILE)]
    OutputOccupied { path: PathBuf },
}

impl BuildError {
    /// What to try next, where there is something better to say than the message does.
    pub fn hint(&self) -> Option<String> {
        if has_storage_full(self) {
            return Some(
                "the disk is full: free some space, or name folders on another disk with --output and --cache"
                    .into(),
            );
        }
        let hint = match self {
            BuildError::NoMirror => {
                "name one with --mirror URL, BERTH_MIRROR, or `mirror = \"URL\"` in berth/image-builder.toml in your configuration folder"
            }
            BuildError::Fetch(FetchError::Offline { .. }) => {
                "build once without --offline, or name the --cache folder of an earlier build"
            }
            BuildError::Fetch(FetchError::Digest { .. } | FetchError::Size { .. }) => {
                "the mirror may be in the middle of an update: try again in some minutes, or use another one with --mirror"
            }
            BuildError::Fetch(_) => {
                "check the network and the proxy (http_proxy, apt's Acquire::http::Proxy), or name another mirror with --mirror"
            }
            BuildError::NoSuite { .. } => {
                "check that the address is that of a Debian archive (it has a folder `dists`), or name another suite with --suite"
            }
            BuildError::Untrusted {
                source: SignatureError::UnknownKey { .. } | SignatureError::UnusableKey { .. },
                ..
            } => {
                "install a newer debian-archive-keyring, or name the keyring of this archive with --keyring"
            }
            BuildError::Untrusted { .. } => {
                "the mirror, or something on the way to it, changes files: use another one with --mirror"
            }
            BuildError::Archive(ArchiveError::Stale { .. }) => {
                "use another mirror with --mirror, or set this computer's clock"
            }
            BuildError::ReadAgent { .. } | BuildError::Agent { .. } => {
                "build it: cargo build --release --target x86_64-unknown-linux-musl -p agent-server, then --agent target/x86_64-unknown-linux-musl/release/host-agent"
            }
            BuildError::OutputOccupied { .. } => "name a folder that does not exist yet",
            _ => return None,
        };
        Some(hint.into())
    }
}

fn has_storage_full(error: &BuildError) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = next {
        if let Some(io) = current.downcast_ref::<std::io::Error>()
            && matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            )
        {
            return true;
        }
        next = current.source();
    }
    false
}
