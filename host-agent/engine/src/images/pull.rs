//! Pull: a reference becomes layers, blobs and a record.
//!
//! ```text
//! manifest -> (list: choose platform -> manifest) -> configuration -> for each layer, several at once:
//!     Registry::blob --+--> BlobStore::put                     (sha256 of the compressed bytes)
//!                      '--> LayerStore::stage --(layer below is there)--> commit   (sha256 of the tar)
//! -> record saved -> "Status: Downloaded newer image" -> made durable
//! ```
//!
//! What one layer does is in `bring`.

use super::blobs::ByteStream;
use super::bring::{LayerJob, LayerSource};
use super::config::{ImageDetails, digest_of};
use super::layer_store::{LayerInfo, LayerSpec};
use super::manifest::{self, CONFIG_MAX, Descriptor, ImageManifest, MANIFEST_MAX, Manifest};
use super::policy::Direction;
use super::progress::ProgressSink;
use super::records::{ImageRecord, LayerRecord};
use super::registry::{Credentials, FetchedManifest, Registry};
use super::service::ImageService;
use super::{BlobError, Digest, ImageError, ImageLookupError, Platform, Reference, ReferenceError};
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Lists inside lists that are followed.
const LIST_DEPTH: usize = 3;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Without tag and digest: every tag of the repository.
    pub reference: Reference,
    pub platform: Option<Platform>,
    pub credentials: Option<Credentials>,
}

/// A pull whose client leaves is dropped on its way: what it has stored goes when the next one has not used it.
struct GivenUp<'a>(Option<&'a ImageService>);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(service) = self.0 {
            service.collect_later();
        }
    }
}

impl ImageService {
    /// Pulls. Messages are those of `docker pull`; an error before the first one is the request's answer.
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        if request.reference.repository.familiar() == "scratch" {
            return Err(ReferenceError::Reserved.into());
        }
        request.reference.check_as_name()?;
        self.inner
            .options
            .policy
            .permit(Direction::Pull, &request.reference.repository)?;
        let mut given_up = GivenUp(Some(self));
        let outcome = self.pull_all(&request, progress).await;
        given_up.0 = None;
        self.clear_up(&outcome).await;
        outcome
    }

    async fn pull_all(
        &self,
        request: &PullRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        if !request.reference.is_name_only() {
            return self.pull_one(&request.reference, request, progress).await;
        }
        let repository = &request.reference.repository;
        let tags = self
            .backends()
            .registry
            .telling(progress.waits(""))
            .tags(repository, request.credentials.as_ref())
            .await
            .map_err(|error| ImageError::from_pull(error, &request.reference))?;
        for tag in tags {
            let reference = repository.clone().with_tag(&tag)?;
            self.pull_one(&reference, request, progress).await?;
        }
        Ok(())
    }

    async fn pull_one(
        &self,
        reference: &Reference,
        request: &PullRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let storing = self.begin_storing().await?;
        let credentials = request.credentials.as_ref();
        let registry = self
            .backends()
            .registry
            .telling(progress.waits(reference.tag_or_digest()));
        let registry = &*registry;
        let top = fetch_manifest(registry, reference, credentials).await?;
        // Read before the first message, so that an unusable manifest is an HTTP error.
        let parsed = Manifest::parse(&top.media_type, &top.bytes)?;
        progress
            .status(
                reference.tag_or_digest(),
                format!("Pulling from {}", reference.repository.path()),
            )
            .await;
        let platform = request
            .platform
            .as_ref()
            .unwrap_or(&self.inner.options.platform);
        let is_single = matches!(parsed, Manifest::Image(_));
        let (fetched, manifest) = self
            .descend(
                registry,
                reference,
                top.clone(),
                parsed,
                platform,
                credentials,
            )
            .await?;
        let (id, details) = self
            .fetch_config(registry, reference, &manifest, platform, credentials)
            .await?;
        // An image that is there for one platform only is taken as it is, as with Docker.
        let warning = match &request.platform {
            Some(wanted) if is_single && !wanted.is_served_by(&details.platform) => {
                let other = ImageLookupError::OtherPlatform {
                    name: reference.to_string(),
                    platform: wanted.familiar(),
                };
                Some(format!("WARNING: {other}"))
            }
            _ => None,
        };
        let here = self.layers_here(&manifest, &details).await?;
        let is_whole = here.len() == manifest.layers.len();
        let layers = if is_whole && self.catalog().details.contains_key(&id) {
            // As with Docker, not a word about the layers of an image that is here.
            layer_records(&manifest, &details, &here)
        } else {
            self.pull_layers(reference, &manifest, &details, here, credentials, progress)
                .await?
        };
        let names = names_of(reference, &top.digest)?;
        let newer = !self.has_names(&id, &names);
        if !newer && !is_whole {
            // Something was missing of an image that is recorded as whole.
            self.backends().layers.sync().await?;
            self.backends().blobs.sync().await?;
        }
        if newer {
            let backends = self.backends();
            backends
                .blobs
                .put(&fetched.digest, super::blobs::stream_of(fetched.bytes))
                .await?;
            // Of an image that is here, the record never names what is not on the disk; a new one becomes durable later.
            let is_here = self.catalog().records.images.contains_key(&id);
            if is_here {
                backends.layers.sync().await?;
                backends.blobs.sync().await?;
            }
            let record = ImageRecord {
                manifest: fetched.digest,
                manifest_media_type: fetched.media_type,
                layers,
                last_tagged: Some(backends.clock.now()),
                parent: None,
            };
            self.record_pull(names, id, details, record, is_here)
                .await?;
            self.make_durable_soon();
        }
        drop(storing);
        self.publish(
            "pull",
            &reference.familiar(),
            &reference.repository.familiar(),
        );
        progress.status("", format!("Digest: {}", top.digest)).await;
        let verdict = match newer {
            true => "Downloaded newer image for",
            false => "Image is up to date for",
        };
        progress
            .status("", format!("Status: {verdict} {}", reference.familiar()))
            .await;
        if let Some(warning) = warning {
            progress.status("", warning).await;
        }
        Ok(())
    }

    /// From a list down to the image of the platform.
    async fn descend(
        &self,
        registry: &dyn Registry,
        reference: &Reference,
        mut fetched: FetchedManifest,
        mut parsed: Manifest,
        platform: &Platform,
        credentials: Option<&Credentials>,
    ) -> Result<(FetchedManifest, ImageManifest), ImageError> {
        for _ in 0..LIST_DEPTH {
            let list = match parsed {
                Manifest::Image(image) => return Ok((fetched, image)),
                Manifest::List(list) => list,
            };
            let entry = manifest::choose(&list, platform)?;
            if entry.size > MANIFEST_MAX {
                return Err(BlobError::TooLarge {
                    digest: entry.digest.clone(),
                    size: entry.size,
                    limit: MANIFEST_MAX,
                }
                .into());
            }
            let by_digest = reference
                .repository
                .clone()
                .with_digest(entry.digest.clone());
            fetched = fetch_manifest(registry, &by_digest, credentials).await?;
            parsed = Manifest::parse(&fetched.media_type, &fetched.bytes)?;
        }
        Err(manifest::ManifestError::Invalid {
            why: format!("manifest lists are nested more than {LIST_DEPTH} deep"),
        }
        .into())
    }

    async fn fetch_config(
        &self,
        registry: &dyn Registry,
        reference: &Reference,
        manifest: &ImageManifest,
        platform: &Platform,
        credentials: Option<&Credentials>,
    ) -> Result<(Digest, ImageDetails), ImageError> {
        let backends = self.backends();
        let id = manifest.config.digest.clone();
        // One that was damaged on the disk is fetched again.
        let kept = backends.blobs.read(&id, CONFIG_MAX).await.ok();
        let bytes = if let Some(bytes) = kept.filter(|bytes| digest_of(bytes) == id) {
            bytes
        } else {
            let bytes =
                fetch_config_blob(registry, reference, &manifest.config, credentials).await?;
            backends
                .blobs
                .put(&id, super::blobs::stream_of(bytes.clone()))
                .await?;
            bytes
        };
        let details = check_config(&id, &bytes, manifest.layers.len(), platform)?;
        Ok((id, details))
    }

    /// The layers from the bottom up that need nothing: they are here with the blobs this manifest names.
    async fn layers_here(
        &self,
        manifest: &ImageManifest,
        details: &ImageDetails,
    ) -> Result<Vec<LayerInfo>, ImageError> {
        let mut here = Vec::new();
        for (layer, chain_id) in manifest.layers.iter().zip(details.chain_ids()) {
            match self.backends().layers.find(&chain_id).await? {
                Some(info) if self.has_blob(layer).await? => here.push(info),
                _ => break,
            }
        }
        Ok(here)
    }

    /// Brings the layers above those that are `here`.
    async fn pull_layers(
        &self,
        reference: &Reference,
        manifest: &ImageManifest,
        details: &ImageDetails,
        here: Vec<LayerInfo>,
        credentials: Option<&Credentials>,
        progress: &ProgressSink,
    ) -> Result<Vec<LayerRecord>, ImageError> {
        for (number, layer) in manifest.layers.iter().enumerate() {
            let status = match number < here.len() {
                true => "Already exists",
                false => "Pulling fs layer",
            };
            progress.status(short(&layer.digest), status).await;
        }
        let mut tasks = JoinSet::new();
        let mut parent: Option<(Digest, watch::Receiver<bool>)> = here
            .last()
            .map(|info| (info.chain_id.clone(), watch::channel(true).1));
        for ((layer, chain_id), diff_id) in manifest
            .layers
            .iter()
            .zip(details.chain_ids())
            .zip(&details.diff_ids)
            .skip(here.len())
        {
            let (done, is_done) = watch::channel(false);
            let (parent_id, parent_done) = parent.unzip();
            parent = Some((chain_id.clone(), is_done));
            let job = LayerJob {
                service: self.clone(),
                source: LayerSource::Registry {
                    repository: reference.repository.clone(),
                    credentials: credentials.cloned(),
                },
                spec: LayerSpec {
                    chain_id,
                    diff_id: diff_id.clone(),
                    parent: parent_id,
                },
                descriptor: layer.clone(),
                progress: progress.clone(),
                parent_done,
                done,
                is_continued: AtomicBool::new(false),
            };
            tasks.spawn(job.run());
        }
        // Dropping `tasks` after the first error ends the others.
        let mut infos = here;
        let mut parent_failed = false;
        while let Some(outcome) = tasks.join_next().await {
            match outcome {
                Ok(Ok(info)) => infos.push(info),
                // The layer below has the real reason, and its task is still to be joined.
                Ok(Err(ImageError::ParentFailed)) => parent_failed = true,
                Ok(Err(error)) => {
                    return Err(match error {
                        ImageError::Registry(error) => ImageError::from_pull(error, reference),
                        other => other,
                    });
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        if parent_failed {
            return Err(ImageError::ParentFailed);
        }
        Ok(layer_records(manifest, details, &infos))
    }

    /// Whether an image is here with all these names.
    fn has_names(&self, id: &Digest, names: &[String]) -> bool {
        let catalog = self.catalog();
        catalog.details.contains_key(id)
            && names
                .iter()
                .all(|name| catalog.records.references.get(name) == Some(id))
    }

    /// Writes the record.
    async fn record_pull(
        &self,
        names: Vec<String>,
        id: Digest,
        details: ImageDetails,
        record: ImageRecord,
        is_durable: bool,
    ) -> Result<(), ImageError> {
        self.change(move |catalog| {
            if !is_durable {
                catalog.records.unsynced.insert(id.clone());
            }
            for name in names {
                catalog.records.references.insert(name, id.clone());
            }
            catalog.details.insert(id.clone(), Arc::new(details));
            catalog.records.images.insert(id, record);
            Ok(())
        })
        .await
    }
}

async fn fetch_manifest(
    registry: &dyn Registry,
    reference: &Reference,
    credentials: Option<&Credentials>,
) -> Result<FetchedManifest, ImageError> {
    registry
        .manifest(reference, credentials)
        .await
        .map_err(|error| ImageError::from_pull(error, reference))
}

/// Fetches a configuration; from the next, where a mirror sends another.
pub(super) async fn fetch_config_blob(
    registry: &dyn Registry,
    reference: &Reference,
    config: &Descriptor,
    credentials: Option<&Credentials>,
) -> Result<Bytes, ImageError> {
    let Descriptor { digest, size, .. } = config;
    let repository = &reference.repository;
    let mut damage: Option<ImageError> = None;
    loop {
        let stream = match registry
            .blob(repository, digest, *size, 0, credentials)
            .await
        {
            Ok(stream) => stream,
            // Where nobody else could be asked, what was damaged is the reason.
            Err(error) => {
                return Err(damage.unwrap_or_else(|| ImageError::from_pull(error, reference)));
            }
        };
        let error = match collect_limited(stream, digest, CONFIG_MAX).await {
            Ok(bytes) => match digest_of(&bytes) {
                actual if actual == *digest => return Ok(bytes),
                actual => BlobError::Mismatch {
                    digest: digest.clone(),
                    actual,
                }
                .into(),
            },
            Err(error) => error,
        };
        if !is_damage(&error) || !registry.distrust(digest) {
            return Err(error);
        }
        tracing::warn!(%digest, error = %crate::error::full_message(&error),
            "a mirror sent a damaged configuration; asking another");
        damage = Some(error);
    }
}

/// Whether an error says that a blob is not what its digest says.
pub(super) fn is_damage(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::Blob(BlobError::Mismatch { .. } | BlobError::TooLarge { .. })
    )
}

/// What an image that was pulled by a reference is called.
fn names_of(reference: &Reference, top: &Digest) -> Result<Vec<String>, ImageError> {
    let mut names = vec![
        reference
            .repository
            .clone()
            .with_digest(top.clone())
            .to_string(),
    ];
    // Pulled by digest, an image gets no tag, whatever tag stands before the digest.
    if let (Some(tag), None) = (&reference.tag, &reference.digest) {
        names.push(reference.repository.clone().with_tag(tag)?.to_string());
    }
    Ok(names)
}

/// Checks a configuration against its manifest and the platform.
pub(super) fn check_config(
    id: &Digest,
    bytes: &[u8],
    layers: usize,
    platform: &Platform,
) -> Result<ImageDetails, ImageError> {
    let details = ImageDetails::parse(bytes).map_err(|source| ImageError::Config {
        id: id.clone(),
        source,
    })?;
    if details.diff_ids.len() != layers {
        return Err(ImageError::LayerCount {
            layers,
            diff_ids: details.diff_ids.len(),
        });
    }
    if !details.platform.os.is_empty() && details.platform.os != platform.os {
        return Err(ImageError::WrongSystem {
            os: details.platform.os,
            platform: platform.clone(),
        });
    }
    Ok(details)
}

/// Joins what the manifest and the unpacked layers say.
pub(super) fn layer_records(
    manifest: &ImageManifest,
    details: &ImageDetails,
    infos: &[LayerInfo],
) -> Vec<LayerRecord> {
    let size_of = |chain_id: &Digest| {
        infos
            .iter()
            .find(|info| info.chain_id == *chain_id)
            .map_or(0, |info| info.size)
    };
    manifest
        .layers
        .iter()
        .zip(details.chain_ids())
        .map(|(layer, chain_id)| LayerRecord {
            blob: layer.digest.clone(),
            media_type: layer.media_type.clone(),
            blob_size: layer.size,
            size: size_of(&chain_id),
            chain_id,
        })
        .collect()
}

/// What Docker shows as a layer's name.
pub(super) fn short(digest: &Digest) -> String {
    digest.hex()[..12].to_owned()
}

/// Reads a stream to its end, but not past `limit` bytes.
pub(super) async fn collect_limited(
    mut stream: ByteStream,
    digest: &Digest,
    limit: u64,
) -> Result<Bytes, ImageError> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.map_err(BlobError::Source)?);
        if bytes.len() as u64 > limit {
            return Err(BlobError::TooLarge {
                digest: digest.clone(),
                size: bytes.len() as u64,
                limit,
            }
            .into());
        }
    }
    Ok(bytes.into())
}
