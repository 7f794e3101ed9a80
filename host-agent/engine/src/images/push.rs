//! Push: blobs as they came, then the manifest that names them.
//!
//! ```text
//! policy -> for each tag: for each layer, several at once: Registry::upload_blob (there already? mounted? sent)
//!                         -> the configuration -> the manifest, byte for byte -> "latest: digest: sha256:... size: ..."
//! ```
//!
//! What came with a manifest is not packed anew, so an image has the same digest wherever it goes (`pack` has the others).

use super::manifest::{MANIFEST_MAX, Manifest};
use super::policy::Direction;
use super::progress::{Progress, ProgressSink};
use super::registry::{BlobUpload, Credentials, Registry, Uploaded};
use super::service::{ImageService, ImageView};
use super::{BlobError, Digest, ImageError, Platform, Reference, Repository};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// How often a bar moves.
const BAR_PERIOD: Duration = Duration::from_millis(100);
/// Repositories that a blob is tried to be mounted from.
const MOUNTS_MAX: usize = 3;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct PushRequest {
    pub repository: Repository,
    /// `None`: every tag of the repository.
    pub tag: Option<String>,
    /// What the image must be for, where the client says so.
    pub platform: Option<Platform>,
    pub credentials: Option<Credentials>,
}

impl ImageService {
    /// Pushes. Messages are those of `docker push`; only a refusal by the administrator's rules comes before the first.
    pub async fn push(
        &self,
        request: PushRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        self.inner
            .options
            .policy
            .permit(Direction::Push, &request.repository)?;
        progress
            .status(
                "",
                format!("The push refers to repository [{}]", request.repository),
            )
            .await;
        // Blobs stay as long as this is held.
        let storing = self.begin_storing().await?;
        let outcome = self.push_all(&request, progress).await;
        drop(storing);
        self.collect_if_due().await;
        outcome
    }

    async fn push_all(
        &self,
        request: &PushRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let catalog = self.catalog();
        let tags: Vec<Reference> = catalog
            .records
            .references
            .keys()
            .filter_map(|text| Reference::parse(text).ok())
            .filter(|reference| {
                reference.repository == request.repository && reference.digest.is_none()
            })
            .collect();
        if tags.is_empty() {
            return Err(ImageError::NothingToPush {
                name: request.repository.familiar(),
            });
        }
        let wanted: Vec<Reference> = match &request.tag {
            None => tags,
            Some(tag) => {
                let reference = request.repository.clone().with_tag(tag)?;
                if !tags.contains(&reference) {
                    return Err(ImageError::NoSuchTag {
                        name: reference.familiar(),
                    });
                }
                vec![reference]
            }
        };
        for reference in wanted {
            self.push_one(&reference, request, progress).await?;
        }
        Ok(())
    }

    async fn push_one(
        &self,
        reference: &Reference,
        request: &PushRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let image = self.inspect_on(&reference.familiar(), request.platform.as_ref())?;
        let image = self.packed(image).await?;
        let manifest = self
            .backends()
            .blobs
            .read(&image.record.manifest, MANIFEST_MAX)
            .await?;
        self.push_layers(&image, request, progress).await?;
        let size = self.blob_size(&image.id).await?;
        let registry = self
            .backends()
            .registry
            .telling(progress.waits(reference.tag_or_digest()));
        self.upload(&*registry, &image.id, size, request, Arc::new(|_| {}))
            .await?;
        registry
            .put_manifest(
                reference,
                &media_type_of(&image, &manifest),
                manifest.clone(),
                request.credentials.as_ref(),
            )
            .await
            .map_err(ImageError::Registry)?;
        let digest = image.record.manifest.clone();
        // The image is now known by its digest there, too.
        let by_digest = reference.repository.clone().with_digest(digest.clone());
        let (name, id) = (by_digest.to_string(), image.id.clone());
        if self.catalog().records.references.get(&name) != Some(&id) {
            self.change(|catalog| {
                // Removed while it was pushed: then the name would point at nothing.
                if catalog.records.images.contains_key(&id) {
                    catalog.records.references.insert(name, id);
                }
                Ok(())
            })
            .await?;
        }
        self.publish(
            "push",
            &reference.familiar(),
            &reference.repository.familiar(),
        );
        let tag = reference.tag_or_digest().to_owned();
        progress
            .status(
                "",
                format!("{tag}: digest: {digest} size: {}", manifest.len()),
            )
            .await;
        progress
            .send(Progress::Pushed {
                tag,
                digest,
                size: manifest.len() as u64,
            })
            .await;
        Ok(())
    }

    async fn push_layers(
        &self,
        image: &ImageView,
        request: &PushRequest,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let permits = Arc::new(Semaphore::new(self.inner.options.concurrent_uploads.max(1)));
        let mut seen = BTreeSet::new();
        let mut tasks: JoinSet<Result<(), ImageError>> = JoinSet::new();
        // The top layer first, as Docker has it.
        let layers = image.record.layers.iter().zip(&image.details.diff_ids);
        for (layer, diff_id) in layers.rev() {
            let name = diff_id.hex()[..12].to_owned();
            progress.status(&name, "Preparing").await;
            if !seen.insert(layer.blob.clone()) {
                // The same layer twice.
                progress.status(&name, "Layer already exists").await;
                continue;
            }
            let (service, request, progress, permits) = (
                self.clone(),
                request.clone(),
                progress.clone(),
                permits.clone(),
            );
            let blob = layer.blob.clone();
            tasks.spawn(async move {
                if permits.available_permits() == 0 {
                    progress.status(&name, "Waiting").await;
                }
                let _permit = permits
                    .acquire()
                    .await
                    .expect("the semaphore is never closed");
                let size = service.blob_size(&blob).await?;
                let bar = bar(progress.clone(), name.clone(), size);
                let registry = service.backends().registry.telling(progress.waits(&name));
                let said = match service
                    .upload(&*registry, &blob, size, &request, bar)
                    .await?
                {
                    Uploaded::Existed => "Layer already exists".to_owned(),
                    Uploaded::Mounted { from } => format!("Mounted from {}", from.path()),
                    Uploaded::Sent => "Pushed".to_owned(),
                };
                progress.status(&name, said).await;
                Ok(())
            });
        }
        // Dropping `tasks` after the first error ends the others.
        while let Some(outcome) = tasks.join_next().await {
            match outcome {
                Ok(outcome) => outcome?,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        Ok(())
    }

    async fn blob_size(&self, digest: &Digest) -> Result<u64, ImageError> {
        let size = self.backends().blobs.size(digest).await?;
        Ok(size.ok_or_else(|| BlobError::Missing {
            digest: digest.clone(),
        })?)
    }

    async fn upload(
        &self,
        registry: &dyn Registry,
        digest: &Digest,
        size: u64,
        request: &PushRequest,
        sent: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<Uploaded, ImageError> {
        let mount_from = self.repositories_with(digest, &request.repository);
        registry
            .upload_blob(BlobUpload {
                repository: &request.repository,
                digest,
                size,
                mount_from: &mount_from,
                blobs: &*self.backends().blobs,
                credentials: request.credentials.as_ref(),
                sent,
            })
            .await
            .map_err(ImageError::Registry)
    }

    /// Other repositories of the same registry that a blob was pulled from or pushed to.
    fn repositories_with(&self, blob: &Digest, target: &Repository) -> Vec<Repository> {
        let catalog = self.catalog();
        let has_blob = |id: &Digest| {
            id == blob
                || catalog
                    .records
                    .images
                    .get(id)
                    .is_some_and(|record| record.layers.iter().any(|layer| layer.blob == *blob))
        };
        let found: BTreeSet<Repository> = catalog
            .records
            .references
            .iter()
            .filter(|(_, id)| has_blob(id))
            .filter_map(|(text, _)| Reference::parse(text).ok())
            // A tag says nothing about any registry; a digest was told by one.
            .filter(|reference| reference.digest.is_some())
            .map(|reference| reference.repository)
            .filter(|other| other.domain() == target.domain() && other != target)
            .collect();
        found.into_iter().take(MOUNTS_MAX).collect()
    }
}

/// The type a manifest was served with; where the registry did not say, what the manifest itself says.
fn media_type_of(image: &ImageView, manifest: &Bytes) -> String {
    use super::manifest::{DOCKER_MANIFEST, OCI_MANIFEST};
    let recorded = &image.record.manifest_media_type;
    if [DOCKER_MANIFEST, OCI_MANIFEST].contains(&recorded.as_str()) {
        return recorded.clone();
    }
    match Manifest::parse(recorded, manifest) {
        Ok(Manifest::Image(manifest)) if !manifest.media_type.is_empty() => manifest.media_type,
        _ => OCI_MANIFEST.to_owned(),
    }
}

/// Shows bytes on their way as a bar, now and then.
fn bar(progress: ProgressSink, name: String, total: u64) -> Arc<dyn Fn(u64) + Send + Sync> {
    let last: Mutex<Option<Instant>> = Mutex::default();
    Arc::new(move |current| {
        let mut last = last
            .lock()
            .expect("no code panics while it holds this lock");
        if last.is_none_or(|shown| shown.elapsed() >= BAR_PERIOD) {
            *last = Some(Instant::now());
            progress.amount(&name, "Pushing", current, total);
        }
    })
}
