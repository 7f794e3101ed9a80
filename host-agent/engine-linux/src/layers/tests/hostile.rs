//! What strangers send: names that lead out, damage, bombs, and whatever chance makes of them.

use super::*;

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
            fine[..514].to_vec(),
            digest_of(&fine[..514]),
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
            layers.settle().await.expect("gone");
            assert!(debris(&root).is_empty(), "{:?}", debris(&root));
        });
    }
}

#[tokio::test]
async fn names_attributes_and_sizes_have_bounds() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let long_name = tar_of(|tar| {
        tar.file(&"n".repeat(256), 0o644, b"");
    });
    let long_path = tar_of(|tar| {
        tar.file(&"n/".repeat(2100), 0o644, b"");
    });
    let with_record = |key: &str, value: &[u8]| {
        let mut builder = ::tar::Builder::new(Vec::new());
        builder
            .append_pax_extensions([(key, value)])
            .expect("memory");
        let mut header = ::tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(4);
        builder
            .append_data(&mut header, "file", &b"1234"[..])
            .expect("memory");
        builder.into_inner().expect("memory")
    };
    let long_attribute = with_record("SCHILY.xattr.user.long", &vec![b'x'; 65 * 1024]);
    let long_key = format!("SCHILY.xattr.user.{}", "k".repeat(256));
    let long_key = with_record(&long_key, b"x");
    let many_records = with_record("SCHILY.xattr.user.huge", &vec![b'x'; 2 << 20]);
    // Sizes that the content does not have: more than there is, and less, so that content is read as a header.
    let larger = with_record("size", b"4000000");
    let smaller = with_record("size", b"1");
    let absurd = with_record("size", b"99999999999999999999");
    for (name, tar, why) in [
        ("a long name", long_name, "longer than 255"),
        ("a long path", long_path, "4096"),
        ("a long attribute", long_attribute, "attribute is too long"),
        ("a long key", long_key, "attribute is too long"),
        ("records", many_records, "more than"),
        ("larger", larger, "ends in the middle"),
        ("absurd", absurd, "malformed"),
    ] {
        let error = put(&layers, std::slice::from_ref(&tar))
            .await
            .err()
            .unwrap_or_else(|| panic!("{name} must be refused"));
        let text = engine::error::full_message(&error);
        assert!(text.contains(why), "{name}: {text}");
        assert!(matches!(error, LayerError::Invalid { .. }), "{name}");
        assert!(debris(&root).is_empty(), "{name}");
    }
    // The rest of the block is padding then: a file of one byte.
    let chain = put(&layers, &[smaller]).await.expect("one byte");
    let file = layers.files_of(&chain[0]).join("file");
    assert_eq!(fs::read(file).expect("there"), b"1");
}

#[tokio::test]
async fn of_names_that_collide_the_last_counts() {
    if !is_possible() {
        return;
    }
    let root = Root::new();
    let layers = root.open();
    let tar = tar_of(|tar| {
        // A file, a folder with something in it, a file; and the other way round.
        tar.file("one", 0o644, b"1");
        tar.folder("one", 0o700);
        tar.file("one/inner", 0o644, b"1");
        tar.file("./one", 0o600, b"last");
        tar.folder("two", 0o755);
        tar.link("two", "one");
        tar.folder("two", 0o711);
        tar.file("two/inner", 0o644, b"2");
        // Names of the same length that differ in case, and twice the same through a folder's own name.
        tar.file("Three", 0o644, b"3");
        tar.file("three", 0o644, b"three");
        tar.file("two/./inner", 0o644, b"second");
        tar.device("four", 1, 3);
        tar.file("four", 0o644, b"4");
        tar.file(".wh.five", 0o644, b"");
        tar.file("five", 0o644, b"5");
    });
    let chain = put(&layers, &[tar]).await.expect("each can be had");
    let files = layers.files_of(&chain[0]);
    assert_eq!(
        names(&files),
        ["Three", "five", "four", "one", "three", "two/", "two/inner"]
    );
    for (name, content) in [
        ("one", &b"last"[..]),
        ("two/inner", b"second"),
        ("three", b"three"),
        ("four", b"4"),
        ("five", b"5"),
    ] {
        assert_eq!(
            fs::read(files.join(name)).expect("there"),
            content,
            "{name}"
        );
    }
    let mode = |name: &str| fs::metadata(files.join(name)).expect("there").mode() & 0o7777;
    assert_eq!((mode("one"), mode("two")), (0o600, 0o711));
}
