//! docker-py's own integration tests see no difference: what passes on Docker's engine passes here, but for
//! `compat/docker-py.exceptions.toml`. Recorded by `cargo xtask compat record docker-py`.

use e2e::arena::{self, Arena, Kind};
use e2e::docker_py::{NAME, Suite};
use e2e::outcomes::{Exceptions, Record, compare};
use std::path::Path;

/// In how many tests of ours the suite runs; test runners run them side by side.
const SHARES: usize = 2;

#[test]
fn docker_py_finds_docker_in_its_first_half() {
    share(0);
}

#[test]
fn docker_py_finds_docker_in_its_second_half() {
    share(1);
}

#[track_caller]
fn share(number: usize) {
    if let Some(why) = arena::obstacle() {
        println!("skipped: {why}");
        return;
    }
    let suite = match Suite::fetch() {
        Ok(suite) => suite,
        Err(error) => {
            println!("skipped: docker-py's tests cannot be had: {error:#}");
            return;
        }
    };
    let record = Record::read(NAME).expect("the recording is there");
    let exceptions = Exceptions::read(NAME).expect("the exceptions are there");
    let files = &record.shares(SHARES)[number];
    let helper = Path::new(env!("CARGO_BIN_EXE_compat"));
    let arena = Arena::start(Kind::Berth, helper).expect("an arena");
    let runs = suite
        .run(&arena, files, |test, _| !exceptions.has(test))
        .expect("the suite runs through");
    let verdict = compare(&record, &exceptions, files, &runs);
    let report = verdict.report(NAME);
    println!("{report}");
    assert!(verdict.is_clean(), "{report}");
}
