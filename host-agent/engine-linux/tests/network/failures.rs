//! What outsiders and crashes do to networks, and what is left behind: nothing.

use super::user_defined::{called, serve_in};
use super::*;
use engine::networks::contract::{network as plain, wish as wish_for};
use nix::mount::{MntFlags, umount2};

fn links() -> Vec<String> {
    let text = run("ip -o link");
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    names
        .map(|name| name.split('@').next().unwrap().to_owned())
        .collect()
}

#[test]
fn a_bridge_that_somebody_deletes_is_made_again() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.50.0.0/24", "10.50.0.1");
        backend.create(front.clone()).await.unwrap();
        let one = backend
            .attach(wish_for(vec![called(&front, &["one"])], vec![]))
            .await
            .unwrap();
        let at = serve_in(&one, 80);
        let on_default = backend.attach(wish(&backend, vec![])).await.unwrap();
        let default_at = serve_in(&on_default, 80);
        run(&format!("ip link del {}", front.link.name));
        run("ip link del berth0");
        // The next operation finds out, and connects those who were there again.
        let two = backend
            .attach(wish_for(vec![called(&front, &["two"])], vec![]))
            .await
            .unwrap();
        inside(&two.namespace, || {
            assert_eq!(ask_tcp(at, LONG).unwrap(), "10.50.0.3 hello")
        });
        assert_eq!(ask_tcp(at, LONG).unwrap(), "10.50.0.1 hello");
        let next = backend.attach(wish(&backend, vec![])).await.unwrap();
        inside(&next.namespace, || ask_tcp(default_at, LONG).unwrap());
    });
}

/// A container's own link, its namespace's file, and a spare's.
#[test]
fn links_and_namespaces_that_somebody_takes_away_are_made_again() {
    on_own_host(|| async {
        let root = Root::new();
        let mut config = root.config();
        config.spares = 1;
        let backend = LinuxNetwork::new(config).unwrap();
        backend.recover(vec![]).await.unwrap();
        eventually("spares", || root.namespaces() == 2);
        let front = plain("front", "10.54.0.0/24", "10.54.0.1");
        let back = plain("back", "10.55.0.0/24", "10.55.0.1");
        for network in [&front, &back] {
            backend.create(network.clone()).await.unwrap();
        }
        let mut wish_of_one = wish_for(vec![called(&front, &["one"])], vec![]);
        wish_of_one.endpoints[0].settings.mac_address = Some("02:42:00:00:00:54".into());
        let one = backend.attach(wish_of_one.clone()).await.unwrap();
        let at = serve_in(&one, 80);
        let file = one.namespace.file_name().unwrap().to_str().unwrap();
        run(&format!("ip link del veth{}", &file[..8]));
        // Told by the kernel.
        eventually("the link is there again", || ask_tcp(at, SHORT).is_ok());
        inside(&one.namespace, || {
            let link = run("ip link show eth0");
            assert!(link.contains("02:42:00:00:00:54"), "{link}");
            assert!(run("ip route show default").contains("via 10.54.0.1"));
        });
        // The namespace's file: found missing by the next operation.
        umount2(&one.namespace, MntFlags::MNT_DETACH).unwrap();
        std::fs::remove_file(&one.namespace).unwrap();
        let container = &wish_of_one.container;
        backend.connect(container, place(&back)).await.unwrap();
        inside(&one.namespace, || run("ip link show eth1"));
        // Spares: the ones of either kind.
        for spare in std::fs::read_dir(one.namespace.parent().unwrap()).unwrap() {
            let path = spare.unwrap().path();
            if path != one.namespace {
                umount2(&path, MntFlags::MNT_DETACH).unwrap();
            }
        }
        let next = backend.attach(wish(&backend, vec![])).await.unwrap();
        inside(&next.namespace, || run("ip link show eth0"));
        backend.detach(container).await.unwrap();
        eventually("the namespace is gone", || !one.namespace.exists());
    });
}

/// The agent ends between the kernel and the record: what the record does not know goes, what it knows is made.
#[test]
fn a_network_that_was_half_connected_or_half_disconnected() {
    on_own_host(|| async {
        let root = Root::new();
        let mut config = root.config();
        config.spares = 0;
        let front = plain("front", "10.56.0.0/24", "10.56.0.1");
        let back = plain("back", "10.57.0.0/24", "10.57.0.1");
        let backend = LinuxNetwork::new(config.clone()).unwrap();
        for network in [&front, &back] {
            backend.create(network.clone()).await.unwrap();
        }
        let wish = wish_for(vec![called(&front, &["one"])], vec![]);
        let container = &wish.container;
        let before = backend.attach(wish.clone()).await.unwrap();
        let at = serve_in(&before, 80);
        let after = backend
            .connect(container, called(&back, &["one"]))
            .await
            .unwrap();
        let default_route = || inside(&before.namespace, || run("ip route show default"));
        assert!(default_route().contains("via 10.57.0.1"));
        let restart = async |attached: &Attached| {
            let backend = LinuxNetwork::new(config.clone()).unwrap();
            for network in [&front, &back] {
                backend.create(network.clone()).await.unwrap();
            }
            let known = survivor(container, attached);
            backend.recover(vec![known]).await.unwrap();
            backend
        };
        drop(backend);
        // The record was not written: it is in front alone.
        let backend = restart(&before).await;
        inside(&before.namespace, || {
            assert!(!run("ip -o link").contains("eth1"))
        });
        assert!(
            default_route().contains("via 10.56.0.1"),
            "{}",
            default_route()
        );
        ask_tcp(at, LONG).unwrap();
        drop(backend);
        // The link was removed, the record not changed: it is in both.
        let backend = restart(&after).await;
        inside(&before.namespace, || {
            assert!(run("ip -o addr show eth1").contains("10.57.0.2/24"));
        });
        assert!(
            default_route().contains("via 10.57.0.1"),
            "{}",
            default_route()
        );
        // Its file was unmounted while nobody was there.
        let process = {
            let mut sleeper = Command::new("nsenter");
            sleeper.arg(format!("--net={}", before.namespace.display()));
            sleeper.args(["sleep", "1000"]).spawn().unwrap()
        };
        let link = std::fs::metadata(&before.namespace).unwrap();
        eventually("somebody is inside", || {
            let inside = std::fs::metadata(format!("/proc/{}/ns/net", process.id()));
            use std::os::unix::fs::MetadataExt;
            inside.is_ok_and(|inside| inside.ino() == link.ino())
        });
        drop(backend);
        umount2(&before.namespace, MntFlags::MNT_DETACH).unwrap();
        let mut process = process;
        let backend = LinuxNetwork::new(config.clone()).unwrap();
        for network in [&front, &back] {
            backend.create(network.clone()).await.unwrap();
        }
        let mut known = survivor(container, &after);
        known.process = Some(process.id());
        backend.recover(vec![known]).await.unwrap();
        inside(&before.namespace, || run("ip -o addr show eth1"));
        let _ = process.kill();
        let _ = process.wait();
        backend.detach(container).await.unwrap();
        eventually("nothing is left", || root.namespaces() == 0);
    });
}

#[test]
fn rules_that_somebody_flushes_are_made_again() {
    on_own_host(|| async {
        if Command::new("nft").arg("--version").output().is_err() {
            println!("skipped: no nft program to flush the rules with");
            return;
        }
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.51.0.0/24", "10.51.0.1");
        backend.create(front.clone()).await.unwrap();
        let published = wish_for(
            vec![called(&front, &["one"])],
            vec![port(80, None, 8090, Protocol::Tcp)],
        );
        let one = backend.attach(published).await.unwrap();
        serve_in(&one, 80);
        // This host's own namespace only.
        run("nft flush ruleset");
        // Nobody does anything: the agent is told by the kernel.
        eventually("the rules are there again", || {
            backend.firewall_ports().is_ok_and(|ports| ports == 1)
        });
        run("nft flush ruleset");
        let at = SocketAddr::from(([192, 0, 2, 1], 8090));
        let front_two = wish_for(vec![called(&front, &["two"])], vec![]);
        backend.attach(front_two).await.unwrap();
        assert_eq!(backend.firewall_ports().unwrap(), 1);
        assert_eq!(
            neighbour.there(move || ask_tcp(at, LONG).unwrap()),
            "192.0.2.2 hello"
        );
    });
}

/// A bridge that goes while nobody asks for anything: the agent is told by the kernel.
#[test]
fn a_bridge_that_somebody_deletes_is_missed_without_being_asked_for() {
    on_own_host(|| async {
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.58.0.0/24", "10.58.0.1");
        backend.create(front.clone()).await.unwrap();
        let in_front = wish_for(vec![called(&front, &["one"])], vec![]);
        let one = backend.attach(in_front).await.unwrap();
        let other = backend.attach(wish(&backend, vec![])).await.unwrap();
        let (one_at, other_at) = (serve_in(&one, 80), serve_in(&other, 80));
        run(&format!("ip link del {}", front.link.name));
        run("ip link del berth0");
        eventually("the network's bridge is there again", || {
            ask_tcp(one_at, SHORT).is_ok()
        });
        eventually("the default bridge is there again", || {
            ask_tcp(other_at, SHORT).is_ok()
        });
    });
}

/// Rules that go while their table stays, and the guard of bridges alone.
#[test]
fn single_rules_that_somebody_takes_away_are_made_again() {
    on_own_host(|| async {
        if Command::new("nft").arg("--version").output().is_err() {
            println!("skipped: no nft program to take rules away with");
            return;
        }
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        backend.recover(vec![]).await.unwrap();
        let apart = super::user_defined::made("apart", "10.59.0.0/24", "10.59.0.1", |network| {
            network.link.icc = false
        });
        backend.create(apart.clone()).await.unwrap();
        let published = vec![port(80, None, 8092, Protocol::Tcp)];
        let one = wish_for(vec![called(&apart, &["one"])], published);
        let one = backend.attach(one).await.unwrap();
        serve_in(&one, 80);
        let at = SocketAddr::from(([192, 0, 2, 1], 8092));
        let reaches = || neighbour.there(move || ask_tcp(at, SHORT).is_ok());
        assert!(reaches());
        let rules = || run("nft list table ip berth").matches('\n').count();
        let before = rules();
        for command in [
            "nft flush table ip berth",
            "nft flush chain ip berth prerouting",
            "nft flush chain ip berth forward",
        ] {
            run(command);
            eventually(command, || rules() == before);
            assert!(reaches(), "{command}");
        }
        run("nft delete table bridge berth");
        eventually("the guard is there again", || {
            run("nft list tables").contains("table bridge berth")
        });
    });
}

#[test]
fn beside_a_firewall_that_drops_what_it_does_not_know() {
    on_own_host(|| async {
        if Command::new("iptables-nft")
            .arg("--version")
            .output()
            .is_err()
        {
            println!("skipped: no iptables to make such a firewall with");
            return;
        }
        run("iptables-nft -P FORWARD DROP");
        run("iptables-nft -N DOCKER-USER");
        let before = run("iptables-nft -S");
        let root = Root::new();
        let neighbour = Neighbour::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        let front = plain("front", "10.52.0.0/24", "10.52.0.1");
        backend.create(front.clone()).await.unwrap();
        neighbour.there(|| serve_tcp("192.0.2.2:82".parse().unwrap()));
        let published = wish_for(
            vec![called(&front, &["one"])],
            vec![port(80, None, 8091, Protocol::Tcp)],
        );
        let container = published.container.clone();
        let one = backend.attach(published).await.unwrap();
        serve_in(&one, 80);
        inside(&one.namespace, || {
            let world: SocketAddr = "192.0.2.2:82".parse().unwrap();
            assert_eq!(ask_tcp(world, LONG).unwrap(), "192.0.2.1 hello");
        });
        let at = SocketAddr::from(([192, 0, 2, 1], 8091));
        neighbour.there(move || ask_tcp(at, LONG).unwrap());
        // iptables reads what was put there.
        let rules = run("iptables-nft -S FORWARD");
        assert!(
            rules.contains(&format!("-i {} ", front.link.name)),
            "{rules}"
        );
        backend.detach(&container).await.unwrap();
        backend.remove(&front.id).await.unwrap();
        backend.close().await;
        assert_eq!(run("iptables-nft -S"), before);
    });
}

/// A bridge takes 1,023 links; `NETWORK_CONTAINERS` says how many are connected (1,000 for a long run), all of which talk to
/// the first and to the host. Prints what one costs.
#[test]
fn a_thousand_containers_on_the_default_bridge() {
    on_own_host(|| async {
        let count: usize = std::env::var("NETWORK_CONTAINERS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(24);
        let root = Root::new();
        let backend = LinuxNetwork::new(root.config()).unwrap();
        backend.recover(vec![]).await.unwrap();
        let start = Instant::now();
        let mut all = Vec::new();
        for _ in 0..count {
            let wish = wish(&backend, vec![]);
            let attached = backend.attach(wish.clone()).await.unwrap();
            all.push((wish.container, attached));
        }
        println!(
            "{count} containers: {:?} each",
            start.elapsed() / count as u32
        );
        let first = SocketAddr::new(address(&all[0].1), 80);
        inside(&all[0].1.namespace, move || serve_tcp(first));
        serve_tcp("172.17.0.1:81".parse().unwrap());
        for (_, attached) in &all[1..] {
            inside(&attached.namespace, || {
                ask_tcp(first, LONG).unwrap();
                ask_tcp("172.17.0.1:81".parse::<SocketAddr>().unwrap(), LONG).unwrap();
            });
        }
        // From the host to each: their entries in the host's table of neighbours are asked for again.
        for (_, attached) in all.iter().step_by(7) {
            let at = SocketAddr::new(address(attached), 82);
            inside(&attached.namespace, move || serve_tcp(at));
            ask_tcp(at, LONG).unwrap();
        }
        let start = Instant::now();
        for (container, _) in &all {
            backend.detach(container).await.unwrap();
        }
        println!("detached: {:?} each", start.elapsed() / count as u32);
        let end = Instant::now() + LONG * 6;
        let spares = root.config().spares;
        while root.namespaces() > 2 * spares {
            assert!(Instant::now() < end, "{} are left", root.namespaces());
            std::thread::sleep(Duration::from_millis(100));
        }
    });
}

/// Cycles of everything that can be done with a network; `NETWORK_CYCLES` says how many (2,000 for a long run).
#[test]
fn many_cycles_leave_nothing() {
    on_own_host(|| async {
        let cycles: usize = std::env::var("NETWORK_CYCLES")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(60);
        let root = Root::new();
        let mut config = root.config();
        config.spares = 1;
        let backend = LinuxNetwork::new(config).unwrap();
        backend.recover(vec![]).await.unwrap();
        eventually("spares", || root.namespaces() == 2);
        let has_nft = Command::new("nft").arg("--version").output().is_ok();
        let ruleset = || {
            if has_nft {
                run("nft list ruleset")
            } else {
                String::new()
            }
        };
        let (links_before, rules_before) = (links().len(), ruleset());
        let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut descriptors_before = 0;
        for cycle in 0..cycles {
            let network = plain("cycle", "10.53.0.0/24", "10.53.0.1");
            backend.create(network.clone()).await.unwrap();
            let host_port = 21_000 + (cycle % 1000) as u16;
            let wish = wish(&backend, vec![port(80, None, host_port, Protocol::Tcp)]);
            backend.attach(wish.clone()).await.unwrap();
            let attached = backend
                .connect(&wish.container, called(&network, &["one"]))
                .await
                .unwrap();
            assert_eq!(attached.endpoints[1].address, Some([10, 53, 0, 2].into()));
            backend
                .disconnect(&wish.container, &network.id)
                .await
                .unwrap();
            backend.remove(&network.id).await.unwrap();
            backend.detach(&wish.container).await.unwrap();
            if cycle == cycles / 2 {
                eventually("removals", || root.namespaces() == 2);
                descriptors_before = descriptors();
            }
        }
        eventually("only spares are left", || root.namespaces() == 2);
        eventually("no more links", || links().len() == links_before);
        assert_eq!(ruleset(), rules_before);
        // Where each test has a process of its own: others open files, too.
        if std::env::var_os("NEXTEST").is_some() {
            assert_eq!(descriptors(), descriptors_before);
        }
    });
}
