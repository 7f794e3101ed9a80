//! Assembles the guest image under the target folder.

use crate::agent;
use crate::process::{self, cargo, target};
use anyhow::Result;
use std::path::PathBuf;

/// How to assemble it.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Debian mirror; without it the one that apt is set up with
    #[arg(long)]
    mirror: Option<String>,
    /// Use only packages that were downloaded before
    #[arg(long)]
    offline: bool,
}

/// Builds and returns the image's folder.
pub(crate) fn run(options: &Options) -> Result<PathBuf> {
    let agent = agent::run()?;
    let folder = target().join("image");
    let mut build = cargo();
    // A debug build: what digests and unpacks is optimised in it too (the root Cargo.toml says so), and the tests share
    // its dependencies.
    build.args([
        "run",
        "--quiet",
        "--package",
        "image-builder",
        "--",
        "build",
    ]);
    build.arg("--agent").arg(agent).arg("--output").arg(&folder);
    if let Some(mirror) = &options.mirror {
        build.args(["--mirror", mirror]);
    }
    if options.offline {
        build.arg("--offline");
    }
    process::run(&mut build)?;
    Ok(folder)
}
