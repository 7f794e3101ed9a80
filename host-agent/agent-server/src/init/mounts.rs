//! The first minutes of a file system tree: the kernel's own file systems, and a root that containers can leave.

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_move,
};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const HARMLESS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Mounts what every program expects. Called once, first of all.
pub fn kernel_file_systems() -> Result<()> {
    leave_rootfs()?;
    // devtmpfs may already be there (CONFIG_DEVTMPFS_MOUNT does not apply to an initramfs, but costs nothing to allow).
    put(
        "devtmpfs",
        "/dev",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "mode=0755",
    )?;
    console();
    put("proc", "/proc", HARMLESS, "")?;
    put("sysfs", "/sys", HARMLESS, "")?;
    put(
        "tmpfs",
        "/run",
        MountFlags::NOSUID | MountFlags::NODEV,
        "mode=0755",
    )?;
    put(
        "tmpfs",
        "/tmp",
        MountFlags::NOSUID | MountFlags::NODEV,
        "mode=1777",
    )?;
    put(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    put(
        "tmpfs",
        "/dev/shm",
        MountFlags::NOSUID | MountFlags::NODEV,
        "mode=1777",
    )?;
    put("mqueue", "/dev/mqueue", HARMLESS, "")?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
        ("/var/run", "/run"),
        ("/etc/mtab", "/proc/self/mounts"),
    ] {
        let _ = fs::create_dir_all(Path::new(link).parent().unwrap_or(Path::new("/")));
        // devtmpfs brings a ptmx node of its own; containers and sshd want the one of our devpts instance.
        if link == "/dev/ptmx" {
            let _ = fs::remove_file(link);
        }
        let _ = symlink(target, link);
    }
    // Where the image has nothing to say these are Docker's and a server's usual choices.
    let _ = mount(
        "securityfs",
        "/sys/kernel/security",
        "securityfs",
        HARMLESS,
        None::<&std::ffi::CStr>,
    );
    let _ = mount("bpf", "/sys/fs/bpf", "bpf", HARMLESS, Some(c"mode=700"));
    Ok(())
}

/// The root of an initramfs is the kernel's `rootfs`, which has no parent mount, so `pivot_root` refuses to leave it
/// and no container could start. Bound onto itself and moved over `/` it is an ordinary mount: no copy, no memory.
fn leave_rootfs() -> Result<()> {
    fs::create_dir_all("/.root")?;
    mount_bind("/", "/.root").context("cannot bind the root")?;
    rustix::process::chdir("/.root")?;
    mount_move(".", "/").context("cannot move the root")?;
    rustix::process::chroot(".").context("cannot enter the root")?;
    rustix::process::chdir("/")?;
    let _ = fs::remove_dir("/.root");
    // Private: mounts made by one container's helper must not appear in another's.
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    Ok(())
}

/// cgroup v2 with every controller handed down.
pub fn control_groups() -> Result<()> {
    let root = "/sys/fs/cgroup";
    if put("cgroup2", root, HARMLESS, "nsdelegate,memory_recursiveprot").is_err() {
        put("cgroup2", root, HARMLESS, "nsdelegate")?;
    }
    let controllers = fs::read_to_string(format!("{root}/cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        // One at a time: a controller that cannot be delegated must not take the others with it.
        let _ = fs::write(
            format!("{root}/cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
    Ok(())
}

fn put(kind: &str, target: &str, flags: MountFlags, data: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("cannot make {target}"))?;
    let data = std::ffi::CString::new(data).expect("options hold no NUL");
    match mount(kind, target, kind, flags, Some(data.as_c_str())) {
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot mount {kind} at {target}")),
    }
}

/// Standard input, output and error go to the console, wherever the kernel left them.
fn console() {
    if let Ok(console) =
        rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY, Mode::empty())
    {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
}

/// Unmounts everything below `root` and `root` itself, deepest first; what is still busy is made read-only.
pub fn unmount_below(root: &str) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for target in below(&table, root).iter().rev() {
        if rustix::mount::unmount(target.as_str(), UnmountFlags::empty()).is_err() {
            let _ = rustix::mount::mount_remount(target.as_str(), MountFlags::RDONLY, c"");
            let _ = rustix::mount::unmount(target.as_str(), UnmountFlags::DETACH);
        }
    }
}

/// Mount points of `table` (`/proc/self/mountinfo`) that are `root` or below it, in the order they were mounted.
fn below(table: &str, root: &str) -> Vec<String> {
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|target| target.replace("\\040", " "))
        .filter(|target| {
            target == root
                || target
                    .strip_prefix(root)
                    .is_some_and(|rest| rest.starts_with('/'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_folder_are_found_in_order() {
        let table = "1 0 0:1 / / rw - rootfs rootfs rw\n\
            2 1 0:2 / /var/lib/berth rw - ext4 /dev/vdb rw\n\
            3 1 0:3 / /var/lib/berth-other rw - tmpfs x rw\n\
            4 2 0:4 / /var/lib/berth/a\\040b rw - overlay overlay rw\n";
        assert_eq!(
            below(table, "/var/lib/berth"),
            ["/var/lib/berth", "/var/lib/berth/a b"]
        );
    }
}
