//! What we remember of images (`images.json`): which there are, and which references point at them.

use super::Digest;
use crate::error::{Class, Classify};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;

/// Everything in one record: it is small (some hundred bytes an image), and one rename changes it whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecords {
    /// By image id.
    pub images: BTreeMap<Digest, ImageRecord>,
    /// Full reference (`docker.io/library/alpine:latest`, `docker.io/library/alpine@sha256:...`) -> image id.
    pub references: BTreeMap<String, Digest>,
    /// Images whose content may not be on the disk yet: they count only as long as the host is not interrupted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unsynced: BTreeSet<Digest>,
    /// The build cache, by key ([`crate::builds::cache`]). Its layers are kept as those of images are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub builds: BTreeMap<String, BuildRecord>,
}

/// The outcome of one step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// The `created_by` of its history line.
    pub created_by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// `None`: the step changed no file.
    pub layer: Option<BuildLayer>,
    /// Key of the step before, as far as that is one.
    #[serde(default)]
    pub parent: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub last_used: OffsetDateTime,
    /// How often it stood in for the step.
    #[serde(default)]
    pub used: u64,
}

/// A layer that a step made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildLayer {
    pub diff_id: Digest,
    pub record: LayerRecord,
}

/// One image: its configuration is the blob with the image's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The manifest it came by (a blob too).
    pub manifest: Digest,
    pub manifest_media_type: String,
    /// Bottom first.
    pub layers: Vec<LayerRecord>,
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub last_tagged: Option<OffsetDateTime>,
    /// The image of the container it was made of.
    #[serde(default)]
    pub parent: Option<Digest>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// The compressed layer.
    pub blob: Digest,
    pub media_type: String,
    /// Bytes of the blob.
    pub blob_size: u64,
    pub chain_id: Digest,
    /// Bytes unpacked.
    pub size: u64,
}

/// What was found at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadedRecords {
    pub records: ImageRecords,
    /// A record that could not be read is set aside: nothing may be collected as unused then, since we do not know
    /// what is used.
    pub complete: bool,
}

/// Keeps the records. Implemented by `engine_linux::blobs` and [`fake::MemoryImages`](super::fake::MemoryImages).
#[async_trait]
pub trait ImageStore: Send + Sync + 'static {
    /// Reads the records; a broken one is set aside with a log line.
    async fn load(&self) -> Result<LoadedRecords, ImageStoreError>;

    /// Replaces the records, durably, at once or not at all.
    async fn save(&self, records: &ImageRecords) -> Result<(), ImageStoreError>;
}

/// Why the records could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageStoreError {
    #[error(
        "{path} was written by a newer version of this program (format {version}); it was left as it is"
    )]
    Newer { path: String, version: u32 },
    #[error("cannot {step} {path}")]
    Failed {
        step: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl Classify for ImageStoreError {
    fn class(&self) -> Class {
        Class::Internal
    }
}
