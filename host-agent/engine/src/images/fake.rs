//! Stores, layers and a registry in memory, for tests. They keep the contracts of [`super::contract`] as the real ones do.

use super::archive::{ArchiveError, ArchiveReader, StagedArchive};
use super::blobs::{BlobError, BlobStore, ByteStream, Packed, stream_of};
use super::config::digest_of;
use super::download::{Download, DownloadError, Downloads};
use super::layer_store::{LayerInfo, LayerSpec, LayerStore, StagedLayer};
use super::records::{ImageRecords, ImageStore, ImageStoreError, LoadedRecords};
use super::registry::{
    BlobUpload, Credentials, FetchedManifest, Found, Registry, RegistryError, Uploaded,
};
use super::service::{ImageBackends, ImageOptions, ImageService};
use super::{
    BorrowedRoot, Change, ContainerDiskUsage, Digest, ImageUsers, LayerError, Layers, Reference,
    Repository,
};
use crate::clock::SystemClock;
use crate::events::EventBus;
use crate::id::ContainerId;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("no code panics while it holds this lock")
}

async fn read_all(mut content: ByteStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = content.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// Everything an [`ImageService`] needs, in memory, with handles to look inside.
#[derive(Clone, Default)]
pub struct FakeImages {
    pub blobs: Arc<MemoryBlobs>,
    pub layers: Arc<MemoryLayers>,
    pub store: Arc<MemoryImages>,
    pub registry: Arc<MemoryRegistry>,
    pub events: EventBus,
}

impl FakeImages {
    /// The service over these; a second one is the engine after a restart.
    pub async fn service(&self) -> ImageService {
        self.open_with(ImageOptions::default()).await
    }

    /// The same with other options.
    pub async fn open_with(&self, options: ImageOptions) -> ImageService {
        ImageService::open(self.backends(), options)
            .await
            .expect("memory does not fail")
    }

    /// The service with other options, over these while they are still empty.
    pub fn service_with(&self, options: ImageOptions) -> ImageService {
        ImageService::empty(self.backends(), options)
    }

    /// The service over these while they are still empty.
    pub fn empty_service(&self) -> ImageService {
        ImageService::empty(self.backends(), ImageOptions::default())
    }

    fn backends(&self) -> ImageBackends {
        ImageBackends {
            blobs: self.blobs.clone(),
            layers: self.layers.clone(),
            store: self.store.clone(),
            registry: self.registry.clone(),
            archives: Arc::new(MemoryArchives),
            downloads: Arc::new(MemoryDownloads),
            clock: Arc::new(SystemClock),
            events: self.events.clone(),
        }
    }
}

/// [`BlobStore`] in memory.
#[derive(Default)]
pub struct MemoryBlobs {
    blobs: Mutex<BTreeMap<Digest, Bytes>>,
    partials: Mutex<BTreeMap<Digest, Bytes>>,
}

impl MemoryBlobs {
    /// What an engine leaves that is killed while it stores a blob.
    pub fn leave_partial(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        lock(&self.partials).insert(digest.clone(), bytes.into());
    }

    /// What an interruption of the host leaves of a blob that was not durable yet.
    pub fn damage(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        lock(&self.blobs).insert(digest.clone(), bytes.into());
    }

    fn get(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        lock(&self.blobs)
            .get(digest)
            .cloned()
            .ok_or_else(|| BlobError::Missing {
                digest: digest.clone(),
            })
    }
}

#[async_trait]
impl BlobStore for MemoryBlobs {
    async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        Ok(lock(&self.blobs)
            .get(digest)
            .map(|bytes| bytes.len() as u64))
    }

    async fn put(&self, digest: &Digest, content: ByteStream) -> Result<u64, BlobError> {
        let bytes = read_all(content).await.map_err(BlobError::Source)?;
        let actual = digest_of(&bytes);
        if actual != *digest {
            return Err(BlobError::Mismatch {
                digest: digest.clone(),
                actual,
            });
        }
        let size = bytes.len() as u64;
        lock(&self.blobs).insert(digest.clone(), bytes.into());
        Ok(size)
    }

    async fn adopt(&self, digest: &Digest, file: &Path) -> Result<(), BlobError> {
        let bytes = std::fs::read(file).map_err(BlobError::Source)?;
        lock(&self.blobs).insert(digest.clone(), bytes.into());
        Ok(())
    }

    async fn take_partial(&self, digest: &Digest) -> Result<Option<(u64, ByteStream)>, BlobError> {
        let partial = lock(&self.partials).remove(digest);
        Ok(partial.map(|bytes| (bytes.len() as u64, stream_of(bytes))))
    }

    async fn remove_partials(&self) -> Result<(), BlobError> {
        lock(&self.partials).clear();
        Ok(())
    }

    async fn pack(&self, content: ByteStream) -> Result<Packed, BlobError> {
        let bytes = read_all(content).await.map_err(BlobError::Source)?;
        let digest = digest_of(&bytes);
        let blob_size = bytes.len() as u64;
        lock(&self.blobs).insert(digest.clone(), bytes.into());
        Ok(Packed {
            diff_id: digest.clone(),
            blob: digest,
            blob_size,
            media_type: super::manifest::DOCKER_LAYER,
        })
    }

    async fn read(&self, digest: &Digest, limit: u64) -> Result<Bytes, BlobError> {
        let bytes = self.get(digest)?;
        match bytes.len() as u64 {
            size if size > limit => Err(BlobError::TooLarge {
                digest: digest.clone(),
                size,
                limit,
            }),
            _ => Ok(bytes),
        }
    }

    async fn open(&self, digest: &Digest) -> Result<ByteStream, BlobError> {
        Ok(stream_of(self.get(digest)?))
    }

    async fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        lock(&self.blobs).remove(digest);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Digest>, BlobError> {
        Ok(lock(&self.blobs).keys().cloned().collect())
    }

    async fn sync(&self) -> Result<(), BlobError> {
        Ok(())
    }
}

/// [`LayerStore`] and [`Layers`] in memory. A "layer" is any bytes; its diff id is the digest of them as they are.
#[derive(Default)]
pub struct MemoryLayers {
    state: Arc<Mutex<LayerState>>,
}

impl MemoryLayers {
    /// What an interruption of the host leaves where a layer was.
    pub fn lose(&self, chain_id: &Digest) {
        lock(&self.state).layers.remove(chain_id);
    }

    /// Something that happens while the next sync runs.
    pub fn at_next_sync(&self, meanwhile: AtSync) {
        lock(&self.state).at_next_sync = Some(meanwhile);
    }

    /// How often everything was made durable.
    pub fn syncs(&self) -> usize {
        lock(&self.state).syncs
    }
}

#[derive(Default)]
struct LayerState {
    layers: BTreeMap<Digest, LayerInfo>,
    containers: HashMap<ContainerId, Option<Digest>>,
    mounted: HashSet<ContainerId>,
    syncs: usize,
    at_next_sync: Option<AtSync>,
}

/// See [`MemoryLayers::at_next_sync`].
pub type AtSync = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

impl LayerState {
    fn with_parents(&self, tops: impl IntoIterator<Item = Digest>) -> BTreeSet<Digest> {
        let mut found = BTreeSet::new();
        for top in tops {
            let mut next = Some(top);
            while let Some(chain_id) = next {
                next = self
                    .layers
                    .get(&chain_id)
                    .and_then(|layer| layer.parent.clone());
                found.insert(chain_id);
            }
        }
        found
    }

    fn check(&self, top: Option<&Digest>) -> Result<(), LayerError> {
        match top {
            Some(top) if !self.layers.contains_key(top) => Err(LayerError::Missing {
                chain_id: top.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl MemoryLayers {
    /// Whether a container is mounted.
    pub fn is_mounted(&self, container: &ContainerId) -> bool {
        lock(&self.state).mounted.contains(container)
    }
}

struct StagedInMemory {
    state: Arc<Mutex<LayerState>>,
    info: LayerInfo,
}

#[async_trait]
impl StagedLayer for StagedInMemory {
    async fn commit(self: Box<Self>) -> Result<LayerInfo, LayerError> {
        let mut state = lock(&self.state);
        state.check(self.info.parent.as_ref())?;
        Ok(state
            .layers
            .entry(self.info.chain_id.clone())
            .or_insert(self.info)
            .clone())
    }
}

#[async_trait]
impl LayerStore for MemoryLayers {
    async fn find(&self, chain_id: &Digest) -> Result<Option<LayerInfo>, LayerError> {
        Ok(lock(&self.state).layers.get(chain_id).cloned())
    }

    async fn stage(
        &self,
        spec: &LayerSpec,
        content: ByteStream,
    ) -> Result<Box<dyn StagedLayer>, LayerError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| LayerError::Invalid {
            step: format!("unpack layer {}", spec.diff_id),
            source,
        };
        let bytes = read_all(content)
            .await
            .map_err(|error| failed(error.into()))?;
        let actual = digest_of(&bytes);
        if actual != spec.diff_id {
            return Err(failed(
                format!("its content has the digest {actual}").into(),
            ));
        }
        Ok(Box::new(StagedInMemory {
            state: self.state.clone(),
            info: LayerInfo {
                chain_id: spec.chain_id.clone(),
                diff_id: spec.diff_id.clone(),
                parent: spec.parent.clone(),
                size: bytes.len() as u64,
            },
        }))
    }

    async fn collect(&self, keep: &BTreeSet<Digest>) -> Result<Vec<Digest>, LayerError> {
        let mut state = lock(&self.state);
        let tops: Vec<Digest> = keep
            .iter()
            .chain(state.containers.values().flatten())
            .cloned()
            .collect();
        let used = state.with_parents(tops);
        let unused: Vec<Digest> = state
            .layers
            .keys()
            .filter(|chain_id| !used.contains(chain_id))
            .cloned()
            .collect();
        for chain_id in &unused {
            state.layers.remove(chain_id);
        }
        Ok(unused)
    }

    async fn settle(&self) -> Result<(), LayerError> {
        Ok(())
    }

    async fn make_room(&self) -> Result<(), LayerError> {
        Ok(())
    }

    async fn sync(&self) -> Result<(), LayerError> {
        let meanwhile = {
            let mut state = lock(&self.state);
            state.syncs += 1;
            state.at_next_sync.take()
        };
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        Ok(())
    }

    async fn driver_data(&self, chain_id: Option<&Digest>) -> (String, BTreeMap<String, String>) {
        let data = chain_id.map(|top| ("UpperDir".to_owned(), format!("/layers/{}", top.hex())));
        ("overlay2".into(), data.into_iter().collect())
    }
}

#[async_trait]
impl Layers for MemoryLayers {
    async fn prepare(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<(), LayerError> {
        let mut state = lock(&self.state);
        state.check(top_layer)?;
        state
            .containers
            .insert(container.clone(), top_layer.cloned());
        Ok(())
    }

    async fn mount(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<PathBuf, LayerError> {
        self.prepare(container, top_layer).await?;
        lock(&self.state).mounted.insert(container.clone());
        Ok(PathBuf::from("/containers").join(container.as_str()))
    }

    async fn borrow(
        &self,
        container: &ContainerId,
        _: Option<&Digest>,
    ) -> Result<BorrowedRoot, LayerError> {
        let path = PathBuf::from("/containers").join(container.as_str());
        Ok(BorrowedRoot::new(path, ()))
    }

    async fn changes(
        &self,
        _: &ContainerId,
        _: Option<&Digest>,
    ) -> Result<Vec<Change>, LayerError> {
        Ok(Vec::new())
    }

    async fn diff(&self, _: &ContainerId, _: Option<&Digest>) -> Result<ByteStream, LayerError> {
        // Nobody writes into these containers: the empty tar.
        Ok(stream_of(vec![0; 1024]))
    }

    async fn unmount(&self, container: &ContainerId) -> Result<(), LayerError> {
        lock(&self.state).mounted.remove(container);
        Ok(())
    }

    async fn remove(&self, container: &ContainerId) -> Result<(), LayerError> {
        let mut state = lock(&self.state);
        state.mounted.remove(container);
        state.containers.remove(container);
        Ok(())
    }

    async fn usage(
        &self,
        _container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<ContainerDiskUsage, LayerError> {
        let state = lock(&self.state);
        state.check(top_layer)?;
        let total = state
            .with_parents(top_layer.cloned())
            .iter()
            .filter_map(|chain_id| state.layers.get(chain_id))
            .map(|layer| layer.size)
            .sum();
        Ok(ContainerDiskUsage { writable: 0, total })
    }

    fn folders(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> BTreeMap<String, String> {
        let below = top_layer.map(|top| ("LowerDir".into(), format!("/layers/{}", top.hex())));
        let own = ["UpperDir", "WorkDir", "MergedDir"]
            .map(|name| (name.into(), format!("/containers/{container}/{name}")));
        below.into_iter().chain(own).collect()
    }
}

/// [`ImageStore`] in memory.
#[derive(Default)]
pub struct MemoryImages {
    records: Mutex<ImageRecords>,
}

#[async_trait]
impl ImageStore for MemoryImages {
    async fn load(&self) -> Result<LoadedRecords, ImageStoreError> {
        Ok(LoadedRecords {
            records: lock(&self.records).clone(),
            complete: true,
        })
    }

    async fn save(&self, records: &ImageRecords) -> Result<(), ImageStoreError> {
        lock(&self.records).clone_from(records);
        Ok(())
    }
}

/// [`Registry`] in memory: what was pushed can be fetched.
#[derive(Default)]
pub struct MemoryRegistry {
    state: Mutex<RegistryState>,
}

#[derive(Default)]
struct RegistryState {
    /// (full repository, tag or digest) -> manifest
    manifests: BTreeMap<(String, String), FetchedManifest>,
    blobs: BTreeMap<Digest, Bytes>,
    /// Blobs that were pushed: (full repository, digest).
    shown: BTreeSet<(String, Digest)>,
    blob_fetches: usize,
    bytes_fetched: BTreeMap<Digest, usize>,
}

impl MemoryRegistry {
    /// Stores a manifest under a reference and under its digest.
    pub fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let manifest = FetchedManifest {
            media_type: media_type.into(),
            digest: digest_of(&bytes),
            bytes,
        };
        let repository = reference.repository.to_string();
        let mut state = lock(&self.state);
        for name in [reference.tag_or_digest(), manifest.digest.as_str()] {
            state
                .manifests
                .insert((repository.clone(), name.to_owned()), manifest.clone());
        }
    }

    pub fn push_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        lock(&self.state).blobs.insert(digest.clone(), bytes);
        digest
    }

    /// Pushes an image of plain layers; returns its id. `settings` is the configuration's `config` object.
    pub fn push_image(
        &self,
        reference: &str,
        layers: &[&str],
        settings: serde_json::Value,
    ) -> Digest {
        let reference = Reference::parse(reference)
            .expect("a good reference")
            .or_latest();
        let platform = super::Platform::host();
        let descriptors: Vec<serde_json::Value> = layers
            .iter()
            .map(|layer| {
                let digest = self.push_blob(layer.as_bytes().to_vec());
                serde_json::json!({"mediaType": super::manifest::DOCKER_LAYER, "digest": digest, "size": layer.len()})
            })
            .collect();
        let diff_ids: Vec<Digest> = layers
            .iter()
            .map(|layer| digest_of(layer.as_bytes()))
            .collect();
        let config = serde_json::json!({
            "os": platform.os, "architecture": platform.architecture,
            "created": "2024-01-02T03:04:05Z", "config": settings,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": layers.iter().map(|layer| serde_json::json!({"created_by": layer})).collect::<Vec<_>>(),
        })
        .to_string();
        let size = config.len();
        let id = self.push_blob(config);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": super::manifest::DOCKER_MANIFEST,
            "config": {"mediaType": super::manifest::DOCKER_CONFIG, "digest": id, "size": size},
            "layers": descriptors,
        });
        self.push_manifest(
            &reference,
            super::manifest::DOCKER_MANIFEST,
            manifest.to_string(),
        );
        id
    }

    /// How many bytes of a blob were fetched so far.
    pub fn bytes_fetched(&self, digest: &Digest) -> usize {
        lock(&self.state)
            .bytes_fetched
            .get(digest)
            .copied()
            .unwrap_or(0)
    }

    /// How many blobs were fetched so far.
    pub fn blob_fetches(&self) -> usize {
        lock(&self.state).blob_fetches
    }
}

#[async_trait]
impl Registry for MemoryRegistry {
    async fn manifest(
        &self,
        reference: &Reference,
        _credentials: Option<&Credentials>,
    ) -> Result<FetchedManifest, RegistryError> {
        let state = lock(&self.state);
        let repository = reference.repository.to_string();
        if !state.manifests.keys().any(|(name, _)| *name == repository) {
            return Err(RegistryError::Denied {
                message: "denied: requested access to the resource is denied".into(),
            });
        }
        state
            .manifests
            .get(&(repository, reference.tag_or_digest().to_owned()))
            .cloned()
            .ok_or_else(|| RegistryError::ManifestUnknown {
                message: "manifest unknown".into(),
            })
    }

    async fn blob(
        &self,
        _repository: &Repository,
        digest: &Digest,
        _size: u64,
        start: u64,
        _credentials: Option<&Credentials>,
    ) -> Result<ByteStream, RegistryError> {
        let mut state = lock(&self.state);
        state.blob_fetches += 1;
        match state.blobs.get(digest).cloned() {
            Some(bytes) => {
                let rest = bytes.slice(start as usize..);
                *state.bytes_fetched.entry(digest.clone()).or_default() += rest.len();
                Ok(stream_of(rest))
            }
            None => Err(RegistryError::BlobUnknown {
                digest: digest.clone(),
            }),
        }
    }

    async fn tags(
        &self,
        repository: &Repository,
        _credentials: Option<&Credentials>,
    ) -> Result<Vec<String>, RegistryError> {
        let repository = repository.to_string();
        Ok(lock(&self.state)
            .manifests
            .keys()
            .filter(|(name, tag)| *name == repository && !tag.contains(':'))
            .map(|(_, tag)| tag.clone())
            .collect())
    }

    async fn login(
        &self,
        _domain: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>, RegistryError> {
        match credentials.password.as_str() {
            "wrong" => Err(RegistryError::Unauthorized {
                message: "incorrect username or password".into(),
            }),
            _ => Ok(None),
        }
    }

    async fn upload_blob(&self, upload: BlobUpload<'_>) -> Result<Uploaded, RegistryError> {
        // One pool of blobs for all repositories, as a registry's storage is; what each repository shows is kept apart.
        let shown = (upload.repository.to_string(), upload.digest.clone());
        {
            let mut state = lock(&self.state);
            if !state.shown.insert(shown.clone()) {
                return Ok(Uploaded::Existed);
            }
            for from in upload.mount_from {
                if state
                    .shown
                    .contains(&(from.to_string(), upload.digest.clone()))
                {
                    return Ok(Uploaded::Mounted { from: from.clone() });
                }
            }
        }
        let content =
            upload
                .blobs
                .open(upload.digest)
                .await
                .map_err(|error| RegistryError::Content {
                    digest: upload.digest.clone(),
                    source: error.into(),
                })?;
        let bytes = read_all(content)
            .await
            .map_err(|error| RegistryError::Content {
                digest: upload.digest.clone(),
                source: error.into(),
            })?;
        (upload.sent)(bytes.len() as u64);
        lock(&self.state)
            .blobs
            .insert(upload.digest.clone(), bytes.into());
        Ok(Uploaded::Sent)
    }

    async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
        _credentials: Option<&Credentials>,
    ) -> Result<(), RegistryError> {
        self.push_manifest(reference, media_type, bytes);
        Ok(())
    }

    async fn search(
        &self,
        domain: &str,
        term: &str,
        limit: usize,
        _credentials: Option<&Credentials>,
    ) -> Result<Vec<Found>, RegistryError> {
        let state = lock(&self.state);
        let mut names: Vec<&String> = state.manifests.keys().map(|(name, _)| name).collect();
        names.dedup();
        Ok(names
            .into_iter()
            .filter_map(|name| name.strip_prefix(&format!("{domain}/")))
            .filter(|path| path.contains(term))
            .take(limit)
            .map(|path| Found {
                name: path.to_owned(),
                ..Found::default()
            })
            .collect())
    }
}

/// [`ArchiveReader`] in memory, for plain tars of short names as [`ImageService::save`] writes them.
pub struct MemoryArchives;

struct StagedFiles {
    files: BTreeMap<String, Bytes>,
}

#[async_trait]
impl ArchiveReader for MemoryArchives {
    async fn stage(&self, content: ByteStream) -> Result<Box<dyn StagedArchive>, ArchiveError> {
        let bytes = Bytes::from(read_all(content).await.map_err(ArchiveError::Source)?);
        let invalid = || ArchiveError::Invalid {
            why: "not a tar archive".into(),
        };
        let mut files = BTreeMap::new();
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + 512) {
            if header.iter().all(|byte| *byte == 0) {
                break;
            }
            let text = |range: std::ops::Range<usize>| {
                let field = &header[range];
                let end = field
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(field.len());
                String::from_utf8_lossy(&field[..end]).into_owned()
            };
            let size = usize::from_str_radix(text(124..136).trim(), 8).map_err(|_| invalid())?;
            if bytes.len() < at + 512 + size {
                return Err(invalid());
            }
            files.insert(text(0..100), bytes.slice(at + 512..at + 512 + size));
            at += 512 + size.next_multiple_of(512);
        }
        Ok(Box::new(StagedFiles { files }))
    }
}

#[async_trait]
impl StagedArchive for StagedFiles {
    fn find(&self, path: &str) -> Option<(Digest, u64)> {
        let bytes = self.files.get(path)?;
        Some((digest_of(bytes), bytes.len() as u64))
    }

    async fn read(&self, path: &str, limit: u64) -> Result<Bytes, ArchiveError> {
        let missing = || ArchiveError::Missing { path: path.into() };
        let bytes = self.files.get(path).ok_or_else(missing)?;
        match bytes.len() as u64 {
            size if size > limit => Err(ArchiveError::TooLarge {
                path: path.into(),
                size,
                limit,
            }),
            _ => Ok(bytes.clone()),
        }
    }

    fn file(&self, _path: &str) -> Option<PathBuf> {
        None
    }

    async fn open(&self, path: &str) -> Result<ByteStream, ArchiveError> {
        Ok(stream_of(self.read(path, u64::MAX).await?))
    }
}

/// [`Downloads`] of a world with one file, `http://files/root.tar`.
pub struct MemoryDownloads;

#[async_trait]
impl Downloads for MemoryDownloads {
    async fn fetch(&self, url: &str) -> Result<Download, DownloadError> {
        let content = "the file of files/root.tar";
        match url {
            "http://files/root.tar" => Ok(Download {
                modified: None,
                size: Some(content.len() as u64),
                content: stream_of(content),
            }),
            _ => Err(DownloadError::Status {
                url: url.to_owned(),
                status: "404 Not Found".to_owned(),
            }),
        }
    }
}

/// [`ImageUsers`] as a list.
#[derive(Default)]
pub struct FakeUsers {
    users: Mutex<Vec<(Digest, ContainerId, bool)>>,
}

impl FakeUsers {
    /// One more container, running or not.
    pub fn add(&self, image: &Digest, container: &ContainerId, is_running: bool) {
        lock(&self.users).push((image.clone(), container.clone(), is_running));
    }
}

impl ImageUsers for FakeUsers {
    fn users_of(&self, image: &Digest) -> Vec<(ContainerId, bool)> {
        lock(&self.users)
            .iter()
            .filter(|(user, _, _)| user == image)
            .map(|(_, container, is_running)| (container.clone(), *is_running))
            .collect()
    }
}
