//! Content that is not what it was, and several pulls of the same content.

use super::super::fake::FakeImages;
use super::super::*;
use super::{pull, push, statuses};
use config::digest_of;
use serde_json::json;

#[tokio::test]
async fn layers_that_are_here_are_told_as_docker_tells_them() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes.registry.push_image("a", &["base"], json!({}));
    fakes.registry.push_image("b", &["base", "more"], json!({}));
    pull(&service, "a").await.0.expect("pulled");
    let (outcome, messages) = pull(&service, "b").await;
    outcome.expect("pulled");
    let name = |layer: &str| digest_of(layer.as_bytes()).hex()[..12].to_owned();
    assert_eq!(
        statuses(&messages)[..6],
        [
            "latest|Pulling from library/b".to_owned(),
            format!("{}|Already exists", name("base")),
            format!("{}|Pulling fs layer", name("more")),
            format!("{}|Verifying Checksum", name("more")),
            format!("{}|Download complete", name("more")),
            format!("{}|Pull complete", name("more")),
        ]
    );
    // With one download at a time, the others wait, and say so.
    let fakes = FakeImages::default();
    let service = fakes.service_with(ImageOptions {
        concurrent_downloads: 1,
        ..ImageOptions::default()
    });
    fakes.registry.push_image("c", &["1", "2", "3"], json!({}));
    let (outcome, messages) = pull(&service, "c").await;
    outcome.expect("pulled");
    let waits = |messages: &[Progress]| {
        let told = statuses(messages);
        told.iter().any(|line| line.ends_with("|Waiting"))
    };
    assert!(waits(&messages), "{messages:?}");
    service.make_durable().await.expect("synced");
    for uploads in [1, 2] {
        let service = fakes
            .open_with(ImageOptions {
                concurrent_uploads: uploads,
                ..ImageOptions::default()
            })
            .await;
        let name = format!("b.example/c{uploads}");
        let target = Reference::parse(&format!("{name}:1")).expect("good");
        service.tag("c", &target).await.expect("tagged");
        let (outcome, messages) = push(&service, &name, None).await;
        outcome.expect("pushed");
        assert!(waits(&messages), "{messages:?}");
        assert_eq!(fakes.registry.uploads_at_once(), uploads);
    }
}

#[tokio::test]
async fn waiting_for_a_registry_is_told_with_the_layers_name() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let id = fakes.registry.push_image("a", &["layer"], json!({}));
    let layer = digest_of(b"layer");
    let name = &layer.hex()[..12];
    fakes.registry.busy(&layer, 2);
    fakes.registry.busy(&id, 1);
    let (outcome, messages) = pull(&service, "a").await;
    outcome.expect("pulled");
    let retries = |messages: &[Progress]| {
        let mut told = statuses(messages);
        told.retain(|line| line.contains("|Retrying in "));
        told
    };
    let of_layer = [
        format!("{name}|Retrying in 2 seconds"),
        format!("{name}|Retrying in 1 second"),
    ];
    let of_config = "latest|Retrying in 1 second".to_owned();
    assert_eq!(
        retries(&messages),
        [std::slice::from_ref(&of_config), &of_layer].concat()
    );
    let target = Reference::parse("b.example/a:latest").expect("good");
    service.tag("a", &target).await.expect("tagged");
    fakes.registry.busy(&layer, 2);
    fakes.registry.busy(&id, 1);
    let (outcome, messages) = push(&service, "b.example/a", None).await;
    outcome.expect("pushed");
    assert_eq!(retries(&messages), [&of_layer[..], &[of_config]].concat());
}

#[tokio::test]
async fn what_a_mirror_sends_damaged_is_asked_of_the_next() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let id = fakes.registry.push_image("a", &["layer"], json!({}));
    let name = Reference::parse("a").expect("good").or_latest();
    let other = b"something else".to_vec();
    let endless = vec![b' '; manifest::CONFIG_MAX as usize + 1];
    for damaged in [other.clone(), endless.clone()] {
        fakes.registry.damage_once(&id, damaged);
        let told = service.distribution(&name, None).await.expect("the next's");
        assert_eq!(told.platforms.len(), 1);
    }
    for (digest, damaged) in [
        (&id, other.clone()),
        (&id, endless),
        (&digest_of(b"layer"), other),
    ] {
        let service = FakeImages {
            registry: fakes.registry.clone(),
            ..FakeImages::default()
        }
        .service()
        .await;
        fakes.registry.damage_once(digest, damaged);
        pull(&service, "a").await.0.expect("the next's");
    }
    // Where nobody has it whole, that is told.
    fakes.registry.damage(&id, b"{}".as_slice());
    let (outcome, _) = pull(&fakes.service().await, "a").await;
    assert!(matches!(
        outcome,
        Err(ImageError::Blob(BlobError::Mismatch { .. }))
    ));
}

#[tokio::test]
async fn a_blob_on_different_layers_is_fetched_once() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes.registry.push_image("a", &["one", "same"], json!({}));
    fakes
        .registry
        .push_image("b", &["two", "same", "same"], json!({}));
    let (one, two) = tokio::join!(pull(&service, "a"), pull(&service, "b"));
    one.0.expect("pulled");
    two.0.expect("pulled");
    assert_eq!(fakes.registry.bytes_fetched(&digest_of(b"same")), 4);
    // Three different layers and two configurations.
    assert_eq!(fakes.registry.blob_fetches(), 5);
}

#[tokio::test]
async fn what_is_damaged_is_fetched_again() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let id = fakes.registry.push_image("a", &["layer"], json!({}));
    pull(&service, "a").await.0.expect("pulled");
    service.make_durable().await.expect("synced");
    let layer = digest_of(b"layer");
    // A configuration of the right length, a layer cut off, and one with other bytes and nothing unpacked.
    let length = fakes.blobs.size(&id).await.expect("good").expect("there");
    for round in 0..3 {
        match round {
            0 => fakes.blobs.damage(&id, vec![0; length as usize]),
            1 => fakes.blobs.damage(&layer, b"lay".as_slice()),
            _ => {
                fakes.blobs.damage(&layer, b"00000".as_slice());
                fakes.layers.lose(&layer);
            }
        }
        let service = fakes.service().await;
        let syncs = fakes.layers.syncs();
        pull(&service, "a").await.0.expect("pulled");
        assert_eq!(service.resolve("a").await.expect("there").id, id);
        for digest in [&id, &layer] {
            let bytes = fakes.blobs.read(digest, 10_000).await.expect("there");
            assert_eq!(digest_of(&bytes), *digest, "round {round}");
        }
        assert!(fakes.layers.find(&layer).await.expect("good").is_some());
        // The record has said all the time that it is whole: that must be true when the pull is answered.
        assert!(fakes.layers.syncs() > syncs, "round {round}");
    }
}

#[tokio::test]
async fn what_was_removed_and_pulled_again_while_it_was_synced_is_synced_again() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes.registry.push_image("a", &["layer"], json!({}));
    pull(&service, "a").await.0.expect("pulled");
    service.make_durable().await.expect("synced");
    let id = service.resolve("a").await.expect("there").id;
    service
        .change(|catalog| {
            catalog.records.unsynced.insert(id.clone());
            Ok(())
        })
        .await
        .expect("recorded");
    // In the middle of the sync the record becomes another one.
    let (again, syncs) = (service.clone(), fakes.layers.syncs());
    fakes.layers.at_next_sync(Box::pin(async move {
        again
            .change(|catalog| {
                for record in catalog.records.images.values_mut() {
                    record.last_tagged = None;
                }
                Ok(())
            })
            .await
            .expect("recorded");
    }));
    service.make_durable().await.expect("synced");
    assert_eq!(fakes.layers.syncs(), syncs + 2);
    assert!(service.is_durable(&id));
}
