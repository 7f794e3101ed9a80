//! Everything continuous integration checks, in the order that finds trouble soonest.

use crate::process::{self, cargo};
use crate::{cross, deny, image, layers};
use anyhow::Result;
use std::process::{Command, Stdio};

/// Runs all checks and all tiers of tests.
pub(crate) fn run() -> Result<()> {
    layers::run()?;
    process::run(cargo().args(["fmt", "--all", "--check"]))?;
    process::run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    deny::run()?;
    // The vm tier boots the image that these sources make.
    image::run(&image::Options::default())?;
    process::run(cargo().args(["build", "--workspace", "--bins"]))?;
    // Its programs run under wine in the tests.
    cross::windows()?;
    test()
}

/// cargo-nextest where it is installed (each test its own process, and faster), else cargo's own runner.
fn test() -> Result<()> {
    let mut probe = Command::new("cargo-nextest");
    probe
        .args(["nextest", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let runner: &[&str] = if probe.status().is_ok_and(|status| status.success()) {
        &["nextest", "run"]
    } else {
        &["test"]
    };
    let mut tests = cargo();
    tests.args(runner).args(["--workspace", "--no-fail-fast"]);
    // The harness need not ask cargo in every test process: they were built a moment ago.
    process::run(tests.env("BERTH_PROGRAMS_BUILT", "1"))
}
