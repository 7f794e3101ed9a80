//! The engine on this host, through our own client.

use crate::{engine_with_busybox, fetch};
use harness::agent::{Agent, LIMIT};
use harness::run::{eventually, run_with_input};
use std::net::TcpStream;
use std::time::Duration;

/// A port of this host that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

#[test]
fn a_program_runs_and_its_exit_code_comes_back() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    assert_eq!(
        agent
            .run(&["run", "--rm", "busybox", "echo", "hello"])
            .success(),
        "hello\n"
    );
    agent
        .run(&["run", "--rm", "busybox", "sh", "-c", "exit 7"])
        .fails_with(7);
    let text = agent
        .run(&["run", "--rm", "busybox", "no-such-program"])
        .fails_with(127);
    assert!(
        text.contains("executable file not found in $PATH"),
        "{text}"
    );
    agent
        .run(&["run", "--rm", "busybox", "/etc/passwd"])
        .fails_with(126);
    let text = agent
        .run(&["run", "--rm", "--name", "bad name", "busybox", "true"])
        .fails_with(125);
    assert!(text.contains("Invalid container name"), "{text}");
    assert_eq!(agent.run(&["ps", "-aq"]).success(), "");
}

#[test]
fn what_a_container_is_created_with_is_seen_inside() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let id_file = agent.folder().join("id").display().to_string();
    let script = "hostname; ulimit -n; id -G | tr ' ' '\\n' | grep -c '^5$'; df -m /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2; \
                  cat /proc/sys/net/ipv4/ip_default_ttl; touch /t/x && stat -c %a /t; touch /x 2>/dev/null || echo read-only";
    let words = [
        "create --network none --name made -h box --domainname example.org --ulimit nofile=77 --group-add 5",
        "--shm-size 5m --sysctl net.ipv4.ip_default_ttl=9 --mount type=tmpfs,target=/t,tmpfs-mode=0700 --read-only",
        "--stop-timeout 7 --stop-signal INT --health-cmd true --health-interval 1m --pids-limit 99 --log-driver local",
        "--cidfile",
        &id_file,
        "busybox sh -c",
    ];
    let words = words.join(" ");
    let arguments: Vec<&str> = words.split(' ').chain([script]).collect();
    let id = agent.run(&arguments).success();
    assert_eq!(std::fs::read_to_string(&id_file).expect("there"), id.trim());
    let said = agent.run(&["start", "-a", "made"]).success();
    assert_eq!(said, "box\n77\n1\n5\n9\n700\nread-only\n");
    let format = "{{.State.ExitCode}} {{.Config.StopTimeout}} {{.Config.StopSignal}} {{.Config.Domainname}} \
                  {{json .Config.Healthcheck.Interval}} {{.HostConfig.PidsLimit}} {{.HostConfig.LogConfig.Type}}";
    let shown = agent
        .run(&["inspect", "--format", format, "made"])
        .success();
    assert_eq!(shown, "0 7 INT example.org 60000000000 99 local\n");
    let again = agent.run(&["create", "--cidfile", &id_file, "busybox"]);
    assert!(again.fails_with(1).contains("container ID file found"));
    // Only what is asked for is joined.
    let words = [
        "run",
        "--rm",
        "--network",
        "none",
        "-a",
        "stderr",
        "busybox",
    ];
    let words = [&words[..], &["sh", "-c", "echo out; echo err >&2"]].concat();
    let output = agent.run(&words);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("", "err\n")
    );
}

#[test]
fn output_keeps_its_streams_and_its_order() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let output = agent.run(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "echo out; echo err >&2; seq 100000",
    ]);
    assert_eq!(output.stderr, "err\n");
    let expected: String = std::iter::once("out\n".to_owned())
        .chain((1..=100_000).map(|n| format!("{n}\n")))
        .collect();
    assert!(
        output.stdout == expected,
        "{} bytes of {} came",
        output.stdout.len(),
        expected.len()
    );
}

#[test]
fn input_reaches_the_program_and_ends() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let mut input = vec![b'x'; 3_000_000];
    input.push(b'\n');
    let output = run_with_input(
        &mut agent.berth(&["run", "-i", "--rm", "busybox", "wc", "-c"]),
        &input,
        LIMIT,
    );
    assert_eq!(output.success().trim(), "3000001");
}

#[test]
fn a_day_in_the_life_of_a_container() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let script = "echo started; trap 'echo bye; exit 5' TERM; while true; do sleep 0.1; done";
    let id = agent
        .run(&[
            "run",
            "-d",
            "--name",
            "web",
            "-e",
            "COLOR=blue",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .success();
    let id = id.trim();
    assert_eq!(id.len(), 64, "{id}");
    assert!(agent.run(&["ps"]).success().contains("web"));
    assert_eq!(
        agent
            .run(&["exec", "web", "sh", "-c", "echo $COLOR"])
            .success(),
        "blue\n"
    );
    agent
        .run(&["exec", "web", "sh", "-c", "exit 9"])
        .fails_with(9);
    agent.run(&["exec", "web", "nope"]).fails_with(127);
    eventually("the log has its line", Duration::from_secs(10), || {
        (agent.run(&["logs", "web"]).success() == "started\n").then_some(())
    });
    agent.run(&["stop", "web"]).success();
    assert_eq!(
        agent
            .run(&[
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.ExitCode}}",
                "web"
            ])
            .success(),
        "exited 5\n"
    );
    assert_eq!(agent.run(&["logs", "web"]).success(), "started\nbye\n");
    agent.run(&["start", "web"]).success();
    let text = agent.run(&["rm", "web"]).fails_with(1);
    assert!(text.contains("running"), "{text}");
    agent.run(&["kill", "web"]).success();
    assert_eq!(agent.run(&["wait", "web"]).success(), "137\n");
    agent.run(&["rm", "web"]).success();
    assert_eq!(agent.run(&["ps", "-aq"]).success(), "");
}

#[test]
fn volumes_keep_what_containers_leave() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    agent
        .run(&[
            "run",
            "--rm",
            "-v",
            "data:/data",
            "busybox",
            "sh",
            "-c",
            "echo kept > /data/file",
        ])
        .success();
    assert_eq!(
        agent
            .run(&[
                "run",
                "--rm",
                "-v",
                "data:/data:ro",
                "busybox",
                "cat",
                "/data/file"
            ])
            .success(),
        "kept\n"
    );
    let text = agent
        .run(&[
            "run",
            "--rm",
            "-v",
            "data:/data:ro",
            "busybox",
            "touch",
            "/data/x",
        ])
        .fails_with(1);
    assert!(text.contains("Read-only file system"), "{text}");
    let bound = agent.folder().join("bound");
    std::fs::create_dir(&bound).expect("a folder");
    std::fs::write(bound.join("note"), "from the host\n").expect("a file");
    let bind = format!("{}:/mnt/deep/er", bound.display());
    assert_eq!(
        agent
            .run(&[
                "run",
                "--rm",
                "-v",
                &bind,
                "busybox",
                "cat",
                "/mnt/deep/er/note"
            ])
            .success(),
        "from the host\n"
    );
}

#[test]
fn a_published_port_answers_on_this_host_and_goes_with_its_container() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let server = "echo hello > /var/www/index.html; exec httpd -f -p 80 -h /var/www";
    agent
        .run(&[
            "run", "-d", "--name", "web", "-p", &publish, "busybox", "sh", "-c", server,
        ])
        .success();
    let address = format!("127.0.0.1:{port}");
    let answer = eventually(
        "the published port answers",
        Duration::from_secs(10),
        || fetch(&address),
    );
    assert!(answer.ends_with("hello\n"), "{answer}");
    let text = agent
        .run(&["run", "--rm", "-p", &publish, "busybox", "true"])
        .fails_with(125);
    assert!(text.contains("port is already allocated"), "{text}");
    agent.run(&["rm", "-f", "web"]).success();
    eventually("the port is closed", Duration::from_secs(10), || {
        TcpStream::connect(&address).err()
    });
}

#[test]
fn containers_on_the_bridge_reach_each_other_and_a_network_of_none_reaches_nobody() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let server = "echo neighbour > /var/www/index.html; exec httpd -f -p 8080 -h /var/www";
    agent
        .run(&[
            "run", "-d", "--name", "server", "busybox", "sh", "-c", server,
        ])
        .success();
    let address = agent
        .run(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "server"])
        .success();
    let address = address.trim().to_owned();
    // Not wget: a static glibc program that looks names up may crash where there are no libraries.
    let fetch = |network: &str| {
        agent.run(&["run", "--rm", "--network", network, "busybox", "sh", "-c",
            &format!("for i in 1 2 3 4 5 6 7 8 9 10; do printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 {address} 8080 | grep neighbour && exit 0; sleep 0.2; done; exit 4")])
    };
    assert_eq!(fetch("bridge").success(), "neighbour\n");
    fetch("none").fails_with(4);
    assert_eq!(fetch("container:server").success(), "neighbour\n");
    let interfaces = agent
        .run(&[
            "run",
            "--rm",
            "--network",
            "none",
            "busybox",
            "ls",
            "/sys/class/net",
        ])
        .success();
    assert_eq!(interfaces, "lo\n");
}

fn state_of(agent: &Agent, name: &str) -> String {
    agent
        .run(&[
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}}",
            name,
        ])
        .success()
}

#[test]
fn containers_outlive_a_killed_engine_without_a_gap_in_their_logs() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let count = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); echo $i; sleep 0.05; done; exit 3";
    agent
        .run(&[
            "run", "-d", "--name", "counts", "busybox", "sh", "-c", count,
        ])
        .success();
    agent
        .run(&[
            "run",
            "-d",
            "--name",
            "short",
            "busybox",
            "sh",
            "-c",
            "sleep 1; exit 42",
        ])
        .success();
    agent
        .run(&["run", "-d", "--name", "stays", "busybox", "sleep", "1000"])
        .success();
    agent.kill_serve();
    std::thread::sleep(Duration::from_secs(2));
    agent.serve();
    assert_eq!(state_of(&agent, "stays"), "running 0\n");
    assert_eq!(state_of(&agent, "short"), "exited 42\n");
    assert_eq!(agent.run(&["wait", "counts"]).success(), "3\n");
    let expected: String = (1..=100).map(|n| format!("{n}\n")).collect();
    assert_eq!(agent.run(&["logs", "counts"]).success(), expected);
    assert_eq!(
        agent
            .run(&["exec", "stays", "echo", "still here"])
            .success(),
        "still here\n"
    );
    agent.run(&["stop", "-t", "0", "stays"]).success();
    assert_eq!(state_of(&agent, "stays"), "exited 137\n");
}

#[test]
fn many_containers_start_at_once() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    std::thread::scope(|scope| {
        for number in 0..20 {
            let agent = &agent;
            scope.spawn(move || {
                let number = number.to_string();
                assert_eq!(
                    agent
                        .run(&["run", "--rm", "busybox", "echo", &number])
                        .success()
                        .trim(),
                    number
                );
            });
        }
    });
    assert_eq!(agent.run(&["ps", "-aq"]).success(), "");
}

#[test]
fn images_are_listed_tagged_and_removed() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    crate::load_busybox(&agent, "other:1");
    let listed = agent
        .run(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
        .success();
    let mut names: Vec<&str> = listed.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["busybox:latest", "other:1"]);
    agent
        .run(&["run", "-d", "--name", "user", "other:1", "sleep", "1000"])
        .success();
    let text = agent.run(&["rmi", "other:1"]).fails_with(1);
    assert!(text.contains("conflict"), "{text}");
    agent.run(&["rm", "-f", "user"]).success();
    assert!(
        agent
            .run(&["rmi", "other:1"])
            .success()
            .contains("Untagged: other:1")
    );
    let text = agent
        .run(&["run", "--pull", "never", "--rm", "other:1"])
        .fails_with(125);
    assert!(text.contains("No such image: other:1"), "{text}");
}
