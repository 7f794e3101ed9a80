//! Bringing one layer: from a registry, or from an archive that is being loaded, into the blob store and unpacked.
//!
//! ```text
//! locks: the layer's (its chain id) ---------------------------------------------------.
//!          '- its blob's, while it is fetched: other images may have it on other layers '- wait for the layer below, commit
//! ```
//!
//! Whoever holds a blob's lock waits for no other lock, and who holds a layer's only for those below: so nothing is ever
//! waited for in a circle, also where an image has the same blob twice.

use super::blobs::ByteStream;
use super::layer_store::{LayerInfo, LayerSpec, StagedLayer};
use super::manifest::Descriptor;
use super::progress::ProgressSink;
use super::pull::{is_damage, short};
use super::registry::Credentials;
use super::service::ImageService;
use super::{BlobError, ImageError, LayerError, Repository};
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{SemaphorePermit, mpsc, watch};

/// How often a bar moves.
const BAR_PERIOD: Duration = Duration::from_millis(100);
/// Pieces of a layer between the network and each of its readers, and bytes of a piece at most.
const PIECES_IN_FLIGHT: usize = 16;
const PIECE_MAX: usize = 64 << 10;

/// Where a layer's bytes come from when they are not here yet.
pub(super) enum LayerSource {
    Registry {
        repository: Repository,
        credentials: Option<Credentials>,
    },
    /// An archive that is being loaded.
    Archive {
        archive: Arc<dyn super::archive::StagedArchive>,
        path: String,
        /// Where it is told how much of the layer is unpacked: the only thing Docker tells of a layer that is loaded.
        loading: ProgressSink,
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
    /// Whether what is fetched goes on from what was here.
    pub(super) is_continued: AtomicBool,
}

impl LayerJob {
    pub(super) async fn run(mut self) -> Result<LayerInfo, ImageError> {
        let lock = self.service.layer_lock(&self.spec.chain_id);
        let _only_one = lock.lock().await;
        let layers = self.service.backends().layers.clone();
        let name = short(&self.descriptor.digest);
        if let Some(info) = layers.find(&self.spec.chain_id).await? {
            let said = match self.bring_blob(&name).await? {
                false => "Already exists",
                // It came as another blob. This image's manifest names this one, and push and save send it as it is.
                true => "Pull complete",
            };
            self.progress.status(&name, said).await;
            self.done.send_replace(true);
            return Ok(info);
        }
        let staged = self
            .stage(&name)
            .await
            .map_err(|error| self.of_layer(error))?;
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

    /// Sees to it that the blob is here and unpacks it aside.
    async fn stage(&self, name: &str) -> Result<Box<dyn StagedLayer>, ImageError> {
        let lock = self.service.blob_lock(&self.descriptor.digest);
        let only_one = lock.lock().await;
        if self.service.has_blob(&self.descriptor).await? {
            drop(only_one);
            match (self.stage_kept().await, &self.source) {
                // What was kept may have been damaged since, and a registry has it again.
                (
                    Err(ImageError::Layer(error @ LayerError::Invalid { .. })),
                    LayerSource::Registry { .. },
                ) => {
                    tracing::warn!(digest = %self.descriptor.digest, error = %crate::error::full_message(&error),
                        "a blob that was kept cannot be unpacked; it is fetched again");
                    let _only_one = lock.lock().await;
                    return self.fetch_and_stage(name).await;
                }
                (outcome, _) => return outcome,
            }
        }
        if let Some(file) = self.file_of_archive()? {
            // The archive's reader has the digest already: no second copy, no second look.
            let blobs = &self.service.backends().blobs;
            blobs.adopt(&self.descriptor.digest, &file).await?;
            return self.stage_kept().await;
        }
        self.fetch_and_stage(name).await
    }

    /// An error of unpacking with the name that the layer has in its manifest, and so in what is told of the pull.
    fn of_layer(&self, error: ImageError) -> ImageError {
        match error {
            ImageError::Layer(LayerError::Invalid { step, source }) => {
                let step = format!("{step} (blob {})", self.descriptor.digest);
                ImageError::Layer(LayerError::Invalid { step, source })
            }
            other => other,
        }
    }

    /// Unpacks the blob that is here.
    async fn stage_kept(&self) -> Result<Box<dyn StagedLayer>, ImageError> {
        let backends = self.service.backends();
        let content = backends.blobs.open(&self.descriptor.digest).await?;
        let content = self.told(content);
        Ok(backends.layers.stage(&self.spec, content).await?)
    }

    fn told(&self, content: ByteStream) -> ByteStream {
        match &self.source {
            LayerSource::Registry { .. } => content,
            LayerSource::Archive { loading, .. } => {
                let name = short(&self.spec.diff_id);
                loading.told(content, self.descriptor.size, name, "Loading layer")
            }
        }
    }

    /// Brings the blob of a layer that is here already; tells whether that was needed.
    async fn bring_blob(&self, name: &str) -> Result<bool, ImageError> {
        let lock = self.service.blob_lock(&self.descriptor.digest);
        let _only_one = lock.lock().await;
        if self.service.has_blob(&self.descriptor).await? {
            return Ok(false);
        }
        self.fetch_blob(name).await?;
        Ok(true)
    }

    /// The layer's file in an archive that is being loaded, if it is what the manifest says.
    fn file_of_archive(&self) -> Result<Option<std::path::PathBuf>, ImageError> {
        let LayerSource::Archive { archive, path, .. } = &self.source else {
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

    /// Opens the layer's bytes wherever they come from; what an engine that was killed, or a pull that was given up,
    /// had of them is not fetched again.
    async fn content<'a>(
        &'a self,
        name: &str,
    ) -> Result<(Option<SemaphorePermit<'a>>, ByteStream), ImageError> {
        match &self.source {
            LayerSource::Registry {
                repository,
                credentials,
            } => {
                let permits = &self.service.inner.downloads;
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
                self.is_continued.store(start > 0, Ordering::Relaxed);
                if start > 0 && start == self.descriptor.size {
                    let (_, content) = partial.expect("it has a size");
                    return Ok((Some(permit), content));
                }
                let content = backends
                    .registry
                    .telling(self.progress.waits(name))
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
            LayerSource::Archive { archive, path, .. } => Ok((None, archive.open(path).await?)),
        }
    }

    /// Whether to fetch once more: what came was damaged, and there is somebody else who may have it whole, or its
    /// beginning was an old one.
    fn is_worth_another<T>(&self, outcome: &Result<T, ImageError>) -> bool {
        let Err(error) = outcome else {
            return false;
        };
        if !is_damage(error) || !matches!(self.source, LayerSource::Registry { .. }) {
            return false;
        }
        let digest = &self.descriptor.digest;
        let is_of_mirror = self.service.backends().registry.distrust(digest);
        // What an engine that was killed left of it may be what is wrong.
        let is_continued = self.is_continued.swap(false, Ordering::Relaxed);
        let is_worth_it = is_of_mirror || is_continued;
        if is_worth_it {
            tracing::warn!(%digest, error = %crate::error::full_message(error),
                "a blob came damaged; fetching it anew");
        }
        is_worth_it
    }

    /// Brings the blob alone.
    async fn fetch_blob(&self, name: &str) -> Result<(), ImageError> {
        let mut damage = None;
        loop {
            let outcome = or_damage(self.fetch_blob_once(name).await, damage);
            if !self.is_worth_another(&outcome) {
                return outcome;
            }
            damage = outcome.err();
        }
    }

    async fn fetch_blob_once(&self, name: &str) -> Result<(), ImageError> {
        let blobs = &self.service.backends().blobs;
        if let Some(file) = self.file_of_archive()? {
            return Ok(blobs.adopt(&self.descriptor.digest, &file).await?);
        }
        let (permit, content) = self.content(name).await?;
        let (to_blob, blob_content) = channel();
        let forward = self.forward(name, permit, content, to_blob, None);
        let (forwarded, blob) =
            tokio::join!(forward, blobs.put(&self.descriptor.digest, blob_content));
        forwarded?;
        blob?;
        Ok(())
    }

    /// Feeds the blob store and the unpacking from one stream.
    async fn fetch_and_stage(&self, name: &str) -> Result<Box<dyn StagedLayer>, ImageError> {
        let mut damage = None;
        loop {
            let outcome = or_damage(self.fetch_and_stage_once(name).await, damage);
            if !self.is_worth_another(&outcome) {
                return outcome;
            }
            damage = outcome.err();
        }
    }

    async fn fetch_and_stage_once(&self, name: &str) -> Result<Box<dyn StagedLayer>, ImageError> {
        let (permit, content) = self.content(name).await?;
        let (to_blob, blob_content) = channel();
        let (to_layer, layer_content) = channel();
        let forward = self.forward(name, permit, content, to_blob, Some(to_layer));
        let backends = self.service.backends();
        let (forwarded, blob, staged) = tokio::join!(
            forward,
            backends.blobs.put(&self.descriptor.digest, blob_content),
            backends.layers.stage(&self.spec, self.told(layer_content)),
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
        permit: Option<SemaphorePermit<'_>>,
        mut content: ByteStream,
        to_blob: mpsc::Sender<Piece>,
        to_layer: Option<mpsc::Sender<Piece>>,
    ) -> Result<(), ImageError> {
        let total = self.descriptor.size;
        let mut current = 0u64;
        let mut last_shown: Option<Instant> = None;
        while let Some(piece) = content.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    let failed = || Some(Err(std::io::Error::other("the download failed")));
                    let _ = to_blob.send(failed()).await;
                    if let Some(to_layer) = &to_layer {
                        let _ = to_layer.send(failed()).await;
                    }
                    return Err(BlobError::Source(error).into());
                }
            };
            current += piece.len() as u64;
            if current > total {
                let error = BlobError::TooLarge {
                    digest: self.descriptor.digest.clone(),
                    size: current,
                    limit: total,
                };
                // Nothing of it is worth keeping.
                let _ = to_blob
                    .send(Some(Err(std::io::Error::other(error.to_string()))))
                    .await;
                return Err(error.into());
            }
            // The network's buffers grow with its speed: what is in flight shall not.
            let mut rest = piece;
            while !rest.is_empty() {
                let part = rest.split_to(rest.len().min(PIECE_MAX));
                if to_blob.send(Some(Ok(part.clone()))).await.is_err() {
                    // The blob store gave up and tells why itself.
                    return Ok(());
                }
                if let Some(to_layer) = &to_layer {
                    let _ = to_layer.send(Some(Ok(part))).await;
                }
            }
            if last_shown.is_none_or(|shown| shown.elapsed() >= BAR_PERIOD) {
                last_shown = Some(Instant::now());
                self.progress.amount(name, "Downloading", current, total);
            }
        }
        let _ = to_blob.send(None).await;
        if let Some(to_layer) = &to_layer {
            let _ = to_layer.send(None).await;
        }
        // A client that does not read what it is told holds up its own pull only.
        drop(permit);
        self.progress.status(name, "Verifying Checksum").await;
        self.progress.status(name, "Download complete").await;
        Ok(())
    }
}

/// Where nobody else could be asked, what was damaged is the reason.
fn or_damage<T>(
    outcome: Result<T, ImageError>,
    damage: Option<ImageError>,
) -> Result<T, ImageError> {
    match (outcome, damage) {
        (Err(ImageError::Registry(_)), Some(damage)) => Err(damage),
        (outcome, _) => outcome,
    }
}

/// A piece, the error that ended the stream, or its end.
type Piece = Option<std::io::Result<Bytes>>;

/// Where the sender goes without a word about the end, the pull was given up: whoever reads must not take what came for
/// the whole, and the blob store keeps it as a beginning (`BlobStore::put`).
fn channel() -> (mpsc::Sender<Piece>, ByteStream) {
    let (sender, receiver) = mpsc::channel::<Piece>(PIECES_IN_FLIGHT);
    let stream = futures_util::stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(Ok(piece))) => Some((Ok(piece), Some(receiver))),
            Some(Some(Err(error))) => Some((Err(error), None)),
            Some(None) => None,
            None => Some((Err(std::io::ErrorKind::ConnectionAborted.into()), None)),
        }
    });
    (sender, Box::pin(stream))
}
