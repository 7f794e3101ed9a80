//! Machines in a store of the test's own: `machine create` and what follows. Whatever is left at the end is removed.

use crate::listeners;
use crate::programs::{find, image, program};
use crate::run::{Output, run};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The longest a verb may take under emulation on a busy computer.
pub const LIMIT: Duration = Duration::from_secs(240);

/// A store with its machines.
pub struct Store {
    folder: tempfile::TempDir,
}

/// Why machines cannot run here; tests print it and return.
pub fn obstacle() -> Option<String> {
    if find("qemu-system-x86_64").is_none() {
        return Some("there is no qemu-system-x86_64 here".into());
    }
    if image().is_none() {
        return Some("there is no guest image (cargo xtask image makes it)".into());
    }
    None
}

impl Store {
    /// An empty store.
    pub fn new() -> Store {
        let store = Store {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        std::fs::create_dir(store.home()).expect("a home");
        store
    }

    /// An empty store where machines can run; else `None`, with a line that says why.
    pub fn for_machines() -> Option<Store> {
        if let Some(why) = obstacle() {
            println!("skipped: {why}");
            return None;
        }
        Some(Store::new())
    }

    /// `<store>`
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The home of who types: machines see it.
    pub fn home(&self) -> PathBuf {
        self.path().join("home")
    }

    /// `<store>/machines/<name>`
    pub fn folder_of(&self, name: &str) -> PathBuf {
        self.path().join("machines").join(name)
    }

    /// A `machine` command on this store.
    pub fn machine(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("machine"));
        for name in [
            "MACHINE_DRIVER",
            "MACHINE_DEBUG",
            "DOCKER_HOST",
            "ENGINE_REGISTRY_MIRROR",
            "HTTP_PROXY",
            "http_proxy",
            "HTTPS_PROXY",
            "https_proxy",
            "NO_PROXY",
            "no_proxy",
        ] {
            command.env_remove(name);
        }
        command
            .env("MACHINE_STORAGE_PATH", self.path())
            .env("HOME", self.home())
            .args(arguments);
        command
    }

    /// Runs a verb.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.machine(arguments), LIMIT)
    }

    /// Creates a machine from the image of these sources, emulated: the one accelerator that is everywhere.
    pub fn create(&self, name: &str, flags: &[&str]) -> Output {
        run(&mut self.creating(name, flags), LIMIT)
    }

    /// The command that [`Store::create`] runs.
    pub fn creating(&self, name: &str, flags: &[&str]) -> Command {
        let image = image().expect("for_machines looked for it");
        let image = image.to_string_lossy().into_owned();
        let mut arguments = vec!["create", "--driver", "qemu", "--qemu-image", &image];
        arguments.extend(["--accel", "tcg", "--memory", "768", "--disk", "4096"]);
        arguments.extend(flags);
        arguments.push(name);
        self.machine(&arguments)
    }

    /// What `machine env` tells a shell.
    pub fn environment(&self, name: &str) -> Vec<(String, String)> {
        let text = self.run(&["env", "--shell", "bash", name]).success();
        text.lines()
            .filter_map(|line| line.strip_prefix("export "))
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
            .collect()
    }

    /// A client's command that talks to a machine.
    pub fn client(&self, program: &Path, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .env_remove("DOCKER_CONTEXT")
            .env("DOCKER_CONFIG", self.path().join("client"))
            .envs(self.environment(name))
            .args(arguments);
        command
    }

    /// Our client on a machine.
    pub fn berth(&self, name: &str, arguments: &[&str]) -> Output {
        run(&mut self.client(&program("berth"), name, arguments), LIMIT)
    }

    /// Command lines of this computer that name this store, and their processes.
    fn command_lines(&self) -> Vec<(u32, String)> {
        let needle = self.path().to_string_lossy().into_owned();
        let Ok(entries) = std::fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| {
                let pid = entry.file_name().to_string_lossy().parse().ok()?;
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
            })
            .filter(|(_, line)| line.contains(&needle))
            .collect()
    }

    /// Processes of this computer whose command line names this store.
    pub fn processes(&self) -> Vec<String> {
        let lines = self.command_lines().into_iter();
        lines.map(|(_, line)| line).collect()
    }

    /// Where the machines of this store take TCP connections.
    pub fn listeners(&self) -> BTreeSet<SocketAddr> {
        let lines = self.command_lines().into_iter();
        let processes: Vec<u32> = lines.map(|(pid, _)| pid).collect();
        listeners::of(&processes)
    }
}

impl Default for Store {
    fn default() -> Self {
        Store::new()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let Ok(entries) = std::fs::read_dir(self.path().join("machines")) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if std::thread::panicking() {
                for file in ["console.log", "keeper.log"] {
                    let text = std::fs::read_to_string(entry.path().join(file)).unwrap_or_default();
                    let lines: Vec<&str> = text.lines().collect();
                    let last = lines.len().saturating_sub(40);
                    eprintln!("--- {file} of {name}\n{}\n---", lines[last..].join("\n"));
                }
            }
            let removed = run(&mut self.machine(&["rm", "-f", "-y", &name]), LIMIT);
            if removed.code != Some(0) {
                eprintln!("left over: {}", removed.report());
            }
        }
    }
}
