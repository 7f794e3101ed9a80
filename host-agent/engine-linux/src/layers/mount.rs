//! The overlay mount itself.
//!
//! With the new mount calls each layer is handed over by itself (`lowerdir+`, Linux 6.7), so the number of layers is bound
//! only by overlayfs (500). Older kernels get one option string of at most a page: layers are named there through the
//! folder of short links, opened as a file descriptor, so some 150 fit.

use engine::images::LayerFolders;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags,
};
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Where an overlay's parts are.
pub struct Overlay<'a> {
    /// The folder with the short links.
    pub links: &'a Path,
    /// Short links of the layers, top first; at least one.
    pub lower: &'a [String],
    /// The layer that takes what is written, and overlayfs's own folder beside it; without them nothing can be written.
    pub upper: Option<(&'a Path, &'a Path)>,
    pub target: &'a Path,
}

/// Learnt at the first mount: asking again would only cost time.
static NO_LOWERDIR_PLUS: AtomicBool = AtomicBool::new(false);

impl Overlay<'_> {
    /// Mounts it.
    pub fn mount(&self) -> io::Result<()> {
        if !NO_LOWERDIR_PLUS.load(Ordering::Relaxed) {
            match self.mount_by_calls() {
                Err(Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {}
                outcome => return Ok(outcome?),
            }
        }
        self.mount_by_options()?;
        // Only now is it sure that the kernel was the reason and not our arguments.
        NO_LOWERDIR_PLUS.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn mount_by_calls(&self) -> rustix::io::Result<()> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let context = &context;
        rustix::mount::fsconfig_set_string(context, "source", "overlay")?;
        for link in self.lower {
            rustix::mount::fsconfig_set_string(context, "lowerdir+", self.links.join(link))?;
        }
        if let Some((upper, work)) = self.upper {
            rustix::mount::fsconfig_set_string(context, "upperdir", upper)?;
            rustix::mount::fsconfig_set_string(context, "workdir", work)?;
        }
        // Layers are shared by containers, which the inode index does not allow.
        rustix::mount::fsconfig_set_string(context, "index", "off")?;
        // A folder renamed by reference would be read wrongly by whoever reads the layer without overlayfs (diff, commit),
        // and could lead a hostile image's layer elsewhere.
        rustix::mount::fsconfig_set_string(context, "redirect_dir", "off")?;
        rustix::mount::fsconfig_create(context)?;
        let mount = rustix::mount::fsmount(
            context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        rustix::mount::move_mount(
            &mount,
            "",
            CWD,
            self.target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
    }

    /// With the old mount call.
    pub(super) fn mount_by_options(&self) -> io::Result<()> {
        let links = rustix::fs::open(
            self.links,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let folder = format!("/proc/self/fd/{}", links.as_raw_fd());
        let lower: Vec<String> = self
            .lower
            .iter()
            .map(|link| format!("{folder}/{link}"))
            .collect();
        let mut options = format!("lowerdir={},index=off,redirect_dir=off", lower.join(":"));
        if let Some((upper, work)) = self.upper {
            let (upper, work) = (escaped(upper)?, escaped(work)?);
            options.push_str(&format!(",upperdir={upper},workdir={work}"));
        }
        // mount(2) takes one page, with the zero byte.
        if options.len() > 4095 {
            return Err(io::Error::other(format!(
                "an image of {} layers needs Linux 6.7 or newer",
                self.lower.len()
            )));
        }
        let options = CString::new(options)?;
        rustix::mount::mount(
            "overlay",
            self.target,
            "overlay",
            MountFlags::empty(),
            options.as_c_str(),
        )?;
        Ok(())
    }
}

/// Mounts an image's files, read-only.
pub fn mount_image(layers: &LayerFolders, target: &Path) -> io::Result<()> {
    match layers.names.as_slice() {
        // Overlayfs wants two folders or one to write to.
        [only] => Ok(rustix::mount::mount_bind(layers.folder.join(only), target)?),
        lower => Overlay {
            links: &layers.folder,
            lower,
            upper: None,
            target,
        }
        .mount(),
    }
}

/// Commas, colons and backslashes mean something in overlayfs's options.
fn escaped(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not UTF-8", path.display()),
        )
    })?;
    Ok(text
        .replace('\\', "\\\\")
        .replace(',', "\\,")
        .replace(':', "\\:"))
}

/// Unmounts; where something still uses it, at once for everybody else and for good when that ends. Not being mounted
/// is no error.
pub fn unmount(target: &Path) -> io::Result<()> {
    let not_mounted = |error: Errno| matches!(error, Errno::INVAL | Errno::NOENT);
    match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW) {
        Err(Errno::BUSY) => {
            match rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
                Err(error) if !not_mounted(error) => Err(error.into()),
                _ => Ok(()),
            }
        }
        Err(error) if !not_mounted(error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Unmounts everything in a folder.
pub fn unmount_below(folder: &Path) -> io::Result<()> {
    // What was mounted last covers what was mounted first.
    for point in mount_points()?.iter().rev() {
        if point.starts_with(folder) {
            unmount(point)?;
        }
    }
    Ok(())
}

/// Every mount point of this process's mount namespace.
pub fn mount_points() -> io::Result<Vec<std::path::PathBuf>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse_mount_points(&text))
}

fn parse_mount_points(text: &[u8]) -> Vec<std::path::PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    text.split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| std::ffi::OsString::from_vec(unescaped(field)).into())
        .collect()
}

/// `\040` is a space (proc(5)).
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = (byte == b'\\' && tail.len() >= 3)
            .then(|| std::str::from_utf8(&tail[..3]).ok())
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        let text =
            b"22 1 0:20 / /proc rw - proc proc rw\n30 1 0:21 / /a\\040b\\134 rw - tmpfs x rw\n";
        assert_eq!(
            parse_mount_points(text),
            [Path::new("/proc"), Path::new("/a b\\")]
        );
    }

    #[test]
    fn option_paths_are_escaped() {
        assert_eq!(escaped(Path::new("/a,b:c")).expect("UTF-8"), "/a\\,b\\:c");
    }
}
