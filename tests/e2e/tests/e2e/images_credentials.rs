//! Signing in: what the clients remember of it, in a file or by a helper, and that the engine remembers nothing.

use crate::images::engine_and_registry;
use harness::agent::LIMIT;
use harness::registry::{PASSWORD, Registry, USER};
use harness::run::{run, run_with_input};
use std::path::Path;
use std::process::Command;

#[test]
fn signing_in_is_remembered_by_the_file_or_a_helper() {
    let Some((agent, registry)) = engine_and_registry(&[]) else {
        return;
    };
    let host = registry.host();
    let folder = agent.folder().join("client");
    std::fs::create_dir_all(&folder).expect("made");
    let config = folder.join("config.json");
    let login = || {
        let mut command = agent.berth(&["login", "--username", "me", "--password-stdin", &host]);
        command.env("PATH", path_with(&folder));
        run_with_input(&mut command, b"secret\n", LIMIT).success()
    };
    assert_eq!(login(), "Login Succeeded\n");
    let text = std::fs::read_to_string(&config).expect("written");
    assert!(
        text.contains(&host) && text.contains("bWU6c2VjcmV0"),
        "{text}"
    );
    let said = agent.run(&["logout", &host]).success();
    assert_eq!(said, format!("Removing login credentials for {host}\n"));
    assert_eq!(
        agent.run(&["logout", &host]).success(),
        format!("Not logged in to {host}\n")
    );
    assert!(
        !std::fs::read_to_string(&config)
            .expect("there")
            .contains("bWU6")
    );

    add_credential_helper(&folder, "test");
    std::fs::write(&config, r#"{"credsStore": "test"}"#).expect("written");
    assert_eq!(login(), "Login Succeeded\n");
    let kept = std::fs::read_to_string(folder.join("kept")).expect("kept");
    assert!(
        kept.contains("\"Secret\":\"secret\"") && kept.contains(&host),
        "{kept}"
    );
    assert!(
        !std::fs::read_to_string(&config)
            .expect("there")
            .contains("bWU6")
    );
    let mut logout = agent.berth(&["logout", &host]);
    logout.env("PATH", path_with(&folder));
    run(&mut logout, LIMIT).success();
    assert!(!folder.join("kept").exists());
}

/// Makes a program `docker-credential-NAME` in a folder: it keeps one secret in the file `kept` beside it, and writes what
/// it is asked into the file `asked`.
fn add_credential_helper(folder: &Path, name: &str) {
    let script = r#"#!/bin/sh
here=$(dirname "$0")
input=$(cat)
echo "$1 $input" >> "$here/asked"
case $1 in
store) printf %s "$input" > "$here/kept";;
get) cat "$here/kept" 2>/dev/null || { echo credentials not found in native keychain; exit 1; };;
erase) rm -f "$here/kept";;
esac
"#;
    let program = folder.join(format!("docker-credential-{name}"));
    std::fs::write(&program, script).expect("written");
    std::fs::set_permissions(
        &program,
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("executable");
}

#[test]
fn a_credential_helper_opens_a_registry_for_both_clients() {
    let Some(agent) = crate::engine_with_busybox(&[]) else {
        return;
    };
    if !Registry::is_available_or_skip() {
        return;
    }
    let registry = Registry::start_with_password().expect("a registry");
    let host = registry.host();
    let name = format!("{host}/team/helped:1");
    agent.run(&["tag", "busybox", &name]).success();
    let folder = agent.folder().join("client");
    std::fs::create_dir_all(&folder).expect("made");
    let (config, asked) = (folder.join("config.json"), folder.join("asked"));
    add_credential_helper(&folder, "something");
    let with_helper = |mut command: Command| {
        command.env("PATH", path_with(&folder));
        command
    };
    type Client<'a> = Box<dyn Fn(&[&str]) -> Option<Command> + 'a>;
    let clients: [Client; 2] = [
        Box::new(|words| Some(with_helper(agent.berth(words)))),
        Box::new(|words| agent.docker(words).map(&with_helper)),
    ];
    for client in &clients {
        let run_client = |words: &[&str]| client(words).map(|mut command| run(&mut command, LIMIT));
        // A helper for this registry only.
        let helpers = serde_json::json!({"credHelpers": {&host: "something"}});
        std::fs::write(&config, helpers.to_string()).expect("written");
        let Some(refused) = run_client(&["push", &name]) else {
            continue;
        };
        let refused = refused.fails_with(1);
        assert!(refused.contains("no basic auth credentials"), "{refused}");
        let kept = serde_json::json!({"ServerURL": host, "Username": USER, "Secret": PASSWORD});
        std::fs::write(folder.join("kept"), kept.to_string()).expect("written");
        run_client(&["push", &name]).expect("it is here").success();
        agent.run(&["rmi", &name]).success();
        let _ = std::fs::remove_file(&asked);
        run_client(&["pull", &name]).expect("it is here").success();
        let told = std::fs::read_to_string(&asked).expect("asked");
        assert!(
            told.lines().all(|line| line == format!("get {host}")) && !told.is_empty(),
            "{told}"
        );

        // One for all registries: signing in and out goes through it.
        std::fs::write(&config, r#"{"credsStore": "something"}"#).expect("written");
        std::fs::remove_file(folder.join("kept")).expect("kept");
        let login = ["login", "--username", USER, "--password-stdin", &host];
        let mut command = client(&login).expect("it is here");
        let said = run_with_input(&mut command, PASSWORD.as_bytes(), LIMIT).success();
        assert!(said.contains("Login Succeeded"), "{said}");
        let text = std::fs::read_to_string(&config).expect("there");
        assert!(!text.contains("\"auth\""), "{text}");
        run_client(&["pull", &name]).expect("it is here").success();
        run_client(&["logout", &host])
            .expect("it is here")
            .success();
        let told = std::fs::read_to_string(&asked).expect("asked");
        for verb in ["store ", "erase "] {
            assert!(told.lines().any(|line| line.starts_with(verb)), "{told}");
        }
        assert!(!folder.join("kept").exists());
        run_client(&["pull", &name])
            .expect("it is here")
            .fails_with(1);
    }
}

/// Whether a text is in any file below a folder.
fn is_somewhere(folder: &Path, text: &str) -> bool {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => {
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    // The standard library's search is quick in a debug build, too.
                    if String::from_utf8_lossy(&bytes).contains(text) {
                        println!("{text} is in {}", path.display());
                        return true;
                    }
                }
                _ => {}
            }
        }
    }
    false
}

#[test]
fn a_registry_with_a_password_is_entered_with_it_and_the_engine_keeps_nothing() {
    let Some(agent) = crate::engine_with_busybox(&["--log-level=debug"]) else {
        return;
    };
    if !Registry::is_available_or_skip() {
        return;
    }
    let registry = Registry::start_with_password().expect("a registry");
    let host = registry.host();
    let name = format!("{host}/team/secret:1");
    agent.run(&["tag", "busybox", &name]).success();
    let refused = agent.run(&["push", &name]).fails_with(1);
    assert!(refused.contains("no basic auth credentials"), "{refused}");
    let login = |password: &str| {
        let words = ["login", "--username", USER, "--password-stdin", &host];
        let mut client = agent.docker(&words).unwrap_or_else(|| agent.berth(&words));
        run_with_input(&mut client, password.as_bytes(), LIMIT)
    };
    let wrong = login("wrong");
    assert_eq!(wrong.code, Some(1), "{}", wrong.report());
    assert!(wrong.stderr.contains("unauthorized"), "{}", wrong.report());
    assert!(login(PASSWORD).success().contains("Login Succeeded"));
    agent.run(&["push", &name]).success();
    agent.run(&["rmi", &name]).success();
    agent.run(&["pull", &name]).success();
    // The stock client, too, and what only asks.
    if let Some(mut docker) = agent.docker(&["pull", &name]) {
        run(&mut docker, LIMIT).success();
    }
    let found = agent.run(&["search", &format!("{host}/sec")]).success();
    assert!(found.contains("team/secret"), "{found}");
    agent.run(&["logout", &host]).success();
    agent.run(&["rmi", &name]).success();
    agent.run(&["pull", &name]).fails_with(1);
    // `ada:pass-word-of-ada` in base64, as the header has it.
    let encoded = "YWRhOnBhc3Mtd29yZC1vZi1hZGE";
    for secret in [PASSWORD, encoded] {
        assert!(!agent.log().contains(secret));
        assert!(!is_somewhere(&agent.data_root(), secret));
        assert!(!is_somewhere(&agent.exec_root(), secret));
    }
}

fn path_with(folder: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", folder.display())
}
