//! `/info`, `/system/df`, inspect and their like, and events, field by field as dockerd 20.10 has them; see `e2e::shapes`.

use e2e::arena::{self, Arena, Kind};
use e2e::outcomes::Exceptions;
use e2e::shapes;
use harness::programs::find;
use std::path::Path;

#[test]
fn answers_and_events_have_dockers_fields() {
    let obstacle = arena::obstacle().or_else(|| {
        let has_curl = find("curl").is_some();
        (!has_curl).then(|| "there is no curl here".to_owned())
    });
    if let Some(why) = obstacle {
        println!("skipped: {why}");
        return;
    }
    let recorded = shapes::read().expect("the recording is there");
    let exceptions = Exceptions::read(shapes::NAME).expect("the exceptions are there");
    let helper = Path::new(env!("CARGO_BIN_EXE_compat"));
    let arena = Arena::start(Kind::Berth, helper).expect("an arena");
    let seen = match shapes::of(&arena) {
        Ok(seen) => seen,
        Err(error) => panic!("{error:#}\n{}", arena.log()),
    };
    let differences = shapes::differences(&recorded, &seen);
    let (unexplained, unused) = shapes::unexplained(&differences, &exceptions);
    assert!(
        unexplained.is_empty() && unused.is_empty(),
        "not as Docker has it:\n  {}\nexceptions that are none any more: {unused:?}",
        unexplained.join("\n  ")
    );
}
