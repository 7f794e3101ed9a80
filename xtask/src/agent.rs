//! Builds the static `host-agent`.

use crate::process::{self, cargo, command, target};
use anyhow::Result;
use std::path::PathBuf;

/// The target that ships: static, so that one file runs on any Linux.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds and returns the program's path.
pub(crate) fn run() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--release", "--target", TARGET]);
    build.args(["--package", "agent-server"]);
    for (name, value) in source() {
        if std::env::var_os(name).is_none() {
            build.env(name, value);
        }
    }
    process::run(&mut build)?;
    Ok(target().join(TARGET).join("release/host-agent"))
}

/// What `docker version` says of the program: its commit, and the time of that in seconds since 1970. The same as long as
/// the sources are, so that builds are reproducible and nothing is built again. Nothing where this is no checkout of git.
fn source() -> Vec<(&'static str, String)> {
    let git = |arguments: &[&str]| {
        let output = command("git").args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    let commit = git(&[
        "describe",
        "--always",
        "--dirty",
        "--abbrev=7",
        "--exclude=*",
    ]);
    let time = std::env::var("SOURCE_DATE_EPOCH").ok();
    let time = time.or_else(|| git(&["log", "-1", "--format=%ct"]));
    let known = [("BERTH_COMMIT", commit), ("BERTH_BUILD_TIME", time)];
    known
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_checkout_says_its_commit_and_time() {
        let is_checkout = process::workspace().join(".git").exists();
        let head = Command::new("git")
            .args(["rev-parse", "HEAD"])
            .current_dir(process::workspace())
            .output();
        let Some(head) = head.ok().filter(|_| is_checkout) else {
            println!("skipped: no git, or no checkout of it");
            return;
        };
        let head = String::from_utf8(head.stdout).expect("text");
        let [(_, commit), (_, time)] = &source()[..] else {
            panic!("{:?}", source());
        };
        let short = commit.trim_end_matches("-dirty");
        assert!(
            short.len() >= 7 && head.starts_with(short),
            "{commit}: {head}"
        );
        assert!(
            time.parse::<u64>().is_ok_and(|time| time > 1_700_000_000),
            "{time}"
        );
    }
}
