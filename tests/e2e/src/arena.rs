//! Where a suite runs: a network of its own with a registry that has the suites' images, and one engine.

use crate::fixtures;
use anyhow::{Context, Result, bail};
use harness::agent::Agent;
use harness::dockerd::Dockerd;
use harness::namespace::Namespace;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

/// Which engine is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Berth,
    Dockerd,
}

enum Engine {
    Berth(Agent),
    Dockerd(Dockerd),
}

/// All of it; fields go in the order in which they must end.
pub struct Arena {
    engine: Engine,
    _registry: FixtureRegistry,
    namespace: Arc<Namespace>,
}

/// Why no suite can run here.
pub fn obstacle() -> Option<String> {
    if let Some(why) = harness::agent::obstacle() {
        return Some(why);
    }
    for (path, package) in [
        ("/bin/busybox", "busybox-static"),
        ("/usr/bin/docker-registry", "docker-registry"),
        ("/usr/bin/nsenter", "util-linux"),
    ] {
        if !Path::new(path).exists() {
            return Some(format!("{path} is missing (package {package})"));
        }
    }
    None
}

impl Arena {
    /// Starts one. `helper` is the program `compat`, which serves the images inside the network.
    pub fn start(kind: Kind, helper: &Path) -> Result<Arena> {
        let namespace = Arc::new(Namespace::create()?);
        let registry = FixtureRegistry::start(&namespace, helper)?;
        let mirror = format!("http://{}", fixtures::REGISTRY);
        let engine = match kind {
            Kind::Berth => {
                let flags = ["--registry-mirror", &mirror, "--experimental"];
                let agent = Agent::start_in(Some(namespace.clone()), &flags);
                Engine::Berth(agent.context("this host cannot run an engine")?)
            }
            Kind::Dockerd => {
                // docker-py's own makefile tests with --experimental.
                let flags = ["--registry-mirror", &mirror, "--experimental"];
                Engine::Dockerd(Dockerd::start(&namespace, &flags)?)
            }
        };
        Ok(Arena {
            engine,
            _registry: registry,
            namespace,
        })
    }

    pub fn socket(&self) -> PathBuf {
        match &self.engine {
            Engine::Berth(agent) => agent.socket(),
            Engine::Dockerd(dockerd) => dockerd.socket(),
        }
    }

    /// `unix://...`
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// A client's command inside the network, pointed at the engine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.namespace.command(program);
        for name in [
            "DOCKER_CONTEXT",
            "DOCKER_TLS_VERIFY",
            "DOCKER_CERT_PATH",
            "DOCKER_API_VERSION",
        ] {
            command.env_remove(name);
        }
        command.env("DOCKER_HOST", self.host());
        command
    }

    /// The engine's log, for a report.
    pub fn log(&self) -> String {
        match &self.engine {
            Engine::Berth(agent) => agent.log(),
            Engine::Dockerd(dockerd) => dockerd.log(),
        }
    }
}

/// `compat fixtures` in the network; it ends when our end of its standard input closes.
struct FixtureRegistry {
    process: Child,
}

impl FixtureRegistry {
    fn start(namespace: &Namespace, helper: &Path) -> Result<FixtureRegistry> {
        let mut process = namespace
            .command(helper)
            .arg("fixtures")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", helper.display()))?;
        let stdout = process.stdout.take().expect("a pipe");
        let registry = FixtureRegistry { process };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.trim() != fixtures::READY {
            bail!("`compat fixtures` did not get ready; its messages are above");
        }
        Ok(registry)
    }
}

impl Drop for FixtureRegistry {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
