//! Networks against the kernel. Each test plays a host of its own: a thread in a fresh network and mount namespace, so
//! that tests cannot meet each other or the real host, and the kernel cleans up whatever happens.

mod failures;
mod modes;
mod names;
mod options;
mod own_host;
mod user_defined;

use engine::networks::contract::place;
use engine::networks::{Attached, NetworkBackend, NetworkError, Protocol};
use engine_linux::network::LinuxNetwork;
use own_host::*;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

#[test]
fn linux_keeps_the_contract() {
    on_own_host(|| async {
        let root = Root::new();
        let network = LinuxNetwork::new(root.config()).unwrap();
        engine::networks::contract::check(&network).await;
        assert_eq!(network.firewall_ports().unwrap(), 0);
    });
}

#[test]
fn containers_reach_the_host_each_other_and_the_world() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let network = LinuxNetwork::new(root.config()).unwrap();
        assert_eq!(network.bridge_address().to_string(), "172.17.0.1/16");
        let one = network.attach(wish(&network, vec![])).await.unwrap();
        let other = network.attach(wish(&network, vec![])).await.unwrap();
        assert_eq!(address(&one).to_string(), "172.17.0.2");
        assert_eq!(one.endpoints[0].mac_address, "02:42:ac:11:00:02");
        let other_address = SocketAddr::new(address(&other), 80);
        inside(&other.namespace, || serve_tcp(other_address));
        serve_tcp("172.17.0.1:81".parse().unwrap());
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));

        // Host to container, container to container, container to host.
        assert_eq!(ask_tcp(other_address, LONG).unwrap(), "172.17.0.1 hello");
        let namespace = one.namespace.clone();
        inside(&namespace, || {
            assert_eq!(ask_tcp(other_address, LONG).unwrap(), "172.17.0.2 hello");
            let host: SocketAddr = "172.17.0.1:81".parse().unwrap();
            assert_eq!(ask_tcp(host, LONG).unwrap(), "172.17.0.2 hello");
            // To the world behind the host's address.
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), "192.0.2.1 hello");
            // Loopback, low ports and ping without privilege.
            TcpListener::bind("127.0.0.1:0").unwrap();
            let ping = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap();
            assert_eq!(
                ping.split_whitespace().collect::<Vec<_>>(),
                ["0", "2147483647"]
            );
            let links = run("ip -o addr show eth0");
            assert!(!links.contains("inet6"), "{links}");
        });

        // Nobody from outside comes in around the published ports.
        neighbour.there(move || {
            run("ip route add 172.17.0.0/16 via 192.0.2.1");
            ask_tcp(other_address, SHORT).expect_err("not published");
        });
    });
}

#[test]
fn published_ports_are_reached_from_everywhere_they_should() {
    published_ports("0");
}

/// As above where bridged frames pass the firewall: br_netfilter, which dockerd loads.
#[test]
fn published_ports_are_reached_also_with_br_netfilter() {
    published_ports("1");
}

fn published_ports(bridged_frames_pass_the_firewall: &'static str) {
    on_own_host(move || async move {
        let file = "/proc/sys/net/bridge/bridge-nf-call-iptables";
        if std::fs::write(file, bridged_frames_pass_the_firewall).is_err()
            && bridged_frames_pass_the_firewall == "1"
        {
            println!("skipped: br_netfilter is not there");
            return;
        }
        let root = Root::new();
        let neighbour = Neighbour::new();
        let network = LinuxNetwork::new(root.config()).unwrap();
        let attached = network
            .attach(wish(
                &network,
                vec![
                    port(80, None, 8080, Protocol::Tcp),
                    port(80, Some("127.0.0.1"), 8081, Protocol::Tcp),
                    port(80, Some("192.0.2.1"), 8082, Protocol::Tcp),
                    port(53, None, 5353, Protocol::Udp),
                ],
            ))
            .await
            .unwrap();
        assert_eq!(attached.warnings, Vec::<String>::new());
        let container = address(&attached);
        inside(&attached.namespace, move || {
            serve_tcp(SocketAddr::new(container, 80));
            serve_udp(SocketAddr::new(container, 53));
        });
        let host = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));

        // A neighbour: redirected, so the container sees who it is.
        neighbour.there(move || {
            assert_eq!(ask_tcp(host(8080), LONG).unwrap(), "192.0.2.2 hello");
            assert_eq!(ask_tcp(host(8082), LONG).unwrap(), "192.0.2.2 hello");
            assert_eq!(ask_udp(host(5353)), "datagram");
            ask_tcp(host(8081), SHORT).expect_err("only on loopback");
        });
        // The host itself.
        assert_eq!(ask_tcp(host(8080), LONG).unwrap(), "192.0.2.1 hello");
        assert_eq!(ask_tcp(loopback(8080), LONG).unwrap(), "172.17.0.1 hello");
        assert_eq!(ask_tcp(loopback(8081), LONG).unwrap(), "172.17.0.1 hello");
        assert_eq!(ask_tcp(host(8082), LONG).unwrap(), "192.0.2.1 hello");
        ask_tcp(loopback(8082), SHORT).expect_err("not on loopback");
        assert_eq!(ask_udp(loopback(5353)), "datagram");
        assert_eq!(ask_udp(host(5353)), "datagram");
        let ipv6 = Path::new("/proc/net/if_inet6").exists();
        if ipv6 {
            let v6: SocketAddr = "[::1]:8080".parse().unwrap();
            assert_eq!(ask_tcp(v6, LONG).unwrap(), "172.17.0.1 hello");
        }

        // Containers: another one, and the container itself, by the host's address.
        let other = network.attach(wish(&network, vec![])).await.unwrap();
        for namespace in [&other.namespace, &attached.namespace] {
            inside(namespace, || {
                assert_eq!(ask_tcp(host(8080), LONG).unwrap(), "172.17.0.1 hello");
                assert_eq!(ask_udp(host(5353)), "datagram");
            });
        }
        // Going through this host to the same port of another host is nobody's business.
        neighbour.there(|| serve_tcp("192.0.2.2:8080".parse().unwrap()));
        inside(&other.namespace, || {
            let world: SocketAddr = "192.0.2.2:8080".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), "192.0.2.1 hello");
        });
    });
}

#[test]
fn a_port_on_loopback_is_closed_to_neighbours_even_with_route_localnet() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let network = LinuxNetwork::new(root.config()).unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/uplink/route_localnet", "1").unwrap();
        let reaches = move |neighbour: &Neighbour, port: u16| {
            neighbour.there(move || {
                let to = SocketAddr::from(([127, 0, 0, 1], port));
                ask_tcp(to, SHORT).is_ok()
            })
        };
        neighbour.there(|| {
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            run("ip addr del 127.0.0.1/8 dev lo");
            run("ip route add 127.0.0.1/32 via 192.0.2.1 src 192.0.2.2");
        });
        // The way is really open: a server of the host's own is reached.
        serve_tcp("127.0.0.1:7000".parse().unwrap());
        assert!(reaches(&neighbour, 7000), "the test's own way in");
        let attached = network
            .attach(wish(
                &network,
                vec![port(80, Some("127.0.0.1"), 7001, Protocol::Tcp)],
            ))
            .await
            .unwrap();
        let container = address(&attached);
        inside(&attached.namespace, move || {
            serve_tcp(SocketAddr::new(container, 80));
        });
        ask_tcp(SocketAddr::from(([127, 0, 0, 1], 7001)), LONG).expect("open to the host");
        assert!(!reaches(&neighbour, 7001));
    });
}

#[test]
fn a_port_of_another_program_is_taken() {
    on_own_host(|| async {
        let root = Root::new();
        let network = LinuxNetwork::new(root.config()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        let error = network
            .attach(wish(&network, vec![port(80, None, taken, Protocol::Tcp)]))
            .await
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "driver failed programming external connectivity: Bind for 0.0.0.0:{taken} failed: port is already allocated"
            )
        );
        let error = network
            .attach(wish(
                &network,
                vec![port(80, Some("203.0.113.9"), 80, Protocol::Tcp)],
            ))
            .await
            .unwrap_err();
        let text = engine::error::full_message(&error);
        assert!(
            text.contains("failed to bind port 203.0.113.9:80/tcp"),
            "{text}"
        );
        let mut wrong = wish(&network, vec![]);
        wrong.endpoints[0].settings.mac_address = Some("ff:ff:ff:ff:ff:ff".into());
        let error = network.attach(wrong).await.unwrap_err();
        assert!(matches!(error, NetworkError::Unsupported { .. }));
        assert!(members(&network).is_empty());
    });
}

#[test]
fn a_subnet_that_the_host_uses_is_not_taken_and_a_choice_stays() {
    on_own_host(|| async {
        let root = Root::new();
        run("ip link add other type veth peer name another");
        run("ip link set another up");
        run("ip addr add 172.17.3.4/24 dev other");
        run("ip link set other up");
        run("ip route add 172.18.9.0/24 dev other");
        let network = LinuxNetwork::new(root.config()).unwrap();
        let first = network.predefined();
        assert_eq!(first[0].subnets[0].range.to_string(), "172.19.0.0/16");
        drop(network);
        // As after a reboot: the bridge is gone, the record is not.
        run("ip link del berth0");
        run("ip link del other");
        let network = LinuxNetwork::new(root.config()).unwrap();
        assert_eq!(network.predefined(), first);
        drop(network);
        let mut config = root.config();
        config.address = Some("10.77.0.1/24".parse().unwrap());
        let network = LinuxNetwork::new(config).unwrap();
        assert_eq!(network.predefined()[0].id, first[0].id);
        assert_eq!(network.bridge_address().to_string(), "10.77.0.1/24");
        let addresses = run("ip -o -4 addr show berth0");
        assert!(addresses.contains("10.77.0.1/24"), "{addresses}");
        assert!(!addresses.contains("172.19"), "{addresses}");
        for wrong in ["10.77.0.0/24", "10.77.0.255/24", "10.77.0.1/31"] {
            let mut config = root.config();
            config.address = Some(wrong.parse().unwrap());
            assert!(LinuxNetwork::new(config).is_err(), "{wrong}");
        }
    });
}

#[test]
fn detaching_leaves_nothing() {
    on_own_host(|| async {
        let root = Root::new();
        let network = LinuxNetwork::new(root.config()).unwrap();
        let spares = root.config().spares;
        let mut containers = Vec::new();
        for index in 0..5 {
            let wish = wish(
                &network,
                vec![
                    port(80, None, 9000 + index, Protocol::Tcp),
                    port(80, Some("127.0.0.1"), 9100 + index, Protocol::Udp),
                    port(80, None, 9000 + index, Protocol::Sctp),
                ],
            );
            network.attach(wish.clone()).await.unwrap();
            containers.push(wish.container);
        }
        assert_eq!(network.firewall_ports().unwrap(), 15);
        for container in &containers {
            network.detach(container).await.unwrap();
        }
        assert_eq!(network.firewall_ports().unwrap(), 0);
        TcpListener::bind("0.0.0.0:9000").expect("the port is free at once");
        eventually("only spares are left", || {
            container_links() == spares && root.namespaces() == 2 * spares
        });
        let first = network.attach(wish(&network, vec![])).await.unwrap();
        assert_eq!(address(&first), IpAddr::from(Ipv4Addr::new(172, 17, 0, 2)));
        network.detach(&members(&network)[0]).await.unwrap();
        drop(network);
        assert_eq!((container_links(), root.namespaces()), (0, 0));
    });
}

#[test]
fn a_crashed_agent_is_followed_by_one_that_knows_what_runs() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let mut config = root.config();
        config.spares = 1;
        // The first agent: its runtime, with the sockets it held, vanishes without a word to the backend.
        let (wishes, attached) = std::thread::spawn(move || {
            let runtime = runtime();
            let done = runtime.block_on(async {
                let network = LinuxNetwork::new(config).unwrap();
                let wishes = [8080, 8081]
                    .map(|host| wish(&network, vec![port(80, None, host, Protocol::Tcp)]));
                let mut attached = Vec::new();
                for wish in wishes.clone() {
                    attached.push(network.attach(wish).await.unwrap());
                }
                // Its janitor lives on in this process: it must have nothing more to do.
                eventually("a spare and two containers", || container_links() == 3);
                std::mem::forget(network);
                (wishes, attached)
            });
            runtime.shutdown_timeout(LONG);
            done
        })
        .join()
        .unwrap();
        let [stays, goes] = wishes;
        let container = address(&attached[0]);
        inside(&attached[0].namespace, move || {
            serve_tcp(SocketAddr::new(container, 80));
        });
        let published = SocketAddr::from(([192, 0, 2, 1], 8080));
        let loopback = SocketAddr::from(([127, 0, 0, 1], 8080));
        // The firewall serves on while nobody is there; the proxy cannot.
        neighbour.there(move || ask_tcp(published, LONG).unwrap());
        ask_tcp(loopback, SHORT).expect_err("the proxy is gone");

        let mut config = root.config();
        config.spares = 1;
        let network = LinuxNetwork::new(config).unwrap();
        network
            .recover(vec![survivor(&stays.container, &attached[0])])
            .await
            .unwrap();
        assert_eq!(network.firewall_ports().unwrap(), 1);
        neighbour.there(move || ask_tcp(published, LONG).unwrap());
        ask_tcp(loopback, LONG).unwrap();
        assert!(!attached[1].namespace.exists());
        assert_eq!(members(&network).len(), 1);
        eventually("one spare and one container", || container_links() == 2);
        let next = network.attach(goes.clone()).await.unwrap();
        assert_ne!(address(&next), container);
        let error = network
            .attach(wish(&network, vec![port(80, None, 8080, Protocol::Tcp)]))
            .await
            .unwrap_err();
        assert!(matches!(error, NetworkError::PortTaken { port: 8080, .. }));
        for container in [&stays.container, &goes.container] {
            network.detach(container).await.unwrap();
        }
        assert_eq!(network.firewall_ports().unwrap(), 0);
        eventually("the container's namespace is gone", || {
            !attached[0].namespace.exists()
        });
    });
}

#[test]
fn the_firewall_is_what_nft_reads() {
    on_own_host(|| async {
        let root = Root::new();
        let network = LinuxNetwork::new(root.config()).unwrap();
        network
            .attach(wish(&network, vec![port(80, None, 8080, Protocol::Tcp)]))
            .await
            .unwrap();
        if Command::new("nft").arg("--version").output().is_err() {
            println!("skipped: no nft program to read the ruleset with");
            return;
        }
        let ruleset = run("nft list table ip berth");
        for expected in [
            "elements = { tcp . 8080 : 172.17.0.2 . 80 }",
            "fib daddr type != local return",
            "dnat ip to meta l4proto . th dport map @published",
            "ip saddr @masqueraded oifname != @bridges masquerade",
            "elements = { 172.17.0.0/16 }",
            "elements = { \"berth0\" . \"berth0\" }",
            "iifname . oifname @same accept",
            "oifname @bridges ct status dnat accept",
            "ip daddr . meta l4proto . th dport @loopback drop",
            "iifname vmap @inside",
            "elements = { \"berth0\" : jump in-berth0 }",
            "ip daddr 172.17.0.0/16 ip daddr != 172.17.0.1 notrack accept",
        ] {
            assert!(
                ruleset.contains(expected),
                "{expected} is not in\n{ruleset}"
            );
        }
    });
}

#[test]
fn two_agents_share_a_host() {
    on_own_host(|| async {
        let (root, other_root) = (Root::new(), Root::new());
        let network = LinuxNetwork::new(root.config()).unwrap();
        let attached = network
            .attach(wish(&network, vec![port(80, None, 8080, Protocol::Tcp)]))
            .await
            .unwrap();
        let mut config = other_root.config();
        config.bridge = "other-0".into();
        let other = LinuxNetwork::new(config).unwrap();
        other.recover(vec![]).await.unwrap();
        assert_eq!(other.bridge_address().to_string(), "172.18.0.1/16");
        let theirs = other.attach(wish(&other, vec![])).await.unwrap();
        let there = SocketAddr::new(address(&theirs), 80);
        inside(&theirs.namespace, move || serve_tcp(there));
        // Neither removed what is the other's, and nobody goes around the published ports.
        assert_eq!(network.firewall_ports().unwrap(), 1);
        assert_eq!(other.firewall_ports().unwrap(), 0);
        assert!(attached.namespace.exists());
        ask_tcp(there, LONG).unwrap();
        inside(&attached.namespace, || {
            ask_tcp(there, SHORT).expect_err("isolated");
        });
        if Command::new("nft").arg("--version").output().is_ok() {
            run("nft list table ip berth");
            run("nft list table ip berth-other-0");
        }
    });
}

/// A client that never stops sending reaches the new container, not the place where the port led before.
#[test]
fn a_udp_client_follows_its_port_to_the_next_container() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let network = LinuxNetwork::new(root.config()).unwrap();
        let published = SocketAddr::from(([192, 0, 2, 1], 5353));
        let (first, second) = (
            wish(&network, vec![port(53, None, 5353, Protocol::Udp)]),
            wish(&network, vec![port(53, None, 5353, Protocol::Udp)]),
        );
        let one = network.attach(first.clone()).await.unwrap();
        let address_of_one = SocketAddr::new(address(&one), 53);
        inside(&one.namespace, move || serve_udp(address_of_one));
        let (stop, stopped) = mpsc::channel::<()>();
        let (answers, answered) = mpsc::channel();
        neighbour
            .work
            .send(Box::new(move || {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                socket.connect(published).unwrap();
                socket
                    .set_read_timeout(Some(Duration::from_millis(50)))
                    .unwrap();
                let mut buffer = [0; 100];
                while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                    let _ = socket.send(b"datagram");
                    if socket.recv(&mut buffer).is_ok() {
                        let _ = answers.send(());
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            }))
            .unwrap();
        answered.recv_timeout(LONG).expect("the first answers");
        network.detach(&first.container).await.unwrap();
        // Another address than the first had.
        network.attach(wish(&network, vec![])).await.unwrap();
        let two = network.attach(second).await.unwrap();
        let address_of_two = SocketAddr::new(address(&two), 53);
        assert_ne!(address_of_one, address_of_two);
        inside(&two.namespace, move || serve_udp(address_of_two));
        while answered.try_recv().is_ok() {}
        answered.recv_timeout(LONG).expect("the second answers");
        drop(stop);
    });
}

#[test]
fn many_at_once_get_different_addresses_and_ports() {
    on_own_host(|| async {
        let root = Root::new();
        let network = std::sync::Arc::new(LinuxNetwork::new(root.config()).unwrap());
        let tasks: Vec<_> = (0..40)
            .map(|_| {
                let network = network.clone();
                tokio::spawn(async move {
                    let wish = wish(&network, vec![port(80, None, 0, Protocol::Tcp)]);
                    let attached = network.attach(wish.clone()).await.unwrap();
                    (wish.container, attached)
                })
            })
            .collect();
        let mut addresses = std::collections::BTreeSet::new();
        let mut ports = std::collections::BTreeSet::new();
        let mut containers = Vec::new();
        for task in tasks {
            let (container, attached) = task.await.unwrap();
            addresses.insert(address(&attached));
            ports.insert(attached.ports[0].host_port);
            containers.push(container);
        }
        assert_eq!((addresses.len(), ports.len()), (40, 40));
        assert_eq!(network.firewall_ports().unwrap(), 40);
        let tasks: Vec<_> = containers
            .into_iter()
            .map(|container| {
                let network = network.clone();
                tokio::spawn(async move { network.detach(&container).await.unwrap() })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(network.firewall_ports().unwrap(), 0);
        let spares = root.config().spares;
        eventually("only spares are left", || {
            container_links() == spares && root.namespaces() == 2 * spares
        });
    });
}

/// Prints what attaching costs; fails only where it would be out of all proportion.
#[test]
fn attaching_is_quick() {
    on_own_host(|| async {
        let root = Root::new();
        let mut config = root.config();
        config.spares = 8;
        let network = LinuxNetwork::new(config).unwrap();
        network.recover(vec![]).await.unwrap();
        eventually("spares", || root.namespaces() == 16);
        let mut attach = Vec::new();
        let mut detach = Vec::new();
        let cpu = || {
            let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
            let usage = usage.unwrap();
            Duration::from_micros(
                [usage.user_time(), usage.system_time()]
                    .iter()
                    .map(|time| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64)
                    .sum(),
            )
        };
        let before = cpu();
        for index in 0..50 {
            let wish = wish(
                &network,
                vec![port(80, None, 20_000 + index, Protocol::Tcp)],
            );
            let start = Instant::now();
            network.attach(wish.clone()).await.unwrap();
            attach.push(start.elapsed());
            let start = Instant::now();
            network.detach(&wish.container).await.unwrap();
            detach.push(start.elapsed());
            std::thread::sleep(Duration::from_millis(20));
        }
        eventually("all is removed", || root.namespaces() == 16);
        let spent = (cpu() - before) / 50;
        for (what, times) in [("attach", &mut attach), ("detach", &mut detach)] {
            times.sort();
            println!("{what}: median {:?}, slowest {:?}", times[25], times[49]);
            assert!(times[25] < Duration::from_secs(2));
        }
        println!("cpu of all, with making and removing namespaces: {spent:?} each");
    });
}
