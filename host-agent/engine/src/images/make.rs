//! Images that are made here: from a container (`docker commit`) and from a tar (`docker import`).
//!
//! ```text
//! tar --pack--> blob (compressed, with both digests) --stage--> layer --.
//! settings, history -----------------------------------> configuration --+--> manifest, record, name
//! ```

use super::blobs::stream_of;
use super::config::{ContainerSide, ImageDetails, MadeOf, chain_ids, digest_of, encode};
use super::layer_store::{DraftLayer, LayerSpec};
use super::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST, Descriptor, ImageManifest, LAYERS_MAX,
};
use super::records::{ImageRecord, LayerRecord};
use super::service::{Catalog, ImageService};
use super::{
    ByteStream, Digest, HistoryEntry, ImageConfig, ImageError, ImageLookupError, Platform,
    ProgressSink, Reference, instructions,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Digest of a tar with nothing in it: two empty blocks. Docker makes no layer of it.
pub const EMPTY_TAR: &str =
    "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// An image made of a container.
pub struct NewImage {
    /// The image the container was made from.
    pub parent: Digest,
    pub config: ImageConfig,
    pub side: ContainerSide,
    pub made_of: MadeOf,
    pub author: String,
    pub comment: String,
    pub name: Option<Reference>,
}

/// An image made of a tar.
pub struct ImportRequest {
    pub source: ImportSource,
    pub name: Option<Reference>,
    /// Empty: it says where the content came from.
    pub message: String,
    /// Dockerfile instructions.
    pub changes: Vec<String>,
    pub platform: Option<Platform>,
}

/// Where an imported tar comes from.
pub enum ImportSource {
    /// What the client sends.
    Stream(ByteStream),
    /// The engine fetches it; without a scheme it is http.
    Url(String),
}

impl ImageService {
    /// Makes an image of a parent's layers and one more, a plain tar; returns its id.
    pub async fn commit(&self, new: NewImage, content: ByteStream) -> Result<Digest, ImageError> {
        let outcome = self.commit_now(new, content).await;
        self.clear_up(&outcome).await;
        outcome
    }

    async fn commit_now(&self, new: NewImage, content: ByteStream) -> Result<Digest, ImageError> {
        new.name.as_ref().map_or(Ok(()), Reference::check_as_name)?;
        let storing = self.begin_storing().await?;
        let (mut details, record) = {
            let catalog = self.catalog();
            match (
                catalog.details.get(&new.parent),
                catalog.records.images.get(&new.parent),
            ) {
                (Some(details), Some(record)) => ((**details).clone(), record.clone()),
                _ => {
                    return Err(ImageLookupError::NotFound {
                        name: new.parent.to_string(),
                    }
                    .into());
                }
            }
        };
        let mut layers = record.layers;
        let created_by = new.made_of.config.cmd.iter().flatten();
        let created_by = created_by.cloned().collect::<Vec<_>>().join(" ");
        let layer = self.add_layer(&mut details, &mut layers, content).await?;
        let created = Some(self.backends().clock.now());
        details.created = created;
        details.author.clone_from(&new.author);
        details.comment.clone_from(&new.comment);
        details.docker_version = env!("CARGO_PKG_VERSION").to_owned();
        details.config = new.config;
        details.side = Some(new.side);
        details.made_of = Some(new.made_of);
        details.history.push(HistoryEntry {
            created,
            created_by,
            author: new.author,
            comment: new.comment,
            empty_layer: !layer,
            cache_key: None,
        });
        let id = self
            .record_made(
                details,
                layers,
                Some(new.parent),
                new.name.as_slice(),
                |_| (),
            )
            .await?;
        drop(storing);
        self.publish_name(&id, new.name.as_ref());
        Ok(id)
    }

    /// Makes an image of a tar (plain, gzip, xz or zstd) and tells its id.
    pub async fn import(
        &self,
        request: ImportRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let outcome = self.import_now(request, progress).await;
        self.clear_up(&outcome).await;
        let id = outcome?;
        progress.status("", id.as_str()).await;
        Ok(())
    }

    async fn import_now(
        &self,
        request: ImportRequest,
        progress: &ProgressSink,
    ) -> Result<Digest, ImageError> {
        request
            .name
            .as_ref()
            .map_or(Ok(()), Reference::check_as_name)?;
        if let Some(platform) = &request.platform
            && platform.os != self.inner.options.platform.os
        {
            return Err(ImageError::Invalid {
                message: "operating system is not supported".into(),
            });
        }
        let storing = self.begin_storing().await?;
        let mut config = ImageConfig::default();
        instructions::change(&mut config, &request.changes)?;
        let (content, place) = match request.source {
            ImportSource::Stream(content) => (content, "-".to_owned()),
            ImportSource::Url(url) => {
                let full = match url.contains("://") {
                    true => url.clone(),
                    false => format!("http://{url}"),
                };
                let download = self.backends().downloads.fetch(&full).await?;
                progress
                    .status("", format!("Downloading from {full}"))
                    .await;
                let size = download.size.unwrap_or(0);
                let told = progress.told(download.content, size, String::new(), "Importing");
                (told, url)
            }
        };
        let comment = match request.message.is_empty() {
            true => format!("Imported from {place}"),
            false => request.message,
        };
        let created = Some(self.backends().clock.now());
        let mut details = ImageDetails {
            created,
            comment: comment.clone(),
            docker_version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: request
                .platform
                .unwrap_or_else(|| self.inner.options.platform.clone()),
            config,
            history: vec![HistoryEntry {
                created,
                comment,
                ..HistoryEntry::default()
            }],
            ..ImageDetails::default()
        };
        let mut layers = Vec::new();
        if !self.add_layer(&mut details, &mut layers, content).await? {
            details.history[0].empty_layer = true;
        }
        let id = self
            .record_made(details, layers, None, request.name.as_slice(), |_| ())
            .await?;
        drop(storing);
        self.publish_name(&id, request.name.as_ref());
        self.publish("import", id.as_str(), id.as_str());
        Ok(id)
    }

    /// Puts a tar on top of the layers, unless nothing is in it; tells whether there is a layer more.
    pub(crate) async fn add_layer(
        &self,
        details: &mut ImageDetails,
        layers: &mut Vec<LayerRecord>,
        content: ByteStream,
    ) -> Result<bool, ImageError> {
        let backends = self.backends();
        let packed = backends.blobs.pack(content).await?;
        if packed.diff_id.as_str() == EMPTY_TAR {
            // Nobody names its blob.
            self.collect_later();
            return Ok(false);
        }
        if layers.len() >= LAYERS_MAX {
            return Err(ImageError::Invalid {
                message: format!("an image cannot have more than {LAYERS_MAX} layers"),
            });
        }
        let parent = layers.last().map(|layer| layer.chain_id.clone());
        details.diff_ids.push(packed.diff_id.clone());
        let chain_id = chain_ids(&details.diff_ids)
            .pop()
            .expect("one was just added");
        let info = match backends.layers.find(&chain_id).await? {
            Some(info) => info,
            None => {
                let spec = LayerSpec {
                    chain_id: chain_id.clone(),
                    diff_id: packed.diff_id,
                    parent,
                };
                let content = backends.blobs.open(&packed.blob).await?;
                backends
                    .layers
                    .stage(&spec, content)
                    .await?
                    .commit()
                    .await?
            }
        };
        layers.push(LayerRecord {
            blob: packed.blob,
            media_type: packed.media_type.to_owned(),
            blob_size: packed.blob_size,
            chain_id,
            size: info.size,
        });
        Ok(true)
    }

    /// Puts a layer that was made here on top of the layers, unless nothing is in it; tells whether there is a layer more.
    /// Its tar is not stored: it can be made again of the layer ([`super::pack`]).
    pub(crate) async fn add_draft(
        &self,
        details: &mut ImageDetails,
        layers: &mut Vec<LayerRecord>,
        draft: Box<dyn DraftLayer>,
    ) -> Result<bool, ImageError> {
        let sealed = draft.seal().await?;
        if sealed.is_empty() {
            return Ok(false);
        }
        if layers.len() >= LAYERS_MAX {
            return Err(ImageError::Invalid {
                message: format!("an image cannot have more than {LAYERS_MAX} layers"),
            });
        }
        let parent = layers.last().map(|layer| layer.chain_id.clone());
        let (diff_id, tar_size) = (sealed.diff_id().clone(), sealed.tar_size());
        details.diff_ids.push(diff_id.clone());
        let chain_id = chain_ids(&details.diff_ids)
            .pop()
            .expect("one was just added");
        let info = match self.backends().layers.find(&chain_id).await? {
            Some(info) => info,
            None => sealed.commit(chain_id.clone(), parent).await?,
        };
        layers.push(LayerRecord {
            blob: diff_id,
            media_type: DOCKER_LAYER.to_owned(),
            blob_size: tar_size,
            chain_id,
            size: info.size,
        });
        Ok(true)
    }

    /// Stores configuration and manifest, then the record that names everything. `also` is changed in the same write.
    pub(crate) async fn record_made(
        &self,
        details: ImageDetails,
        layers: Vec<LayerRecord>,
        parent: Option<Digest>,
        names: &[Reference],
        also: impl FnOnce(&mut Catalog),
    ) -> Result<Digest, ImageError> {
        let backends = self.backends();
        let config = encode(&details);
        let id = digest_of(&config);
        let descriptor = |media_type: &str, digest: &Digest, size: u64| Descriptor {
            media_type: media_type.to_owned(),
            digest: digest.clone(),
            size,
            platform: None,
            annotations: BTreeMap::new(),
            artifact_type: None,
        };
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: DOCKER_MANIFEST.into(),
            config: descriptor(DOCKER_CONFIG, &id, config.len() as u64),
            layers: layers
                .iter()
                .map(|layer| descriptor(&layer.media_type, &layer.blob, layer.blob_size))
                .collect(),
        };
        let manifest =
            serde_json::to_vec(&manifest).expect("a manifest is plain data with text keys");
        let manifest_digest = digest_of(&manifest);
        backends.blobs.put(&id, stream_of(config)).await?;
        backends
            .blobs
            .put(&manifest_digest, stream_of(manifest))
            .await?;
        backends.layers.sync().await?;
        backends.blobs.sync().await?;
        let record = ImageRecord {
            manifest: manifest_digest,
            manifest_media_type: DOCKER_MANIFEST.into(),
            layers,
            last_tagged: (!names.is_empty()).then(|| backends.clock.now()),
            parent,
        };
        let image_id = id.clone();
        self.change(move |catalog| {
            for name in names {
                let name = name.to_string();
                catalog.records.references.insert(name, image_id.clone());
            }
            also(catalog);
            catalog.details.insert(image_id.clone(), Arc::new(details));
            catalog.records.images.entry(image_id).or_insert(record);
            Ok(())
        })
        .await?;
        Ok(id)
    }

    fn publish_name(&self, id: &Digest, name: Option<&Reference>) {
        if let Some(name) = name {
            self.publish("tag", id.as_str(), &name.familiar());
        }
    }
}
