//! Mounts of images.

use super::super::spec::{ContainerSpec, ImageOptions, MountKind, MountRequest};
use super::*;
use crate::containers::testing::data_image;
use crate::images::{Digest, LayerFolders};
use crate::runtime::MountSource;
use std::path::Path;

/// `--mount type=image` of `data` at /x.
fn image_mount(subpath: &str) -> MountRequest {
    MountRequest {
        kind: MountKind::Image,
        source: "data".into(),
        target: "/x".into(),
        read_only: false,
        consistency: String::new(),
        bind: None,
        volume: None,
        tmpfs: None,
        image: Some(ImageOptions {
            subpath: subpath.into(),
        }),
    }
}

fn mounting(name: &str, subpath: &str) -> CreateRequest {
    let mut request = request(name, &["sleep"]);
    request.host.mounts = vec![image_mount(subpath)];
    request
}

fn kept(world: &World, container: &Created) -> Vec<Digest> {
    let kept = world.layers.kept.lock().expect("no panic");
    kept.get(&container.id).cloned().unwrap_or_default()
}

#[tokio::test]
async fn an_image_is_looked_up_once_and_mounted_at_every_start() {
    let world = World::default();
    let service = world.service();
    let created = create(&service, mounting("web", "bin")).await;
    let data = data_image();
    let layer = data.top_layer.clone().expect("it has one");
    assert_eq!(kept(&world, &created), std::slice::from_ref(&layer));
    let container = service.find("web").expect("there");
    let mount = &container.spec.mounts[0];
    assert_eq!(mount.image.as_ref(), Some(&data));
    assert_eq!(mount.name.as_deref(), Some("data"));
    assert_eq!(mount.source, Path::new("/fake/layers").join(layer.hex()));
    assert!(!mount.read_write);
    service.start("web").await.expect("start");
    let plans = world.runtime.plans.lock().expect("no panic").clone();
    let planned = plans[0].mounts.iter().find(|mount| mount.target == "/x");
    let planned = planned.expect("in the plan");
    assert!(planned.read_only);
    assert_eq!(
        planned.source,
        MountSource::Image {
            layers: LayerFolders {
                folder: "/fake/layers".into(),
                names: vec![layer.hex().to_owned(), "empty".into()],
            },
            subpath: "bin".into(),
        }
    );
    // Its name is no volume's.
    assert!(
        world
            .volumes
            .list(&Filters::default())
            .expect("list")
            .is_empty()
    );
    service
        .stat_path("web", "/file")
        .await
        .expect("no volume is looked for");

    // The next engine says it again to whoever keeps the layers.
    service.stop("web", &STOP_NOW).await.expect("stop");
    drop(service);
    world.layers.kept.lock().expect("no panic").clear();
    let service = world.service();
    service.recover().await.expect("recovered");
    assert_eq!(kept(&world, &created), [layer]);
    service.start("web").await.expect("start");
    service.remove("web", FORCE).await.expect("remove");
    assert!(kept(&world, &created).is_empty());
}

#[tokio::test]
async fn an_image_that_is_not_there_is_missed_at_create() {
    let world = World::default();
    let service = world.service();
    let mut bad = mounting("web", "");
    bad.host.mounts[0].source = "nowhere".into();
    let error = refused(&service, bad).await;
    assert_eq!(error.class(), Class::NotFound);
    assert_eq!(error.to_string(), "No such image: nowhere");
    // Nothing is left, and the name is free.
    assert!(world.layers.prepared.lock().expect("no panic").is_empty());
    create(&service, mounting("web", "")).await;
}

#[tokio::test]
async fn whoever_mounts_an_image_uses_it() {
    let world = World::default();
    let service = world.service();
    let data = data_image();
    let first = create(&service, mounting("first", "")).await;
    assert_eq!(service.users_of(&data.id), [(first.id.clone(), false)]);
    service.start("first").await.expect("start");
    assert_eq!(service.users_of(&data.id), [(first.id.clone(), true)]);
    for (volume, found) in [("data", 1), ("/x", 1), ("other", 0)] {
        let options = ListOptions {
            filters: Filters::of([("volume", volume)]),
            ..ListOptions::default()
        };
        let listed = service.list(&options).await.expect("good filters");
        assert_eq!(listed.len(), found, "{volume}");
    }
    let mut second = request("second", &["sleep"]);
    second.host.volumes_from = vec!["first:rw".into()];
    let second = create(&service, second).await;
    let spec =
        |name: &str| -> Arc<ContainerSpec> { service.find(name).expect("there").spec.clone() };
    let inherited = &spec("second").mounts[0];
    assert_eq!(inherited.image.as_ref(), Some(&data));
    assert!(!inherited.read_write && !inherited.from_mount_flag);
    assert_eq!(kept(&world, &second).len(), 1);
    service.remove("first", FORCE).await.expect("remove");
    assert_eq!(service.users_of(&data.id), [(second.id.clone(), false)]);
    service.remove("second", FORCE).await.expect("remove");
    assert!(service.users_of(&data.id).is_empty());
}

#[tokio::test]
async fn nothing_is_copied_into_a_mounted_image() {
    let world = World::default();
    let service = world.service();
    let mut mounting = mounting("web", "");
    mounting.host.mounts[0].target = "/tmp".into();
    create(&service, mounting).await;
    let content = crate::images::blobs::stream_of("a tar");
    let written = service
        .write_path("web", "/tmp", false, false, content)
        .await;
    let error = crate::error::full_message(&written.expect_err("it is read-only"));
    assert!(
        error.contains("mounted volume is marked read-only"),
        "{error}"
    );
}
