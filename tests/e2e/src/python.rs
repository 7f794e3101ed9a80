//! Python with pinned packages, made on demand and kept in the target folder.

use anyhow::{Context, Result, bail};
use harness::programs::{find, target};
use harness::run::run;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Fetching and unpacking everything takes some 20 s.
const LIMIT: Duration = Duration::from_secs(300);

/// The folder of everything that is fetched for the suites.
pub fn folder() -> PathBuf {
    target().join("compat")
}

/// Held while something in [`folder`] is made: tests in other processes wait.
pub fn lock(name: &str) -> Result<File> {
    let folder = folder();
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let path = folder.join(format!("{name}.lock"));
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    file.lock()
        .with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// An environment with these packages and no others but what the pins name; its `python`. Another list makes it anew.
pub fn environment(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let _lock = lock(name)?;
    let folder = folder().join(name);
    let python = folder.join("bin/python");
    let stamp = folder.join("berth-packages");
    let wanted = packages.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    let python3 = find("python3").context("there is no python3 here")?;
    let _ = std::fs::remove_dir_all(&folder);
    succeed(Command::new(python3).args(["-m", "venv"]).arg(&folder))?;
    succeed(pip(&python, &["install"]).args(packages))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    Ok(python)
}

/// Fetches one source package into a folder; pip checks its hash.
pub fn download_source(python: &Path, requirement: &str, to: &Path) -> Result<()> {
    let list = to.join("requirement.txt");
    std::fs::create_dir_all(to).with_context(|| format!("make {}", to.display()))?;
    std::fs::write(&list, requirement).with_context(|| format!("write {}", list.display()))?;
    succeed(
        pip(
            python,
            &[
                "download",
                "--no-deps",
                "--no-binary=:all:",
                "--no-build-isolation",
            ],
        )
        .arg("--require-hashes")
        .arg("--requirement")
        .arg(&list)
        .arg("--dest")
        .arg(to),
    )
}

fn pip(python: &Path, verb: &[&str]) -> Command {
    let mut command = Command::new(python);
    command
        .args(["-m", "pip"])
        .args(verb)
        .args(["--quiet", "--disable-pip-version-check"]);
    command
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = run(command, LIMIT);
    if output.code != Some(0) {
        let last = output.stderr.lines().last().unwrap_or("no reason given");
        bail!("`{}` failed: {last}", output.words);
    }
    Ok(())
}
