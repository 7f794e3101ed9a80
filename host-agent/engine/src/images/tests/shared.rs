//! What pulls have to do with each other: one goes on where another was given up, and all share the places for downloads.

use super::*;
use std::time::Duration;

/// Waits for something another task does.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..2000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 10 seconds: {what}");
}

#[tokio::test]
async fn a_pull_goes_on_where_another_that_was_given_up_had_come_to() {
    let fakes = FakeImages::default();
    let service = fakes.empty_service();
    fakes
        .registry
        .push_image("a", &["a long layer"], serde_json::json!({}));
    let layer = config::digest_of(b"a long layer");
    fakes.registry.stall(&layer, 6);
    let begin = || {
        let service = service.clone();
        tokio::spawn(async move { pull_without_ears(&service, "a").await })
    };
    let first = begin();
    until("the first gets six bytes", || {
        fakes.registry.bytes_fetched(&layer) == 6
    })
    .await;
    let second = begin();
    // The second has asked for the manifest and waits for the layer now, or will: both are right.
    tokio::time::sleep(Duration::from_millis(20)).await;
    first.abort();
    second.await.expect("no panic").expect("pulled");
    assert_eq!(
        fakes.registry.bytes_fetched(&layer),
        "a long layer".len(),
        "no byte comes twice"
    );
    // What was given up and nobody goes on with is gone after the next pull.
    fakes
        .registry
        .push_image("b", &["another layer"], serde_json::json!({}));
    let layer = config::digest_of(b"another layer");
    fakes.registry.stall(&layer, 6);
    let given_up = {
        let service = service.clone();
        tokio::spawn(async move { pull_without_ears(&service, "b").await })
    };
    until("it gets six bytes", || {
        fakes.registry.bytes_fetched(&layer) == 6
    })
    .await;
    given_up.abort();
    assert!(given_up.await.is_err(), "aborted");
    // Its reader has to notice that.
    tokio::time::sleep(Duration::from_millis(20)).await;
    pull_without_ears(&service, "a").await.expect("here");
    let partial = fakes.blobs.take_partial(&layer).await.expect("no error");
    assert!(partial.is_none());
}

async fn pull_without_ears(service: &ImageService, name: &str) -> Result<(), ImageError> {
    let request = PullRequest {
        reference: Reference::parse(name).expect("good").or_latest(),
        platform: None,
        credentials: None,
    };
    let (sink, mut receiver) = ProgressSink::new();
    let listening = tokio::spawn(async move { while receiver.recv().await.is_some() {} });
    let outcome = service.pull(request, &sink).await;
    listening.abort();
    outcome
}

#[tokio::test]
async fn all_pulls_together_have_so_many_downloads() {
    let fakes = FakeImages::default();
    let service = fakes.service_with(ImageOptions {
        concurrent_downloads: 1,
        ..ImageOptions::default()
    });
    for (name, layer) in [("a", "one"), ("b", "two")] {
        fakes
            .registry
            .push_image(name, &[layer], serde_json::json!({}));
    }
    let (one, two) = (config::digest_of(b"one"), config::digest_of(b"two"));
    fakes.registry.stall(&one, 1);
    let holder = {
        let service = service.clone();
        tokio::spawn(async move { pull_without_ears(&service, "a").await })
    };
    until("the first downloads", || {
        fakes.registry.bytes_fetched(&one) == 1
    })
    .await;
    let (sink, mut receiver) = ProgressSink::new();
    let waiter = {
        let service = service.clone();
        let request = PullRequest {
            reference: reference::Reference::parse("b").expect("good").or_latest(),
            platform: None,
            credentials: None,
        };
        tokio::spawn(async move { service.pull(request, &sink).await })
    };
    loop {
        match receiver.recv().await.expect("it says so") {
            Progress::Status { status, .. } if status == "Waiting" => break,
            _ => {}
        }
    }
    assert_eq!(fakes.registry.bytes_fetched(&two), 0);
    holder.abort();
    while receiver.recv().await.is_some() {}
    waiter.await.expect("no panic").expect("pulled");
}

#[tokio::test]
async fn what_a_mirror_sent_damaged_is_asked_of_another() {
    let fakes = FakeImages::default();
    let service = fakes.empty_service();
    let id = fakes
        .registry
        .push_image("a", &["one", "two"], serde_json::json!({}));
    let layer = config::digest_of(b"two");
    fakes.registry.damage_once(&id, b"{}".as_slice());
    fakes.registry.damage_once(&layer, b"tow".as_slice());
    pull(&service, "a").await.0.expect("in the end");
    // Where there is nobody else it is an error.
    fakes
        .registry
        .push_image("b", &["three"], serde_json::json!({}));
    let layer = config::digest_of(b"three");
    fakes.registry.damage(&layer, b"eerth".as_slice());
    let error = pull(&service, "b").await.0.expect_err("damaged");
    assert_eq!(
        error.to_string(),
        format!("filesystem layer verification failed for digest {layer}")
    );
}

#[tokio::test]
async fn a_layer_that_another_image_or_a_container_needs_stays() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let users = Arc::new(FakeUsers::default());
    service.set_users(users.clone());
    for (name, layers) in [("a", ["shared", "x"]), ("b", ["shared", "more"])] {
        fakes
            .registry
            .push_image(name, &layers, serde_json::json!({}));
        pull(&service, name).await.0.expect("pulled");
    }
    let sizes: Vec<u64> = service.shared_sizes().into_values().collect();
    assert_eq!(sizes, [6, 6]);
    let (one, two) = (service.inspect("a"), service.inspect("b"));
    let (one, two) = (one.expect("there"), two.expect("there"));
    let has = async |chain: &Digest| fakes.layers.find(chain).await.expect("good").is_some();
    let chains = |view: &ImageView| -> Vec<Digest> {
        let layers = view.record.layers.iter();
        layers.map(|layer| layer.chain_id.clone()).collect()
    };
    let (one_chains, two_chains) = (chains(&one), chains(&two));
    assert_eq!(one_chains[0], two_chains[0]);
    // By a prefix of its id.
    service
        .remove(&two.id.hex()[..7], FORCED)
        .await
        .expect("removed");
    assert!(has(&one_chains[0]).await && has(&one_chains[1]).await);
    assert!(!has(&two_chains[1]).await);
    // All names of the other go, but not what its container runs on.
    users.add(&one.id, &ContainerId::random(), true);
    service.remove("a", FORCED).await.expect("untagged");
    let all = PruneFilter {
        dangling_only: false,
        ..PruneFilter::default()
    };
    service.prune(&all).await.expect("good");
    assert!(has(&one_chains[0]).await && has(&one_chains[1]).await);
}
