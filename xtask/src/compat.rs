//! The judges' suites by hand; `tests/e2e/src/bin/compat.rs` does it.

use crate::process::{self, cargo};
use anyhow::Result;

/// What `compat` is told: `record SUITE`, `run SUITE [FILE]...`.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<String>,
}

/// Runs it; it builds the programs that it needs.
pub(crate) fn run(options: &Options) -> Result<()> {
    process::run(
        cargo()
            .args([
                "run",
                "--quiet",
                "--package",
                "e2e",
                "--bin",
                "compat",
                "--",
            ])
            .args(&options.words),
    )
}
