//! docker-py and testcontainers for Python see no difference. Their day is in the scripts in `tests/e2e/compat`.

use crate::engine_with_busybox;
use harness::agent::{Agent, LIMIT};
use harness::programs::{find, target, workspace};
use harness::run::run;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// What is installed; another list makes another environment.
const PACKAGES: &[&str] = &["docker==7.1.0", "testcontainers==4.15.0"];

/// Python with the packages, made on demand and kept in the target folder; `None`, with a line that says why, where it
/// cannot be had.
fn python() -> Option<PathBuf> {
    static READY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match READY.get_or_init(environment) {
        Ok(python) => Some(python.clone()),
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

fn environment() -> Result<PathBuf, String> {
    let python3 = find("python3").ok_or("there is no python3 here")?;
    let folder = target().join("compat-python");
    let python = folder.join("bin/python");
    let stamp = folder.join("berth-packages");
    let wanted = PACKAGES.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    let mut venv = Command::new(python3);
    venv.args(["-m", "venv"]).arg(&folder);
    let mut install = Command::new(&python);
    install
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(PACKAGES);
    for command in [&mut venv, &mut install] {
        let output = run(command, LIMIT);
        if output.code != Some(0) {
            let last = output.stderr.lines().last().unwrap_or("no reason given");
            return Err(format!("`{}` failed: {last}", output.words));
        }
    }
    std::fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(python)
}

/// Runs a script that must get to its end.
fn script(agent: &Agent, python: PathBuf, name: &str) {
    let path = workspace().join("tests/e2e/compat").join(name);
    let mut command = Command::new(python);
    command
        .arg(path)
        .env("DOCKER_HOST", agent.host())
        .env("DOCKER_CONFIG", agent.folder())
        .env("TESTCONTAINERS_RYUK_DISABLED", "true");
    for name in ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"] {
        command.env_remove(name);
    }
    let output = run(&mut command, LIMIT);
    let report = output.report();
    let stdout = output.success();
    for line in stdout.lines().filter(|line| line.starts_with("skipped: ")) {
        println!("{line}");
    }
    assert!(stdout.ends_with("done\n"), "{report}");
}

#[test]
fn docker_py_spends_a_day() {
    let Some(python) = python() else { return };
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    script(&agent, python, "docker_py.py");
}

#[test]
fn testcontainers_waits_for_a_server() {
    let Some(python) = python() else { return };
    let Some(agent) = engine_with_busybox(&[]) else {
        return;
    };
    script(&agent, python, "test_containers.py");
}
