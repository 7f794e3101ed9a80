//! The desktop's programs for Windows, run by wine: what they say, a store they make, and an engine on loopback that they
//! talk to over mutual TLS with the certificates of that store.

use crate::load_busybox;
use harness::agent::{Agent, loopback_url};
use harness::image::busybox_or_skip;
use harness::programs::{find, program, target};
use harness::run::{Output, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// wine's first start makes a whole Windows.
const LIMIT: Duration = Duration::from_secs(240);

struct Windows {
    wine: PathBuf,
    programs: PathBuf,
    /// wine's own files.
    prefix: tempfile::TempDir,
    store: tempfile::TempDir,
}

impl Windows {
    fn find() -> Option<Windows> {
        let wine = find("wine64")
            .or_else(|| Some(PathBuf::from("/usr/lib/wine/wine64")))
            .filter(|path| path.is_file());
        let Some(wine) = wine else {
            println!("skipped: there is no wine64");
            return None;
        };
        let programs = target().join("x86_64-pc-windows-gnu/debug");
        if !programs.join("machine.exe").is_file() || !programs.join("berth.exe").is_file() {
            println!("skipped: no programs for Windows (cargo xtask cross windows)");
            return None;
        }
        Some(Windows {
            wine,
            programs,
            prefix: tempfile::tempdir().unwrap(),
            store: tempfile::tempdir().unwrap(),
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.wine);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.prefix.path())
            .env("WINEPREFIX", self.prefix.path().join("wine"))
            .env("WINEDEBUG", "-all")
            // It would ask to install them.
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=")
            .arg(self.programs.join(program));
        command
    }

    fn machine(&self, arguments: &[&str]) -> Output {
        let mut command = self.command("machine.exe");
        // wine's drive Z: is the root.
        let store = windows_path(self.store.path());
        command.env("MACHINE_STORAGE_PATH", store).args(arguments);
        run(&mut command, LIMIT)
    }
}

fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}

#[test]
fn the_desktops_programs_run_on_windows() {
    let Some(windows) = Windows::find() else {
        return;
    };
    let help = windows.machine(&["--help"]).success();
    assert!(help.contains("Make and manage machines"), "{help}");
    assert!(help.contains("regenerate-certs"), "{help}");

    // A store, an authority and a client's certificate.
    let url = loopback_url();
    windows
        .machine(&["create", "-d", "none", "--url", &url, "server"])
        .success();
    let store = windows.store.path();
    for file in [
        "certs/ca.pem",
        "certs/ca-key.pem",
        "machines/server/cert.pem",
    ] {
        assert!(store.join(file).is_file(), "{file}");
    }
    let listed = windows.machine(&["ls", "-q"]).success();
    assert_eq!(listed.trim(), "server");
    // A second one of that name, and one that is no name.
    let again = windows.machine(&["create", "-d", "none", "--url", &url, "server"]);
    assert!(again.fails_with(1).contains("server"));
    windows
        .machine(&["create", "-d", "none", "--url", &url, "..\\x"])
        .fails_with(1);
    // The default driver is not there, and says so, and what is.
    let text = windows.machine(&["create", "dev"]).fails_with(1);
    for part in ["qemu", "WSL 2", "-d generic", "machine attach"] {
        assert!(text.contains(part), "{text}");
    }

    let Some(agent) = Agent::start_for_store(program("host-agent"), store, &url) else {
        return;
    };
    let listed = windows.machine(&["ls"]).success();
    assert!(
        listed.contains(&url) && listed.contains("Running"),
        "{listed}"
    );
    let folder = format!("{}\\machines\\server", windows_path(store));
    let environment = windows
        .machine(&["env", "--shell", "powershell", "server"])
        .success();
    for line in [
        "$Env:DOCKER_TLS_VERIFY = \"1\"".to_owned(),
        format!("$Env:DOCKER_HOST = \"{url}\""),
        format!("$Env:DOCKER_CERT_PATH = \"{folder}\""),
        "$Env:COMPOSE_CONVERT_WINDOWS_PATHS = \"true\"".to_owned(),
    ] {
        assert!(
            environment.lines().any(|found| found.trim_end() == line),
            "{line} in {environment}"
        );
    }

    let berth = |arguments: &[&str]| {
        let mut command = windows.command("berth.exe");
        command
            .env("DOCKER_HOST", &url)
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", &folder)
            .args(arguments);
        run(&mut command, LIMIT)
    };
    let version = berth(&["version"]).success();
    assert!(version.contains("linux"), "{version}");
    if busybox_or_skip().is_some() {
        load_busybox(&agent, "busybox:latest");
        let said = berth(&[
            "run",
            "--rm",
            "--network",
            "none",
            "busybox",
            "echo",
            "hello",
        ]);
        assert_eq!(said.success().trim(), "hello");
        assert!(berth(&["images"]).success().contains("busybox"));
    }
    // Without the certificate there is no way in.
    let mut bare = windows.command("berth.exe");
    bare.env("DOCKER_HOST", &url).arg("version");
    assert_ne!(run(&mut bare, LIMIT).code, Some(0));

    windows.machine(&["rm", "-y", "server"]).success();
    assert!(!store.join("machines/server").exists());
}
