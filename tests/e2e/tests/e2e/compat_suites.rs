//! The judges' own suites see no difference: what passes on Docker's engine passes here, but for what
//! `compat/*.exceptions.toml` says. Recorded by `cargo xtask compat record SUITE`.

use e2e::arena::{self, Arena, Kind};
use e2e::outcomes::{Exceptions, Record, compare};
use e2e::{bollard, docker_py, judge};
use std::path::Path;

#[test]
fn docker_py_finds_docker_in_its_first_half() {
    share(docker_py::NAME, 0, 2);
}

#[test]
fn docker_py_finds_docker_in_its_second_half() {
    share(docker_py::NAME, 1, 2);
}

#[test]
fn bollard_finds_docker() {
    share(bollard::NAME, 0, 1);
}

/// One of so many shares of a suite; test runners run them side by side, each with an engine of its own.
#[track_caller]
fn share(name: &str, number: usize, of: usize) {
    if let Some(why) = arena::obstacle() {
        println!("skipped: {why}");
        return;
    }
    let judge = match judge::fetch(name) {
        Ok(judge) => judge,
        Err(error) => {
            println!("skipped: the tests of {name} cannot be had: {error:#}");
            return;
        }
    };
    let record = Record::read(name).expect("the recording is there");
    let exceptions = Exceptions::read(name).expect("the exceptions are there");
    let files = &record.shares(of)[number];
    let helper = Path::new(env!("CARGO_BIN_EXE_compat"));
    let arena = Arena::start(Kind::Berth, helper).expect("an arena");
    let runs = judge::run(judge.as_ref(), &arena, files, |test| !exceptions.has(test))
        .expect("the suite runs through");
    let verdict = compare(&record, &exceptions, files, &runs);
    let report = verdict.report(name);
    println!("{report}");
    assert!(verdict.is_clean(), "{report}");
}
