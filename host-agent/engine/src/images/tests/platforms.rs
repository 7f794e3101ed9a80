//! Platforms that are asked for where an image is here already: nothing happens to an image of another one.

use super::super::fake::FakeImages;
use super::super::*;
use super::loads::{load, saved};
use super::{PLAIN, statuses};
use crate::error::{Class, Classify, full_message};
use manifest::OCI_INDEX;
use serde_json::json;

fn platform(text: &str) -> Platform {
    Platform::parse(text).expect("a platform")
}

async fn pull_for(service: &ImageService, name: &str, wanted: Option<&str>) -> Vec<Progress> {
    let (sink, mut receiver) = ProgressSink::new();
    let request = PullRequest {
        reference: Reference::parse(name).expect("good").or_latest(),
        platform: wanted.map(platform),
        credentials: None,
    };
    service.pull(request, &sink).await.expect("pulled");
    drop(sink);
    let mut messages = Vec::new();
    while let Some(message) = receiver.recv().await {
        messages.push(message);
    }
    messages
}

#[tokio::test]
async fn an_image_of_another_platform_is_as_good_as_none() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let arm = platform("linux/s390x");
    let id = fakes
        .registry
        .push_image_for(&arm, "a", &["one"], json!({}));
    pull_for(&service, "a", None).await;
    let wrong = platform("linux/riscv64");
    let how = Removal {
        platform: Some(wrong.clone()),
        ..PLAIN
    };
    let push = PushRequest {
        repository: Repository::parse("a").expect("good"),
        tag: Some("latest".into()),
        platform: Some(wrong.clone()),
        credentials: None,
    };
    let nobody = ProgressSink::none();
    let errors = [
        service.remove("a", how).await.err(),
        service.inspect_on("a", Some(&wrong)).err(),
        service.history("a", Some(&wrong)).err(),
        service.save(&["a".into()], Some(&wrong)).await.err(),
        service.push(push, &nobody).await.err(),
    ];
    for error in errors {
        let error = error.expect("another platform");
        assert_eq!(error.class(), Class::NotFound);
        let text = full_message(&error);
        let name = ["a", "a:latest"].map(|name| {
            format!(
                "image with reference {name} was found but does not provide the specified platform (linux/riscv64)"
            )
        });
        assert!(name.contains(&text), "{text}");
    }
    assert_eq!(service.inspect("a").expect("still there").id, id);
    assert!(service.history("a", Some(&arm)).is_ok());
    assert!(service.save(&["a".into()], Some(&arm)).await.is_ok());
    let how = Removal {
        platform: Some(arm),
        ..PLAIN
    };
    service.remove("a", how).await.expect("removed");
}

#[tokio::test]
async fn a_load_takes_the_images_of_the_platform_only() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes.registry.push_image("native", &["one"], json!({}));
    let other = platform("linux/s390x");
    fakes
        .registry
        .push_image_for(&other, "other", &["two"], json!({}));
    for name in ["native", "other"] {
        pull_for(&service, name, None).await;
    }
    let archive = saved(&service, &["native", "other"]).await;
    for (wanted, lines) in [
        (
            None,
            &[
                "Loaded image: native:latest\n",
                "Loaded image: other:latest\n",
            ][..],
        ),
        (Some("linux/s390x"), &["Loaded image: other:latest\n"]),
        (
            Some("linux/riscv64"),
            &["No image in the archive is for linux/riscv64\n"],
        ),
    ] {
        let elsewhere = FakeImages::default().service().await;
        let wanted = wanted.map(platform);
        let (outcome, messages) = load(&elsewhere, archive.clone(), wanted.as_ref()).await;
        outcome.expect("loaded");
        let told: Vec<&str> = messages
            .iter()
            .filter_map(|message| match message {
                Progress::Line(line) => Some(line.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(told, lines);
    }
}

#[tokio::test]
async fn a_pull_tells_that_an_image_has_one_platform_only() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let other = platform("linux/s390x");
    fakes
        .registry
        .push_image_for(&other, "a", &["one"], json!({}));
    let told = statuses(&pull_for(&service, "a", Some("linux/arm64")).await);
    assert_eq!(
        told.last().map(String::as_str),
        Some(
            "|WARNING: image with reference docker.io/library/a:latest was found but does not provide the specified platform (linux/arm64)"
        )
    );
    for wanted in [None, Some("linux/s390x")] {
        let told = statuses(&pull_for(&service, "a", wanted).await);
        assert!(told[told.len() - 1].starts_with("|Status: "), "{told:?}");
    }
}

#[tokio::test]
async fn an_index_for_386_serves_an_amd64() {
    use super::super::registry::Registry;
    let fakes = FakeImages::default();
    let options = ImageOptions {
        platform: platform("linux/amd64"),
        ..ImageOptions::default()
    };
    let service = fakes.service_with(options);
    let small = platform("linux/386");
    let id = fakes
        .registry
        .push_image_for(&small, "a:386", &["one"], json!({}));
    let name = |text: &str| Reference::parse(text).expect("good");
    let manifest = fakes.registry.manifest(&name("a:386"), None).await;
    let manifest = manifest.expect("pushed");
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{
        "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.bytes.len(),
        "platform": {"os": "linux", "architecture": "386"}}]});
    fakes
        .registry
        .push_manifest(&name("a:all"), OCI_INDEX, index.to_string());
    pull_for(&service, "a:all", None).await;
    assert_eq!(service.inspect("a:all").expect("there").id, id);
}

#[tokio::test]
async fn names_that_mean_something_else_are_refused() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes.registry.push_image("a", &["one"], json!({}));
    pull_for(&service, "a", None).await;
    let target = Reference::parse("sha256:x").expect("it looks like one");
    let error = service.tag("a", &target).await.expect_err("ambiguous");
    assert_eq!(
        (error.to_string().as_str(), error.class()),
        (
            "refusing to create an ambiguous tag using digest algorithm as name",
            Class::Invalid
        )
    );
    let request = PullRequest {
        reference: Reference::parse("scratch").expect("good").or_latest(),
        platform: None,
        credentials: None,
    };
    let error = service
        .pull(request, &ProgressSink::none())
        .await
        .expect_err("reserved");
    assert_eq!(
        (error.to_string().as_str(), error.class()),
        ("'scratch' is a reserved name", Class::Invalid)
    );
}
