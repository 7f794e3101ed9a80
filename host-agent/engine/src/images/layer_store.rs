//! Unpacked image layers: `layers/<chain-id>`. What containers see of them is [`super::Layers`].

use super::blobs::ByteStream;
use super::{Digest, LayerError};
use crate::id::ContainerId;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a layer is, before it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerSpec {
    pub chain_id: Digest,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Chain id of the layer below.
    pub parent: Option<Digest>,
}

/// A layer that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerInfo {
    pub chain_id: Digest,
    pub diff_id: Digest,
    pub parent: Option<Digest>,
    /// Bytes of its files, without what is below.
    pub size: u64,
}

/// Unpacks and keeps image layers. Implemented by `engine_linux::layers` and by
/// [`fake::MemoryLayers`](super::fake::MemoryLayers).
#[async_trait]
pub trait LayerStore: Send + Sync + 'static {
    /// The layer, if it is there.
    async fn find(&self, chain_id: &Digest) -> Result<Option<LayerInfo>, LayerError>;

    /// Unpacks a tar (gzip, zstd or plain, told by its first bytes) aside, whether the layer below is there or not,
    /// and checks the diff id. After an error, or when the returned value is dropped, nothing is left.
    async fn stage(
        &self,
        spec: &LayerSpec,
        content: ByteStream,
    ) -> Result<Box<dyn StagedLayer>, LayerError>;

    /// An empty folder for a layer that is made here.
    async fn draft(&self) -> Result<Box<dyn DraftLayer>, LayerError>;

    /// What a container that has ended has changed. It is taken away from the container, which can only be removed then.
    async fn draft_of(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<Box<dyn DraftLayer>, LayerError>;

    /// The plain tar of a layer that was made by a draft, byte for byte what its diff id is the digest of. Where it is not
    /// that any more, the stream ends with an error.
    async fn archive(&self, chain_id: &Digest) -> Result<ByteStream, LayerError>;

    /// Removes every layer that is neither in `keep` nor below a container; returns the chain ids removed. Their space may
    /// become free a little later.
    async fn collect(&self, keep: &BTreeSet<Digest>) -> Result<Vec<Digest>, LayerError>;

    /// Returns when the space of everything that was removed before is free.
    async fn settle(&self) -> Result<(), LayerError>;

    /// [`settle`](Self::settle) if the disk is nearly full, so that nothing fails for want of space that is being freed.
    async fn make_room(&self) -> Result<(), LayerError>;

    /// Returns when every layer committed before would survive a power cut.
    async fn sync(&self) -> Result<(), LayerError>;

    /// For `inspect`'s GraphDriver: the storage driver's name and its data.
    async fn driver_data(&self, chain_id: Option<&Digest>) -> (String, BTreeMap<String, String>);
}

/// A layer unpacked and verified, but not yet in its place.
#[async_trait]
pub trait StagedLayer: Send {
    /// Puts it in its place. The layer below must be in place; a layer that came there meanwhile is left as it is.
    async fn commit(self: Box<Self>) -> Result<LayerInfo, LayerError>;
}

/// A layer that is being made. When it is dropped, nothing is left.
#[async_trait]
pub trait DraftLayer: Send + Sync {
    /// Where its files go, as overlayfs has them.
    fn folder(&self) -> &Path;

    /// Nothing more comes: finds the digest out.
    async fn seal(self: Box<Self>) -> Result<Box<dyn SealedLayer>, LayerError>;
}

/// A layer that is made, but not yet in its place.
#[async_trait]
pub trait SealedLayer: Send + Sync {
    /// Digest of its tar.
    fn diff_id(&self) -> &Digest;

    /// Bytes of its tar.
    fn tar_size(&self) -> u64;

    /// Nothing is in it.
    fn is_empty(&self) -> bool;

    /// Puts it in its place, as [`StagedLayer::commit`] does.
    async fn commit(
        self: Box<Self>,
        chain_id: Digest,
        parent: Option<Digest>,
    ) -> Result<LayerInfo, LayerError>;
}
