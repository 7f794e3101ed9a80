//! Packing before a push. Archives of `docker save` have plain layers, and the manifest of an image that was loaded from one
//! is ours: registries and their other clients want gzip there, as dockerd sends it. It is packed once, and the packed
//! blob takes the plain one's place. What came with a manifest of its own goes on byte for byte.

use super::blobs::stream_of;
use super::config::digest_of;
use super::manifest::{DOCKER_LAYER, DOCKER_MANIFEST, MANIFEST_MAX, Manifest};
use super::service::{ImageService, ImageView};
use super::{BlobError, Digest, ImageError, ImageLookupError, Packed};
use std::collections::BTreeMap;

impl ImageService {
    /// The image as it is to be pushed. Content must be kept from being collected meanwhile.
    pub(super) async fn packed(&self, mut image: ImageView) -> Result<ImageView, ImageError> {
        let record = &mut image.record;
        let is_ours = image.repo_digests.is_empty()
            && record.manifest_media_type == DOCKER_MANIFEST
            && record
                .layers
                .iter()
                .any(|layer| layer.media_type == DOCKER_LAYER);
        if !is_ours {
            return Ok(image);
        }
        let blobs = &self.backends().blobs;
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
            let packed = match known.get(&layer.blob) {
                Some(packed) => packed.clone(),
                None => blobs.pack(blobs.open(&layer.blob).await?).await?,
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
        self.change(move |catalog| match catalog.records.images.get_mut(&id) {
            Some(known) => {
                *known = record;
                Ok(())
            }
            None => Err(ImageLookupError::NotFound {
                name: id.to_string(),
            }
            .into()),
        })
        .await?;
        // The plain blobs are nobody's now.
        self.collect_later();
        Ok(image)
    }
}
