//! Whole image archives as strangers send them: entries missing, twice, damaged, under other names or as links, words of their
//! JSON replaced, with digests that were made to fit again. Each is refused for a reason with nothing left of it, or loaded
//! and whole. `PROPTEST_CASES=10000` for longer.

use super::{FORCED, content, service};
use engine::error::{Class, Classify, full_message};
use engine::id::ContainerId;
use engine::images::blobs::stream_of;
use engine::images::{ImageFilter, ImageSource, Layers, ProgressSink};
use futures_util::StreamExt;
use harness::image::{Layer, LayerTar, Packing, TestImage, digest};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Read;
use std::sync::LazyLock;

type Entries = Vec<(String, Vec<u8>)>;

/// Where blobs are in a layout.
const BLOBS: &str = "blobs/sha256/";

/// An archive that is both a layout and Docker's, as our own engine saves it, and one of old.
static WHOLE: LazyLock<[Entries; 2]> = LazyLock::new(|| {
    let layers = [Packing::Plain, Packing::Gzip, Packing::Zstd].map(|packing| {
        let mut tar = LayerTar::new();
        tar.folder("folder", 0o755);
        tar.file(&format!("folder/{packing:?}"), 0o644, b"content");
        Layer::new(tar.finish(), packing)
    });
    let image = TestImage::new(layers.into(), json!({"Cmd": ["sh"], "Env": ["A=b"]}));
    let old = image.docker_archive(&["old:1", "other/old:2"]);
    let manifest = String::from_utf8(image.manifest()).expect("JSON").replace(
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
    );
    let blob = |bytes: &[u8]| format!("{BLOBS}{}", &digest(bytes)["sha256:".len()..]);
    let mut layout: Entries = vec![
        (
            "oci-layout".into(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        ),
        (blob(manifest.as_bytes()), manifest.clone().into_bytes()),
        (blob(&image.config), image.config.clone()),
    ];
    let mut paths = Vec::new();
    for layer in &image.layers {
        paths.push(blob(&layer.blob));
        layout.push((blob(&layer.blob), layer.blob.clone()));
    }
    let index = json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(manifest.as_bytes()), "size": manifest.len(),
        "annotations": {"io.containerd.image.name": "docker.io/library/new:1"},
    }]});
    layout.push(("index.json".into(), index.to_string().into_bytes()));
    let docker = json!([{"Config": blob(&image.config), "RepoTags": ["new:1"], "Layers": paths}]);
    layout.push(("manifest.json".into(), docker.to_string().into_bytes()));
    [layout, entries_of(&old)]
});

fn entries_of(archive: &[u8]) -> Entries {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("a good archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("good");
            let path = entry.path().expect("UTF-8").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("memory");
            (path, bytes)
        })
        .collect()
}

/// One thing that is wrong. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Change {
    Drop(usize),
    Twice(usize, usize),
    Rename(usize, usize),
    Flip(usize, usize, u8),
    Cut(usize, usize),
    /// A value somewhere in a JSON document.
    Word(usize, usize, usize),
    /// An entry becomes a link to another, or to anywhere.
    Link(usize, usize),
}

fn any_change() -> impl Strategy<Value = Change> {
    let number = || any::<prop::sample::Index>().prop_map(|index| index.index(10_000));
    prop_oneof![
        1 => number().prop_map(Change::Drop),
        1 => (number(), number()).prop_map(|(a, b)| Change::Twice(a, b)),
        1 => (number(), number()).prop_map(|(a, b)| Change::Rename(a, b)),
        1 => (number(), number(), 1u8..).prop_map(|(a, b, c)| Change::Flip(a, b, c)),
        1 => (number(), number()).prop_map(|(a, b)| Change::Cut(a, b)),
        6 => (number(), number(), number()).prop_map(|(a, b, c)| Change::Word(a, b, c)),
        1 => (number(), number()).prop_map(|(a, b)| Change::Link(a, b)),
    ]
}

const NAMES: [&str; 8] = [
    "../outside/precious",
    "/etc/passwd",
    "manifest.json",
    "index.json",
    "a/../../b",
    "",
    "blobs",
    "blobs/sha256/0000000000000000000000000000000000000000000000000000000000000000",
];

fn values() -> Vec<Value> {
    let mut values: Vec<Value> = NAMES.iter().map(|name| json!(name)).collect();
    values.extend([
        json!(null),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e300),
        json!(true),
        json!([]),
        json!({}),
        json!("a".repeat(5000)),
        json!("UPPER:case@sha256:1"),
        json!("linux"),
        json!("windows"),
        json!("application/vnd.oci.image.index.v1+json"),
        json!("application/vnd.docker.distribution.manifest.v2+json"),
    ]);
    values
}

/// Every value in a document, as JSON pointers.
fn places(value: &Value, at: String, found: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            for (number, inner) in list.iter().enumerate() {
                places(inner, format!("{at}/{number}"), found);
            }
        }
        Value::Object(map) => {
            for (key, inner) in map {
                let key = key.replace('~', "~0").replace('/', "~1");
                places(inner, format!("{at}/{key}"), found);
            }
        }
        _ => {}
    }
    found.push(at);
}

fn changed(mut entries: Entries, changes: &[Change]) -> (Entries, Vec<(String, String)>) {
    let mut links = Vec::new();
    for change in changes {
        if entries.is_empty() {
            break;
        }
        let count = entries.len();
        let of = |number: &usize| number % count;
        match change {
            Change::Drop(one) => {
                entries.remove(of(one));
            }
            Change::Twice(one, other) => {
                let again = (entries[of(one)].0.clone(), entries[of(other)].1.clone());
                entries.push(again);
            }
            Change::Rename(one, name) => {
                let one = of(one);
                entries[one].0 = NAMES[name % NAMES.len()].to_owned();
            }
            Change::Flip(one, at, bits) => {
                let bytes = &mut entries[of(one)].1;
                if !bytes.is_empty() {
                    let at = at % bytes.len();
                    bytes[at] ^= bits;
                }
            }
            Change::Cut(one, at) => {
                let bytes = &mut entries[of(one)].1;
                bytes.truncate(at % (bytes.len() + 1));
            }
            Change::Word(one, place, value) => {
                let documents: Vec<usize> = (0..entries.len())
                    .filter(|number| serde_json::from_slice::<Value>(&entries[*number].1).is_ok())
                    .collect();
                if documents.is_empty() {
                    continue;
                }
                let bytes = &mut entries[documents[one % documents.len()]].1;
                let mut document: Value = serde_json::from_slice(bytes).expect("looked at");
                let mut found = Vec::new();
                places(&document, String::new(), &mut found);
                let at = &found[place % found.len()];
                let values = values();
                *document.pointer_mut(at).expect("it was found") =
                    values[value % values.len()].clone();
                *bytes = document.to_string().into_bytes();
            }
            Change::Link(one, other) => {
                let one = of(one);
                let targets: Vec<String> = entries
                    .iter()
                    .map(|(name, _)| name.clone())
                    .chain(NAMES.map(str::to_owned))
                    .collect();
                let (name, _) = entries.remove(one);
                links.push((name, targets[other % targets.len()].clone()));
            }
        }
    }
    (entries, links)
}

/// Gives every blob the name of what it has become, everywhere it is named.
fn addressed_anew(mut entries: Entries) -> Entries {
    // A configuration is named by a manifest, and that by an index.
    for _ in 0..3 {
        for number in 0..entries.len() {
            let Some(old) = entries[number].0.strip_prefix(BLOBS).map(str::to_owned) else {
                continue;
            };
            let new = digest(&entries[number].1)["sha256:".len()..].to_owned();
            if old == new || old.len() != new.len() {
                continue;
            }
            entries[number].0 = format!("{BLOBS}{new}");
            for (_, bytes) in &mut entries {
                if let Ok(text) = std::str::from_utf8(bytes)
                    && text.starts_with(['{', '['])
                {
                    *bytes = text.replace(&old, &new).into_bytes();
                }
            }
        }
    }
    entries
}

fn archive_of(entries: &Entries, links: &[(String, String)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut append = |name: &str, kind: tar::EntryType, link: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        // By hand: the library refuses names that lead out.
        let block = header.as_mut_bytes();
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes).expect("memory");
    };
    for (name, bytes) in entries {
        append(name, tar::EntryType::Regular, "", bytes);
    }
    for (number, (name, target)) in links.iter().enumerate() {
        let kind = match number % 2 {
            0 => tar::EntryType::Symlink,
            _ => tar::EntryType::Link,
        };
        append(name, kind, target, b"");
    }
    builder.into_inner().expect("memory")
}

async fn check(archive: Vec<u8>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let precious = folder.path().join("outside/precious");
    std::fs::create_dir(folder.path().join("outside")).expect("made");
    std::fs::write(&precious, b"precious").expect("written");
    let root = folder.path().join("root");
    let (images, mounts) = service(&root, &[]).await;
    let outcome = images
        .load(stream_of(archive), None, &ProgressSink::none())
        .await;
    if let Err(error) = &outcome {
        assert_ne!(error.class(), Class::Internal, "{}", full_message(error));
    }
    // An archive may have several images, and the last of them a fault.
    for image in images.list(&ImageFilter::default()).expect("good") {
        let id = image.id.as_str().to_owned();
        let mut saved = images
            .save(std::slice::from_ref(&id), None)
            .await
            .expect("whole");
        let mut bytes = Vec::new();
        while let Some(piece) = saved.next().await {
            bytes.extend_from_slice(&piece.expect("readable"));
        }
        let resolved = images.resolve(&id).await.expect("whole");
        let container = ContainerId::random();
        let merged = mounts
            .mount(&container, resolved.top_layer.as_ref())
            .await
            .expect("whole");
        let _ = std::fs::read_dir(merged).expect("readable").count();
        mounts.remove(&container).await.expect("removed");
        images.remove(&id, FORCED).await.expect("removed");
        // What we saved of it can be loaded.
        let loaded = images
            .load(stream_of(bytes), None, &ProgressSink::none())
            .await;
        loaded.expect("it is our own");
        images.remove(&id, FORCED).await.expect("removed");
    }
    assert_eq!(content(&mounts, &root).await, 0);
    assert_eq!(std::fs::read(&precious).expect("there"), b"precious");
    let outside = std::fs::read_dir(folder.path()).expect("readable").count();
    assert_eq!(outside, 2);
}

/// So many, or what `PROPTEST_CASES` says.
fn cases(usual: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(asked.unwrap_or(usual))
    }
}

fn run(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(work);
}

#[test]
fn what_the_changes_are_made_to_is_whole() {
    if !super::is_root() {
        return;
    }
    for entries in WHOLE.iter() {
        let archive = archive_of(&addressed_anew(entries.clone()), &[]);
        run(async {
            let root = tempfile::tempdir().expect("a temporary folder");
            let (images, _) = service(root.path(), &[]).await;
            images
                .load(stream_of(archive.clone()), None, &ProgressSink::none())
                .await
                .expect("good");
            assert_eq!(images.list(&ImageFilter::default()).expect("good").len(), 1);
        });
        run(check(archive));
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn no_archive_does_harm_or_is_half_loaded(
        which in 0usize..3,
        changes in prop::collection::vec(any_change(), 1..4),
        is_addressed_anew in any::<bool>(),
        packing in 0u8..4,
        damage in prop::option::weighted(0.2, (any::<prop::sample::Index>(), 0u8..)),
    ) {
        if !super::is_root() {
            return Ok(());
        }
        let mut entries = WHOLE[which / 2].clone();
        if which == 1 {
            // A layout alone.
            entries.retain(|(name, _)| name != "manifest.json");
        }
        let (mut entries, links) = changed(entries, &changes);
        if is_addressed_anew {
            entries = addressed_anew(entries);
        }
        let plain = archive_of(&entries, &links);
        let mut archive = match packing {
            0 => Layer::new(plain, Packing::Gzip).blob,
            1 => Layer::new(plain, Packing::Zstd).blob,
            _ => plain,
        };
        match damage {
            // Bits 0: cut off there.
            Some((at, 0)) => archive.truncate(at.index(archive.len() + 1)),
            Some((at, bits)) => {
                let at = at.index(archive.len());
                archive[at] ^= bits;
            }
            None => {}
        }
        run(check(archive));
    }
}
