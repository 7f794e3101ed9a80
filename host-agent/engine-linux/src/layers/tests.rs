mod changes;
mod draft;
mod files;
mod hostile;

use super::mount::Overlay;
use super::*;
use engine::images::Layers;
use engine::images::blobs::stream_of;
use engine::images::config::{chain_ids, digest_of};
use harness::image::LayerTar;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Whether this host lets us make devices, trusted attributes and mounts; if not, says so.
fn is_possible() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    let has_overlay = fs::read_to_string("/proc/filesystems")
        .is_ok_and(|text| text.lines().any(|line| line.ends_with("overlay")));
    if !is_root || !has_overlay {
        println!("skipped: layers need root and overlayfs");
    }
    is_root && has_overlay
}

/// A data root that is unmounted before it is removed.
struct Root {
    folder: tempfile::TempDir,
}

impl Root {
    fn new() -> Root {
        Root {
            folder: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    fn open(&self) -> OverlayLayers {
        OverlayLayers::open(self.folder.path()).expect("a data root")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        for point in mount::mount_points().unwrap_or_default() {
            if point.starts_with(self.folder.path()) {
                let _ = mount::unmount(&point);
            }
        }
    }
}

fn tar_of(build: impl FnOnce(&mut LayerTar)) -> Vec<u8> {
    let mut tar = LayerTar::new();
    build(&mut tar);
    tar.finish()
}

/// Unpacks tars one above the other; returns the chain ids.
async fn put(layers: &OverlayLayers, tars: &[Vec<u8>]) -> Result<Vec<Digest>, LayerError> {
    let diff_ids: Vec<Digest> = tars.iter().map(|tar| digest_of(tar)).collect();
    let chain = chain_ids(&diff_ids);
    for (number, tar) in tars.iter().enumerate() {
        let spec = LayerSpec {
            chain_id: chain[number].clone(),
            diff_id: diff_ids[number].clone(),
            parent: number.checked_sub(1).map(|below| chain[below].clone()),
        };
        let staged = layers.stage(&spec, stream_of(tar.clone())).await?;
        staged.commit().await?;
    }
    Ok(chain)
}

/// The names below a folder, sorted, folders with a slash.
fn names(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).expect("readable") {
            let entry = entry.expect("readable");
            let path = entry.path();
            let mut name = path
                .strip_prefix(folder)
                .expect("below")
                .display()
                .to_string();
            if entry.file_type().expect("known").is_dir() {
                name.push('/');
                folders.push(path);
            }
            found.push(name);
        }
    }
    found.sort();
    found
}

/// The names in a container's root file system without the places that every one has.
fn names_of_image(merged: &Path) -> Vec<String> {
    let mut found = names(merged);
    found.retain(|name| !PLACES_WITHIN.contains(&name.as_str()));
    found
}

/// What is in `layers/` besides its fixed parts.
fn debris(root: &Root) -> Vec<String> {
    fs::read_dir(root.path().join("layers"))
        .expect("readable")
        .map(|entry| {
            entry
                .expect("readable")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .filter(|name| ![LINKS, EMPTY, PLACES].contains(&name.as_str()))
        .collect()
}

#[tokio::test]
async fn the_disk_keeps_the_contract() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let one = tar_of(|tar| {
        tar.file("a", 0o644, b"one");
    });
    let two = tar_of(|tar| {
        tar.file("b", 0o644, b"three");
    });
    engine::images::contract::check_layers(&root.open(), [&one, &two]).await;
    assert!(debris(&root).is_empty());
}

#[tokio::test]
async fn layers_are_merged_with_whiteouts_and_opaque_folders() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let lower = tar_of(|tar| {
        tar.folder("kept", 0o750).folder("gone", 0o755);
        tar.file("gone/x", 0o644, b"x").file("file", 0o644, b"old");
        tar.folder("opaque", 0o755)
            .file("opaque/hidden", 0o644, b"h");
        tar.folder("again", 0o755).file("again/old", 0o644, b"o");
        tar.file("early", 0o644, b"e").file("linked", 0o644, b"l");
    });
    let upper = tar_of(|tar| {
        // In any order: the mark before and after the folder, the whiteout before and after the new file.
        tar.file("opaque/.wh..wh..opq", 0, b"")
            .folder("opaque", 0o711);
        tar.file("opaque/new", 0o644, b"n").file(".wh.gone", 0, b"");
        tar.file(".wh.early", 0, b"").file("early", 0o644, b"new");
        tar.folder("again", 0o755)
            .file("again/new", 0o644, b"n")
            .file(".wh.again", 0, b"");
        tar.file("plain", 0o600, b"")
            .hard_link(".wh.linked", "plain");
        tar.file("kept/implied/deep", 0o4755, b"s");
        tar.file(".wh..wh.plnk", 0, b"");
    });
    let chain = put(&layers, &[lower, upper]).await.expect("good layers");
    let container = ContainerId::random();
    let merged = layers
        .mount(&container, Some(&chain[1]))
        .await
        .expect("mounted");
    assert_eq!(
        names_of_image(&merged),
        [
            "again/",
            "again/new",
            "early",
            "file",
            "kept/",
            "kept/implied/",
            "kept/implied/deep",
            "opaque/",
            "opaque/new",
            "plain",
        ]
    );
    assert_eq!(fs::read(merged.join("early")).expect("there"), b"new");
    let mode = |name: &str| fs::metadata(merged.join(name)).expect("there").mode() & 0o7777;
    assert_eq!(mode("opaque"), 0o711);
    // A folder that the upper layer only implies keeps the mode it has below.
    assert_eq!(mode("kept"), 0o750);
    assert_eq!(mode("kept/implied/deep"), 0o4755);
    assert_eq!(mode(""), 0o755);
    let whiteout = layers.files_of(&chain[1]).join("gone");
    let facts = fs::symlink_metadata(whiteout).expect("there");
    assert!(facts.file_type().is_char_device() && facts.rdev() == 0);

    // Written files are the container's own, and a second mount is the first one.
    fs::write(merged.join("file"), b"changed").expect("writable");
    assert_eq!(
        layers
            .mount(&container, Some(&chain[1]))
            .await
            .expect("again"),
        merged
    );
    let usage = layers
        .usage(&container, Some(&chain[1]))
        .await
        .expect("good");
    assert_eq!(usage.writable, 7);

    // A new engine finds the mount, and unmounts it.
    let layers = root.open();
    assert_eq!(
        layers
            .mount(&container, Some(&chain[1]))
            .await
            .expect("found"),
        merged
    );
    let count = || {
        mount::mount_points()
            .expect("readable")
            .iter()
            .filter(|point| **point == merged)
            .count()
    };
    assert_eq!(count(), 1);
    // Also while it is in use.
    let held = fs::File::open(merged.join("file")).expect("there");
    layers.unmount(&container).await.expect("unmounted");
    assert_eq!(count(), 0);
    drop(held);
    assert_eq!(
        layers
            .mount(&container, Some(&chain[1]))
            .await
            .expect("once more"),
        merged
    );
    assert_eq!(fs::read(merged.join("file")).expect("there"), b"changed");
    layers.remove(&container).await.expect("removed");
    assert_eq!(count(), 0);
    assert!(!layers.rw(&container).exists());
    // The layers stay as they were.
    assert_eq!(
        fs::read(layers.files_of(&chain[0]).join("file")).expect("there"),
        b"old"
    );
}

#[tokio::test]
async fn who_runs_finds_places_for_mounts_and_nobody_else_does() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let tar = tar_of(|tar| {
        tar.folder("etc/", 0o750);
        tar.file("etc/hosts", 0o644, b"the image's");
    });
    let chain = put(&layers, &[tar]).await.expect("unpacked");
    let id = ContainerId::random();
    layers.prepare(&id, chain.last()).await.expect("prepared");
    let borrowed = layers.borrow(&id, chain.last()).await.expect("mounted");
    assert_eq!(names(&borrowed.path), ["etc/", "etc/hosts"]);
    drop(borrowed);
    while layers.state().mounted.contains(&id) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }

    let merged = layers.mount(&id, chain.last()).await.expect("mounted");
    assert_eq!(
        names(&merged),
        [
            "dev/",
            "etc/",
            "etc/hostname",
            "etc/hosts",
            "etc/resolv.conf",
            "proc/",
            "sys/"
        ]
    );
    let hosts = fs::read_to_string(merged.join("etc/hosts")).expect("read");
    assert_eq!(hosts, "the image's");
    let mode = fs::metadata(merged.join("etc")).expect("there").mode();
    assert_eq!(mode & 0o777, 0o750, "the image's");
    assert_eq!(names(&layers.rw(&id).join(UPPER)), [""; 0]);
    assert_eq!(layers.changes(&id, chain.last()).await.expect("read"), []);
}

#[test]
fn a_root_given_back_in_another_mount_namespace_is_unmounted_in_ours() {
    if !is_possible() {
        return;
    }
    // No thread waits for work: whoever asks for one makes one.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .thread_keep_alive(std::time::Duration::from_millis(1))
        .build()
        .expect("a runtime");
    let root = Root::new();
    let layers = root.open();
    let id = ContainerId::random();
    let borrowed = runtime.block_on(async {
        layers.prepare(&id, None).await.expect("prepared");
        layers.borrow(&id, None).await.expect("mounted")
    });
    std::thread::sleep(std::time::Duration::from_millis(50));
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may");
        drop(borrowed);
    });
    thread.join().expect("dropped");
    runtime.block_on(async {
        while layers.state().mounted.contains(&id) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        layers.remove(&id).await.expect("nothing is mounted on it");
    });
}

#[tokio::test]
async fn an_image_without_layers_and_one_of_very_many_can_be_mounted() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let container = ContainerId::random();
    let merged = layers.mount(&container, None).await.expect("mounted");
    fs::write(merged.join("x"), b"x").expect("writable");
    layers.remove(&container).await.expect("removed");

    let tars: Vec<Vec<u8>> = (0..130)
        .map(|number| {
            tar_of(|tar| {
                tar.file(&format!("file{number}"), 0o644, b"x");
            })
        })
        .collect();
    let chain = put(&layers, &tars).await.expect("good layers");
    let top = chain.last();
    let container = ContainerId::random();
    let merged = layers.mount(&container, top).await.expect("mounted");
    assert_eq!(names_of_image(&merged).len(), 130);
    layers.unmount(&container).await.expect("unmounted");
    // And as older kernels take it.
    let links = layers.links(top).expect("there");
    let rw = layers.rw(&container);
    Overlay {
        links: &layers.inner.folder.join(LINKS),
        lower: &links,
        upper: Some((&rw.join(UPPER), &rw.join(WORK))),
        target: &rw.join(MERGED),
    }
    .mount_by_options()
    .expect("mounted by one option string");
    assert_eq!(names_of_image(&merged).len(), 130);
    mount::unmount(&rw.join(MERGED)).expect("unmounted");
}

#[tokio::test]
async fn what_a_crash_left_is_removed_at_the_start_and_layers_are_found_again() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let tar = tar_of(|tar| {
        tar.file("a", 0o644, b"a");
    });
    let chain = put(&root.open(), &[tar]).await.expect("good");
    let half = root.path().join("layers/tmp-half/diff/deep");
    fs::create_dir_all(&half).expect("made");
    fs::write(half.join("x"), b"x").expect("made");
    for link in fs::read_dir(root.path().join("layers/l")).expect("readable") {
        fs::remove_file(link.expect("readable").path()).expect("removed");
    }
    let layers = root.open();
    assert_eq!(debris(&root), [chain[0].hex()]);
    let container = ContainerId::random();
    let merged = layers
        .mount(&container, Some(&chain[0]))
        .await
        .expect("mounted");
    assert_eq!(names_of_image(&merged), ["a"]);
    // A container that is there keeps its layers after a restart, too.
    let layers = root.open();
    assert!(
        layers
            .collect(&BTreeSet::new())
            .await
            .expect("good")
            .is_empty()
    );
    layers.remove(&container).await.expect("removed");
    assert_eq!(layers.collect(&BTreeSet::new()).await.expect("good"), chain);
    layers.settle().await.expect("good");
    assert!(debris(&root).is_empty());
}

#[tokio::test]
async fn an_image_mounted_for_a_container_is_merged_read_only_and_kept() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let lower = tar_of(|tar| {
        tar.file("a", 0o644, b"a");
        tar.file("b", 0o644, b"lower");
        // Marks a removed file, though nothing is below.
        tar.file(".wh.nothing", 0o644, b"");
    });
    let upper = tar_of(|tar| {
        tar.file(".wh.a", 0o644, b"");
        tar.file("b", 0o644, b"upper");
    });
    let chain = put(&layers, &[lower, upper]).await.expect("good");
    let target = root.path().join("here");
    fs::create_dir(&target).expect("made");
    for (top, expected) in [
        (Some(&chain[0]), vec!["a", "b"]),
        (Some(&chain[1]), vec!["b"]),
        (None, vec![]),
    ] {
        let folders = layers.stacked(top).expect("there");
        mount::mount_image(&folders, &target).expect("mounted");
        assert_eq!(names(&target), expected);
        if top.is_some() {
            let error = fs::write(target.join("b"), "x").expect_err("read-only");
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
        mount::unmount(&target).expect("unmounted");
    }
    // By one option string, as on old kernels.
    let folders = layers.stacked(Some(&chain[1])).expect("there");
    let overlay = Overlay {
        links: &folders.folder,
        lower: &folders.names,
        upper: None,
        target: &target,
    };
    overlay.mount_by_options().expect("mounted");
    assert_eq!(names(&target), ["b"]);
    mount::unmount(&target).expect("unmounted");

    let container = ContainerId::random();
    layers.prepare(&container, None).await.expect("made");
    layers
        .keep(&container, vec![chain[1].clone()])
        .await
        .expect("kept");
    let layers = root.open();
    // A start says anew what the container stands on, and nothing of what it mounts.
    layers.mount(&container, None).await.expect("mounted");
    let nothing = BTreeSet::new();
    assert!(layers.collect(&nothing).await.expect("good").is_empty());
    layers.remove(&container).await.expect("removed");
    assert_eq!(layers.collect(&nothing).await.expect("good").len(), 2);
}

#[test]
fn a_tree_deeper_than_paths_and_open_files_allow_is_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let top = folder.path().join("top");
    fs::create_dir(&top).expect("made");
    let mut current = open_path(&top).expect("there");
    for _ in 0..3000 {
        rustix::fs::mkdirat(&current, "d", Mode::from_raw_mode(0o755)).expect("made");
        current = rustix::fs::openat(
            &current,
            "d",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .expect("there");
    }
    remove_path(&top).expect("removed");
    assert!(!top.exists());
    remove_path(&top).expect("gone is no error");
}

#[tokio::test]
async fn a_layer_whose_record_was_lost_is_replaced_or_goes() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let tars = ["a", "b"].map(|name| {
        tar_of(|tar| {
            tar.file(name, 0o644, b"x");
        })
    });
    let chain = put(&root.open(), &tars).await.expect("good");
    let lose = |number: usize| {
        let record = root.path().join("layers").join(chain[number].hex());
        fs::write(record.join(LAYER_RECORD), b"").expect("written");
    };
    // What an interruption of the host leaves of a record that was just written. It is pulled again.
    lose(0);
    let layers = root.open();
    assert!(layers.find(&chain[0]).await.expect("good").is_none());
    put(&layers, &tars).await.expect("good");
    let container = ContainerId::random();
    let merged = layers.mount(&container, chain.last()).await.expect("whole");
    assert_eq!(names_of_image(&merged), ["a", "b"]);
    layers.unmount(&container).await.expect("unmounted");
    // A container may stand on it: then it stays, whatever nobody else needs.
    lose(0);
    let layers = root.open();
    let nothing = BTreeSet::new();
    assert!(layers.collect(&nothing).await.expect("good").is_empty());
    assert_eq!(debris(&root).len(), 2);
    Layers::remove(&layers, &container).await.expect("removed");
    let keep = BTreeSet::from([chain[0].clone()]);
    layers.collect(&keep).await.expect("good");
    layers.settle().await.expect("good");
    assert_eq!(debris(&root), [chain[0].hex()]);
    layers.collect(&nothing).await.expect("good");
    layers.settle().await.expect("good");
    assert!(debris(&root).is_empty());
}

/// Where the file system takes the hint at all.
#[test]
fn layers_and_containers_are_spread_over_the_disk() {
    let root = Root::new();
    let layers = root.open();
    let is_spread = |path: &Path| {
        let folder = fs::File::open(path).expect("it was made");
        rustix::fs::ioctl_getflags(&folder).is_ok_and(|flags| flags.contains(IFlags::TOPDIR))
    };
    let probe = root.path().join("probe");
    fs::create_dir(&probe).expect("a folder");
    spread(&probe);
    for folder in [&layers.inner.folder, &layers.inner.containers] {
        assert_eq!(is_spread(folder), is_spread(&probe), "{folder:?}");
    }
}

#[tokio::test]
async fn a_container_whose_note_of_its_layers_was_lost_gets_a_new_one() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let tar = tar_of(|tar| {
        tar.file("a", 0o644, b"a");
    });
    let chain = put(&root.open(), &[tar]).await.expect("good");
    let container = ContainerId::random();
    let top = chain.last();
    root.open().prepare(&container, top).await.expect("made");
    let note = root.open().rw(&container).join(LOWER);
    fs::write(&note, b"").expect("written");
    let layers = root.open();
    layers.mount(&container, top).await.expect("mounted");
    assert_eq!(fs::read_to_string(&note).expect("there"), chain[0].as_str());
    Layers::remove(&layers, &container).await.expect("removed");
}
