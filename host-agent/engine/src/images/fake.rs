//! Stores, layers and a registry in memory, for tests. They keep the contracts of [`super::contract`] as the real ones do.

mod registry;

pub use registry::MemoryRegistry;

use super::archive::{ArchiveError, ArchiveReader, StagedArchive};
use super::blobs::{BlobError, BlobStore, ByteStream, Packed, stream_of};
use super::config::digest_of;
use super::download::{Download, DownloadError, Downloads};
use super::layer_store::{DraftLayer, LayerInfo, LayerSpec, LayerStore, SealedLayer, StagedLayer};
use super::records::{ImageRecords, ImageStore, ImageStoreError, LoadedRecords};
use super::service::{ImageBackends, ImageOptions, ImageService};
use super::{
    BorrowedRoot, Change, ContainerDiskUsage, Digest, ImageUsers, LayerError, LayerFolders, Layers,
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
    partials: Arc<Mutex<BTreeMap<Digest, Bytes>>>,
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

    async fn put(&self, digest: &Digest, mut content: ByteStream) -> Result<u64, BlobError> {
        let (partials, key) = (self.partials.clone(), digest.clone());
        // Like a thread that writes a file, this goes on when nobody waits for it any more.
        let reading = tokio::spawn(async move {
            let mut bytes = Vec::new();
            while let Some(piece) = content.next().await {
                match piece {
                    Ok(piece) => bytes.extend_from_slice(&piece),
                    Err(error) => {
                        if error.kind() == std::io::ErrorKind::ConnectionAborted {
                            lock(&partials).insert(key, bytes.into());
                        }
                        return Err(BlobError::Source(error));
                    }
                }
            }
            Ok(bytes)
        });
        let bytes = reading.await.expect("no panic")?;
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
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
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
    kept: HashMap<ContainerId, Vec<Digest>>,
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

/// Nobody can write into its folder.
struct DraftInMemory(Digest);

#[async_trait]
impl DraftLayer for DraftInMemory {
    fn folder(&self) -> &Path {
        Path::new("/layers/draft")
    }

    async fn seal(self: Box<Self>) -> Result<Box<dyn SealedLayer>, LayerError> {
        Ok(self)
    }
}

#[async_trait]
impl SealedLayer for DraftInMemory {
    fn diff_id(&self) -> &Digest {
        &self.0
    }

    fn tar_size(&self) -> u64 {
        1024
    }

    fn is_empty(&self) -> bool {
        true
    }

    async fn commit(
        self: Box<Self>,
        _: Digest,
        _: Option<Digest>,
    ) -> Result<LayerInfo, LayerError> {
        Err(LayerError::Failed {
            step: "register a layer".into(),
            source: "nothing is in it".into(),
        })
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

    async fn draft(&self) -> Result<Box<dyn DraftLayer>, LayerError> {
        Ok(Box::new(DraftInMemory(digest_of(&[0; 1024]))))
    }

    async fn draft_of(
        &self,
        _: &ContainerId,
        _: Option<&Digest>,
    ) -> Result<Box<dyn DraftLayer>, LayerError> {
        self.draft().await
    }

    async fn archive(&self, chain_id: &Digest) -> Result<ByteStream, LayerError> {
        Err(LayerError::Missing {
            chain_id: chain_id.clone(),
        })
    }

    async fn collect(&self, keep: &BTreeSet<Digest>) -> Result<Vec<Digest>, LayerError> {
        let mut state = lock(&self.state);
        let tops: Vec<Digest> = keep
            .iter()
            .chain(state.containers.values().flatten())
            .chain(state.kept.values().flatten())
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
    async fn keep(
        &self,
        container: &ContainerId,
        top_layers: Vec<Digest>,
    ) -> Result<(), LayerError> {
        let mut state = lock(&self.state);
        for top_layer in &top_layers {
            state.check(Some(top_layer))?;
        }
        state.kept.insert(container.clone(), top_layers);
        Ok(())
    }

    fn stacked(&self, top_layer: Option<&Digest>) -> Result<LayerFolders, LayerError> {
        let state = lock(&self.state);
        state.check(top_layer)?;
        let mut names = Vec::new();
        let mut next = top_layer;
        while let Some(chain_id) = next {
            names.push(chain_id.hex().to_owned());
            next = state
                .layers
                .get(chain_id)
                .and_then(|layer| layer.parent.as_ref());
        }
        names.push("empty".into());
        Ok(LayerFolders {
            folder: "/layers".into(),
            names,
        })
    }

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
        state.kept.remove(container);
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
