//! A container's control group, on either version of the interface: made, limited ([`limits`]), looked at ([`stats`]),
//! frozen, removed.
//!
//! Everything is done with the files of /sys/fs/cgroup, in `serve` where it can be (statistics, new limits, removal) and
//! in the shim where it must be (making the group and entering it).

mod hierarchies;
pub mod limits;
mod memory_watch;
mod stats;

pub use hierarchies::{Hierarchies, Hierarchy, Version};
pub use memory_watch::MemoryWatch;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A container's group by its path relative to each hierarchy's root.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Arc<Hierarchies>,
    path: String,
}

impl Cgroup {
    pub fn new(hierarchies: &Arc<Hierarchies>, path: &str) -> Cgroup {
        Cgroup {
            hierarchies: Arc::clone(hierarchies),
            path: path.trim_matches('/').to_owned(),
        }
    }

    pub fn version(&self) -> Version {
        self.hierarchies.version
    }

    /// The group's folder in the hierarchy of a controller; `None` where the host has no such controller.
    pub fn folder(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = self.hierarchies.of_controller(controller)?;
        Some(hierarchy.mount.join(&self.path))
    }

    /// Each hierarchy with the group's folder in it.
    pub fn places(&self) -> impl Iterator<Item = (&Hierarchy, PathBuf)> {
        self.hierarchies.all.iter().zip(self.folders())
    }

    /// Where the host's hierarchies are mounted.
    pub fn mount_points(&self) -> Vec<PathBuf> {
        let all = &self.hierarchies.all;
        all.iter().map(|one| one.mount.clone()).collect()
    }

    /// The group's only folder (v2).
    pub fn unified(&self) -> PathBuf {
        self.folders().next().unwrap_or_default()
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies
            .all
            .iter()
            .map(|hierarchy| hierarchy.mount.join(&self.path))
    }

    /// Makes the group, new and empty. What an earlier run has left under this name is removed first.
    pub fn create(&self) -> io::Result<()> {
        for hierarchy in &self.hierarchies.all {
            let folder = hierarchy.mount.join(&self.path);
            match make(&folder) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.remove()?;
                    return self.create();
                }
                result => result?,
            }
            match self.hierarchies.version {
                Version::V2 => offer_controllers(hierarchy, &folder)?,
                Version::V1 if hierarchy.controllers.iter().any(|one| one == "cpuset") => {
                    // A group without processors and memory nodes takes no process.
                    inherit(&hierarchy.mount, &folder, "cpuset.cpus")?;
                    inherit(&hierarchy.mount, &folder, "cpuset.mems")?;
                }
                Version::V1 => {}
            }
        }
        Ok(())
    }

    /// Moves the calling process, which must have one thread, into the group.
    pub fn enter(&self) -> io::Result<()> {
        // Moving a process by `cgroup.procs` waits for every processor to have been idle or elsewhere (milliseconds); a
        // thread that moves itself does not.
        let file = match self.hierarchies.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.procs",
        };
        for folder in self.folders() {
            write(&folder.join(file), "0")?;
        }
        Ok(())
    }

    /// The group below this one that a process is in (v2).
    pub fn below_of(&self, pid: i32) -> Option<Cgroup> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let below = path.split_once(&self.path)?.1;
        below.starts_with('/').then(|| Cgroup {
            hierarchies: Arc::clone(&self.hierarchies),
            path: format!("{}{below}", self.path),
        })
    }

    /// Host process ids in the group and the groups below it.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        if let Some(folder) = self.folders().find(|folder| folder.is_dir()) {
            collect_processes(&folder, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Stops every process from running; returns once it is so.
    pub fn freeze(&self) -> io::Result<()> {
        match self.hierarchies.version {
            Version::V2 => {
                write(&self.freezer("cgroup.freeze")?, "1")?;
                self.wait_for("cgroup.events", "frozen 1")
            }
            Version::V1 => {
                write(&self.freezer("freezer.state")?, "FROZEN")?;
                self.wait_for("freezer.state", "FROZEN")
            }
        }
    }

    pub fn thaw(&self) -> io::Result<()> {
        match self.hierarchies.version {
            Version::V2 => write(&self.freezer("cgroup.freeze")?, "0"),
            Version::V1 => write(&self.freezer("freezer.state")?, "THAWED"),
        }
    }

    fn freezer(&self, file: &str) -> io::Result<PathBuf> {
        let folder = match self.hierarchies.version {
            Version::V2 => Some(self.unified()),
            Version::V1 => self.folder("freezer"),
        };
        folder
            .map(|folder| folder.join(file))
            .ok_or_else(|| io::Error::other("the host has no freezer control group"))
    }

    fn wait_for(&self, file: &str, line: &str) -> io::Result<()> {
        let path = self.freezer(file)?;
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            if fs::read_to_string(&path)?.lines().any(|one| one == line) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // A v1 group may stick in FREEZING while a process is in the kernel: do not leave it half frozen.
        self.thaw()?;
        Err(io::Error::other("the processes did not stop within 10 s"))
    }

    /// Whether the kernel has killed a process of the group for want of memory.
    pub fn oom_killed(&self) -> bool {
        let file = match self.hierarchies.version {
            Version::V2 => "memory.events",
            Version::V1 => "memory.oom_control",
        };
        self.folder("memory")
            .and_then(|folder| fs::read_to_string(folder.join(file)).ok())
            .is_some_and(|text| oom_kills(&text) > 0)
    }

    /// Kills every process of the group.
    pub fn kill(&self) {
        if self.hierarchies.version == Version::V2
            && write(&self.unified().join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.processes().unwrap_or_default() {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        // A process that is frozen (on v1, or before Linux 5.14) dies only when it runs again.
        let _ = self.thaw();
    }

    /// Kills what is left and removes the group. What is not there is fine.
    pub fn remove(&self) -> io::Result<()> {
        if self.path.is_empty() {
            return Err(io::Error::other(
                "the root control group is not a container's",
            ));
        }
        let end = Instant::now() + Duration::from_secs(5);
        let mut pause = Duration::from_millis(1);
        loop {
            let mut busy = None;
            for folder in self.folders() {
                if let Err(error) = remove_tree(&folder)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    busy = Some(error);
                }
            }
            match busy {
                None => return Ok(()),
                Some(error) if Instant::now() > end => return Err(error),
                Some(_) => {
                    self.kill();
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
            }
        }
    }
}

/// The count in `memory.events` or `memory.oom_control`.
fn oom_kills(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Writes to a control file, which must be there.
fn write(path: &Path, value: &str) -> io::Result<()> {
    use io::Write;
    // One write(2): the kernel takes each as a whole order.
    fs::OpenOptions::new()
        .write(true)
        .open(path)?
        .write_all(value.as_bytes())
}

/// Makes a folder, which must be new, and those above it.
fn make(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(above) = folder.parent() {
                fs::create_dir_all(above)?;
            }
            fs::create_dir(folder)
        }
        result => result,
    }
}

/// Gives a cpuset group its parent's value of a file, and a parent without one its own parent's. Returns the value.
fn inherit(mount: &Path, folder: &Path, file: &str) -> io::Result<String> {
    let path = folder.join(file);
    let value = fs::read_to_string(&path)?;
    let Some(above) = folder.parent().filter(|_| folder != mount) else {
        return Ok(value);
    };
    if !value.trim().is_empty() {
        return Ok(value);
    }
    let value = inherit(mount, above, file)?;
    write(&path, value.trim())?;
    Ok(value)
}

/// Makes a v2 hierarchy's controllers available in a group: every group above it must pass them on.
fn offer_controllers(hierarchy: &Hierarchy, folder: &Path) -> io::Result<()> {
    let here = fs::read_to_string(folder.join("cgroup.controllers"))?;
    let lacks = |name: &&String| !here.split_whitespace().any(|one| one == name.as_str());
    let missing: Vec<&String> = hierarchy.controllers.iter().filter(lacks).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut above: Vec<&Path> = folder
        .ancestors()
        .skip(1)
        .take_while(|one| one.starts_with(&hierarchy.mount))
        .collect();
    above.reverse();
    for group in above {
        for name in &missing {
            // One that cannot be passed on (processes in the group, a realtime process) is missed where a limit of it
            // is set, and the error says which file is not there.
            let _ = write(&group.join("cgroup.subtree_control"), &format!("+{name}"));
        }
    }
    Ok(())
}

fn collect_processes(folder: &Path, pids: &mut Vec<u32>) -> io::Result<()> {
    let text = match fs::read_to_string(folder.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // A threaded v2 group has no list of its own; its processes are in its parent's.
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => String::new(),
        Err(error) => return Err(error),
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_processes(&entry.path(), pids)?;
        }
    }
    Ok(())
}

/// A group can be removed once the groups below it are; its files are not removed one by one.
fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {}
        other => return other,
    }
    for entry in fs::read_dir(folder)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = remove_tree(&entry.path());
        }
    }
    fs::remove_dir(folder)
}

#[cfg(test)]
mod tests;
