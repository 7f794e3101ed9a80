//! Networks that somebody has made: links, addresses, names, ways in and out, and who cannot reach whom.

use super::*;
use engine::networks::contract::{network as plain, wish as wish_for};
use engine::networks::{EndpointRequest, Network, Subnet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A network like `plain`, changed.
pub(super) fn made(
    name: &str,
    range: &str,
    gateway: &str,
    change: impl FnOnce(&mut Network),
) -> Arc<Network> {
    let mut network = (*plain(name, range, gateway)).clone();
    change(&mut network);
    Arc::new(network)
}

/// A place under this name.
pub(super) fn called(network: &Arc<Network>, names: &[&str]) -> EndpointRequest {
    EndpointRequest {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..place(network)
    }
}

async fn one_in(backend: &LinuxNetwork, network: &Arc<Network>, name: &str) -> Attached {
    let wish = wish_for(vec![called(network, &[name])], vec![]);
    backend.attach(wish).await.unwrap()
}

pub(super) fn serve_in(attached: &Attached, port: u16) -> SocketAddr {
    let address = SocketAddr::new(address(attached), port);
    inside(&attached.namespace, move || serve_tcp(address));
    address
}

#[test]
fn containers_of_a_network_reach_each_other_and_the_world_and_no_other_network() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.30.0.0/24", "10.30.0.1");
        let back = plain("back", "10.31.0.0/24", "10.31.0.1");
        for network in [&front, &back] {
            backend.create(network.clone()).await.unwrap();
        }
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        let web = one_in(&backend, &front, "web").await;
        let database = one_in(&backend, &front, "database").await;
        let other = one_in(&backend, &back, "other").await;
        let on_bridge = backend.attach(wish(&backend, vec![])).await.unwrap();
        let database_at = serve_in(&database, 80);
        let other_at = serve_in(&other, 80);
        let on_bridge_at = serve_in(&on_bridge, 80);
        inside(&web.namespace, || {
            assert_eq!(ask_tcp(database_at, LONG).unwrap(), "10.30.0.2 hello");
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), "192.0.2.1 hello");
            ask_tcp(other_at, SHORT).expect_err("another network");
            ask_tcp(on_bridge_at, SHORT).expect_err("the default bridge");
        });
        inside(&on_bridge.namespace, || {
            ask_tcp(other_at, SHORT).expect_err("another network");
        });
        // The host reaches all, a neighbour with a route none.
        assert_eq!(ask_tcp(other_at, LONG).unwrap(), "10.31.0.1 hello");
        neighbour.there(move || {
            run("ip route add 10.31.0.0/24 via 192.0.2.1");
            ask_tcp(other_at, SHORT).expect_err("not published");
        });
    });
}

#[test]
fn an_internal_network_has_no_way_out_and_none_in() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let hidden = made("hidden", "10.32.0.0/24", "10.32.0.1", |network| {
            network.internal = true
        });
        backend.create(hidden.clone()).await.unwrap();
        neighbour.there(|| {
            serve_tcp("192.0.2.2:82".parse().unwrap());
            run("ip route add 10.32.0.0/24 via 192.0.2.1");
        });
        let one = one_in(&backend, &hidden, "one").await;
        let published = wish_for(
            vec![called(&hidden, &["two"])],
            vec![port(80, None, 8085, Protocol::Tcp)],
        );
        let two = backend.attach(published).await.unwrap();
        assert!(two.ports.is_empty());
        assert!(
            two.warnings[0].contains("network hidden has no way in"),
            "{:?}",
            two.warnings
        );
        let two_at = serve_in(&two, 80);
        inside(&one.namespace, || {
            ask_tcp(two_at, LONG).unwrap();
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            ask_tcp(world, SHORT).expect_err("no way out");
            assert_eq!(run("ip route show default"), "");
            // Not even by a route of its own making.
            run("ip route add default via 10.32.0.1");
            ask_tcp(world, SHORT).expect_err("no way out");
        });
        neighbour.there(move || ask_tcp(two_at, SHORT).expect_err("no way in"));
    });
}

#[test]
fn where_containers_may_not_talk_not_even_arp_passes() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let apart = made("apart", "10.33.0.0/24", "10.33.0.1", |network| {
            network.link.icc = false
        });
        backend.create(apart.clone()).await.unwrap();
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        let one = one_in(&backend, &apart, "one").await;
        let two = one_in(&backend, &apart, "two").await;
        let two_at = serve_in(&two, 80);
        serve_udp("10.33.0.1:81".parse().unwrap());
        inside(&one.namespace, || {
            ask_tcp(two_at, SHORT).expect_err("apart");
            let neighbours = run("ip neigh show 10.33.0.3");
            assert!(!neighbours.contains("lladdr"), "{neighbours}");
            // As the other: ARP for the host with its address, and packets from it.
            run("ip addr add 10.33.0.3/32 dev eth0");
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            assert_eq!(
                ask_tcp(world, LONG).unwrap(),
                "192.0.2.1 hello",
                "its own way out"
            );
            assert!(is_answered("10.33.0.2", "10.33.0.1:81"), "as itself");
            assert!(!is_answered("10.33.0.3", "10.33.0.1:81"), "as another");
        });
        // The host still knows who is who.
        assert_eq!(ask_tcp(two_at, LONG).unwrap(), "10.33.0.1 hello");
        // The guard goes with those it is for.
        if Command::new("nft").arg("--version").output().is_ok() {
            assert!(run("nft list tables").contains("table bridge berth"));
            for (container, _) in backend.endpoints(&apart.id) {
                backend.detach(&container).await.unwrap();
            }
            assert!(!run("nft list tables").contains("table bridge berth"));
        }
    });
}

/// The same in IPv6, and with a hardware address of somebody else's. `icc`: as a control, where all of it is possible.
fn pretending(icc: bool) {
    on_own_host(move || async move {
        if !Path::new("/proc/net/if_inet6").exists() {
            println!("skipped: this kernel has no IPv6");
            return;
        }
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let apart = made("apart", "10.38.0.0/24", "10.38.0.1", |network| {
            network.link.icc = icc;
            network.ipv6 = true;
            network.subnets.push(Subnet::of(
                "fd00:38::/64".parse().unwrap(),
                "fd00:38::1".parse().unwrap(),
            ));
        });
        backend.create(apart.clone()).await.unwrap();
        let one = one_in(&backend, &apart, "one").await;
        let two = one_in(&backend, &apart, "two").await;
        for server in ["[fd00:38::1]:81", "10.38.0.1:81"] {
            serve_udp(server.parse().unwrap());
        }
        inside(&one.namespace, || {
            assert!(is_answered("fd00:38::2", "[fd00:38::1]:81"), "as itself");
            let link = run("ip -6 addr show dev eth0 scope link");
            assert!(link.contains("fe80::42:aff:fe26:2"), "{link}");
        });
        // The other one does not answer for itself now, so that nobody contradicts.
        inside(&two.namespace, || run("ip link set eth0 down"));
        inside(&one.namespace, || {
            run("ip addr add fd00:38::3/128 dev eth0 nodad");
            serve_tcp("[fd00:38::3]:83".parse().unwrap());
            assert_eq!(is_answered("fd00:38::3", "[fd00:38::1]:81"), icc);
        });
        // Who has fd00:38::3? An answer of one's would bring the host's connection to it.
        let other: SocketAddr = "[fd00:38::3]:83".parse().unwrap();
        assert_eq!(ask_tcp(other, SHORT).is_ok(), icc);
        inside(&one.namespace, || {
            assert!(is_answered("10.38.0.2", "10.38.0.1:81"), "as itself");
            run("ip link set eth0 address 02:42:0a:26:00:03");
        });
        // The host asks again who has the address.
        run(&format!("ip neigh flush dev {}", apart.link.name));
        inside(&one.namespace, || {
            assert_eq!(is_answered("10.38.0.2", "10.38.0.1:81"), icc);
        });
    });
}

#[test]
fn nobody_pretends_to_be_another_where_containers_may_not_talk() {
    pretending(false);
}

#[test]
fn where_they_may_talk_they_are_trusted() {
    pretending(true);
}

/// A container that runs may send as soon as its new link is up: by then it is known who it is.
#[test]
fn nobody_pretends_to_be_another_while_he_is_connected() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let hidden = made("hidden", "10.37.0.0/24", "10.37.0.1", |network| {
            network.internal = true;
        });
        let apart = made("apart", "10.38.0.0/24", "10.38.0.1", |network| {
            network.link.icc = false;
        });
        for network in [&hidden, &apart] {
            backend.create(network.clone()).await.unwrap();
        }
        let wish = wish_for(vec![called(&hidden, &["one"])], vec![]);
        let one = backend.attach(wish.clone()).await.unwrap();
        let server = UdpSocket::bind("10.38.0.1:81").unwrap();
        server.set_read_timeout(Some(SHORT)).unwrap();
        let is_connected = Arc::new(AtomicBool::new(false));
        let (pretends, is_pretending) = mpsc::channel();
        let pretender = std::thread::spawn({
            let (namespace, is_connected) = (one.namespace.clone(), is_connected.clone());
            move || {
                inside(&namespace, || {
                    run("ip addr add 10.38.0.99/32 dev lo");
                    let socket = UdpSocket::bind("10.38.0.99:0").unwrap();
                    pretends.send(()).unwrap();
                    while !is_connected.load(Ordering::Relaxed) {
                        // There is no way as long as there is no link.
                        let _ = socket.send_to(b"pretended", "10.38.0.1:81");
                    }
                });
            }
        });
        is_pretending.recv().unwrap();
        let joined = backend.connect(&wish.container, called(&apart, &["one"]));
        let joined = joined.await.unwrap();
        is_connected.store(true, Ordering::Relaxed);
        pretender.join().unwrap();
        let own = joined.endpoints[1].address.unwrap();
        let heard = inside(&one.namespace, || {
            // Nobody has answered to the other name: that is not waited for.
            run("ip neigh flush dev eth1");
            let socket = UdpSocket::bind((own, 0)).unwrap();
            (0..20).find_map(|_| {
                socket.send_to(b"as itself", "10.38.0.1:81").unwrap();
                let (_, from) = server.recv_from(&mut [0; 16]).ok()?;
                Some(from.ip())
            })
        });
        assert_eq!(heard, Some(own));
    });
}

/// Whether a datagram from a chosen address is answered.
fn is_answered(from: &str, to: &str) -> bool {
    let from: IpAddr = from.parse().unwrap();
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.connect(to).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut buffer = [0; 16];
    (0..6).any(|_| socket.send(b"hello").is_ok() && socket.recv(&mut buffer).is_ok())
}

#[test]
fn ipv6_inside_out_and_published() {
    on_own_host(|| async {
        let root = Root::new();
        let Some(neighbour) = neighbour_in_ipv6("2001:db8:99") else {
            return;
        };
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let six = made("six", "10.34.0.0/24", "10.34.0.1", |network| {
            network.ipv6 = true;
            network.subnets.push(Subnet::of(
                "fd00:34::/64".parse().unwrap(),
                "fd00:34::1".parse().unwrap(),
            ));
        });
        backend.create(six.clone()).await.unwrap();
        let one = wish_for(
            vec![called(&six, &["one"])],
            vec![port(80, None, 8086, Protocol::Tcp)],
        );
        let one = backend.attach(one).await.unwrap();
        let two = one_in(&backend, &six, "two").await;
        let v6 = one.endpoints[0].ipv6_address.unwrap();
        assert_eq!(v6.to_string(), "fd00:34::2");
        let at = SocketAddr::new(v6, 80);
        inside(&one.namespace, move || serve_tcp(at));
        let container_v4 = serve_in(&one, 80);
        inside(&two.namespace, || {
            assert_eq!(ask_tcp(at, LONG).unwrap(), "fd00:34::3 hello");
            let world: SocketAddr = "[2001:db8:99::2]:82".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), "2001:db8:99::1 hello");
            let published: SocketAddr = "[2001:db8:99::1]:8086".parse().unwrap();
            assert_eq!(ask_tcp(published, LONG).unwrap(), "fd00:34::1 hello");
        });
        neighbour.there(move || {
            let published: SocketAddr = "[2001:db8:99::1]:8086".parse().unwrap();
            assert_eq!(ask_tcp(published, LONG).unwrap(), "2001:db8:99::2 hello");
            run("ip -6 route add fd00:34::/64 via 2001:db8:99::1");
            ask_tcp(at, SHORT).expect_err("around the published port");
        });
        let loopback: SocketAddr = "[::1]:8086".parse().unwrap();
        ask_tcp(loopback, LONG).unwrap();
        ask_tcp(SocketAddr::from(([127, 0, 0, 1], 8086)), LONG).unwrap();
        assert_eq!(ask_tcp(container_v4, LONG).unwrap(), "10.34.0.1 hello");
    });
}

/// As in IPv4: networks are apart, and an internal one has no way out, not even by a route of a container's own making.
#[test]
fn networks_are_apart_in_ipv6_too() {
    on_own_host(|| async {
        let root = Root::new();
        let Some(neighbour) = neighbour_in_ipv6("2001:db8:99") else {
            return;
        };
        neighbour.there(|| run("ip -6 route add fd00::/16 via 2001:db8:99::1"));
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let six = |name: &str, number: u8, internal: bool| {
            let (range, gateway) = (format!("10.{number}.0.0/24"), format!("10.{number}.0.1"));
            made(name, &range, &gateway, |network| {
                network.ipv6 = true;
                network.internal = internal;
                network.subnets.push(Subnet::of(
                    format!("fd00:{number}::/64").parse().unwrap(),
                    format!("fd00:{number}::1").parse().unwrap(),
                ));
            })
        };
        let (front, back, hidden) = (
            six("front", 82, false),
            six("back", 83, false),
            six("hidden", 84, true),
        );
        let mut all = Vec::new();
        for network in [&front, &back, &hidden] {
            backend.create(network.clone()).await.unwrap();
            for name in ["one", "two"] {
                all.push(one_in(&backend, network, name).await);
            }
        }
        let at: Vec<SocketAddr> = all
            .iter()
            .map(|attached| {
                let at = SocketAddr::new(attached.endpoints[0].ipv6_address.unwrap(), 80);
                inside(&attached.namespace, move || serve_tcp(at));
                at
            })
            .collect();
        let world: SocketAddr = "[2001:db8:99::2]:82".parse().unwrap();
        for (index, attached) in all.iter().enumerate().step_by(2) {
            let is_hidden = index == 4;
            inside(&attached.namespace, || {
                ask_tcp(at[index + 1], LONG).expect("its own network");
                if is_hidden {
                    assert_eq!(run("ip -6 route show default"), "");
                    run("ip -6 route add default via fd00:84::1");
                }
                assert_eq!(ask_tcp(world, SHORT).is_err(), is_hidden, "the world");
                ask_tcp(at[(index + 3) % 6], SHORT).expect_err("another network");
            });
        }
        neighbour.there(move || {
            for at in at.into_iter().step_by(2) {
                ask_tcp(at, SHORT).expect_err("not published");
            }
        });
    });
}

#[test]
fn links_come_and_go_while_it_runs_and_ports_follow_the_way_out() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.35.0.0/24", "10.35.0.1");
        let back = plain("back", "10.36.0.0/24", "10.36.0.1");
        for network in [&front, &back] {
            backend.create(network.clone()).await.unwrap();
        }
        let web = wish_for(
            vec![called(&front, &["web"])],
            vec![
                port(80, None, 8087, Protocol::Tcp),
                port(53, None, 5387, Protocol::Udp),
            ],
        );
        let id = web.container.clone();
        let attached = backend.attach(web).await.unwrap();
        inside(&attached.namespace, || {
            serve_tcp("0.0.0.0:80".parse().unwrap());
            serve_udp("0.0.0.0:53".parse().unwrap());
        });
        // One client that goes on.
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:5387").unwrap();
        client
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        let is_answered = || {
            let mut buffer = [0; 16];
            (0..6).any(|_| client.send(b"hello").is_ok() && client.recv(&mut buffer).is_ok())
        };
        let published = SocketAddr::from(([192, 0, 2, 1], 8087));
        let loopback = SocketAddr::from(([127, 0, 0, 1], 8087));
        let reach =
            |neighbour: &Neighbour| neighbour.there(move || ask_tcp(published, LONG).unwrap());
        assert_eq!(reach(&neighbour), "192.0.2.2 hello");
        let other = one_in(&backend, &back, "other").await;
        let mut request = called(&back, &["web"]);
        request.settings.mac_address = Some("02:42:00:00:00:77".into());
        request.settings.link_local = vec!["169.254.7.7".parse().unwrap()];
        let attached = backend.connect(&id, request).await.unwrap();
        inside(&attached.namespace, || {
            let link = run("ip -o addr show eth1");
            assert!(
                link.contains("10.36.0.3/24") && link.contains("169.254.7.7/16"),
                "{link}"
            );
            assert!(run("ip link show eth1").contains("02:42:00:00:00:77"));
            // back comes before front.
            assert!(run("ip route show default").contains("via 10.36.0.1"));
        });
        inside(&other.namespace, || {
            ask_tcp(SocketAddr::from(([10, 36, 0, 3], 80)), LONG).unwrap();
        });
        assert_eq!(reach(&neighbour), "192.0.2.2 hello");
        ask_tcp(loopback, LONG).unwrap();
        assert!(is_answered());
        let attached = backend.disconnect(&id, &back.id).await.unwrap();
        inside(&attached.namespace, || {
            assert!(run("ip route show default").contains("via 10.35.0.1"));
            assert!(!run("ip -o link").contains("eth1"));
        });
        assert_eq!(reach(&neighbour), "192.0.2.2 hello");
        ask_tcp(loopback, LONG).unwrap();
        assert!(is_answered());
        let attached = backend.disconnect(&id, &front.id).await.unwrap();
        inside(&attached.namespace, || {
            assert_eq!(run("ip route show default"), "")
        });
        assert_eq!(attached.ports, []);
        assert_eq!(backend.firewall_ports().unwrap(), 0);
        backend.detach(&id).await.unwrap();
    });
}

/// Without a way out nobody comes in, and nobody comes by a published port to who has the address next; with the next way
/// out the ports are back, also where another agent has begun meanwhile.
#[test]
fn ports_go_with_the_last_way_out_and_come_with_the_next() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.39.0.0/24", "10.39.0.1");
        let hidden = made("hidden", "10.88.0.0/24", "10.88.0.1", |network| {
            network.internal = true
        });
        for network in [&front, &hidden] {
            backend.create(network.clone()).await.unwrap();
        }
        let ports = vec![
            port(80, None, 8093, Protocol::Tcp),
            port(53, None, 5393, Protocol::Udp),
            port(9, None, 8094, Protocol::Sctp),
        ];
        let web = wish_for(vec![called(&front, &["web"])], ports);
        let id = &web.container;
        let attached = backend.attach(web.clone()).await.unwrap();
        inside(&attached.namespace, || {
            serve_tcp("0.0.0.0:80".parse().unwrap());
            serve_udp("0.0.0.0:53".parse().unwrap());
        });
        let published = attached.ports;
        let hosts: [SocketAddr; 3] =
            ["127.0.0.1:8093", "192.0.2.1:8093", "[::1]:8093"].map(|host| host.parse().unwrap());
        let reached = || hosts.map(|host| ask_tcp(host, SHORT).is_ok());
        let by_udp = || ask_udp(SocketAddr::from(([127, 0, 0, 1], 5393)));
        let ipv6 = Path::new("/proc/net/if_inet6").exists();
        assert_eq!(reached(), [true, true, ipv6]);
        assert_eq!(by_udp(), "datagram");

        let attached = backend.disconnect(id, &front.id).await.unwrap();
        assert_eq!(attached.ports, []);
        assert_eq!(
            attached.warnings,
            ["Ports are not published: the container is in no network"]
        );
        // Who has its address now is not to be reached by its ports.
        let mut heir = called(&front, &["heir"]);
        heir.settings.ipv4 = Some([10, 39, 0, 2].into());
        let heir = backend.attach(wish_for(vec![heir], vec![])).await.unwrap();
        serve_in(&heir, 80);
        assert_eq!(reached(), [false; 3]);
        assert_eq!(backend.firewall_ports().unwrap(), 0);
        for address in ["0.0.0.0", "::"].iter().take(if ipv6 { 2 } else { 1 }) {
            TcpListener::bind((*address, 8093)).expect("the port is free");
        }

        backend
            .connect(id, called(&hidden, &["web"]))
            .await
            .unwrap();
        assert_eq!(reached(), [false; 3]);
        let attached = backend.connect(id, called(&front, &["web"])).await.unwrap();
        assert_eq!(
            (attached.ports, attached.warnings),
            (published.clone(), vec![])
        );
        assert_eq!(reached(), [true, true, ipv6]);
        assert_eq!(by_udp(), "datagram");
        neighbour.there(move || ask_tcp(hosts[1], LONG).unwrap());

        let attached = backend.disconnect(id, &front.id).await.unwrap();
        drop(backend);
        let backend = LinuxNetwork::new(root.config()).unwrap();
        for network in [&front, &hidden] {
            backend.create(network.clone()).await.unwrap();
        }
        backend
            .recover(vec![survivor(id, &attached)])
            .await
            .unwrap();
        assert_eq!(reached(), [false; 3]);
        // Somebody else has one of the ports: the network that it would be published by is refused.
        let other = TcpListener::bind("0.0.0.0:8093").unwrap();
        let error = backend.connect(id, called(&front, &["web"])).await;
        assert!(matches!(
            error.unwrap_err(),
            NetworkError::PortTaken { port: 8093, .. }
        ));
        assert!(backend.endpoints(&front.id).is_empty());
        inside(&attached.namespace, || {
            assert!(!run("ip -o link").contains("eth1"))
        });
        drop(other);
        let attached = backend.connect(id, called(&front, &["web"])).await.unwrap();
        assert_eq!(attached.ports, published);
        assert_eq!(reached(), [true, true, ipv6]);
        backend.detach(id).await.unwrap();
        assert_eq!(reached(), [false; 3]);
    });
}

#[test]
fn macvlan_links_have_their_own_place_on_the_hosts_link() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let on_link = |driver, parent: &str| {
            made("outer", "192.0.2.0/24", "192.0.2.2", |network| {
                network.driver = driver;
                network.link.name = parent.into();
            })
        };
        let error = backend
            .create(on_link(engine::networks::Driver::Macvlan, "nowhere"))
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("the parent link does not exist"),
            "{error}"
        );
        match backend
            .create(on_link(engine::networks::Driver::Ipvlan, "uplink"))
            .await
        {
            Ok(()) => {}
            Err(error) => assert!(
                error
                    .to_string()
                    .contains("this kernel does not have ipvlan"),
                "{error}"
            ),
        }
        let outer = on_link(engine::networks::Driver::Macvlan, "uplink");
        if let Err(error) = backend.create(outer.clone()).await {
            println!("skipped: {error}");
            return;
        }
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        let mut wish = wish_for(vec![called(&outer, &["m"])], vec![]);
        wish.endpoints[0].settings.ipv4 = Some([192, 0, 2, 50].into());
        let attached = backend.attach(wish.clone()).await.unwrap();
        inside(&attached.namespace, || {
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), "192.0.2.50 hello");
        });
        backend.detach(&wish.container).await.unwrap();
        backend.remove(&outer.id).await.unwrap();
    });
}

/// A network's options are what the links have.
#[test]
fn mtu_and_routed_ports() {
    on_own_host(|| async {
        use engine::networks::link::GatewayMode;
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let routed = made("routed", "10.37.0.0/24", "10.37.0.1", |network| {
            network.link.mtu = Some(1400);
            network.link.gateway_mode_ipv4 = GatewayMode::Routed;
        });
        backend.create(routed.clone()).await.unwrap();
        let wish = wish_for(
            vec![called(&routed, &["r"])],
            vec![port(80, None, 8088, Protocol::Tcp)],
        );
        let attached = backend.attach(wish.clone()).await.unwrap();
        // No port of the host's is taken for it.
        let shown = |attached: &Attached| -> Vec<(String, u16)> {
            let ports = attached.ports.iter();
            let each = ports.map(|port| (port.host_address.to_string(), port.host_port));
            each.collect()
        };
        assert_eq!(shown(&attached), [("0.0.0.0".to_owned(), 0)]);
        let at = serve_in(&attached, 80);
        let hosts = ["127.0.0.1", "192.0.2.1", "::1"].map(|host| host.parse::<IpAddr>().unwrap());
        let refused = || {
            for host in hosts {
                ask_tcp((host, 8088), SHORT).expect_err("not opened");
            }
            TcpListener::bind("0.0.0.0:8088").expect("not taken");
        };
        refused();
        let id = &wish.container;
        drop(backend);
        let backend = LinuxNetwork::new(root.config()).unwrap();
        backend.create(routed.clone()).await.unwrap();
        backend
            .recover(vec![survivor(id, &attached)])
            .await
            .unwrap();
        refused();
        // By another way out it is translated, and with this one no more.
        let nat = plain("nat", "10.89.0.0/24", "10.89.0.1");
        backend.create(nat.clone()).await.unwrap();
        let other = backend.connect(id, called(&nat, &["r"])).await.unwrap();
        assert_eq!(other.ports[0].host_port, 8088);
        inside(&other.namespace, || {
            serve_tcp("10.89.0.2:80".parse().unwrap())
        });
        ask_tcp((hosts[0], 8088), LONG).unwrap();
        let attached = backend.disconnect(id, &nat.id).await.unwrap();
        assert_eq!(shown(&attached), [("0.0.0.0".to_owned(), 0)]);
        refused();
        let closed = serve_in(&attached, 81);
        inside(&attached.namespace, || {
            assert!(run("ip link show eth0").contains("mtu 1400"))
        });
        assert!(run(&format!("ip link show {}", routed.link.name)).contains("mtu 1400"));
        neighbour.there(move || {
            run("ip route add 10.37.0.0/24 via 192.0.2.1");
            assert_eq!(ask_tcp(at, LONG).unwrap(), "192.0.2.2 hello");
            ask_tcp(closed, SHORT).expect_err("not published");
        });
    });
}

/// `--ip-masq=false`: who is asked sees the container's own address.
#[test]
fn without_masquerading_the_world_sees_containers() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let mut config = root.config();
        config.masquerade = false;
        let backend = LinuxNetwork::new(config).unwrap();
        neighbour.there(|| {
            serve_tcp("192.0.2.2:82".parse().unwrap());
            run("ip route add 172.17.0.0/16 via 192.0.2.1");
        });
        let one = backend.attach(wish(&backend, vec![])).await.unwrap();
        inside(&one.namespace, || {
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), "172.17.0.2 hello");
        });
    });
}
