//! Mounts of a part of a volume (`volume-subpath`). What is in a volume is the containers' to change: a link put in the
//! place of a folder, at any moment, must not lead out of it. So the part is opened once, without leaving the volume,
//! and what was opened is bound to a name of ours, in a mount namespace that only the start of this container sees.

use super::protocol::Refusal;
use engine::runtime::{LaunchPlan, MountSource};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The plan with every part of a volume replaced by a path of its own; `None` where there is none. To be called in the
/// process that makes the container: it gets a mount namespace of its own.
pub fn pin(plan: &LaunchPlan, run: &Path) -> Result<Option<LaunchPlan>, Refusal> {
    let has_part = |source: &MountSource| matches!(source, MountSource::Bind { subpath, .. } if !subpath.is_empty());
    if !plan.mounts.iter().any(|mount| has_part(&mount.source)) {
        return Ok(None);
    }
    let shared = plan.mounts.iter().any(|mount| {
        matches!(&mount.source, MountSource::Bind { propagation, .. } if propagation.ends_with("shared"))
    });
    if shared {
        return Err(Refusal::Unsupported {
            what: "a mount with shared propagation beside a volume's subpath".to_owned(),
            why: "parts of volumes are mounted where the host does not see it".to_owned(),
        });
    }
    let alone = || -> io::Result<()> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        Ok(rustix::mount::mount_change("/", slave)?)
    };
    alone().map_err(|error| Refusal::failed("make a mount namespace", error))?;
    let mut plan = plan.clone();
    for (number, mount) in plan.mounts.iter_mut().enumerate() {
        if let MountSource::Bind { path, subpath, .. } = &mut mount.source
            && !subpath.is_empty()
        {
            *path = bind(path, subpath, &run.join(format!("subpath-{number}")))
                .map_err(|error| refusal(path, subpath, &error))?;
            subpath.clear();
        }
    }
    Ok(Some(plan))
}

/// moby's words (internal/safepath).
fn refusal(base: &Path, subpath: &str, error: &io::Error) -> Refusal {
    if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) {
        return Refusal::Invalid {
            what: "volume subpath".to_owned(),
            why: format!(
                "path concatenation escapes the base directory, base: {base:?}, subpath: {subpath:?}"
            ),
        };
    }
    Refusal::failed(
        format!("cannot access path {}", base.join(subpath).display()),
        error,
    )
}

fn bind(base: &Path, subpath: &str, target: &Path) -> io::Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let base = rustix::fs::open(base, flags | OFlags::DIRECTORY, Mode::empty())?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let part = rustix::fs::openat2(&base, subpath, flags, Mode::empty(), inside)?;
    let facts = rustix::fs::fstat(&part)?;
    if FileType::from_raw_mode(facts.st_mode) == FileType::Directory {
        fs::create_dir(target)?;
    } else {
        fs::write(target, "")?;
    }
    let opened = format!("/proc/self/fd/{}", part.as_raw_fd());
    rustix::mount::mount_bind_recursive(opened, target)?;
    Ok(target.to_owned())
}
