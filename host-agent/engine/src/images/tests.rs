//! The service over fakes: what users see.

mod choosing;
mod damage;
mod loads;
mod parents;
mod platforms;
mod shared;

use super::blobs::stream_of;
use super::fake::{FakeImages, FakeUsers};
use super::*;
use crate::error::{Class, Classify, full_message};
use futures_util::StreamExt;
use std::sync::Arc;

const PLAIN: Removal = Removal {
    force: false,
    keep_parents: false,
    platform: None,
};
const FORCED: Removal = Removal {
    force: true,
    keep_parents: false,
    platform: None,
};

async fn pull(service: &ImageService, name: &str) -> (Result<(), ImageError>, Vec<Progress>) {
    let (sink, mut receiver) = ProgressSink::new();
    let request = PullRequest {
        reference: Reference::parse(name)
            .expect("a good reference")
            .or_latest(),
        platform: None,
        credentials: None,
    };
    let service = service.clone();
    let task = tokio::spawn(async move { service.pull(request, &sink).await });
    let mut messages = Vec::new();
    while let Some(message) = receiver.recv().await {
        messages.push(message);
    }
    (task.await.expect("no panic"), messages)
}

fn statuses(messages: &[Progress]) -> Vec<String> {
    messages
        .iter()
        .filter_map(|message| match message {
            Progress::Status { id, status } => Some(format!("{id}|{status}")),
            _ => None,
        })
        .collect()
}

fn actions(fakes: &FakeImages) -> Vec<String> {
    let (past, _) = fakes.events.subscribe();
    past.iter()
        .map(|event| format!("{} {}", event.action, event.attributes["name"]))
        .collect()
}

#[tokio::test]
async fn a_pull_tells_its_story_once_and_then_that_nothing_is_new() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let id = fakes.registry.push_image(
        "alpine",
        &["one", "two"],
        serde_json::json!({"Cmd": ["sh"]}),
    );
    let (outcome, messages) = pull(&service, "alpine").await;
    outcome.expect("pulled");
    let told = statuses(&messages);
    assert_eq!(told[0], "latest|Pulling from library/alpine");
    assert!(
        told.iter()
            .filter(|line| line.ends_with("|Pulling fs layer"))
            .count()
            == 2
    );
    assert!(
        told.iter()
            .filter(|line| line.ends_with("|Pull complete"))
            .count()
            == 2
    );
    assert!(told[told.len() - 2].starts_with("|Digest: sha256:"));
    assert_eq!(
        told[told.len() - 1],
        "|Status: Downloaded newer image for alpine:latest"
    );

    let image = service.resolve("alpine").await.expect("there");
    assert_eq!(image.id, id);
    assert_eq!(image.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
    for name in [
        "alpine:latest",
        "docker.io/library/alpine",
        id.as_str(),
        id.hex(),
        &id.hex()[..5],
    ] {
        assert_eq!(service.resolve(name).await.expect(name).id, id);
    }
    let view = service.inspect("alpine").expect("there");
    assert_eq!(view.repo_tags, ["alpine:latest"]);
    assert!(view.repo_digests[0].starts_with("alpine@sha256:"));
    assert_eq!(
        service
            .resolve(&view.repo_digests[0])
            .await
            .expect("by digest")
            .id,
        id
    );
    assert_eq!(view.size(), 6);

    let fetches = fakes.registry.blob_fetches();
    let (outcome, messages) = pull(&service, "alpine").await;
    outcome.expect("pulled");
    let told = statuses(&messages);
    assert_eq!(
        told[told.len() - 1],
        "|Status: Image is up to date for alpine:latest"
    );
    // As with dockerd: not a word about layers.
    assert_eq!(told.len(), 3, "{told:?}");
    assert_eq!(fakes.registry.blob_fetches(), fetches);
    assert_eq!(actions(&fakes), ["pull alpine", "pull alpine"]);

    // After a restart everything is as it was.
    let again = fakes.service().await;
    assert_eq!(again.resolve("alpine").await.expect("there").id, id);
    assert_eq!(again.list(&ImageFilter::default()).expect("good").len(), 1);
}

#[tokio::test]
async fn pulls_that_cannot_be_have_dockers_words_and_no_messages() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes
        .registry
        .push_image("alpine", &["one"], serde_json::json!({}));
    let (outcome, messages) = pull(&service, "nothere").await;
    let error = outcome.expect_err("not there");
    assert_eq!(
        full_message(&error),
        "pull access denied for nothere, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"
    );
    assert_eq!((error.class(), messages.len()), (Class::NotFound, 0));
    let (outcome, messages) = pull(&service, "alpine:none").await;
    let error = outcome.expect_err("not there");
    assert_eq!(
        full_message(&error),
        "manifest for alpine:none not found: manifest unknown: manifest unknown"
    );
    assert_eq!((error.class(), messages.len()), (Class::NotFound, 0));
}

#[tokio::test]
async fn a_layer_that_is_not_what_it_says_fails_and_leaves_nothing() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let name = Reference::parse("bad").expect("good").or_latest();
    let layer = fakes.registry.push_blob(b"one".as_slice());
    let config =
        serde_json::json!({"os": "linux", "rootfs": {"diff_ids": [config::digest_of(b"other")]}})
            .to_string();
    let size = config.len();
    let config = fakes.registry.push_blob(config);
    let manifest = serde_json::json!({"schemaVersion": 2,
        "config": {"digest": config, "size": size},
        "layers": [{"digest": layer, "size": 3}]});
    fakes
        .registry
        .push_manifest(&name, manifest::OCI_MANIFEST, manifest.to_string());
    let (outcome, messages) = pull(&service, "bad").await;
    let text = full_message(&outcome.expect_err("refused"));
    assert!(text.starts_with("failed to register layer"), "{text}");
    assert!(!messages.is_empty());
    assert!(fakes.blobs.list().await.expect("good").is_empty());
    assert!(
        service
            .list(&ImageFilter::default())
            .expect("good")
            .is_empty()
    );
    // A layer larger than announced is cut off.
    let manifest = manifest.to_string().replace("\"size\":3", "\"size\":2");
    fakes
        .registry
        .push_manifest(&name, manifest::OCI_MANIFEST, manifest);
    let (outcome, _) = pull(&service, "bad").await;
    let text = full_message(&outcome.expect_err("refused"));
    assert!(text.contains("more than the 2"), "{text}");
}

#[tokio::test]
async fn two_pulls_of_the_same_layers_download_them_once() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes
        .registry
        .push_image("a", &["shared", "more"], serde_json::json!({}));
    fakes
        .registry
        .push_image("b", &["shared", "more"], serde_json::json!({"User": "x"}));
    let (one, two) = tokio::join!(pull(&service, "a"), pull(&service, "b"));
    one.0.expect("pulled");
    two.0.expect("pulled");
    // Two layers and two configurations.
    assert_eq!(fakes.registry.blob_fetches(), 4);
}

#[tokio::test]
async fn the_last_name_takes_the_image_with_it() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let id = fakes
        .registry
        .push_image("a", &["one", "two"], serde_json::json!({}));
    pull(&service, "a").await.0.expect("pulled");
    let target = Reference::parse("me/b:1").expect("good");
    service.tag("a", &target).await.expect("tagged");
    assert!(service.tag("none", &target).await.is_err());
    // By id it is refused while it has names in two repositories.
    let error = service
        .remove(id.hex(), PLAIN)
        .await
        .expect_err("two names");
    assert_eq!(
        error.to_string(),
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
            &id.hex()[..12]
        )
    );
    assert_eq!(error.class(), Class::Conflict);
    let removed = service.remove("a", PLAIN).await.expect("untagged");
    assert_eq!(removed[0], Removed::Untagged("a:latest".into()));
    assert!(matches!(&removed[1..], [Removed::Untagged(name)] if name.starts_with("a@sha256:")));
    let removed = service.remove("me/b:1", PLAIN).await.expect("removed");
    assert_eq!(removed[0], Removed::Untagged("me/b:1".into()));
    assert_eq!(removed[1], Removed::Deleted(id.clone()));
    assert_eq!(removed.len(), 4);
    assert!(fakes.blobs.list().await.expect("good").is_empty());
    let error = service.remove("a", PLAIN).await.expect_err("gone");
    assert_eq!(error.to_string(), "No such image: a:latest");
    let actions = actions(&fakes);
    assert_eq!(actions[1], "tag me/b:1");
    assert!(
        actions
            .iter()
            .any(|action| action.starts_with("delete sha256:"))
    );
}

#[tokio::test]
async fn what_containers_use_is_kept_as_docker_keeps_it() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let users = Arc::new(FakeUsers::default());
    service.set_users(users.clone());
    let id = fakes
        .registry
        .push_image("a", &["one"], serde_json::json!({}));
    pull(&service, "a").await.0.expect("pulled");
    let container = ContainerId::random();
    users.add(&id, &container, false);
    let (short, image) = (container.short(), &id.hex()[..12]);
    assert_eq!(
        service
            .remove("a", PLAIN)
            .await
            .expect_err("used")
            .to_string(),
        format!(
            "conflict: unable to remove repository reference \"a\" (must force) - container {short} is using its referenced image {image}"
        )
    );
    assert_eq!(
        service
            .remove(id.hex(), PLAIN)
            .await
            .expect_err("used")
            .to_string(),
        format!(
            "conflict: unable to delete {image} (must be forced) - image is being used by stopped container {short}"
        )
    );
    let runner = ContainerId::random();
    users.add(&id, &runner, true);
    assert_eq!(
        service
            .remove(id.hex(), FORCED)
            .await
            .expect_err("used")
            .to_string(),
        format!(
            "conflict: unable to delete {image} (cannot be forced) - image is being used by running container {}",
            runner.short()
        )
    );
    // Forced by name: the name goes, the image stays for the running container.
    let removed = service.remove("a", FORCED).await.expect("untagged");
    assert!(
        removed
            .iter()
            .all(|removed| matches!(removed, Removed::Untagged(_)))
    );
    assert_eq!(
        service.inspect(id.hex()).expect("there").repo_tags,
        Vec::<String>::new()
    );
    let dangling = ImageFilter {
        dangling: Some(true),
        ..ImageFilter::default()
    };
    assert_eq!(service.list(&dangling).expect("good").len(), 1);
}

#[tokio::test]
async fn lists_are_filtered() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes
        .registry
        .push_image("a", &["one"], serde_json::json!({"Labels": {"k": "v"}}));
    fakes
        .registry
        .push_image("me/b:2", &["two"], serde_json::json!({}));
    pull(&service, "a").await.0.expect("pulled");
    pull(&service, "me/b:2").await.0.expect("pulled");
    let count = |filter: ImageFilter| service.list(&filter).expect("good").len();
    let list = |text: &str| vec![text.to_owned()];
    assert_eq!(count(ImageFilter::default()), 2);
    assert_eq!(
        count(ImageFilter {
            labels: list("k=v"),
            ..Default::default()
        }),
        1
    );
    assert_eq!(
        count(ImageFilter {
            labels: list("k=w"),
            ..Default::default()
        }),
        0
    );
    assert_eq!(
        count(ImageFilter {
            references: list("me/*"),
            ..Default::default()
        }),
        1
    );
    assert_eq!(
        count(ImageFilter {
            references: list("*:2"),
            ..Default::default()
        }),
        0
    );
    assert_eq!(
        count(ImageFilter {
            before: list("a"),
            ..Default::default()
        }),
        0
    );
    assert_eq!(
        count(ImageFilter {
            dangling: Some(true),
            ..Default::default()
        }),
        0
    );
    assert!(
        service
            .list(&ImageFilter {
                since: list("none"),
                ..Default::default()
            })
            .is_err()
    );
    let history = service.history("a", None).expect("there");
    assert_eq!(
        (history[0].created_by.as_str(), history[0].size),
        ("one", 3)
    );
    assert_eq!(history[0].tags, ["a:latest"]);
}

#[tokio::test]
async fn what_is_saved_can_be_loaded_elsewhere() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let id = fakes
        .registry
        .push_image("a", &["one", "two"], serde_json::json!({"User": "u"}));
    let other = fakes
        .registry
        .push_image("me/b:2", &["one"], serde_json::json!({}));
    pull(&service, "a").await.0.expect("pulled");
    pull(&service, "me/b:2").await.0.expect("pulled");
    let mut stream = service
        .save(&["a".into(), other.hex().into()], None)
        .await
        .expect("good");
    let mut archive = Vec::new();
    while let Some(piece) = stream.next().await {
        archive.extend_from_slice(&piece.expect("readable"));
    }
    assert!(service.save(&["none".into()], None).await.is_err());

    let elsewhere = FakeImages::default();
    let service = elsewhere.service().await;
    let (sink, mut receiver) = ProgressSink::new();
    let sink = sink.without_bars();
    service
        .load(stream_of(archive), None, &sink)
        .await
        .expect("loaded");
    drop(sink);
    let mut lines = Vec::new();
    while let Some(Progress::Line(line)) = receiver.recv().await {
        lines.push(line);
    }
    assert_eq!(
        lines,
        [
            "Loaded image: a:latest\n".to_owned(),
            format!("Loaded image ID: {other}\n")
        ]
    );
    assert_eq!(service.resolve("a").await.expect("there").id, id);
    assert_eq!(service.resolve(other.hex()).await.expect("there").id, other);
    for bad in [b"no tar at all".to_vec(), Vec::new(), vec![1; 2000]] {
        assert!(
            service
                .load(stream_of(bad), None, &ProgressSink::none())
                .await
                .is_err()
        );
    }
}

async fn push(
    service: &ImageService,
    name: &str,
    tag: Option<&str>,
) -> (Result<(), ImageError>, Vec<Progress>) {
    let (sink, mut receiver) = ProgressSink::new();
    let request = PushRequest {
        repository: Repository::parse(name).expect("a good name"),
        tag: tag.map(str::to_owned),
        platform: None,
        credentials: None,
    };
    let service = service.clone();
    let task = tokio::spawn(async move { service.push(request, &sink).await });
    let mut messages = Vec::new();
    while let Some(message) = receiver.recv().await {
        messages.push(message);
    }
    (task.await.expect("no panic"), messages)
}

#[tokio::test]
async fn a_push_sends_what_was_pulled_byte_for_byte_and_only_once() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let id = fakes
        .registry
        .push_image("a.example/a", &["one", "two"], serde_json::json!({}));
    pull(&service, "a.example/a").await.0.expect("pulled");
    let digest = service.inspect("a.example/a").expect("there").repo_digests[0]
        .split_once('@')
        .expect("a digest")
        .1
        .to_owned();
    for tag in ["1", "2"] {
        let target = Reference::parse(&format!("b.example/b:{tag}")).expect("good");
        service.tag("a.example/a", &target).await.expect("tagged");
    }
    let (outcome, messages) = push(&service, "b.example/b", Some("1")).await;
    outcome.expect("pushed");
    let told = statuses(&messages);
    assert_eq!(told[0], "|The push refers to repository [b.example/b]");
    assert_eq!(
        told.iter()
            .filter(|line| line.ends_with("|Preparing"))
            .count(),
        2
    );
    assert_eq!(
        told.iter().filter(|line| line.ends_with("|Pushed")).count(),
        2
    );
    assert!(
        told[told.len() - 1].starts_with(&format!("|1: digest: {digest} size: ")),
        "{told:?}"
    );
    assert!(
        matches!(&messages[messages.len() - 1], Progress::Pushed { tag, digest: d, .. } if tag == "1" && d.as_str() == digest)
    );
    // Known by its digest there, and it can be pulled from there.
    let image = service
        .inspect(&format!("b.example/b@{digest}"))
        .expect("there");
    assert_eq!(image.id, id);
    let elsewhere = FakeImages {
        registry: fakes.registry.clone(),
        ..FakeImages::default()
    };
    let other = elsewhere.service().await;
    pull(&other, "b.example/b:1").await.0.expect("pulled");
    assert_eq!(other.inspect("b.example/b:1").expect("there").id, id);

    // All tags, and nothing is sent again.
    let (outcome, messages) = push(&service, "b.example/b", None).await;
    outcome.expect("pushed");
    let told = statuses(&messages);
    assert_eq!(
        told.iter()
            .filter(|line| line.ends_with("|Layer already exists"))
            .count(),
        4
    );
    assert!(told.iter().any(|line| line.starts_with("|2: digest: ")));
    // Another repository of the same registry takes the layers from its neighbour.
    let target = Reference::parse("b.example/c:1").expect("good");
    service.tag("a.example/a", &target).await.expect("tagged");
    let (outcome, messages) = push(&service, "b.example/c", Some("1")).await;
    outcome.expect("pushed");
    assert_eq!(
        statuses(&messages)
            .iter()
            .filter(|line| line.ends_with("|Mounted from b"))
            .count(),
        2
    );
    assert_eq!(
        actions(&fakes).last().map(String::as_str),
        Some("push b.example/c")
    );

    for (name, tag, text) in [
        (
            "none.example/x",
            None,
            "An image does not exist locally with the tag: none.example/x",
        ),
        (
            "b.example/b",
            Some("9"),
            "tag does not exist: b.example/b:9",
        ),
    ] {
        let (outcome, messages) = push(&service, name, tag).await;
        assert_eq!(outcome.expect_err("not there").to_string(), text);
        assert_eq!(messages.len(), 1);
    }
}

#[tokio::test]
async fn the_administrators_rules_come_before_any_byte() {
    let fakes = FakeImages::default();
    let rules = |allow: &[&str], block: &[&str]| policy::Rules {
        allow: allow.iter().map(|text| (*text).to_owned()).collect(),
        block: block.iter().map(|text| (*text).to_owned()).collect(),
    };
    let service = fakes.service_with(ImageOptions {
        policy: policy::Policy {
            pull: rules(&[], &["evil.example"]),
            push: rules(&["corp.example/*"], &[]),
        },
        ..ImageOptions::default()
    });
    fakes
        .registry
        .push_image("evil.example/a", &["one"], serde_json::json!({}));
    fakes
        .registry
        .push_image("a", &["one"], serde_json::json!({}));
    let (outcome, messages) = pull(&service, "evil.example/a").await;
    let error = outcome.expect_err("blocked");
    assert_eq!((error.class(), messages.len()), (Class::Denied, 0));
    assert!(
        error.to_string().contains("block-pull \"evil.example\""),
        "{error}"
    );
    assert_eq!(fakes.registry.blob_fetches(), 0);
    pull(&service, "a").await.0.expect("allowed");
    let (outcome, messages) = push(&service, "a", None).await;
    let error = outcome.expect_err("blocked");
    assert_eq!((error.class(), messages.len()), (Class::Denied, 0));
    assert!(
        error
            .to_string()
            .contains("allow-push pattern (corp.example/*)"),
        "{error}"
    );
    let target = Reference::parse("corp.example/a:1").expect("good");
    service.tag("a", &target).await.expect("tagged");
    push(&service, "corp.example/a", None)
        .await
        .0
        .expect("allowed");
}

#[tokio::test]
async fn prune_takes_what_nobody_uses() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    let users = Arc::new(FakeUsers::default());
    service.set_users(users.clone());
    let kept = fakes.registry.push_image(
        "kept",
        &["one"],
        serde_json::json!({"Labels": {"keep": ""}}),
    );
    let used = fakes
        .registry
        .push_image("used", &["two"], serde_json::json!({}));
    fakes
        .registry
        .push_image("a", &["one", "three"], serde_json::json!({}));
    for name in ["kept", "used", "a"] {
        pull(&service, name).await.0.expect("pulled");
    }
    users.add(&used, &ContainerId::random(), false);
    // A new `a` leaves the old one without a tag, known by its digest only.
    fakes
        .registry
        .push_image("a", &["four"], serde_json::json!({}));
    pull(&service, "a").await.0.expect("pulled");
    let pruned = service.prune(&PruneFilter::default()).await.expect("good");
    assert_eq!(pruned.reclaimed, 5, "{pruned:?}");
    assert!(matches!(&pruned.removed[0], Removed::Untagged(name) if name.starts_with("a@sha256:")));
    assert_eq!(
        service.list(&ImageFilter::default()).expect("good").len(),
        3
    );
    let all = PruneFilter {
        dangling_only: false,
        without_labels: vec!["keep".into()],
        ..PruneFilter::default()
    };
    let old = PruneFilter {
        until: Some(time::OffsetDateTime::UNIX_EPOCH),
        ..all.clone()
    };
    assert!(service.prune(&old).await.expect("good").removed.is_empty());
    assert_eq!(service.prune(&all).await.expect("good").reclaimed, 4);
    let left: Vec<Digest> = service
        .list(&ImageFilter::default())
        .expect("good")
        .into_iter()
        .map(|image| image.id)
        .collect();
    assert!(left.len() == 2 && left.contains(&kept) && left.contains(&used));
    let (past, _) = fakes.events.subscribe();
    let last = past.last().expect("events");
    assert_eq!(
        (last.action.as_str(), last.attributes["reclaimed"].as_str()),
        ("prune", "4")
    );
}

#[tokio::test]
async fn an_interrupted_pull_goes_on_where_it_was() {
    let fakes = FakeImages::default();
    fakes
        .registry
        .push_image("a", &["a long layer"], serde_json::json!({}));
    let digest = config::digest_of(b"a long layer");
    fakes.blobs.leave_partial(&digest, b"a long".as_slice());
    let service = fakes.service_with(ImageOptions {
        resumes: true,
        ..ImageOptions::default()
    });
    pull(&service, "a").await.0.expect("pulled");
    assert_eq!(fakes.registry.bytes_fetched(&digest), 6);
    // A beginning that is not the blob's is found out, and the blob fetched anew.
    let other = FakeImages {
        registry: fakes.registry.clone(),
        ..FakeImages::default()
    };
    other.blobs.leave_partial(&digest, b"something".as_slice());
    let service = other.empty_service();
    pull(&service, "a").await.0.expect("pulled");
    let bytes = other.blobs.read(&digest, 100).await.expect("there");
    assert_eq!(bytes, b"a long layer".as_slice());
}

#[tokio::test]
async fn a_layer_that_came_as_another_blob_can_still_be_saved_and_pushed() {
    let fakes = FakeImages::default();
    let service = fakes.service().await;
    fakes
        .registry
        .push_image("a", &["same"], serde_json::json!({}));
    pull(&service, "a").await.0.expect("pulled");
    let blob = config::digest_of(b"same");
    // As if it had come by another blob.
    fakes.blobs.remove(&blob).await.expect("removed");
    fakes
        .registry
        .push_image("b", &["same"], serde_json::json!({"User": "x"}));
    pull(&service, "b").await.0.expect("pulled");
    assert!(fakes.blobs.size(&blob).await.expect("good").is_some());
    assert!(service.save(&["b".into()], None).await.is_ok());
}

proptest::proptest! {
    /// Archives with some bytes changed or missing: a clear refusal or a whole image, and nothing in between.
    #[test]
    fn damaged_archives_are_refused_whole(
        changes in proptest::collection::vec((0usize..20_000, 1u8..=255), 0..4),
        end in proptest::option::of(0usize..20_000),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let fakes = FakeImages::default();
            let service = fakes.service().await;
            fakes
                .registry
                .push_image("a", &["one", "two"], serde_json::json!({"User": "u"}));
            pull(&service, "a").await.0.expect("pulled");
            let mut stream = service.save(&["a".into()], None).await.expect("good");
            let mut archive = Vec::new();
            while let Some(piece) = stream.next().await {
                archive.extend_from_slice(&piece.expect("readable"));
            }
            for (at, bits) in &changes {
                let at = at % archive.len();
                archive[at] ^= bits;
            }
            if let Some(end) = end {
                archive.truncate(end % (archive.len() + 1));
            }
            let elsewhere = FakeImages::default();
            let service = elsewhere.service().await;
            let outcome = service
                .load(stream_of(archive), None, &ProgressSink::none())
                .await;
            match outcome {
                Ok(()) => {
                    for image in service.list(&ImageFilter::default()).expect("good") {
                        let name = image.id.as_str().to_owned();
                        assert!(service.save(&[name], None).await.is_ok(), "it is whole");
                    }
                }
                Err(error) => {
                    assert_ne!(error.class(), Class::Internal, "{}", full_message(&error));
                    assert!(elsewhere.blobs.list().await.expect("good").is_empty());
                }
            }
        });
    }
}
