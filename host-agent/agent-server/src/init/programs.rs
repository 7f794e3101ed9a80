//! Programs, libraries and kernel modules move from the initial file system, which is memory, to the data disk.
//!
//! They are copied anew at every boot, so what a container may have done to the copy does not outlast it, and a new image needs
//! no care. Nobody waits for it: the engine answers by then. Where the disk has no room all stays as it was.

use super::mounts;
use anyhow::{Context, Result};
use guest_contract::{AGENT_PATH, DATA_ROOT};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What moves: eighteen of the initial file system's forty megabytes.
const FOLDER: &str = "/usr";
/// What the copy has instead of the agent, which is running code: its memory is used anyway.
const AGENT: &str = "/proc/1/exe";

/// True once the machine ends; held while the folder moves, so that the disk is not unmounted meanwhile.
static ENDS: Mutex<bool> = Mutex::new(false);

/// Copies the folder to the data disk, shows the copy in its place and frees the memory.
pub fn move_to_disk() -> Result<()> {
    let ends = ENDS.lock().unwrap_or_else(PoisonError::into_inner);
    if *ends {
        return Ok(());
    }
    let place = place();
    let agent = Path::new(AGENT_PATH);
    let copied = remove(&place).and_then(|()| copy(Path::new(FOLDER), &place, agent));
    if let Err(error) = copied {
        let _ = remove(&place);
        return Err(error).with_context(|| format!("cannot copy {FOLDER} to the data disk"));
    }
    // What is not written yet could not leave the memory; and a disk that cannot be written to is found out here.
    let disk = fs::File::open(DATA_ROOT)?;
    rustix::fs::syncfs(&disk).context("cannot write the data disk")?;
    // The folder as it is beneath the copy.
    let beneath = rustix::fs::open(FOLDER, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    rustix::mount::mount_bind(&place, FOLDER).context("cannot mount the copy")?;
    let beneath_path = PathBuf::from(format!("/proc/self/fd/{}", beneath.as_raw_fd()));
    let name = agent.file_name().unwrap_or_default();
    empty(&beneath_path, name).with_context(|| format!("cannot empty the first {FOLDER}"))
}

/// Before the data disk can be unmounted. There are no programs from then on, and a disk that is sent elsewhere has none on it.
pub fn leave_disk() {
    *ENDS.lock().unwrap_or_else(PoisonError::into_inner) = true;
    mounts::unmount_below(FOLDER);
    let _ = remove(&place());
}

fn place() -> PathBuf {
    Path::new(DATA_ROOT).join(".guest-programs")
}

fn remove(place: &Path) -> io::Result<()> {
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Folders, files and links with their modes; for `agent` a link to the running one. The image has nothing else there, and all of
/// it is root's.
fn copy(from: &Path, to: &Path, agent: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy(&source, &target, agent)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if source == agent {
            symlink(AGENT, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

/// Removes the files below a folder, but for the one called `agent`.
fn empty(folder: &Path, agent: &OsStr) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            empty(&entry.path(), agent)?;
        } else if entry.file_name() != agent {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_copy_has_everything_and_the_original_can_be_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("lib"), folder.path().join("copy"));
        fs::create_dir_all(from.join("modules/6/kernel")).unwrap();
        fs::create_dir(from.join("none")).unwrap();
        fs::write(from.join("modules/6/kernel/a.ko"), "module").unwrap();
        fs::write(from.join("ld.so"), "loader").unwrap();
        fs::set_permissions(from.join("ld.so"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(from.join("none"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("modules/6", from.join("link")).unwrap();
        symlink("nowhere", from.join("loose")).unwrap();
        fs::write(from.join("modules/agent"), "agent").unwrap();

        let agent = from.join("modules/agent");
        copy(&from, &to, &agent).unwrap();
        let linked = fs::read_link(to.join("modules/agent")).unwrap();
        assert_eq!(linked, Path::new(AGENT));
        let text = fs::read_to_string(to.join("link/kernel/a.ko")).unwrap();
        assert_eq!(text, "module");
        assert_eq!(
            fs::read_link(to.join("loose")).unwrap(),
            Path::new("nowhere")
        );
        let mode = |name: &str| to.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ld.so"), mode("none")), (0o755, 0o700));

        // Through a link, as the folder beneath a mount is reached.
        let link = folder.path().join("beneath");
        symlink(&from, &link).unwrap();
        empty(&link, OsStr::new("agent")).unwrap();
        assert!(agent.exists(), "it runs");
        for gone in ["modules/6/kernel/a.ko", "ld.so", "link", "loose"] {
            assert!(from.join(gone).symlink_metadata().is_err(), "{gone}");
        }
        assert!(to.join("modules/6/kernel/a.ko").exists());

        let missing = folder.path().join("missing");
        let error = copy(&missing, &folder.path().join("x"), &agent).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        remove(&folder.path().join("x")).unwrap();
        remove(&folder.path().join("x")).unwrap();
    }
}
