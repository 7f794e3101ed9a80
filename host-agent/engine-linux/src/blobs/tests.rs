use super::*;
use engine::images::records::ImageStore;

#[tokio::test]
async fn the_disk_keeps_the_contracts() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let blobs = DiskBlobs::open(root.path()).expect("a data root");
    engine::images::contract::check_blobs(&blobs).await;
    assert_eq!(fs::read_dir(&blobs.ingest).expect("readable").count(), 0);
    engine::images::contract::check_images(&DiskImages::new(root.path())).await;
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_removed() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let blobs = DiskBlobs::open(root.path()).expect("a data root");
    fs::write(blobs.ingest.join("half"), b"x").expect("written");
    DiskBlobs::open(root.path()).expect("a data root");
    assert_eq!(fs::read_dir(&blobs.ingest).expect("readable").count(), 0);
}

#[tokio::test]
async fn a_broken_record_is_set_aside_and_a_newer_one_is_left() {
    let root = tempfile::tempdir().expect("a temporary folder");
    let path = root.path().join("images.json");
    let store = DiskImages::new(root.path());
    fs::write(&path, b"{\"version\":1,\"rec").expect("written");
    let loaded = store.load().await.expect("it goes on");
    assert!(!loaded.complete && loaded.records.images.is_empty());
    assert!(!path.exists() && root.path().join("images.json.broken").exists());
    // As long as that lies there, nothing counts as unused.
    assert!(!store.load().await.expect("good").complete);
    // A second one does not take the first one's place.
    fs::write(&path, b"second").expect("written");
    assert!(!store.load().await.expect("it goes on").complete);
    let read = |name: &str| fs::read(root.path().join(name)).expect("kept");
    assert_eq!(read("images.json.broken"), b"{\"version\":1,\"rec");
    assert_eq!(read("images.json.broken.1"), b"second");
    fs::remove_file(root.path().join("images.json.broken")).expect("there");
    assert!(!store.load().await.expect("good").complete);
    fs::remove_file(root.path().join("images.json.broken.1")).expect("there");
    assert!(store.load().await.expect("good").complete);
    fs::write(&path, b"{\"version\":9,\"record\":{}}").expect("written");
    let error = store.load().await.expect_err("newer");
    assert!(error.to_string().contains("newer"), "{error}");
    assert!(path.exists());
}
