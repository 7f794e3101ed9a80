//! Health checks, changed limits, links, and the order in which a host's containers come back.

use super::*;
use crate::containers::container::{Command, Reply};
use crate::containers::etc_files;
use crate::containers::health::HealthStatus;
use crate::containers::store::Durability;
use crate::containers::update::UpdateRequest;
use crate::events::EventBus;
use crate::images::Healthcheck;
use crate::networks::EndpointSettings;
use crate::networks::fake::FakeNetwork;
use crate::runtime::ResourcePlan;

fn with_check(name: &str, test: &[&str], milliseconds: i64) -> CreateRequest {
    let mut request = request(name, &["sleep"]);
    request.config.healthcheck = Some(Healthcheck {
        test: test.iter().map(|word| (*word).to_owned()).collect(),
        interval: milliseconds * 1_000_000,
        timeout: 100_000_000,
        retries: 2,
        ..Healthcheck::default()
    });
    request
}

async fn health_becomes(service: &ContainerService, name: &str, wanted: HealthStatus) {
    let mut status = service.find(name).expect("it is there").watch();
    let reached = status.wait_for(|status| {
        let health = status.health.as_ref();
        health.is_some_and(|health| health.status == wanted)
    });
    let reached = tokio::time::timeout(Duration::from_secs(20), reached).await;
    reached.expect("in time").expect("the supervisor lives");
}

#[tokio::test]
async fn a_check_makes_a_container_healthy_and_its_end_makes_it_unhealthy() {
    let world = World::default();
    let service = world.service();
    create(&service, with_check("web", &["CMD", "exit", "0"], 20)).await;
    assert!(
        service
            .find("web")
            .expect("there")
            .status()
            .health
            .is_none()
    );
    service.start("web").await.expect("start");
    health_becomes(&service, "web", HealthStatus::Healthy).await;
    let listed = async |health: &str| {
        let options = ListOptions {
            filters: Filters::of([("health", health)]),
            ..ListOptions::default()
        };
        service.list(&options).await.expect("a good filter").len()
    };
    assert_eq!((listed("healthy").await, listed("none").await), (1, 0));
    let actions = world.actions();
    for action in ["exec_create: exit 0", "exec_die", "health_status: healthy"] {
        assert!(actions.iter().any(|one| one == action), "{actions:?}");
    }

    // Nothing is asked of a container that is frozen.
    service.pause("web").await.expect("pause");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let probes = || world.runtime.execs.lock().unwrap().len();
    let before = probes();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(probes(), before);
    service.unpause("web").await.expect("unpause");
    tokio::time::timeout(Duration::from_secs(20), async {
        while probes() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it is asked again");

    // What is known outlives the engine.
    drop(service);
    let service = world.service();
    service.recover().await.expect("recover");
    let health = service.find("web").expect("there").status().health;
    assert_eq!(health.expect("remembered").status, HealthStatus::Healthy);
    let before = probes();
    tokio::time::timeout(Duration::from_secs(20), async {
        while probes() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the next engine goes on asking");
    service.stop("web", &STOP_NOW).await.expect("stop");
    let health = service.find("web").expect("there").status().health;
    assert_eq!(health.expect("remembered").status, HealthStatus::Unhealthy);
}

#[tokio::test]
async fn failures_and_hanging_checks_make_a_container_unhealthy() {
    let world = World::default();
    let service = world.service();
    for (name, test, part) in [
        ("fails", &["CMD", "exit", "7"][..], ""),
        (
            "hangs",
            &["CMD", "sleep"][..],
            "Health check exceeded timeout (100ms)",
        ),
        (
            "missing",
            &["CMD", "missing"][..],
            "executable file not found in $PATH",
        ),
    ] {
        create(&service, with_check(name, test, 20)).await;
        service.start(name).await.expect("start");
        health_becomes(&service, name, HealthStatus::Unhealthy).await;
        let health = service.find(name).expect("there").status().health;
        let health = health.expect("it is watched");
        assert!(health.failing_streak >= 2);
        let last = health.log.last().expect("it was asked");
        assert_ne!(last.exit_code, 0);
        assert!(last.output.contains(part), "{}", last.output);
    }
    let mut bad = with_check("bad", &["CMD", "exit"], 0);
    bad.config.healthcheck.as_mut().expect("set").timeout = 1;
    let error = refused(&service, bad).await;
    assert_eq!(
        error.to_string(),
        "Timeout in Healthcheck cannot be less than 1ms"
    );
}

#[tokio::test]
async fn limits_are_changed_while_it_runs_and_remembered() {
    let world = World::default();
    let service = world.service();
    create(&service, request("web", &["sleep"])).await;
    service.start("web").await.expect("start");
    let update = UpdateRequest {
        resources: ResourcePlan {
            memory: Some(64 << 20),
            memory_swap: Some(128 << 20),
            ..ResourcePlan::default()
        },
        nano_cpus: 500_000_000,
        restart: Some(RestartPolicy::Always),
        ..UpdateRequest::default()
    };
    service.update("web", update).await.expect("update");
    let told = world.runtime.updates.lock().unwrap().clone();
    assert_eq!(told[0].memory, Some(64 << 20));
    assert_eq!(told[0].cpu_quota, Some(50_000));
    assert!(world.actions().contains(&"update".to_owned()));
    let alone = |memory: i64| UpdateRequest {
        resources: ResourcePlan {
            memory: Some(memory),
            ..ResourcePlan::default()
        },
        ..UpdateRequest::default()
    };
    let error = service.update("web", alone(256 << 20)).await;
    let error = error.expect_err("over its swap");
    assert!(error.to_string().starts_with("Cannot update container "));
    let error = service.update("web", alone(1 << 20)).await;
    assert_eq!(
        error.expect_err("too small").to_string(),
        "Minimum memory limit allowed is 6MB"
    );
    drop(service);
    let service = world.service();
    service.recover().await.expect("recover");
    let spec = service.find("web").expect("there").latest_spec();
    assert_eq!(spec.host.restart, RestartPolicy::Always);
    assert_eq!(spec.host.resources.memory_swap, Some(128 << 20));
    // The new policy counts, and the next run has the new limits.
    let plans = || world.runtime.plans.lock().unwrap().clone();
    let before = plans().len();
    service.kill("web", Some("TERM")).await.expect("kill");
    service.start("web").await.ok();
    tokio::time::timeout(Duration::from_secs(20), async {
        while plans().len() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("it runs again");
    let last = plans().pop().expect("one");
    assert_eq!(last.resources.memory, Some(64 << 20));
}

#[tokio::test]
async fn after_the_hosts_start_containers_start_in_order_and_what_they_need_first() {
    let world = World::default();
    let service = world.service();
    let owner = create(
        &service,
        with_restart("owner", &["sleep"], RestartPolicy::Always),
    )
    .await;
    let mut joined = with_restart("joined", &["sleep"], RestartPolicy::Always);
    joined.host.network = NetworkChoice::Container(owner.id.to_string());
    create(&service, joined).await;
    let store = create(
        &service,
        with_restart("store", &["sleep"], RestartPolicy::Always),
    )
    .await;
    let mut linked = with_restart("linked", &["sleep"], RestartPolicy::Always);
    linked.host.links = vec!["store:db".into()];
    create(&service, linked).await;
    for name in ["one", "two", "three"] {
        create(
            &service,
            with_restart(name, &["sleep"], RestartPolicy::UnlessStopped),
        )
        .await;
    }
    for name in ["owner", "joined", "store", "linked", "three", "one", "two"] {
        service.start(name).await.expect("start");
    }
    service.stop("two", &STOP_NOW).await.expect("stop");
    drop(service);
    world.runtime.power_off();
    world.runtime.plans.lock().unwrap().clear();
    // "owner" and "store" are now the youngest of all.
    for mut record in world.store.load().await.expect("load") {
        if record.id == owner.id || record.id == store.id {
            record.created += time::Duration::hours(1);
            let durability = crate::containers::store::Durability::Written;
            world.store.save(&record, durability).await.expect("save");
        }
    }
    let service = world.service();
    service.recover().await.expect("recover");
    for name in ["owner", "joined", "store", "linked", "one", "three"] {
        reaches(&service, name, "running").await;
    }
    assert_eq!(state(&service, "two").name(), "exited");
    let plans = world.runtime.plans.lock().unwrap().clone();
    let order: Vec<String> = plans
        .iter()
        .map(|plan| service.find(plan.id.as_str()).expect("there").name())
        .collect();
    assert_eq!(
        order,
        ["owner", "joined", "store", "linked", "one", "three"]
    );
}

#[tokio::test]
async fn a_prune_is_told_and_a_taken_name_is_refused_in_dockers_words() {
    let world = World::default();
    let service = world.service();
    create(&service, request("one", &["sleep"])).await;
    create(&service, request("two", &["sleep"])).await;
    let error = service.rename("one", "two").await.expect_err("taken");
    assert!(
        error
            .to_string()
            .starts_with("Error when allocating new name: Conflict. The container name \"/two\""),
        "{error}"
    );
    let (removed, bytes) = service.prune(&Filters::default()).await.expect("prune");
    assert_eq!((removed.len(), bytes), (2, 20));
    let (past, _) = world.events.subscribe();
    let told = past.last().expect("an event");
    assert_eq!(
        (told.action.as_str(), told.attributes["reclaimed"].as_str()),
        ("prune", "20")
    );
}

#[tokio::test]
async fn memory_that_runs_out_is_told_while_the_container_goes_on() {
    let world = World::default();
    let service = world.service();
    create(&service, request("web", &["greedy"])).await;
    service.start("web").await.expect("start");
    let mut status = service.find("web").expect("it is there").watch();
    let told = status.wait_for(|status| status.oom_killed);
    let told = tokio::time::timeout(Duration::from_secs(20), told).await;
    assert!(
        told.expect("in time")
            .expect("the supervisor lives")
            .state
            .is_running()
    );
    service.kill("web", None).await.expect("kill");
    let mut status = service.find("web").expect("it is there").watch();
    let ended = status.wait_for(|status| !status.state.is_running()).await;
    assert!(ended.expect("the supervisor lives").oom_killed);
    let actions = world.actions();
    let times = actions.iter().filter(|action| *action == "oom").count();
    assert_eq!(times, 1, "{actions:?}");
}

/// An engine that is killed in the middle of a commit does not leave a container that somebody has to wake up.
#[tokio::test]
async fn who_was_paused_for_a_commit_is_resumed_by_the_next_engine() {
    let world = World::default();
    let service = world.service();
    for name in ["committed", "about-to-be", "paused", "both"] {
        create(&service, request(name, &["sleep"])).await;
        service.start(name).await.expect("start");
    }
    let ask = async |name: &str, command: fn(Reply) -> Command| {
        let container = service.find(name).expect("there");
        container.ask(command).await.expect("done");
    };
    let frozen = |name: &str| {
        let container = service.find(name).expect("there");
        world.runtime.is_frozen(&container.id)
    };
    ask("committed", Command::PauseForCommit).await;
    service.pause("paused").await.expect("pause");
    // Somebody resumed it during a commit, and paused it anew: that is not the commit's to end.
    ask("both", Command::PauseForCommit).await;
    service.unpause("both").await.expect("unpause");
    service.pause("both").await.expect("pause");
    ask("both", Command::ResumeAfterCommit).await;
    assert!(frozen("committed") && frozen("paused") && frozen("both"));
    // Killed between the kernel's pause and the record of it.
    ask("about-to-be", Command::PauseForCommit).await;
    let records = world.store.load().await.expect("records");
    let mut record = records
        .into_iter()
        .find(|record| record.name == "about-to-be")
        .expect("a record");
    assert!(record.paused_for_commit);
    let ContainerState::Paused { pid, started } = record.state else {
        panic!("it is paused")
    };
    record.state = ContainerState::Running { pid, started };
    let ids: Vec<_> = ["committed", "about-to-be", "paused", "both"]
        .map(|name| service.find(name).expect("there").id.clone())
        .into();
    drop(service);
    let saved = world.store.save(&record, Durability::Written).await;
    saved.expect("saved");

    let service = world.service();
    service.recover().await.expect("recover");
    for (name, expected) in [
        ("committed", "running"),
        ("about-to-be", "running"),
        ("paused", "paused"),
        ("both", "paused"),
    ] {
        assert_eq!(state(&service, name).name(), expected, "{name}");
    }
    let frozen: Vec<bool> = ids.iter().map(|id| world.runtime.is_frozen(id)).collect();
    assert_eq!(frozen, [false, false, true, true]);
    // The next pause is somebody's own again.
    service.pause("committed").await.expect("pause");
    drop(service);
    let service = world.service();
    service.recover().await.expect("recover");
    assert_eq!(state(&service, "committed").name(), "paused");
}

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

/// What a program in a container writes into /etc/resolv.conf is not ours to lose, but for the networks that need it.
#[tokio::test]
async fn resolv_conf_is_written_anew_only_where_the_server_changes() {
    let world = World::default();
    let service = world.service();
    let web = create(&service, request("web", &["sleep"])).await;
    service.start("web").await.expect("start");
    let path = world.store.folder(&web.id).join("resolv.conf");
    let text = || world.files.written.lock().unwrap()[&path].clone();
    let append = |line: &str| {
        let mut written = world.files.written.lock().unwrap();
        written.get_mut(&path).expect("written").push_str(line);
    };
    for name in ["front", "back"] {
        let wanted = crate::networks::create::CreateNetwork {
            name: name.into(),
            ..Default::default()
        };
        let made = world.network_service.create(wanted).await;
        made.expect("made");
    }
    let connect = async |name: &str| {
        let network = world.network_service.find(name).expect("there");
        let joined = service.connect("web", &network, EndpointSettings::default());
        joined.await.expect("connected");
    };
    assert!(!text().contains("127.0.0.11"), "{}", text());
    connect("front").await;
    assert!(text().contains("nameserver 127.0.0.11"), "{}", text());
    append("options timeout:9\n");
    connect("back").await;
    assert!(text().contains("timeout:9"), "{}", text());
    let left = service.disconnect("web", "front").await;
    left.expect("disconnected");
    assert!(text().contains("timeout:9"), "{}", text());
    let left = service.disconnect("web", "back").await;
    left.expect("disconnected");
    assert!(!text().contains("127.0.0.11"), "{}", text());
}

/// A DNS server that is reached by IPv6 alone is no use to a container without it.
#[tokio::test]
async fn servers_with_ipv6_addresses_are_for_containers_with_ipv6() {
    for ipv6 in [false, true] {
        let networks = Arc::new(match ipv6 {
            true => FakeNetwork::with_ipv6(),
            false => FakeNetwork::new(),
        });
        let world = World {
            network_service: Arc::new(networks.service(EventBus::new())),
            networks,
            ..World::default()
        };
        let service = world.service();
        let web = create(&service, request("web", &["sleep"])).await;
        service.start("web").await.expect("start");
        let path = world.store.folder(&web.id).join("resolv.conf");
        let text = world.files.written.lock().unwrap()[&path].clone();
        assert!(text.contains("192.0.2.53"), "{text}");
        assert_eq!(text.contains("2001:db8::53"), ipv6, "{text}");
    }
}
