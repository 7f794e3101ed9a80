//! Where this host's control groups are mounted, and what each mount controls.

use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Which interface a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// One hierarchy a controller. A "hybrid" host is one too: its v2 mount controls nothing.
    V1,
    /// One hierarchy for all.
    V2,
}

/// Everything mounted, found once: reading the table of mounts takes time in proportion to the containers there are.
/// A shim gets it from serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchies {
    pub version: Version,
    pub all: Vec<Hierarchy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    pub mount: PathBuf,
    /// `memory`, or `name=systemd` of a hierarchy that controls nothing. On v2 what its root offers.
    pub controllers: Vec<String>,
}

impl Hierarchies {
    /// This host's, looked for at the first call.
    pub fn of_this_host() -> Arc<Hierarchies> {
        static FOUND: OnceLock<Arc<Hierarchies>> = OnceLock::new();
        let find = || {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            Arc::new(Hierarchies::of_mounts(&mounts))
        };
        Arc::clone(FOUND.get_or_init(find))
    }

    /// One v2 hierarchy, wherever it is.
    pub fn unified(mount: &Path) -> Hierarchies {
        let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
        Hierarchies {
            version: Version::V2,
            all: vec![Hierarchy {
                mount: mount.to_owned(),
                controllers: controllers.split_whitespace().map(str::to_owned).collect(),
            }],
        }
    }

    /// From the text of /proc/PID/mountinfo.
    fn of_mounts(mountinfo: &str) -> Hierarchies {
        let mut v1: Vec<Hierarchy> = Vec::new();
        let mut v2 = None;
        for line in mountinfo.lines() {
            // `32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu`
            let Some((place, rest)) = line.split_once(" - ") else {
                continue;
            };
            let mut rest = rest.split(' ');
            let (kind, options) = (rest.next().unwrap_or(""), rest.nth(1).unwrap_or(""));
            let mount = PathBuf::from(place.split(' ').nth(4).unwrap_or(""));
            match kind {
                "cgroup2" => v2 = v2.or(Some(mount)),
                "cgroup" => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|word| *word == "name=systemd" || CONTROLLERS.contains(word))
                        .map(str::to_owned)
                        .collect();
                    // The same hierarchy may be mounted at more than one place.
                    let known = v1.iter().any(|other| other.controllers == controllers);
                    if !controllers.is_empty() && !known {
                        v1.push(Hierarchy { mount, controllers });
                    }
                }
                _ => {}
            }
        }
        match v2 {
            Some(mount) if v1.is_empty() => Hierarchies::unified(&mount),
            _ => Hierarchies {
                version: Version::V1,
                all: v1,
            },
        }
    }

    /// Whether limits of this kind can be set. The names are v1's; v2's `io` is `blkio`.
    pub fn controls(&self, controller: &str) -> bool {
        self.of_controller(controller).is_some()
    }

    pub(super) fn of_controller(&self, controller: &str) -> Option<&Hierarchy> {
        let name = match (self.version, controller) {
            (Version::V2, "blkio") => "io",
            (Version::V2, "cpuacct") => "cpu",
            (_, name) => name,
        };
        self.all
            .iter()
            .find(|hierarchy| hierarchy.controllers.iter().any(|one| one == name))
    }

    /// Whether the root of the hierarchy of this controller, or groups one below it, have a file of that name. It says
    /// what the kernel was built with.
    pub fn has_file(&self, controller: &str, file: &str) -> bool {
        let Some(hierarchy) = self.of_controller(controller) else {
            return false;
        };
        hierarchy.mount.join(file).exists()
            || fs::read_dir(&hierarchy.mount).is_ok_and(|entries| {
                entries
                    .flatten()
                    .any(|entry| entry.path().join(file).exists())
            })
    }
}

/// v1's controllers, to tell them from other mount options.
const CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_host_is_v1() {
        let found = Hierarchies::of_mounts(
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
             32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
             50 60 0:29 /x /other rw,relatime - cgroup cgroup rw,cpu,cpuacct\n",
        );
        assert_eq!(found.version, Version::V1);
        let names: Vec<_> = found
            .all
            .iter()
            .map(|one| (one.mount.to_str().unwrap(), one.controllers.join("+")))
            .collect();
        assert_eq!(
            names,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu+cpuacct".to_owned()),
                ("/sys/fs/cgroup/systemd", "name=systemd".to_owned()),
            ]
        );
        assert!(found.controls("cpuacct") && !found.controls("memory"));
    }

    #[test]
    fn one_mount_for_all_is_v2() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "cpu io memory\n").unwrap();
        let line = format!(
            "30 23 0:26 / {} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
            folder.path().display()
        );
        let found = Hierarchies::of_mounts(&line);
        assert_eq!(found, Hierarchies::unified(folder.path()));
        assert!(found.controls("blkio") && found.controls("cpuacct") && !found.controls("pids"));
    }
}
