//! A network's options, looked at from a neighbour, from the host and from inside: where its ports are published, how it is
//! joined to the outside, what its bridge is called; and networks that this kernel or this host cannot have.

use super::user_defined::{called, made, serve_in};
use super::*;
use engine::clock::SystemClock;
use engine::events::EventBus;
use engine::networks::contract::wish as wish_for;
use engine::networks::create::{CreateNetwork, SubnetRequest};
use engine::networks::fake::MemoryNetworks;
use engine::networks::link::GatewayMode;
use engine::networks::{Driver, NetworkService, Subnet};
use std::sync::Arc;

/// `-o com.docker.network.bridge.host_binding_ipv4=192.0.2.1`, and a bridge that is called as its maker likes.
#[test]
fn ports_without_an_address_are_published_where_the_network_says() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let bound = made("bound", "10.70.0.0/24", "10.70.0.1", |network| {
            network.link.host_binding = Some([192, 0, 2, 1].into());
            network.link.name = "mybridge0".into();
        });
        backend.create(bound.clone()).await.unwrap();
        assert!(run("ip -o -4 addr show mybridge0").contains("10.70.0.1/24"));
        let ports = vec![
            port(80, None, 8070, Protocol::Tcp),
            port(80, Some("127.0.0.1"), 8071, Protocol::Tcp),
        ];
        let one = wish_for(vec![called(&bound, &["one"])], ports);
        let one = backend.attach(one).await.unwrap();
        serve_in(&one, 80);
        let addresses: Vec<String> = one
            .ports
            .iter()
            .map(|port| port.host_address.to_string())
            .collect();
        assert_eq!(addresses, ["192.0.2.1", "127.0.0.1"]);
        let published = SocketAddr::from(([192, 0, 2, 1], 8070));
        neighbour.there(move || ask_tcp(published, LONG).unwrap());
        ask_tcp(published, LONG).unwrap();
        let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        ask_tcp(loopback(8070), SHORT).expect_err("only at the network's address");
        ask_tcp(loopback(8071), LONG).expect("its own address counts more");
    });
}

/// `gateway_mode_ipv4=nat-unprotected`: who has a route reaches every port, and published ports are translated all the same.
#[test]
fn an_unprotected_network_is_open_to_who_has_a_route() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let open = made("open", "10.71.0.0/24", "10.71.0.1", |network| {
            network.link.gateway_mode_ipv4 = GatewayMode::NatUnprotected;
        });
        let other = made("other", "10.72.0.0/24", "10.72.0.1", |_| ());
        for network in [&open, &other] {
            backend.create(network.clone()).await.unwrap();
        }
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        let ports = vec![port(80, None, 8072, Protocol::Tcp)];
        let one = wish_for(vec![called(&open, &["one"])], ports);
        let one = backend.attach(one).await.unwrap();
        let elsewhere = wish_for(vec![called(&other, &["elsewhere"])], vec![]);
        let elsewhere = backend.attach(elsewhere).await.unwrap();
        serve_in(&one, 80);
        let unpublished = serve_in(&one, 81);
        neighbour.there(move || {
            let published = SocketAddr::from(([192, 0, 2, 1], 8072));
            ask_tcp(published, LONG).unwrap();
            run("ip route add 10.71.0.0/24 via 192.0.2.1");
            assert_eq!(ask_tcp(unpublished, LONG).unwrap(), "192.0.2.2 hello");
        });
        inside(&one.namespace, || {
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            assert_eq!(
                ask_tcp(world, LONG).unwrap(),
                "192.0.2.1 hello",
                "translated"
            );
        });
        // Other networks of ours stay apart from it.
        inside(&elsewhere.namespace, || {
            ask_tcp(unpublished, SHORT).expect_err("another network");
        });
    });
}

/// `gateway_mode_ipv4=isolated` on an internal network: the host has no address there, the containers have each other.
#[test]
fn an_isolated_network_is_without_the_host() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let isolated = made("isolated", "10.73.0.0/24", "10.73.0.1", |network| {
            network.internal = true;
            network.link.gateway_mode_ipv4 = GatewayMode::Isolated;
        });
        backend.create(isolated.clone()).await.unwrap();
        let addresses = run(&format!("ip -o -4 addr show {}", isolated.link.name));
        assert_eq!(addresses, "");
        let wish = |name| wish_for(vec![called(&isolated, &[name])], vec![]);
        let one = backend.attach(wish("one")).await.unwrap();
        let two = backend.attach(wish("two")).await.unwrap();
        let two_at = serve_in(&two, 80);
        inside(&one.namespace, || {
            ask_tcp(two_at, LONG).unwrap();
            assert_eq!(run("ip route show default"), "");
        });
        ask_tcp(two_at, SHORT).expect_err("the host is not there");
    });
}

/// `gateway_mode_ipv6=routed`: published ports are reached by the container's own address, others are not.
#[test]
fn a_routed_network_is_reached_by_its_own_addresses_in_ipv6() {
    on_own_host(|| async {
        let root = Root::new();
        let Some(neighbour) = neighbour_in_ipv6("2001:db8:74") else {
            return;
        };
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let routed = made("routed", "10.74.0.0/24", "10.74.0.1", |network| {
            network.ipv6 = true;
            network.link.gateway_mode_ipv6 = GatewayMode::Routed;
            network.subnets.push(Subnet::of(
                "2001:db8:75::/64".parse().unwrap(),
                "2001:db8:75::1".parse().unwrap(),
            ));
        });
        backend.create(routed.clone()).await.unwrap();
        let ports = vec![port(80, None, 8074, Protocol::Tcp)];
        let wish = wish_for(vec![called(&routed, &["r"])], ports);
        let attached = backend.attach(wish).await.unwrap();
        let own = attached.endpoints[0].ipv6_address.unwrap();
        let numbers: Vec<u16> = attached.ports.iter().map(|port| port.host_port).collect();
        assert_eq!(numbers, [8074, 0], "IPv4, IPv6");
        inside(&attached.namespace, move || {
            for port in [80, 81] {
                serve_tcp(SocketAddr::new(own, port));
            }
        });
        serve_in(&attached, 80);
        neighbour.there(move || {
            run("ip -6 route add 2001:db8:75::/64 via 2001:db8:74::1");
            let seen = ask_tcp(SocketAddr::new(own, 80), LONG).unwrap();
            assert_eq!(seen, "2001:db8:74::2 hello");
            ask_tcp(SocketAddr::new(own, 81), SHORT).expect_err("not published");
            // IPv4 is translated as ever.
            ask_tcp(SocketAddr::from(([192, 0, 2, 1], 8074)), LONG).unwrap();
        });
        let loopback: SocketAddr = "[::1]:8074".parse().unwrap();
        ask_tcp(loopback, SHORT).expect_err("none of the host's in IPv6");
        // It is seen as itself.
        inside(&attached.namespace, move || {
            let world: SocketAddr = "[2001:db8:74::2]:82".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), format!("{own} hello"));
        });
    });
}

/// The network with the highest priority is the way out, whatever it is called.
#[test]
fn the_way_out_is_where_the_priority_is_highest() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let first = made("a-first", "10.76.0.0/24", "10.76.0.1", |_| ());
        let second = made("b-second", "10.77.0.0/24", "10.77.0.1", |_| ());
        for network in [&first, &second] {
            backend.create(network.clone()).await.unwrap();
        }
        let mut places = vec![called(&first, &["one"]), called(&second, &["one"])];
        places[1].settings.gateway_priority = 1;
        let wish = wish_for(places, vec![]);
        let attached = backend.attach(wish.clone()).await.unwrap();
        let default = || inside(&attached.namespace, || run("ip route show default"));
        assert!(default().contains("via 10.77.0.1"), "{}", default());
        backend
            .disconnect(&wish.container, &first.id)
            .await
            .unwrap();
        let mut again = called(&first, &["one"]);
        again.settings.gateway_priority = 2;
        backend.connect(&wish.container, again).await.unwrap();
        assert!(default().contains("via 10.76.0.1"), "{}", default());
    });
}

/// Each mode of both drivers: a network, or a sentence about what this kernel does not have.
#[test]
fn links_on_the_hosts_link_are_made_or_refused_with_a_sentence() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let modes = [
            (Driver::Macvlan, "bridge"),
            (Driver::Macvlan, "private"),
            (Driver::Macvlan, "vepa"),
            (Driver::Ipvlan, "l2"),
            (Driver::Ipvlan, "l3"),
            (Driver::Ipvlan, "l3s"),
        ];
        for (driver, mode) in modes {
            let outer = made("outer", "192.0.2.0/24", "192.0.2.2", |network| {
                network.driver = driver;
                network.link.name = "uplink".into();
                network.link.mode = mode.into();
            });
            if let Err(error) = backend.create(outer.clone()).await {
                let name = driver.name();
                assert_eq!(
                    error.to_string(),
                    format!(
                        "the network driver {name} is not supported: this kernel does not have {name}"
                    ),
                    "{mode}"
                );
                println!("skipped: {name} {mode}: this kernel does not have it");
                assert!(!run("ip -o link").contains("bp"), "the try is taken back");
                continue;
            }
            let mut wish = wish_for(vec![called(&outer, &["m"])], vec![]);
            wish.endpoints[0].settings.ipv4 = Some([192, 0, 2, 51].into());
            // Again at once, with the same address.
            backend.attach(wish.clone()).await.unwrap();
            backend.detach(&wish.container).await.unwrap();
            let attached = backend.attach(wish.clone()).await.unwrap();
            inside(&attached.namespace, || {
                let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
                assert_eq!(ask_tcp(world, LONG).unwrap(), "192.0.2.51 hello", "{mode}");
            });
            backend.detach(&wish.container).await.unwrap();
            backend.remove(&outer.id).await.unwrap();
            // The link goes in the background; another mode cannot be had before.
            eventually("the namespace is gone", || !attached.namespace.exists());
        }
    });
}

fn networks_of(backend: &Arc<LinuxNetwork>) -> NetworkService {
    NetworkService::empty(
        backend.clone(),
        Arc::new(MemoryNetworks::default()),
        EventBus::new(),
        Arc::new(SystemClock),
        None,
    )
}

fn named(name: &str, subnet: &str) -> CreateNetwork {
    CreateNetwork {
        name: name.into(),
        subnets: vec![SubnetRequest {
            subnet: subnet.into(),
            ..SubnetRequest::default()
        }],
        ..CreateNetwork::default()
    }
}

/// A bridge that was there before its network has its own addresses, and stays when the network goes.
#[test]
fn a_bridge_of_the_administrators_outlives_its_network() {
    on_own_host(|| async {
        let root = Root::new();
        run("ip link add theirs0 type bridge");
        run("ip addr add 10.85.0.1/24 dev theirs0");
        run("ip link set theirs0 up");
        let backend = Arc::new(LinuxNetwork::new(root.config()).unwrap());
        let service = networks_of(&backend);
        let on = |bridge: &str, subnet: &str| {
            let mut request = named(bridge, subnet);
            let option = "com.docker.network.bridge.name".to_owned();
            request.options.insert(option, bridge.to_owned());
            request
        };
        for (bridge, subnet) in [("theirs0", "10.85.0.0/24"), ("ours0", "10.86.0.0/24")] {
            service.create(on(bridge, subnet)).await.unwrap();
            let network = service.find(bridge).unwrap();
            let wish = wish_for(vec![called(&network, &["one"])], vec![]);
            let attached = backend.attach(wish.clone()).await.unwrap();
            ask_tcp(serve_in(&attached, 80), LONG).unwrap();
            backend.detach(&wish.container).await.unwrap();
        }
        let theirs = service.find("theirs0").unwrap();
        let ours = service.find("ours0").unwrap();
        // Links on it that are not ours: of containers of others, and of another agent.
        let foreign = [
            "lxc0",
            "vethB4Qx1z",
            "veth0123456",
            "veth01234567",
            "veth01234567_1",
        ];
        for (number, link) in foreign.iter().enumerate() {
            run(&format!(
                "ip link add {link} type veth peer name inside{number}"
            ));
            run(&format!("ip link set {link} master theirs0"));
        }
        drop((service, backend));
        // Another agent knows whose is whose, too.
        let backend = LinuxNetwork::new(root.config()).unwrap();
        for network in [&theirs, &ours] {
            backend.create(network.clone()).await.unwrap();
        }
        backend.recover(vec![]).await.unwrap();
        let ports = run("ip -o link show master theirs0");
        for link in foreign {
            assert!(ports.contains(&format!(" {link}@")), "{link}: {ports}");
        }
        for network in [&theirs, &ours] {
            backend.create(network.clone()).await.unwrap();
            backend.remove(&network.id).await.unwrap();
        }
        let addresses = run("ip -o -4 addr show theirs0");
        assert!(addresses.contains("10.85.0.1/24"), "{addresses}");
        assert!(!run("ip -o link").contains("ours0"));
    });
}

/// As a VPN has them: routes for everything, or for all that is private. There is room for networks all the same.
#[test]
fn routes_that_cover_everything_leave_room_for_networks() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        run("ip route add 0.0.0.0/1 via 192.0.2.2");
        run("ip route add 128.0.0.0/1 via 192.0.2.2");
        let backend = Arc::new(LinuxNetwork::new(root.config()).unwrap());
        assert_eq!(backend.bridge_address().to_string(), "172.17.0.1/16");
        let service = networks_of(&backend);
        service
            .create(named("asked", "10.87.0.0/24"))
            .await
            .unwrap();
        run("ip route add 172.16.0.0/12 via 192.0.2.2");
        service.create(named("first", "")).await.unwrap();
        run("ip route add 192.168.0.0/16 via 192.0.2.2");
        service.create(named("second", "")).await.unwrap();
        let range = |name: &str| service.find(name).unwrap().subnets[0].range.to_string();
        assert_eq!(range("first"), "192.168.0.0/20");
        assert_eq!(range("second"), "172.18.0.0/16");
        drop(neighbour);
    });
}

/// Subnets are chosen beside the host's addresses and routes, and refused where they overlap with them.
#[test]
fn networks_keep_out_of_the_hosts_routes() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        run("ip route add 172.18.4.0/24 via 192.0.2.2");
        run("ip route add 10.78.0.0/16 via 192.0.2.2");
        let backend = Arc::new(LinuxNetwork::new(root.config()).unwrap());
        let service = networks_of(&backend);
        service.create(named("any", "")).await.unwrap();
        let chosen = service.find("any").unwrap().subnets[0].range;
        assert_eq!(chosen.to_string(), "172.19.0.0/16");
        for (subnet, other) in [
            ("10.78.3.0/24", "10.78.0.0/16"),
            ("192.0.2.128/25", "192.0.2.1/24"),
        ] {
            let error = service.create(named("x", subnet)).await.unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains("Pool overlaps with other one on this address space")
                    && text.contains(other),
                "{text}"
            );
        }
        // A network of ours is no route of the host's.
        service.create(named("own", "10.79.0.0/16")).await.unwrap();
        let inner = service.create(named("x", "10.79.3.0/24")).await;
        assert_eq!(
            inner.unwrap_err().to_string(),
            "invalid pool request: Pool overlaps with other one on this address space"
        );
        drop(neighbour);
    });
}

/// Two ranges of one family on one bridge: the second is used when the first is full, and all are one network.
#[test]
fn several_subnets_are_one_network() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let both = made("both", "10.80.0.0/30", "10.80.0.1", |network| {
            let second = "10.81.0.0/29".parse().unwrap();
            let second = Subnet::of(second, "10.81.0.1".parse().unwrap());
            network.subnets.push(second);
        });
        backend.create(both.clone()).await.unwrap();
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        let one = wish_for(vec![called(&both, &["one"])], vec![]);
        let one = backend.attach(one).await.unwrap();
        let ports = vec![port(80, None, 8083, Protocol::Tcp)];
        let two = wish_for(vec![called(&both, &["two"])], ports);
        let two = backend.attach(two).await.unwrap();
        let (one_at, two_at) = (serve_in(&one, 80), serve_in(&two, 80));
        assert_eq!(one_at.to_string(), "10.80.0.2:80");
        assert_eq!(two_at.to_string(), "10.81.0.2:80");
        inside(&one.namespace, || {
            assert_eq!(ask_tcp(two_at, LONG).unwrap(), "10.80.0.2 hello");
        });
        inside(&two.namespace, || {
            assert!(run("ip route show default").contains("via 10.81.0.1"));
            ask_tcp(one_at, LONG).unwrap();
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), "192.0.2.1 hello");
        });
        neighbour.there(move || {
            let published = SocketAddr::from(([192, 0, 2, 1], 8083));
            ask_tcp(published, LONG).unwrap();
            run("ip route add 10.81.0.0/29 via 192.0.2.1");
            ask_tcp(two_at, SHORT).expect_err("around the published port");
        });
    });
}
