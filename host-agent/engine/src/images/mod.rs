//! Images: references, manifests, layers, and where they come from.
//!
//! ```text
//! pull:  Registry --blobs--> BlobStore --(inflate, untar)--> Layers      ImageStore: name -> image id
//! run:   ImageService::resolve -> Image { config, layer chain } -> Layers::mount -> a root file system
//! ```

pub mod archive;
pub mod blobs;
mod bring;
pub mod config;
pub mod contract;
pub mod distribution;
pub mod download;
mod durable;
pub mod error;
pub mod fake;
pub mod instructions;
pub mod layer_store;
pub mod list;
mod load;
pub mod make;
pub mod manifest;
mod pack;
pub mod platform;
pub mod policy;
pub mod progress;
pub mod prune;
pub mod pull;
pub mod push;
pub mod records;
pub mod reference;
pub mod registry;
pub mod remove;
mod save;
pub mod service;

pub use blobs::{BlobError, BlobStore, ByteStream, Packed};
pub use config::HistoryEntry;
pub use error::ImageError;
pub use layer_store::{DraftLayer, LayerInfo, LayerSpec, LayerStore, SealedLayer, StagedLayer};
pub use list::{HistoryLine, ImageFilter};
pub use platform::Platform;
pub use progress::{Progress, ProgressSink};
pub use prune::{PruneFilter, Pruned};
pub use pull::PullRequest;
pub use push::PushRequest;
pub use reference::{Reference, ReferenceError, Repository};
pub use remove::{Removal, Removed};
pub use service::{ImageBackends, ImageOptions, ImageService, ImageView};

use crate::id::ContainerId;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use time::OffsetDateTime;

/// `sha256:` and 64 hex digits. Nothing else can be one, wherever it was read: digests become names of files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// A text that is no digest, or one of another kind.
#[derive(Debug, thiserror::Error)]
#[error("invalid or unsupported digest {text:?}")]
pub struct DigestError {
    text: String,
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Digest, DigestError> {
        Digest::parse(&text).ok_or(DigestError { text })
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}

impl Digest {
    /// Takes `sha256:<64 lower-case hex digits>`.
    pub fn parse(text: &str) -> Option<Digest> {
        let hex = text.strip_prefix("sha256:")?;
        crate::id::is_full_id(hex).then(|| Digest(text.to_owned()))
    }

    /// Of 64 lower-case hex digits.
    pub fn from_hex(hex: &str) -> Option<Digest> {
        Digest::parse(&format!("sha256:{hex}"))
    }

    /// With the `sha256:` in front.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the `sha256:`.
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image as containers need it: who it is, what it says about running, and its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Digest of the configuration: Docker's image id.
    pub id: Digest,
    pub config: ImageConfig,
    /// Chain id of the top layer (OCI image spec, "Layer ChainID"); `None` for an image without layers.
    pub top_layer: Option<Digest>,
    pub os: String,
    pub architecture: String,
    pub created: Option<OffsetDateTime>,
}

/// The `config` object of an image configuration: defaults for containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    pub user: String,
    pub env: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub working_directory: String,
    /// `80/tcp` ...
    pub exposed_ports: Vec<String>,
    pub volumes: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub stop_signal: Option<String>,
    /// Seconds.
    pub stop_timeout: Option<i64>,
    pub shell: Option<Vec<String>>,
    pub healthcheck: Option<Healthcheck>,
    pub on_build: Vec<String>,
}

/// How to find out whether a container is well. Durations in nanoseconds; 0 is "inherit".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// `[]` inherit, `["NONE"]`, `["CMD", args...]`, `["CMD-SHELL", command]`.
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub retries: i64,
    pub start_period: i64,
    pub start_interval: i64,
}

/// What a container's file system costs, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContainerDiskUsage {
    /// The container's own writable layer.
    pub writable: u64,
    /// Writable layer and image layers together.
    pub total: u64,
}

/// A mounted root file system that stays mounted while this is held, whether its container runs or not.
pub struct BorrowedRoot {
    pub path: PathBuf,
    _lender: Box<dyn std::any::Any + Send + Sync>,
}

impl BorrowedRoot {
    /// `lender` is dropped when the root is not needed any more.
    pub fn new(path: PathBuf, lender: impl std::any::Any + Send + Sync) -> BorrowedRoot {
        BorrowedRoot {
            path,
            _lender: Box::new(lender),
        }
    }
}

/// The folders of an image's layers: what is in the first covers what is in the others. The last is always empty, so
/// that also marks of removed files in the lowest layer are hidden.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerFolders {
    pub folder: PathBuf,
    /// Relative to `folder`; only one where the image has no layers.
    pub names: Vec<String>,
}

impl LayerFolders {
    /// What covers the others.
    pub fn top(&self) -> PathBuf {
        let mut names = self.names.iter();
        names
            .next()
            .map(|name| self.folder.join(name))
            .unwrap_or_default()
    }
}

/// What happened to a path since the container was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    Modified,
    Added,
    Deleted,
}

/// One line of `docker diff`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: ChangeKind,
    /// Absolute in the container; what is no UTF-8 is shown as the replacement character.
    pub path: String,
}

/// Root file systems: image layers below, the container's own writable layer on top.
#[async_trait]
pub trait Layers: Send + Sync + 'static {
    /// Makes the container's writable layer (at create). Idempotent.
    async fn prepare(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<(), LayerError>;

    /// Whether the writable layers' file system keeps to [`Layers::limit`].
    fn limits_size(&self) -> bool {
        false
    }

    /// Lets the writable layer that has just been made hold so many bytes and no more.
    async fn limit(&self, container: &ContainerId, _bytes: u64) -> Result<(), LayerError> {
        Err(LayerError::Failed {
            step: format!(
                "limit the writable layer of container {}",
                container.short()
            ),
            source: "the file system keeps no account of folders".into(),
        })
    }

    /// Keeps the layers of images that the container mounts, until [`Layers::remove`]; after [`Layers::prepare`].
    async fn keep(
        &self,
        container: &ContainerId,
        top_layers: Vec<Digest>,
    ) -> Result<(), LayerError>;

    /// Where an image's files are, for whoever mounts them over each other.
    fn stacked(&self, top_layer: Option<&Digest>) -> Result<LayerFolders, LayerError>;

    /// Mounts the root file system and returns its path; mounts nothing twice.
    async fn mount(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<PathBuf, LayerError>;

    /// Mounts the root file system for as long as the answer is held. The container may be started, stopped and removed
    /// meanwhile; after a removal reading gives errors.
    async fn borrow(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<BorrowedRoot, LayerError>;

    /// What the container changed, by path; what the engine itself puts into every container is left out.
    async fn changes(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<Vec<Change>, LayerError>;

    /// The container's writable layer as an image layer: a plain tar with `.wh.` entries for what was removed. Without
    /// changes it is the empty tar.
    async fn diff(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<ByteStream, LayerError>;

    /// Unmounts, once nobody holds a [`BorrowedRoot`] of it. Not being mounted is no error.
    async fn unmount(&self, container: &ContainerId) -> Result<(), LayerError>;

    /// Unmounts and removes the writable layer. Not being there is no error.
    async fn remove(&self, container: &ContainerId) -> Result<(), LayerError>;

    /// Bytes used.
    async fn usage(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<ContainerDiskUsage, LayerError>;

    /// Where the container's layers are, for `inspect`'s GraphDriver: `LowerDir`, `UpperDir`, `WorkDir`, `MergedDir`.
    fn folders(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> BTreeMap<String, String>;
}

/// Why a layer could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("layer {chain_id} does not exist")]
    Missing { chain_id: Digest },
    /// The layer's content is at fault, not this host.
    #[error("{step}")]
    Invalid {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{step}")]
    Failed {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl crate::error::Classify for LayerError {
    fn class(&self) -> crate::error::Class {
        match self {
            LayerError::Missing { .. } => crate::error::Class::NotFound,
            // From a registry: Docker answers 500. Where a client sent it, the operation says so.
            LayerError::Invalid { .. } | LayerError::Failed { .. } => crate::error::Class::Internal,
        }
    }
}

/// What containers need of the images. `ImageService` implements it; tests use a fake.
#[async_trait]
pub trait ImageSource: Send + Sync + 'static {
    /// Finds an image by name, digest, id or id prefix. Not found: Docker's `No such image: NAME`.
    async fn resolve(&self, name: &str) -> Result<Image, ImageLookupError>;

    /// Returns when the image would survive a power cut: to be waited for before anything is made on top of it.
    async fn made_durable(&self, _image: &Digest) -> Result<(), ImageLookupError> {
        Ok(())
    }
}

/// Why an image was not found.
#[derive(Debug, thiserror::Error)]
pub enum ImageLookupError {
    #[error("No such image: {name}")]
    NotFound { name: String },
    /// The text is Docker's for the kind of mistake.
    #[error(transparent)]
    Invalid(#[from] ReferenceError),
    #[error("{name} is ambiguous: it fits more than one image")]
    Ambiguous { name: String },
    #[error(
        "image with reference {name} was found but does not provide the specified platform ({platform})"
    )]
    OtherPlatform { name: String, platform: String },
    #[error("cannot read image {name}")]
    Unreadable {
        name: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl crate::error::Classify for ImageLookupError {
    fn class(&self) -> crate::error::Class {
        use crate::error::Class;
        match self {
            ImageLookupError::NotFound { .. } | ImageLookupError::OtherPlatform { .. } => {
                Class::NotFound
            }
            ImageLookupError::Invalid(_) | ImageLookupError::Ambiguous { .. } => Class::Invalid,
            ImageLookupError::Unreadable { .. } => Class::Internal,
        }
    }
}

/// What images need of the containers: which are in the way of a removal.
pub trait ImageUsers: Send + Sync + 'static {
    /// Containers made from the image or with a mount of it: (id, running).
    fn users_of(&self, image: &Digest) -> Vec<(ContainerId, bool)>;
}

#[cfg(test)]
mod tests;
