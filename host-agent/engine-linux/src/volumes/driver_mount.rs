//! What a volume's options name, mounted over its folder: mount(8)'s device, type and options.

use crate::mounted::is_mount_point;
use engine::volumes::DriverMount;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use std::ffi::CString;
use std::io;
use std::net::ToSocketAddrs;
use std::path::Path;

/// Mounts; being mounted already is no error. The error's text is Docker's.
pub(super) fn mount(mount: &DriverMount, target: &Path) -> io::Result<()> {
    if is_mount_point(target)? {
        return Ok(());
    }
    let resolved = match mount.host_to_look_up() {
        None => mount.clone(),
        Some(host) => mount.with_address(host, &look_up(host)?),
    };
    let options = Options::parse(&resolved.options);
    let attempt = || -> io::Result<()> {
        let data = CString::new(options.data.join(","))?;
        rustix::mount::mount(
            resolved.device.as_str(),
            target,
            resolved.kind.as_str(),
            options.flags,
            data.as_c_str(),
        )?;
        let change = || -> io::Result<()> {
            if let Some(propagation) = options.propagation {
                rustix::mount::mount_change(target, propagation)?;
            }
            // A bind takes no other flags when it is made.
            if options
                .flags
                .contains(MountFlags::BIND | MountFlags::RDONLY)
            {
                rustix::mount::mount_remount(target, options.flags, "")?;
            }
            Ok(())
        };
        change().inspect_err(|_| {
            let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
        })
    };
    attempt().map_err(|error| {
        let why = error
            .raw_os_error()
            .map(|number| nix::errno::Errno::from_raw(number).desc().to_lowercase())
            .unwrap_or_else(|| error.to_string());
        // Not the data: it may hold a password.
        let text = format!(
            "mount {}:{}, flags: {:#x}: {why}",
            resolved.device,
            target.display(),
            options.flags.bits()
        );
        io::Error::new(error.kind(), text)
    })
}

fn look_up(host: &str) -> io::Result<String> {
    let failed = |why: String| {
        let text = format!("error resolving passed in network volume address: {host}: {why}");
        io::Error::other(text)
    };
    let addresses = (host, 0u16)
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?;
    let all: Vec<_> = addresses.map(|address| address.ip()).collect();
    let chosen = all.iter().find(|address| address.is_ipv4()).or(all.first());
    chosen
        .map(ToString::to_string)
        .ok_or_else(|| failed("it has no address".to_owned()))
}

/// mount(8)'s comma-separated words: those that are flags, and what the file system itself gets.
struct Options {
    flags: MountFlags,
    propagation: Option<MountPropagationFlags>,
    data: Vec<String>,
}

impl Options {
    fn parse(text: &str) -> Options {
        use MountPropagationFlags as Propagation;
        let mut options = Options {
            flags: MountFlags::empty(),
            propagation: None,
            data: Vec::new(),
        };
        for word in text.split(',').filter(|word| !word.is_empty()) {
            let (set, flag) = match word {
                "defaults" => continue,
                "ro" => (true, MountFlags::RDONLY),
                "rw" => (false, MountFlags::RDONLY),
                "bind" => (true, MountFlags::BIND),
                "rbind" => (true, MountFlags::BIND | MountFlags::REC),
                "nosuid" => (true, MountFlags::NOSUID),
                "suid" => (false, MountFlags::NOSUID),
                "nodev" => (true, MountFlags::NODEV),
                "dev" => (false, MountFlags::NODEV),
                "noexec" => (true, MountFlags::NOEXEC),
                "exec" => (false, MountFlags::NOEXEC),
                "sync" => (true, MountFlags::SYNCHRONOUS),
                "async" => (false, MountFlags::SYNCHRONOUS),
                "dirsync" => (true, MountFlags::DIRSYNC),
                "mand" => (true, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
                "nomand" => (false, MountFlags::PERMIT_MANDATORY_FILE_LOCKING),
                "noatime" => (true, MountFlags::NOATIME),
                "atime" => (false, MountFlags::NOATIME),
                "nodiratime" => (true, MountFlags::NODIRATIME),
                "diratime" => (false, MountFlags::NODIRATIME),
                "relatime" => (true, MountFlags::RELATIME),
                "norelatime" => (false, MountFlags::RELATIME),
                "strictatime" => (true, MountFlags::STRICTATIME),
                "nostrictatime" => (false, MountFlags::STRICTATIME),
                other => {
                    let propagation = match other {
                        "private" => Some(Propagation::PRIVATE),
                        "rprivate" => Some(Propagation::PRIVATE | Propagation::REC),
                        "shared" => Some(Propagation::SHARED),
                        "rshared" => Some(Propagation::SHARED | Propagation::REC),
                        "slave" => Some(Propagation::DOWNSTREAM),
                        "rslave" => Some(Propagation::DOWNSTREAM | Propagation::REC),
                        "unbindable" => Some(Propagation::UNBINDABLE),
                        "runbindable" => Some(Propagation::UNBINDABLE | Propagation::REC),
                        _ => None,
                    };
                    match propagation {
                        Some(propagation) => options.propagation = Some(propagation),
                        None => options.data.push(other.to_owned()),
                    }
                    continue;
                }
            };
            options.flags.set(flag, set);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounted::unmount;

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = Options::parse("defaults,ro,rbind,size=1m,uid=1000,rslave,exec");
        assert_eq!(
            options.flags,
            MountFlags::RDONLY | MountFlags::BIND | MountFlags::REC
        );
        assert_eq!(options.data, ["size=1m", "uid=1000"]);
        assert!(options.propagation.is_some());
        assert!(!Options::parse("ro,rw").flags.contains(MountFlags::RDONLY));
    }

    fn plan(kind: &str, device: &str, options: &str) -> DriverMount {
        DriverMount {
            device: device.into(),
            kind: kind.into(),
            options: options.into(),
        }
    }

    #[test]
    fn memory_and_folders_are_mounted_once_and_unmounted() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (target, other) = (folder.path().join("target"), folder.path().join("other"));
        for path in [&target, &other] {
            std::fs::create_dir(path).unwrap();
        }
        std::fs::write(other.join("file"), "text").unwrap();
        for kind in ["none", ""] {
            let bind = plan(kind, other.to_str().unwrap(), "bind,ro");
            mount(&bind, &target).unwrap();
            mount(&bind, &target).unwrap();
            assert_eq!(
                std::fs::read_to_string(target.join("file")).unwrap(),
                "text"
            );
            assert!(std::fs::write(target.join("new"), "").is_err(), "read-only");
            unmount(&target).unwrap();
            assert!(!target.join("file").exists());
            unmount(&target).unwrap();
        }
        mount(&plan("tmpfs", "tmpfs", "size=64k,mode=711"), &target).unwrap();
        let facts = rustix::fs::statvfs(&target).unwrap();
        assert_eq!(facts.f_blocks * facts.f_frsize, 64 << 10);
        unmount(&target).unwrap();
        let missing = folder.path().join("missing");
        let error = mount(&plan("none", missing.to_str().unwrap(), "bind"), &target).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "mount {}:{}, flags: 0x1000: no such file or directory",
                missing.display(),
                target.display()
            )
        );
        let error = mount(&plan("nfs", ":/x", "addr=no-such-host.invalid"), &target).unwrap_err();
        assert!(error.to_string().contains("error resolving"), "{error}");
    }
}
