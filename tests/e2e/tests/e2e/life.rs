//! The life of containers as users of the stock client see it: health, limits, restarts, streams.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::http::request;
use harness::programs::docker_is_old;
use harness::run::{Output, eventually, run};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SOON: Duration = Duration::from_secs(30);

/// The stock client where there is one, else ours: both must do for what is asked here.
fn docker(agent: &Agent, arguments: &[&str]) -> Output {
    let mut command = agent
        .docker(arguments)
        .unwrap_or_else(|| agent.berth(arguments));
    run(&mut command, LIMIT)
}

fn shown(agent: &Agent, container: &str, template: &str) -> String {
    let arguments = ["inspect", "--format", template, container];
    docker(agent, &arguments).success().trim().to_owned()
}

/// For `events --until`: clients cut the present down to whole seconds.
pub fn soon() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    (now.expect("after 1970").as_secs() + 1).to_string()
}

fn becomes(agent: &Agent, container: &str, template: &str, wanted: &str) {
    let mut last = String::new();
    let what = format!("{container}: {template} is {wanted}");
    eventually(&what, SOON, || {
        last = shown(agent, container, template);
        (last == wanted).then_some(())
    });
}

#[test]
fn health_is_watched_told_and_kept_over_the_engines_death() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let arguments = [
        "run",
        "-d",
        "--name",
        "web",
        "--health-cmd",
        "echo looking; test -f /ok",
        "--health-interval",
        "200ms",
        "--health-retries",
        "2",
        "busybox",
        "sleep",
        "1000",
    ];
    if agent.docker(&[]).is_none() {
        return; // ours has no flags for it
    }
    docker(&agent, &arguments).success();
    becomes(&agent, "web", "{{.State.Health.Status}}", "unhealthy");
    assert_eq!(
        shown(&agent, "web", "{{(index .State.Health.Log 0).Output}}"),
        "looking"
    );
    docker(&agent, &["exec", "web", "touch", "/ok"]).success();
    becomes(&agent, "web", "{{.State.Health.Status}}", "healthy");
    let listed = docker(&agent, &["ps", "--filter", "health=healthy"]).success();
    assert!(listed.contains("(healthy)"), "{listed}");
    let events = docker(
        &agent,
        &[
            "events",
            "--since",
            "0",
            "--until",
            &soon(),
            "--filter",
            "event=health_status",
        ],
    )
    .success();
    for status in ["unhealthy", "healthy"] {
        assert!(
            events.contains(&format!("health_status: {status}")),
            "{events}"
        );
    }
    agent.kill_serve();
    agent.serve();
    assert_eq!(shown(&agent, "web", "{{.State.Health.Status}}"), "healthy");
    docker(&agent, &["exec", "web", "rm", "/ok"]).success();
    becomes(&agent, "web", "{{.State.Health.Status}}", "unhealthy");

    // One that hangs is killed, and its process with it.
    let arguments = [
        "run",
        "-d",
        "--name",
        "slow",
        "--health-cmd",
        "exec sleep 777",
        "--health-interval",
        "100ms",
        "--health-timeout",
        "300ms",
        "--health-retries",
        "1",
        "busybox",
        "sleep",
        "1000",
    ];
    docker(&agent, &arguments).success();
    becomes(&agent, "slow", "{{.State.Health.Status}}", "unhealthy");
    let output = shown(&agent, "slow", "{{(index .State.Health.Log 0).Output}}");
    assert!(
        output.starts_with("Health check exceeded timeout (300ms)"),
        "{output}"
    );
    docker(&agent, &["pause", "slow"]).success();
    docker(&agent, &["unpause", "slow"]).success();
    docker(&agent, &["update", "--restart", "no", "slow"]).success();
    docker(&agent, &["stop", "-t", "0", "slow"]).success();
}

#[test]
fn what_a_container_uses_and_may_use() {
    let Some(mut agent) = engine_with_busybox(&[]) else {
        return;
    };
    let busy = "while :; do :; done";
    docker(
        &agent,
        &["run", "-d", "--name", "busy", "busybox", "sh", "-c", busy],
    )
    .success();
    docker(&agent, &["create", "--name", "idle", "busybox", "true"]).success();
    let template = "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}";
    let arguments = ["stats", "--no-stream", "--format", template, "busy", "idle"];
    for output in [
        docker(&agent, &arguments).success(),
        agent.run(&arguments).success(),
    ] {
        let line = |name: &str| -> Vec<&str> {
            let found = output.lines().find(|line| line.starts_with(name));
            found
                .unwrap_or_else(|| panic!("{output}"))
                .split(' ')
                .collect()
        };
        let percent: f64 = line("busy")[1]
            .trim_end_matches('%')
            .parse()
            .expect("a number");
        // On a busy computer it does not get its processor.
        assert!((2.0..150.0).contains(&percent), "{output}");
        assert_ne!(line("busy")[2], "0B", "{output}");
        assert_eq!(line("busy").last(), Some(&"1"), "{output}");
        assert_eq!(line("idle")[1], "0.00%", "{output}");
    }
    let limits = [
        "update",
        "--memory",
        "64m",
        "--memory-swap",
        "128m",
        "--cpus",
        "0.5",
        "busy",
    ];
    docker(&agent, &limits).success();
    let usage = docker(
        &agent,
        &["stats", "--no-stream", "--format", "{{.MemUsage}}", "busy"],
    );
    let usage = usage.success();
    assert!(
        usage.contains("/ 64MiB"),
        "the kernel has the new limit: {usage}"
    );
    agent.kill_serve();
    agent.serve();
    assert_eq!(shown(&agent, "busy", "{{.HostConfig.Memory}}"), "67108864");
    let refused = docker(&agent, &["update", "--memory", "256m", "busy"]).fails_with(1);
    assert!(
        refused.contains("update the memoryswap at the same time"),
        "{refused}"
    );
    // In the next run, too.
    docker(&agent, &["restart", "-t", "0", "busy"]).success();
    let usage = docker(
        &agent,
        &["stats", "--no-stream", "--format", "{{.MemUsage}}", "busy"],
    );
    let usage = usage.success();
    assert!(usage.contains("/ 64MiB"), "{usage}");
}

#[test]
fn restart_policies_count_and_give_up() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let arguments = [
        "run",
        "-d",
        "--name",
        "twice",
        "--restart",
        "on-failure:2",
        "busybox",
        "false",
    ];
    docker(&agent, &arguments).success();
    becomes(
        &agent,
        "twice",
        "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}",
        "exited 2 1",
    );
    let events = docker(
        &agent,
        &[
            "events",
            "--since",
            "0",
            "--until",
            &soon(),
            "--filter",
            "container=twice",
            "--format",
            "{{.Action}}",
        ],
    )
    .success();
    let count = |action: &str| events.lines().filter(|line| *line == action).count();
    assert_eq!((count("start"), count("die")), (3, 3), "{events}");
    let refused = docker(
        &agent,
        &[
            "run",
            "-d",
            "--rm",
            "--restart",
            "always",
            "busybox",
            "true",
        ],
    );
    assert_ne!(refused.code, Some(0));
}

#[test]
fn containers_are_stopped_with_their_signal_and_after_their_time() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let run = |flags: &[&str], script: &str| {
        let words: Vec<&str> = [&["run", "-d"], flags, &["busybox", "sh", "-c", script]].concat();
        docker(&agent, &words).success();
    };
    let asked = "trap 'echo told; exit 3' USR1; echo ready; while :; do sleep 0.1; done";
    run(&["--name", "asked", "--stop-signal", "USR1"], asked);
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    run(&["--name", "deaf", "--stop-timeout", "1"], deaf);
    for name in ["asked", "deaf"] {
        eventually("it runs", SOON, || {
            let said = docker(&agent, &["logs", name]).success();
            said.contains("ready").then_some(())
        });
        docker(&agent, &["stop", name]).success();
    }
    assert_eq!(shown(&agent, "asked", "{{.State.ExitCode}}"), "3");
    let said = docker(&agent, &["logs", "asked"]).success();
    assert_eq!(said, "ready\ntold\n");
    assert_eq!(shown(&agent, "deaf", "{{.State.ExitCode}}"), "137");
    // Between the signal and the end there was the time it asked for, and not the ten seconds of all others.
    let format = "{{.Action}} {{.TimeNano}}";
    let words = [
        "events",
        "--since",
        "0",
        "--until",
        &soon(),
        "--filter",
        "container=deaf",
    ];
    let words = [&words[..], &["--format", format]].concat();
    let events = docker(&agent, &words).success();
    let nanos = |action: &str| -> u64 {
        let line = events.lines().find(|line| line.starts_with(action));
        let number = line.and_then(|line| line.rsplit_once(' ')).expect("told").1;
        number.parse().expect("a number")
    };
    let waited = Duration::from_nanos(nanos("die ") - nanos("kill "));
    assert!(waited >= Duration::from_secs(1), "{waited:?}");
    assert!(waited < Duration::from_secs(9), "{waited:?}");
}

#[test]
fn a_restart_keeps_what_is_removed_at_its_end_and_a_kill_wakes_who_is_paused() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let script = "echo again >> /data/log; trap 'exit 3' TERM; while :; do sleep 0.1; done";
    let words = [
        "run", "--rm", "-d", "--name", "web", "-v", "/data", "busybox", "sh", "-c", script,
    ];
    if agent.docker(&[]).is_none() {
        return; // ours has no flags for it
    }
    docker(&agent, &words).success();
    let lines = |wanted: &str| {
        eventually("it has written", SOON, || {
            let look = ["exec", "web", "cat", "/data/log"];
            (docker(&agent, &look).stdout == wanted).then_some(())
        });
    };
    lines("again\n");
    docker(&agent, &["restart", "web"]).success();
    // With its anonymous volume.
    lines("again\nagain\n");

    docker(&agent, &["pause", "web"]).success();
    docker(&agent, &["kill", "-s", "TERM", "web"]).success();
    eventually("it has ended and is gone", SOON, || {
        let left = docker(&agent, &["ps", "-aq"]).success()
            + &docker(&agent, &["volume", "ls", "-q"]).success();
        left.is_empty().then_some(())
    });
}

#[test]
fn a_slow_start_is_looked_at_often_and_counts_no_failure() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let health = [
        "--health-cmd",
        "test -e /up",
        "--health-interval",
        "1h",
        "--health-retries",
        "1",
    ];
    let start = [
        "--health-start-period",
        "1h",
        "--health-start-interval",
        "100ms",
    ];
    let words = [&["run", "-d", "--name", "slow"][..], &health, &start].concat();
    let words = [&words[..], &["busybox", "sleep", "1000"]].concat();
    // With our client: Debian 12's does not know --health-start-interval.
    agent.run(&words).success();
    eventually("it was looked at three times", SOON, || {
        let looks = shown(&agent, "slow", "{{len .State.Health.Log}}");
        (looks.parse::<u32>().ok()? >= 3).then_some(())
    });
    let format = "{{.State.Health.Status}} {{.State.Health.FailingStreak}}";
    assert_eq!(shown(&agent, "slow", format), "starting 0");
    docker(&agent, &["exec", "slow", "touch", "/up"]).success();
    becomes(&agent, "slow", format, "healthy 0");
}

#[test]
fn a_start_takes_no_settings_and_one_that_fails_says_so_once() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    docker(&agent, &["create", "--name", "plain", "busybox", "true"]).success();
    let start = |body: &[u8]| {
        let path = "/v1.44/containers/plain/start";
        request(&agent.socket(), "POST", path, body).expect("an answer")
    };
    let refused = start(br#"{"Binds":["/:/host"]}"#);
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(
        refused.body.contains("non-empty request body"),
        "{}",
        refused.body
    );
    assert_eq!(start(b"{}").status, 204);
    // As people type it.
    let typed = "/containers/json?all=1&filters={\"name\":[\"plain\"]}";
    let listed = request(&agent.socket(), "GET", typed, b"").expect("an answer");
    assert!(listed.body.contains("/plain"), "{}", listed.body);
    let failed = docker(&agent, &["run", "--rm", "busybox", "nosuchprogram"]);
    assert_eq!(failed.code, Some(127));
    let told = failed.stderr.matches("nosuchprogram").count();
    assert_eq!(told, 1, "{}", failed.stderr);
}

#[test]
fn execs_end_as_dockers_do() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    docker(
        &agent,
        &["run", "-d", "--name", "web", "busybox", "sleep", "1000"],
    )
    .success();
    let missing = docker(&agent, &["exec", "-w", "/not/there", "web", "true"]).fails_with(126);
    assert!(missing.contains("chdir to cwd"), "{missing}");
    let no_such_program = if docker_is_old() { 126 } else { 127 };
    docker(&agent, &["exec", "web", "no-such-program"]).fails_with(no_such_program);
    docker(&agent, &["exec", "web", "/etc"]).fails_with(126);
    docker(&agent, &["exec", "web", "sh", "-c", "exit 7"]).fails_with(7);
    let env = docker(&agent, &["exec", "-e", "A=b", "web", "sh", "-c", "echo $A"]).success();
    assert_eq!(env, "b\n");
    docker(&agent, &["stop", "-t", "0", "web"]).success();
    let stopped = docker(&agent, &["exec", "web", "true"]);
    assert_ne!(stopped.code, Some(0));
    assert!(
        stopped.stderr.contains("is not running"),
        "{}",
        stopped.report()
    );
}

/// A hijacked connection, its head read.
fn hijack(agent: &Agent, path: &str, body: &str, headers: &str) -> UnixStream {
    let mut stream = UnixStream::connect(agent.socket()).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a time limit");
    let head = format!(
        "{path} HTTP/1.1\r\nHost: engine\r\nContent-Length: {}\r\nContent-Type: application/json\r\n{headers}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        answer.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    stream
}

const TCP: &str = "Connection: Upgrade\r\nUpgrade: tcp";

fn rest(mut stream: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the stream ends");
    bytes
}

#[test]
fn terminals_are_left_by_their_keys_and_go_on() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let create = r#"{"Image":"busybox","Cmd":["cat"],"Tty":true,"OpenStdin":true}"#;
    let created = request(
        &agent.socket(),
        "POST",
        "/containers/create?name=web",
        create.as_bytes(),
    );
    assert_eq!(created.expect("it answers").status, 201);
    docker(&agent, &["start", "web"]).success();
    let path = "POST /containers/web/attach?stream=1&stdin=1&stdout=1&detachKeys=ctrl-a,x";
    let mut one = hijack(&agent, path, "", TCP);
    let mut other = hijack(
        &agent,
        "POST /containers/web/attach?stream=1&stdout=1",
        "",
        TCP,
    );
    one.write_all(b"hello\n").expect("taken");
    let mut heard = [0; 5];
    one.read_exact(&mut heard).expect("the echo");
    one.write_all(b"\x01x").expect("taken");
    rest(one);
    other
        .read_exact(&mut heard)
        .expect("the other client hears it, too");
    assert_eq!(&heard, b"hello");
    assert_eq!(shown(&agent, "web", "{{.State.Running}}"), "true");

    let body = r#"{"Cmd":["cat"],"Tty":true,"AttachStdin":true,"AttachStdout":true,"DetachKeys":"ctrl-b"}"#;
    let made = request(
        &agent.socket(),
        "POST",
        "/containers/web/exec",
        body.as_bytes(),
    );
    let made = made.expect("it answers").body;
    let id = made.split('"').nth(3).expect("an id").to_owned();
    let start = r#"{"Detach":false,"Tty":true}"#;
    let mut exec = hijack(&agent, &format!("POST /exec/{id}/start"), start, TCP);
    exec.write_all(b"there\n").expect("taken");
    let mut echo = [0; 5];
    exec.read_exact(&mut echo).expect("its echo");
    exec.write_all(b"\x02").expect("taken");
    rest(exec);
    let inspected = request(&agent.socket(), "GET", &format!("/exec/{id}/json"), b"");
    let inspected = inspected.expect("it answers").body;
    assert!(inspected.contains("\"Running\":true"), "{inspected}");
    assert!(inspected.contains("\"DetachKeys\":\"Ag==\""), "{inspected}");
    let events = docker(
        &agent,
        &[
            "events",
            "--since",
            "0",
            "--until",
            &soon(),
            "--format",
            "{{.Action}}",
        ],
    )
    .success();
    for action in ["detach", "exec_detach"] {
        assert!(events.lines().any(|line| line == action), "{events}");
    }
    let bad = request(
        &agent.socket(),
        "POST",
        "/containers/web/attach?detachKeys=ctrl-xy",
        b"",
    );
    let bad = bad.expect("it answers");
    assert_eq!(bad.status, 400);
    assert!(
        bad.body.contains("Invalid detach keys (ctrl-xy) provided"),
        "{}",
        bad.body
    );
}

#[test]
fn a_websocket_is_as_good_as_a_hijacked_connection() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    docker(
        &agent,
        &[
            "run",
            "-d",
            "-i",
            "--name",
            "web",
            "busybox",
            "sh",
            "-c",
            "echo before; exec cat",
        ],
    )
    .success();
    eventually("it has written", SOON, || {
        docker(&agent, &["logs", "web"])
            .stdout
            .contains("before")
            .then_some(())
    });
    let headers = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let path = "GET /containers/web/attach/ws?logs=1&stream=1&stdin=1&stdout=1";
    let mut socket = hijack(&agent, path, "", headers);
    let message = |socket: &mut UnixStream| {
        let mut head = [0; 2];
        socket.read_exact(&mut head).expect("a frame");
        assert_eq!(head[0], 0x82, "a whole binary message");
        let mut data = vec![0; usize::from(head[1])];
        socket.read_exact(&mut data).expect("its data");
        String::from_utf8(data).expect("text")
    };
    assert_eq!(message(&mut socket), "before\n");
    // Text "hi\n", masked with zeros.
    socket
        .write_all(&[0x81, 0x83, 0, 0, 0, 0, b'h', b'i', b'\n'])
        .expect("taken");
    assert_eq!(message(&mut socket), "hi\n");
    socket.write_all(&[0x88, 0x80, 0, 0, 0, 0]).expect("taken");
    rest(socket);
    assert_eq!(shown(&agent, "web", "{{.State.Running}}"), "true");
    let plain = request(
        &agent.socket(),
        "GET",
        "/containers/web/attach/ws?stream=1",
        b"",
    );
    assert_eq!(plain.expect("it answers").status, 400);
}

#[test]
fn what_was_logged_reaches_a_client_that_only_wants_that() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    docker(
        &agent,
        &["run", "--name", "said", "busybox", "echo", "words"],
    )
    .success();
    let path = "POST /containers/said/attach?logs=1&stdout=1&stderr=1";
    let bytes = rest(hijack(&agent, path, "", TCP));
    assert_eq!(bytes, b"\x01\0\0\0\0\0\0\x06words\n");
}

#[test]
fn our_own_client_does_the_same() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let run = |arguments: &[&str]| agent.run(arguments);
    run(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:0:80",
        "busybox",
        "sleep",
        "1000",
    ])
    .fails_with(125);
    run(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1::80",
        "busybox",
        "sleep",
        "1000",
    ])
    .success();
    assert!(
        run(&["port", "web"])
            .success()
            .starts_with("80/tcp -> 127.0.0.1:")
    );
    assert!(
        run(&["port", "web", "80"])
            .success()
            .starts_with("127.0.0.1:")
    );
    run(&["port", "web", "81"]).fails_with(1);
    assert!(run(&["top", "web"]).success().contains("sleep 1000"));
    assert!(run(&["top", "web", "aux"]).success().starts_with("USER"));
    assert_eq!(run(&["pause", "web"]).success(), "web\n");
    assert!(run(&["ps"]).success().contains("(Paused)"));
    run(&["attach", "web"]).fails_with(1);
    assert_eq!(run(&["unpause", "web"]).success(), "web\n");
    run(&["rename", "web", "site"]).success();
    run(&["update", "--pids-limit", "20", "site"]).success();
    assert_eq!(shown(&agent, "site", "{{.HostConfig.PidsLimit}}"), "20");
    run(&["update", "site"]).fails_with(1);
    run(&[
        "run",
        "--name",
        "ended",
        "busybox",
        "sh",
        "-c",
        "echo words; exit 4",
    ])
    .fails_with(4);
    assert_eq!(run(&["start", "-a", "ended"]).fails_with(4), "words\n");
    let events = run(&["events", "--since", "1h", "--until", &soon()]).success();
    assert!(events.contains(" container rename "), "{events}");
    assert!(events.contains("oldName=/web"), "{events}");
    let pruned = run(&["container", "prune", "-f"]).success();
    assert!(pruned.contains("Deleted Containers:"), "{pruned}");
    assert!(run(&["ps", "-aq"]).success().lines().count() == 1);
}
