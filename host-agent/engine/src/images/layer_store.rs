//! Unpacked image layers: `layers/<chain-id>`. What containers see of them is [`super::Layers`].

use super::blobs::ByteStream;
use super::{Digest, LayerError};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};

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
