//! What containers change, seen through a real overlay mount.

use super::*;
use crate::archive::tar::{TarLimits, TarReader};
use engine::images::ChangeKind;
use futures_util::StreamExt;
use std::os::fd::AsFd;

pub(super) async fn container_on(
    layers: &OverlayLayers,
    tars: &[Vec<u8>],
) -> (ContainerId, Option<Digest>, PathBuf) {
    let chain = put(layers, tars).await.expect("good layers");
    let container = ContainerId::random();
    let top = chain.last().cloned();
    layers
        .prepare(&container, top.as_ref())
        .await
        .expect("prepared");
    let merged = layers
        .mount(&container, top.as_ref())
        .await
        .expect("mounted");
    (container, top, merged)
}

pub(super) fn image() -> Vec<Vec<u8>> {
    vec![
        tar_of(|tar| {
            tar.folder("etc", 0o755);
            tar.file("etc/passwd", 0o644, b"root");
            tar.folder("usr", 0o755);
            tar.folder("usr/bin", 0o755);
            tar.file("usr/bin/tool", 0o755, b"tool");
            tar.folder("data", 0o755);
            tar.file("data/one", 0o644, b"1");
            tar.file("data/two", 0o644, b"2");
            tar.file("gone", 0o644, b"gone");
        }),
        tar_of(|tar| {
            tar.folder("data", 0o755);
            tar.file("data/three", 0o644, b"3");
        }),
    ]
}

pub(super) async fn diff_of(
    layers: &OverlayLayers,
    container: &ContainerId,
    top: Option<&Digest>,
) -> Vec<u8> {
    let mut stream = layers.diff(container, top).await.expect("a stream");
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece.expect("readable"));
    }
    bytes
}

pub(super) fn tar_names(bytes: &[u8]) -> Vec<String> {
    let mut reader = TarReader::new(bytes, TarLimits::default());
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().expect("our own archive") {
        names.push(entry.display());
    }
    names
}

#[tokio::test]
async fn an_untouched_container_has_no_changes_and_the_empty_layer() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let (container, top, merged) = container_on(&layers, &image()).await;
    // What a start makes: places for mounts.
    for folder in ["proc", "sys", "dev/shm"] {
        fs::create_dir_all(merged.join(folder)).expect("made");
    }
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        fs::write(merged.join(file), "").expect("made");
    }
    let changes = layers.changes(&container, top.as_ref()).await;
    assert_eq!(changes.expect("readable"), []);
    let diff = diff_of(&layers, &container, top.as_ref()).await;
    assert!(diff == vec![0; 1024], "{:?}", tar_names(&diff));
}

#[tokio::test]
async fn changes_are_told_and_make_the_same_tree_as_a_layer() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let (container, top, merged) = container_on(&layers, &image()).await;
    fs::write(merged.join("etc/passwd"), "root and ada").expect("written");
    fs::write(merged.join("etc/hosts"), "").expect("written");
    fs::create_dir(merged.join("usr/share")).expect("made");
    fs::write(merged.join("usr/share/new"), "new").expect("written");
    fs::remove_file(merged.join("gone")).expect("removed");
    fs::remove_file(merged.join("data/one")).expect("removed");
    // A folder made anew hides what was in the old one.
    fs::remove_dir_all(merged.join("usr/bin")).expect("removed");
    fs::create_dir(merged.join("usr/bin")).expect("made");
    fs::write(merged.join("usr/bin/other"), "other").expect("written");
    // Made and removed again: nobody sees it.
    fs::write(merged.join("passing"), "").expect("written");
    fs::remove_file(merged.join("passing")).expect("removed");
    fs::hard_link(merged.join("usr/share/new"), merged.join("usr/share/same")).expect("linked");

    let changes = layers.changes(&container, top.as_ref()).await;
    let lines: Vec<String> = changes
        .expect("readable")
        .iter()
        .map(|change| {
            let letter = match change.kind {
                ChangeKind::Modified => 'C',
                ChangeKind::Added => 'A',
                ChangeKind::Deleted => 'D',
            };
            format!("{letter} {}", change.path)
        })
        .collect();
    assert_eq!(
        lines,
        [
            "C /data",
            "D /data/one",
            "C /etc",
            "C /etc/passwd",
            "D /gone",
            "C /usr",
            "C /usr/bin",
            "A /usr/bin/other",
            "D /usr/bin/tool",
            "A /usr/share",
            "A /usr/share/new",
            "A /usr/share/same",
        ]
    );

    let diff = diff_of(&layers, &container, top.as_ref()).await;
    let names_in_tar = tar_names(&diff);
    assert!(
        names_in_tar.contains(&"data/.wh.one".to_owned()),
        "{names_in_tar:?}"
    );
    assert!(
        names_in_tar.contains(&"usr/bin/.wh..wh..opq".to_owned()),
        "{names_in_tar:?}"
    );
    assert!(
        !names_in_tar.contains(&"etc/hosts".to_owned()),
        "{names_in_tar:?}"
    );

    let expected = names(&merged);
    let mut tars = image();
    tars.push(diff);
    let (_, _, again) = container_on(&layers, &tars).await;
    assert_eq!(names(&again), expected);
    assert_eq!(
        fs::metadata(again.join("usr/share/same"))
            .expect("there")
            .nlink(),
        2
    );
}

#[tokio::test]
async fn a_borrowed_root_stays_through_a_stop_and_goes_when_it_is_given_back() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let (container, top, merged) = container_on(&layers, &image()).await;
    let is_mounted = || mount::mount_points().expect("readable").contains(&merged);
    let borrowed = layers
        .borrow(&container, top.as_ref())
        .await
        .expect("mounted");
    assert_eq!(borrowed.path, merged);
    layers.unmount(&container).await.expect("no error");
    assert!(is_mounted(), "somebody still has it");
    assert!(merged.join("etc/passwd").exists());
    drop(borrowed);
    for _ in 0..200 {
        if !is_mounted() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(!is_mounted(), "nobody has it any more");

    // A stopped container is mounted for as long as it is borrowed; a start meanwhile keeps it.
    let borrowed = layers
        .borrow(&container, top.as_ref())
        .await
        .expect("mounted");
    let again = layers
        .mount(&container, top.as_ref())
        .await
        .expect("mounted");
    assert_eq!(again, merged);
    drop(borrowed);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    assert!(is_mounted(), "the container runs");

    // A removal does not wait for borrowers.
    let borrowed = layers
        .borrow(&container, top.as_ref())
        .await
        .expect("mounted");
    let opened = fs::File::open(&borrowed.path).expect("there");
    layers.remove(&container).await.expect("removed");
    assert!(!is_mounted() && !merged.exists());
    assert!(
        rustix::fs::openat(
            opened.as_fd(),
            "new",
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE,
            rustix::fs::Mode::from_raw_mode(0o600)
        )
        .is_err()
    );
    drop(opened);
    drop(borrowed);
    assert!(layers.borrow(&container, top.as_ref()).await.is_err());
}
