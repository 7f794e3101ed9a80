//! Images that were made of others: what of them is listed, and what goes with what (moby, `image_delete.go`).

use super::super::fake::FakeImages;
use super::super::*;
use super::{FORCED, PLAIN, pull};
use serde_json::json;

/// `child` was made of `parent`.
async fn adopt(service: &ImageService, child: &Digest, parent: &Digest) {
    service
        .change(|catalog| {
            let record = catalog.records.images.get_mut(child).expect("there");
            record.parent = Some(parent.clone());
            Ok(())
        })
        .await
        .expect("recorded");
}

/// base <- middle <- top, where only base and top keep their names.
async fn family(fakes: &FakeImages) -> (ImageService, [Digest; 3]) {
    let service = fakes.service().await;
    let mut ids = Vec::new();
    for (name, layers) in [
        ("base", &["1"][..]),
        ("middle", &["1", "2"]),
        ("top", &["1", "2", "3"]),
    ] {
        ids.push(fakes.registry.push_image(name, layers, json!({})));
        pull(&service, name).await.0.expect("pulled");
    }
    adopt(&service, &ids[1], &ids[0]).await;
    adopt(&service, &ids[2], &ids[1]).await;
    (service, ids.try_into().expect("three"))
}

fn ids(service: &ImageService, all: bool) -> Vec<Digest> {
    let filter = ImageFilter {
        all,
        ..ImageFilter::default()
    };
    let list = service.list(&filter).expect("good");
    let mut ids: Vec<Digest> = list.into_iter().map(|image| image.id).collect();
    ids.sort();
    ids
}

fn sorted(mut ids: Vec<Digest>) -> Vec<Digest> {
    ids.sort();
    ids
}

#[tokio::test]
async fn an_image_that_others_were_made_of_loses_its_name_only() {
    let fakes = FakeImages::default();
    let (service, [base, middle, top]) = family(&fakes).await;
    let removed = service.remove("middle", PLAIN).await.expect("untagged");
    assert!(
        removed
            .iter()
            .all(|removed| matches!(removed, Removed::Untagged(_)))
    );
    // It is in between now: not listed unless all are asked for, and never dangling.
    assert_eq!(
        ids(&service, false),
        sorted(vec![base.clone(), top.clone()])
    );
    assert_eq!(
        ids(&service, true),
        sorted(vec![base.clone(), middle.clone(), top.clone()])
    );
    for all in [false, true] {
        let dangling = ImageFilter {
            all,
            dangling: Some(true),
            ..ImageFilter::default()
        };
        assert!(service.list(&dangling).expect("good").is_empty());
    }
    for how in [PLAIN, FORCED] {
        let error = service.remove(middle.hex(), how).await.expect_err("needed");
        assert_eq!(
            error.to_string(),
            format!(
                "conflict: unable to delete {} (cannot be forced) - image has dependent child images",
                &middle.hex()[..12]
            )
        );
    }
    assert!(
        service
            .prune(&PruneFilter::default())
            .await
            .expect("good")
            .removed
            .is_empty()
    );
    // With the last image that needs it, it goes; what has a name stays.
    let removed = service.remove("top", PLAIN).await.expect("removed");
    let deleted = |id: &Digest| removed.contains(&Removed::Deleted(id.clone()));
    assert!(deleted(&top) && deleted(&middle) && !deleted(&base));
    assert_eq!(ids(&service, true), [base]);
}

#[tokio::test]
async fn noprune_leaves_the_parents() {
    let fakes = FakeImages::default();
    let (service, [base, middle, _]) = family(&fakes).await;
    service.remove("middle", PLAIN).await.expect("untagged");
    let how = Removal {
        keep_parents: true,
        ..PLAIN
    };
    service.remove("top", how).await.expect("removed");
    assert_eq!(
        ids(&service, false),
        sorted(vec![base.clone(), middle.clone()])
    );
    // Now it is dangling.
    service.prune(&PruneFilter::default()).await.expect("good");
    assert_eq!(ids(&service, true), [base]);
    // All of them, in whatever order they come.
    let fakes = FakeImages::default();
    let (service, _) = family(&fakes).await;
    let all = PruneFilter {
        dangling_only: false,
        ..PruneFilter::default()
    };
    service.prune(&all).await.expect("good");
    assert!(ids(&service, true).is_empty());
    assert!(fakes.blobs.list().await.expect("good").is_empty());
}
