//! What a load tells, and what of an archive it remembers.

use super::super::blobs::stream_of;
use super::super::fake::FakeImages;
use super::super::*;
use super::pull;
use config::{ContainerSide, MadeOf, digest_of};
use futures_util::StreamExt;
use manifest::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use serde_json::{Value, json};

/// The archive of some images.
pub(super) async fn saved(service: &ImageService, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut stream = service.save(&names, None).await.expect("good");
    let mut archive = Vec::new();
    while let Some(piece) = stream.next().await {
        archive.extend_from_slice(&piece.expect("readable"));
    }
    archive
}

pub(super) async fn load(
    service: &ImageService,
    archive: Vec<u8>,
    platform: Option<&Platform>,
) -> (Result<(), ImageError>, Vec<Progress>) {
    let (sink, mut receiver) = ProgressSink::new();
    let outcome = service.load(stream_of(archive), platform, &sink).await;
    drop(sink);
    let mut messages = Vec::new();
    while let Some(message) = receiver.recv().await {
        messages.push(message);
    }
    (outcome, messages)
}

/// An image of one layer more than another.
async fn commit(service: &ImageService, parent: &Digest, name: &str) -> Digest {
    let new = make::NewImage {
        parent: parent.clone(),
        config: ImageConfig::default(),
        side: ContainerSide::default(),
        made_of: MadeOf::default(),
        author: String::new(),
        comment: String::new(),
        name: Some(Reference::parse(name).expect("good").or_latest()),
    };
    let content = stream_of(name.as_bytes().to_vec());
    service.commit(new, content).await.expect("made")
}

#[tokio::test]
async fn a_load_tells_of_layers_and_of_names_it_takes_away() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes.registry.push_image("a", &["one"], json!({}));
    pull(&service, "a").await.0.expect("pulled");
    let archive = saved(&service, &["a"]).await;

    let elsewhere = FakeImages::default();
    let service = elsewhere.service().await;
    let old = elsewhere.registry.push_image("a", &["two"], json!({}));
    pull(&service, "a").await.0.expect("pulled");
    let (outcome, messages) = load(&service, archive.clone(), None).await;
    outcome.expect("loaded");
    let bar = Progress::Amount {
        id: digest_of(b"one").hex()[..12].to_owned(),
        status: "Loading layer",
        current: 3,
        total: 3,
    };
    let line = |text: &str| Progress::Line(text.to_owned());
    assert_eq!(
        messages,
        [
            bar,
            line(&format!(
                "The image a:latest already exists, renaming the old one with ID {old} to empty string\n"
            )),
            line("Loaded image: a:latest\n"),
        ]
    );
    // Nothing is new, and nobody loses a name.
    let (outcome, messages) = load(&service, archive, None).await;
    outcome.expect("loaded");
    assert_eq!(messages, [line("Loaded image: a:latest\n")]);
}

#[tokio::test]
async fn parents_are_shown_by_history_and_come_back_from_an_archive() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let base = fakes.registry.push_image("base", &["one"], json!({}));
    pull(&service, "base").await.0.expect("pulled");
    let child = commit(&service, &base, "child").await;
    let top = commit(&service, &child, "top").await;
    let lines = service.history("top", None).expect("there");
    let shown: Vec<_> = lines
        .iter()
        .map(|line| (line.id.as_ref(), line.tags.concat()))
        .collect();
    assert_eq!(
        shown,
        [
            (Some(&top), "top:latest".to_owned()),
            (Some(&child), "child:latest".to_owned()),
            (Some(&base), "base:latest".to_owned()),
        ]
    );
    let archive = saved(&service, &["top", "child"]).await;
    let service = FakeImages::default().service().await;
    load(&service, archive.clone(), None)
        .await
        .0
        .expect("loaded");
    let parent_of = |name: &str| service.inspect(name).expect("there").record.parent;
    assert_eq!(parent_of("top"), Some(child.clone()));
    // Not in the archive.
    assert_eq!(parent_of("child"), None);
    // An archive that lies.
    let text = String::from_utf8_lossy(&archive);
    let lie = text.replace(
        &format!("\"Parent\":\"{child}\""),
        &format!("\"Parent\":\"{top}\""),
    );
    let service = FakeImages::default().service().await;
    load(&service, lie.into_bytes(), None)
        .await
        .0
        .expect("of itself: passed over");
    assert_eq!(service.inspect("top").expect("there").record.parent, None);
}

/// A tar of files.
fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, content) in files {
        let mut header = [0u8; 512];
        header[..path.len()].copy_from_slice(path.as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[tokio::test]
async fn what_an_oci_layout_says_about_images_is_passed_over() {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut put = |content: Vec<u8>| {
        let digest = digest_of(&content);
        let size = content.len();
        files.push((format!("blobs/sha256/{}", digest.hex()), content));
        (digest, size)
    };
    let mut manifest = |layer: &[u8], media_type: &str| {
        let config = json!({"os": "linux", "rootfs": {"diff_ids": [digest_of(layer)]}});
        let (config, config_size) = put(config.to_string().into_bytes());
        let (layer, size) = put(layer.to_vec());
        let manifest = json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": config, "size": config_size},
            "layers": [{"mediaType": media_type, "digest": layer, "size": size}]});
        let (digest, size) = put(manifest.to_string().into_bytes());
        (
            config,
            json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": size}),
        )
    };
    let (image, entry) = manifest(b"one", "application/vnd.oci.image.layer.v1.tar");
    let (_, mut attestation) = manifest(b"{}", "application/vnd.in-toto+json");
    let (_, signature) = manifest(
        b"signed",
        "application/vnd.dev.cosign.simplesigning.v1+json",
    );
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let archive = |entries: &[&Value]| {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        let mut all = files.clone();
        all.push(("index.json".into(), index.to_string().into_bytes()));
        tar(&all)
    };
    let service = FakeImages::default().service().await;
    let whole = archive(&[&attestation, &signature, &entry]);
    load(&service, whole, None).await.0.expect("loaded");
    let list = service.list(&ImageFilter::default()).expect("good");
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].id, image);
    for (entries, why) in [
        (&[&attestation][..], "has none"),
        (&[&signature], "unsupported layer media type"),
    ] {
        let error = load(&service, archive(entries), None).await.0;
        let text = crate::error::full_message(&error.expect_err("no image"));
        assert!(text.contains(why), "{text}");
    }
}
