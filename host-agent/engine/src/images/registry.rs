//! What we ask of registries (OCI distribution spec). `engine_linux::registry` speaks to real ones, trying mirrors in
//! order; [`fake::MemoryRegistry`](super::fake::MemoryRegistry) is for tests.

use super::blobs::{BlobStore, ByteStream};
use super::{Digest, Reference, Repository};
use crate::error::{Class, Classify};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// A user's word to a registry. Cannot be printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// An OAuth refresh token, used instead of the password.
    pub identity_token: String,
    /// A bearer token, used as it is.
    pub registry_token: String,
}

impl Credentials {
    /// Nothing is given at all.
    pub fn is_empty(&self) -> bool {
        *self == Credentials::default()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(hidden)")
    }
}

/// A manifest as it was served, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    /// Content-Type.
    pub media_type: String,
    /// Of `bytes`; verified where the reference has a digest.
    pub digest: Digest,
    pub bytes: Bytes,
}

/// A blob on its way to a registry.
pub struct BlobUpload<'a> {
    pub repository: &'a Repository,
    pub digest: &'a Digest,
    /// Bytes.
    pub size: u64,
    /// Repositories of the same registry that have the blob, most likely: it need not travel then.
    pub mount_from: &'a [Repository],
    /// Where its bytes are read, more than once if an attempt breaks off.
    pub blobs: &'a dyn BlobStore,
    pub credentials: Option<&'a Credentials>,
    /// Told how many bytes of the current attempt are on their way.
    pub sent: Arc<dyn Fn(u64) + Send + Sync>,
}

/// Told now and then while nothing is asked because the registry said when to come back: the seconds that are left.
pub type Waits = Arc<dyn Fn(u64) + Send + Sync>;

/// How a blob got into a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uploaded {
    /// It was there.
    Existed,
    /// The registry took it from a repository of its own.
    Mounted { from: Repository },
    /// Byte by byte.
    Sent,
}

/// One line of a search.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    pub name: String,
    pub description: String,
    pub stars: i64,
    pub is_official: bool,
    pub is_automated: bool,
}

/// Reads from registries and writes to them.
#[async_trait]
pub trait Registry: Send + Sync + 'static {
    /// The same registry; whoever asks through it is told when it waits.
    fn telling(&self, waits: Waits) -> Arc<dyn Registry>;

    /// Fetches a manifest by tag or digest.
    async fn manifest(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<FetchedManifest, RegistryError>;

    /// Fetches a blob from its byte `start` on. The stream goes on where it was after a broken connection; its content
    /// is not yet verified.
    async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        start: u64,
        credentials: Option<&Credentials>,
    ) -> Result<ByteStream, RegistryError>;

    /// Tells that what [`blob`](Self::blob) brought was not what its digest says. Whether there is somebody else to ask:
    /// the next [`blob`](Self::blob) does, for then it was a mirror that sent it.
    fn distrust(&self, _digest: &Digest) -> bool {
        false
    }

    /// Every tag of a repository.
    async fn tags(
        &self,
        repository: &Repository,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<String>, RegistryError>;

    /// Checks credentials (`docker login`). A token server may hand out an identity token, to be kept instead of the
    /// password.
    async fn login(
        &self,
        domain: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>, RegistryError>;

    /// Sees to it that a repository has a blob, with as few bytes as possible.
    async fn upload_blob(&self, upload: BlobUpload<'_>) -> Result<Uploaded, RegistryError>;

    /// Stores a manifest under the reference's tag or digest. What it names must be there.
    async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
        credentials: Option<&Credentials>,
    ) -> Result<(), RegistryError>;

    /// Repositories of a registry that have the term in their name, or what its own search finds; at most `limit`.
    async fn search(
        &self,
        domain: &str,
        term: &str,
        limit: usize,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<Found>, RegistryError>;
}

/// What a registry said no with; the texts are those of Docker's client library.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{message}")]
    Denied { message: String },
    #[error("unauthorized: {message}")]
    Unauthorized { message: String },
    #[error("manifest unknown: {message}")]
    ManifestUnknown { message: String },
    #[error("name unknown: {message}")]
    NameUnknown { message: String },
    #[error("blob unknown to registry: {digest}")]
    BlobUnknown { digest: Digest },
    #[error("toomanyrequests: {message}")]
    TooManyRequests { message: String },
    /// `Retry-After` says more than we wait.
    #[error(
        "{registry} answered {status} and wants to be asked again in {} seconds at the earliest; Berth waits {} seconds at most: try again then",
        wait.as_secs(), limit.as_secs()
    )]
    LongWait {
        registry: String,
        /// Number and words.
        status: String,
        wait: Duration,
        limit: Duration,
        #[source]
        source: Box<RegistryError>,
    },
    /// Docker's form: `Get "https://host/v2/": dial tcp ...`.
    #[error("Get \"{url}\"")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("received unexpected HTTP status {status} from {url}: {message}")]
    Status {
        url: String,
        status: u16,
        message: String,
    },
    /// Nothing that could be asked.
    #[error("invalid registry address {address:?}: write host or host:port")]
    BadAddress { address: String },
    #[error("{url}: {why}")]
    Protocol { url: String, why: String },
    #[error("manifest verification failed for digest {digest}")]
    Mismatch { digest: Digest },
    /// A blob of ours that was to be sent.
    #[error("cannot read blob {digest}")]
    Content {
        digest: Digest,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Classify for RegistryError {
    fn class(&self) -> Class {
        match self {
            RegistryError::Denied { .. }
            | RegistryError::ManifestUnknown { .. }
            | RegistryError::NameUnknown { .. }
            | RegistryError::BlobUnknown { .. } => Class::NotFound,
            RegistryError::Unauthorized { .. } => Class::Unauthorized,
            RegistryError::BadAddress { .. } => Class::Invalid,
            // Docker answers 500 to these, and clients show the text.
            RegistryError::TooManyRequests { .. }
            | RegistryError::LongWait { .. }
            | RegistryError::Unreachable { .. }
            | RegistryError::Status { .. }
            | RegistryError::Protocol { .. }
            | RegistryError::Content { .. }
            | RegistryError::Mismatch { .. } => Class::Internal,
        }
    }
}
