//! A registry in memory.

use super::{lock, read_all};
use crate::images::blobs::{ByteStream, stream_of};
use crate::images::config::digest_of;
use crate::images::registry::{
    BlobUpload, Credentials, FetchedManifest, Found, Registry, RegistryError, Uploaded, Waits,
};
use crate::images::{Digest, Platform, Reference, Repository, manifest};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// [`Registry`] in memory: what was pushed can be fetched.
#[derive(Default)]
pub struct MemoryRegistry {
    state: Arc<Mutex<RegistryState>>,
    waits: Option<Waits>,
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
    /// The next fetch of a blob stops after so many bytes and never goes on.
    stalled: BTreeMap<Digest, usize>,
    /// What the next fetch of a blob brings instead, as a mirror may.
    damaged: BTreeMap<Digest, Bytes>,
    distrusted: usize,
    /// Blobs that are being uploaded, and the most there ever were.
    uploads: (usize, usize),
    /// Seconds that the next request for a blob waits for, told one by one.
    busy: BTreeMap<Digest, u64>,
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
        self.push_image_for(&Platform::host(), reference, layers, settings)
    }

    /// The same of another platform.
    pub fn push_image_for(
        &self,
        platform: &Platform,
        reference: &str,
        layers: &[&str],
        settings: serde_json::Value,
    ) -> Digest {
        let reference = Reference::parse(reference)
            .expect("a good reference")
            .or_latest();
        let descriptors: Vec<serde_json::Value> = layers
            .iter()
            .map(|layer| {
                let digest = self.push_blob(layer.as_bytes().to_vec());
                serde_json::json!({"mediaType": manifest::DOCKER_LAYER, "digest": digest, "size": layer.len()})
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
            "schemaVersion": 2, "mediaType": manifest::DOCKER_MANIFEST,
            "config": {"mediaType": manifest::DOCKER_CONFIG, "digest": id, "size": size},
            "layers": descriptors,
        });
        self.push_manifest(&reference, manifest::DOCKER_MANIFEST, manifest.to_string());
        id
    }

    /// The next fetch of a blob stops after so many bytes and never goes on.
    pub fn stall(&self, digest: &Digest, bytes: usize) {
        lock(&self.state).stalled.insert(digest.clone(), bytes);
    }

    /// The most uploads that there ever were at the same time.
    pub fn uploads_at_once(&self) -> usize {
        lock(&self.state).uploads.1
    }

    /// The next fetch or upload of a blob waits so many seconds (which take no time).
    pub fn busy(&self, digest: &Digest, seconds: u64) {
        lock(&self.state).busy.insert(digest.clone(), seconds);
    }

    fn wait_for(&self, digest: &Digest) {
        let seconds = lock(&self.state).busy.remove(digest).unwrap_or(0);
        if let Some(waits) = &self.waits {
            (1..=seconds).rev().for_each(|left| waits(left));
        }
    }

    /// The next fetch of a blob brings this; [`distrust`](Registry::distrust) says that somebody else has it whole.
    pub fn damage_once(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        lock(&self.state)
            .damaged
            .insert(digest.clone(), bytes.into());
    }

    /// A blob that is not what its digest says.
    pub fn damage(&self, digest: &Digest, bytes: impl Into<Bytes>) {
        lock(&self.state).blobs.insert(digest.clone(), bytes.into());
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
    fn telling(&self, waits: Waits) -> Arc<dyn Registry> {
        Arc::new(MemoryRegistry {
            state: self.state.clone(),
            waits: Some(waits),
        })
    }

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
        // A real one takes its time, and others go on meanwhile.
        tokio::task::yield_now().await;
        self.wait_for(digest);
        let mut state = lock(&self.state);
        state.blob_fetches += 1;
        match state.blobs.get(digest).cloned() {
            Some(bytes) => {
                if let Some(damaged) = state.damaged.remove(digest) {
                    state.distrusted += 1;
                    return Ok(stream_of(damaged));
                }
                let rest = bytes.slice(start as usize..);
                let stalled = state.stalled.remove(digest);
                let brought = stalled.unwrap_or(rest.len());
                *state.bytes_fetched.entry(digest.clone()).or_default() += brought;
                Ok(match stalled {
                    Some(count) => Box::pin(
                        stream_of(rest.slice(..count)).chain(futures_util::stream::pending()),
                    ),
                    None => stream_of(rest),
                })
            }
            None => Err(RegistryError::BlobUnknown {
                digest: digest.clone(),
            }),
        }
    }

    fn distrust(&self, _digest: &Digest) -> bool {
        let mut state = lock(&self.state);
        let was_damaged = state.distrusted > 0;
        state.distrusted = state.distrusted.saturating_sub(1);
        was_damaged
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
        {
            let uploads = &mut lock(&self.state).uploads;
            uploads.0 += 1;
            uploads.1 = uploads.1.max(uploads.0);
        }
        // Whoever else may come in meanwhile does.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        lock(&self.state).uploads.0 -= 1;
        self.wait_for(upload.digest);
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
