//! Pull: a reference becomes layers, blobs and a record.
//!
//! ```text
//! manifest -> (list: choose platform -> manifest) -> configuration -> for each layer, several at once:
//!     Registry::blob --+--> BlobStore::put                     (sha256 of the compressed bytes)
//!                      '--> LayerStore::stage --(layer below is there)--> commit   (sha256 of the tar)
//! -> record saved -> "Status: Downloaded newer image" -> made durable
//! ```

use super::blobs::ByteStream;
use super::config::{ImageDetails, digest_of};
use super::layer_store::{LayerInfo, LayerSpec};
use super::manifest::{self, CONFIG_MAX, Descriptor, ImageManifest, MANIFEST_MAX, Manifest};
use super::policy::Direction;
use super::progress::ProgressSink;
use super::records::{ImageRecord, LayerRecord};
use super::registry::{Credentials, FetchedManifest};
use super::service::ImageService;
use super::{BlobError, Digest, ImageError, Platform, Reference, Repository};
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;

/// How often a bar moves.
const BAR_PERIOD: Duration = Duration::from_millis(100);
/// Pieces of a layer between the network and each of its readers; a piece is at most some 64 KiB.
const PIECES_IN_FLIGHT: usize = 16;
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

impl ImageService {
    /// Pulls. Messages are those of `docker pull`; an error before the first one is the request's answer.
    pub async fn pull(
        &self,
        request: PullRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        self.inner
            .options
            .policy
            .permit(Direction::Pull, &request.reference.repository)?;
        let outcome = self.pull_all(&request, progress).await;
        // Also after an error: what was stored for nothing goes.
        if outcome.is_err() {
            self.collect_later();
        }
        self.collect_if_due().await;
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
        let storing = self.begin_storing().await;
        let credentials = request.credentials.as_ref();
        let top = self.fetch_manifest(reference, credentials).await?;
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
        let (fetched, manifest) = self
            .descend(reference, top.clone(), parsed, platform, credentials)
            .await?;
        let (id, details) = self
            .fetch_config(reference, &manifest, platform, credentials)
            .await?;
        let layers = self
            .pull_layers(reference, &manifest, &details, credentials, progress)
            .await?;
        let names = names_of(reference, &top.digest)?;
        let newer = !self.has_names(&id, &names);
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
        Ok(())
    }

    async fn fetch_manifest(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<FetchedManifest, ImageError> {
        self.backends()
            .registry
            .manifest(reference, credentials)
            .await
            .map_err(|error| ImageError::from_pull(error, reference))
    }

    /// From a list down to the image of the platform.
    async fn descend(
        &self,
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
            fetched = self.fetch_manifest(&by_digest, credentials).await?;
            parsed = Manifest::parse(&fetched.media_type, &fetched.bytes)?;
        }
        Err(manifest::ManifestError::Invalid {
            why: format!("manifest lists are nested more than {LIST_DEPTH} deep"),
        }
        .into())
    }

    async fn fetch_config(
        &self,
        reference: &Reference,
        manifest: &ImageManifest,
        platform: &Platform,
        credentials: Option<&Credentials>,
    ) -> Result<(Digest, ImageDetails), ImageError> {
        let backends = self.backends();
        let id = manifest.config.digest.clone();
        let bytes = if backends.blobs.size(&id).await?.is_some() {
            backends.blobs.read(&id, CONFIG_MAX).await?
        } else {
            let stream = backends
                .registry
                .blob(
                    &reference.repository,
                    &id,
                    manifest.config.size,
                    0,
                    credentials,
                )
                .await
                .map_err(|error| ImageError::from_pull(error, reference))?;
            let bytes = collect_limited(stream, &id, CONFIG_MAX).await?;
            let actual = digest_of(&bytes);
            if actual != id {
                return Err(BlobError::Mismatch { digest: id, actual }.into());
            }
            backends
                .blobs
                .put(&id, super::blobs::stream_of(bytes.clone()))
                .await?;
            bytes
        };
        let details = check_config(&id, &bytes, manifest.layers.len(), platform)?;
        Ok((id, details))
    }

    async fn pull_layers(
        &self,
        reference: &Reference,
        manifest: &ImageManifest,
        details: &ImageDetails,
        credentials: Option<&Credentials>,
        progress: &ProgressSink,
    ) -> Result<Vec<LayerRecord>, ImageError> {
        for layer in &manifest.layers {
            progress
                .status(short(&layer.digest), "Pulling fs layer")
                .await;
        }
        let permits = Arc::new(Semaphore::new(
            self.inner.options.concurrent_downloads.max(1),
        ));
        let mut tasks = JoinSet::new();
        let mut parent: Option<(Digest, watch::Receiver<bool>)> = None;
        for ((layer, chain_id), diff_id) in manifest
            .layers
            .iter()
            .zip(details.chain_ids())
            .zip(&details.diff_ids)
        {
            let (done, is_done) = watch::channel(false);
            let (parent_id, parent_done) = parent.unzip();
            parent = Some((chain_id.clone(), is_done));
            let job = LayerJob {
                service: self.clone(),
                source: LayerSource::Registry {
                    repository: reference.repository.clone(),
                    credentials: credentials.cloned(),
                    permits: permits.clone(),
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
            };
            tasks.spawn(job.run());
        }
        // Dropping `tasks` after the first error ends the others.
        let mut infos = Vec::new();
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
fn short(digest: &Digest) -> String {
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

/// Where a layer's bytes come from when they are not here yet.
pub(super) enum LayerSource {
    Registry {
        repository: Repository,
        credentials: Option<Credentials>,
        permits: Arc<Semaphore>,
    },
    /// An archive that is being loaded.
    Archive {
        archive: Arc<dyn super::archive::StagedArchive>,
        path: String,
    },
}

/// Brings one layer.
pub(super) struct LayerJob {
    pub(super) service: ImageService,
    pub(super) source: LayerSource,
    pub(super) spec: LayerSpec,
    pub(super) descriptor: Descriptor,
    pub(super) progress: ProgressSink,
    pub(super) parent_done: Option<watch::Receiver<bool>>,
    pub(super) done: watch::Sender<bool>,
}

impl LayerJob {
    pub(super) async fn run(mut self) -> Result<LayerInfo, ImageError> {
        let lock = self.service.layer_lock(&self.spec.chain_id);
        let _only_one = lock.lock().await;
        let layers = self.service.backends().layers.clone();
        let name = short(&self.descriptor.digest);
        let blobs = self.service.backends().blobs.clone();
        let is_here = blobs.size(&self.descriptor.digest).await?.is_some();
        if let Some(info) = layers.find(&self.spec.chain_id).await? {
            if is_here {
                self.progress.status(&name, "Already exists").await;
            } else {
                // It came as another blob. This image's manifest names this one, and push and save send it as it is.
                self.fetch_blob(&name).await?;
                self.progress.status(&name, "Pull complete").await;
            }
            self.done.send_replace(true);
            return Ok(info);
        }
        let staged = if is_here {
            let content = blobs.open(&self.descriptor.digest).await?;
            layers.stage(&self.spec, content).await?
        } else if let Some(file) = self.file_of_archive()? {
            // The archive's reader has the digest already: no second copy, no second look.
            blobs.adopt(&self.descriptor.digest, &file).await?;
            let content = blobs.open(&self.descriptor.digest).await?;
            layers.stage(&self.spec, content).await?
        } else {
            self.fetch_and_stage(&name).await?
        };
        let size = self.descriptor.size;
        self.progress.amount(&name, "Extracting", size, size);
        if let Some(parent_done) = &mut self.parent_done
            && parent_done.wait_for(|done| *done).await.is_err()
        {
            return Err(ImageError::ParentFailed);
        }
        let info = staged.commit().await?;
        self.progress.status(&name, "Pull complete").await;
        self.done.send_replace(true);
        Ok(info)
    }

    /// The layer's file in an archive that is being loaded, if it is what the manifest says.
    fn file_of_archive(&self) -> Result<Option<std::path::PathBuf>, ImageError> {
        let LayerSource::Archive { archive, path } = &self.source else {
            return Ok(None);
        };
        let Some(file) = archive.file(path) else {
            return Ok(None);
        };
        match archive.find(path) {
            Some((actual, _)) if actual != self.descriptor.digest => Err(BlobError::Mismatch {
                digest: self.descriptor.digest.clone(),
                actual,
            }
            .into()),
            _ => Ok(Some(file)),
        }
    }

    /// Opens the layer's bytes wherever they come from; what an engine that was killed had of them is not fetched again.
    async fn content<'a>(
        &'a self,
        name: &str,
    ) -> Result<(Option<SemaphorePermit<'a>>, ByteStream), ImageError> {
        match &self.source {
            LayerSource::Registry {
                repository,
                credentials,
                permits,
            } => {
                if permits.available_permits() == 0 {
                    self.progress.status(name, "Waiting").await;
                }
                let permit = permits
                    .acquire()
                    .await
                    .expect("the semaphore is never closed");
                let backends = self.service.backends();
                let partial = backends
                    .blobs
                    .take_partial(&self.descriptor.digest)
                    .await?
                    .filter(|(size, _)| *size <= self.descriptor.size);
                let start = partial.as_ref().map_or(0, |(size, _)| *size);
                if start > 0 && start == self.descriptor.size {
                    let (_, content) = partial.expect("it has a size");
                    return Ok((Some(permit), content));
                }
                let content = backends
                    .registry
                    .blob(
                        repository,
                        &self.descriptor.digest,
                        self.descriptor.size,
                        start,
                        credentials.as_ref(),
                    )
                    .await
                    .map_err(ImageError::Registry)?;
                let content = match partial {
                    Some((_, beginning)) => Box::pin(beginning.chain(content)) as ByteStream,
                    None => content,
                };
                Ok((Some(permit), content))
            }
            LayerSource::Archive { archive, path } => Ok((None, archive.open(path).await?)),
        }
    }

    /// Brings the blob alone.
    async fn fetch_blob(&self, name: &str) -> Result<(), ImageError> {
        let blobs = &self.service.backends().blobs;
        if let Some(file) = self.file_of_archive()? {
            return Ok(blobs.adopt(&self.descriptor.digest, &file).await?);
        }
        let (permit, content) = self.content(name).await?;
        let (to_blob, blob_content) = channel();
        let forward = async move {
            let outcome = self.forward(name, content, to_blob, None).await;
            drop(permit);
            outcome
        };
        let (forwarded, blob) =
            tokio::join!(forward, blobs.put(&self.descriptor.digest, blob_content));
        forwarded?;
        blob?;
        Ok(())
    }

    /// Feeds the blob store and the unpacking from one stream.
    async fn fetch_and_stage(
        &self,
        name: &str,
    ) -> Result<Box<dyn super::layer_store::StagedLayer>, ImageError> {
        let (permit, content) = self.content(name).await?;
        let (to_blob, blob_content) = channel();
        let (to_layer, layer_content) = channel();
        let forward = async move {
            let outcome = self.forward(name, content, to_blob, Some(to_layer)).await;
            drop(permit);
            outcome
        };
        let backends = self.service.backends();
        let (forwarded, blob, staged) = tokio::join!(
            forward,
            backends.blobs.put(&self.descriptor.digest, blob_content),
            backends.layers.stage(&self.spec, layer_content),
        );
        // The network's error is why the other two failed, and a wrong blob is why it could not be unpacked.
        forwarded?;
        blob?;
        Ok(staged?)
    }

    /// Hands every piece to both. A layer that cannot be unpacked is still read to its end, so that we can tell a
    /// damaged blob from a bad one.
    async fn forward(
        &self,
        name: &str,
        mut content: ByteStream,
        to_blob: mpsc::Sender<std::io::Result<Bytes>>,
        to_layer: Option<mpsc::Sender<std::io::Result<Bytes>>>,
    ) -> Result<(), ImageError> {
        let total = self.descriptor.size;
        let mut current = 0u64;
        let mut last_shown: Option<Instant> = None;
        while let Some(piece) = content.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    let failed = || Err(std::io::Error::other("the download failed"));
                    let _ = to_blob.send(failed()).await;
                    if let Some(to_layer) = &to_layer {
                        let _ = to_layer.send(failed()).await;
                    }
                    return Err(BlobError::Source(error).into());
                }
            };
            current += piece.len() as u64;
            if current > total {
                return Err(BlobError::TooLarge {
                    digest: self.descriptor.digest.clone(),
                    size: current,
                    limit: total,
                }
                .into());
            }
            if to_blob.send(Ok(piece.clone())).await.is_err() {
                // The blob store gave up and tells why itself.
                return Ok(());
            }
            if let Some(to_layer) = &to_layer {
                let _ = to_layer.send(Ok(piece)).await;
            }
            if last_shown.is_none_or(|shown| shown.elapsed() >= BAR_PERIOD) {
                last_shown = Some(Instant::now());
                self.progress.amount(name, "Downloading", current, total);
            }
        }
        self.progress.status(name, "Verifying Checksum").await;
        self.progress.status(name, "Download complete").await;
        Ok(())
    }
}

fn channel() -> (mpsc::Sender<std::io::Result<Bytes>>, ByteStream) {
    let (sender, mut receiver) = mpsc::channel(PIECES_IN_FLIGHT);
    let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    (sender, Box::pin(stream))
}
