//! Which image a pull takes: by tag, by digest, all tags, for a platform; and what is no image.

use super::super::fake::FakeImages;
use super::super::*;
use crate::error::{Class, Classify};
use config::digest_of;
use manifest::{DOCKER_LIST, OCI_INDEX};
use serde_json::{Value, json};

async fn pull(
    service: &ImageService,
    name: &str,
    platform: Option<&str>,
) -> Result<Digest, ImageError> {
    let reference = Reference::parse(name).expect("good");
    let request = PullRequest {
        reference: match name.ends_with("/all") {
            true => reference,
            false => reference.or_latest(),
        },
        platform: platform.map(|text| Platform::parse(text).expect("good")),
        credentials: None,
    };
    service.pull(request, &ProgressSink::none()).await?;
    Ok(service.inspect(name)?.id)
}

/// What a list says of an image that was pushed.
async fn entry(fakes: &FakeImages, name: &str, platform: Value) -> Value {
    use super::super::registry::Registry;
    let reference = Reference::parse(name).expect("good").or_latest();
    let manifest = fakes.registry.manifest(&reference, None).await;
    let manifest = manifest.expect("it was pushed");
    json!({"mediaType": manifest.media_type, "digest": manifest.digest,
        "size": manifest.bytes.len(), "platform": platform})
}

#[tokio::test]
async fn lists_are_followed_to_the_platform_and_attestations_passed_over() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let arm6 = fakes.registry.push_image("a:arm6", &["6"], json!({}));
    let arm7 = fakes.registry.push_image("a:arm7", &["7"], json!({}));
    let s390 = fakes.registry.push_image("a:s390", &["390"], json!({}));
    let mut attestation = entry(
        &fakes,
        "a:s390",
        json!({"os": "unknown", "architecture": "unknown"}),
    )
    .await;
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let arm = |variant: &str| json!({"os": "linux", "architecture": "arm", "variant": variant});
    let list = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        attestation,
        entry(&fakes, "a:arm6", arm("v6")).await,
        entry(&fakes, "a:arm7", arm("v7")).await,
        entry(&fakes, "a:s390", json!({"os": "linux", "architecture": "s390x"})).await,
    ]});
    let list = list.to_string();
    let name = |text: &str| Reference::parse(text).expect("good");
    fakes
        .registry
        .push_manifest(&name("a:list"), OCI_INDEX, list.clone());
    // A list of that list is followed, too; one that never ends is not.
    let outer = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [
        {"mediaType": OCI_INDEX, "digest": digest_of(list.as_bytes()), "size": list.len()},
    ]});
    let outer = outer.to_string();
    fakes
        .registry
        .push_manifest(&name("a:outer"), DOCKER_LIST, outer.clone());
    for (platform, wanted) in [
        ("linux/arm/v6", &arm6),
        ("linux/arm/v7", &arm7),
        ("linux/arm64", &arm7),
        ("linux/s390x", &s390),
    ] {
        for tag in ["a:list", "a:outer"] {
            let found = pull(&service, tag, Some(platform)).await.expect(platform);
            assert_eq!(found, *wanted, "{tag} {platform}");
        }
    }
    let error = pull(&service, "a:list", Some("linux/riscv64"))
        .await
        .expect_err("none");
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(
        error.to_string(),
        "no matching manifest for linux/riscv64 in the manifest list entries"
    );
    let mut deeper = outer;
    for number in 0..3 {
        let next = json!({"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [
            {"mediaType": DOCKER_LIST, "digest": digest_of(deeper.as_bytes()), "size": deeper.len()},
        ]});
        deeper = next.to_string();
        let name = Reference::parse(&format!("a:deep{number}")).expect("good");
        fakes
            .registry
            .push_manifest(&name, DOCKER_LIST, deeper.clone());
    }
    let error = pull(&service, "a:deep2", Some("linux/s390x"))
        .await
        .expect_err("too deep");
    assert!(error.to_string().contains("nested"), "{error}");
}

#[tokio::test]
async fn by_digest_there_is_no_tag_and_all_tags_are_all() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let one = fakes.registry.push_image("me/all:1", &["one"], json!({}));
    let two = fakes.registry.push_image("me/all:2", &["two"], json!({}));
    let digest = entry(&fakes, "me/all:1", json!({})).await["digest"].clone();
    let by_digest = format!("me/all@{}", digest.as_str().expect("a text"));
    let with_tag = format!("me/all:2@{}", digest.as_str().expect("a text"));
    for name in [&by_digest, &with_tag] {
        assert_eq!(pull(&service, name, None).await.expect("pulled"), one);
        let view = service.inspect(&by_digest).expect("there");
        assert!(view.repo_tags.is_empty());
        assert_eq!(view.repo_digests, std::slice::from_ref(&by_digest));
    }
    let request = PullRequest {
        reference: Reference::parse("me/all").expect("good"),
        platform: None,
        credentials: None,
    };
    service
        .pull(request, &ProgressSink::none())
        .await
        .expect("pulled");
    for (name, id) in [("me/all:1", &one), ("me/all:2", &two)] {
        assert_eq!(service.inspect(name).expect("there").id, *id);
    }
}

#[tokio::test]
async fn what_is_no_image_is_told_as_what_it_is_and_leaves_nothing() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let blob = fakes.registry.push_blob(b"blob".as_slice());
    let config = json!({"os": "linux", "rootfs": {"diff_ids": [blob]}}).to_string();
    let config_digest = fakes.registry.push_blob(config.clone());
    let image = json!({"schemaVersion": 2,
        "config": {"digest": config_digest, "size": config.len()},
        "layers": [{"digest": blob, "size": 4}]});
    let changed = |pointer: &str, value: Value| {
        let mut changed = image.clone();
        *changed.pointer_mut(pointer).expect("there") = value;
        changed
    };
    for (manifest, why) in [
        (
            json!({"schemaVersion": 1, "fsLayers": []}),
            "schema version 1",
        ),
        (
            changed("/config/digest", json!("sha256:../../x")),
            "unsupported digest",
        ),
        (
            changed("/layers/0/digest", json!("sha256:../../x")),
            "unsupported digest",
        ),
        (changed("/layers", json!([])), "0 layers"),
        (changed("/layers/0/size", json!(-1)), "invalid manifest"),
        (
            changed("/config/size", json!(1u64 << 40)),
            "configuration has",
        ),
        (json!([]), "invalid manifest"),
        (
            json!({"schemaVersion": 2, "mediaType": "text/html"}),
            "text/html",
        ),
    ] {
        let name = Reference::parse("bad").expect("good").or_latest();
        fakes
            .registry
            .push_manifest(&name, "", manifest.to_string());
        let error = pull(&service, "bad", None).await.expect_err(why);
        let text = crate::error::full_message(&error);
        assert!(text.contains(why), "{why}: {text}");
        assert!(fakes.blobs.list().await.expect("good").is_empty(), "{why}");
    }
}
