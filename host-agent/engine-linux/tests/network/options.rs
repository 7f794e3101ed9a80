//! What the engine's options change: no rules of its own, another default bridge, the administrator's chains.

use super::user_defined::{called, made, serve_in};
use super::*;
use engine::networks::contract::{network as plain, wish as wish_for};
use engine::networks::sysctls::SYSCTLS;
use engine::networks::{EndpointRequest, Subnet};

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        println!("skipped: there is no {program} here");
    }
    found
}

/// `--iptables=false`: the host's rules stay as they are, and the proxy serves every address.
#[test]
fn without_rules_the_proxy_serves_ports_and_no_rule_is_touched() {
    on_own_host(|| async {
        if !has("nft") {
            return;
        }
        let root = Root::new();
        let neighbour = Neighbour::new();
        run("ip addr add 192.0.2.9/24 dev uplink");
        run("nft add table ip mine");
        let before = run("nft list ruleset");
        let mut config = root.config();
        (config.firewall, config.firewall_ipv6) = (false, false);
        let backend = LinuxNetwork::new(config).unwrap();
        backend.recover(vec![]).await.unwrap();
        let front = plain("front", "10.60.0.0/24", "10.60.0.1");
        backend.create(front.clone()).await.unwrap();
        let ports = vec![
            port(80, None, 8060, Protocol::Tcp),
            port(53, None, 5360, Protocol::Udp),
        ];
        let wish = wish_for(vec![called(&front, &["one"])], ports);
        let one = backend.attach(wish.clone()).await.unwrap();
        serve_in(&one, 80);
        let udp = SocketAddr::new(address(&one), 53);
        inside(&one.namespace, move || serve_udp(udp));
        neighbour.there(|| {
            let tcp = SocketAddr::from(([192, 0, 2, 1], 8060));
            assert_eq!(ask_tcp(tcp, LONG).unwrap(), "10.60.0.1 hello");
            // Each is answered from the address that it has asked.
            for last in [1, 9] {
                let udp = SocketAddr::from(([192, 0, 2, last], 5360));
                assert_eq!(ask_udp(udp), "datagram", "{udp}");
            }
        });
        ask_tcp(SocketAddr::from(([127, 0, 0, 1], 8060)), LONG).unwrap();
        let sctp = vec![port(9, None, 8061, Protocol::Sctp)];
        let refused = wish_for(vec![called(&front, &["two"])], sctp);
        let two = backend.attach(refused.clone()).await.unwrap();
        assert!(
            two.warnings[0].contains("8061/sctp is not reachable"),
            "{:?}",
            two.warnings
        );
        assert_eq!(run("nft list ruleset"), before);
        for container in [&wish.container, &refused.container] {
            backend.detach(container).await.unwrap();
        }
        backend.remove(&front.id).await.unwrap();
        backend.close().await;
        assert_eq!(run("nft list ruleset"), before);
    });
}

/// `--icc=false --fixed-cidr --ip --ipv6 --fixed-cidr-v6 --mtu`.
#[test]
fn the_default_bridge_as_it_was_asked_for() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let mut config = root.config();
        config.address = Some("10.61.0.1/16".parse().unwrap());
        config.lend = Some("10.61.7.0/24".parse().unwrap());
        config.port_address = Some([127, 0, 0, 1].into());
        config.icc = false;
        config.mtu = Some(1400);
        let ipv6 = Path::new("/proc/net/if_inet6").exists();
        if ipv6 {
            config.ipv6 = Some(Some("fd00:61::/64".parse().unwrap()));
        }
        let outside = {
            let mut config = config.clone();
            config.lend = Some("10.62.0.0/24".parse().unwrap());
            LinuxNetwork::new(config).err().expect("it is elsewhere")
        };
        assert!(outside.to_string().contains("--fixed-cidr"), "{outside}");
        let backend = LinuxNetwork::new(config.clone()).unwrap();
        backend.recover(vec![]).await.unwrap();
        eventually("spares", || root.namespaces() == 2 * config.spares);
        let options = &backend.predefined()[0].options;
        assert_eq!(options["com.docker.network.bridge.enable_icc"], "false");
        let ports = vec![port(80, None, 8062, Protocol::Tcp)];
        let one = backend.attach(wish(&backend, ports)).await.unwrap();
        let two = backend.attach(wish(&backend, vec![])).await.unwrap();
        // As Docker has it: the first address of the range, the subnet is wider.
        assert_eq!(address(&one).to_string(), "10.61.7.0");
        assert_eq!(one.ports.len(), 1);
        let one_at = serve_in(&one, 80);
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        ask_tcp(SocketAddr::from(([127, 0, 0, 1], 8062)), LONG).unwrap();
        inside(&two.namespace, || {
            ask_tcp(one_at, SHORT).expect_err("apart");
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            ask_tcp(world, LONG).unwrap();
            assert!(run("ip link show eth0").contains("mtu 1400"));
        });
        if ipv6 {
            let v6 = one.endpoints[0].ipv6_address.unwrap();
            assert_eq!(v6.to_string(), "fd00:61::2");
            let at = SocketAddr::new(v6, 81);
            inside(&one.namespace, move || {
                serve_tcp(at);
                assert!(run("ip -6 route show default").contains("via fd00:61::1"));
            });
            assert_eq!(ask_tcp(at, LONG).unwrap(), "fd00:61::1 hello");
        }
    });
}

/// Rules of the administrator's come first, and outlive the engine.
#[test]
fn the_administrators_chain_is_passed_and_kept() {
    on_own_host(|| async {
        if !has("nft") {
            return;
        }
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let published = wish(&backend, vec![port(80, None, 8063, Protocol::Tcp)]);
        let one = backend.attach(published.clone()).await.unwrap();
        serve_in(&one, 80);
        let at = SocketAddr::from(([192, 0, 2, 1], 8063));
        neighbour.there(move || ask_tcp(at, LONG).unwrap());
        run("nft add rule inet berth-user BERTH-USER ip saddr 192.0.2.2 drop");
        neighbour.there(move || ask_tcp(at, SHORT).expect_err("the administrator says no"));
        drop(backend);
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let known = survivor(&published.container, &one);
        backend.recover(vec![known]).await.unwrap();
        neighbour.there(move || ask_tcp(at, SHORT).expect_err("still no"));
        backend.detach(&published.container).await.unwrap();
        backend.close().await;
        assert!(run("nft list table inet berth-user").contains("192.0.2.2"));
        run("nft flush chain inet berth-user BERTH-USER");
        drop(backend);
        let backend = LinuxNetwork::new(root.config()).unwrap();
        backend.close().await;
        assert!(!run("nft list tables").contains("berth-user"));
    });
}

/// A dockerd that starts later than we do makes its chain drop; `iptables -F` takes our exceptions.
#[test]
fn another_firewall_may_come_later() {
    on_own_host(|| async {
        if !has("iptables-nft") {
            return;
        }
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let published = wish(&backend, vec![port(80, None, 8064, Protocol::Tcp)]);
        let one = backend.attach(published).await.unwrap();
        serve_in(&one, 80);
        let at = SocketAddr::from(([192, 0, 2, 1], 8064));
        let reaches = || neighbour.there(move || ask_tcp(at, SHORT).is_ok());
        run("iptables-nft -P FORWARD DROP");
        eventually("the bridge may pass", reaches);
        run("iptables-nft -F FORWARD");
        eventually("the bridge may pass again", reaches);
        // As those of dockerd's do, our packets pass the administrator's chain.
        run("iptables-nft -N DOCKER-USER");
        run("iptables-nft -A DOCKER-USER -s 192.0.2.2 -j DROP");
        eventually("the administrator is heard", || !reaches());
        run("iptables-nft -F DOCKER-USER");
        eventually("and heard again", reaches);
    });
}

/// A firewall in nf_tables' own form that drops: nobody but its administrator opens it, so it is told of until he has.
#[test]
fn a_foreign_chain_that_drops_is_told_of() {
    on_own_host(|| async {
        if !has("nft") {
            return;
        }
        let root = Root::new();
        let neighbour = Neighbour::new();
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.66.0.0/24", "10.66.0.1");
        backend.create(front.clone()).await.unwrap();
        let one = backend.attach(wish(&backend, vec![])).await.unwrap();
        let reaches = || {
            inside(&one.namespace, || {
                ask_tcp("192.0.2.2:82".parse::<SocketAddr>().unwrap(), SHORT).is_ok()
            })
        };
        let none = Vec::<String>::new();
        run("nft add table inet theirs");
        let chain = "add chain inet theirs on { type filter hook forward priority 0; policy";
        run(&format!("nft {chain} accept; }}"));
        if has("iptables-nft") {
            // Of that one the engine takes care.
            run("iptables-nft -P FORWARD DROP");
            eventually("the bridge may pass", reaches);
        }
        assert_eq!(backend.warnings().await, none);
        run(&format!("nft {chain} drop; }}"));
        assert!(!reaches());
        let told = backend.warnings().await;
        let both = format!("no rule of it names berth0, {}:", front.link.name);
        assert!(told.len() == 1 && told[0].contains(&both), "{told:?}");
        let (_, advice) = told[0].split_once("Let them pass: ").unwrap();
        let (command, _) = advice.split_once(", and").unwrap();
        assert!(
            command.contains("inet theirs on iifname berth0"),
            "{command}"
        );
        run(command);
        run(&command.replace("iifname", "oifname"));
        assert!(reaches());
        let told = backend.warnings().await;
        let other = format!("names {}:", front.link.name);
        assert!(told.len() == 1 && told[0].contains(&other), "{told:?}");
        run("nft insert rule inet theirs on iifname br-* accept");
        assert_eq!(backend.warnings().await, none);
    });
}

/// Docker's option of an endpoint for what the kernel has for a link: set where it is made, later and again.
#[test]
fn a_link_has_the_kernels_settings_that_were_asked_for() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.67.0.0/24", "10.67.0.1");
        backend.create(front.clone()).await.unwrap();
        let with = |request: &mut EndpointRequest, settings: &str| {
            let option = (SYSCTLS.to_owned(), settings.to_owned());
            request.settings.driver_options = [option].into();
        };
        let mut first = wish(&backend, vec![]);
        let settings = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.neigh.IFNAME.mcast_solicit=5";
        with(&mut first.endpoints[0], settings);
        let attached = backend.attach(first.clone()).await.unwrap();
        let read = |file: &str| {
            let path = format!("/proc/sys/net/ipv4/{file}");
            let text = inside(&attached.namespace, || std::fs::read_to_string(&path));
            text.unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        assert_eq!(read("conf/eth0/log_martians"), "1\n");
        assert_eq!(read("neigh/eth0/mcast_solicit"), "5\n");
        let mut second = called(&front, &["one"]);
        with(&mut second, "net.ipv4.conf.ifname.forwarding=0");
        let connect = async |request: &EndpointRequest| {
            backend.connect(&first.container, request.clone()).await
        };
        connect(&second).await.unwrap();
        assert_eq!(read("conf/eth1/forwarding"), "0\n");
        assert_eq!(read("conf/eth0/forwarding"), "1\n");
        // As the link is made again, the settings are.
        inside(&attached.namespace, || run("ip link delete eth0"));
        eventually("it is connected again", || {
            inside(&attached.namespace, || {
                std::fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/log_martians")
                    .is_ok_and(|text| text == "1\n")
            })
        });
        backend
            .disconnect(&first.container, &front.id)
            .await
            .unwrap();
        // What the kernel does not have or want leaves nothing.
        for (settings, part) in [
            ("net.ipv4.conf.IFNAME.nonsense=1", "conf/eth1/nonsense"),
            (
                "net.ipv4.conf.IFNAME.forwarding=much",
                "conf/eth1/forwarding",
            ),
            (
                "net.ipv4.conf.eth0.forwarding=1",
                "unrecognised network interface sysctl",
            ),
        ] {
            with(&mut second, settings);
            let error = connect(&second).await.expect_err(settings);
            let error = engine::error::full_message(&error);
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(backend.endpoints(&front.id), vec![]);
        let links = inside(&attached.namespace, || run("ip -o link"));
        assert!(!links.contains("eth1"), "{links}");
    });
}

/// An SCTP port is led to a container's IPv6 address, too.
#[test]
fn sctp_is_published_in_both_families() {
    on_own_host(|| async {
        if !Path::new("/proc/net/if_inet6").exists() {
            println!("skipped: this kernel has no IPv6");
            return;
        }
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let six = made("six", "10.65.0.0/24", "10.65.0.1", |network| {
            network.ipv6 = true;
            network.subnets.push(Subnet::of(
                "fd00:65::/64".parse().unwrap(),
                "fd00:65::1".parse().unwrap(),
            ));
        });
        backend.create(six.clone()).await.unwrap();
        let sctp = |address| vec![port(9, address, 8065, Protocol::Sctp)];
        let both = wish_for(vec![called(&six, &["both"])], sctp(None));
        let attached = backend.attach(both.clone()).await.unwrap();
        assert_eq!(attached.ports.len(), 2);
        assert_eq!(backend.firewall_ports().unwrap(), 2);
        let again = wish_for(vec![called(&six, &["again"])], sctp(Some("::1")));
        let taken = backend.attach(again).await.unwrap_err();
        assert!(matches!(taken, NetworkError::PortTaken { port: 8065, .. }));
        backend.detach(&both.container).await.unwrap();
        let four = wish(&backend, sctp(Some("::1")));
        let error = backend.attach(four).await.unwrap_err().to_string();
        assert!(error.contains("SCTP port on an IPv6 address"), "{error}");
        assert_eq!(backend.firewall_ports().unwrap(), 0);
    });
}

/// CRC-32C, which an SCTP packet has and conntrack looks at: RFC 9260, appendix A.
fn checksum(bytes: &[u8]) -> [u8; 4] {
    let sum = bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| match sum & 1 {
            1 => sum >> 1 ^ 0x82f6_3b78,
            _ => sum >> 1,
        })
    });
    (!sum).to_le_bytes()
}

/// An SCTP packet with one chunk: INIT (1) or its acknowledgement (2).
fn sctp(from: u16, to: u16, tag: u32, chunk: u8) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend_from_slice(&tag.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(&[chunk, 0, 0, 20]);
    for number in [7_u32, 65_536, 0x0001_0001, 1] {
        packet.extend_from_slice(&number.to_be_bytes());
    }
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// A socket for whole SCTP packets, which the kernel need not understand.
fn raw_sctp() -> UdpSocket {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::RAW,
        flags,
        Some(ipproto::SCTP),
    );
    let socket = UdpSocket::from(socket.unwrap());
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    socket
}

/// Ports of a packet, and who has sent it, as a raw socket receives it.
fn received(socket: &UdpSocket) -> Option<(IpAddr, u16, u16)> {
    let mut buffer = [0; 500];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    let start = usize::from(buffer[0] & 0xf) * 4;
    let packet = &buffer[start..length];
    let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    Some((from.ip(), number(0), number(2)))
}

/// Packets of a neighbour to a published SCTP port come to the container, and its answers from where they were sent to.
#[test]
fn sctp_packets_are_led_to_the_container_and_back() {
    on_own_host(|| async {
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let ports = vec![port(9, None, 8066, Protocol::Sctp)];
        let one = backend.attach(wish(&backend, ports)).await.unwrap();
        let (opened, is_open) = mpsc::channel();
        let namespace = one.namespace.clone();
        let container = std::thread::spawn(move || {
            inside(&namespace, || {
                let socket = raw_sctp();
                opened.send(()).unwrap();
                let end = Instant::now() + LONG;
                while Instant::now() < end {
                    if let Some((from, port, to)) = received(&socket) {
                        assert_eq!(
                            (from.to_string().as_str(), port, to),
                            ("192.0.2.2", 4000, 9)
                        );
                        let answer = sctp(9, 4000, 7, 2);
                        socket.send_to(&answer, SocketAddr::new(from, 0)).unwrap();
                        return;
                    }
                }
                panic!("nothing came");
            });
        });
        is_open.recv().unwrap();
        let answer = neighbour.there(|| {
            let socket = raw_sctp();
            let end = Instant::now() + LONG;
            while Instant::now() < end {
                let to = SocketAddr::from(([192, 0, 2, 1], 0));
                socket.send_to(&sctp(4000, 8066, 0, 1), to).unwrap();
                if let Some(answer) = received(&socket) {
                    return Some(answer);
                }
            }
            None
        });
        container.join().unwrap();
        let (from, port, to) = answer.expect("an answer");
        assert_eq!(
            (from.to_string().as_str(), port, to),
            ("192.0.2.1", 8066, 4000)
        );
    });
}
