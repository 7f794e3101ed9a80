//! Licences, banned crates and sources of every dependency, by cargo-deny.

use crate::process::{self, cargo, command, target};
use anyhow::Result;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The version this workspace's deny.toml is written for.
const VERSION: &str = "0.20.2";

/// Runs cargo-deny; installs it under the target folder where there is none.
pub(crate) fn run() -> Result<()> {
    let program = program()?;
    let mut words = vec!["check", "licenses", "bans", "sources"];
    // The advisory database is a git repository that not every build host can reach.
    if std::env::var_os("BERTH_DENY_ADVISORIES").is_some() {
        words.push("advisories");
    }
    process::run(command(program).args(words))
}

fn program() -> Result<PathBuf> {
    let works = |program: &str| {
        let version = Command::new(program)
            .arg("--version")
            .stderr(Stdio::null())
            .output();
        version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION))
    };
    if works("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let root = target().join("tools");
    let installed = root.join("bin/cargo-deny");
    if !works(&installed.to_string_lossy()) {
        // A debug build: it takes a third of the time and checks just as well.
        let mut install = cargo();
        install.args([
            "install",
            "cargo-deny",
            "--version",
            VERSION,
            "--locked",
            "--debug",
            "--quiet",
            "--root",
        ]);
        process::run(
            install
                .arg(&root)
                .env_remove("CARGO_TARGET_DIR")
                .env_remove("CARGO_BUILD_BUILD_DIR"),
        )?;
    }
    Ok(installed)
}
