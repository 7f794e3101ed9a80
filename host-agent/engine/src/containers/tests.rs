//! The service over fakes: what users do, and what goes wrong.

use super::attach::AttachOptions;
use super::create::Created;
use super::lifecycle::ContainerState;
use super::list::ListOptions;
use super::logs::LogOptions;
use super::remove::RemoveOptions;
use super::spec::{CreateRequest, NetworkChoice, PortBinding, RestartPolicy};
use super::stop::StopOptions;
use super::store::ContainerStore;
use super::testing::{self, MemoryStore, World, request};
use super::wait::WaitCondition;
use super::{ContainerError, ContainerService};
use crate::error::{Class, Classify};
use crate::images::ImageUsers;
use crate::runtime::StreamKind;
use bytes::Bytes;
use engine_api::Filters;
use std::sync::Arc;
use std::time::Duration;

mod images;
mod life;
mod many;
mod stop;

const STOP_NOW: StopOptions = StopOptions {
    signal: None,
    timeout: Some(0),
};
const FORCE: RemoveOptions = RemoveOptions {
    force: true,
    volumes: false,
};

async fn create(service: &ContainerService, request: CreateRequest) -> Created {
    service.create(request).await.expect("the request is good")
}

async fn refused(service: &ContainerService, request: CreateRequest) -> ContainerError {
    service
        .create(request)
        .await
        .expect_err("the request is bad")
}

fn state(service: &ContainerService, name: &str) -> ContainerState {
    service.find(name).expect("it is there").status().state
}

/// Waits until a container's state is called `name`.
async fn reaches(service: &ContainerService, container: &str, name: &str) {
    let mut status = service.find(container).expect("it is there").watch();
    let reached = status.wait_for(|status| status.state.name() == name);
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.expect("in time").expect("the supervisor lives");
}

fn with_restart(name: &str, command: &[&str], policy: RestartPolicy) -> CreateRequest {
    let mut request = request(name, command);
    request.host.restart = policy;
    request
}

fn removing(name: &str, command: &[&str]) -> CreateRequest {
    let mut request = request(name, command);
    request.host.auto_remove = true;
    request
}

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    super::store::contract::check(&MemoryStore::default()).await;
}

#[tokio::test]
async fn a_life_from_create_to_remove() {
    let world = World::default();
    let service = world.service();
    let created = create(&service, request("web", &["sleep"])).await;
    assert_eq!(state(&service, "web"), ContainerState::Created);
    service.start("web").await.expect("start");
    assert_eq!(state(&service, "web").name(), "running");
    let again = service.start("/web").await.expect_err("it runs");
    assert_eq!(again.class(), Class::NotModified);
    let running = service
        .remove("web", RemoveOptions::default())
        .await
        .expect_err("it runs");
    assert_eq!(running.class(), Class::Conflict);
    service
        .stop("web", &StopOptions::default())
        .await
        .expect("stop");
    let status = service
        .find(created.id.short())
        .expect("by short id")
        .status();
    assert_eq!(status.exit_code, 143);
    assert!(status.network.is_none() && status.finished_at.is_some());
    assert_eq!(
        service
            .stop("web", &STOP_NOW)
            .await
            .expect_err("it is")
            .class(),
        Class::NotModified
    );
    service
        .remove("web", RemoveOptions::default())
        .await
        .expect("remove");
    assert_eq!(
        service.find("web").err().map(|error| error.class()),
        Some(Class::NotFound)
    );
    assert!(world.layers.prepared.lock().unwrap().is_empty());
    assert!(world.store.load().await.unwrap().is_empty());
    assert_eq!(
        world.actions(),
        ["create", "start", "kill", "die", "stop", "destroy"]
    );
}

#[tokio::test]
async fn run_rm_attached_sees_everything_and_leaves_nothing() {
    let world = World::default();
    let service = world.service();
    for _ in 0..20 {
        let created = create(&service, removing("once", &["echo", "hi"])).await;
        let id = created.id.as_str();
        let options = AttachOptions {
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachOptions::default()
        };
        let attached = service.attach(id, &options).await.expect("attach");
        let waiting = service.wait(id, WaitCondition::Removed).expect("wait");
        service.start(id).await.expect("start");
        let mut output = attached.output.expect("streams were asked for");
        let mut seen = Vec::new();
        while let Some((stream, data)) = output.recv().await {
            assert_eq!(stream, StreamKind::Stdout);
            seen.extend_from_slice(&data);
        }
        assert_eq!(seen, b"hi\n");
        assert_eq!(waiting.done().await.exit_code, 0);
        // The name is free at once: the next round takes it.
    }
    tokio::time::timeout(Duration::from_secs(10), async {
        while !world.store.load().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("what was left to do is done");
}

#[tokio::test]
async fn the_engines_end_waits_for_what_is_being_removed() {
    let world = World::default();
    let service = world.service();
    create(&service, removing("once", &["echo", "hi"])).await;
    let disk = world.layers.busy.lock().await;
    let waiting = service.wait("once", WaitCondition::Removed).expect("wait");
    service.start("once").await.expect("start");
    waiting.done().await;
    service.finish_removals(Duration::from_millis(20)).await;
    assert_eq!(world.store.load().await.unwrap().len(), 1);
    drop(disk);
    service.finish_removals(Duration::from_secs(20)).await;
    assert!(world.store.load().await.unwrap().is_empty());
}

#[tokio::test]
async fn input_flows_to_the_process_and_its_end_ends_it() {
    let world = World::default();
    let service = world.service();
    let mut cat = request("cat", &["cat"]);
    (cat.config.open_stdin, cat.config.stdin_once) = (true, true);
    create(&service, cat).await;
    let options = AttachOptions {
        stdin: true,
        stdout: true,
        stream: true,
        ..AttachOptions::default()
    };
    let attached = service.attach("cat", &options).await.expect("attach");
    let stdin = attached.stdin.expect("it has an input");
    stdin
        .send(Bytes::from_static(b"early"))
        .await
        .expect("taken before the start");
    let waiting = service.wait("cat", WaitCondition::NextExit).expect("wait");
    service.start("cat").await.expect("start");
    let mut output = attached.output.expect("streams");
    assert_eq!(
        output.recv().await.map(|chunk| chunk.1),
        Some(Bytes::from_static(b"early"))
    );
    drop(stdin);
    assert_eq!(output.recv().await, None);
    assert_eq!(waiting.done().await.exit_code, 0);
}

#[tokio::test]
async fn a_program_that_is_not_there() {
    let world = World::default();
    let service = world.service();
    create(&service, request("bad", &["missing"])).await;
    let options = AttachOptions {
        stdout: true,
        stream: true,
        ..AttachOptions::default()
    };
    let attached = service.attach("bad", &options).await.expect("attach");
    let error = service.start("bad").await.expect_err("no such program");
    assert_eq!(error.class(), Class::Invalid);
    assert_eq!(
        error.to_string(),
        "failed to create task for container: failed to create shim task: OCI runtime create failed: unable to start container process: exec: \"missing\": executable file not found in $PATH: unknown"
    );
    let status = service.find("bad").expect("it stays").status();
    assert_eq!(
        (status.state, status.exit_code),
        (ContainerState::Created, 127)
    );
    assert_eq!(
        attached.output.expect("streams").recv().await,
        None,
        "an attached client is let go"
    );
    assert!(world.layers.mounted.lock().unwrap().is_empty());
    assert!(world.networks.attached().is_empty());

    create(&service, removing("gone", &["forbidden"])).await;
    let waiting = service.wait("gone", WaitCondition::Removed).expect("wait");
    service.start("gone").await.expect_err("not executable");
    assert_eq!(waiting.done().await.exit_code, 126);
    assert!(service.find("gone").is_err());
}

#[tokio::test]
async fn a_port_that_is_taken_leaves_nothing_behind() {
    let world = World::default();
    let service = world.service();
    let mut web = request("web", &["sleep"]);
    let binding = PortBinding {
        host_ip: String::new(),
        host_port: "80".into(),
    };
    web.host
        .port_bindings
        .insert("80/tcp".into(), vec![binding]);
    create(&service, web).await;
    let error = service.start("web").await.expect_err("80 is taken");
    assert!(
        crate::error::full_message(&error).contains("port is already allocated"),
        "{error}"
    );
    assert_eq!(state(&service, "web"), ContainerState::Created);
    assert!(world.layers.mounted.lock().unwrap().is_empty());
}

#[tokio::test]
async fn names_are_unique_and_can_be_changed() {
    let world = World::default();
    let service = world.service();
    let first = create(&service, request("web", &["sleep"])).await;
    let error = refused(&service, request("/web", &["sleep"])).await;
    assert_eq!(
        error.to_string(),
        format!(
            "Conflict. The container name \"/web\" is already in use by container \"{}\". You have to remove (or rename) that container to be able to reuse that name.",
            first.id
        )
    );
    assert_eq!(
        refused(&service, request("we b", &["sleep"])).await.class(),
        Class::Invalid
    );
    service.rename("web", "shop").await.expect("rename");
    create(&service, request("web", &["sleep"])).await;
    assert_eq!(
        service
            .rename("shop", "web")
            .await
            .expect_err("taken")
            .class(),
        Class::Conflict
    );
    assert_eq!(
        service
            .rename("shop", "shop")
            .await
            .expect_err("same")
            .class(),
        Class::Invalid
    );
    assert_eq!(service.find("shop").expect("renamed").id, first.id);
    let unnamed = CreateRequest {
        name: None,
        ..request("x1", &["sleep"])
    };
    let created = create(&service, unnamed).await;
    assert!(
        service
            .find(created.id.as_str())
            .expect("it is there")
            .name()
            .contains('_')
    );
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing() {
    let world = World::default();
    let service = world.service();
    *world.store.fail_save.lock().unwrap() = true;
    let mut with_volume = request("web", &["sleep"]);
    with_volume.config.volumes.insert("/data".into());
    assert_eq!(
        refused(&service, with_volume).await.class(),
        Class::Internal
    );
    assert!(world.layers.prepared.lock().unwrap().is_empty());
    assert!(world.volumes.list(&Filters::default()).unwrap().is_empty());
    create(&service, request("web", &["sleep"])).await;
    let mut missing = request("other", &["sleep"]);
    missing.config.image = "nothing".into();
    assert_eq!(
        refused(&service, missing).await.to_string(),
        "No such image: nothing"
    );
}

#[tokio::test]
async fn stubborn_processes_are_killed_and_a_kill_gets_through_a_stop() {
    let world = World::default();
    let service = world.service();
    create(&service, request("mule", &["stubborn"])).await;
    service.start("mule").await.expect("start");
    let stop = {
        let service = service.clone();
        tokio::spawn(async move {
            service
                .stop(
                    "mule",
                    &StopOptions {
                        signal: None,
                        timeout: Some(-1),
                    },
                )
                .await
        })
    };
    while !world.actions().contains(&"kill".to_owned()) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    service.kill("mule", None).await.expect("kill");
    stop.await
        .expect("no panic")
        .expect("the stop is satisfied, too");
    assert_eq!(service.find("mule").unwrap().status().exit_code, 137);
    service.start("mule").await.expect("again");
    service.stop("mule", &STOP_NOW).await.expect("stop");
    assert_eq!(
        service
            .kill("mule", Some("FLY"))
            .await
            .expect_err("no signal")
            .class(),
        Class::Invalid
    );
    assert_eq!(
        service
            .kill("mule", None)
            .await
            .expect_err("it does not run")
            .class(),
        Class::Conflict
    );
}

#[tokio::test]
async fn waiting_in_every_way() {
    let world = World::default();
    let service = world.service();
    create(&service, request("job", &["exit", "7"])).await;
    let waiting = service
        .wait("job", WaitCondition::NotRunning)
        .expect("wait");
    assert_eq!(
        waiting.done().await.exit_code,
        0,
        "it does not run: at once"
    );
    let next = service.wait("job", WaitCondition::NextExit).expect("wait");
    let removed = service.wait("job", WaitCondition::Removed).expect("wait");
    service.start("job").await.expect("start");
    assert_eq!(next.done().await.exit_code, 7);
    service.remove("job", FORCE).await.expect("remove");
    assert_eq!(removed.done().await.exit_code, 7);
}

#[tokio::test]
async fn restart_policies_start_again_until_told_otherwise() {
    let world = World::default();
    let service = world.service();
    create(
        &service,
        with_restart("twice", &["exit", "1"], RestartPolicy::OnFailure(2)),
    )
    .await;
    service.start("twice").await.expect("start");
    reaches(&service, "twice", "exited").await;
    let status = service.find("twice").unwrap().status();
    assert_eq!((status.restart_count, status.exit_code), (2, 1));

    create(
        &service,
        with_restart("always", &["sleep"], RestartPolicy::Always),
    )
    .await;
    service.start("always").await.expect("start");
    service.stop("always", &STOP_NOW).await.expect("stop");
    assert_eq!(
        state(&service, "always").name(),
        "exited",
        "a stop is a stop"
    );

    create(
        &service,
        with_restart("loop", &["exit"], RestartPolicy::Always),
    )
    .await;
    service.start("loop").await.expect("start");
    reaches(&service, "loop", "restarting").await;
    // It may be running for the blink of an eye: remove it whatever it does.
    service.remove("loop", FORCE).await.expect("remove");
    assert!(service.find("loop").is_err());
}

#[tokio::test]
async fn who_is_being_started_is_removed_by_force() {
    let world = World::default();
    let service = world.service();
    create(&service, request("web", &["sleep"])).await;
    let (started, removed) = tokio::join!(service.start("web"), service.remove("web", FORCE));
    started.expect("the start came first");
    removed.expect("removed all the same");
    assert!(service.find("web").is_err());
}

#[tokio::test]
async fn pausing() {
    let world = World::default();
    let service = world.service();
    create(&service, request("web", &["sleep"])).await;
    assert_eq!(
        service.pause("web").await.expect_err("not running").class(),
        Class::Conflict
    );
    service.start("web").await.expect("start");
    service.pause("web").await.expect("pause");
    assert_eq!(state(&service, "web").name(), "paused");
    let error = service.start("web").await.expect_err("paused");
    assert_eq!(
        error.to_string(),
        "cannot start a paused container, try unpause instead"
    );
    assert_eq!(
        service
            .remove("web", RemoveOptions::default())
            .await
            .expect_err("paused")
            .class(),
        Class::Conflict
    );
    service
        .stop("web", &StopOptions::default())
        .await
        .expect("stop wakes it up");
    assert_eq!(state(&service, "web").name(), "exited");
}

#[tokio::test]
async fn a_new_engine_finds_what_the_old_one_left() {
    let world = World::default();
    let service = world.service();
    for (name, command, policy) in [
        ("runs", ["sleep"].as_slice(), RestartPolicy::No),
        ("ends", &["sleep"], RestartPolicy::No),
        ("fresh", &["sleep"], RestartPolicy::Always),
        ("again", &["sleep"], RestartPolicy::Always),
        ("stopped", &["sleep"], RestartPolicy::UnlessStopped),
    ] {
        create(&service, with_restart(name, command, policy)).await;
    }
    create(&service, removing("temporary", &["sleep"])).await;
    for name in ["runs", "ends", "again", "stopped", "temporary"] {
        service.start(name).await.expect("start");
    }
    service.stop("stopped", &STOP_NOW).await.expect("stop");
    settled(&world).await;
    let tasks: Vec<_> = ["ends", "again", "temporary"]
        .map(|name| service.find(name).unwrap().task().unwrap())
        .into();
    drop(service);
    tokio::time::sleep(Duration::from_millis(20)).await;
    for task in tasks {
        task.signal(9).await.expect("it runs while no engine does");
    }

    let service = world.service();
    service.recover().await.expect("recover");
    assert_eq!(state(&service, "runs").name(), "running");
    let ends = service.find("ends").unwrap().status();
    assert_eq!((ends.state.name(), ends.exit_code), ("exited", 137));
    assert_eq!(state(&service, "fresh"), ContainerState::Created);
    reaches(&service, "again", "running").await;
    assert_eq!(state(&service, "stopped").name(), "exited");
    assert!(service.find("temporary").is_err(), "--rm is kept");
    // What was taken over can be used as before.
    let waiting = service.wait("runs", WaitCondition::NextExit).expect("wait");
    service.kill("runs", None).await.expect("kill");
    assert_eq!(waiting.done().await.exit_code, 137);
}

#[tokio::test]
async fn a_host_that_went_down() {
    let world = World::default();
    let service = world.service();
    create(&service, request("web", &["sleep"])).await;
    create(
        &service,
        with_restart("again", &["sleep"], RestartPolicy::UnlessStopped),
    )
    .await;
    service.start("web").await.expect("start");
    service.start("again").await.expect("start");
    settled(&world).await;
    drop(service);
    world.runtime.power_off();
    let service = world.service();
    service.recover().await.expect("recover");
    let status = service.find("web").unwrap().status();
    assert_eq!((status.state.name(), status.exit_code), ("exited", 255));
    reaches(&service, "again", "running").await;
}

/// Until every record on disk says what the service says: a start answers before it is written.
async fn settled(world: &World) {
    tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let records = world.store.load().await.unwrap();
            let runs = |record: &super::store::ContainerRecord| {
                record.state != ContainerState::Created || record.name == "fresh"
            };
            if records.iter().all(runs) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("records are written soon");
}

#[tokio::test]
async fn stopping_everything_keeps_the_policies() {
    let world = World::default();
    let service = world.service();
    create(
        &service,
        with_restart("always", &["sleep"], RestartPolicy::UnlessStopped),
    )
    .await;
    service.start("always").await.expect("start");
    service.stop_all(Duration::from_secs(5)).await;
    let status = service.find("always").unwrap().status();
    assert_eq!(status.state.name(), "exited");
    assert!(!status.stopped_by_hand);
}

#[tokio::test]
async fn stopping_everything_gives_each_container_its_own_time() {
    // (what the container asks for, what there is at most): seconds.
    for (own, most) in [(Some(0), 600), (Some(600), 1), (Some(-1), 1)] {
        let world = World::default();
        let service = world.service();
        let mut mule = request("mule", &["stubborn"]);
        mule.config.stop_timeout = own;
        create(&service, mule).await;
        service.start("mule").await.expect("start");
        let began = std::time::Instant::now();
        service.stop_all(Duration::from_secs(most)).await;
        assert_eq!(state(&service, "mule").name(), "exited");
        assert!(began.elapsed() < Duration::from_secs(60), "{own:?} {most}");
    }
}

#[tokio::test]
async fn volumes_are_made_filled_shared_and_removed() {
    let world = World::default();
    let service = world.service();
    let mut first = request("first", &["sleep"]);
    first.host.binds = vec!["named:/data".into(), "/not/there:/bind".into()];
    first.config.volumes.insert("/anonymous".into());
    let first = create(&service, first).await;
    assert_eq!(world.volumes.list(&Filters::default()).unwrap().len(), 2);
    assert_eq!(world.files.copied.lock().unwrap().len(), 2);
    let mut second = request("second", &["sleep"]);
    second.host.volumes_from = vec!["first:ro".into()];
    create(&service, second).await;
    let mounts = &service.find("second").unwrap().spec.mounts;
    assert_eq!(mounts.len(), 3);
    assert!(mounts.iter().all(|mount| !mount.read_write));
    service
        .start("first")
        .await
        .expect("start makes missing bind sources");
    assert!(
        world
            .files
            .folders
            .lock()
            .unwrap()
            .contains(std::path::Path::new("/not/there"))
    );
    let in_use = world
        .volumes
        .remove("named", false)
        .await
        .expect_err("in use");
    assert!(in_use.to_string().contains(first.id.as_str()));
    let all = RemoveOptions {
        force: true,
        volumes: true,
    };
    service.remove("second", all).await.expect("remove");
    service.remove("first", all).await.expect("remove");
    let left = world.volumes.list(&Filters::default()).unwrap();
    assert_eq!(
        left.iter()
            .map(|volume| volume.name.as_str())
            .collect::<Vec<_>>(),
        ["named"]
    );
    world
        .volumes
        .remove("named", false)
        .await
        .expect("nobody uses it any more");
    let mut strict = request("strict", &["sleep"]);
    strict.host.mounts = vec![bind_mount("/not/here")];
    assert_eq!(
        refused(&service, strict).await.to_string(),
        "invalid mount config for type \"bind\": bind source path does not exist: /not/here"
    );
}

/// `--mount type=bind` of this source at /x.
fn bind_mount(source: &str) -> super::spec::MountRequest {
    super::spec::MountRequest {
        kind: super::spec::MountKind::Bind,
        source: source.into(),
        target: "/x".into(),
        read_only: false,
        consistency: String::new(),
        bind: None,
        volume: None,
        tmpfs: None,
        image: None,
    }
}

#[tokio::test]
async fn in_a_machine_of_a_desktop_no_source_is_made_empty() {
    let world = World::default();
    let service = world.service_with(super::Settings {
        desktop_folders: Some(vec!["/home/me".into()]),
        ..super::Settings::default()
    });
    let mut spec = request("web", &["sleep"]);
    spec.host.binds = vec!["/not/here:/x".into()];
    let error = refused(&service, spec).await.to_string();
    assert_eq!(
        error,
        "invalid mount config for type \"bind\": bind source path does not exist: /not/here (this machine shares of the desktop only /home/me; to share the folder: machine set NAME --mount /not/here, then machine restart NAME)"
    );

    // Clients on Windows send paths as they are there.
    for (given, meant) in [
        (r"C:\Users\me\not here", "/c/Users/me/not here"),
        ("d:/src/../not", "/d/not"),
    ] {
        let mut by_volume = request("web", &["sleep"]);
        by_volume.host.binds = vec![format!("{given}:/x:ro")];
        let mut by_mount = request("web", &["sleep"]);
        by_mount.host.mounts = vec![bind_mount(given)];
        for spec in [by_volume, by_mount] {
            let error = refused(&service, spec).await.to_string();
            let expected = format!("bind source path does not exist: {meant} (this machine");
            assert!(error.contains(&expected), "{error}");
        }
    }
    // On a host of its own such a path means nothing.
    let mut spec = request("web", &["sleep"]);
    spec.host.binds = vec![r"C:\Users\me:/x".into()];
    let error = refused(&World::default().service(), spec).await.to_string();
    assert!(error.contains("invalid"), "{error}");
}

#[tokio::test]
async fn a_failed_removal_can_be_tried_again() {
    let world = World::default();
    let service = world.service();
    create(&service, request("web", &["sleep"])).await;
    *world.layers.fail_removal.lock().unwrap() = true;
    let error = service.remove("web", FORCE).await.expect_err("busy");
    assert!(
        crate::error::full_message(&error).contains("busy"),
        "{error}"
    );
    assert_eq!(state(&service, "web").name(), "dead");
    service
        .remove("web", FORCE)
        .await
        .expect("the second time it works");
}
