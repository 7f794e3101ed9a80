//! What networks may be made, and what they are then.

use super::*;
use crate::networks::create::{CreateNetwork, SubnetRequest};
use crate::networks::fake::{FakeNetwork, MemoryNetworks};

fn service() -> NetworkService {
    Arc::new(FakeNetwork::new()).service(EventBus::new())
}

fn named(name: &str) -> CreateNetwork {
    CreateNetwork {
        name: name.into(),
        ..CreateNetwork::default()
    }
}

fn with_subnet(name: &str, subnet: &str, range: &str, gateway: &str) -> CreateNetwork {
    CreateNetwork {
        subnets: vec![SubnetRequest {
            subnet: subnet.into(),
            range: range.into(),
            gateway: gateway.into(),
            auxiliary: BTreeMap::new(),
        }],
        ..named(name)
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, NetworkError>, class: Class, part: &str) {
    use crate::error::Classify;
    let error = outcome.expect_err("this must be refused");
    assert!(error.to_string().contains(part), "{error}");
    assert_eq!(error.class(), class, "{error}");
}

#[tokio::test]
async fn a_networks_life() {
    let service = service();
    let (_, mut events) = service.events.subscribe();
    let made = service.create(named("front")).await.unwrap();
    assert_eq!(events.try_recv().unwrap().action, "create");
    let network = service.find("front").unwrap();
    assert_eq!(network.id, made.id);
    // 172.17 is the fake's own bridge.
    assert_eq!(network.subnets[0].range.to_string(), "172.18.0.0/16");
    assert_eq!(
        network.subnets[0].gateway.unwrap().to_string(),
        "172.18.0.1"
    );
    assert_eq!(network.link.name, format!("br-{}", network.id.short()));
    assert_eq!(service.find(network.id.short()).unwrap().id, network.id);
    service.create(named("back")).await.unwrap();
    let names: Vec<String> = service
        .all()
        .iter()
        .map(|network| network.name.clone())
        .collect();
    assert_eq!(names, ["bridge", "host", "none", "front", "back"]);
    refused(
        service.create(named("front")).await,
        Class::Conflict,
        "network with name front already exists",
    );
    service.remove("front").await.unwrap();
    refused(
        service.remove("front").await,
        Class::NotFound,
        "network front not found",
    );
    // Its range is free again.
    service.create(named("other")).await.unwrap();
    assert_eq!(
        service.find("other").unwrap().subnets[0].range.to_string(),
        "172.18.0.0/16"
    );
}

#[tokio::test]
async fn what_docker_refuses_is_refused() {
    let service = service();
    for name in ["bridge", "host", "none", "default"] {
        refused(
            service.create(named(name)).await,
            Class::Denied,
            "operation is not permitted on predefined",
        );
        if name != "default" {
            refused(
                service.remove(name).await,
                Class::Denied,
                "is a pre-defined network and cannot be removed",
            );
        }
    }
    for name in ["", " ", "a/b", "container:x", " a"] {
        refused(
            service.create(named(name)).await,
            Class::Invalid,
            "invalid network name",
        );
    }
    let driver = |driver: &str| CreateNetwork {
        driver: driver.into(),
        ..named("n")
    };
    refused(
        service.create(driver("overnet")).await,
        Class::NotFound,
        "plugin \"overnet\" not found",
    );
    refused(
        service.create(driver("host")).await,
        Class::Denied,
        "only one instance of \"host\" network is allowed",
    );
    refused(
        service.create(driver("ipvlan")).await,
        Class::Invalid,
        "ipvlan is not supported",
    );
    assert!(service.find("n").is_err(), "nothing is left of it");
    let subnet =
        |subnet: &str, range: &str, gateway: &str| with_subnet("n", subnet, range, gateway);
    for (subnet, range, gateway, part) in [
        (
            "10.9.0.5/24",
            "",
            "",
            "invalid subnet 10.9.0.5/24: it should be 10.9.0.0/24",
        ),
        ("10.9.0.0", "", "", "invalid CIDR"),
        (
            "10.9.0.0/24",
            "10.9.1.0/24",
            "",
            "invalid ip-range 10.9.1.0/24",
        ),
        (
            "10.9.0.0/24",
            "fd00::/64",
            "",
            "parent subnet is an IPv4 block",
        ),
        ("10.9.0.0/24", "", "10.8.0.1", "invalid gateway 10.8.0.1"),
        (
            "10.9.0.0/24",
            "",
            "fd00::1",
            "parent subnet is an IPv4 block",
        ),
        ("10.9.0.0/32", "", "", "no room"),
    ] {
        refused(
            service
                .create(self::with_subnet("n", subnet, range, gateway))
                .await,
            Class::Invalid,
            part,
        );
    }
    service.create(subnet("10.9.0.0/16", "", "")).await.unwrap();
    let overlaps = "Pool overlaps with other one on this address space";
    for range in [
        "10.9.4.0/24",
        "10.0.0.0/8",
        "172.17.9.0/24",
        "203.0.113.128/25",
    ] {
        refused(
            service.create(with_subnet("m", range, "", "")).await,
            Class::Denied,
            overlaps,
        );
    }
    let mut twice = with_subnet("m", "10.10.0.0/24", "", "");
    twice.subnets.push(twice.subnets[0].clone());
    refused(service.create(twice).await, Class::Denied, overlaps);
    let mut bridge = named("m");
    bridge
        .options
        .insert("com.docker.network.bridge.name".into(), "berth0".into());
    refused(
        service.create(bridge).await,
        Class::Denied,
        "networks have same bridge name",
    );
    let mut ingress = named("m");
    ingress.ingress = true;
    refused(service.create(ingress).await, Class::Invalid, "Swarm");
}

#[tokio::test]
async fn ipv6_and_ranges_are_taken() {
    let service = service();
    let mut request = with_subnet("six", "10.20.0.0/16", "10.20.7.0/24", "");
    request.ipv6 = Some(true);
    service.create(request).await.unwrap();
    let six = service.find("six").unwrap();
    assert_eq!(six.subnets.len(), 2);
    assert_eq!(six.subnets[0].gateway.unwrap().to_string(), "10.20.7.0");
    assert!(six.subnets[1].range.to_string().starts_with("fd"));
    assert!(six.subnets[1].gateway.unwrap().to_string().ends_with("::1"));
    let only = CreateNetwork {
        ipv4: Some(false),
        ipv6: Some(true),
        ..named("only-six")
    };
    service.create(only).await.unwrap();
    assert_eq!(service.find("only-six").unwrap().subnets.len(), 1);
    // Who names a range of it wants it.
    service
        .create(with_subnet("named", "fd00:77::/64", "", ""))
        .await
        .unwrap();
    assert!(service.find("named").unwrap().ipv6);
    let neither = CreateNetwork {
        ipv4: Some(false),
        ..named("neither")
    };
    refused(
        service.create(neither).await,
        Class::Invalid,
        "IPv4 or IPv6 must be enabled",
    );
}

#[tokio::test]
async fn the_pools_run_out() {
    let backend = Arc::new(FakeNetwork::new());
    let pools = vec![Pool {
        base: "10.50.0.0/23".parse().unwrap(),
        size: 24,
    }];
    let service = NetworkService::empty(
        backend,
        Arc::new(MemoryNetworks::default()),
        EventBus::new(),
        Arc::new(crate::clock::SystemClock),
        Some(pools),
    );
    service.create(named("a")).await.unwrap();
    service.create(named("b")).await.unwrap();
    assert_eq!(
        service.find("b").unwrap().subnets[0].range.to_string(),
        "10.50.1.0/24"
    );
    refused(
        service.create(named("c")).await,
        Class::Invalid,
        "have been fully subnetted",
    );
}

#[tokio::test]
async fn filters_and_prune() {
    let service = service();
    let mut labelled = named("labelled");
    labelled.labels.insert("a".into(), "1".into());
    service.create(labelled).await.unwrap();
    service.create(named("plain")).await.unwrap();
    let names = |pairs: &[(&str, &str)]| -> Vec<String> {
        let list = service.list(&Filters::of(pairs.iter().copied())).unwrap();
        list.iter().map(|network| network.name.clone()).collect()
    };
    assert_eq!(names(&[("label", "a=1")]), ["labelled"]);
    assert_eq!(names(&[("type", "custom")]), ["labelled", "plain"]);
    assert_eq!(names(&[("type", "builtin"), ("driver", "null")]), ["none"]);
    assert_eq!(
        names(&[("dangling", "true"), ("name", "la")]),
        ["labelled", "plain"]
    );
    assert_eq!(names(&[("name", "^pl[aeiou]in$")]), ["plain"]);
    assert_eq!(names(&[("name", "^la$")]), Vec::<String>::new());
    let id = service.find("plain").unwrap().id.to_string();
    assert_eq!(names(&[("id", &format!("^{}", &id[..12]))]), ["plain"]);
    assert_eq!(
        names(&[("id", &format!("{}$", &id[..12]))]),
        Vec::<String>::new()
    );
    assert_eq!(names(&[("scope", "swarm")]), Vec::<String>::new());
    refused(
        service.list(&Filters::of([("colour", "x")])),
        Class::Invalid,
        "invalid filter 'colour'",
    );
    refused(
        service.list(&Filters::of([("type", "x")])),
        Class::Invalid,
        "'type'='x'",
    );
    let until = |text: &'static str| Filters::of([("until", text)]);
    assert!(
        service
            .prune(&until("1h"), |_| false)
            .await
            .unwrap()
            .is_empty()
    );
    refused(
        service.prune(&until("long ago"), |_| false).await,
        Class::Invalid,
        "failed to parse value as time or duration",
    );
    let by_label = Filters::of([("label", "a=2")]);
    assert!(
        service
            .prune(&by_label, |_| false)
            .await
            .unwrap()
            .is_empty()
    );
    let without = Filters::of([("label!", "a=1")]);
    let nobody_uses = service.prune(&without, |network| network.name == "plain");
    assert!(nobody_uses.await.unwrap().is_empty());
    refused(
        service
            .prune(&Filters::of([("name", "plain")]), |_| false)
            .await,
        Class::Invalid,
        "invalid filter 'name'",
    );
    let pruned = service
        .prune(&Filters::default(), |network| network.name == "plain")
        .await
        .unwrap();
    assert_eq!(pruned, ["labelled"]);
    assert_eq!(names(&[("type", "custom")]), ["plain"]);
    let later = until("2200-01-01T00:00:00");
    assert_eq!(service.prune(&later, |_| false).await.unwrap(), ["plain"]);
}

/// What a second engine over the same disk knows.
#[tokio::test]
async fn networks_outlive_the_engine() {
    let store = Arc::new(MemoryNetworks::default());
    let open = || {
        NetworkService::open(
            Arc::new(FakeNetwork::new()),
            store.clone(),
            EventBus::new(),
            Arc::new(crate::clock::SystemClock),
            None,
        )
    };
    let first = open().await.unwrap();
    first.create(named("kept")).await.unwrap();
    let before = first.find("kept").unwrap();
    drop(first);
    assert_eq!(open().await.unwrap().find("kept").unwrap(), before);
}

#[tokio::test]
async fn a_port_that_the_desktop_does_not_have_is_a_warning_of_its_container() {
    let service = Arc::new(FakeNetwork::new()).service(EventBus::new());
    let published = |address: &str, protocol| crate::networks::PublishedPort {
        container_port: 80,
        protocol,
        host_address: address.parse().unwrap(),
        host_port: 8080,
    };
    let attached = crate::networks::Attached {
        namespace: "/nowhere".into(),
        endpoints: Vec::new(),
        ports: vec![
            published("0.0.0.0", crate::networks::Protocol::Tcp),
            published("::", crate::networks::Protocol::Tcp),
            published("0.0.0.0", crate::networks::Protocol::Udp),
        ],
        asked: Vec::new(),
        dns: Vec::new(),
        warnings: vec!["of its start".into()],
    };
    assert_eq!(service.warnings_of(&attached), ["of its start"]);
    service.set_port_problems([("8080/tcp".to_owned(), "taken".to_owned())].into());
    assert_eq!(
        service.warnings_of(&attached),
        [
            "of its start",
            "Published port 8080/tcp cannot be reached on the desktop: taken"
        ]
    );
}

#[tokio::test]
async fn the_beginning_of_two_ids_is_ambiguous() {
    let service = service();
    // Of seventeen ids two begin alike.
    for number in 0..17 {
        let made = with_subnet(
            &format!("net-{number}"),
            &format!("10.{number}.0.0/24"),
            "",
            "",
        );
        service.create(made).await.unwrap();
    }
    let mut first: Vec<u8> = service
        .all()
        .iter()
        .map(|one| one.id.as_str().as_bytes()[0])
        .collect();
    first.sort_unstable();
    let twice = first.windows(2).find(|pair| pair[0] == pair[1]).unwrap()[0];
    let found = service.find(&char::from(twice).to_string());
    refused(found, Class::Invalid, "matches found based on ID prefix)");
}
