//! What outsiders and crashes do to networks, and what is left behind: nothing.

use super::user_defined::{called, serve_in};
use super::*;
use engine::networks::contract::{network as plain, wish as wish_for};

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
        // Other tests of this process open files, too.
        println!(
            "open files: {descriptors_before} in the middle, {} at the end",
            descriptors()
        );
    });
}
