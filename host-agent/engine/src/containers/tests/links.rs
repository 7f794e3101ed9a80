//! Links on the default bridge while containers come and go.

use super::*;
use crate::containers::etc_files;
use crate::networks::EndpointSettings;

/// Another container's /etc/hosts, once it is as it should be.
async fn hosts(world: &World, container: &Created, done: impl Fn(&str) -> bool) -> String {
    let path = world.store.folder(&container.id).join("hosts");
    let text = || {
        let written = world.files.written.lock().unwrap();
        written.get(&path).cloned().unwrap_or_default()
    };
    let reached = async {
        while !done(&text()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let outcome = tokio::time::timeout(Duration::from_secs(20), reached).await;
    outcome.unwrap_or_else(|_| panic!("{}", text()));
    text()
}

#[tokio::test]
async fn a_linked_container_is_found_where_it_has_started_again() {
    let world = World::default();
    let service = world.service();
    create(&service, request("db", &["sleep"])).await;
    create(&service, request("cache", &["sleep"])).await;
    let mut web = request("web", &["sleep"]);
    web.host.links = vec!["db:store".into(), "cache".into()];
    let web = create(&service, web).await;
    for name in ["db", "cache", "web"] {
        service.start(name).await.expect("start");
    }
    let before = hosts(&world, &web, |text| text.contains("\tstore ")).await;
    assert!(before.contains("172.17.0.2\tstore "), "{before}");
    // As a program in it does.
    let path = world.store.folder(&web.id).join("hosts");
    let file = |text: String| {
        drop(
            world
                .files
                .written
                .lock()
                .unwrap()
                .insert(path.clone(), text),
        )
    };
    file(before + "192.0.2.9\tmine\n");

    service.stop("db", &STOP_NOW).await.expect("stop");
    // The lowest address that is free: the one that was the database's.
    create(&service, request("other", &["sleep"])).await;
    service.start("other").await.expect("start");
    service.start("db").await.expect("start");
    let after = hosts(&world, &web, |text| text.contains("172.17.0.5\tstore ")).await;
    assert!(!after.contains("172.17.0.2\t"), "{after}");
    assert!(after.contains("172.17.0.3\tcache "), "{after}");
    assert!(after.contains("192.0.2.9\tmine\n"), "{after}");

    // A link to one that is stopped takes nothing from the others.
    service.stop("cache", &STOP_NOW).await.expect("stop");
    let made = world
        .network_service
        .create(crate::networks::create::CreateNetwork {
            name: "front".into(),
            ..Default::default()
        });
    made.await.expect("made");
    let front = world.network_service.find("front").expect("there");
    let joined = service.connect("web", &front, EndpointSettings::default());
    joined.await.expect("connected");
    let joined = hosts(&world, &web, |text| text.contains("172.18.0.2\t")).await;
    for line in [
        "172.17.0.5\tstore ",
        "172.17.0.3\tcache ",
        "192.0.2.9\tmine",
    ] {
        assert!(joined.contains(line), "{line}: {joined}");
    }
    assert_eq!(
        joined.matches("localhost ip6-localhost").count(),
        1,
        "{joined}"
    );
    service
        .disconnect("web", "front")
        .await
        .expect("disconnect");
    let left = hosts(&world, &web, |text| !text.contains("172.18.0.2\t")).await;
    assert!(left.contains(etc_files::HOST_NAME), "{left}");
    service.remove_link("web", "store").await.expect("unlinked");
    let unlinked = hosts(&world, &web, |text| !text.contains("\tstore ")).await;
    assert!(unlinked.contains("192.0.2.9\tmine"), "{unlinked}");
}
