mod changes;

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
        .filter(|name| name != "l" && name != "empty")
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
        names(&merged),
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
    assert_eq!(names(&merged).len(), 130);
    layers.unmount(&container).await.expect("unmounted");
    // And as older kernels take it.
    let links = layers.links(top).expect("there");
    let rw = layers.rw(&container);
    Overlay {
        links: &layers.inner.folder.join(LINKS),
        lower: &links,
        upper: &rw.join(UPPER),
        work: &rw.join(WORK),
        target: &rw.join(MERGED),
    }
    .mount_by_options()
    .expect("mounted by one option string");
    assert_eq!(names(&merged).len(), 130);
    mount::unmount(&rw.join(MERGED)).expect("unmounted");
}

/// Entries as no honest program writes them.
struct Hostile {
    tar: Vec<u8>,
}

impl Hostile {
    fn new() -> Hostile {
        Hostile { tar: Vec::new() }
    }

    fn entry(mut self, kind: ::tar::EntryType, path: &str, link: &str, content: &[u8]) -> Hostile {
        let mut header = ::tar::Header::new_ustar();
        let block = header.as_mut_bytes();
        block[..path.len()].copy_from_slice(path.as_bytes());
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        let padded = self.tar.len().next_multiple_of(512);
        self.tar.resize(padded, 0);
        self
    }

    fn file(self, path: &str) -> Hostile {
        self.entry(::tar::EntryType::Regular, path, "", b"evil")
    }

    fn symlink(self, path: &str, target: &str) -> Hostile {
        self.entry(::tar::EntryType::Symlink, path, target, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Hostile {
        self.entry(::tar::EntryType::Link, path, target, b"")
    }
}

/// Unpacks into `<data root>/layers`, with a precious file outside that nothing may touch; the file's folder is `/outside`
/// as seen from the temporary folder.
async fn attack(hostile: Hostile) -> (Result<Vec<Digest>, LayerError>, Root) {
    let root = Root::new();
    fs::create_dir(root.path().join("outside")).expect("made");
    fs::write(root.path().join("outside/precious"), b"precious").expect("made");
    let layers = root.open();
    let outcome = put(&layers, &[hostile.tar]).await;
    assert_eq!(names(&root.path().join("outside")), ["precious"]);
    assert_eq!(
        fs::read(root.path().join("outside/precious")).expect("there"),
        b"precious"
    );
    if outcome.is_err() {
        assert!(debris(&root).is_empty(), "{:?}", debris(&root));
    }
    (outcome, root)
}

async fn refused(hostile: Hostile, why: &str) {
    let (outcome, _root) = attack(hostile).await;
    let error = outcome.expect_err("refused");
    let text = engine::error::full_message(&error);
    assert!(text.contains(why), "{text}");
}

#[tokio::test]
async fn nothing_leads_out_of_a_layer() {
    if !is_possible() {
        return;
    }
    refused(Hostile::new().file("../x"), "leads out").await;
    refused(Hostile::new().file("a/../../x"), "leads out").await;
    refused(
        Hostile::new().hard_link("x", "../../../outside/precious"),
        "leads out",
    )
    .await;
    refused(
        Hostile::new().hard_link("x", "/etc/passwd"),
        "not in this layer",
    )
    .await;
    refused(Hostile::new().file(".wh."), "whiteout").await;
    refused(Hostile::new().file(".wh..."), "whiteout").await;
    refused(Hostile::new().symlink("x", ""), "link to nowhere").await;
    refused(Hostile::new().hard_link("x", "."), "hard link to the root").await;
    refused(
        Hostile::new().entry(::tar::EntryType::Regular, ".", "", b"x"),
        "root",
    )
    .await;

    // Absolute names are names inside.
    let (outcome, root) = attack(Hostile::new().file("/etc/x")).await;
    let chain = outcome.expect("good");
    assert_eq!(names(&root.open().files_of(&chain[0])), ["etc/", "etc/x"]);
}

#[tokio::test]
async fn links_inside_a_layer_end_inside() {
    if !is_possible() {
        return;
    }
    let outside = "../../../../../../../../outside";
    // A link, then a file through it: `..` stops at the root, and the folder is made there or found missing.
    for target in [
        outside,
        "/outside",
        "/proc/self/root/outside",
        "/proc/self/cwd",
    ] {
        let (outcome, _root) =
            attack(Hostile::new().symlink("link", target).file("link/precious")).await;
        assert!(
            outcome.is_err(),
            "{target}: there is no such folder in the layer"
        );
    }
    // The same where the folder exists inside: it goes there.
    let (outcome, root) = attack(
        Hostile::new()
            .entry(::tar::EntryType::Directory, "outside", "", b"")
            .symlink("link", outside)
            .file("link/precious"),
    )
    .await;
    let chain = outcome.expect("inside");
    assert_eq!(
        names(&root.open().files_of(&chain[0])),
        ["link", "outside/", "outside/precious"]
    );
    // A link replaced by a file of the same name is replaced, not followed.
    let (outcome, root) = attack(Hostile::new().symlink("x", "/outside/precious").file("x")).await;
    let chain = outcome.expect("inside");
    let file = root.open().files_of(&chain[0]).join("x");
    assert!(fs::symlink_metadata(file).expect("there").is_file());
    // A hard link to a link links the link.
    let (outcome, root) = attack(
        Hostile::new()
            .symlink("x", "/outside/precious")
            .hard_link("y", "x")
            .file("y"),
    )
    .await;
    let chain = outcome.expect("inside");
    assert_eq!(names(&root.open().files_of(&chain[0])), ["x", "y"]);
    // A folder replaced by a link, then used as a folder.
    let (outcome, _root) = attack(
        Hostile::new()
            .file("d/one")
            .symlink("d", outside)
            .file("d/precious"),
    )
    .await;
    assert!(outcome.is_err());
    // A mode meant for what a link leads to.
    let (outcome, root) = attack(Hostile::new().symlink("x", "/outside/precious")).await;
    outcome.expect("a link to anywhere is fine");
    let facts = fs::metadata(root.path().join("outside/precious")).expect("there");
    assert_eq!(facts.mode() & 0o777, 0o644);
}

#[tokio::test]
async fn bounds_damage_and_bombs_are_refused_and_leave_nothing() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let limits = UnpackLimits {
        bytes: 1 << 20,
        tar: crate::archive::tar::TarLimits {
            entries: 10,
            ..Default::default()
        },
        ..UnpackLimits::default()
    };
    let layers = OverlayLayers::open_with(root.path(), limits).expect("a data root");
    let big = vec![0u8; 2 << 20];
    let bomb = tar_of(|tar| {
        tar.file("zeros", 0o644, &big);
    });
    let many = tar_of(|tar| {
        for number in 0..11 {
            tar.file(&format!("f{number}"), 0o644, b"");
        }
    });
    let fine = tar_of(|tar| {
        tar.file("fine", 0o644, b"fine");
    });
    let gzip = harness::image::Layer::new(bomb.clone(), harness::image::Packing::Gzip).blob;
    let endless = harness::image::Layer::new(
        [fine.clone(), vec![0u8; 8 << 20]].concat(),
        harness::image::Packing::Zstd,
    )
    .blob;
    for (name, content, diff_id, why) in [
        ("bomb", gzip, digest_of(&bomb), "more than 1048576 bytes"),
        (
            "endless",
            endless,
            digest_of(&fine),
            "expands to more bytes",
        ),
        (
            "many",
            many.clone(),
            digest_of(&many),
            "more than 10 entries",
        ),
        (
            "cut",
            fine[..700].to_vec(),
            digest_of(&fine[..700]),
            "ends in the middle",
        ),
        ("noise", vec![7; 5000], digest_of(&[7; 5000]), "checksum"),
        ("other", fine.clone(), digest_of(b"other"), "has the digest"),
        (
            "gzip header",
            vec![0x1f, 0x8b, 9, 9, 9],
            digest_of(b""),
            "archive",
        ),
    ] {
        let spec = LayerSpec {
            chain_id: diff_id.clone(),
            diff_id,
            parent: None,
        };
        let error = match layers.stage(&spec, stream_of(content)).await {
            Ok(_) => panic!("{name} must be refused"),
            Err(error) => engine::error::full_message(&error),
        };
        assert!(error.contains(why), "{name}: {error}");
        assert!(debris(&root).is_empty(), "{name}");
    }
}

#[tokio::test]
async fn owners_attributes_and_special_files_come_through_and_overlayfs_own_marks_do_not() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    // vfs_cap_data of cap_net_raw=ep, version 2.
    let capability = [
        1u8, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut builder = ::tar::Builder::new(Vec::new());
    builder
        .append_pax_extensions([
            ("SCHILY.xattr.security.capability", &capability[..]),
            ("SCHILY.xattr.user.note", b"hello"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("uid", b"1000"),
            ("mtime", b"1000000000.25"),
        ])
        .expect("memory");
    let mut header = ::tar::Header::new_ustar();
    header.set_mode(0o6755);
    header.set_size(2);
    header.set_gid(1001);
    header.set_uid(0);
    builder
        .append_data(&mut header, "ping", &b"hi"[..])
        .expect("memory");
    for (kind, name) in [
        (::tar::EntryType::Fifo, "fifo"),
        (::tar::EntryType::Char, "null"),
    ] {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o666);
        header.set_size(0);
        header.set_device_major(1).expect("ustar");
        header.set_device_minor(3).expect("ustar");
        builder
            .append_data(&mut header, name, io::empty())
            .expect("memory");
    }
    let tar = builder.into_inner().expect("memory");
    let chain = put(&layers, &[tar]).await.expect("good");
    let diff = layers.files_of(&chain[0]);
    let facts = fs::metadata(diff.join("ping")).expect("there");
    assert_eq!(
        (
            facts.uid(),
            facts.gid(),
            facts.mode() & 0o7777,
            facts.mtime(),
            facts.mtime_nsec()
        ),
        (1000, 1001, 0o6755, 1_000_000_000, 250_000_000)
    );
    let xattr = |name: &str| {
        let mut value = [0u8; 100];
        rustix::fs::getxattr(diff.join("ping"), name, &mut value)
            .ok()
            .map(|length| value[..length].to_vec())
    };
    assert_eq!(
        xattr("security.capability").as_deref(),
        Some(&capability[..])
    );
    assert_eq!(xattr("user.note").as_deref(), Some(&b"hello"[..]));
    assert_eq!(xattr("trusted.overlay.redirect"), None);
    let null = fs::metadata(diff.join("null")).expect("there");
    assert!(null.file_type().is_char_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(null.mode() & 0o777, 0o666);
    assert!(
        fs::metadata(diff.join("fifo"))
            .expect("there")
            .file_type()
            .is_fifo()
    );
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
    assert_eq!(names(&merged), ["a"]);
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
    assert!(debris(&root).is_empty());
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

proptest::proptest! {
    #![proptest_config(cases(40))]

    /// Whatever is in the archive, nothing appears outside the layer and an error leaves nothing.
    #[test]
    fn no_archive_escapes(
        entries in proptest::collection::vec(
            (0u8..8, "(\\.\\./|/|a/|b/|\\.wh\\.|\\./){0,4}[ab.]{0,2}", "(\\.\\./|/|a/|b/){0,4}[ab]?"),
            0..12,
        )
    ) {
        if !is_possible() {
            return Ok(());
        }
        let mut hostile = Hostile::new();
        for (kind, path, link) in &entries {
            hostile = match kind {
                0 | 1 => hostile.file(path),
                2 | 3 => hostile.symlink(path, link),
                4 => hostile.hard_link(path, link),
                5 => hostile.entry(::tar::EntryType::Fifo, path, "", b""),
                _ => hostile.entry(::tar::EntryType::Directory, path, "", b""),
            };
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (_, root) = attack(hostile).await;
            let mut outside: Vec<String> = fs::read_dir(root.path())
                .expect("readable")
                .map(|entry| entry.expect("readable").file_name().into_string().expect("UTF-8"))
                .collect();
            outside.sort();
            assert_eq!(outside, ["containers", "layers", "outside"]);
        });
    }
}

#[tokio::test]
async fn a_hard_link_to_a_file_below_copies_it_up_as_overlayfs_does() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let bottom = tar_of(|tar| {
        tar.folder("usr", 0o750);
        tar.file("usr/program", 0o711, b"program");
        tar.file("gone", 0o644, b"gone");
        tar.folder("hidden", 0o755);
        tar.file("hidden/file", 0o644, b"hidden");
    });
    let top = tar_of(|tar| {
        tar.hard_link("bin/program", "usr/program");
        tar.hard_link("bin/again", "bin/program");
        tar.hard_link("bin/replaced", "usr/program");
        tar.file("bin/replaced", 0o644, b"own");
    });
    let chain = put(&layers, &[bottom.clone(), top]).await.expect("good");
    let diff = layers.files_of(&chain[1]);
    assert_eq!(
        names(&diff),
        [
            "bin/",
            "bin/again",
            "bin/program",
            "bin/replaced",
            "usr/",
            "usr/program"
        ]
    );
    let facts = |name: &str| fs::metadata(diff.join(name)).expect("there");
    assert_eq!(facts("bin/program").ino(), facts("usr/program").ino());
    assert_eq!(facts("bin/program").nlink(), 3);
    // dockerd gives the file the link's mode; the folder keeps the one it has below.
    assert_eq!(facts("bin/program").mode() & 0o7777, 0o755);
    assert_eq!(facts("usr").mode() & 0o7777, 0o750);
    assert_eq!(fs::read(diff.join("bin/again")).expect("there"), b"program");
    assert_eq!(fs::read(diff.join("bin/replaced")).expect("there"), b"own");
    // What a layer between hides is not there.
    let between = tar_of(|tar| {
        tar.file(".wh.gone", 0o644, b"");
        tar.folder("hidden", 0o755);
        tar.file("hidden/.wh..wh..opq", 0o644, b"");
    });
    for target in ["gone", "hidden/file", "never"] {
        let link = tar_of(|tar| {
            tar.hard_link("x", target);
        });
        let error = put(&layers, &[bottom.clone(), between.clone(), link])
            .await
            .expect_err("not there");
        let text = engine::error::full_message(&error);
        assert!(text.contains("nor below"), "{target}: {text}");
        assert!(matches!(error, LayerError::Invalid { .. }));
    }
}

#[tokio::test]
async fn files_with_holes_keep_them_in_every_form() {
    if !is_possible() {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let original = folder.path().join("holes");
    let file = fs::File::create(&original).expect("made");
    let parts: Vec<(u64, &[u8])> = vec![
        (0, b"begin"),
        (3 << 20, b"middle"),
        (5 << 20, b"x"),
        (6 << 20, b"x"),
        (7 << 20, b"x"),
        (8 << 20, b"x"),
    ];
    for (at, text) in parts {
        std::os::unix::fs::FileExt::write_all_at(&file, text, at).expect("written");
    }
    file.set_len(20 << 20).expect("longer");
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let output = std::process::Command::new("tar")
            .args(["--create", "--sparse", "--hole-detection=raw"])
            .args(format)
            .arg("--directory")
            .arg(folder.path())
            .arg("holes")
            .output();
        let Ok(output) = output else {
            println!("skipped: there is no tar program");
            return;
        };
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.len() < 1 << 20, "it is sparse");
        let root = Root::new();
        let layers = root.open();
        let chain = put(&layers, std::slice::from_ref(&output.stdout))
            .await
            .expect("good");
        let unpacked = layers.files_of(&chain[0]).join("holes");
        assert!(
            fs::read(&unpacked).expect("there") == fs::read(&original).expect("there"),
            "{format:?}"
        );
        let facts = fs::metadata(&unpacked).expect("there");
        assert!(
            facts.blocks() * 512 < 1 << 20,
            "{format:?}: the holes are holes"
        );
        let error = put(&layers, &[output.stdout[..700].to_vec()]).await;
        assert!(error.is_err(), "{format:?} cut off");
    }
}

/// So many, or what `PROPTEST_CASES` says: each makes and removes folders.
fn cases(usual: u32) -> proptest::prelude::ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    proptest::prelude::ProptestConfig::with_cases(asked.unwrap_or(usual))
}

/// Names that meet, climb, hide and lead through links.
fn any_name() -> impl proptest::strategy::Strategy<Value = String> {
    use proptest::prelude::*;
    let part = prop_oneof![
        Just("a"),
        Just("b"),
        Just("c"),
        Just(".."),
        Just("."),
        Just(""),
        Just(".wh.a"),
        Just(".wh.b"),
        Just(".wh..wh..opq"),
        Just("precious"),
        Just("outside"),
    ];
    proptest::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn any_entry() -> impl proptest::strategy::Strategy<Value = (u8, String, String, Vec<u8>)> {
    use proptest::prelude::*;
    let target = prop_oneof![
        any_name(),
        Just("/".to_owned()),
        Just("../../../outside/precious".to_owned()),
        Just("/proc/self/root/outside".to_owned()),
        Just("../../..".to_owned()),
    ];
    (
        0u8..7,
        any_name(),
        target,
        proptest::collection::vec(any::<u8>(), 0..20),
    )
}

proptest::proptest! {
    #![proptest_config(cases(60))]

    /// Whatever a stranger's layers have in them: nothing outside changes, nothing half-made stays, and what was
    /// unpacked can be mounted and removed.
    #[test]
    fn no_layers_reach_out_or_leave_debris(
        layers_of_entries in proptest::collection::vec(proptest::collection::vec(any_entry(), 0..8), 1..3),
        damage in proptest::option::of((0usize..4000, 1u8..=255)),
    ) {
        if !is_possible() {
            return Ok(());
        }
        let tars: Vec<Vec<u8>> = layers_of_entries
            .iter()
            .map(|entries| {
                let mut tar = Hostile::new();
                for (kind, path, target, content) in entries {
                    tar = match kind {
                        0 | 1 => tar.entry(::tar::EntryType::Regular, path, "", content),
                        2 => tar.entry(::tar::EntryType::Directory, path, "", b""),
                        3 => tar.symlink(path, target),
                        4 => tar.hard_link(path, target),
                        5 => tar.entry(::tar::EntryType::Fifo, path, "", b""),
                        _ => tar.entry(::tar::EntryType::Char, path, "", b""),
                    };
                }
                let mut bytes = tar.tar;
                if let Some((at, bits)) = damage
                    && !bytes.is_empty()
                {
                    let at = at % bytes.len();
                    bytes[at] ^= bits;
                }
                bytes
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let root = Root::new();
            fs::create_dir(root.path().join("outside")).expect("made");
            fs::write(root.path().join("outside/precious"), b"precious").expect("made");
            let layers = root.open();
            let outcome = put(&layers, &tars).await;
            assert_eq!(names(&root.path().join("outside")), ["precious"]);
            assert_eq!(fs::read(root.path().join("outside/precious")).expect("there"), b"precious");
            let temporary = fs::read_dir(root.path().join("layers"))
                .expect("readable")
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY))
                .count();
            assert_eq!(temporary, 0);
            if let Ok(chain) = outcome {
                let id = ContainerId::random();
                let top = chain.last();
                let merged = Layers::mount(&layers, &id, top).await.expect("it can be mounted");
                let _ = fs::read_dir(merged).expect("readable").count();
                Layers::remove(&layers, &id).await.expect("removed");
            }
            layers.collect(&BTreeSet::new()).await.expect("collected");
            assert!(debris(&root).is_empty(), "{:?}", debris(&root));
        });
    }
}
