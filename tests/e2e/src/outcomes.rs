//! Outcomes of a suite's tests: recorded on Docker's engine, found on ours, and what is between them.

use anyhow::{Context, Result};
use harness::programs::workspace;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// One test's run.
#[derive(Debug, Clone, Deserialize)]
pub struct Run {
    pub outcome: Outcome,
    #[serde(default)]
    pub seconds: f64,
    /// Why it did not pass; whole tracebacks.
    #[serde(default)]
    pub reason: String,
}

impl Run {
    /// The line of the reason that says most: pytest marks those of an exception with `E`.
    fn short_reason(&self) -> String {
        let lines = || {
            self.reason
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
        };
        let line = lines()
            .rfind(|line| line.starts_with("E  "))
            .or_else(|| lines().next_back());
        line.unwrap_or_default().chars().take(300).collect()
    }
}

/// Runs by the test's name: `file::name`.
pub type Runs = BTreeMap<String, Run>;

/// What a suite did on Docker's engine. Written by `cargo xtask compat record`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Which suite.
    pub suite: String,
    /// Which engine it ran on.
    pub engine: String,
    /// How long each file's tests took there, in seconds; by this they are shared out.
    pub seconds: BTreeMap<String, u32>,
    /// File, test, outcome.
    pub tests: BTreeMap<String, BTreeMap<String, Outcome>>,
}

impl Record {
    pub fn new(suite: &str, engine: &str, runs: &Runs) -> Record {
        let mut record = Record {
            suite: suite.to_owned(),
            engine: engine.to_owned(),
            ..Record::default()
        };
        let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
        for (test, run) in runs {
            let (file, name) = split(test);
            *seconds.entry(file.to_owned()).or_default() += run.seconds;
            let tests = record.tests.entry(file.to_owned()).or_default();
            tests.insert(name.to_owned(), run.outcome);
        }
        record.seconds = seconds
            .into_iter()
            .map(|(file, seconds)| (file, seconds.ceil() as u32))
            .collect();
        record
    }

    /// Reads `tests/e2e/compat/NAME.recorded.toml`.
    pub fn read(name: &str) -> Result<Record> {
        let path = path(name, "recorded");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "read {}: `cargo xtask compat record {name}` writes it",
                path.display()
            )
        })?;
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    /// Writes it.
    pub fn write(&self, name: &str) -> Result<PathBuf> {
        let path = path(name, "recorded");
        let text = format!(
            "# What this suite did on Docker's engine. Written by `cargo xtask compat record {name}`; not edited by hand.\n{}",
            toml::to_string(self)?
        );
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The files shared out in `shares` groups that take about as long as each other: always the same ones, because what
    /// runs before a test is part of its conditions.
    pub fn shares(&self, shares: usize) -> Vec<Vec<String>> {
        let mut files: Vec<(&String, u32)> = self
            .tests
            .keys()
            .map(|file| (file, self.seconds.get(file).copied().unwrap_or(1)))
            .collect();
        files.sort_by_key(|(_, seconds)| std::cmp::Reverse(*seconds));
        let mut groups = vec![(0u32, Vec::new()); shares];
        for (file, seconds) in files {
            let least = groups
                .iter_mut()
                .min_by_key(|(sum, _)| *sum)
                .expect("at least one share");
            least.0 += seconds;
            least.1.push(file.clone());
        }
        groups
            .into_iter()
            .map(|(_, mut files)| {
                files.sort();
                files
            })
            .collect()
    }
}

/// Tests that pass on Docker's engine and not on ours, with the reason.
#[derive(Debug, Default, Deserialize)]
pub struct Exceptions {
    #[serde(default)]
    pub exception: Vec<Exception>,
}

/// One reason and the tests it is for.
#[derive(Debug, Deserialize)]
pub struct Exception {
    pub reason: String,
    /// Names of tests; a `*` at the end stands for anything.
    pub tests: Vec<String>,
}

impl Exceptions {
    /// Reads `tests/e2e/compat/NAME.exceptions.toml`.
    pub fn read(name: &str) -> Result<Exceptions> {
        let path = path(name, "exceptions");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))
    }

    fn patterns(&self) -> impl Iterator<Item = &str> {
        self.exception
            .iter()
            .flat_map(|exception| exception.tests.iter().map(String::as_str))
    }

    /// Those of them that speak of none of these.
    pub fn unused(&self, names: &[String]) -> Vec<String> {
        let speaks = |pattern: &str| names.iter().any(|name| matches(pattern, name));
        let unused = self.patterns().filter(|pattern| !speaks(pattern));
        unused.map(str::to_owned).collect()
    }

    /// Whether one of them speaks of this test.
    pub fn has(&self, test: &str) -> bool {
        self.patterns().any(|pattern| matches(pattern, test))
    }
}

fn matches(pattern: &str, test: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => test.starts_with(start),
        None => pattern == test,
    }
}

/// What is between a recording and our runs.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Tests that passed on Docker's engine.
    pub passed_there: usize,
    /// Those of them that passed here, too.
    pub passed_here: usize,
    /// Passed there, not here, and nothing is said about it: name and why.
    pub unexplained: Vec<(String, String)>,
    /// Passed there, not here, with a reason listed.
    pub excepted: usize,
    /// Exceptions that are none (any more): all their tests pass, or there are no such tests.
    pub stale: Vec<String>,
}

/// Compares the tests of some files (`file`), or some of a file's (`file::Class`, `file::test`).
pub fn compare(record: &Record, exceptions: &Exceptions, what: &[String], runs: &Runs) -> Verdict {
    let mut verdict = Verdict::default();
    // By pattern: whether any of its tests fails here.
    let mut used: BTreeMap<&str, bool> = BTreeMap::new();
    let is_wanted = |test: &str| what.iter().any(|asked| covers(asked, test));
    for (file, tests) in &record.tests {
        for (name, there) in tests {
            let test = format!("{file}::{name}");
            if *there != Outcome::Passed || !is_wanted(&test) {
                continue;
            }
            verdict.passed_there += 1;
            let passes = runs
                .get(&test)
                .is_some_and(|run| run.outcome == Outcome::Passed);
            for pattern in exceptions.patterns() {
                if matches(pattern, &test) {
                    *used.entry(pattern).or_default() |= !passes;
                }
            }
            if passes {
                verdict.passed_here += 1;
            } else if exceptions.has(&test) {
                verdict.excepted += 1;
            } else {
                let why = match runs.get(&test) {
                    None => "it did not run or did not end".to_owned(),
                    Some(run) => format!("{:?}: {}", run.outcome, run.short_reason()),
                };
                verdict.unexplained.push((test, why));
            }
        }
    }
    for pattern in exceptions.patterns().filter(|pattern| is_wanted(pattern)) {
        if !used.get(pattern).copied().unwrap_or(false) {
            verdict.stale.push(pattern.to_owned());
        }
    }
    verdict
}

/// Whether a test is among what was asked for by a file's name, a class's or its own.
fn covers(asked: &str, test: &str) -> bool {
    let rest = test.strip_prefix(asked);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

impl Verdict {
    /// Whether there is nothing to say.
    pub fn is_clean(&self) -> bool {
        self.unexplained.is_empty() && self.stale.is_empty()
    }

    /// For people.
    pub fn report(&self, name: &str) -> String {
        let mut text = format!(
            "{name}: {} of the {} tests that pass on dockerd pass here, {} are excepted\n",
            self.passed_here, self.passed_there, self.excepted
        );
        for (test, why) in &self.unexplained {
            let _ = writeln!(text, "  passes on dockerd, not here: {test}\n      {why}");
        }
        for pattern in &self.stale {
            let _ = writeln!(
                text,
                "  passes now, or is no test: {pattern}: take it out of tests/e2e/compat/{name}.exceptions.toml"
            );
        }
        text
    }
}

fn split(test: &str) -> (&str, &str) {
    test.split_once("::").unwrap_or(("", test))
}

fn path(name: &str, kind: &str) -> PathBuf {
    workspace()
        .join("tests/e2e/compat")
        .join(format!("{name}.{kind}.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(outcome: Outcome) -> Run {
        Run {
            outcome,
            seconds: 1.0,
            reason: "first\nE   AssertionError: two\n".into(),
        }
    }

    fn runs(list: &[(&str, Outcome)]) -> Runs {
        list.iter()
            .map(|(test, outcome)| ((*test).to_owned(), run(*outcome)))
            .collect()
    }

    #[test]
    fn what_passes_there_must_pass_here_or_be_excepted() {
        use Outcome::{Failed, Passed, Skipped};
        let record = Record::new(
            "suite",
            "engine",
            &runs(&[
                ("a::fine", Passed),
                ("a::broken", Passed),
                ("a::known", Passed),
                ("a::lost", Passed),
                ("a::mended", Passed),
                ("a::no_matter", Failed),
                ("b::one", Passed),
                ("b::two", Passed),
            ]),
        );
        let exceptions: Exceptions = toml::from_str(
            "[[exception]]\nreason = \"x\"\ntests = [\"a::known\", \"a::mended\", \"b::*\", \"a::gone\"]\n",
        )
        .unwrap();
        let here = runs(&[
            ("a::fine", Passed),
            ("a::broken", Failed),
            ("a::known", Skipped),
            ("a::mended", Passed),
            ("b::one", Passed),
            ("b::two", Failed),
        ]);
        let files = ["a".to_owned(), "b".to_owned()];
        let verdict = compare(&record, &exceptions, &files, &here);
        assert_eq!(
            (verdict.passed_there, verdict.passed_here, verdict.excepted),
            (7, 3, 2)
        );
        let names: Vec<&str> = verdict
            .unexplained
            .iter()
            .map(|(test, _)| test.as_str())
            .collect();
        assert_eq!(names, ["a::broken", "a::lost"]);
        assert_eq!(verdict.unexplained[0].1, "Failed: E   AssertionError: two");
        assert_eq!(verdict.stale, ["a::mended", "a::gone"]);
        assert!(!verdict.is_clean());
        let verdict = compare(&record, &exceptions, &files[1..], &here);
        assert!(verdict.is_clean(), "{}", verdict.report("suite"));
        // One test of a file, and one that nobody has recorded.
        for (asked, passed) in [("a::fine", 1), ("a::nobody", 0)] {
            let verdict = compare(&record, &exceptions, &[asked.to_owned()], &here);
            assert_eq!(
                (verdict.passed_there, verdict.passed_here),
                (passed, passed)
            );
            assert!(verdict.is_clean(), "{}", verdict.report("suite"));
        }
    }

    #[test]
    fn shares_take_about_as_long_and_lose_nothing() {
        let mut list = runs(&[
            ("a::1", Outcome::Passed),
            ("b::1", Outcome::Passed),
            ("c::1", Outcome::Passed),
        ]);
        list.get_mut("a::1").unwrap().seconds = 10.0;
        list.get_mut("b::1").unwrap().seconds = 6.0;
        list.get_mut("c::1").unwrap().seconds = 5.0;
        let record = Record::new("suite", "engine", &list);
        assert_eq!(record.shares(2), [vec!["a"], vec!["b", "c"]]);
        let text = toml::to_string(&record).unwrap();
        let again: Record = toml::from_str(&text).unwrap();
        assert_eq!(again.tests, record.tests);
    }
}
