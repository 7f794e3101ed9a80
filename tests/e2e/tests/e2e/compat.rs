//! The stock docker client sees no difference.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::run::{Output, run, run_with_input};

fn docker(agent: &Agent, arguments: &[&str]) -> Option<Output> {
    Some(run(&mut agent.docker(arguments)?, LIMIT))
}

#[test]
fn docker_runs_lists_and_removes() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let Some(version) = docker(&agent, &["version", "--format", "{{.Server.APIVersion}}"]) else {
        return;
    };
    assert_eq!(version.success().trim(), "1.51");
    let docker = |arguments: &[&str]| docker(&agent, arguments).expect("it was there a moment ago");
    docker(&["info"]).success();
    assert_eq!(
        docker(&["run", "--rm", "busybox", "echo", "hello"]).success(),
        "hello\n"
    );
    docker(&["run", "--rm", "busybox", "sh", "-c", "exit 7"]).fails_with(7);
    docker(&["run", "--rm", "busybox", "nope"]).fails_with(127);
    docker(&[
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
    assert_eq!(
        docker(&["ps", "--format", "{{.Names}} {{.Image}} {{.State}}"]).success(),
        "web busybox running\n"
    );
    assert!(
        docker(&["port", "web"])
            .success()
            .starts_with("80/tcp -> 127.0.0.1:")
    );
    assert_eq!(
        docker(&["exec", "web", "echo", "inside"]).success(),
        "inside\n"
    );
    assert_eq!(
        docker(&[
            "exec",
            "-w",
            "/tmp",
            "-u",
            "1000",
            "web",
            "sh",
            "-c",
            "pwd; id -u"
        ])
        .success(),
        "/tmp\n1000\n"
    );
    assert!(docker(&["top", "web"]).success().contains("sleep 1000"));
    for (arguments, title, row) in [
        (&["-eo", "pid,comm"][..], "PID COMMAND", "sleep"),
        (&["axo", "user,pid,args"], "USER PID COMMAND", "sleep 1000"),
        (
            &["-C", "sleep", "-o", "pid=PID,etime=Age,ni"],
            "PID Age NI",
            "00:",
        ),
    ] {
        let shown = docker(&[&["top", "web"], arguments].concat()).success();
        let (head, rows) = shown.split_once('\n').expect("titles and rows");
        let head: Vec<&str> = head.split_whitespace().collect();
        assert_eq!(head.join(" "), title);
        assert!(rows.contains(row), "{arguments:?}: {shown}");
    }
    let refused = docker(&["top", "web", "-o", "comm"]);
    assert!(
        refused
            .stderr
            .contains("Couldn't find PID field in ps output"),
        "{}",
        refused.report()
    );
    docker(&["rename", "web", "site"]).success();
    assert_eq!(
        docker(&["inspect", "-f", "{{.Name}} {{.State.Running}}", "site"]).success(),
        "/site true\n"
    );
    docker(&["restart", "-t", "0", "site"]).success();
    docker(&["stop", "-t", "0", "site"]).success();
    assert_eq!(docker(&["wait", "site"]).success(), "137\n");
    docker(&["rm", "site"]).success();
    docker(&["volume", "create", "data"]).success();
    assert_eq!(docker(&["volume", "ls", "-q"]).success(), "data\n");
    docker(&["volume", "rm", "data"]).success();
    assert!(
        docker(&["network", "ls", "--format", "{{.Name}}"])
            .success()
            .contains("bridge")
    );
}

#[test]
fn docker_streams_both_ways() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let Some(mut command) = agent.docker(&[
        "run",
        "-i",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "cat; echo end >&2",
    ]) else {
        return;
    };
    let output = run_with_input(&mut command, b"through and back\n", LIMIT);
    assert_eq!(
        (output.stdout.as_str(), output.stderr.as_str()),
        ("through and back\n", "end\n"),
        "{}",
        output.report()
    );
    let mut attached = agent
        .docker(&["run", "-i", "--name", "kept", "busybox", "cat"])
        .expect("docker");
    run_with_input(&mut attached, b"one\ntwo\n", LIMIT).success();
    assert_eq!(
        docker(&agent, &["logs", "--tail", "1", "kept"])
            .expect("docker")
            .success(),
        "two\n"
    );
    let text = docker(&agent, &["logs", "-t", "kept"])
        .expect("docker")
        .success();
    assert!(
        text.lines()
            .all(|line| line.contains('T') && line.contains("Z ")),
        "{text}"
    );
}

#[test]
fn docker_saves_tags_and_loads_images() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let file = agent.folder().join("saved.tar");
    let file = file.to_string_lossy();
    let Some(tagged) = docker(&agent, &["tag", "busybox", "example.com/team/box:1"]) else {
        return;
    };
    tagged.success();
    let docker = |arguments: &[&str]| docker(&agent, arguments).expect("it was there a moment ago");
    let id = docker(&["images", "-q", "--no-trunc", "busybox"]).success();
    docker(&["save", "-o", &file, "example.com/team/box:1"]).success();
    docker(&["rmi", "example.com/team/box:1", "busybox"]).success();
    assert_eq!(docker(&["images", "-q"]).success(), "");
    assert!(
        docker(&["load", "-i", &file])
            .success()
            .contains("Loaded image: example.com/team/box:1")
    );
    assert_eq!(docker(&["images", "-q", "--no-trunc"]).success(), id);
    assert_eq!(
        docker(&["run", "--rm", "example.com/team/box:1", "echo", "again"]).success(),
        "again\n"
    );
}

#[test]
fn docker_follows_events() {
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    let Some(output) = docker(
        &agent,
        &["run", "--rm", "--name", "brief", "busybox", "true"],
    ) else {
        return;
    };
    output.success();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
        + 1;
    let format = "{{.Type}} {{.Action}} {{index .Actor.Attributes \"name\"}}";
    let arguments = [
        "events",
        "--since",
        "0",
        "--until",
        &now.to_string(),
        "--filter",
        "container=brief",
        "--format",
        format,
    ];
    let text = docker(&agent, &arguments).expect("docker").success();
    let actions: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("container "))
        .collect();
    for action in ["create brief", "start brief", "die brief", "destroy brief"] {
        assert!(actions.contains(&action), "{action}: {text}");
    }
}
