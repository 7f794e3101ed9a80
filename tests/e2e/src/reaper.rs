//! Builds the stand-in for testcontainers' reaper (`compat/reaper.rs`) as a static program.

use crate::python;
use anyhow::{Context, Result, ensure};
use harness::programs::workspace;
use harness::run::run;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// The program; built when it is older than its source.
pub fn program() -> Result<PathBuf> {
    let _lock = python::lock("reaper")?;
    let source = workspace().join("tests/e2e/compat/reaper.rs");
    let program = python::folder().join("reaper");
    let changed = |path: &PathBuf| path.metadata().and_then(|metadata| metadata.modified());
    let source_changed =
        changed(&source).with_context(|| format!("look at {}", source.display()))?;
    if changed(&program).is_ok_and(|built| built >= source_changed) {
        return Ok(program);
    }
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = run(
        Command::new(rustc)
            .args(["--edition", "2024", "-O", "-C", "strip=symbols"])
            .args(["--target", &target, "-o"])
            .arg(&program)
            .arg(&source)
            // Where rustup reads which toolchain.
            .current_dir(workspace()),
        LIMIT,
    );
    ensure!(
        output.code == Some(0),
        "the reaper does not build for {target}: {}",
        output.stderr
    );
    Ok(program)
}
