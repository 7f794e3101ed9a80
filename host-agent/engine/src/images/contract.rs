//! What every implementation of the stores must do. Called by the tests of the fakes and of the real ones.

use super::blobs::{BlobError, BlobStore, ByteStream, stream_of};
use super::config::{chain_ids, digest_of};
use super::layer_store::{LayerSpec, LayerStore};
use super::records::{ImageRecord, ImageRecords, ImageStore, LayerRecord};
use super::{Digest, LayerError, Layers};
use crate::id::ContainerId;
use futures_util::StreamExt;
use std::collections::BTreeSet;
use time::OffsetDateTime;

fn broken() -> ByteStream {
    Box::pin(futures_util::stream::iter([
        Ok(b"some".as_slice().into()),
        Err(std::io::Error::other("the line is dead")),
    ]))
}

/// An empty [`BlobStore`].
pub async fn check_blobs(store: &dyn BlobStore) {
    let content = b"what is stored".as_slice();
    let digest = digest_of(content);
    assert_eq!(store.size(&digest).await.expect("no error"), None);
    assert!(matches!(
        store.read(&digest, 100).await,
        Err(BlobError::Missing { .. })
    ));
    assert!(matches!(
        store.open(&digest).await.err(),
        Some(BlobError::Missing { .. })
    ));
    // What is not what it should be leaves nothing.
    assert!(matches!(
        store
            .put(&digest, stream_of(b"something else".as_slice()))
            .await,
        Err(BlobError::Mismatch { .. })
    ));
    assert!(matches!(
        store.put(&digest, broken()).await,
        Err(BlobError::Source(_))
    ));
    assert!(store.list().await.expect("no error").is_empty());
    // Twice is once.
    for _ in 0..2 {
        let size = store
            .put(&digest, stream_of(content))
            .await
            .expect("it fits");
        assert_eq!(size, content.len() as u64);
    }
    assert_eq!(
        store.size(&digest).await.expect("no error"),
        Some(content.len() as u64)
    );
    assert_eq!(store.read(&digest, 100).await.expect("there"), content);
    assert!(matches!(
        store.read(&digest, 3).await,
        Err(BlobError::TooLarge { .. })
    ));
    let mut streamed = Vec::new();
    let mut stream = store.open(&digest).await.expect("there");
    while let Some(piece) = stream.next().await {
        streamed.extend_from_slice(&piece.expect("readable"));
    }
    assert_eq!(streamed, content);
    store.sync().await.expect("no error");
    assert_eq!(
        store.list().await.expect("no error"),
        std::slice::from_ref(&digest)
    );
    store.remove(&digest).await.expect("no error");
    store.remove(&digest).await.expect("gone is no error");
    assert_eq!(store.size(&digest).await.expect("no error"), None);
    // A file is taken as it is, twice is once, and what was begun nowhere has no beginning.
    let folder = std::env::temp_dir().join(format!("berth-contract-{}", ContainerId::random()));
    std::fs::write(&folder, content).expect("written");
    for _ in 0..2 {
        // A file system that cannot link across folders is told apart by its error; a copy would be the caller's.
        match store.adopt(&digest, &folder).await {
            Ok(()) => assert_eq!(store.read(&digest, 100).await.expect("there"), content),
            Err(error) => assert!(matches!(error, BlobError::Failed { .. }), "{error}"),
        }
    }
    std::fs::remove_file(&folder).expect("removed");
    store.remove(&digest).await.expect("no error");
    assert!(
        store
            .take_partial(&digest)
            .await
            .expect("no error")
            .is_none()
    );
    // What a sender gave up may be gone on with, once; what broke is not kept.
    for (kind, kept) in [
        (std::io::ErrorKind::ConnectionAborted, true),
        (std::io::ErrorKind::Other, false),
    ] {
        let beginning =
            futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"what ")), Err(kind.into())]);
        assert!(store.put(&digest, Box::pin(beginning)).await.is_err());
        let partial = store.take_partial(&digest).await.expect("no error");
        assert_eq!(partial.map(|(size, _)| size), kept.then_some(5), "{kind}");
    }
    assert!(
        store
            .take_partial(&digest)
            .await
            .expect("no error")
            .is_none()
    );
    store.remove_partials().await.expect("no error");
    // A layer gets a blob whose digest nobody knew.
    assert!(store.pack(broken()).await.is_err());
    assert!(store.list().await.expect("no error").is_empty());
    let packed = store.pack(stream_of(content)).await.expect("it fits");
    assert_eq!(packed.diff_id, digest);
    assert_eq!(
        store.size(&packed.blob).await.expect("no error"),
        Some(packed.blob_size)
    );
    let blob = store.read(&packed.blob, 1000).await.expect("there");
    assert_eq!(digest_of(&blob), packed.blob);
    store.remove(&packed.blob).await.expect("no error");
}

/// An empty [`ImageStore`].
pub async fn check_images(store: &dyn ImageStore) {
    let first = store.load().await.expect("empty is no error");
    assert!(first.complete && first.records == ImageRecords::default());
    let id = digest_of(b"config");
    let mut records = ImageRecords::default();
    records.images.insert(
        id.clone(),
        ImageRecord {
            manifest: digest_of(b"manifest"),
            manifest_media_type: super::manifest::OCI_MANIFEST.into(),
            layers: vec![LayerRecord {
                blob: digest_of(b"blob"),
                media_type: super::manifest::DOCKER_LAYER_GZIP.into(),
                blob_size: 7,
                chain_id: digest_of(b"chain"),
                size: 8,
            }],
            last_tagged: Some(OffsetDateTime::UNIX_EPOCH),
            parent: None,
        },
    );
    records
        .references
        .insert("docker.io/library/a:latest".into(), id);
    store.save(&records).await.expect("no error");
    let loaded = store.load().await.expect("no error");
    assert_eq!((loaded.records, loaded.complete), (records, true));
    store
        .save(&ImageRecords::default())
        .await
        .expect("no error");
    assert_eq!(
        store.load().await.expect("no error").records,
        ImageRecords::default()
    );
}

/// An empty [`LayerStore`] that is also [`Layers`]. `tars` are two plain tars.
pub async fn check_layers<L: LayerStore + Layers>(layers: &L, tars: [&[u8]; 2]) {
    let diff_ids: Vec<Digest> = tars.iter().map(|tar| digest_of(tar)).collect();
    let chain = chain_ids(&diff_ids);
    let specs: Vec<LayerSpec> = (0..2)
        .map(|number| LayerSpec {
            chain_id: chain[number].clone(),
            diff_id: diff_ids[number].clone(),
            parent: number.checked_sub(1).map(|below| chain[below].clone()),
        })
        .collect();
    let stage = |number: usize| layers.stage(&specs[number], stream_of(tars[number].to_vec()));

    // Another layer's bytes, and a stream that breaks, are refused and leave nothing.
    assert!(
        layers
            .stage(&specs[0], stream_of(tars[1].to_vec()))
            .await
            .is_err()
    );
    assert!(layers.stage(&specs[0], broken()).await.is_err());
    assert_eq!(layers.find(&chain[0]).await.expect("no error"), None);

    // The upper one can be staged first, but not come first.
    let upper = stage(1).await.expect("good");
    assert!(matches!(
        upper.commit().await,
        Err(LayerError::Missing { .. })
    ));
    // Staged and forgotten is not there.
    drop(stage(0).await.expect("good"));
    assert_eq!(layers.find(&chain[0]).await.expect("no error"), None);
    let lower = stage(0).await.expect("good").commit().await.expect("good");
    assert_eq!(
        (lower.chain_id.clone(), lower.parent.clone()),
        (chain[0].clone(), None)
    );
    let upper = stage(1).await.expect("good").commit().await.expect("good");
    assert_eq!(upper.parent, Some(chain[0].clone()));
    assert_eq!(
        layers.find(&chain[1]).await.expect("no error"),
        Some(upper.clone())
    );
    // Twice is once.
    let again = stage(1).await.expect("good").commit().await.expect("good");
    assert_eq!(again, upper);
    // A draft of which nothing comes leaves nothing, and an empty one says so.
    drop(layers.draft().await.expect("good"));
    let empty = layers.draft().await.expect("good").seal().await;
    let empty = empty.expect("good");
    assert!(empty.is_empty());
    assert_eq!(empty.diff_id().as_str(), super::make::EMPTY_TAR);
    assert_eq!(empty.tar_size(), 1024);
    assert!(matches!(
        layers.archive(&digest_of(b"nowhere")).await.err(),
        Some(LayerError::Missing { .. })
    ));
    layers.sync().await.expect("no error");
    let (driver, data) = layers.driver_data(Some(&chain[1])).await;
    assert!(driver == "overlay2" && data.contains_key("UpperDir"));

    let container = ContainerId::random();
    let nowhere = digest_of(b"nowhere");
    assert!(matches!(
        layers.prepare(&container, Some(&nowhere)).await,
        Err(LayerError::Missing { .. })
    ));
    for _ in 0..2 {
        layers
            .prepare(&container, Some(&chain[1]))
            .await
            .expect("good");
    }
    let usage = layers
        .usage(&container, Some(&chain[1]))
        .await
        .expect("good");
    assert_eq!((usage.writable, usage.total), (0, lower.size + upper.size));
    let folders = layers.folders(&container, Some(&chain[1]));
    let names: Vec<&str> = folders.keys().map(String::as_str).collect();
    assert_eq!(names, ["LowerDir", "MergedDir", "UpperDir", "WorkDir"]);
    assert!(folders["UpperDir"].contains(container.as_str()));
    // A container keeps its layers, whatever images say; one that is kept keeps those below it.
    let nothing = BTreeSet::new();
    assert!(layers.collect(&nothing).await.expect("good").is_empty());
    layers
        .unmount(&container)
        .await
        .expect("not mounted is no error");
    // So does one that mounts an image.
    let other = ContainerId::random();
    layers.prepare(&other, None).await.expect("good");
    assert!(matches!(
        layers.keep(&other, vec![nowhere.clone()]).await,
        Err(LayerError::Missing { .. })
    ));
    assert!(matches!(
        layers.stacked(Some(&nowhere)),
        Err(LayerError::Missing { .. })
    ));
    let kept = vec![chain[1].clone()];
    layers.keep(&other, kept).await.expect("good");
    layers.remove(&container).await.expect("good");
    layers.remove(&container).await.expect("gone is no error");
    assert!(layers.collect(&nothing).await.expect("good").is_empty());
    let stacked = layers.stacked(Some(&chain[1])).expect("good");
    assert_eq!(stacked.names.len(), 3, "two layers and nothing below");
    let bare = layers.stacked(None).expect("good");
    assert_eq!(bare.names, stacked.names[2..]);
    layers.remove(&other).await.expect("good");
    let keep = BTreeSet::from([chain[1].clone()]);
    assert!(layers.collect(&keep).await.expect("good").is_empty());
    let mut collected = layers.collect(&nothing).await.expect("good");
    collected.sort();
    layers.make_room().await.expect("no error");
    layers.settle().await.expect("no error");
    let mut all = chain.clone();
    all.sort();
    assert_eq!(collected, all);
    assert_eq!(layers.find(&chain[1]).await.expect("no error"), None);
}

#[cfg(test)]
mod tests {
    use super::super::fake::{MemoryBlobs, MemoryImages, MemoryLayers};

    #[tokio::test]
    async fn the_fakes_keep_the_contracts() {
        super::check_blobs(&MemoryBlobs::default()).await;
        super::check_images(&MemoryImages::default()).await;
        super::check_layers(&MemoryLayers::default(), [b"one", b"two"]).await;
    }
}
