//! The judges' suites by hand: `cargo xtask compat record|run`.

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use e2e::arena::{Arena, Kind};
use e2e::outcomes::{Exceptions, Outcome, Record, compare};
use e2e::{fixtures, judge, shapes};

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
    /// Run a suite, or some of its files or tests (FILE::Class::test), on our engine and compare
    Run { suite: String, what: Vec<String> },
    /// Serve the suites' images until standard input ends
    #[command(hide = true)]
    Fixtures,
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Record { suite } if suite == shapes::NAME => record_shapes(),
        Task::Record { suite } => record(&suite),
        Task::Run { suite, .. } if suite == shapes::NAME => compare_shapes(),
        Task::Run { suite, what } => run(&suite, what),
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

fn record(name: &str) -> Result<()> {
    let judge = judge::fetch(name)?;
    let arena = arena(Kind::Dockerd)?;
    let runs = judge::run(judge.as_ref(), &arena, &judge.files()?, |_| true)?;
    let record = Record::new(judge.title(), "dockerd 20.10 (Debian 12), API 1.41", &runs);
    let path = record.write(name)?;
    let passed = runs
        .values()
        .filter(|run| run.outcome == Outcome::Passed)
        .count();
    println!("{}: {passed} tests pass", path.display());
    Ok(())
}

fn run(name: &str, mut what: Vec<String>) -> Result<()> {
    let record = Record::read(name)?;
    let exceptions = Exceptions::read(name)?;
    if what.is_empty() {
        what = record.tests.keys().cloned().collect();
    }
    let judge = judge::fetch(name)?;
    let arena = arena(Kind::Berth)?;
    let runs = judge::run(judge.as_ref(), &arena, &what, |test| !exceptions.has(test))?;
    print!(
        "{}",
        compare(&record, &exceptions, &what, &runs).report(name)
    );
    Ok(())
}

fn record_shapes() -> Result<()> {
    let seen = shapes::of(&arena(Kind::Dockerd)?)?;
    println!("{}", shapes::write(&seen)?.display());
    Ok(())
}

fn compare_shapes() -> Result<()> {
    let recorded = shapes::read()?;
    let seen = shapes::of(&arena(Kind::Berth)?)?;
    let differences = shapes::differences(&recorded, &seen);
    let (unexplained, unused) = shapes::unexplained(&differences, &Exceptions::read(shapes::NAME)?);
    for difference in &unexplained {
        println!("{difference}");
    }
    for pattern in unused {
        println!("no difference (any more): {pattern}");
    }
    println!("{} differences without a reason", unexplained.len());
    Ok(())
}
