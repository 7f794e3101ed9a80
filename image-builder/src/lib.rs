//! Builds Berth's guest image from Debian packages: a folder with the kernel (`vmlinux`), the first file system
//! (`initrd`), the packages' licences and a manifest. In Rust alone: no root, no chroot, no Debian tools.
//!
//! ```text
//!   keyring ──checks──> InRelease ──names──> Packages ──names──> *.deb        (fetch, signature, archive)
//!                                                                  │
//!                  kernel, modules, programs, libraries, licences <┘          (deb, kernel, modules, userland)
//!                                     │
//!   agent ───────────────┐        base (cached)                               (base)
//!                        └─> image <──┘                                       (image)
//! ```
//!
//! The same recipe, packages and agent give the same bytes. Each arrow on the first line is a digest or a signature;
//! [`build`] stops at the first one that does not hold, and leaves the output as it was.

mod apt;
mod archive;
mod base;
mod cache;
mod deb;
mod elf;
mod error;
#[cfg(test)]
mod fake_elf;
mod fetch;
mod image;
mod kernel;
mod licence;
mod modules;
mod progress;
mod recipe;
mod signature;
mod tree;
mod userland;
mod version;

pub use archive::ArchiveError;
pub use deb::DebError;
pub use error::{BuildError, FileError};
pub use fetch::{FetchError, Network};
pub use guest_contract::manifest::Manifest;
pub use kernel::KernelError;
pub use modules::ModulesError;
pub use progress::{Progress, megabytes};
pub use recipe::{LoadedRecipe, Recipe, RecipeError};
pub use signature::SignatureError;
pub use userland::UserlandError;

use archive::{Named, Release};
use base::{Archive, Base};
use cache::Cache;
use fetch::Fetcher;
use image::{Agent, Labels};
use signature::Keyring;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Largest download, in bytes, that the project allows itself.
pub const DOWNLOAD_LIMIT: u64 = 32 * 1024 * 1024;

/// An image to build.
#[derive(Debug, Clone)]
pub struct Request {
    pub recipe: LoadedRecipe,
    /// The static `host-agent` program.
    pub agent: PathBuf,
    /// What the manifest says of the agent's version.
    pub agent_version: String,
    /// The folder to write; an image that is there is replaced.
    pub output: PathBuf,
    /// Base address of a Debian archive (the folder with `dists`); `None`: those apt is configured to use.
    pub mirror: Option<String>,
    /// The one suite to take instead of the recipe's.
    pub suite: Option<String>,
    /// Keys to believe; `None`: the installed debian-archive-keyring, else Debian's keys as compiled in.
    pub keyring: Option<PathBuf>,
    /// Where downloads and half-built images are kept.
    pub cache: PathBuf,
    pub network: Network,
    pub progress: Progress,
}

/// The cache folder unless told otherwise: `berth/packages` in the user's cache folder (`$XDG_CACHE_HOME` on Linux);
/// `None` where there is no home.
pub fn default_cache() -> Option<PathBuf> {
    use etcetera::BaseStrategy;
    let strategy = etcetera::choose_base_strategy().ok()?;
    Some(strategy.cache_dir().join("berth").join("packages"))
}

/// Builds an image. After an error the output is what it was before.
pub fn build(request: Request) -> Result<Manifest, BuildError> {
    let progress = request.progress;
    // What can be wrong without a download is checked before one.
    let agent = || Agent::read(&request.agent);
    agent()?;
    let keyring = match &request.keyring {
        Some(path) => Keyring::read(path).map_err(BuildError::Keyring)?,
        None => match apt::archive_keyring() {
            Some(path) => Keyring::read(&path).map_err(BuildError::Keyring)?,
            None => Keyring::built_in(),
        },
    };
    let recipe = &request.recipe.recipe;
    let mirrors = match &request.mirror {
        Some(mirror) => vec![mirror.trim_end_matches('/').to_owned()],
        None => apt::mirrors(Path::new("/"), &recipe.component),
    };
    if mirrors.is_empty() {
        return Err(BuildError::NoMirror);
    }
    let suites = match &request.suite {
        Some(suite) => std::slice::from_ref(suite),
        None => &recipe.suites,
    };
    let cache = Cache::open(&request.cache, || {
        progress.step("Waiting for another build that uses this cache");
    })?;
    let fetcher = Fetcher::new(&cache, request.network, progress);
    let source = find_source(&request, &mirrors, suites, &keyring, &fetcher)?;
    let archive = Archive {
        mirror: &source.mirror,
        suite: &source.suite,
        index: &source.index,
    };
    // A damaged base in the cache is found when it is read; it is then made anew, once.
    for _ in 0..2 {
        let base = Base::get(&request.recipe, &archive, &fetcher, &cache, progress)?;
        let labels = Labels {
            name: recipe.name.clone(),
            architecture: recipe.architecture.clone(),
            command_line: recipe.kernel.command_line.trim().to_owned(),
            agent_version: request.agent_version.clone(),
        };
        let written = image::write(&base, agent()?, labels, &request.output, &cache, progress)?;
        if let Some(manifest) = written {
            return Ok(manifest);
        }
    }
    let path = request.cache;
    let source = std::io::Error::other("a file changes while it is written and read");
    Err(FileError::on("use the cache", &path)(source).into())
}

/// A mirror, a suite that it has, and the suite's signed package index.
struct Source {
    mirror: String,
    suite: String,
    index: Named,
}

/// The first suite, in the recipe's order, that one of the mirrors has.
fn find_source(
    request: &Request,
    mirrors: &[String],
    suites: &[String],
    keyring: &Keyring,
    fetcher: &Fetcher<'_>,
) -> Result<Source, BuildError> {
    let progress = request.progress;
    let mut failure = None;
    for suite in suites {
        for mirror in mirrors {
            match read_source(request, mirror, suite, keyring, fetcher) {
                Ok(source) => {
                    if Some(suite) != suites.first() {
                        progress.step(&format!("note: building from the suite {suite}"));
                    }
                    return Ok(source);
                }
                // Only "there is no such suite" leads to an older one: a bad signature or a dead network must not.
                Err(BuildError::Fetch(error)) if error.is_not_found() => {}
                Err(error) if mirrors.len() > 1 => {
                    progress.step(&format!("warning: {mirror}: {error}"));
                    failure.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
    }
    Err(BuildError::NoSuite {
        suites: suites.join(", "),
        mirrors: mirrors.join(", "),
    })
}

fn read_source(
    request: &Request,
    mirror: &str,
    suite: &str,
    keyring: &Keyring,
    fetcher: &Fetcher<'_>,
) -> Result<Source, BuildError> {
    let signed = fetcher.release(mirror, suite)?;
    let now = SystemTime::now();
    let text = keyring
        .verify(&signed.bytes, now)
        .map_err(|source| BuildError::Untrusted {
            url: format!("{mirror}/dists/{suite}/InRelease"),
            source,
        })?;
    let release = Release::parse(&text, suite)?;
    if signed.is_from_mirror {
        release.check_valid_until(now.into())?;
    }
    fetcher.keep_release(mirror, suite, &signed)?;
    let recipe = &request.recipe.recipe;
    let index = release.packages_file(suite, &recipe.component, recipe.debian_architecture())?;
    Ok(Source {
        mirror: mirror.to_owned(),
        suite: suite.to_owned(),
        index,
    })
}

/// A file of an image that is not as its manifest says.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    #[error("{path} is no image", path = .path.display())]
    NoManifest {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the manifest of {path} cannot be read", path = .path.display())]
    BadManifest {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("the image {path} was made by a newer version (manifest version {version}; this program knows {})", guest_contract::manifest::MANIFEST_VERSION, path = .path.display())]
    Newer { path: PathBuf, version: u32 },
    #[error("the file {path} is missing or cannot be read", path = .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the file {path} is not the one that the manifest describes", path = .path.display())]
    Changed { path: PathBuf },
}

/// Reads an image's manifest and checks size and digest of every file.
pub fn inspect(image: &Path) -> Result<Manifest, InspectError> {
    use guest_contract::manifest::{MANIFEST_FILE, MANIFEST_VERSION};
    let path = image.to_owned();
    let text = std::fs::read(image.join(MANIFEST_FILE));
    let text = text.map_err(|source| InspectError::NoManifest {
        path: path.clone(),
        source,
    })?;
    let bad = |source| InspectError::BadManifest {
        path: path.clone(),
        source,
    };
    // The version is read by itself: a newer manifest may have another form.
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } = serde_json::from_slice(&text).map_err(bad)?;
    if version > MANIFEST_VERSION {
        return Err(InspectError::Newer { path, version });
    }
    let manifest: Manifest = serde_json::from_slice(&text).map_err(bad)?;
    for (name, entry) in &manifest.files {
        let path = image.join(name);
        let data = std::fs::read(&path).map_err(|source| InspectError::File {
            path: path.clone(),
            source,
        })?;
        if data.len() as u64 != entry.bytes || cache::hex_sha256(&data) != entry.sha256 {
            return Err(InspectError::Changed { path });
        }
    }
    Ok(manifest)
}
