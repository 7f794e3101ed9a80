//! Docker's own engine, private to one test or recording: own folders, socket, and a network namespace.

use crate::agent::terminate;
use crate::namespace::Namespace;
use crate::programs::find;
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// It starts containerd first; seconds on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running dockerd; ended with its containers when dropped.
pub struct Dockerd {
    folder: tempfile::TempDir,
    process: Child,
}

impl Dockerd {
    /// Starts one in a namespace.
    pub fn start(namespace: &Namespace, flags: &[&str]) -> Result<Dockerd> {
        let program = find("dockerd").context("there is no dockerd here: install docker.io")?;
        let folder = tempfile::Builder::new()
            .prefix("berth-dockerd-")
            .tempdir()
            .context("make a folder for dockerd")?;
        let path = |name: &str| folder.path().join(name);
        let log = File::create(path("log")).context("make dockerd's log")?;
        // Its mounts in a namespace, too: it leaves some of them behind.
        let process = namespace
            .command("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(program)
            .arg(format!("--host=unix://{}", path("api.sock").display()))
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("run"))
            .arg("--pidfile")
            .arg(path("pid"))
            .args(["--bip", "10.99.0.1/16"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("start nsenter: install util-linux")?;
        let mut dockerd = Dockerd { folder, process };
        let start = Instant::now();
        while UnixStream::connect(dockerd.socket()).is_err() {
            if dockerd.process.try_wait()?.is_some() || start.elapsed() > START_LIMIT {
                bail!("dockerd does not answer:\n{}", dockerd.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(dockerd)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // SIGTERM stops its containers, too.
        terminate(&mut self.process);
    }
}
