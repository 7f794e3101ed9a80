//! Load: images from an archive, Docker's form or an OCI image layout.

use super::archive::{ArchiveError, StagedArchive};
use super::bring::{LayerJob, LayerSource};
use super::config::{ImageDetails, digest_of};
use super::layer_store::LayerSpec;
use super::manifest::{
    CONFIG_MAX, DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_MANIFEST, Descriptor,
    ImageManifest, LAYERS_MAX, MANIFEST_MAX, Manifest, ManifestError, choose,
};
use super::progress::ProgressSink;
use super::pull::{check_config, layer_records};
use super::records::ImageRecord;
use super::service::ImageService;
use super::{ByteStream, Digest, ImageError, Platform, Reference};
use bytes::Bytes;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;

/// Images in one archive.
const IMAGES_MAX: usize = 1000;

/// An image found in an archive.
struct Found {
    manifest: ImageManifest,
    manifest_bytes: Bytes,
    manifest_media_type: String,
    config: Bytes,
    /// The path of each layer in the archive.
    layer_paths: Vec<String>,
    names: Vec<Reference>,
    /// The image it was made of.
    parent: Option<Digest>,
}

impl ImageService {
    /// Loads every image of an archive, or only those for the platform if one is given.
    pub async fn load(
        &self,
        content: ByteStream,
        platform: Option<&Platform>,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let outcome = self
            .load_all(content, platform, progress)
            .await
            .map_err(ImageError::from_load);
        self.clear_up(&outcome).await;
        outcome
    }

    async fn load_all(
        &self,
        content: ByteStream,
        platform: Option<&Platform>,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let wanted = platform;
        let platform = wanted.unwrap_or(&self.inner.options.platform);
        self.backends().layers.make_room().await?;
        let archive: Arc<dyn StagedArchive> =
            Arc::from(self.backends().archives.stage(content).await?);
        let found = if archive.find("manifest.json").is_some() {
            docker_images(&*archive).await?
        } else if archive.find("index.json").is_some() {
            layout_images(&*archive, platform).await?
        } else {
            // Docker's words for an archive of something else.
            return Err(ArchiveError::Missing {
                path: "manifest.json".into(),
            }
            .into());
        };
        let mut parents: Vec<(Digest, Digest)> = Vec::new();
        let mut loaded = BTreeSet::new();
        for image in found {
            let id = digest_of(&image.config);
            let details = check_config(&id, &image.config, image.manifest.layers.len(), platform)?;
            if wanted.is_some_and(|wanted| !wanted.is_served_by(&details.platform)) {
                continue;
            }
            loaded.insert(id.clone());
            parents.extend(image.parent.clone().map(|parent| (id.clone(), parent)));
            self.load_one(&archive, image, id, details, progress)
                .await?;
        }
        // Docker says nothing at all then.
        if let (true, Some(wanted)) = (loaded.is_empty(), wanted) {
            let line = format!("No image in the archive is for {}\n", wanted.familiar());
            progress.line(line).await;
        }
        parents.retain(|(id, parent)| id != parent && loaded.contains(parent));
        self.adopt(&parents).await
    }

    /// Remembers which images were made of which others of the same archive.
    async fn adopt(&self, parents: &[(Digest, Digest)]) -> Result<(), ImageError> {
        if parents.is_empty() {
            return Ok(());
        }
        self.change(|catalog| {
            for (id, parent) in parents {
                let (Some(child_details), Some(parent_details)) =
                    (catalog.details.get(id), catalog.details.get(parent))
                else {
                    // Removed meanwhile.
                    continue;
                };
                // That it has a step more also keeps images from being made of each other.
                if !child_details.is_child_of(parent_details) {
                    return Err(invalid(format!(
                        "image {parent} is not a valid parent for {id}"
                    )));
                }
                if let Some(record) = catalog.records.images.get_mut(id) {
                    record.parent = Some(parent.clone());
                }
            }
            Ok(())
        })
        .await
    }

    async fn load_one(
        &self,
        archive: &Arc<dyn StagedArchive>,
        image: Found,
        id: Digest,
        details: ImageDetails,
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        let storing = self.begin_storing().await?;
        let backends = self.backends();
        let mut infos = Vec::new();
        let mut parent = None;
        for (number, (chain_id, diff_id)) in details
            .chain_ids()
            .into_iter()
            .zip(&details.diff_ids)
            .enumerate()
        {
            // One after the other: the disk is the limit here, not a network.
            let job = LayerJob {
                service: self.clone(),
                source: LayerSource::Archive {
                    archive: archive.clone(),
                    path: image.layer_paths[number].clone(),
                    loading: progress.clone(),
                },
                spec: LayerSpec {
                    chain_id: chain_id.clone(),
                    diff_id: diff_id.clone(),
                    parent: parent.replace(chain_id),
                },
                descriptor: image.manifest.layers[number].clone(),
                progress: ProgressSink::none(),
                parent_done: None,
                done: watch::channel(false).0,
                is_continued: AtomicBool::new(false),
            };
            infos.push(job.run().await?);
        }
        backends
            .blobs
            .put(&id, super::blobs::stream_of(image.config))
            .await?;
        let manifest = digest_of(&image.manifest_bytes);
        backends
            .blobs
            .put(&manifest, super::blobs::stream_of(image.manifest_bytes))
            .await?;
        backends.layers.sync().await?;
        backends.blobs.sync().await?;
        let now = backends.clock.now();
        let record = ImageRecord {
            manifest,
            manifest_media_type: image.manifest_media_type,
            layers: layer_records(&image.manifest, &details, &infos),
            last_tagged: (!image.names.is_empty()).then_some(now),
            parent: None,
        };
        let names = image.names.clone();
        let image_id = id.clone();
        let before = self.change(move |catalog| {
            let references = &mut catalog.records.references;
            let names = names.iter().map(Reference::to_string);
            let before: Vec<Option<Digest>> = names
                .map(|name| references.insert(name, image_id.clone()))
                .collect();
            catalog.details.insert(image_id.clone(), Arc::new(details));
            // An image that is here keeps its record: the manifest it was pulled by has the digest people know.
            catalog.records.images.entry(image_id).or_insert(record);
            Ok(before)
        });
        let before = before.await?;
        drop(storing);
        self.publish("load", id.as_str(), id.as_str());
        if image.names.is_empty() {
            progress.line(format!("Loaded image ID: {id}\n")).await;
        }
        for (name, before) in image.names.iter().zip(before) {
            let name = name.familiar();
            if let Some(before) = before.filter(|before| *before != id) {
                let line = format!(
                    "The image {name} already exists, renaming the old one with ID {before} to empty string\n"
                );
                progress.line(line).await;
            }
            progress.line(format!("Loaded image: {name}\n")).await;
        }
        Ok(())
    }
}

fn invalid(why: impl Into<String>) -> ImageError {
    ArchiveError::Invalid { why: why.into() }.into()
}

/// A descriptor of a file in the archive.
fn describe(
    archive: &dyn StagedArchive,
    path: &str,
    media_type: &str,
) -> Result<Descriptor, ImageError> {
    let (digest, size) = archive.find(path).ok_or_else(|| ArchiveError::Missing {
        path: path.to_owned(),
    })?;
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: BTreeMap::new(),
        artifact_type: None,
    })
}

/// A name an archive gives to an image. Not a digest: it would make this content pass for another.
fn tag_of(text: &str) -> Result<Reference, ImageError> {
    let reference = Reference::parse(text)?;
    if reference.digest.is_some() {
        return Err(invalid(format!("invalid tag {text:?}: it is a digest")));
    }
    reference.check_as_name()?;
    Ok(reference.or_latest())
}

/// Docker's form: `manifest.json` lists images by paths. A manifest is made for each, as Docker would push it.
async fn docker_images(archive: &dyn StagedArchive) -> Result<Vec<Found>, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        config: String,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        #[serde(default)]
        layers: Option<Vec<String>>,
        #[serde(default)]
        parent: Option<String>,
    }
    let bytes = archive.read("manifest.json", MANIFEST_MAX).await?;
    let entries: Vec<Entry> = serde_json::from_slice(&bytes)
        .map_err(|error| invalid(format!("manifest.json: {error}")))?;
    if entries.len() > IMAGES_MAX {
        return Err(invalid(format!("it has {} images", entries.len())));
    }
    let layout = layout_manifests(archive).await?;
    let mut found = Vec::new();
    for entry in entries {
        let layer_paths = entry.layers.unwrap_or_default();
        if layer_paths.len() > LAYERS_MAX {
            return Err(invalid(format!(
                "an image has {} layers",
                layer_paths.len()
            )));
        }
        let config = archive.read(&entry.config, CONFIG_MAX).await?;
        for path in layer_paths.iter().chain([&entry.config]) {
            check_blob(archive, path)?;
        }
        let names = entry
            .repo_tags
            .unwrap_or_default()
            .iter()
            .map(String::as_str)
            .map(tag_of)
            .collect::<Result<Vec<_>, ImageError>>()?;
        // Where the archive is an OCI layout too, the image keeps the manifest it had.
        let config_digest = digest_of(&config);
        let parent = match entry.parent.as_deref() {
            None | Some("") => None,
            Some(text) => Some(
                Digest::try_from(text.to_owned())
                    .map_err(|error| invalid(format!("manifest.json: {error}")))?,
            ),
        };
        if let Some((media_type, bytes, manifest)) = layout
            .iter()
            .find(|(_, _, manifest)| manifest.config.digest == config_digest)
            && manifest.layers.len() == layer_paths.len()
        {
            found.push(Found {
                layer_paths: blob_paths(manifest),
                manifest: manifest.clone(),
                manifest_bytes: bytes.clone(),
                manifest_media_type: media_type.clone(),
                config,
                names,
                parent,
            });
            continue;
        }
        let mut layers = Vec::new();
        for path in &layer_paths {
            let mut descriptor = describe(archive, path, DOCKER_LAYER)?;
            if is_gzip(archive, path).await? {
                descriptor.media_type = DOCKER_LAYER_GZIP.into();
            }
            layers.push(descriptor);
        }
        let manifest = ImageManifest {
            schema_version: 2,
            media_type: DOCKER_MANIFEST.into(),
            config: describe(archive, &entry.config, DOCKER_CONFIG)?,
            layers,
        };
        let manifest_bytes =
            serde_json::to_vec(&manifest).expect("a manifest is plain data with text keys");
        found.push(Found {
            manifest,
            manifest_bytes: manifest_bytes.into(),
            manifest_media_type: DOCKER_MANIFEST.into(),
            config,
            layer_paths,
            names,
            parent,
        });
    }
    Ok(found)
}

async fn is_gzip(archive: &dyn StagedArchive, path: &str) -> Result<bool, ImageError> {
    use futures_util::StreamExt;
    let first = archive.open(path).await?.next().await;
    Ok(matches!(first, Some(Ok(piece)) if piece.starts_with(&[0x1f, 0x8b])))
}

fn blob_paths(manifest: &ImageManifest) -> Vec<String> {
    manifest
        .layers
        .iter()
        .map(|layer| blob_path(&layer.digest))
        .collect()
}

/// What has a digest for a name must have that digest.
fn check_blob(archive: &dyn StagedArchive, path: &str) -> Result<(), ImageError> {
    let Some(hex) = path.strip_prefix("blobs/sha256/") else {
        return Ok(());
    };
    match archive.find(path) {
        Some((digest, _)) if digest.hex() != hex => {
            Err(invalid(format!("{path} has another digest")))
        }
        _ => Ok(()),
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

async fn read_index(archive: &dyn StagedArchive) -> Result<Vec<Descriptor>, ImageError> {
    let bytes = archive.read("index.json", MANIFEST_MAX).await?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|error| invalid(format!("index.json: {error}")))?;
    if index.manifests.len() > IMAGES_MAX {
        return Err(invalid(format!("it has {} images", index.manifests.len())));
    }
    Ok(index.manifests)
}

/// Whether an error says that something is no image, but may well be something else: an attestation, a signature.
fn is_other_thing(error: &ManifestError) -> bool {
    matches!(
        error,
        ManifestError::MediaType { .. }
            | ManifestError::LayerMediaType { .. }
            | ManifestError::NotAnImage { .. }
    )
}

/// Reads a manifest blob, which must be what its name says. What is something else than an image's comes as that error.
async fn read_manifest(
    archive: &dyn StagedArchive,
    entry: &Descriptor,
) -> Result<Result<(Bytes, Manifest), ManifestError>, ImageError> {
    let path = blob_path(&entry.digest);
    let bytes = archive.read(&path, MANIFEST_MAX).await?;
    if digest_of(&bytes) != entry.digest {
        return Err(invalid(format!("{path} has another digest")));
    }
    match Manifest::parse(&entry.media_type, &bytes) {
        Ok(manifest) => Ok(Ok((bytes, manifest))),
        Err(error) if is_other_thing(&error) => Ok(Err(error)),
        Err(error) => Err(error.into()),
    }
}

/// Single-platform manifests of the layout part of a Docker archive; none where it has no such part.
async fn layout_manifests(
    archive: &dyn StagedArchive,
) -> Result<Vec<(String, Bytes, ImageManifest)>, ImageError> {
    let mut found = Vec::new();
    if archive.find("index.json").is_none() || archive.find("oci-layout").is_none() {
        return Ok(found);
    }
    for entry in read_index(archive).await? {
        if archive.find(&blob_path(&entry.digest)).is_none() {
            continue;
        }
        if let Ok((bytes, Manifest::Image(manifest))) = read_manifest(archive, &entry).await? {
            found.push((entry.media_type, bytes, manifest));
        }
    }
    Ok(found)
}

/// An OCI layout alone.
async fn layout_images(
    archive: &dyn StagedArchive,
    platform: &Platform,
) -> Result<Vec<Found>, ImageError> {
    let mut found: Vec<Found> = Vec::new();
    // Why what is no image was passed over.
    let mut passed_over: Option<ImageError> = None;
    for entry in read_index(archive).await? {
        if entry.is_of_another() {
            passed_over = Some(invalid("it says something about images but has none"));
            continue;
        }
        let mut chosen = entry.clone();
        let outcome = loop {
            match read_manifest(archive, &chosen).await? {
                Ok((bytes, Manifest::Image(manifest))) => break Ok((bytes, manifest)),
                Ok((_, Manifest::List(list))) => {
                    // No list can contain its own digest, so this ends.
                    chosen = choose(&list, platform)?.clone();
                }
                Err(error) => break Err(error),
            }
        };
        let (bytes, manifest) = match outcome {
            Ok(image) => image,
            Err(error) => {
                passed_over = Some(error.into());
                continue;
            }
        };
        let name = entry_name(&entry)?;
        let entry = chosen;
        if let Some(known) = found.iter_mut().find(|known| known.manifest_bytes == bytes) {
            known.names.extend(name);
            continue;
        }
        let path = blob_path(&manifest.config.digest);
        let config = archive.read(&path, CONFIG_MAX).await?;
        if digest_of(&config) != manifest.config.digest {
            return Err(invalid(format!("{path} has another digest")));
        }
        for path in blob_paths(&manifest) {
            if archive.find(&path).is_none() {
                return Err(ArchiveError::Missing { path }.into());
            }
        }
        found.push(Found {
            layer_paths: blob_paths(&manifest),
            manifest,
            manifest_bytes: bytes,
            manifest_media_type: entry.media_type,
            config,
            names: name.into_iter().collect(),
            parent: None,
        });
    }
    match (found.is_empty(), passed_over) {
        (true, Some(error)) => Err(error),
        _ => Ok(found),
    }
}

/// The name an index gives an image; `ref.name` may be a tag alone, which names nothing by itself.
fn entry_name(entry: &Descriptor) -> Result<Option<Reference>, ImageError> {
    let text = entry
        .annotations
        .get("io.containerd.image.name")
        .or_else(|| {
            entry
                .annotations
                .get("org.opencontainers.image.ref.name")
                .filter(|name| name.contains([':', '/']))
        });
    match text {
        None => Ok(None),
        Some(text) => {
            let reference = Reference::parse(text)?.or_latest();
            reference.check_as_name()?;
            Ok(reference.digest.is_none().then_some(reference))
        }
    }
}
