//! Facts about this host, from /proc and /etc, for `/info` and `/version`.

use std::fs;
use std::io;
use std::path::Path;

/// What does not change while the engine runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// `uname -r`.
    pub kernel_version: String,
    /// PRETTY_NAME of os-release.
    pub operating_system: String,
    /// VERSION_ID of os-release.
    pub os_version: String,
    /// `x86_64`, `aarch64`.
    pub machine: String,
    /// Go's name for it, which Docker's API uses in places: `amd64`, `arm64`.
    pub architecture: &'static str,
    pub cpus: usize,
    /// Bytes.
    pub memory: u64,
    /// Of the file system under the data root: `extfs`, `xfs`, `tmpfs` ... in Docker's words.
    pub backing_file_system: &'static str,
}

impl HostFacts {
    /// Reads them; what cannot be read is empty or 0.
    pub fn read(data_root: &Path) -> HostFacts {
        let release = ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(path).ok())
            .unwrap_or_default();
        HostFacts {
            kernel_version: kernel_text("osrelease"),
            operating_system: release_value(&release, "PRETTY_NAME")
                .unwrap_or_else(|| "Linux".into()),
            os_version: release_value(&release, "VERSION_ID").unwrap_or_default(),
            machine: std::env::consts::ARCH.into(),
            architecture: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            backing_file_system: file_system(data_root),
        }
    }
}

/// The host's name now.
pub fn hostname() -> String {
    kernel_text("hostname")
}

/// Whether the kernel forwards IPv4 packets now.
pub fn ipv4_forwarding() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

/// Whether packets between the ports of a bridge go through `iptables` (or `ip6tables`) now: without the kernel's module for it,
/// they do not.
pub fn filters_bridges(tables: &str) -> bool {
    let path = format!("/proc/sys/net/bridge/bridge-nf-call-{tables}");
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

/// How many files this process has open.
pub fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Says why this process cannot be the engine: it is not root, or root without the right to administer the host.
pub fn check_privileges() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err(format!(
            "the engine mounts file systems and makes namespaces, which needs root; this is user {}. Try: sudo host-agent serve",
            rustix::process::geteuid().as_raw()
        ));
    }
    const SYS_ADMIN: u32 = 21;
    const NET_ADMIN: u32 = 12;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    let Some(effective) = effective else {
        return Ok(());
    };
    for (bit, name, use_) in [
        (
            SYS_ADMIN,
            "CAP_SYS_ADMIN",
            "to mount file systems and make namespaces",
        ),
        (
            NET_ADMIN,
            "CAP_NET_ADMIN",
            "to connect containers to networks",
        ),
    ] {
        if effective & (1 << bit) == 0 {
            return Err(format!(
                "root has no {name} here, which the engine needs {use_}. If this is a container, start it with --privileged"
            ));
        }
    }
    Ok(())
}

fn kernel_text(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/kernel/{name}"))
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn release_value(release: &str, key: &str) -> Option<String> {
    release.lines().find_map(|line| {
        let value = line.strip_prefix(key)?.strip_prefix('=')?;
        Some(value.trim().trim_matches(['"', '\'']).to_owned())
    })
}

fn memory_total(meminfo: &str) -> u64 {
    meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(0, |kib| kib * 1024)
}

/// By the magic numbers of linux/magic.h, in the words of moby's graphdriver.
fn file_system(path: &Path) -> &'static str {
    let read = || -> io::Result<u64> {
        let facts = rustix::fs::statfs(path)?;
        Ok(facts.f_type as u64 & 0xffff_ffff)
    };
    match read() {
        Ok(0xef53) => "extfs",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683e) => "btrfs",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x2fc1_2fc1) => "zfs",
        Ok(0x794c_7630) => "overlayfs",
        Ok(0xf2f5_2010) => "f2fs",
        Ok(0x6969) => "nfs",
        _ => "<unknown>",
    }
}

/// Whether a test may do what only root may; if not, it says so.
#[cfg(test)]
pub(crate) fn lets_tests(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: {what} needs root");
    }
    is_root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found() {
        let release =
            "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nVERSION_ID='13'\n";
        assert_eq!(
            release_value(release, "PRETTY_NAME").as_deref(),
            Some("Debian GNU/Linux 13 (trixie)")
        );
        assert_eq!(release_value(release, "VERSION_ID").as_deref(), Some("13"));
        assert_eq!(release_value(release, "ID"), None);
        assert_eq!(
            memory_total("MemFree: 1 kB\nMemTotal:   2048 kB\n"),
            2048 * 1024
        );
    }

    #[test]
    fn this_host_has_facts() {
        let facts = HostFacts::read(Path::new("/"));
        assert!(!facts.kernel_version.is_empty());
        assert!(facts.cpus > 0 && facts.memory > 0);
        assert!(open_files() > 2);
    }
}
