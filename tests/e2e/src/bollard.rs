//! bollard's own integration tests, from its crate as the registry has it, run as they are.
//!
//! They speak the API's newest version, whatever the engine has; a proxy between them and the engine names the version
//! that dockerd 20.10 has, so that both engines can be asked the same.

use crate::arena::Arena;
use crate::judge::Judge;
use crate::outcomes::{Outcome, Run, Runs};
use crate::version_proxy::VersionProxy;
use crate::{fixtures, python};
use anyhow::{Context, Result, bail, ensure};
use harness::programs::workspace;
use harness::run::run;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// The names of its two files in `tests/e2e/compat`.
pub const NAME: &str = "bollard";

/// The version that the workspace has, too.
const VERSION: &str = "0.21.1";

/// What dockerd 20.10 has.
const API_VERSION: &str = "1.41";

/// Building everything from nothing on a busy machine.
const BUILD_LIMIT: Duration = Duration::from_secs(20 * 60);

/// The longest a single test may take; the longest takes 12 s on dockerd.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// The built suite: file's name and program.
pub struct Bollard {
    programs: BTreeMap<String, PathBuf>,
}

impl Bollard {
    /// Builds it where cargo has put its source; its own lock file says with what.
    pub fn fetch() -> Result<Bollard> {
        let _lock = python::lock(NAME)?;
        let manifest = manifest()?;
        let mut build = cargo();
        build
            .args(["test", "--no-run", "--tests", "--locked", "--quiet"])
            .args(["--features", "test_websocket,time"])
            .args(["--message-format", "json"])
            .arg("--manifest-path")
            .arg(&manifest)
            .arg("--target-dir")
            .arg(python::folder().join("bollard"))
            // Not the workspace: its settings are not the crate's.
            .current_dir("/")
            .env("CARGO_PROFILE_TEST_DEBUG", "0")
            .env("CARGO_PROFILE_DEV_DEBUG", "0");
        let output = run(&mut build, BUILD_LIMIT);
        ensure!(
            output.code == Some(0),
            "`{}` failed: {}",
            output.words,
            output.stderr.lines().last().unwrap_or("no reason given")
        );
        let mut programs = BTreeMap::new();
        for line in output.stdout.lines() {
            let message: Value = serde_json::from_str(line).context("read cargo's messages")?;
            let is_test = message["target"]["kind"][0] == "test";
            if let (true, Some(program), Some(name)) = (
                is_test,
                message["executable"].as_str(),
                message["target"]["name"].as_str(),
            ) {
                programs.insert(name.to_owned(), PathBuf::from(program));
            }
        }
        ensure!(!programs.is_empty(), "bollard's crate has no tests");
        Ok(Bollard { programs })
    }

    fn program(&self, file: &str) -> Result<&PathBuf> {
        self.programs
            .get(file)
            .with_context(|| format!("bollard has no tests {file:?}"))
    }

    /// `file::test` of all tests in a file.
    fn tests(&self, file: &str) -> Result<Vec<String>> {
        let output = run(Command::new(self.program(file)?).arg("--list"), TEST_LIMIT);
        ensure!(output.code == Some(0), "{}", output.report());
        Ok(output
            .stdout
            .lines()
            .filter_map(|line| line.strip_suffix(": test"))
            .map(|name| format!("{file}::{name}"))
            .collect())
    }
}

impl Judge for Bollard {
    fn title(&self) -> &'static str {
        "bollard 0.21.1"
    }

    fn files(&self) -> Result<Vec<String>> {
        Ok(self.programs.keys().cloned().collect())
    }

    fn run(&self, arena: &Arena, what: &[String]) -> Result<Runs> {
        let proxy = VersionProxy::start(&arena.socket(), API_VERSION)?;
        let mut runs = Runs::new();
        for item in what {
            let tests = match item.contains("::") {
                true => vec![item.clone()],
                false => self.tests(item)?,
            };
            for test in tests {
                let (file, name) = test.split_once("::").expect("a test of a file");
                let start = Instant::now();
                // One at a time, as bollard's own checks do: they share names of containers.
                let output = run(
                    arena
                        .command(self.program(file)?)
                        .args(["--exact", name, "--nocapture"])
                        .env(
                            "DOCKER_HOST",
                            format!("unix://{}", proxy.socket().display()),
                        )
                        .env("REGISTRY_HTTP_ADDR", fixtures::REGISTRY_NAME)
                        .env("REGISTRY_PASSWORD", "any")
                        .env("RUST_BACKTRACE", "0"),
                    TEST_LIMIT,
                );
                let outcome = match output.code {
                    Some(0) if output.stdout.contains("1 passed") => Outcome::Passed,
                    Some(0) => Outcome::Skipped,
                    _ => Outcome::Failed,
                };
                let seconds = start.elapsed().as_secs_f64();
                let reason = match (outcome, output.code) {
                    (Outcome::Passed, _) => String::new(),
                    (_, None) => format!("no end within {TEST_LIMIT:?}"),
                    _ => reason(&output.stderr),
                };
                let run = Run {
                    outcome,
                    seconds,
                    reason,
                };
                runs.insert(test, run);
            }
        }
        Ok(runs)
    }
}

/// What a panicking test says, without the hints around it.
fn reason(stderr: &str) -> String {
    let lines: Vec<&str> = stderr
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with("note: "))
        .collect();
    lines.join(" ")
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Where cargo unpacked the crate.
fn manifest() -> Result<PathBuf> {
    let mut metadata = cargo();
    metadata
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(workspace());
    let output = run(&mut metadata, BUILD_LIMIT);
    ensure!(output.code == Some(0), "{}", output.report());
    let metadata: Value = serde_json::from_str(&output.stdout).context("read cargo's metadata")?;
    for package in metadata["packages"].as_array().into_iter().flatten() {
        if package["name"] == NAME
            && package["version"] == VERSION
            && let Some(path) = package["manifest_path"].as_str()
        {
            return Ok(path.into());
        }
    }
    bail!("the workspace has no bollard {VERSION} (any more): record its suite again")
}
