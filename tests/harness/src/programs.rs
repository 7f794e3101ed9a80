//! Where the programs under test are. They are built when they are missing or stale: cargo decides.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("the harness is two folders down")
        .to_path_buf()
}

/// Where cargo leaves final artifacts.
pub fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => workspace().join(folder),
        None => workspace().join("target"),
    }
}

/// Set by who has just built the programs (`cargo xtask ci`): hundreds of test processes need not ask cargo again.
pub const BUILT: &str = "BERTH_PROGRAMS_BUILT";

/// The programs of a debug build; built once for each test process, unless [`BUILT`] says they are.
pub fn program(name: &str) -> PathBuf {
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| {
        if std::env::var_os(BUILT).is_some() {
            return;
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let packages = ["agent-server", "machine-cli", "client-cli"];
        let mut build = Command::new(cargo);
        build.current_dir(workspace()).args(["build", "--quiet"]);
        for package in packages {
            build.args(["--package", package]);
        }
        let status = build.stdin(Stdio::null()).status().expect("cargo runs");
        assert!(
            status.success(),
            "the programs under test do not build: {status}"
        );
    });
    target().join("debug").join(name)
}

/// The guest image, where `cargo xtask image` has made it.
pub fn image() -> Option<PathBuf> {
    let folder = target().join("image");
    folder.join("manifest.json").is_file().then_some(folder)
}

/// A program on PATH.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Not everybody has these on PATH, and dockerd lives there.
    folders.extend(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Whether the docker command here is older than 23, as Debian 12's is: it asks for API 1.41 at most.
pub fn docker_is_old() -> bool {
    let Some(docker) = find("docker") else {
        return false;
    };
    let output = Command::new(docker).arg("--version").output();
    let words = output.map(|output| output.stdout).unwrap_or_default();
    // "Docker version 20.10.24+dfsg1, build 297e128"
    let words = String::from_utf8_lossy(&words);
    let major = words
        .trim_start_matches("Docker version ")
        .split('.')
        .next();
    major.is_some_and(|major| major.parse().is_ok_and(|major: u32| major < 23))
}
