//! Our networks beside those of others on one host: podman, a dockerd, an administrator's rules; and every form of publishing,
//! asked from the host and from another one.

use crate::networks::{docker, subnet};
use crate::{engine_with_busybox, fetch};
use harness::agent::{Agent, LIMIT};
use harness::namespace::Namespace;
use harness::programs::find;
use harness::run::{eventually, run};
use std::sync::Arc;
use std::time::Duration;
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
