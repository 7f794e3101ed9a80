//! Layers' contents, and packing before a push. Archives of `docker save` have plain layers, and the manifest of an image
//! that was loaded from one is ours: registries and their other clients want gzip there, as dockerd sends it. It is packed
//! once, and the packed blob takes the plain one's place. What came with a manifest of its own goes on byte for byte.
//!
//! Layers that builds make have no blob before that: most are never pushed, and the layer's own files are its content.

use super::blobs::stream_of;
use super::config::digest_of;
use super::manifest::{DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, MANIFEST_MAX, Manifest};
use super::records::LayerRecord;
use super::service::{Catalog, ImageService, ImageView};
use super::{BlobError, ByteStream, Digest, ImageError, ImageLookupError, Packed};
use std::collections::BTreeMap;

/// The same layer as a packed blob, where some image or cache entry has it as one.
fn packed_before(catalog: &Catalog, layer: &LayerRecord, diff_id: &Digest) -> Option<Packed> {
    let records = &catalog.records;
    let images = records.images.values().flat_map(|image| &image.layers);
    let steps = records.builds.values().flat_map(|step| &step.layer);
    images
        .chain(steps.map(|layer| &layer.record))
        .find(|other| other.chain_id == layer.chain_id && other.media_type == DOCKER_LAYER_GZIP)
        .map(|other| Packed {
            diff_id: diff_id.clone(),
            blob: other.blob.clone(),
            blob_size: other.blob_size,
            media_type: DOCKER_LAYER_GZIP,
        })
}

impl ImageService {
    /// A layer's content in the form that its record names: its blob, or the tar of a layer that was made here.
    pub(super) async fn layer_content(
        &self,
        layer: &LayerRecord,
    ) -> Result<ByteStream, ImageError> {
        let backends = self.backends();
        match backends.blobs.open(&layer.blob).await {
            Err(BlobError::Missing { .. }) if layer.media_type == DOCKER_LAYER => {
                Ok(backends.layers.archive(&layer.chain_id).await?)
            }
            outcome => Ok(outcome?),
        }
    }

    /// Bytes of it.
    pub(super) async fn layer_content_size(&self, layer: &LayerRecord) -> Result<u64, ImageError> {
        match self.backends().blobs.size(&layer.blob).await? {
            Some(size) => Ok(size),
            None if layer.media_type == DOCKER_LAYER => Ok(layer.blob_size),
            None => Err(BlobError::Missing {
                digest: layer.blob.clone(),
            }
            .into()),
        }
    }

    async fn is_missing(&self, blob: &Digest) -> Result<bool, ImageError> {
        Ok(self.backends().blobs.size(blob).await?.is_none())
    }

    /// The image as it is to be pushed. Content must be kept from being collected meanwhile.
    pub(super) async fn packed(&self, mut image: ImageView) -> Result<ImageView, ImageError> {
        let record = &mut image.record;
        let mut is_wanted = false;
        if record.manifest_media_type == DOCKER_MANIFEST {
            for layer in &record.layers {
                // What a registry has named keeps its manifest, as long as there is something to send.
                is_wanted |= layer.media_type == DOCKER_LAYER
                    && (image.repo_digests.is_empty() || self.is_missing(&layer.blob).await?);
            }
        }
        if !is_wanted {
            return Ok(image);
        }
        let blobs = &self.backends().blobs;
        let catalog = self.catalog();
        let bytes = blobs.read(&record.manifest, MANIFEST_MAX).await?;
        let Manifest::Image(mut manifest) = Manifest::parse(DOCKER_MANIFEST, &bytes)? else {
            return Ok(image);
        };
        let mut known: BTreeMap<Digest, Packed> = BTreeMap::new();
        let diff_ids = &image.details.diff_ids;
        for ((layer, entry), diff_id) in record
            .layers
            .iter_mut()
            .zip(&mut manifest.layers)
            .zip(diff_ids)
        {
            if layer.media_type != DOCKER_LAYER {
                continue;
            }
            let before = match known.get(&layer.blob) {
                Some(packed) => Some(packed.clone()),
                None => match packed_before(&catalog, layer, diff_id) {
                    Some(packed) if !self.is_missing(&packed.blob).await? => Some(packed),
                    _ => None,
                },
            };
            let packed = match before {
                Some(packed) => packed,
                None => blobs.pack(self.layer_content(layer).await?).await?,
            };
            if packed.diff_id != *diff_id {
                return Err(BlobError::Mismatch {
                    digest: diff_id.clone(),
                    actual: packed.diff_id,
                }
                .into());
            }
            known.insert(layer.blob.clone(), packed.clone());
            entry.digest = packed.blob.clone();
            entry.size = packed.blob_size;
            entry.media_type = packed.media_type.to_owned();
            layer.blob = packed.blob;
            layer.blob_size = packed.blob_size;
            layer.media_type = packed.media_type.to_owned();
        }
        let bytes = serde_json::to_vec(&manifest).expect("a manifest is plain data with text keys");
        record.manifest = digest_of(&bytes);
        blobs.put(&record.manifest, stream_of(bytes)).await?;
        blobs.sync().await?;
        let (id, record) = (image.id.clone(), record.clone());
        self.change(move |catalog| {
            let Some(known) = catalog.records.images.get_mut(&id) else {
                return Err(ImageLookupError::NotFound {
                    name: id.to_string(),
                }
                .into());
            };
            // The next image that the cache makes of these steps has them packed.
            for step in catalog.records.builds.values_mut() {
                if let Some(layer) = &mut step.layer
                    && layer.record.media_type == DOCKER_LAYER
                    && let Some(packed) = record
                        .layers
                        .iter()
                        .find(|packed| packed.chain_id == layer.record.chain_id)
                {
                    layer.record = packed.clone();
                }
            }
            *known = record;
            Ok(())
        })
        .await?;
        // The plain blobs are nobody's now.
        self.collect_later();
        Ok(image)
    }
}
