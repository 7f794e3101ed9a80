//! Where blobs (manifests, configurations, compressed layers) are kept: `content/blobs/sha256/<digest>`.

use super::Digest;
use crate::error::{Class, Classify};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use std::path::Path;
use std::pin::Pin;

/// Bytes on their way. An error ends it; the end without an error is the end of the content.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// A stream of bytes that are here already.
pub fn stream_of(bytes: impl Into<Bytes>) -> ByteStream {
    let bytes = bytes.into();
    Box::pin(futures_util::stream::once(async move { Ok(bytes) }))
}

/// A layer that was stored as a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Digest of the plain tar.
    pub diff_id: Digest,
    pub blob: Digest,
    /// Bytes of the blob.
    pub blob_size: u64,
    pub media_type: &'static str,
}

/// Content by digest; never changed once there. Implemented by `engine_linux::blobs` and by
/// [`fake::MemoryBlobs`](super::fake::MemoryBlobs).
#[async_trait]
pub trait BlobStore: Send + Sync + 'static {
    /// Bytes of the blob, `None` where it is not here.
    async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError>;

    /// Stores what the stream brings if it has this digest; otherwise, and after any error, nothing is left of it: but what
    /// came before an error of the kind `ConnectionAborted` is kept for [`take_partial`](Self::take_partial), because whoever
    /// sent it gave up and somebody else may go on. Returns its size. A blob that is here already is not written again,
    /// but the stream is still read.
    async fn put(&self, digest: &Digest, content: ByteStream) -> Result<u64, BlobError>;

    /// Takes a file of the same file system whose digest the caller has found out itself. The file may lose its old name
    /// afterwards, but must not change.
    async fn adopt(&self, digest: &Digest, file: &Path) -> Result<(), BlobError>;

    /// The beginning of a blob that an engine which was killed had begun to store, or that a sender gave up: its size and
    /// content, no longer kept here. `None` where there is none, or where the blob is being stored right now by somebody
    /// who does not come to an end soon.
    async fn take_partial(&self, digest: &Digest) -> Result<Option<(u64, ByteStream)>, BlobError>;

    /// Forgets every such beginning. Nothing may be being stored.
    async fn remove_partials(&self) -> Result<(), BlobError>;

    /// Stores a tar as a compressed blob, whatever compression it comes in, and tells the digests of both forms.
    async fn pack(&self, content: ByteStream) -> Result<Packed, BlobError>;

    /// The whole blob, which must not have more than `limit` bytes.
    async fn read(&self, digest: &Digest, limit: u64) -> Result<Bytes, BlobError>;

    /// The blob as a stream.
    async fn open(&self, digest: &Digest) -> Result<ByteStream, BlobError>;

    /// Removes a blob. Not being there is no error.
    async fn remove(&self, digest: &Digest) -> Result<(), BlobError>;

    /// Every blob.
    async fn list(&self) -> Result<Vec<Digest>, BlobError>;

    /// Returns when every blob stored before would survive a power cut.
    async fn sync(&self) -> Result<(), BlobError>;
}

/// Why a blob could not be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("blob {digest} does not exist")]
    Missing { digest: Digest },
    /// Docker's text for a layer that is not what its digest says.
    #[error("filesystem layer verification failed for digest {digest}")]
    Mismatch { digest: Digest, actual: Digest },
    #[error("blob {digest} has {size} bytes, more than the {limit} that make sense for it")]
    TooLarge {
        digest: Digest,
        size: u64,
        limit: u64,
    },
    /// What came is compressed, and badly.
    #[error("cannot read the archive")]
    Content(#[source] std::io::Error),
    /// The stream failed; its error is Docker-worded already.
    #[error("{0}")]
    Source(#[source] std::io::Error),
    #[error("{step}")]
    Failed {
        step: String,
        #[source]
        source: std::io::Error,
    },
}

impl Classify for BlobError {
    fn class(&self) -> Class {
        match self {
            BlobError::Missing { .. } => Class::NotFound,
            BlobError::Content(_) => Class::Invalid,
            BlobError::Source(_) => Class::Unavailable,
            BlobError::Mismatch { .. } | BlobError::TooLarge { .. } | BlobError::Failed { .. } => {
                Class::Internal
            }
        }
    }
}
