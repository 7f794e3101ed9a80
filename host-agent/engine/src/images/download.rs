//! Fetching a file from a web server: `docker import URL`.

use super::ByteStream;
use crate::error::{Class, Classify};
use async_trait::async_trait;

/// A file on its way.
pub struct Download {
    /// Bytes, where the server says so.
    pub size: Option<u64>,
    pub content: ByteStream,
    /// When the server says it was changed.
    pub modified: Option<time::OffsetDateTime>,
}

/// Fetches files over http and https. Implemented by `engine_linux::download::HttpDownloads` and by
/// [`fake::MemoryDownloads`](super::fake::MemoryDownloads).
#[async_trait]
pub trait Downloads: Send + Sync + 'static {
    /// Begins to fetch; redirections are followed.
    async fn fetch(&self, url: &str) -> Result<Download, DownloadError>;
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("invalid URL {url:?}: {why}")]
    Url { url: String, why: String },
    #[error("failed to GET {url}")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Docker's text.
    #[error("failed to GET {url} with status {status}")]
    Status { url: String, status: String },
}

impl Classify for DownloadError {
    fn class(&self) -> Class {
        match self {
            DownloadError::Url { .. } => Class::Invalid,
            DownloadError::Status { .. } => Class::Invalid,
            DownloadError::Unreachable { .. } => Class::Internal,
        }
    }
}
