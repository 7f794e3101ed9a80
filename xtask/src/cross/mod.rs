//! The programs of the desktop for other systems: Windows is built where MinGW is installed, macOS is checked (Apple's
//! linker and libraries may not be passed on).

use crate::process::{self, cargo, target};
use anyhow::Result;
use std::process::{Command, Stdio};

const WINDOWS: &str = "x86_64-pc-windows-gnu";
const MACOS: [&str; 2] = ["aarch64-apple-darwin", "x86_64-apple-darwin"];
/// What runs on a desktop.
const PACKAGES: [&str; 4] = ["--package", "machine-cli", "--package", "client-cli"];

/// Builds for Windows and checks for macOS.
pub(crate) fn run() -> Result<()> {
    let mut targets = Command::new("rustup");
    targets.args(["target", "add", WINDOWS]).args(MACOS);
    // Without rustup the targets are the distribution's business; cargo says what is missing.
    if Command::new("rustup")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
    {
        process::run(&mut targets)?;
    }
    let has_mingw = Command::new("x86_64-w64-mingw32-gcc")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if has_mingw {
        process::run(cargo().args(["build", "--target", WINDOWS]).args(PACKAGES))?;
        let folder = target().join(WINDOWS).join("debug");
        for program in ["machine.exe", "berth.exe"] {
            println!("{}", folder.join(program).display());
        }
    } else {
        println!(
            "skipped {WINDOWS}: there is no MinGW (Debian: apt install gcc-mingw-w64-x86-64-posix)"
        );
    }
    for triple in MACOS {
        let mut check = cargo();
        check.args(["check", "--target", triple]).args(PACKAGES);
        // ring compiles a little C and assembler; without Apple's compiler any clang will do.
        check.env(format!("CC_{}", triple.replace('-', "_")), "clang");
        let has_clang = Command::new("clang")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .is_ok();
        match has_clang {
            true => process::run(&mut check)?,
            false => println!("skipped {triple}: there is no clang, which ring's build wants"),
        }
    }
    Ok(())
}
