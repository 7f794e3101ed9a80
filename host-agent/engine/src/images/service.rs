//! `ImageService`: decides; stores and registries do. Each operation has its own file; this one holds what they share:
//! the catalog, its changes, and the collection of what nobody uses.
//!
//! ```text
//!            readers (list, inspect, resolve) --> catalog (in memory)
//! pull, load, tag, remove --> change(): copy, edit, save durably, swap --> catalog
//! pull --> make_durable(): content becomes durable behind the answer
//! remove --> collect(): layers and blobs that no image and no container uses; waits while a pull or load runs,
//!            because what that has stored is in no record yet
//! ```

use super::archive::ArchiveReader;
use super::blobs::BlobStore;
use super::config::ImageDetails;
use super::download::Downloads;
use super::layer_store::LayerStore;
use super::manifest::{CONFIG_MAX, Descriptor};
use super::policy::Policy;
use super::records::{ImageRecord, ImageRecords, ImageStore};
use super::registry::Registry;
use super::{
    Digest, Image, ImageError, ImageLookupError, ImageSource, ImageUsers, Platform, Reference,
};
use crate::clock::Clock;
use crate::events::{Event, EventBus, EventKind};
use crate::id::ContainerId;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use tokio::sync::Semaphore;

/// What the service is made of.
pub struct ImageBackends {
    pub blobs: Arc<dyn BlobStore>,
    pub layers: Arc<dyn LayerStore>,
    pub store: Arc<dyn ImageStore>,
    pub registry: Arc<dyn Registry>,
    pub archives: Arc<dyn ArchiveReader>,
    pub downloads: Arc<dyn Downloads>,
    pub clock: Arc<dyn Clock>,
    pub events: EventBus,
}

/// Choices of the administrator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageOptions {
    /// Layers that are downloaded at the same time, by all pulls together (`max-concurrent-downloads`).
    pub concurrent_downloads: usize,
    /// The same for pushes (`max-concurrent-uploads`).
    pub concurrent_uploads: usize,
    /// What may be pulled and pushed.
    pub policy: Policy,
    /// What the engine before this one stored without recording it is whole: it was killed, but the host was not
    /// interrupted. An interrupted pull then goes on where it was.
    pub resumes: bool,
    /// What images must run on where a request does not say.
    pub platform: Platform,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions {
            concurrent_downloads: 3,
            concurrent_uploads: 5,
            policy: Policy::default(),
            resumes: false,
            platform: Platform::host(),
        }
    }
}

/// Images: pull, list, inspect, tag, remove, save, load. Cheap to clone.
#[derive(Clone)]
pub struct ImageService {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) backends: ImageBackends,
    pub(super) options: ImageOptions,
    pub(super) catalog: RwLock<Arc<Catalog>>,
    /// Held while the catalog is changed.
    writer: tokio::sync::Mutex<()>,
    /// Read-held by operations that store content before they record it, write-held by the collection.
    activity: tokio::sync::RwLock<()>,
    collection_is_due: AtomicBool,
    /// Held by downloads of layers.
    pub(super) downloads: Semaphore,
    /// Held by the one who makes images durable.
    pub(super) syncing: tokio::sync::Mutex<()>,
    /// Some record was unreadable: we do not know everything that is in use.
    keep_everything: bool,
    users: OnceLock<Arc<dyn ImageUsers>>,
    /// One makes a layer at a time, by chain id, whoever asks for it.
    layer_locks: Locks,
    /// One fetches a blob at a time. Not the same map: a plain layer's blob has the digest of the layer.
    blob_locks: Locks,
}

type Locks = Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>;

/// All images, in memory.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub records: ImageRecords,
    /// The configuration of every image in `records`.
    pub details: BTreeMap<Digest, Arc<ImageDetails>>,
}

/// One image with its names, for lists and `inspect`.
#[derive(Debug, Clone)]
pub struct ImageView {
    pub id: Digest,
    pub details: Arc<ImageDetails>,
    pub record: ImageRecord,
    /// Familiar forms, sorted.
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
}

impl ImageView {
    /// Bytes of all its layers, unpacked.
    pub fn size(&self) -> u64 {
        self.record.layers.iter().map(|layer| layer.size).sum()
    }
}

impl Catalog {
    /// References to an image.
    pub(super) fn references_to(&self, id: &Digest) -> Vec<Reference> {
        self.records
            .references
            .iter()
            .filter(|(_, target)| *target == id)
            .filter_map(|(text, _)| Reference::parse(text).ok())
            .collect()
    }

    pub(super) fn view(&self, id: &Digest) -> Option<ImageView> {
        let record = self.records.images.get(id)?.clone();
        let details = self.details.get(id)?.clone();
        let (digests, tags): (Vec<_>, Vec<_>) = self
            .references_to(id)
            .into_iter()
            .partition(|reference| reference.digest.is_some());
        let familiar = |references: Vec<Reference>| {
            references
                .iter()
                .map(Reference::familiar)
                .collect::<Vec<_>>()
        };
        Some(ImageView {
            id: id.clone(),
            details,
            record,
            repo_tags: familiar(tags),
            repo_digests: familiar(digests),
        })
    }

    /// Finds an image by reference, id or id prefix.
    pub(super) fn lookup(&self, name: &str) -> Result<Digest, ImageLookupError> {
        let not_found = || ImageLookupError::NotFound {
            name: match Reference::parse(name) {
                Ok(reference) => reference.or_latest().familiar(),
                Err(_) => name.to_owned(),
            },
        };
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        if let Some(id) = Digest::from_hex(hex) {
            return match self.records.images.contains_key(&id) {
                true => Ok(id),
                false => Err(ImageLookupError::NotFound { name: name.into() }),
            };
        }
        let reference = Reference::parse(name);
        if let Ok(reference) = &reference {
            let mut reference = reference.clone().or_latest();
            // A digest says it all; the tag beside it is decoration.
            if reference.digest.is_some() {
                reference.tag = None;
            }
            if let Some(id) = self.records.references.get(&reference.to_string()) {
                return Ok(id.clone());
            }
        }
        if let Some(id) = self.by_prefix(name, hex)? {
            return Ok(id);
        }
        match reference {
            Ok(_) => Err(not_found()),
            Err(source) => Err(ImageLookupError::Invalid(source)),
        }
    }

    fn by_prefix(&self, name: &str, hex: &str) -> Result<Option<Digest>, ImageLookupError> {
        if hex.is_empty()
            || !hex
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            return Ok(None);
        }
        let mut fitting = self
            .records
            .images
            .keys()
            .filter(|id| id.hex().starts_with(hex));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => Err(ImageLookupError::Ambiguous { name: name.into() }),
            (first, _) => Ok(first.cloned()),
        }
    }
}

impl ImageService {
    /// Reads the records. What an interrupted pull left is removed now, or, where it can be trusted, kept for the next
    /// pull: then whatever operation comes next removes what it did not use.
    pub async fn open(
        backends: ImageBackends,
        options: ImageOptions,
    ) -> Result<ImageService, ImageError> {
        let loaded = backends.store.load().await?;
        let mut keep_everything = !loaded.complete;
        let mut catalog = Catalog {
            records: loaded.records,
            details: BTreeMap::new(),
        };
        if !options.resumes && catalog.forget_unsynced() {
            backends.store.save(&catalog.records).await?;
        }
        for id in catalog.records.images.keys() {
            match read_details(&*backends.blobs, id).await {
                Ok(details) => {
                    catalog.details.insert(id.clone(), Arc::new(details));
                }
                Err(error) => {
                    keep_everything = true;
                    tracing::error!(image = %id, error = %crate::error::full_message(&error),
                        "cannot read this image's configuration; the image is left out until it is pulled again");
                }
            }
        }
        let resumes = options.resumes;
        let service = ImageService::with(backends, options, catalog, keep_everything);
        if !resumes {
            service.collect_if_due().await;
        }
        service.make_durable_soon();
        Ok(service)
    }

    /// A service over empty stores.
    pub fn empty(backends: ImageBackends, options: ImageOptions) -> ImageService {
        ImageService::with(backends, options, Catalog::default(), false)
    }

    fn with(
        backends: ImageBackends,
        options: ImageOptions,
        catalog: Catalog,
        keep_everything: bool,
    ) -> ImageService {
        ImageService {
            inner: Arc::new(Inner {
                downloads: Semaphore::new(options.concurrent_downloads.max(1)),
                backends,
                options,
                catalog: RwLock::new(Arc::new(catalog)),
                writer: tokio::sync::Mutex::default(),
                activity: tokio::sync::RwLock::default(),
                collection_is_due: AtomicBool::new(true),
                syncing: tokio::sync::Mutex::default(),
                keep_everything,
                users: OnceLock::new(),
                layer_locks: Locks::default(),
                blob_locks: Locks::default(),
            }),
        }
    }

    /// Tells who uses images; once, when the containers are there. Until then none is in use.
    pub fn set_users(&self, users: Arc<dyn ImageUsers>) {
        // A second call is a mistake in the composition; the first one stays.
        let _ = self.inner.users.set(users);
    }

    /// How many images there are (for `/info`).
    pub fn count(&self) -> usize {
        self.catalog().records.images.len()
    }

    /// The platform images are chosen for where a request does not say.
    pub fn platform(&self) -> &Platform {
        &self.inner.options.platform
    }

    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.inner
            .catalog
            .read()
            .expect("no code panics while it holds this lock")
            .clone()
    }

    pub(crate) fn backends(&self) -> &ImageBackends {
        &self.inner.backends
    }

    pub(super) fn users_of(&self, image: &Digest) -> Vec<(ContainerId, bool)> {
        match self.inner.users.get() {
            Some(users) => users.users_of(image),
            None => Vec::new(),
        }
    }

    /// Changes the catalog: all of it durably, or nothing.
    pub(crate) async fn change<T>(
        &self,
        edit: impl FnOnce(&mut Catalog) -> Result<T, ImageError>,
    ) -> Result<T, ImageError> {
        let _guard = self.inner.writer.lock().await;
        let mut next = (*self.catalog()).clone();
        let answer = edit(&mut next)?;
        let images = &next.records.images;
        next.records.unsynced.retain(|id| images.contains_key(id));
        self.backends().store.save(&next.records).await?;
        *self
            .inner
            .catalog
            .write()
            .expect("no code panics while it holds this lock") = Arc::new(next);
        Ok(answer)
    }

    /// Held while content is stored that is not recorded yet.
    pub(crate) async fn begin_storing(
        &self,
    ) -> Result<tokio::sync::RwLockReadGuard<'_, ()>, ImageError> {
        self.backends().layers.make_room().await?;
        Ok(self.inner.activity.read().await)
    }

    /// The lock of one layer.
    pub(super) fn layer_lock(&self, chain_id: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        lock_of(&self.inner.layer_locks, chain_id)
    }

    /// The lock of one blob.
    pub(super) fn blob_lock(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        lock_of(&self.inner.blob_locks, digest)
    }

    /// Whether a blob is here in its full length; what is shorter was damaged with the disk.
    pub(super) async fn has_blob(&self, blob: &Descriptor) -> Result<bool, ImageError> {
        let size = self.backends().blobs.size(&blob.digest).await?;
        Ok(size == Some(blob.size))
    }

    /// After something was stored, or was to be: what a failure has stored for nothing goes, and its space is free again when
    /// the failure is told.
    pub(super) async fn clear_up<T>(&self, outcome: &Result<T, ImageError>) {
        if outcome.is_ok() {
            return self.collect_if_due().await;
        }
        self.collect_later();
        self.collect_if_due().await;
        if let Err(error) = self.backends().layers.settle().await {
            tracing::warn!(error = %crate::error::full_message(&error), "cannot free the space of unused layers");
        }
    }

    pub(crate) fn collect_later(&self) {
        self.inner.collection_is_due.store(true, Ordering::SeqCst);
    }

    /// Removes layers and blobs that nothing uses, unless something is being stored: then whoever stores does it.
    pub(crate) async fn collect_if_due(&self) {
        if self.inner.keep_everything {
            return;
        }
        let Ok(_guard) = self.inner.activity.try_write() else {
            return;
        };
        if !self.inner.collection_is_due.swap(false, Ordering::SeqCst) {
            return;
        }
        if let Err(error) = self.collect().await {
            // What could not be removed now is removed at the next collection.
            self.collect_later();
            tracing::warn!(error = %crate::error::full_message(&error), "cannot remove unused image content");
        }
    }

    async fn collect(&self) -> Result<(), ImageError> {
        let catalog = self.catalog();
        let mut layers = BTreeSet::new();
        let mut blobs = BTreeSet::new();
        for (id, record) in &catalog.records.images {
            blobs.insert(id.clone());
            blobs.insert(record.manifest.clone());
            for layer in &record.layers {
                layers.insert(layer.chain_id.clone());
                blobs.insert(layer.blob.clone());
            }
        }
        for layer in catalog.records.builds.values().flat_map(|step| &step.layer) {
            layers.insert(layer.record.chain_id.clone());
            blobs.insert(layer.record.blob.clone());
        }
        self.backends().layers.collect(&layers).await?;
        self.backends().blobs.remove_partials().await?;
        for digest in self.backends().blobs.list().await? {
            if !blobs.contains(&digest) {
                self.backends().blobs.remove(&digest).await?;
            }
        }
        Ok(())
    }

    /// Publishes an image event; `name` is Docker's `name` attribute.
    pub(crate) fn publish(&self, action: &str, actor: &str, name: &str) {
        self.publish_with(action, actor, name, self.labels_of(actor));
    }

    /// The labels of an image that is there.
    pub(crate) fn labels_of(&self, image: &str) -> BTreeMap<String, String> {
        let catalog = self.catalog();
        let id = catalog.lookup(image).ok();
        let details = id.and_then(|id| catalog.details.get(&id));
        details
            .map(|details| details.config.labels.clone())
            .unwrap_or_default()
    }

    /// About an image that may be gone: with these labels.
    pub(crate) fn publish_with(
        &self,
        action: &str,
        actor: &str,
        name: &str,
        mut attributes: BTreeMap<String, String>,
    ) {
        attributes.insert("name".into(), name.into());
        self.backends().events.publish(Event {
            kind: EventKind::Image,
            action: action.into(),
            actor: actor.into(),
            attributes,
            at: self.backends().clock.now(),
        });
    }
}

fn lock_of(locks: &Locks, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
    let mut locks = locks
        .lock()
        .expect("no code panics while it holds this lock");
    // Locks nobody holds or waits for are forgotten.
    locks.retain(|_, lock| Arc::strong_count(lock) > 1);
    locks.entry(digest.clone()).or_default().clone()
}

async fn read_details(blobs: &dyn BlobStore, id: &Digest) -> Result<ImageDetails, ImageError> {
    let bytes = blobs.read(id, CONFIG_MAX).await?;
    ImageDetails::parse(&bytes).map_err(|source| ImageError::Config {
        id: id.clone(),
        source,
    })
}

#[async_trait]
impl ImageSource for ImageService {
    async fn resolve(&self, name: &str) -> Result<Image, ImageLookupError> {
        let catalog = self.catalog();
        let id = catalog.lookup(name)?;
        match catalog.details.get(&id) {
            Some(details) => Ok(details.image(id)),
            None => Err(ImageLookupError::NotFound { name: name.into() }),
        }
    }

    async fn made_durable(&self, image: &Digest) -> Result<(), ImageLookupError> {
        if self.is_durable(image) {
            return Ok(());
        }
        self.make_durable()
            .await
            .map_err(|error| ImageLookupError::Unreadable {
                name: image.to_string(),
                source: error.into(),
            })
    }
}

impl ImageService {
    /// Checks credentials at a registry (`docker login`); the answer is an identity token, where the registry gave one.
    pub async fn login(
        &self,
        domain: &str,
        credentials: &super::registry::Credentials,
    ) -> Result<Option<String>, ImageError> {
        self.backends()
            .registry
            .login(domain, credentials)
            .await
            .map_err(ImageError::Registry)
    }
}
