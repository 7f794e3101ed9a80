//! The desktop's programs for Windows, run by wine: what they say, a store they make, an engine on loopback that they
//! talk to over mutual TLS with the certificates of that store, and a local machine's whole life with a stand-in for QEMU.

use crate::load_busybox;
use harness::agent::{Agent, loopback_url};
use harness::image::busybox_or_skip;
use harness::programs::{find, program, target};
use harness::run::{Output, eventually, run};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
        let needed = ["machine.exe", "berth.exe", "qemu-stand-in.exe"];
        if needed.iter().any(|name| !programs.join(name).is_file()) {
            println!("skipped: no programs for Windows (cargo xtask cross windows)");
            return None;
        }
        let windows = Windows {
            wine,
            programs,
            prefix: tempfile::tempdir().unwrap(),
            store: tempfile::tempdir().unwrap(),
        };
        windows.keep();
        Some(windows)
    }

    /// Debian's wine goes with its last program, and who comes while it goes is killed after two seconds: it is to stay, a
    /// minute after a test that was killed.
    fn keep(&self) {
        std::fs::create_dir(self.prefix.path().join("wine")).unwrap();
        for words in [
            self.in_prefix(&self.server()).arg("-p60"),
            self.in_prefix(&self.wine).args(["wineboot", "--init"]),
        ] {
            // What goes on after them would hold on to the outputs of whoever started it.
            let quiet = words.stdout(Stdio::null()).stderr(Stdio::null());
            assert!(quiet.status().unwrap().success());
        }
    }

    fn server(&self) -> PathBuf {
        self.wine.with_file_name("wineserver")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.in_prefix(&self.wine);
        command.arg(self.programs.join(program));
        command
    }

    /// A program of wine's, on this test's own Windows.
    fn in_prefix(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.prefix.path())
            .env("WINEPREFIX", self.prefix.path().join("wine"))
            .env("WINEDEBUG", "-all")
            // It would ask to install them.
            .env("WINEDLLOVERRIDES", "mscoree,mshtml=");
        command
    }

    fn machine(&self, arguments: &[&str]) -> Output {
        run(&mut self.machine_command(arguments), LIMIT)
    }

    fn machine_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("machine.exe");
        // wine's drive Z: is the root.
        let store = windows_path(self.store.path());
        command.env("MACHINE_STORAGE_PATH", store).args(arguments);
        command
    }

    /// Puts the stand-in where QEMU's installer puts QEMU, and wine's own files where it looks for them.
    fn install_qemu(&self) {
        let folder = self.prefix.path().join("wine/drive_c/Program Files/qemu");
        std::fs::create_dir_all(&folder).unwrap();
        for (from, to) in [
            ("qemu-stand-in.exe", "qemu-system-x86_64.exe"),
            ("bcryptprimitives.dll", "bcryptprimitives.dll"),
        ] {
            std::fs::copy(self.programs.join(from), folder.join(to)).unwrap();
        }
    }

    /// Runs a program that Windows brings along.
    fn of_windows(&self, words: &[&str]) -> String {
        run(self.in_prefix(&self.wine).args(words), LIMIT).success()
    }

    /// Whether a process of this Windows has such a command line: to Linux they are processes like others.
    fn runs(&self, words: &str) -> bool {
        let prefix = format!("WINEPREFIX={}", self.prefix.path().join("wine").display());
        let text = |path: PathBuf| {
            let bytes = std::fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.map(|process| process.path()).any(|process| {
            text(process.join("environ")).contains(&prefix)
                && text(process.join("cmdline")).contains(words)
        })
    }
}

impl Drop for Windows {
    /// Machines that a failed test left behind run in this prefix only.
    fn drop(&mut self) {
        let _ = self.in_prefix(&self.server()).arg("-k").status();
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
    shells_are_known(&windows);

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
    local_machine(&windows);

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

/// The shell is known by its program; where none is found, by PROMPT, which only `cmd` sets.
fn shells_are_known(windows: &Windows) {
    let system = windows.prefix.path().join("wine/drive_c/windows/system32");
    let powershell = windows.prefix.path().join("pwsh.exe");
    // Starts programs as well as the real one.
    std::fs::copy(system.join("cmd.exe"), &powershell).unwrap();
    let powershell = windows_path(&powershell);
    let program = windows_path(&windows.programs.join("machine.exe"));
    let check = |words: &[&str], prompt: &str, expected: &str| {
        let mut command = windows.in_prefix(&windows.wine);
        command
            .args(words)
            .args([&program, "env", "--unset"])
            .env("PROMPT", prompt);
        let said = run(&mut command, LIMIT).success();
        let first = said.lines().next().unwrap_or_default();
        assert_eq!(first.trim_end(), expected, "{words:?}, PROMPT={prompt}");
    };
    let in_powershell = "Remove-Item Env:\\\\DOCKER_TLS_VERIFY";
    let in_cmd = "SET DOCKER_TLS_VERIFY=";
    check(&[], "", in_powershell);
    check(&[], "$P$G", in_cmd);
    check(&["cmd", "/c"], "", in_cmd);
    check(&[&powershell, "/c"], "$P$G", in_powershell);
}

/// A machine's folder, its engine, and what of it is the test's.
struct Local<'a> {
    windows: &'a Windows,
    folder: PathBuf,
    agent: Option<Agent>,
}

impl Local<'_> {
    /// Runs a verb that starts the machine. The engine is the stand-in's in name only: it is served here, as soon as the
    /// keeper has its machine, at the address and with the certificates that were made for it.
    fn start(&mut self, arguments: &[&str]) -> String {
        if let Some(agent) = &mut self.agent {
            agent.kill_serve();
        }
        let told = self.windows.prefix.path().join("told");
        let mut child = self
            .windows
            .machine_command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // wine's own processes hold on to that one, whatever a program gives them.
            .stderr(File::create(&told).unwrap())
            .spawn()
            .unwrap();
        let record = self.folder.join("keeper.json");
        let runs = eventually("the keeper has its machine", LIMIT, || {
            let ended = child.try_wait().unwrap();
            (record.is_file() || ended.is_some()).then(|| record.is_file())
        });
        let told = || std::fs::read_to_string(&told).unwrap();
        assert!(runs, "it ended: {}", told());
        match &mut self.agent {
            Some(agent) => agent.serve(),
            None => self.agent = self.serve(),
        }
        // Ends when nobody holds the verb's output any more: a keeper must not.
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", told());
        said
    }

    fn serve(&self) -> Option<Agent> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        Agent::start(&[
            "--host",
            &format!("tcp://{}:2376", self.address()),
            "--tlsverify",
            "--tlscacert",
            &path("ca.pem"),
            "--tlscert",
            &path("server.pem"),
            "--tlskey",
            &path("server-key.pem"),
        ])
    }

    fn address(&self) -> String {
        let config = std::fs::read(self.folder.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config["Driver"]["IPAddress"].as_str().unwrap().to_owned()
    }

    /// Windows' number of the keeper's process.
    fn keeper(&self) -> String {
        let record = std::fs::read(self.folder.join("keeper.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["keeper"]["pid"].to_string()
    }

    fn status(&self) -> String {
        let said = self.windows.machine(&["status", "dev"]).success();
        said.trim().to_owned()
    }

    fn console_says(&self, line: &str) {
        let console = self.folder.join("console.log");
        eventually(line, LIMIT, || {
            let said = std::fs::read_to_string(&console).unwrap_or_default();
            said.lines().any(|said| said == line).then_some(())
        });
    }
}

/// Puts an authority into the user's store of roots, as the certificate import wizard does. Returns its PEM; `None`, with a line
/// that says why, where none can be made.
fn trust_a_company(windows: &Windows) -> Option<String> {
    if find("openssl").is_none() {
        println!("skipped: there is no openssl to sign with");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (key, pem, der) = (path("key"), path("pem"), path("der"));
    let openssl = |line: &str| {
        let mut command = Command::new("openssl");
        run(command.args(line.split(' ')), LIMIT).success()
    };
    openssl(&format!(
        "req -x509 -newkey rsa:2048 -nodes -keyout {key} -subj /CN=company -days 30 -out {pem}"
    ));
    openssl(&format!("x509 -in {pem} -outform DER -out {der}"));
    let fingerprint = openssl(&format!("x509 -in {pem} -noout -fingerprint -sha1"));
    let fingerprint = fingerprint.split('=').nth(1).unwrap().trim();
    // A serialized element: the certificate is property 32.
    let der = std::fs::read(der).unwrap();
    let mut blob = Vec::new();
    for number in [32, 1, der.len() as u32] {
        blob.extend(number.to_le_bytes());
    }
    blob.extend(der);
    let blob: String = blob.iter().map(|byte| format!("{byte:02x}")).collect();
    let place = format!(
        "HKCU\\Software\\Microsoft\\SystemCertificates\\Root\\Certificates\\{}",
        fingerprint.replace(':', "")
    );
    windows.of_windows(&[
        "reg",
        "add",
        &place,
        "/v",
        "Blob",
        "/t",
        "REG_BINARY",
        "/d",
        &blob,
        "/f",
    ]);
    Some(std::fs::read_to_string(pem).unwrap())
}

/// The whole life of a machine on this computer, QEMU played by the stand-in.
fn local_machine(windows: &Windows) {
    if let Some(why) = harness::agent::obstacle() {
        println!("skipped: {why}");
        return;
    }
    let without = windows.machine(&["create", "dev"]).fails_with(3);
    for part in ["no guest image", "--qemu-image"] {
        assert!(without.contains(part), "{without}");
    }
    let image = windows.prefix.path().join("an image, of sorts");
    std::fs::create_dir(&image).unwrap();
    std::fs::write(image.join("vmlinux"), "kernel").unwrap();
    std::fs::write(image.join("initrd"), "files").unwrap();
    let manifest = serde_json::json!({
        "version": 1, "name": "t", "architecture": "x86_64", "kernel_version": "6", "kernel": "vmlinux",
        "initrd": "initrd", "command_line": "quiet", "packages": [], "agent_version": "0", "download_bytes": 1,
        "files": {"vmlinux": {"bytes": 6, "sha256": ""}, "initrd": {"bytes": 5, "sha256": ""}}
    });
    std::fs::write(image.join("manifest.json"), manifest.to_string()).unwrap();
    let image = windows_path(&image);
    let mut words = vec!["create", "--qemu-image", &image, "dev"];
    let without = windows.machine(&words).fails_with(3);
    for part in ["qemu-system-x86_64.exe", "winget install"] {
        assert!(without.contains(part), "{without}");
    }
    windows.install_qemu();
    let company = trust_a_company(windows);

    let mut local = Local {
        windows,
        folder: windows.store.path().join("machines/dev"),
        agent: None,
    };
    let work = windows.prefix.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let mount = format!("{}:/work", windows_path(&work));
    words.splice(1..1, ["--mount", &mount, "--disk", "1G"]);
    let said = local.start(&words);
    assert!(said.contains("TCG") && said.contains("WHPX"), "{said}");
    if let Some(company) = company {
        let seed = std::fs::read(local.folder.join("seed.tar")).unwrap();
        let seed = String::from_utf8_lossy(&seed);
        assert!(seed.contains("company-authorities.pem") && seed.contains(&company));
    }
    assert_eq!(local.status(), "Running");
    // The guest's kernel asked for both folders, the home and the other one.
    for port in 0..2 {
        local.console_says(&format!(
            "dev.berth.share.{port}: 26 answered with 0, 80 bytes"
        ));
        local.console_says(&format!(
            "dev.berth.share.{port}: 3 answered with 0, 120 bytes"
        ));
    }
    let url = format!("tcp://{}:2376", local.address());
    assert_eq!(windows.machine(&["url", "dev"]).success().trim(), url);
    let listed = windows.machine(&["ls"]).success();
    assert!(
        listed.contains(&url) && listed.contains("Running"),
        "{listed}"
    );
    let logged = windows.machine(&["logs", "dev"]).success();
    assert!(logged.contains("a stand-in"), "{logged}");

    windows.machine(&["suspend", "dev"]).success();
    assert_eq!(local.status(), "Saved");
    local.start(&["resume", "dev"]);
    local.console_says("resumed with 100000");
    local.console_says("dev.berth.share.1: goes on");
    assert_eq!(local.status(), "Running");

    // A keeper that is killed leaves a machine that nobody can reach: it is ended, not forgotten.
    let (keeper, qemu) = ("machine.exe keeper ", "qemu-system-x86_64.exe ");
    assert!(windows.runs(keeper) && windows.runs(qemu));
    windows.of_windows(&["taskkill", "/F", "/PID", &local.keeper()]);
    assert_eq!(local.status(), "Stopped");
    assert!(!windows.runs(keeper) && !windows.runs(qemu));
    local.start(&["start", "dev"]);

    windows.machine(&["stop", "dev"]).success();
    local.console_says("powering off");
    assert_eq!(local.status(), "Stopped");
    local.start(&["start", "dev"]);
    windows.machine(&["kill", "dev"]).success();
    assert_eq!(local.status(), "Stopped");
    assert!(!windows.runs(keeper) && !windows.runs(qemu));
    windows.machine(&["rm", "-y", "dev"]).success();
    assert!(!local.folder.exists());
}
