//! Save: images as a tar that is an OCI image layout and a Docker archive at once.
//!
//! ```text
//! oci-layout, index.json, blobs/sha256/<digest>...      for readers of OCI layouts
//! manifest.json, repositories                           for `docker load` of any age
//! ```
//!
//! Blobs are written as they came, so digests stay and nothing is packed anew; layers that were made here are plain tars.

use super::blobs::{ByteStream, stream_of};
use super::manifest::MANIFEST_MAX;
use super::records::LayerRecord;
use super::service::{ImageService, ImageView};
use super::{Digest, ImageError, Platform, Reference};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

enum Content {
    Bytes(Bytes),
    Blob { digest: Digest, size: u64 },
    Layer { record: LayerRecord, size: u64 },
}

impl ImageService {
    /// The archive of some images, which must be for the platform if one is given. A name saves that name; an id saves the image without one, a repository without tag
    /// saves all its tags (as `docker save` does).
    pub async fn save(
        &self,
        names: &[String],
        platform: Option<&Platform>,
    ) -> Result<ByteStream, ImageError> {
        let mut images: Vec<(ImageView, BTreeSet<String>)> = Vec::new();
        for name in names {
            for (image, tags) in self.named(name)? {
                if platform.is_some() {
                    let name = tags.first().unwrap_or(name);
                    self.inspect_on(name, platform)?;
                }
                match images.iter_mut().find(|(known, _)| known.id == image.id) {
                    Some((_, known)) => known.extend(tags),
                    None => images.push((image, tags)),
                }
            }
        }
        let mut files = Vec::new();
        let mut manifests = Vec::new();
        let mut docker = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        let mut known: BTreeSet<Digest> = BTreeSet::new();
        for (image, tags) in &images {
            let manifest = self
                .backends()
                .blobs
                .read(&image.record.manifest, MANIFEST_MAX)
                .await?;
            let descriptor = |tag: Option<&String>| {
                let mut entry = json!({
                    "mediaType": image.record.manifest_media_type,
                    "digest": image.record.manifest,
                    "size": manifest.len(),
                });
                if let Some(tag) = tag {
                    let full = Reference::parse(tag)
                        .map(|reference| reference.to_string())
                        .unwrap_or_default();
                    let short = tag.rsplit(':').next().unwrap_or_default();
                    entry["annotations"] = json!({
                        "io.containerd.image.name": full,
                        "org.opencontainers.image.ref.name": short,
                    });
                }
                entry
            };
            match tags.is_empty() {
                true => manifests.push(descriptor(None)),
                false => manifests.extend(tags.iter().map(|tag| descriptor(Some(tag)))),
            }
            let mut layers = Vec::new();
            for record in &image.record.layers {
                let size = self.layer_content_size(record).await?;
                let path = blob_path(&record.blob);
                layers.push(path.clone());
                if known.insert(record.blob.clone()) {
                    let record = record.clone();
                    files.push((path, Content::Layer { record, size }));
                }
            }
            if known.insert(image.id.clone()) {
                let digest = image.id.clone();
                let size = self.backends().blobs.size(&digest).await?.ok_or_else(|| {
                    super::BlobError::Missing {
                        digest: digest.clone(),
                    }
                })?;
                files.push((blob_path(&digest), Content::Blob { digest, size }));
            }
            if known.insert(image.record.manifest.clone()) {
                files.push((blob_path(&image.record.manifest), Content::Bytes(manifest)));
            }
            for tag in tags {
                if let Some((repository, tag)) = tag.rsplit_once(':') {
                    repositories
                        .entry(repository.to_owned())
                        .or_default()
                        .insert(tag.to_owned(), image.id.hex().to_owned());
                }
            }
            // `null`, not `[]`, is what old readers expect of an image without a name.
            let tags = (!tags.is_empty()).then_some(tags);
            let mut entry = json!({
                "Config": blob_path(&image.id),
                "RepoTags": tags,
                "Layers": layers,
            });
            let parent = image.record.parent.as_ref().and_then(|parent| {
                let mut saved = images.iter().map(|(image, _)| image);
                saved.find(|other| other.id == *parent)
            });
            if let Some(parent) = parent.filter(|parent| image.details.is_child_of(&parent.details))
            {
                entry["Parent"] = json!(parent.id);
            }
            docker.push(entry);
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": super::manifest::OCI_INDEX,
            "manifests": manifests,
        });
        for (path, value) in [
            ("index.json", index),
            ("manifest.json", json!(docker)),
            ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
            ("repositories", json!(repositories)),
        ] {
            files.push((path.to_owned(), Content::Bytes(value.to_string().into())));
        }
        for (image, _) in &images {
            self.publish("save", image.id.as_str(), image.id.as_str());
        }
        Ok(archive(self.clone(), files))
    }

    /// The images a name stands for, each with the tags that are saved of it.
    fn named(&self, name: &str) -> Result<Vec<(ImageView, BTreeSet<String>)>, ImageError> {
        let reference = Reference::parse(name).ok();
        let catalog = self.catalog();
        if let Some(reference) = &reference
            && reference.is_name_only()
        {
            let mut found = Vec::new();
            for (text, id) in &catalog.records.references {
                if let Ok(other) = Reference::parse(text)
                    && other.repository == reference.repository
                    && other.digest.is_none()
                    && let Some(image) = catalog.view(id)
                {
                    found.push((image, BTreeSet::from([other.familiar()])));
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let image = self.inspect(name)?;
        let tags = reference
            .filter(|reference| reference.tag.is_some() && reference.digest.is_none())
            .map(|reference| reference.familiar())
            .filter(|tag| image.repo_tags.contains(tag));
        Ok(vec![(image, tags.into_iter().collect())])
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Writes files as a tar, one after the other as the reader takes them.
fn archive(images: ImageService, files: Vec<(String, Content)>) -> ByteStream {
    let parts = futures_util::stream::iter(files).then(move |(path, content)| {
        let images = images.clone();
        async move {
            let opened = match &content {
                Content::Bytes(bytes) => Ok(stream_of(bytes.clone())),
                Content::Blob { digest, .. } => {
                    let opened = images.backends().blobs.open(digest).await;
                    opened.map_err(ImageError::from)
                }
                Content::Layer { record, .. } => images.layer_content(record).await,
            };
            let size = match content {
                Content::Bytes(bytes) => bytes.len() as u64,
                Content::Blob { size, .. } | Content::Layer { size, .. } => size,
            };
            let content: ByteStream = opened.unwrap_or_else(|error| {
                let error = std::io::Error::other(error);
                Box::pin(futures_util::stream::once(async move { Err(error) }))
            });
            let padding = vec![0u8; ((512 - size % 512) % 512) as usize];
            let part: ByteStream = Box::pin(
                stream_of(header(&path, size))
                    .chain(content)
                    .chain(stream_of(padding)),
            );
            part
        }
    });
    let head = stream_of([header("blobs/", 0), header("blobs/sha256/", 0)].concat());
    // Two zero blocks are the end.
    let end = stream_of(vec![0u8; 1024]);
    Box::pin(head.chain(parts.flatten()).chain(end))
}

/// A ustar header (POSIX.1-1988); every path we write has less than 100 bytes.
fn header(path: &str, size: u64) -> Vec<u8> {
    let is_folder = path.ends_with('/');
    let mut block = vec![0u8; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, path.as_bytes());
    put(
        100,
        if is_folder {
            b"0000755\0"
        } else {
            b"0000644\0"
        },
    );
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // GNU's form for 8 GiB and more: the top bit, then the number big-endian.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, if is_folder { b"5" } else { b"0" });
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
