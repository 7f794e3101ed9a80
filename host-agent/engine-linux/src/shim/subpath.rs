//! Mounts that are made for one container: a part of a volume (`volume-subpath`), an image and a part of one.
//!
//! What is in a volume is the containers' to change: a link put in the place of a folder, at any moment, must not lead out
//! of it. So the part is opened once, without leaving the volume, and what was opened is bound to a name of ours, in a
//! mount namespace that only the start of this container sees. An image is mounted there, too: nothing of it is left on
//! the host, however the container ends.

use super::protocol::Refusal;
use crate::layers::mount::mount_image;
use engine::images::LayerFolders;
use engine::runtime::{LaunchPlan, MountSource};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// The plan with every image and every part of a volume replaced by a path of its own; `None` where there is none. To be
/// called in the process that makes the container: it gets a mount namespace of its own.
pub fn pin(plan: &LaunchPlan, run: &Path) -> Result<Option<LaunchPlan>, Refusal> {
    let is_own = |source: &MountSource| match source {
        MountSource::Bind { subpath, .. } => !subpath.is_empty(),
        MountSource::Image { .. } => true,
        MountSource::Tmpfs { .. } => false,
    };
    if !plan.mounts.iter().any(|mount| is_own(&mount.source)) {
        return Ok(None);
    }
    let shared = plan.mounts.iter().any(|mount| {
        matches!(&mount.source, MountSource::Bind { propagation, .. } if propagation.ends_with("shared"))
    });
    if shared {
        return Err(Refusal::Unsupported {
            what: "a mount with shared propagation beside an image or a volume's subpath"
                .to_owned(),
            why: "these are mounted where the host does not see it".to_owned(),
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
        let target = run.join(format!("subpath-{number}"));
        match &mut mount.source {
            MountSource::Bind { path, subpath, .. } if !subpath.is_empty() => {
                *path = bind(path, subpath, &target)
                    .map_err(|error| refusal("volume subpath", path, subpath, &error))?;
                subpath.clear();
            }
            MountSource::Image { layers, subpath } => {
                let image =
                    mounted(layers, &run.join(format!("image-{number}"))).map_err(|error| {
                        Refusal::failed(format!("mount the image at {}", mount.target), error)
                    })?;
                let path = match subpath.is_empty() {
                    true => image,
                    false => bind(&image, subpath, &target)
                        .map_err(|error| refusal("image subpath", &image, subpath, &error))?,
                };
                mount.source = MountSource::Bind {
                    path,
                    subpath: String::new(),
                    recursive: false,
                    propagation: "rprivate".to_owned(),
                };
            }
            MountSource::Bind { .. } | MountSource::Tmpfs { .. } => {}
        }
    }
    Ok(Some(plan))
}

/// moby's words (internal/safepath).
fn refusal(what: &str, base: &Path, subpath: &str, error: &io::Error) -> Refusal {
    if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) {
        return Refusal::Invalid {
            what: what.to_owned(),
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

fn mounted(layers: &LayerFolders, target: &Path) -> io::Result<PathBuf> {
    fs::create_dir(target)?;
    mount_image(layers, target)?;
    Ok(target.to_owned())
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
