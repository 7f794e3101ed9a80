//! The programs of the desktop for other systems. Windows: MinGW links them. macOS: zig's compiler and libraries do (Apple's
//! may not be passed on), through cargo-zigbuild where both are installed; else they are only checked, where there is a
//! compiler for ring's few lines of C.

use crate::process::{self, cargo, command, target, workspace};
use anyhow::{Context, Result};
use clap::ValueEnum;
use std::path::Path;
use std::process::Stdio;

const WINDOWS: &str = "x86_64-pc-windows-gnu";
const MACOS: [&str; 2] = ["aarch64-apple-darwin", "x86_64-apple-darwin"];
/// What runs on a desktop.
const PACKAGES: [&str; 4] = ["--package", "machine-cli", "--package", "client-cli"];
const MINGW: &str = "x86_64-w64-mingw32-gcc";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only this system [default: both]
    system: Option<System>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum System {
    Windows,
    Macos,
}

/// Builds for the systems that were asked for; one whose tools are missing is skipped with a line.
pub(crate) fn run(options: &Options) -> Result<()> {
    let wanted = |system| options.system.is_none_or(|only| only == system);
    if wanted(System::Windows) {
        windows()?;
    }
    if wanted(System::Macos) {
        for triple in MACOS {
            macos(triple)?;
        }
    }
    Ok(())
}

/// What CI builds.
pub(crate) fn windows() -> Result<()> {
    if !is_there(MINGW) {
        println!(
            "skipped {WINDOWS}: there is no MinGW (Debian: apt install gcc-mingw-w64-x86-64-posix)"
        );
        return Ok(());
    }
    install_target(WINDOWS)?;
    let stand_in = ["--package", "qemu-stand-in"];
    process::run(
        cargo()
            .args(["build", "--target", WINDOWS])
            .args(PACKAGES)
            .args(stand_in),
    )?;
    let folder = target().join(WINDOWS).join("debug");
    // Beside the programs, where wine looks first.
    process::run(
        command(MINGW)
            .args(["-O2", "-shared", "-o"])
            .arg(folder.join("bcryptprimitives.dll"))
            .arg(workspace().join("xtask/src/cross/bcryptprimitives.c"))
            .arg("-ladvapi32"),
    )?;
    show(&folder, &["machine.exe", "berth.exe"])
}

fn macos(triple: &str) -> Result<()> {
    install_target(triple)?;
    if is_there("cargo-zigbuild") {
        let mut build = command("cargo-zigbuild");
        build.args(["zigbuild", "--target", triple]).args(PACKAGES);
        // zig's own default is newer than most Macs.
        build.env("MACOSX_DEPLOYMENT_TARGET", "11.0");
        process::run(&mut build)?;
        return show(&target().join(triple).join("debug"), &["machine", "berth"]);
    }
    if !is_there("clang") {
        println!(
            "skipped {triple}: there is neither cargo-zigbuild (PyPI: ziglang, cargo-zigbuild) nor clang"
        );
        return Ok(());
    }
    let mut check = cargo();
    check.args(["check", "--target", triple]).args(PACKAGES);
    check.env(format!("CC_{}", triple.replace('-', "_")), "clang");
    process::run(&mut check)?;
    println!("{triple}: checked, not linked");
    Ok(())
}

fn is_there(program: &str) -> bool {
    command(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// Without rustup targets are the distribution's business; cargo says what is missing.
fn install_target(triple: &str) -> Result<()> {
    if !is_there("rustup") {
        return Ok(());
    }
    let installed = process::output(command("rustup").args(["target", "list", "--installed"]))?;
    if installed.lines().any(|line| line == triple) {
        return Ok(());
    }
    process::run(command("rustup").args(["target", "add", triple]))
}

fn show(folder: &Path, programs: &[&str]) -> Result<()> {
    for program in programs {
        let path = folder.join(program);
        let bytes = path
            .metadata()
            .with_context(|| format!("{} was not made", path.display()))?
            .len();
        println!("{} ({:.1} MB)", path.display(), bytes as f64 / 1e6);
    }
    Ok(())
}
