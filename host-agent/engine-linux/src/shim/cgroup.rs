//! A container's control group, on either version of the interface: its processes, freezing, out-of-memory kills,
//! removal. Limits are applied by libcgroups.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";

/// Which interface this host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// A host is v2 only when the root itself is; a "hybrid" one has its controllers on v1.
pub fn version() -> Version {
    match nix::sys::statfs::statfs(ROOT) {
        Ok(stat) if stat.filesystem_type() == nix::sys::statfs::CGROUP2_SUPER_MAGIC => Version::V2,
        _ => Version::V1,
    }
}

/// A container's group by its path relative to each hierarchy's root.
#[derive(Debug, Clone)]
pub struct Cgroup {
    version: Version,
    path: String,
}

impl Cgroup {
    pub fn new(path: &str) -> Cgroup {
        Cgroup {
            version: version(),
            path: path.trim_matches('/').to_owned(),
        }
    }

    /// The group's folder under one v1 controller, or the only one on v2.
    pub fn folder(&self, controller: &str) -> PathBuf {
        match self.version {
            Version::V1 => Path::new(ROOT).join(controller).join(&self.path),
            Version::V2 => Path::new(ROOT).join(&self.path),
        }
    }

    /// Every folder of the group.
    fn folders(&self) -> Vec<PathBuf> {
        match self.version {
            Version::V2 => vec![self.folder("")],
            Version::V1 => {
                let mut folders: Vec<PathBuf> = fs::read_dir(ROOT)
                    .into_iter()
                    .flatten()
                    .flatten()
                    // Co-mounted controllers have links to one folder.
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path().join(&self.path))
                    .filter(|folder| folder.is_dir())
                    .collect();
                folders.sort();
                folders
            }
        }
    }

    /// Moves the calling process into the group.
    pub fn enter(&self) -> io::Result<()> {
        let folders = self.folders();
        if folders.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        for folder in folders {
            fs::write(folder.join("cgroup.procs"), "0")?;
        }
        Ok(())
    }

    /// The group below this one that a process is in (v2).
    pub fn below_of(&self, pid: i32) -> Option<Cgroup> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        let below = path.split_once(&self.path)?.1;
        below.starts_with('/').then(|| Cgroup {
            version: self.version,
            path: format!("{}{below}", self.path),
        })
    }

    /// Host process ids in the group and the groups below it.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let folder = match self.version {
            Version::V2 => self.folder(""),
            Version::V1 => ["pids", "devices", "memory", "cpu", "freezer"]
                .iter()
                .map(|controller| self.folder(controller))
                .find(|folder| folder.is_dir())
                .unwrap_or_default(),
        };
        let mut pids = Vec::new();
        collect_processes(&folder, &mut pids)?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Stops every process from running; returns once it is so.
    pub fn freeze(&self) -> io::Result<()> {
        match self.version {
            Version::V2 => {
                fs::write(self.folder("").join("cgroup.freeze"), "1")?;
                self.wait_for("cgroup.events", "frozen 1")
            }
            Version::V1 => {
                fs::write(self.folder("freezer").join("freezer.state"), "FROZEN")?;
                self.wait_for("freezer.state", "FROZEN")
            }
        }
    }

    pub fn thaw(&self) -> io::Result<()> {
        match self.version {
            Version::V2 => fs::write(self.folder("").join("cgroup.freeze"), "0"),
            Version::V1 => fs::write(self.folder("freezer").join("freezer.state"), "THAWED"),
        }
    }

    fn wait_for(&self, file: &str, line: &str) -> io::Result<()> {
        let path = self.folder("freezer").join(file);
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
        let path = match self.version {
            Version::V2 => self.folder("").join("memory.events"),
            Version::V1 => self.folder("memory").join("memory.oom_control"),
        };
        fs::read_to_string(path).is_ok_and(|text| {
            text.lines()
                .filter_map(|line| line.strip_prefix("oom_kill "))
                .any(|count| count.trim() != "0")
        })
    }

    /// Kills every process of the group.
    pub fn kill(&self) {
        if self.version == Version::V2
            && fs::write(self.folder("").join("cgroup.kill"), "1").is_ok()
        {
            return;
        }
        for pid in self.processes().unwrap_or_default() {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        if self.version == Version::V1 {
            // A frozen process dies only when it runs again.
            let _ = self.thaw();
        }
    }

    /// Kills what is left and removes the group. What is not there is fine.
    pub fn remove(&self) -> io::Result<()> {
        if self.path.is_empty() {
            return Err(io::Error::other(
                "the root control group is not a container's",
            ));
        }
        let folders = self.folders();
        let end = Instant::now() + Duration::from_secs(5);
        let mut pause = Duration::from_millis(1);
        loop {
            let mut busy = None;
            for folder in &folders {
                if let Err(error) = remove_tree(folder)
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
