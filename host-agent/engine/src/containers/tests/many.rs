//! Several containers: lists, joined namespaces, prune, crowds.

use super::*;

#[tokio::test]
async fn listing_with_filters() {
    let world = World::default();
    let service = world.service();
    let mut labelled = request("a-web", &["sleep"]);
    labelled.config.labels.insert("tier".into(), "front".into());
    create(&service, labelled).await;
    create(&service, request("b-job", &["exit", "3"])).await;
    create(&service, request("c-new", &["sleep"])).await;
    service.start("a-web").await.expect("start");
    let done = service
        .wait("b-job", WaitCondition::NextExit)
        .expect("wait");
    service.start("b-job").await.expect("start");
    done.done().await;
    let names = async |all: bool, filters: &[(&str, &str)]| {
        let options = ListOptions {
            all,
            limit: None,
            filters: Filters::of(filters.iter().copied()),
        };
        let listed = service.list(&options).await.expect("good filters");
        listed
            .iter()
            .map(|(container, _)| container.name())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(false, &[]).await, ["a-web"]);
    assert_eq!(names(true, &[]).await, ["c-new", "b-job", "a-web"]);
    assert_eq!(names(false, &[("status", "exited")]).await, ["b-job"]);
    assert_eq!(names(false, &[("exited", "3")]).await, ["b-job"]);
    assert_eq!(names(true, &[("label", "tier=front")]).await, ["a-web"]);
    assert_eq!(names(true, &[("name", "job")]).await, ["b-job"]);
    assert_eq!(
        names(false, &[("before", "c-new")]).await,
        ["b-job", "a-web"]
    );
    assert_eq!(names(false, &[("since", "b-job")]).await, ["c-new"]);
    assert_eq!(names(true, &[("ancestor", "busybox")]).await.len(), 3);
    assert!(names(true, &[("ancestor", "nothing")]).await.is_empty());
    assert_eq!(names(false, &[("network", "bridge")]).await, ["a-web"]);
    let limited = ListOptions {
        limit: Some(1),
        ..ListOptions::default()
    };
    assert_eq!(service.list(&limited).await.unwrap()[0].0.name(), "c-new");
    for bad in [
        ("colour", "red"),
        ("status", "happy"),
        ("exited", "x"),
        ("before", "nobody"),
    ] {
        let options = ListOptions {
            filters: Filters::of([bad]),
            ..ListOptions::default()
        };
        assert!(service.list(&options).await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn logs_and_top() {
    let world = World::default();
    let service = world.service();
    create(&service, request("job", &["echo", "line"])).await;
    let follow = LogOptions {
        stdout: true,
        stderr: true,
        follow: true,
        ..LogOptions::default()
    };
    let mut before = service.logs("job", &follow).await.expect("nothing yet");
    assert!(before.entries.recv().await.is_none());
    let done = service.wait("job", WaitCondition::NextExit).expect("wait");
    service.start("job").await.expect("start");
    done.done().await;
    let mut log = service.logs("job", &follow).await.expect("the log");
    let entries = log
        .entries
        .recv()
        .await
        .expect("one line")
        .expect("readable");
    assert_eq!(entries[0].line, Bytes::from_static(b"line\n"));
    let none = service
        .logs("job", &LogOptions::default())
        .await
        .err()
        .expect("no stream chosen");
    assert!(
        none.to_string()
            .contains("you must choose at least one stream")
    );
    assert_eq!(
        service.top("job", "").await.expect_err("it ended").class(),
        Class::Conflict
    );
    create(&service, request("web", &["sleep"])).await;
    service.start("web").await.expect("start");
    let table = service.top("web", "").await.expect("top");
    assert_eq!(table.titles.len(), table.rows[0].len());
    assert_eq!(table.rows[0][7], "sleep");
}

#[tokio::test]
async fn namespaces_of_other_containers() {
    let world = World::default();
    let service = world.service();
    let first = create(&service, request("first", &["sleep"])).await;
    let mut second = request("second", &["sleep"]);
    second.host.network = NetworkChoice::Container("first".into());
    create(&service, second).await;
    let spec = service.find("second").unwrap().spec.clone();
    assert_eq!(spec.host.network.text(), format!("container:{}", first.id));
    let error = service
        .start("second")
        .await
        .expect_err("first does not run");
    assert_eq!(error.class(), Class::Conflict);
    service.start("first").await.expect("start");
    service.start("second").await.expect("start");
    let mut strange = request("third", &["sleep"]);
    strange.host.network = NetworkChoice::Named("elsewhere".into());
    // It may be made later, as in Docker; the start misses it.
    create(&service, strange).await;
    let error = service.start("third").await.expect_err("no such network");
    assert_eq!(error.class(), Class::NotFound);
}

#[tokio::test]
async fn images_know_who_uses_them_and_prune_takes_what_does_not_run() {
    let world = World::default();
    let service = world.service();
    create(&service, request("web", &["sleep"])).await;
    service.start("web").await.expect("start");
    create(&service, request("old", &["sleep"])).await;
    let users = service.users_of(&testing::image_id());
    assert_eq!(users.len(), 2);
    assert_eq!(users.iter().filter(|(_, running)| *running).count(), 1);
    let (removed, bytes) = service.prune(&Filters::default()).await.expect("prune");
    assert_eq!((removed.len(), bytes), (1, 10));
    assert!(service.find("old").is_err() && service.find("web").is_ok());
}

#[tokio::test]
async fn many_at_once() {
    let world = World::default();
    let service = world.service();
    let lives = (0..40).map(|number| {
        let service: Arc<ContainerService> = service.clone();
        tokio::spawn(async move {
            let name = format!("box-{number}");
            create(&service, removing(&name, &["exit", "5"])).await;
            let waiting = service.wait(&name, WaitCondition::Removed).expect("wait");
            service.start(&name).await.expect("start");
            waiting.done().await.exit_code
        })
    });
    for life in futures_util::future::join_all(lives).await {
        assert_eq!(life.expect("no panic"), 5);
    }
    assert!(service.all().is_empty());
}
