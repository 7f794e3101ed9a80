//! What shells get: variables, completion, manual pages.

use super::*;

/// What `use` runs has the variables.
#[cfg(unix)]
#[test]
fn a_command_for_a_machine() {
    let bench = bench();
    let (stdout, _) = bench.run(&["machine create dev", "machine use dev -- env"]);
    for variable in [
        "DOCKER_TLS_VERIFY=1",
        "DOCKER_HOST=tcp://127.0.0.1:",
        "DOCKER_MACHINE_NAME=dev",
        "DOCKER_CERT_PATH=[FOLDER]/store/machines/dev",
    ] {
        assert!(stdout.contains(variable), "{variable} in {stdout}");
    }
}

/// At the press of a key, machines' names are offered.
#[test]
fn completion_knows_machines() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "machine create dev",
        "machine create web",
        "machine completion bash",
    ]);
    assert!(
        stdout.contains("MACHINE_COMPLETE") && stderr.is_empty(),
        "{stdout}{stderr}"
    );
    let mut command = Command::new(machine_program());
    bench.environment(&mut command);
    let output = command
        .env("MACHINE_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", "2")
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "false")
        .env("_CLAP_IFS", "\n")
        .args(["--", "machine", "stop", ""])
        .output()
        .unwrap();
    let offered = String::from_utf8(output.stdout).unwrap();
    assert!(
        offered.lines().any(|line| line == "dev") && offered.lines().any(|line| line == "web"),
        "{offered}"
    );
}

#[test]
fn manual_pages() {
    let bench = bench();
    let folder = bench.folder.path().join("man");
    let (_, stderr) = bench.run(&[&format!("machine man {}", folder.display())]);
    assert_eq!(stderr, "");
    let page = std::fs::read_to_string(folder.join("machine-create.1")).unwrap();
    assert!(page.contains("engine\\-registry\\-mirror"), "{page}");
    assert!(folder.join("machine.1").exists());
}

#[test]
fn env_of_a_stopped_machine() {
    let bench = bench();
    let (stdout, stderr) = bench.run(&[
        "machine create dev",
        "machine stop dev",
        "machine env dev",
        "machine config dev",
        "machine ip dev",
        "machine url dev",
        "machine ssh dev",
    ]);
    assert_eq!(stdout.matches("-> 1").count(), 5, "{stdout}");
    let expected = "Error: machine \"dev\" is not running (it is Stopped)\nHint: start it: machine start dev\n";
    assert_eq!(stderr, expected.repeat(5));
    assert!(!stdout.contains("export"), "{stdout}");
}

/// Cron and CI set no SHELL; what evaluates the lines there is `sh`.
#[cfg(unix)]
#[test]
fn env_without_shell_is_for_sh() {
    let bench = bench();
    let mut command = bench.command(&["machine create dev", "machine env dev"]);
    let (stdout, _) = bench.told(command.env_remove("SHELL").output().unwrap());
    assert!(stdout.contains("export DOCKER_HOST="), "{stdout}");
}
