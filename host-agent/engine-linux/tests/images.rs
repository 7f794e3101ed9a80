//! The image service over its real backends against Debian's own registry.

#[path = "images/archives.rs"]
mod archives;

use engine::clock::SystemClock;
use engine::events::EventBus;
use engine::id::ContainerId;
use engine::images::{
    Image, ImageBackends, ImageError, ImageOptions, ImageService, ImageSource, LayerStore, Layers,
    ProgressSink, PullRequest, PushRequest, Reference, Removal,
};
use engine_linux::archive::DiskArchives;
use engine_linux::blobs::{DiskBlobs, DiskImages};
use engine_linux::download::HttpDownloads;
use engine_linux::layers::OverlayLayers;
use engine_linux::registry::{HttpRegistry, RegistryOptions};
use futures_util::StreamExt;
use harness::image::{Layer, LayerTar, Packing, TestImage, digest, host_architecture};
use harness::registry::Registry;
use std::path::Path;
use std::sync::Arc;

/// Whether we are root; if not, says so.
fn is_root() -> bool {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|facts| {
        use std::os::unix::fs::MetadataExt;
        facts.uid() == 0
    });
    if !is_root {
        println!("skipped: layers need root");
    }
    is_root
}

/// Root, overlayfs and a registry; if not, says so.
fn is_possible() -> bool {
    is_root() && Registry::is_available_or_skip()
}

async fn service(root: &Path, mirrors: &[String]) -> (ImageService, OverlayLayers) {
    let layers = OverlayLayers::open(root).expect("a data root");
    let registry = HttpRegistry::new(RegistryOptions {
        mirrors: mirrors.to_vec(),
        ..RegistryOptions::default()
    })
    .expect("good options");
    let backends = ImageBackends {
        blobs: Arc::new(DiskBlobs::open(root).expect("a data root")),
        layers: Arc::new(layers.clone()),
        store: Arc::new(DiskImages::new(root)),
        registry: Arc::new(registry),
        archives: Arc::new(DiskArchives::open(root).expect("a data root")),
        downloads: Arc::new(HttpDownloads::default()),
        clock: Arc::new(SystemClock),
        events: EventBus::new(),
    };
    let service = ImageService::open(backends, ImageOptions::default())
        .await
        .expect("opens");
    (service, layers)
}

async fn pull(service: &ImageService, name: &str) -> Result<Image, ImageError> {
    let request = PullRequest {
        reference: Reference::parse(name).expect("good").or_latest(),
        platform: None,
        credentials: None,
    };
    service.pull(request, &ProgressSink::none()).await?;
    Ok(service.resolve(name).await?)
}

const FORCED: Removal = Removal {
    force: true,
    keep_parents: false,
    platform: None,
};

/// The blobs, layers and half-done things under a data root, once what was removed is gone.
async fn content(mounts: &OverlayLayers, root: &Path) -> usize {
    mounts.settle().await.expect("nothing fails");
    [
        "content/blobs/sha256",
        "content/ingest",
        "content/loads",
        "layers",
    ]
    .iter()
    .flat_map(|folder| std::fs::read_dir(root.join(folder)).expect("readable"))
    .filter(|entry| {
        let name = entry.as_ref().expect("readable").file_name();
        !["l", "empty", "places"].iter().any(|fixed| name == *fixed)
    })
    .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_every_packing_are_pulled_mounted_saved_loaded_and_removed() {
    if !is_possible() {
        return;
    }
    let registry = Registry::start().expect("a registry");
    let layers = [Packing::Plain, Packing::Gzip, Packing::Zstd]
        .iter()
        .enumerate()
        .map(|(number, packing)| {
            let mut tar = LayerTar::new();
            tar.file(
                &format!("file{number}"),
                0o644,
                &vec![number as u8; 300_000],
            );
            Layer::new(tar.finish(), *packing)
        })
        .collect();
    let image = TestImage::new(layers, serde_json::json!({"Cmd": ["sh"]}));
    registry
        .push("library/thing", "latest", &image)
        .expect("pushed");
    // And as a list, with an attestation and another machine's image before ours.
    let manifest = image.manifest();
    let entry = |platform: serde_json::Value| {
        serde_json::json!({"mediaType": image.manifest_media_type(), "digest": digest(&manifest),
            "size": manifest.len(), "platform": platform})
    };
    let mut attestation = entry(serde_json::json!({"os": "unknown", "architecture": "unknown"}));
    attestation["annotations"] =
        serde_json::json!({"vnd.docker.reference.type": "attestation-manifest"});
    let list = serde_json::json!({"schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        "manifests": [attestation, entry(serde_json::json!({"os": "linux", "architecture": "s390x"})),
            entry(serde_json::json!({"os": "linux", "architecture": host_architecture()}))]});
    registry
        .push_manifest(
            "library/thing",
            "list",
            "application/vnd.docker.distribution.manifest.list.v2+json",
            list.to_string().as_bytes(),
        )
        .expect("pushed");

    let root = tempfile::tempdir().expect("a temporary folder");
    let (images, mounts) = service(root.path(), &[registry.url()]).await;
    // Through the mirror, and by the registry's own name.
    let pulled = pull(&images, "thing").await.expect("pulled");
    assert_eq!(pulled.id.as_str(), image.id());
    let same = pull(&images, &format!("{}/library/thing:list", registry.host()))
        .await
        .expect("pulled");
    assert_eq!(same.id, pulled.id);
    let container = ContainerId::random();
    let merged = mounts
        .mount(&container, pulled.top_layer.as_ref())
        .await
        .expect("mounted");
    for number in 0..3u8 {
        let bytes = std::fs::read(merged.join(format!("file{number}"))).expect("there");
        assert!(bytes == vec![number; 300_000]);
    }
    mounts.remove(&container).await.expect("removed");
    let error = pull(&images, "thing:none").await.expect_err("no such tag");
    assert!(
        engine::error::full_message(&error)
            .starts_with("manifest for thing:none not found: manifest unknown: manifest unknown"),
        "{error}"
    );

    let mut archive = Vec::new();
    let mut stream = images.save(&["thing".into()], None).await.expect("saved");
    while let Some(piece) = stream.next().await {
        archive.extend_from_slice(&piece.expect("readable"));
    }
    images
        .remove(pulled.id.as_str(), FORCED)
        .await
        .expect("removed");
    assert_eq!(content(&mounts, root.path()).await, 0);

    // Loaded from our own archive, packed, and from one as old Docker wrote them.
    let packed = zstd::encode_all(&archive[..], 1).expect("memory");
    for (archive, name) in [
        (archive.clone(), "thing"),
        (packed, "thing"),
        (image.docker_archive(&["old:1"]), "old:1"),
    ] {
        let stream = engine::images::blobs::stream_of(archive);
        images
            .load(stream, None, &ProgressSink::none())
            .await
            .expect("loaded");
        let loaded = images.resolve(name).await.expect("there");
        assert_eq!(loaded.id.as_str(), image.id());
        // And still there for the next engine.
        let (again, _) = service(root.path(), &[]).await;
        assert_eq!(again.resolve(name).await.expect("there").id, loaded.id);
        images
            .remove(loaded.id.as_str(), FORCED)
            .await
            .expect("removed");
        assert_eq!(content(&mounts, root.path()).await, 0, "{name}");
    }
    // Half an archive leaves nothing.
    let half = engine::images::blobs::stream_of(archive[..archive.len() / 2].to_vec());
    assert!(
        images
            .load(half, None, &ProgressSink::none())
            .await
            .is_err()
    );
    assert_eq!(content(&mounts, root.path()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_layers_of_an_archive_are_packed_once_when_they_are_pushed() {
    if !is_possible() {
        return;
    }
    let registry = Registry::start().expect("a registry");
    let mut tar = LayerTar::new();
    tar.file("zeros", 0o644, &vec![0; 1 << 20]);
    let layer = Layer::new(tar.finish(), Packing::Plain);
    let image = TestImage::new(vec![layer], serde_json::json!({"Cmd": ["sh"]}));
    let name = format!("{}/packed:1", registry.host());
    let root = tempfile::tempdir().expect("a temporary folder");
    let (images, _) = service(root.path(), &[]).await;
    let archive = engine::images::blobs::stream_of(image.docker_archive(&[&name]));
    images
        .load(archive, None, &ProgressSink::none())
        .await
        .expect("loaded");
    let before = images.inspect(&name).expect("there");
    let push = || async {
        let request = PushRequest {
            repository: Reference::parse(&name).expect("good").repository,
            tag: Some("1".into()),
            platform: None,
            credentials: None,
        };
        images
            .push(request, &ProgressSink::none())
            .await
            .expect("pushed");
    };
    push().await;
    let pushed = images.inspect(&name).expect("there");
    assert_eq!(pushed.id, before.id);
    let layer = &pushed.record.layers[0];
    assert_eq!(
        layer.media_type,
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    );
    assert!(layer.blob_size < before.record.layers[0].blob_size / 10);
    // The plain form is not kept beside it.
    let blobs = root.path().join("content/blobs/sha256");
    let count = || std::fs::read_dir(&blobs).expect("there").count();
    assert_eq!(count(), 3, "configuration, manifest and layer");
    push().await;
    let again = images.inspect(&name).expect("there");
    assert_eq!(again.record.manifest, pushed.record.manifest);
    // It comes back from there as it was, and what is saved of it can be loaded.
    let other_root = tempfile::tempdir().expect("a temporary folder");
    let (others, _) = service(other_root.path(), &[]).await;
    let pulled = pull(&others, &name).await.expect("pulled");
    assert_eq!(pulled.id, before.id);
    let record = others.inspect(&name).expect("there").record;
    assert_eq!(record.manifest, pushed.record.manifest);
    let saved = images
        .save(std::slice::from_ref(&name), None)
        .await
        .expect("saved");
    others
        .remove(pulled.id.as_str(), FORCED)
        .await
        .expect("removed");
    others
        .load(saved, None, &ProgressSink::none())
        .await
        .expect("loaded");
    assert_eq!(others.inspect(&name).expect("there").id, before.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_told_and_leaves_nothing() {
    if !is_possible() {
        return;
    }
    let storage = tempfile::tempdir().expect("a temporary folder");
    let registry = Registry::start_at(0, storage.path()).expect("a registry");
    let mut tar = LayerTar::new();
    tar.file("file", 0o644, &[7; 100_000]);
    let layer = Layer::new(tar.finish(), Packing::Plain);
    let image = TestImage::new(vec![layer], serde_json::json!({}));
    registry
        .push("library/bad", "latest", &image)
        .expect("pushed");
    let blob = digest(&image.layers[0].blob);
    let hex = &blob["sha256:".len()..];
    let path = storage
        .path()
        .join("data/docker/registry/v2/blobs/sha256")
        .join(&hex[..2])
        .join(hex)
        .join("data");
    let mut bytes = std::fs::read(&path).expect("the registry keeps it here");
    bytes[5000] ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let root = tempfile::tempdir().expect("a temporary folder");
    let (images, mounts) = service(root.path(), &[registry.url()]).await;
    let error = pull(&images, "bad").await.expect_err("damaged");
    assert_eq!(
        error.to_string(),
        format!("filesystem layer verification failed for digest {blob}")
    );
    assert_eq!(content(&mounts, root.path()).await, 0);
}
