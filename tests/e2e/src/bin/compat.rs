//! The judges' suites by hand: `cargo xtask compat record|run`.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use e2e::arena::{Arena, Kind};
use e2e::outcomes::{Exceptions, Outcome, Record, Runs, compare};
use e2e::{docker_py, fixtures};

/// The judges' suites.
#[derive(Parser)]
#[command(name = "cargo xtask compat", disable_version_flag = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a suite on a private dockerd (Debian's docker.io) and write down how each test ended
    Record { suite: String },
    /// Run a suite, or some of its files, on our engine and compare
    Run { suite: String, files: Vec<String> },
    /// Serve the suites' images until standard input ends
    #[command(hide = true)]
    Fixtures,
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Record { suite } => record(&suite),
        Task::Run { suite, files } => run(&suite, files),
        Task::Fixtures => fixtures::serve(),
    }
}

fn arena(kind: Kind) -> Result<Arena> {
    if let Some(why) = e2e::arena::obstacle() {
        bail!("{why}");
    }
    let helper = std::env::current_exe().context("find this program")?;
    Arena::start(kind, &helper)
}

fn record(suite: &str) -> Result<()> {
    let arena = arena(Kind::Dockerd)?;
    let engine = "dockerd 20.10 (Debian 12), API 1.41";
    let record = match suite {
        docker_py::NAME => {
            let suite = docker_py::Suite::fetch()?;
            let runs = suite.run(&arena, &suite.files()?, |_, _| true)?;
            Record::new(docker_py::SUITE, engine, &runs)
        }
        other => bail!("there is no suite {other:?}; there is {}", docker_py::NAME),
    };
    let path = record.write(suite)?;
    let passed = record
        .tests
        .values()
        .flat_map(|tests| tests.values())
        .filter(|outcome| **outcome == Outcome::Passed)
        .count();
    println!("{}: {passed} tests pass", path.display());
    Ok(())
}

fn run(name: &str, mut files: Vec<String>) -> Result<()> {
    let record = Record::read(name)?;
    let exceptions = Exceptions::read(name)?;
    if files.is_empty() {
        files = record.tests.keys().cloned().collect();
    }
    let arena = arena(Kind::Berth)?;
    let runs: Runs = match name {
        docker_py::NAME => {
            docker_py::Suite::fetch()?.run(&arena, &files, |test, _| !exceptions.has(test))?
        }
        other => bail!("there is no suite {other:?}; there is {}", docker_py::NAME),
    };
    print!("{}", compare(&record, &exceptions, &files, &runs).report(name));
    Ok(())
}
