//! Debian's docker-compose (1.29) builds and brings up a project, scales it, restarts it and takes it down.

use e2e::arena::{self, Arena, Kind};
use harness::agent::LIMIT;
use harness::http::request;
use harness::programs::{find, workspace};
use harness::run::{Output, eventually, run};
use std::path::Path;
use std::time::Duration;

#[test]
fn compose_brings_up_scales_restarts_and_takes_down_a_project() {
    let why = arena::obstacle().or_else(|| {
        find("docker-compose")
            .is_none()
            .then(|| "there is no docker-compose here".to_owned())
    });
    if let Some(why) = why {
        println!("skipped: {why}");
        return;
    }
    let helper = Path::new(env!("CARGO_BIN_EXE_compat"));
    let arena = Arena::start(Kind::Berth, helper).expect("an arena");
    let compose = |arguments: &[&str]| -> Output {
        let mut command = arena.command("docker-compose");
        command
            .args(["--project-name", "site", "--no-ansi"])
            .args(arguments)
            .current_dir(workspace().join("tests/e2e/compat/compose"))
            .env("DOCKER_CONFIG", "/nowhere")
            .env("COMPOSE_HTTP_TIMEOUT", "110");
        run(&mut command, LIMIT)
    };
    let built = compose(&["build", "--force-rm"]).success();
    assert!(
        built.contains("Successfully tagged site_web:latest"),
        "{built}"
    );
    // Everything in order: the worker makes the number, the database is healthy when it can hand it out, the server shows it.
    compose(&["up", "-d"]).success();
    let page = |what: &str| {
        let address = compose(&["port", "web", "80"]).success();
        eventually(what, Duration::from_secs(60), || {
            let mut fetch = arena.command("curl");
            fetch.args(["-s", "--max-time", "5", address.trim()]);
            let page = run(&mut fetch, LIMIT).stdout;
            (page == "42\n").then_some(())
        });
    };
    page("the site answers");
    let running = compose(&["ps", "--services", "--filter", "status=running"]).success();
    let mut running: Vec<&str> = running.lines().collect();
    running.sort_unstable();
    assert_eq!(running, ["database", "web", "worker"]);
    let said = compose(&["exec", "-T", "database", "sh", "-c", "echo $COLOUR"]).success();
    assert_eq!(said, "blue\n");

    compose(&["up", "-d", "--scale", "worker=3"]).success();
    assert_eq!(
        compose(&["ps", "-q", "worker"]).success().lines().count(),
        3
    );
    compose(&["up", "-d", "--scale", "worker=1"]).success();
    assert_eq!(
        compose(&["ps", "-q", "worker"]).success().lines().count(),
        1
    );

    compose(&["restart", "-t", "1"]).success();
    page("the site answers after a restart");
    let before = compose(&["ps", "-q"]).success();
    compose(&["up", "-d"]).success();
    assert_eq!(
        compose(&["ps", "-q"]).success(),
        before,
        "nothing has changed"
    );
    compose(&["run", "--rm", "-T", "worker", "cat", "/data/number.html"]).success();
    let logs = compose(&["logs", "--no-color", "--tail", "5"]);
    assert_eq!(logs.code, Some(0), "{}", logs.report());

    compose(&["down", "-v", "-t", "1"]).success();
    for (path, left) in [
        ("/containers/json?all=1", "[]"),
        ("/volumes", "\"Volumes\":[]"),
    ] {
        let answer = request(&arena.socket(), "GET", path, b"").expect("an answer");
        assert!(answer.body.contains(left), "{path}: {}", answer.body);
    }
    let networks = request(&arena.socket(), "GET", "/networks", b"").expect("an answer");
    assert!(!networks.body.contains("site_"), "{}", networks.body);
}
