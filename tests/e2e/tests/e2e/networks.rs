//! Networks as their users have them: the stock client's verbs, names, a restart of the engine, a project of docker-compose.

use crate::{engine_with_busybox, fetch};
use harness::agent::{Agent, LIMIT};
use harness::programs::find;
use harness::run::{eventually, run};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A /24 that no other test on this host has, at this time.
pub fn subnet() -> String {
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
pub fn docker(agent: &Agent, arguments: &[&str]) -> Option<harness::run::Output> {
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
    // It is found where it has started again, by who runs already; what a program has written stays.
    let detached = |words: &[&str]| {
        let words = [&["run", "-d"], words, &["busybox", "sleep", "1000"]].concat();
        agent.run(&words).success()
    };
    detached(&["--name", "web", "--link", "db:store"]);
    let inside = |script: &str| agent.run(&["exec", "web", "sh", "-c", script]);
    inside("echo 192.0.2.7 mine >> /etc/hosts").success();
    let before = inside("grep store /etc/hosts").success();
    let env = inside("env").success();
    assert!(env.contains("STORE_ENV_COLOR=blue"), "{env}");
    agent.run(&["stop", "-t", "0", "db"]).success();
    // An address is lent again when its link is gone, some moments after the end.
    eventually("another has its address", Duration::from_secs(30), || {
        detached(&["--name", "other"]);
        let format = "{{.NetworkSettings.IPAddress}}";
        let shown = agent.run(&["inspect", "-f", format, "other"]).success();
        if before.split_whitespace().next() == Some(shown.trim()) {
            return Some(());
        }
        agent.run(&["rm", "-f", "other"]).success();
        None
    });
    agent.run(&["start", "db"]).success();
    eventually("the link follows", Duration::from_secs(30), || {
        (inside("grep store /etc/hosts").success() != before).then_some(())
    });
    inside("ping -c 1 -W 10 store && grep mine /etc/hosts").success();
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
