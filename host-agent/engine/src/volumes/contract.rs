//! What every [`VolumeStore`](super::VolumeStore) must do. Called by the tests of each implementation, with an empty store.

use super::{VolumeRecord, VolumeStore};
use std::collections::BTreeMap;
use time::OffsetDateTime;

/// Panics where the store does not keep the contract.
pub async fn check(store: &dyn VolumeStore) {
    let record = |name: &str| VolumeRecord {
        name: name.into(),
        labels: BTreeMap::from([("key".into(), "a \"value\"\n".into())]),
        created: OffsetDateTime::UNIX_EPOCH + time::Duration::nanoseconds(1_500_000_001),
        options: BTreeMap::from([("type".into(), "none".into())]),
    };
    assert!(store.load().await.expect("an empty store loads").is_empty());

    store.create(&record("second")).await.expect("create");
    store.create(&record("first")).await.expect("create");
    let mut loaded = store.load().await.expect("load");
    loaded.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(loaded, [record("first"), record("second")]);
    assert_ne!(store.mountpoint("first"), store.mountpoint("second"));
    assert_eq!(store.usage("first").await.expect("usage"), 0);
    store
        .unmount("first")
        .await
        .expect("what is not mounted can be unmounted");

    store.remove("first").await.expect("remove");
    store
        .remove("first")
        .await
        .expect("removing what is gone is no error");
    assert_eq!(store.load().await.expect("load"), [record("second")]);

    store
        .create(&record("first"))
        .await
        .expect("the name is free again");
    store.remove("first").await.expect("remove");
    store.remove("second").await.expect("remove");
    assert!(store.load().await.expect("load").is_empty());
}
