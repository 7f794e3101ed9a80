//! Files of a mirror, over HTTP, into the cache. Every file but the InRelease file is asked for with the size and the
//! digest that the signed index gives it; a byte too many or one wrong ends the download.

use crate::archive::Named;
use crate::cache::{Cache, hex_sha256, write_whole};
use crate::error::FileError;
use crate::progress::Progress;
use std::cell::OnceCell;
use std::io::Read;
use std::time::{Duration, SystemTime};

/// An InRelease file younger than this is not asked for again.
const RELEASE_MAX_AGE: Duration = Duration::from_secs(12 * 60 * 60);
/// Debian's are 140 kB.
const RELEASE_MAX_BYTES: u64 = 4 * 1024 * 1024;
const ATTEMPTS: u32 = 3;

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("cannot reach {url}")]
    Unreachable { url: String, source: reqwest::Error },
    #[error("the download of {url} broke off")]
    Interrupted { url: String, source: std::io::Error },
    #[error("{url} answered {status}")]
    Status {
        url: String,
        status: reqwest::StatusCode,
    },
    #[error("{url} has not the {expected} bytes that the signed index gives it")]
    Size { url: String, expected: u64 },
    #[error("{url} has the sha256 {actual}, but the signed index gives it {expected}")]
    Digest {
        url: String,
        expected: String,
        actual: String,
    },
    #[error("{url} is not in the cache")]
    Offline { url: String },
    #[error("cannot set up HTTP")]
    Client(#[source] reqwest::Error),
    #[error("the proxy {proxy:?} that apt is configured to use is no proxy address")]
    Proxy {
        proxy: String,
        source: reqwest::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

impl FetchError {
    /// The mirror answered that there is no such file.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, FetchError::Status { status, .. }
            if matches!(status.as_u16(), 404 | 410))
    }

    /// Another attempt may end otherwise.
    fn is_passing(&self) -> bool {
        match self {
            FetchError::Unreachable { source, .. } => !source.is_builder(),
            FetchError::Interrupted { .. } => true,
            FetchError::Status { status, .. } => {
                status.is_server_error() || matches!(status.as_u16(), 408 | 429)
            }
            _ => false,
        }
    }
}

/// May the network be used?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Yes; files in the cache are still taken from there.
    Online,
    /// Yes, and the mirror is asked for its newest state even if the cache has a young one.
    Refresh,
    /// No.
    Offline,
}

/// An InRelease file whose signature is not yet checked.
pub(crate) struct SignedRelease {
    pub(crate) bytes: Vec<u8>,
    pub(crate) is_from_mirror: bool,
}

impl SignedRelease {
    fn cached(bytes: Vec<u8>) -> SignedRelease {
        SignedRelease {
            bytes,
            is_from_mirror: false,
        }
    }
}

/// Fetches through the cache.
pub(crate) struct Fetcher<'a> {
    cache: &'a Cache,
    network: Network,
    progress: Progress,
    /// Made at the first use: a build from the cache needs no TLS and no threads.
    client: OnceCell<reqwest::blocking::Client>,
}

impl<'a> Fetcher<'a> {
    pub(crate) fn new(cache: &'a Cache, network: Network, progress: Progress) -> Fetcher<'a> {
        Fetcher {
            cache,
            network,
            progress,
            client: OnceCell::new(),
        }
    }

    /// The signed state of a suite, as the mirror gives it; not yet believed. Falls back to the cached one, with a
    /// remark, when the mirror cannot be reached.
    pub(crate) fn release(&self, mirror: &str, suite: &str) -> Result<SignedRelease, FetchError> {
        let url = format!("{mirror}/dists/{suite}/InRelease");
        let path = self.cache.release(mirror, suite);
        let cached = std::fs::read(&path).ok();
        if let Some(bytes) = &cached {
            let age = std::fs::metadata(&path)
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|time| SystemTime::now().duration_since(time).ok());
            let is_young = age.is_some_and(|age| age < RELEASE_MAX_AGE);
            if self.network == Network::Offline || (is_young && self.network == Network::Online) {
                return Ok(SignedRelease::cached(bytes.clone()));
            }
        } else if self.network == Network::Offline {
            return Err(FetchError::Offline { url });
        }
        match (self.get(&url, suite, RELEASE_MAX_BYTES, None), cached) {
            (Ok(bytes), _) => Ok(SignedRelease {
                bytes,
                is_from_mirror: true,
            }),
            (Err(error), Some(bytes)) if error.is_passing() => {
                self.progress.step(&format!(
                    "warning: {error}; using the state of the mirror that is in the cache"
                ));
                Ok(SignedRelease::cached(bytes))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Keeps an InRelease file that turned out to be signed and fit: a bad one must not displace a good one.
    pub(crate) fn keep_release(
        &self,
        mirror: &str,
        suite: &str,
        release: &SignedRelease,
    ) -> Result<(), FetchError> {
        if release.is_from_mirror {
            write_whole(&self.cache.release(mirror, suite), &release.bytes)?;
        }
        Ok(())
    }

    /// A file with a known digest, from the cache or the mirror.
    pub(crate) fn file(&self, mirror: &str, named: &Named) -> Result<Vec<u8>, FetchError> {
        if let Some(bytes) = self.cache.read(&named.sha256) {
            return Ok(bytes);
        }
        let url = format!("{mirror}/{}", named.path);
        if self.network == Network::Offline {
            return Err(FetchError::Offline { url });
        }
        let name = if named.path.contains("/by-hash/") {
            "Packages"
        } else {
            named.path.rsplit('/').next().unwrap_or(&named.path)
        };
        let bytes = self.get(&url, name, named.bytes, Some(named.bytes))?;
        if bytes.len() as u64 != named.bytes {
            return Err(FetchError::Size {
                url,
                expected: named.bytes,
            });
        }
        let actual = hex_sha256(&bytes);
        if actual != named.sha256 {
            return Err(FetchError::Digest {
                url,
                expected: named.sha256.clone(),
                actual,
            });
        }
        self.cache.write(&named.sha256, &bytes)?;
        Ok(bytes)
    }

    /// Downloads, trying again after passing failures.
    fn get(
        &self,
        url: &str,
        name: &str,
        limit: u64,
        total: Option<u64>,
    ) -> Result<Vec<u8>, FetchError> {
        let mut attempt = 1;
        loop {
            match self.get_once(url, name, limit, total) {
                Err(error) if error.is_passing() && attempt < ATTEMPTS => {
                    self.progress.step(&format!(
                        "  {error}; trying again ({attempt} of {ATTEMPTS})"
                    ));
                    std::thread::sleep(Duration::from_millis(300) * attempt);
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn get_once(
        &self,
        url: &str,
        name: &str,
        limit: u64,
        total: Option<u64>,
    ) -> Result<Vec<u8>, FetchError> {
        let mut response =
            self.client()?
                .get(url)
                .send()
                .map_err(|source| FetchError::Unreachable {
                    url: url.to_owned(),
                    source: source.without_url(),
                })?;
        if !response.status().is_success() {
            return Err(FetchError::Status {
                url: url.to_owned(),
                status: response.status(),
            });
        }
        let transfer = self
            .progress
            .download(name, total.or(response.content_length()));
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let read = response
                .read(&mut buffer)
                .map_err(|source| FetchError::Interrupted {
                    url: url.to_owned(),
                    source,
                })?;
            if read == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&buffer[..read]);
            transfer.received(read as u64);
            if bytes.len() as u64 > limit {
                return Err(FetchError::Size {
                    url: url.to_owned(),
                    expected: limit,
                });
            }
        }
    }

    /// The client takes http_proxy and its siblings from the environment; apt's proxy is used where they are not set.
    fn client(&self) -> Result<&reqwest::blocking::Client, FetchError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        // An error means that the process has chosen its provider before: that one is used then.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::blocking::Client::builder()
            .user_agent(concat!("berth-image-builder/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(20))
            // For each answer and each piece of a body, not for a whole download.
            .timeout(Duration::from_secs(60));
        for scheme in ["http", "https"] {
            let is_in_environment = [
                format!("{scheme}_proxy"),
                format!("{scheme}_proxy").to_uppercase(),
                "all_proxy".into(),
                "ALL_PROXY".into(),
            ]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
            if is_in_environment {
                continue;
            }
            if let Some(proxy) = crate::apt::proxy(scheme) {
                let parsed = match scheme {
                    "http" => reqwest::Proxy::http(&proxy),
                    _ => reqwest::Proxy::https(&proxy),
                };
                let parsed = parsed.map_err(|source| FetchError::Proxy {
                    proxy: proxy.clone(),
                    source,
                })?;
                builder = builder.proxy(parsed.no_proxy(reqwest::NoProxy::from_env()));
            }
        }
        let client = builder.build().map_err(FetchError::Client)?;
        Ok(self.client.get_or_init(|| client))
    }
}
