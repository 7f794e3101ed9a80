//! Builds the static `host-agent`.

use crate::process::{self, cargo, target};
use anyhow::Result;
use std::path::PathBuf;

/// The target that ships: static, so that one file runs on any Linux.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds and returns the program's path.
pub(crate) fn run() -> Result<PathBuf> {
    build("agent-server")?;
    Ok(target().join(TARGET).join("release/host-agent"))
}

/// Builds one package for release, static.
pub(crate) fn build(package: &str) -> Result<()> {
    process::run(cargo().args([
        "build",
        "--release",
        "--target",
        TARGET,
        "--package",
        package,
    ]))
}
