//! A suite that others wrote, and how it is run.

use crate::arena::Arena;
use crate::outcomes::{Outcome, Runs};
use crate::{bollard, docker_py};
use anyhow::{Result, bail};

/// A suite, fetched and ready to run.
pub trait Judge {
    /// Which suite in which version, for the record.
    fn title(&self) -> &'static str;

    /// Every file of tests.
    fn files(&self) -> Result<Vec<String>>;

    /// Runs files (`file`) or single tests (`file::test`).
    fn run(&self, arena: &Arena, what: &[String]) -> Result<Runs>;
}

/// All of them, by the name of their files in `tests/e2e/compat`.
pub const NAMES: &[&str] = &[docker_py::NAME, bollard::NAME];

/// Fetches what is not there yet.
pub fn fetch(name: &str) -> Result<Box<dyn Judge>> {
    match name {
        docker_py::NAME => Ok(Box::new(docker_py::DockerPy::fetch()?)),
        bollard::NAME => Ok(Box::new(bollard::Bollard::fetch()?)),
        other => bail!(
            "there is no suite {other:?}; there are {}",
            NAMES.join(", ")
        ),
    }
}

/// Runs some files' tests. What does not pass, though `retried` wants it, gets a second try: a machine busy with other
/// tests keeps some of them from their own limits.
pub fn run(
    judge: &dyn Judge,
    arena: &Arena,
    files: &[String],
    retried: impl Fn(&str) -> bool,
) -> Result<Runs> {
    let mut runs = judge.run(arena, files)?;
    let again: Vec<String> = runs
        .iter()
        .filter(|(test, run)| run.outcome != Outcome::Passed && retried(test))
        .map(|(test, _)| test.clone())
        .collect();
    if !again.is_empty() {
        for (test, second) in judge.run(arena, &again)? {
            if second.outcome == Outcome::Passed {
                runs.insert(test, second);
            }
        }
    }
    Ok(runs)
}
