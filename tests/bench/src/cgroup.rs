//! CPU time of a group of processes, from the kernel's own books: cgroup v1's cpuacct or v2's cpu.stat.

use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A cgroup of the benchmark's own.
pub(crate) struct Group {
    name: String,
    folder: PathBuf,
    version: u8,
}

/// The engine's own group on v2.
const DAEMON: &str = "daemon";

impl Group {
    /// Makes it. v1 hosts charge CPU in the cpuacct hierarchy.
    pub(crate) fn create(name: &str) -> Result<Group> {
        let name = format!("berth-bench-{name}-{}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/cpuacct");
        let (root, version) = if v1.is_dir() {
            (v1, 1)
        } else {
            (Path::new("/sys/fs/cgroup"), 2)
        };
        let folder = root.join(&name);
        fs::create_dir(&folder)
            .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        Ok(Group {
            name,
            folder,
            version,
        })
    }

    /// The name to give as a container's cgroup parent.
    pub(crate) fn parent(&self) -> String {
        format!("/{}", self.name)
    }

    /// Where a process is put to be charged here. On v2 a group with children holds none itself.
    pub(crate) fn processes_file(&self) -> Result<PathBuf> {
        if self.version == 1 {
            return Ok(self.folder.join("cgroup.procs"));
        }
        let daemon = self.folder.join(DAEMON);
        fs::create_dir_all(&daemon).context("cannot make the daemon's cgroup")?;
        Ok(daemon.join("cgroup.procs"))
    }

    /// Milliseconds charged so far.
    pub(crate) fn cpu_ms(&self) -> Result<f64> {
        self.charged(&self.folder)
    }

    /// Milliseconds charged to one container whose parent this is.
    pub(crate) fn cpu_ms_of(&self, container: &str) -> Result<f64> {
        // podman puts a word before the id.
        let children = self.children()?;
        let name = children.iter().find(|name| name.ends_with(container));
        self.charged(&self.folder.join(name.map_or(container, String::as_str)))
    }

    /// Names of the groups of containers.
    pub(crate) fn children(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.insert(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }

    /// How many processes containers have.
    pub(crate) fn processes(&self) -> Result<usize> {
        let mut count = 0;
        for name in self.children()?.iter().filter(|name| *name != DAEMON) {
            let list = fs::read_to_string(self.folder.join(name).join("cgroup.procs"))?;
            count += list.lines().count();
        }
        Ok(count)
    }

    fn charged(&self, folder: &Path) -> Result<f64> {
        if self.version == 1 {
            let text = fs::read_to_string(folder.join("cpuacct.usage"))?;
            return Ok(text.trim().parse::<f64>()? / 1e6);
        }
        let text = fs::read_to_string(folder.join("cpu.stat"))?;
        let Some(usage) = text
            .lines()
            .find_map(|line| line.strip_prefix("usage_usec "))
        else {
            bail!("cpu.stat has no usage_usec");
        };
        Ok(usage.parse::<f64>()? / 1e3)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove(&self.folder);
        // A container's parent exists in every v1 hierarchy.
        let others = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        for hierarchy in others {
            remove(&hierarchy.path().join(&self.name));
        }
    }
}

/// Ends what is still in a cgroup (podman's monitors of an exec stay for minutes) and removes it with those below it.
fn remove(folder: &Path) {
    let left = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    if !left.is_empty() {
        let _ = Command::new("kill")
            .arg("-KILL")
            .args(left.split_whitespace())
            .status();
        std::thread::sleep(Duration::from_millis(100));
    }
    if let Ok(entries) = fs::read_dir(folder) {
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}
