//! Image archives, as `docker load` gets them: the trait that takes a tar apart safely.

use super::Digest;
use super::blobs::ByteStream;
use crate::error::{Class, Classify};
use async_trait::async_trait;
use bytes::Bytes;
use std::path::PathBuf;

/// Takes archives apart. Implemented by `engine_linux::archive` and [`fake::MemoryArchives`](super::fake::MemoryArchives).
#[async_trait]
pub trait ArchiveReader: Send + Sync + 'static {
    /// Reads a tar (gzip, zstd or plain) to its end and keeps its regular files aside, under names nobody but the
    /// returned value uses. Everything is gone when that is dropped.
    async fn stage(&self, content: ByteStream) -> Result<Box<dyn StagedArchive>, ArchiveError>;
}

/// The files of an archive.
#[async_trait]
pub trait StagedArchive: Send + Sync {
    /// The digest of a file's content and its size in bytes. Links inside the archive are followed.
    fn find(&self, path: &str) -> Option<(Digest, u64)>;

    /// A small file.
    async fn read(&self, path: &str, limit: u64) -> Result<Bytes, ArchiveError>;

    /// Where a file is kept, if it is kept as one: it may be linked elsewhere, never changed.
    fn file(&self, path: &str) -> Option<PathBuf>;

    /// A file as a stream.
    async fn open(&self, path: &str) -> Result<ByteStream, ArchiveError>;
}

/// Why an archive could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("invalid archive: {why}")]
    Invalid { why: String },
    #[error("invalid archive: {path} is missing")]
    Missing { path: String },
    #[error(
        "invalid archive: {path} has {size} bytes, more than the {limit} that make sense for it"
    )]
    TooLarge { path: String, size: u64, limit: u64 },
    #[error("cannot read the archive")]
    Source(#[source] std::io::Error),
    #[error("{step}")]
    Failed {
        step: String,
        #[source]
        source: std::io::Error,
    },
}

impl Classify for ArchiveError {
    fn class(&self) -> Class {
        match self {
            ArchiveError::Invalid { .. }
            | ArchiveError::Missing { .. }
            | ArchiveError::TooLarge { .. }
            | ArchiveError::Source(_) => Class::Invalid,
            ArchiveError::Failed { .. } => Class::Internal,
        }
    }
}
