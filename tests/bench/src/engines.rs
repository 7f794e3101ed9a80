//! The engines that are compared, each in a network namespace and a cgroup of its own, with its own folders.

use crate::cgroup::Group;
use crate::http::Api;
use anyhow::{Context, Result, bail};
use harness::programs::{find, target};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Berth,
    Dockerd,
    Podman,
}

/// A running engine.
pub(crate) struct Engine {
    pub(crate) kind: Kind,
    folder: tempfile::TempDir,
    socket: PathBuf,
    namespace: String,
    pub(crate) group: Group,
    child: Child,
}

/// Why the comparison cannot run here.
pub(crate) fn obstacle() -> Option<String> {
    if let Some(why) = harness::agent::obstacle() {
        return Some(why);
    }
    for (program, package) in [("dockerd", "docker.io"), ("ip", "iproute2")] {
        if find(program).is_none() {
            return Some(format!("there is no {program} here (package {package})"));
        }
    }
    let agent = target().join(AGENT);
    (!agent.is_file()).then(|| {
        format!(
            "there is no {} (cargo xtask agent builds it)",
            agent.display()
        )
    })
}

/// Why podman is left out.
pub(crate) fn podman_obstacle() -> Option<String> {
    ["podman", "runc"]
        .into_iter()
        .find(|program| find(program).is_none())
        .map(|program| format!("there is no {program} here"))
}

/// Why podman has no networks.
pub(crate) fn podman_networks_obstacle() -> Option<String> {
    ["/usr/lib/cni/bridge", "/usr/lib/cni/portmap"]
        .into_iter()
        .find(|plugin| !Path::new(plugin).is_file())
        .map(|plugin| format!("there is no {plugin} here (package containernetworking-plugins)"))
}

/// Folder of an engine for what a restart of the host ends.
const RUN: &str = "run";
/// The agent as it is shipped, below the target folder.
pub(crate) const AGENT: &str = "x86_64-unknown-linux-musl/release/host-agent";

impl Engine {
    pub(crate) fn start(kind: Kind) -> Result<Engine> {
        let name = match kind {
            Kind::Berth => "berth",
            Kind::Dockerd => "dockerd",
            Kind::Podman => "podman",
        };
        let folder = tempfile::tempdir()?;
        let group = Group::create(name)?;
        let namespace = format!("bench-{name}-{}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &namespace]))?;
        run(Command::new("ip").args(["-n", &namespace, "link", "set", "lo", "up"]))?;
        let path = |file: &str| folder.path().join(file);
        // As /run is on every host with systemd.
        std::fs::create_dir(path(RUN))?;
        run(Command::new("mount")
            .args(["-t", "tmpfs", "berth-bench"])
            .arg(path(RUN)))?;
        let log = File::create(path("log"))?;
        let socket = format!("unix://{}", path("sock").display());
        let words = match kind {
            Kind::Podman => podman_words(&socket, &path)?,
            _ => daemon_words(kind, &socket, &path)?,
        };
        // A network namespace has no route yet: all choose what they like best. The mounts of `ip netns exec` would
        // hide the cgroups, so nsenter's plain call is used, after the shell has moved itself into the group.
        let script = format!(
            "echo $$ > {} && exec \"$@\"",
            group.processes_file()?.display()
        );
        // podman takes loopback for encrypted unless told.
        let registries = path("registries.conf");
        std::fs::write(
            &registries,
            "[[registry]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n",
        )?;
        let settings = path("containers.conf");
        let networks = path("networks");
        std::fs::create_dir(&networks)?;
        std::fs::write(&settings, podman_settings(&networks))?;
        let child = Command::new("nsenter")
            .env("CONTAINERS_REGISTRIES_CONF", registries)
            .env("CONTAINERS_CONF", settings)
            .arg(format!("--net=/run/netns/{namespace}"))
            .args(["sh", "-c", &script, "sh"])
            .args(&words)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start nsenter")?;
        let socket = path("sock");
        let engine = Engine {
            kind,
            folder,
            socket,
            namespace,
            group,
            child,
        };
        engine.wait_until_ready()?;
        Ok(engine)
    }

    /// The file of its network namespace.
    pub(crate) fn namespace(&self) -> String {
        format!("/run/netns/{}", self.namespace)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        while self.api().get("/_ping").is_err() {
            // `_ping` answers no JSON: an answer at all is what counts.
            if Instant::now() > end {
                bail!(
                    "an engine does not answer:\n{}",
                    std::fs::read_to_string(self.folder.path().join("log"))?
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn api(&self) -> Api<'_> {
        Api {
            socket: &self.socket,
        }
    }

    /// The engine's own process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Folders of the engine, by which its helpers' command lines can be told.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }
}

fn daemon_words(kind: Kind, socket: &str, path: &dyn Fn(&str) -> PathBuf) -> Result<Vec<String>> {
    let mut words: Vec<String> = match kind {
        Kind::Berth => vec![target().join(AGENT).display().to_string(), "serve".into()],
        _ => vec![find("dockerd").context("no dockerd")?.display().to_string()],
    };
    words.extend(["--host".into(), socket.to_owned()]);
    for (flag, file) in [
        ("--data-root", "data"),
        ("--exec-root", RUN),
        ("--pidfile", "pid"),
    ] {
        words.extend([flag.into(), path(file).display().to_string()]);
    }
    words.extend(["--bip".into(), "10.99.0.1/16".into()]);
    Ok(words)
}

/// Networks of podman's own, in a subnet that is nobody else's, with what Debian's package of podman brings along.
fn podman_settings(networks: &Path) -> String {
    format!(
        "[network]\nnetwork_backend = \"cni\"\nnetwork_config_dir = \"{}\"\ndefault_subnet = \"10.98.0.0/16\"\n",
        networks.display()
    )
}

/// podman's service with Docker's API. runc, because crun 1.8 refuses hosts with both kinds of control groups.
fn podman_words(socket: &str, path: &dyn Fn(&str) -> PathBuf) -> Result<Vec<String>> {
    let mut words = vec![find("podman").context("no podman")?.display().to_string()];
    for (flag, file) in [
        ("--root", "data"),
        ("--runroot", RUN),
        ("--tmpdir", "run/tmp"),
    ] {
        words.extend([flag.into(), path(file).display().to_string()]);
    }
    words.extend(
        [
            "--cgroup-manager=cgroupfs",
            "--runtime=runc",
            "--storage-driver=overlay",
            "--events-backend=file",
            "system",
            "service",
            "--time=0",
            socket,
        ]
        .map(str::to_owned),
    );
    Ok(words)
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Ok(list) = self.api().get("/containers/json?all=1") {
            for container in list.as_array().into_iter().flatten() {
                if let Some(id) = container["Id"].as_str() {
                    let _ = self.api().delete(&format!("/containers/{id}?force=1"));
                }
            }
        }
        harness::agent::terminate(&mut self.child);
        // With whatever an engine that ends leaves mounted in it.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.folder.path().join(RUN))
            .status();
        let _ = Command::new("ip")
            .args(["netns", "delete", &self.namespace])
            .status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}
