//! The DNS server in containers' namespaces, asked by hand-made messages over UDP and TCP.

use super::user_defined::{called, made};
use super::*;
use engine::networks::contract::{network as plain, wish as wish_for};
use std::net::Ipv4Addr;

const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// What an answer tells: the outcome, and the records of the kind that was asked for as text.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    code: u8,
    truncated: bool,
    records: Vec<String>,
}

fn read(answer: &[u8], question: &[u8]) -> Told {
    assert_eq!(answer[..2], question[..2]);
    assert!(answer[2] & 0x80 != 0);
    let count = u16::from_be_bytes([answer[6], answer[7]]);
    let mut at = question.len();
    let mut records = Vec::new();
    for _ in 0..count {
        // A pointer to the question's name.
        assert_eq!(answer[at], 0xc0);
        let kind = u16::from_be_bytes([answer[at + 2], answer[at + 3]]);
        let length = usize::from(u16::from_be_bytes([answer[at + 10], answer[at + 11]]));
        let data = &answer[at + 12..at + 12 + length];
        records.push(match kind {
            A => Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
            AAAA => std::net::Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
            _ => {
                let mut name = String::new();
                let mut rest = data;
                while rest[0] != 0 {
                    let (label, after) = rest[1..].split_at(usize::from(rest[0]));
                    name.push_str(std::str::from_utf8(label).unwrap());
                    name.push('.');
                    rest = after;
                }
                name
            }
        });
        at += 12 + length;
    }
    records.sort();
    Told {
        code: answer[3] & 0xf,
        truncated: answer[2] & 2 != 0,
        records,
    }
}

fn over_udp(name: &str, kind: u16) -> Told {
    let question = question(name, kind);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(SERVER).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket.send(&question).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap();
    read(&buffer[..length], &question)
}

fn over_tcp(name: &str, kind: u16) -> Told {
    let question = question(name, kind);
    let mut stream = TcpStream::connect(SERVER).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut framed = (question.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&question);
    stream.write_all(&framed).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    read(&answer, &question)
}

#[track_caller]
fn check(told: Told, records: &[&str]) {
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(told.records, records);
}

/// A resolver of the host's: `fails` answers with a failure, the other one with 203.0.113.7, over UDP and TCP.
fn resolver(fails: bool) -> SocketAddr {
    resolver_at("127.0.0.1:0", fails, 7)
}

/// As [`resolver`], with 203.0.113 and `last` for an answer.
fn resolver_at(at: &str, fails: bool, last: u8) -> SocketAddr {
    let udp = UdpSocket::bind(at).unwrap();
    let at = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(at).unwrap();
    let reply = move |query: &[u8], over_tcp: bool| {
        let mut reply = query.to_vec();
        reply[2] |= 0x80;
        if fails {
            reply[3] = 2;
        } else if !over_tcp && query[13..].starts_with(b"large") {
            reply[2] |= 2;
        } else {
            reply[7] = 1;
            reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 203, 0, 113, last]);
        }
        reply
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(&reply(&buffer[..length], false), from);
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let reply = reply(&query, true);
            let _ = stream.write_all(&(reply.len() as u16).to_be_bytes());
            let _ = stream.write_all(&reply);
        }
    });
    at
}

#[test]
fn names_addresses_and_the_rest_of_the_world() {
    on_own_host(|| async {
        let root = Root::new();
        let mut config = root.config();
        config.resolvers = Some(vec![resolver(true), resolver(false)]);
        let backend = LinuxNetwork::new(config).unwrap();
        let front = plain("front", "10.40.0.0/24", "10.40.0.1");
        let back = plain("back.net", "10.41.0.0/24", "10.41.0.1");
        for network in [&front, &back] {
            backend.create(network.clone()).await.unwrap();
        }
        let mut asker = wish_for(
            vec![called(&front, &["asker"]), called(&back, &["asker"])],
            vec![],
        );
        asker.endpoints[0].links = [("db".to_owned(), "web-1".to_owned())].into();
        let id = asker.container.clone();
        let asker = backend.attach(asker).await.unwrap();
        let mut others = Vec::new();
        for name in ["web-1", "web-2"] {
            let wish = wish_for(vec![called(&front, &[name, "web", "0123456789ab"])], vec![]);
            others.push(wish.container.clone());
            backend.attach(wish).await.unwrap();
        }
        let worker = wish_for(vec![called(&back, &["worker"])], vec![]);
        backend.attach(worker).await.unwrap();
        inside(&asker.namespace, || {
            check(over_udp("web-1", A), &["10.40.0.3"]);
            check(over_udp("WEB-2", A), &["10.40.0.4"]);
            check(over_udp("web", A), &["10.40.0.3", "10.40.0.4"]);
            check(over_tcp("web", A), &["10.40.0.3", "10.40.0.4"]);
            check(over_udp("web.front", A), &["10.40.0.3", "10.40.0.4"]);
            check(over_udp("worker.back.net", A), &["10.41.0.3"]);
            check(over_udp("db", A), &["10.40.0.3"]);
            // There is such a name, but no such address: nobody else is asked.
            check(over_udp("web", AAAA), &[]);
            check(over_udp("3.0.40.10.in-addr.arpa", PTR), &["web-1.front."]);
            // The first resolver fails, the second knows.
            check(over_udp("example.com", A), &["203.0.113.7"]);
            check(over_tcp("example.com", A), &["203.0.113.7"]);
            // Too large for UDP: the client is told so, and asks again over TCP.
            assert!(over_udp("large.example.com", A).truncated);
            check(over_tcp("large.example.com", A), &["203.0.113.7"]);
            // What is no question is told so, or not answered at all.
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(SERVER).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket.send(&[1, 2]).unwrap();
            socket
                .send(&[9, 9, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 0])
                .unwrap();
            let mut buffer = [0; 100];
            let length = socket.recv(&mut buffer).unwrap();
            assert_eq!((length, buffer[0], buffer[3]), (12, 9, 4));
            // A program of the container's own may serve on the port.
            UdpSocket::bind("0.0.0.0:53").unwrap();
            TcpListener::bind("0.0.0.0:53").unwrap();
        });
        // Names go with their containers, and change with them.
        backend.detach(&others[0]).await.unwrap();
        let renamed = [(
            front.id.clone(),
            vec!["second".to_owned(), "web".to_owned()],
        )]
        .into();
        backend.rename(&others[1], &renamed);
        inside(&asker.namespace, || {
            check(over_udp("web", A), &["10.40.0.4"]);
            check(over_udp("second", A), &["10.40.0.4"]);
            check(over_udp("web-2", A), &["203.0.113.7"]);
        });
        backend.disconnect(&id, &back.id).await.unwrap();
        inside(&asker.namespace, || {
            check(over_udp("worker", A), &["203.0.113.7"])
        });
        backend.detach(&id).await.unwrap();
    });
}

#[test]
fn a_network_without_a_way_out_asks_nobody_outside() {
    on_own_host(|| async {
        let root = Root::new();
        let mut config = root.config();
        config.resolvers = Some(vec![resolver(false)]);
        let backend = LinuxNetwork::new(config).unwrap();
        let hidden = made("hidden", "10.42.0.0/24", "10.42.0.1", |network| {
            network.internal = true
        });
        backend.create(hidden.clone()).await.unwrap();
        let attached = backend
            .attach(wish_for(vec![called(&hidden, &["a"])], vec![]))
            .await
            .unwrap();
        inside(&attached.namespace, || {
            check(over_udp("a", A), &["10.42.0.2"]);
            assert_eq!(over_udp("example.com", A).code, 2);
        });
    });
}

/// Addresses and names of IPv6, both ways.
#[test]
fn names_have_addresses_of_both_families() {
    on_own_host(|| async {
        if !Path::new("/proc/net/if_inet6").exists() {
            println!("skipped: this kernel has no IPv6");
            return;
        }
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let both = made("both", "10.46.0.0/24", "10.46.0.1", |network| {
            network.ipv6 = true;
            network.subnets.push(engine::networks::Subnet::of(
                "fd00:46::/64".parse().unwrap(),
                "fd00:46::1".parse().unwrap(),
            ));
        });
        backend.create(both.clone()).await.unwrap();
        let wish = |name: &str| wish_for(vec![called(&both, &[name])], vec![]);
        let asker = backend.attach(wish("asker")).await.unwrap();
        backend.attach(wish("web")).await.unwrap();
        inside(&asker.namespace, || {
            check(over_udp("web", A), &["10.46.0.3"]);
            check(over_udp("web", AAAA), &["fd00:46::3"]);
            check(over_tcp("web.both", AAAA), &["fd00:46::3"]);
            let reverse = "3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.4.0.0.0.0.d.f";
            check(
                over_udp(&format!("{reverse}.ip6.arpa"), PTR),
                &["web.both."],
            );
        });
    });
}

/// `--dns`: servers as the container reaches them, not as the host does; `--dns 127.0.0.1` is one of its own.
#[test]
fn servers_of_a_containers_choice_are_asked_from_inside() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.48.0.0/24", "10.48.0.1");
        backend.create(front.clone()).await.unwrap();
        let mut wish = wish_for(vec![called(&front, &["a"])], vec![]);
        // Where only the container comes, and where there are two.
        let servers = ["10.0.0.99", "127.0.0.1"];
        wish.dns = servers.map(|server| server.parse().unwrap()).into();
        let attached = backend.attach(wish).await.unwrap();
        resolver_at("127.0.0.1:53", false, 8);
        let asked = || {
            inside(&attached.namespace, || {
                check(over_udp("a", A), &["10.48.0.2"]);
                let told = [over_udp("example.com", A), over_tcp("example.com", A)];
                told.map(|told| told.records.join(" "))
            })
        };
        inside(&attached.namespace, || {
            // Nobody answers there yet.
            run("ip addr add 10.0.0.99/32 dev lo");
            resolver_at("127.0.0.1:53", false, 7);
        });
        assert_eq!(asked(), ["203.0.113.7"; 2]);
        inside(&attached.namespace, || {
            resolver_at("10.0.0.99:53", false, 9)
        });
        assert_eq!(asked(), ["203.0.113.9"; 2]);
    });
}

/// `--dns 127.0.0.11` would be ourselves: nobody is asked, neither we nor who listens there on the host.
#[test]
fn a_server_that_is_ourselves_is_not_asked() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let on_host = (
            UdpSocket::bind(SERVER).unwrap(),
            TcpListener::bind(SERVER).unwrap(),
        );
        on_host.0.set_nonblocking(true).unwrap();
        on_host.1.set_nonblocking(true).unwrap();
        let front = plain("front", "10.47.0.0/24", "10.47.0.1");
        backend.create(front.clone()).await.unwrap();
        let mut wish = wish_for(vec![called(&front, &["a"])], vec![]);
        wish.dns = vec![Ipv4Addr::new(127, 0, 0, 11).into()];
        let attached = backend.attach(wish).await.unwrap();
        inside(&attached.namespace, || {
            let before = datagrams();
            assert_eq!(over_udp("example.com", A).code, 2);
            // The question and the answer, and none of ours to ourselves.
            assert_eq!(datagrams() - before, 2);
            assert_eq!(over_tcp("example.com", A).code, 2);
            check(over_udp("a", A), &["10.47.0.2"]);
        });
        on_host.0.recv(&mut [0]).expect_err("nobody asks over UDP");
        on_host.1.accept().expect_err("nobody asks over TCP");
    });
}

/// How many datagrams programs of this namespace have got.
fn datagrams() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, numbers) = (lines.next().unwrap(), lines.next().unwrap());
    let mut all = names.split(' ').zip(numbers.split(' '));
    let (_, number) = all.find(|(name, _)| *name == "InDatagrams").unwrap();
    number.parse().unwrap()
}

/// Many containers under one name: an answer that does not fit is cut and says so; over TCP it is whole.
#[test]
fn more_answers_than_fit_are_cut() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let many = plain("many", "10.43.0.0/24", "10.43.0.1");
        backend.create(many.clone()).await.unwrap();
        let mut last = None;
        for _ in 0..40 {
            let wish = wish_for(vec![called(&many, &["same"])], vec![]);
            last = Some(backend.attach(wish).await.unwrap());
        }
        inside(&last.unwrap().namespace, || {
            let cut = over_udp("same", A);
            assert!(
                cut.truncated && (20..40).contains(&cut.records.len()),
                "{cut:?}"
            );
            assert_eq!(over_tcp("same", A).records.len(), 40);
        });
    });
}

/// The next agent opens the server again; questions are answered as before.
#[test]
fn names_outlive_the_agent() {
    on_own_host(|| async {
        let root = Root::new();
        let front = plain("front", "10.44.0.0/24", "10.44.0.1");
        let backend = LinuxNetwork::new(root.config()).unwrap();
        backend.create(front.clone()).await.unwrap();
        let wish = wish_for(vec![called(&front, &["kept"])], vec![]);
        let attached = backend.attach(wish.clone()).await.unwrap();
        drop(backend);
        let backend = LinuxNetwork::new(root.config()).unwrap();
        backend.create(front.clone()).await.unwrap();
        backend
            .recover(vec![survivor(&wish.container, &attached)])
            .await
            .unwrap();
        inside(&attached.namespace, || {
            check(over_udp("kept", A), &["10.44.0.2"])
        });
        backend.detach(&wish.container).await.unwrap();
    });
}

/// Prints what an answer costs; fails only where it would be out of all proportion.
#[test]
fn answers_are_quick() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.45.0.0/24", "10.45.0.1");
        backend.create(front.clone()).await.unwrap();
        let attached = backend
            .attach(wish_for(vec![called(&front, &["quick"])], vec![]))
            .await
            .unwrap();
        inside(&attached.namespace, || {
            let question = question("quick", A);
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(SERVER).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            let mut buffer = [0; 512];
            let mut times: Vec<Duration> = (0..2000)
                .map(|_| {
                    let start = Instant::now();
                    socket.send(&question).unwrap();
                    socket.recv(&mut buffer).unwrap();
                    start.elapsed()
                })
                .collect();
            times.sort();
            println!(
                "DNS answer: median {:?}, 99th of 100 {:?}",
                times[1000], times[1980]
            );
            assert!(times[1000] < Duration::from_millis(100));
        });
    });
}
