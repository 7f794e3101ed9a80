//! Networks as their users have them: the stock client's verbs, names, a restart of the engine, a project of docker-compose.

use crate::{engine_with_busybox, fetch};
use harness::agent::{Agent, LIMIT};
use harness::namespace::Namespace;
use harness::programs::find;
use harness::run::{eventually, run};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A /24 that no other test on this host has, at this time.
fn subnet() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let own = std::process::id() % 8192 + number * 977;
    format!("10.{}.{}.0/24", 192 + own / 256 % 32, own % 256)
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Runs the stock client; `None` where there is none.
fn docker(agent: &Agent, arguments: &[&str]) -> Option<harness::run::Output> {
    Some(run(&mut agent.docker(arguments)?, LIMIT))
}

#[test]
fn the_stock_clients_verbs() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let range = subnet();
    let Some(made) = docker(
        &agent,
        &[
            "network", "create", "--subnet", &range, "--label", "a=1", "front",
        ],
    ) else {
        return;
    };
    let id = made.success();
    let id = id.trim();
    let docker = |arguments: &[&str]| docker(&agent, arguments).expect("it was there a moment ago");
    let listed = docker(&[
        "network",
        "ls",
        "--filter",
        "label=a=1",
        "--format",
        "{{.Name}} {{.Driver}}",
    ]);
    assert_eq!(listed.success(), "front bridge\n");
    let again = docker(&["network", "create", "front"]).fails_with(1);
    assert!(
        again.contains("network with name front already exists"),
        "{again}"
    );
    let overlap = docker(&["network", "create", "--subnet", &range, "other"]).fails_with(1);
    assert!(
        overlap.contains("Pool overlaps with other one on this address space"),
        "{overlap}"
    );

    docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "front",
        "--network-alias",
        "www",
        "busybox",
        "sleep",
        "1000",
    ])
    .success();
    let web = docker(&[
        "inspect",
        "-f",
        "{{.NetworkSettings.Networks.front.IPAddress}}",
        "web",
    ])
    .success();
    let found = docker(&[
        "run",
        "--rm",
        "--network",
        "front",
        "busybox",
        "nslookup",
        "www",
    ])
    .success();
    assert!(found.contains(web.trim()), "{found}");
    docker(&[
        "run",
        "--rm",
        "--network",
        "front",
        "busybox",
        "ping",
        "-c",
        "1",
        "-W",
        "10",
        "web",
    ])
    .success();
    // On the default bridge nobody has names.
    docker(&[
        "run", "--rm", "busybox", "ping", "-c", "1", "-W", "1", "web",
    ])
    .fails_with(1);

    docker(&["run", "-d", "--name", "worker", "busybox", "sleep", "1000"]).success();
    docker(&["network", "connect", "--alias", "w", "front", "worker"]).success();
    docker(&["exec", "web", "ping", "-c", "1", "-W", "10", "w"]).success();
    let inside = docker(&[
        "network",
        "inspect",
        "-f",
        "{{range .Containers}}{{.Name}} {{end}}",
        "front",
    ])
    .success();
    let mut inside: Vec<&str> = inside.split_whitespace().collect();
    inside.sort_unstable();
    assert_eq!(inside, ["web", "worker"]);
    let busy = docker(&["network", "rm", "front"]).fails_with(1);
    assert!(busy.contains("has active endpoints"), "{busy}");
    docker(&["network", "disconnect", "front", "worker"]).success();
    docker(&["exec", "web", "ping", "-c", "1", "-W", "1", "w"]).fails_with(1);
    let refused = docker(&["network", "rm", "bridge"]).fails_with(1);
    assert!(
        refused.contains("bridge is a pre-defined network and cannot be removed"),
        "{refused}"
    );
    docker(&["rm", "-f", "web", "worker"]).success();
    let pruned = docker(&["network", "prune", "-f"]).success();
    assert!(pruned.contains("front"), "{pruned}");
    docker(&["network", "inspect", id]).fails_with(1);
}

#[test]
fn our_own_clients_verbs() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let (range, other) = (subnet(), subnet());
    let fixed = range.replace(".0/24", ".77");
    agent
        .run(&["network", "create", "--subnet", &range, "front"])
        .success();
    agent
        .run(&[
            "network",
            "create",
            "--internal",
            "--subnet",
            &other,
            "back",
        ])
        .success();
    let listed = agent
        .run(&["network", "ls", "--format", "{{.Name}}"])
        .success();
    assert_eq!(listed, "back\nbridge\nfront\nhost\nnone\n");
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "db",
            "--network",
            "front",
            "--network",
            "back",
            "--ip",
            &fixed,
            "busybox",
            "sleep",
            "1000",
        ])
        .success();
    let addresses = agent.run(&["exec", "db", "ip", "-4", "addr"]).success();
    assert!(
        addresses.contains(&fixed) && addresses.contains("eth1"),
        "{addresses}"
    );
    // A private name for another container.
    agent
        .run(&[
            "run",
            "--rm",
            "--network",
            "back",
            "--link",
            "db:database",
            "busybox",
            "ping",
            "-c",
            "1",
            "-W",
            "10",
            "database",
        ])
        .success();
    agent
        .run(&["network", "disconnect", "back", "db"])
        .success();
    agent
        .run(&["network", "connect", "--alias", "again", "back", "db"])
        .success();
    agent
        .run(&[
            "run",
            "--rm",
            "--network",
            "back",
            "busybox",
            "ping",
            "-c",
            "1",
            "-W",
            "10",
            "again",
        ])
        .success();
    let shown = agent
        .run(&["network", "inspect", "-f", "{{.Internal}}", "back"])
        .success();
    assert_eq!(shown, "true\n");
    agent.run(&["network", "rm", "nowhere"]).fails_with(1);
    agent.run(&["rm", "-f", "db"]).success();
    agent.run(&["network", "rm", "front", "back"]).success();
}

/// Links on the default bridge: names, variables, and the error of one that does not run.
#[test]
fn links_and_hosts_on_the_default_bridge() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "db",
            "-e",
            "COLOR=blue",
            "-p",
            "127.0.0.1::5432",
            "busybox",
            "sleep",
            "1000",
        ])
        .success();
    let env = agent
        .run(&["run", "--rm", "--link", "db:store", "busybox", "env"])
        .success();
    assert!(
        env.contains("STORE_PORT_5432_TCP_PROTO=tcp") && env.contains("STORE_ENV_COLOR=blue"),
        "{env}"
    );
    agent
        .run(&[
            "run", "--rm", "--link", "db:store", "busybox", "ping", "-c", "1", "-W", "10", "store",
        ])
        .success();
    let hosts = agent
        .run(&[
            "run",
            "--rm",
            "--add-host",
            "host.docker.internal:host-gateway",
            "--add-host",
            "me:192.0.2.9",
            "busybox",
            "cat",
            "/etc/hosts",
        ])
        .success();
    assert!(
        hosts.contains("192.0.2.9\tme") && hosts.contains("\thost.docker.internal"),
        "{hosts}"
    );
    agent.run(&["stop", "-t", "0", "db"]).success();
    let refused = agent
        .run(&["run", "--rm", "--link", "db", "busybox", "true"])
        .fails_with(125);
    assert!(
        refused.contains("Cannot link to a non running container: /db"),
        "{refused}"
    );
}

/// kill -9 of the engine: names are answered again, addresses and networks stay, a stopped container gets its address back.
#[test]
fn networks_outlive_the_engine() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let port = free_port().to_string();
    agent
        .run(&["network", "create", "--subnet", &subnet(), "front"])
        .success();
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "web",
            "--network",
            "front",
            "-p",
            &format!("127.0.0.1:{port}:80"),
            "busybox",
            "httpd",
            "-f",
            "-p",
            "80",
            "-h",
            "/etc",
        ])
        .success();
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "asker",
            "--network",
            "front",
            "busybox",
            "sleep",
            "1000",
        ])
        .success();
    let address = |agent: &Agent, name: &str| {
        agent
            .run(&[
                "inspect",
                "-f",
                "{{.NetworkSettings.Networks.front.IPAddress}}",
                name,
            ])
            .success()
    };
    let before = address(&agent, "web");
    agent.kill_serve();
    agent.serve();
    assert_eq!(address(&agent, "web"), before);
    agent
        .run(&["exec", "asker", "ping", "-c", "1", "-W", "10", "web"])
        .success();
    let page = eventually(
        "the published port is served again",
        Duration::from_secs(20),
        || std::net::TcpStream::connect(("127.0.0.1", port.parse::<u16>().expect("a port"))).ok(),
    );
    drop(page);
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "third",
            "--network",
            "front",
            "busybox",
            "sleep",
            "1000",
        ])
        .success();
    let (asker, third) = (address(&agent, "asker"), address(&agent, "third"));
    agent.run(&["stop", "-t", "0", "asker", "third"]).success();
    // The lowest free address is the other one's.
    agent.run(&["start", "third"]).success();
    assert_eq!(address(&agent, "third"), third);
    agent.run(&["start", "asker"]).success();
    assert_eq!(address(&agent, "asker"), asker);
}

/// A server of the host's: every client is told "200 OK" by HTTP.
pub fn serve_on_host() -> u16 {
    let listener = std::net::TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for client in listener.incoming() {
            let Ok(mut client) = client else { continue };
            let _ = client.read(&mut [0; 1000]);
            let _ = client.write_all(b"HTTP/1.0 200 OK\r\n\r\nthe host\n");
        }
    });
    port
}

/// `host.docker.internal` without being asked for, and what `--host-gateway-ip` makes of it.
#[test]
fn containers_find_the_host_by_its_name() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let port = serve_on_host();
    let page = format!("http://host.docker.internal:{port}/");
    agent
        .run(&["network", "create", "--subnet", &subnet(), "front"])
        .success();
    agent
        .run(&[
            "network",
            "create",
            "--internal",
            "--subnet",
            &subnet(),
            "back",
        ])
        .success();
    for network in ["bridge", "front"] {
        let told = agent.run(&[
            "run",
            "--rm",
            "--network",
            network,
            "busybox",
            "wget",
            "-qO-",
            &page,
        ]);
        assert_eq!(told.success(), "the host\n");
    }
    let hosts = |arguments: &[&str]| {
        let words = [
            &["run", "--rm"],
            arguments,
            &["busybox", "cat", "/etc/hosts"],
        ]
        .concat();
        agent.run(&words).success()
    };
    assert!(!hosts(&["--network", "back"]).contains("host.docker.internal"));
    let own = hosts(&["--add-host", "host.docker.internal:192.0.2.7"]);
    assert_eq!(own.matches("host.docker.internal").count(), 1, "{own}");
    // In the host's network: its own files.
    let of_host = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    assert_eq!(hosts(&["--network", "host"]), of_host);
    let resolvers = agent.run(&[
        "run",
        "--rm",
        "--network",
        "host",
        "busybox",
        "cat",
        "/etc/resolv.conf",
    ]);
    let of_host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert_eq!(resolvers.success(), of_host);
    agent.run(&["network", "rm", "front", "back"]).success();

    let Some(told) = engine_with_busybox(&[
        "--host-gateway-ip",
        "192.0.2.88",
        "--host-gateway-ip",
        "2001:db8::88",
    ]) else {
        return;
    };
    let hosts = told
        .run(&[
            "run",
            "--rm",
            "--add-host",
            "me:host-gateway",
            "busybox",
            "cat",
            "/etc/hosts",
        ])
        .success();
    for line in [
        "192.0.2.88\tme",
        "2001:db8::88\tme",
        "192.0.2.88\thost.docker.internal",
    ] {
        assert!(hosts.contains(line), "{hosts}");
    }
}

/// `--iptables=false`: no table is made, ports are the proxy's.
#[test]
fn without_firewall_rules() {
    let Some(agent) = engine_with_busybox(&["--iptables=false"]) else {
        return;
    };
    let port = free_port();
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            &format!("127.0.0.1:{port}:80"),
            "busybox",
            "sh",
            "-c",
            "mkdir /www; echo 200 OK > /www/index.html; exec httpd -f -p 80 -h /www",
        ])
        .success();
    eventually("the proxy serves", Duration::from_secs(30), || {
        fetch(&format!("127.0.0.1:{port}"))
    });
    let Ok(tables) = std::process::Command::new("nft")
        .args(["list", "tables"])
        .output()
    else {
        println!("skipped: there is no nft here");
        return;
    };
    let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
    assert!(!tables.contains(agent.bridge()), "{tables}");
}

/// Serves a page on port 80, in a container.
const PAGE: &str = "mkdir /www; echo 200 OK > /www/index.html; exec httpd -f -p 80 -h /www";

/// Runs a line of words in a namespace.
fn on(namespace: &Namespace, line: &str) -> harness::run::Output {
    let mut words = line.split_whitespace();
    let mut command = namespace.command(words.next().expect("a program"));
    run(command.args(words), LIMIT)
}

/// A host of its own, 192.0.2.1, with an engine that has busybox, and another host on the same link, 192.0.2.2.
struct Hosts {
    agent: Agent,
    outside: Namespace,
    host: Arc<Namespace>,
}

impl Hosts {
    fn new() -> Option<Hosts> {
        let (Ok(host), Ok(outside)) = (Namespace::create(), Namespace::create()) else {
            println!("skipped: network namespaces cannot be made");
            return None;
        };
        let host = Arc::new(host);
        let link = format!(
            "ip link add up0 type veth peer name up0 netns {}",
            outside.name()
        );
        on(&host, &link).success();
        for (namespace, address) in [(&*host, "192.0.2.1/24"), (&outside, "192.0.2.2/24")] {
            on(namespace, &format!("ip addr add {address} dev up0")).success();
            on(namespace, "ip link set up0 up").success();
        }
        let agent = Agent::start_in(Some(host.clone()), &[])?;
        crate::load_busybox(&agent, "busybox:latest");
        Some(Hosts {
            agent,
            outside,
            host,
        })
    }

    /// Whether the other host gets the page from this one.
    fn fetched(&self, port: u16) -> Option<()> {
        let url = format!("http://192.0.2.1:{port}/");
        let told = on(&self.outside, &format!("curl -s --max-time 2 {url}"));
        told.stdout.contains("200 OK").then_some(())
    }
}

/// podman's containers and ours, side by side: each is reached by its published port, and reaches the world.
#[test]
fn beside_podman() {
    let Some(program) = find("podman") else {
        println!("skipped: there is no podman here");
        return;
    };
    let Some(hosts) = Hosts::new() else { return };
    let agent = &hosts.agent;
    let folder = agent.folder().join("podman");
    let podman = |words: &[&str]| {
        let mut command = hosts.host.command(&program);
        for (flag, name) in [
            ("--root", "data"),
            ("--runroot", "run"),
            ("--tmpdir", "tmp"),
        ] {
            command.arg(flag).arg(folder.join(name));
        }
        // Its storage can lie on any file system so; crun refuses hosts with both kinds of control groups.
        command.args(["--cgroup-manager=cgroupfs", "--runtime=runc"]);
        command.args(["--storage-driver=vfs", "--events-backend=file"]);
        command.args(words);
        command
    };
    let limit = Duration::from_secs(30);
    let publish = |name: &str, port: &str| {
        let words = [
            "run", "-d", "--name", name, "-p", port, "busybox", "sh", "-c", PAGE,
        ];
        agent.run(&words).success();
    };
    publish("before", "8080:80");
    let archive = crate::busybox_archive("busybox:latest");
    let loaded = harness::run::run_with_input(&mut podman(&["load"]), &archive, LIMIT);
    // Its own limits are more than a host without CAP_SYS_RESOURCE lets it have.
    let limits = ["--ulimit", "nofile=500:500", "--ulimit", "nproc=500:500"];
    // And without that capability nobody pings.
    let words = [
        "run",
        "-d",
        "--name",
        "theirs",
        "--cap-add",
        "NET_RAW",
        "-p",
        "8081:80",
    ];
    let theirs = [&words[..], &limits, &["busybox", "sh", "-c", PAGE]].concat();
    let ran = run(&mut podman(&theirs), LIMIT);
    if loaded.code != Some(0) || ran.code != Some(0) {
        println!(
            "skipped: podman cannot run containers here: {}{}",
            loaded.stderr, ran.stderr
        );
        run(&mut podman(&["rm", "-f", "theirs"]), LIMIT);
        return;
    }
    publish("after", "8082:80");
    let ping = ["ping", "-c", "1", "-W", "5", "192.0.2.2"];
    let reached = [8080, 8081, 8082].map(|port| {
        let end = std::time::Instant::now() + limit;
        while hosts.fetched(port).is_none() && std::time::Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
        }
        hosts.fetched(port)
    });
    let ours = agent.run(&[&["exec", "after"][..], &ping].concat());
    let also = run(
        &mut podman(&[&["exec", "theirs"][..], &ping].concat()),
        LIMIT,
    );
    // Before anything is judged: nothing of it is to stay.
    run(&mut podman(&["rm", "-f", "-t", "0", "theirs"]), LIMIT);
    assert_eq!(reached, [Some(()); 3], "ours before, podman's, ours after");
    ours.success();
    also.success();
    agent.run(&["rm", "-f", "before", "after"]).success();
}

/// `-p` in its forms and `-P`, by what is told of them and by asking.
#[test]
fn every_form_of_publishing() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let Some(told) = docker(
        &agent,
        &[
            "network",
            "create",
            "--subnet",
            &subnet(),
            "-o",
            "com.docker.network.bridge.host_binding_ipv4=127.0.0.1",
            "local",
        ],
    ) else {
        return;
    };
    told.success();
    let docker = |arguments: &[&str]| docker(&agent, arguments).expect("it was there a moment ago");
    let script =
        format!("for port in 81 82 53; do mkdir -p /www; httpd -p $port -h /www; done; {PAGE}");
    // Below the ports that the kernel gives away by itself.
    let own = std::process::id() % 500 * 16;
    let base = (0..500)
        .map(|step| 20_000 + ((own + step * 16) % 8_000) as u16)
        .find(|base| {
            (0..4).all(|more| std::net::TcpListener::bind(("127.0.0.1", base + more)).is_ok())
        })
        .expect("four free ports");
    let range = format!("127.0.0.1:{base}-{}:80-82", base + 2);
    docker(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "local",
        "--expose",
        "90",
        "-P",
        "-p",
        &range,
        "-p",
        "127.0.0.1::80",
        "-p",
        "83",
        "-p",
        "127.0.0.1::53/udp",
        "busybox",
        "sh",
        "-c",
        &script,
    ])
    .success();
    let of = |port: &str| -> Vec<String> {
        let told = docker(&["port", "web", port]).success();
        told.lines().map(str::to_owned).collect()
    };
    // Ranges go port by port.
    assert_eq!(of("81"), [format!("127.0.0.1:{}", base + 1)]);
    assert_eq!(of("82"), [format!("127.0.0.1:{}", base + 2)]);
    assert_eq!(of("80").len(), 2, "a port of the range, and any free one");
    // Named without an address, or only exposed: where the network says.
    for port in ["83", "90"] {
        let at = of(port);
        assert!(
            at.len() == 1 && at[0].starts_with("127.0.0.1:"),
            "{port}: {at:?}"
        );
    }
    assert!(of("53/udp")[0].starts_with("127.0.0.1:"));
    docker(&["port", "web", "53/tcp"]).fails_with(1);
    for at in of("80") {
        eventually("it is served", Duration::from_secs(30), || fetch(&at));
    }
    std::net::TcpStream::connect(("127.0.0.1", base + 1)).expect("it listens");
    std::net::TcpStream::connect(("127.0.0.1", base + 3)).expect_err("not asked for");
    // Taken by another container; and a range of which the rest is free.
    let taken = format!("127.0.0.1:{base}:80");
    let refused = docker(&["run", "--rm", "-p", &taken, "busybox", "true"]).fails_with(125);
    let wanted = format!("Bind for 127.0.0.1:{base} failed: port is already allocated");
    assert!(refused.contains(&wanted), "{refused}");
    let some = format!("127.0.0.1:{base}-{}:80", base + 3);
    docker(&[
        "run", "-d", "--name", "other", "-p", &some, "busybox", "sleep", "1000",
    ])
    .success();
    let at = docker(&["port", "other", "80"]).success();
    assert_eq!(at.trim(), format!("127.0.0.1:{}", base + 3));
    let unequal = format!("127.0.0.1:{base}-{}:80-81", base + 3);
    docker(&["run", "--rm", "-p", &unequal, "busybox", "true"]).fails_with(125);
}

/// A dockerd beside us, whichever was there first: both reach the world and are reached, and its administrator's chain is
/// passed by our packets, too.
#[test]
fn beside_a_running_dockerd() {
    use harness::dockerd::Dockerd;
    if find("dockerd").is_none() || find("iptables").is_none() {
        println!("skipped: there is no dockerd, or no iptables, here");
        return;
    }
    let Some(hosts) = Hosts::new() else { return };
    let (host, agent) = (&hosts.host, &hosts.agent);
    agent
        .run(&[
            "run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", PAGE,
        ])
        .success();
    let fetched = |port: u16| hosts.fetched(port);
    let limit = Duration::from_secs(30);
    eventually("our port is reached", limit, || fetched(8080));
    let dockerd = match Dockerd::start(host, &[]) {
        Ok(dockerd) => dockerd,
        Err(error) => {
            println!("skipped: {error:#}");
            return;
        }
    };
    eventually("our port is reached beside dockerd", limit, || {
        fetched(8080)
    });
    let ping = [
        "run",
        "--rm",
        "busybox",
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        "192.0.2.2",
    ];
    agent.run(&ping).success();
    // What dockerd publishes is reached beside us.
    let theirs = |arguments: &[&str]| {
        let mut command = agent.docker(arguments)?;
        command.env(
            "DOCKER_HOST",
            format!("unix://{}", dockerd.socket().display()),
        );
        Some(command)
    };
    if let Some(mut load) = theirs(&["load"]) {
        let archive = crate::busybox_archive("busybox:latest");
        harness::run::run_with_input(&mut load, &archive, LIMIT).success();
        let arguments = ["run", "-d", "-p", "8081:80", "busybox", "sh", "-c", PAGE];
        run(&mut theirs(&arguments).expect("it was there"), LIMIT).success();
        eventually("dockerd's port is reached", limit, || fetched(8081));
    }
    on(host, "iptables -I DOCKER-USER -s 192.0.2.2 -j DROP").success();
    eventually("the administrator is heard", limit, || {
        fetched(8080).is_none().then_some(())
    });
    on(host, "iptables -D DOCKER-USER -s 192.0.2.2 -j DROP").success();
    eventually("and heard again", limit, || fetched(8080));
    drop(dockerd);
    agent.run(&ping).success();
}

const PROJECT: &str = r#"
version: "2.4"
services:
  web:
    image: busybox:latest
    command: ["sh", "-c", "mkdir -p /www && echo '200 OK' > /www/index.html && httpd -f -p 80 -h /www"]
    ports: ["127.0.0.1:PORT:80"]
    depends_on: {database: {condition: service_started}}
    networks:
      front: {aliases: [www]}
      back: {}
  database:
    image: busybox:latest
    command: ["sleep", "1000"]
    volumes: ["data:/data"]
    networks: {back: {aliases: [db]}}
  worker:
    image: busybox:latest
    command: ["sleep", "1000"]
    networks: {back: {}}
networks:
  front: {ipam: {config: [{subnet: FRONT}]}}
  back: {internal: true, ipam: {config: [{subnet: BACK}]}}
volumes: {data: {}}
"#;

#[test]
fn a_project_of_docker_compose() {
    let Some(compose) = find("docker-compose") else {
        println!("skipped: there is no docker-compose command here");
        return;
    };
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let port = free_port();
    let text = PROJECT
        .replace("PORT", &port.to_string())
        .replace("FRONT", &subnet())
        .replace("BACK", &subnet());
    let folder = agent.folder().join("project");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join("docker-compose.yml"), text).expect("a file");
    let compose = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&compose);
        command
            .current_dir(&folder)
            .env("DOCKER_HOST", agent.host())
            .env("COMPOSE_PROJECT_NAME", "shop")
            .env("HOME", agent.folder())
            .args(arguments);
        run(&mut command, LIMIT)
    };
    compose(&["up", "-d", "--scale", "worker=3"]).success();
    let page = eventually("the web server answers", Duration::from_secs(30), || {
        fetch(&format!("127.0.0.1:{port}"))
    });
    assert!(page.contains("200 OK"), "{page}");
    let ping = |service: &str, name: &str| {
        compose(&["exec", "-T", service, "ping", "-c", "1", "-W", "5", name])
    };
    for name in ["database", "db", "worker", "shop_worker_3"] {
        ping("web", name).success();
    }
    // The database is not in front.
    assert_ne!(ping("database", "www").code, Some(0));
    let found = compose(&["exec", "-T", "web", "nslookup", "worker"]);
    let addresses = found
        .stdout
        .lines()
        .filter(|line| line.starts_with("Address"))
        .count();
    // One line is the server's own.
    assert!(addresses >= 4, "{}", found.report());
    compose(&["up", "-d", "--scale", "worker=1"]).success();
    let running = compose(&["ps", "-q"]).success();
    assert_eq!(running.lines().count(), 3, "{running}");
    compose(&["restart", "-t", "0"]).success();
    eventually(
        "the web server answers again",
        Duration::from_secs(30),
        || fetch(&format!("127.0.0.1:{port}")),
    );
    ping("web", "db").success();
    compose(&["down", "-v", "-t", "0"]).success();
    assert_eq!(agent.run(&["ps", "-aq"]).success(), "");
    assert_eq!(
        agent
            .run(&["network", "ls", "-q", "--filter", "type=custom"])
            .success(),
        ""
    );
}
