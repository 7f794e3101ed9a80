//! Stop, restart and kill, where they meet `--rm`, a pause, a restart policy or a client that does not read.

use super::*;
use crate::containers::container::Command;
use crate::containers::lifecycle::Request;
use crate::containers::spec::NamespaceMode;

/// `--rm` with an anonymous volume; it starts only while "donor" runs.
async fn passing(service: &ContainerService, command: &[&str]) -> Created {
    let mut request = removing("web", command);
    request.config.volumes.insert("/data".into());
    request.host.pid = NamespaceMode::Container("donor".into());
    create(service, testing::request("donor", &["sleep"])).await;
    service.start("donor").await.expect("start");
    let created = create(service, request).await;
    service.start("web").await.expect("start");
    created
}

fn volumes(world: &World) -> usize {
    let listed = world.volumes.list(&Filters::default());
    listed.expect("a good filter").len()
}

async fn is_removed(service: &ContainerService, created: &Created) {
    let waiting = service.wait(created.id.as_str(), WaitCondition::Removed);
    if let Ok(waiting) = waiting {
        let removed = tokio::time::timeout(Duration::from_secs(20), waiting.done()).await;
        removed.expect("in time");
    }
    service.finish_removals(Duration::from_secs(20)).await;
    assert!(service.find("web").is_err());
}

#[tokio::test]
async fn a_restart_is_not_the_end_of_what_is_removed_at_its_end() {
    let world = World::default();
    let service = world.service();
    let created = passing(&service, &["sleep"]).await;
    for options in [StopOptions::default(), STOP_NOW] {
        service.restart("web", &options).await.expect("restart");
        assert_eq!(state(&service, "web").name(), "running");
        assert_eq!(volumes(&world), 1);
    }
    let bad = StopOptions {
        signal: Some("FLY".into()),
        timeout: None,
    };
    let error = service.restart("web", &bad).await.expect_err("no signal");
    assert_eq!(error.class(), Class::Invalid);
    service.kill("web", None).await.expect("kill");
    is_removed(&service, &created).await;
    assert_eq!(volumes(&world), 0);
    let actions = world.actions();
    let count = |action: &str| actions.iter().filter(|one| *one == action).count();
    assert_eq!((count("restart"), count("destroy")), (2, 1), "{actions:?}");
}

#[tokio::test]
async fn a_restart_whose_start_fails_is_the_end_of_it() {
    let world = World::default();
    let service = world.service();
    let created = passing(&service, &["sleep"]).await;
    service.stop("donor", &STOP_NOW).await.expect("stop");
    service.restart("web", &STOP_NOW).await.expect_err("start");
    is_removed(&service, &created).await;
    assert_eq!(volumes(&world), 0);
}

/// Nobody goes on with the restart: what was to be removed at its end is.
#[tokio::test]
async fn an_engine_that_is_killed_in_a_restart_leaves_nothing_of_it() {
    let world = World::default();
    let service = world.service();
    passing(&service, &["sleep"]).await;
    let container = service.find("web").expect("there");
    let keep = |reply| Command::KeepAtEnd { keep: true, reply };
    container.ask(keep).await.expect("noted");
    let step = container.decide(Request::Stop, "web").expect("it runs");
    let stopped = service.stop_container(&container, step, &STOP_NOW).await;
    stopped.expect("stop");
    assert_eq!(state(&service, "web").name(), "exited");
    assert_eq!(volumes(&world), 1);
    drop(service);
    let service = world.service();
    service.recover().await.expect("recover");
    assert!(service.find("web").is_err());
    assert_eq!(volumes(&world), 0);
}

#[tokio::test]
async fn a_restart_goes_on_without_its_client() {
    let world = World::default();
    let service = world.service();
    create(&service, request("web", &["stubborn"])).await;
    service.start("web").await.expect("start");
    let options = StopOptions {
        signal: None,
        timeout: Some(1),
    };
    let restart = service.restart("web", &options);
    let left = tokio::time::timeout(Duration::from_millis(50), restart).await;
    left.expect_err("it takes its second");
    let told = async {
        while !world.actions().contains(&"restart".to_owned()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(20), told).await;
    told.expect("it starts again");
    assert_eq!(state(&service, "web").name(), "running");
}

fn with_stop_signal(name: &str, signal: Option<&str>) -> CreateRequest {
    let mut request = with_restart(name, &["sleep"], RestartPolicy::Always);
    request.config.stop_signal = signal.map(str::to_owned);
    request
}

#[tokio::test]
async fn a_kill_wakes_who_is_paused_where_dockerds_does() {
    let world = World::default();
    let service = world.service();
    for (stop_signal, signal, after) in [
        (None, "TERM", "exited"),
        (None, "KILL", "exited"),
        (None, "USR1", "running"),
        (Some("INT"), "INT", "exited"),
        (Some("INT"), "KILL", "exited"),
        (Some("INT"), "USR1", "paused"),
        (Some("INT"), "TERM", "paused"),
    ] {
        create(&service, with_stop_signal("web", stop_signal)).await;
        service.start("web").await.expect("start");
        service.pause("web").await.expect("pause");
        let killed = service.kill("web", Some(signal)).await;
        killed.expect("kill");
        reaches(&service, "web", after).await;
        service.remove("web", FORCE).await.expect("remove");
    }
}

/// What is not meant to end a container leaves its restart policy alone.
#[tokio::test]
async fn only_its_stop_signal_and_sigkill_end_a_restart_policy() {
    let world = World::default();
    let service = world.service();
    for (stop_signal, signal, by_hand) in [
        (None, "TERM", true),
        (None, "KILL", true),
        (None, "USR1", false),
        (Some("INT"), "INT", true),
        (Some("INT"), "KILL", true),
        (Some("INT"), "TERM", false),
    ] {
        create(&service, with_stop_signal("web", stop_signal)).await;
        service.start("web").await.expect("start");
        service.kill("web", Some(signal)).await.expect("kill");
        let status = service.find("web").expect("there").status();
        assert_eq!(status.stopped_by_hand, by_hand, "{stop_signal:?} {signal}");
        service.remove("web", FORCE).await.expect("remove");
    }
}

/// A `docker run` that somebody has suspended does not read, and the next run has clients of its own.
#[tokio::test]
async fn a_client_that_does_not_read_holds_up_no_later_run() {
    let world = World::default();
    let service = world.service();
    let mut request = request("web", &["cat"]);
    request.config.open_stdin = true;
    create(&service, request).await;
    let options = AttachOptions {
        stdin: true,
        stdout: true,
        stream: true,
        ..AttachOptions::default()
    };
    let suspended = service.attach("web", &options).await.expect("attach");
    service.start("web").await.expect("start");
    let typed = suspended.stdin.expect("asked for");
    let old = Bytes::from_static(b"old");
    // Until nothing moves any more.
    let blocked = async { while typed.send(old.clone()).await.is_ok() {} };
    let blocked = tokio::time::timeout(Duration::from_millis(200), blocked).await;
    blocked.expect_err("it waits for the client");
    service.kill("web", None).await.expect("kill");
    assert_eq!(state(&service, "web").name(), "exited");

    let client = service.attach("web", &options).await.expect("attach");
    service.start("web").await.expect("start again");
    drop(suspended.output);
    drop(typed);
    let (typed, mut output) = (client.stdin.expect("asked"), client.output.expect("asked"));
    for _ in 0..3 {
        typed.send(Bytes::from_static(b"new")).await.expect("taken");
        let read = tokio::time::timeout(Duration::from_secs(20), output.recv()).await;
        let (_, data) = read.expect("in time").expect("it goes on");
        assert_eq!(data, "new");
    }
}
