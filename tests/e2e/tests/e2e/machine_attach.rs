//! A machine that somebody else made: its certificates are handed over, and a store of another user has it as its own.

use harness::agent::{Agent, loopback_url};
use harness::machine::Store;
use harness::programs::program;
use harness::run::run;
use std::path::Path;
use std::process::Command;

/// The engine of `given`, which keeps it under the name `theirs`.
fn made_elsewhere(given: &Store) -> Option<(Agent, String)> {
    let url = loopback_url();
    let line = ["create", "-d", "none", "--url", &url, "theirs"];
    given.run(&line).success();
    let agent = Agent::start_for_store(program("host-agent"), given.path(), &url)?;
    Some((agent, url))
}

fn certificates(store: &Store) -> String {
    store.folder_of("theirs").display().to_string()
}

#[test]
fn a_machine_made_elsewhere_is_used_as_ones_own() {
    let (given, ours) = (Store::new(), Store::new());
    let Some((agent, url)) = made_elsewhere(&given) else {
        return;
    };
    let certs = certificates(&given);
    let line = ["attach", "far", &url, "--certs", &certs];
    let said = ours.run(&line).success();
    assert!(said.contains("\"far\" is attached"), "{said}");

    // A name that is in use stays what it is.
    let again = ours.run(&line).fails_with(1);
    assert!(again.contains("far"), "{again}");
    assert_eq!(ours.run(&["status", "far"]).success(), "Running\n");

    // What was given may go: this store has its own copy.
    std::fs::remove_dir_all(given.folder_of("theirs")).expect("their folder");
    assert_eq!(ours.run(&["url", "far"]).success(), format!("{url}\n"));
    assert_eq!(ours.run(&["status", "far"]).success(), "Running\n");
    let listed = ours.run(&["ls"]).success();
    assert!(
        listed.contains(&url) && listed.contains("Running") && !listed.contains("Unknown"),
        "{listed}"
    );
    let config = ours.run(&["config", "far"]).success();
    let own = ours.folder_of("far").join("cert.pem").display().to_string();
    assert!(config.contains(&own), "{config}");
    let version = ours.berth("far", &["version"]).success();
    assert!(version.contains("Server"), "{version}");

    // It keeps its certificates on the way to a third computer.
    let file = ours.path().join("far.tar").display().to_string();
    ours.run(&["export", "--keys", "-o", &file, "far"])
        .success();
    let third = Store::new();
    third.run(&["import", &file, "again"]).success();
    assert_eq!(third.run(&["status", "again"]).success(), "Running\n");

    // Forgetting it does nothing to the engine.
    ours.run(&["rm", "-y", "far"]).success();
    assert!(!ours.folder_of("far").exists());
    run(&mut agent.berth(&["version"]), harness::agent::LIMIT).success();
    assert_eq!(third.run(&["status", "again"]).success(), "Running\n");
}

#[test]
fn certificates_of_somebody_else_attach_nothing() {
    let (given, stranger, ours) = (Store::new(), Store::new(), Store::new());
    let Some((_agent, url)) = made_elsewhere(&given) else {
        return;
    };
    let line = ["create", "-d", "none", "--url", &url, "theirs"];
    stranger.run(&line).success();
    let listed = stranger.run(&["ls"]).success();
    assert!(
        listed.contains("Unknown") && listed.contains("certificate"),
        "{listed}"
    );
    let certs = certificates(&stranger);
    let refused = ours
        .run(&["attach", "far", &url, "--certs", &certs])
        .fails_with(1);
    assert!(
        refused.contains("cannot attach \"far\"") && refused.contains(&certs),
        "{refused}"
    );
    assert!(!refused.contains("machine restart"), "{refused}");
    assert!(!ours.folder_of("far").exists());
    let none = ours.path().join("home").display().to_string();
    let refused = ours
        .run(&["attach", "far", &url, "--certs", &none])
        .fails_with(1);
    assert!(refused.contains("ca.pem"), "{refused}");
    assert!(!ours.folder_of("far").exists());
}

/// The scripts of docker-machine's users, and GitLab Runner's calls, under docker-machine's name.
#[test]
fn scripts_for_docker_machine_go_on_working() {
    let store = Store::new();
    let url = loopback_url();
    let bin = tempfile::tempdir().expect("a folder");
    let program = store.machine(&[]).get_program().to_owned();
    std::os::unix::fs::symlink(program, bin.path().join("docker-machine")).expect("a link");
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        let old = std::env::var("PATH").unwrap_or_default();
        command
            .args(["-euc", script])
            .env("PATH", format!("{}:{old}", bin.path().display()))
            .env("MACHINE_STORAGE_PATH", store.path())
            .env("HOME", store.home())
            .env("SHELL", "/bin/sh")
            .env("URL", &url)
            .env_remove("DOCKER_HOST")
            .env_remove("MACHINE_DRIVER");
        run(&mut command, harness::agent::LIMIT)
    };
    shell("docker-machine --bugsnag-api-token=no-report create --driver none --url=$URL ci")
        .success();
    let Some(_agent) =
        Agent::start_for_store(harness::programs::program("host-agent"), store.path(), &url)
    else {
        return;
    };
    let said = shell(
        r#"
        docker-machine config ci > /dev/null
        test "$(docker-machine url ci)" = "$URL"
        test "$(docker-machine status ci)" = Running
        test "$(docker-machine ls -q)" = ci
        test "$(docker-machine ls -f '{{.Name}} {{.DriverName}}')" = "ci none"
        test "$(docker-machine ls --filter driver=none --filter name=^c -q)" = ci
        test -z "$(docker-machine ls --filter name=^x -q)"
        test "$(docker-machine inspect -f '{{.Name}}' ci)" = ci
        folder=$(docker-machine inspect ci -f '{{.HostOptions.AuthOptions.StorePath}}')
        test -f "$folder/config.json" -a -f "$folder/ca.pem" -a -f "$folder/cert.pem" -a -f "$folder/key.pem"
        eval $(docker-machine env ci)
        test "$DOCKER_HOST" = "$URL" -a "$DOCKER_TLS_VERIFY" = 1 -a "$DOCKER_MACHINE_NAME" = ci
        test "$DOCKER_CERT_PATH" -ef "$folder"
        test "$(docker-machine active)" = ci
        eval $(docker-machine env -u)
        test -z "${DOCKER_HOST:-}" -a -z "${DOCKER_MACHINE_NAME:-}"
        if docker-machine create -d none --url "$URL" ci 2> /dev/null; then exit 9; fi
        if docker-machine status gone 2> /dev/null; then exit 9; fi
        docker-machine version ci > /dev/null
        docker-machine rm -y ci
        test -z "$(docker-machine ls -q)"
        if docker-machine rm -y ci 2> /dev/null; then exit 9; fi
        echo done
        "#,
    )
    .success();
    assert!(said.ends_with("done\n"), "{said}");
    assert!(!Path::new(&store.folder_of("ci")).exists());
}
