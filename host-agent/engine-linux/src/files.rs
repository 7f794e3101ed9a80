//! Names of the files and folders under `--data-root`, and writing them so that a crash leaves the old or the new content.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Volumes: `volumes/<name>/{_data, volume.json}`.
pub const VOLUMES: &str = "volumes";
/// A volume's files, as its containers see them.
pub const VOLUME_DATA: &str = "_data";
/// A volume's record.
pub const VOLUME_RECORD: &str = "volume.json";
/// Networks: `networks/<name>.json`.
pub const NETWORKS: &str = "networks";
/// Bound network namespaces, under `--exec-root`.
pub const NAMESPACES: &str = "netns";
/// Containers: `containers/<id>/{container.json, hostname, hosts, resolv.conf, <id>-json.log, rw}`.
pub const CONTAINERS: &str = "containers";
/// A container's record.
pub const CONTAINER_RECORD: &str = "container.json";
/// In a container's folder: its writable layer (`layers` has the parts).
pub const CONTAINER_LAYER: &str = "rw";
/// Unpacked image layers: `layers/<chain id>/{layer.json, diff}`.
pub const LAYERS: &str = "layers";
/// A layer's record.
pub const LAYER_RECORD: &str = "layer.json";
/// A layer's files.
pub const LAYER_DIFF: &str = "diff";
/// Contents of contexts' files by digest, so that they need not be sent again; removed when the engine starts.
pub const BUILD_CONTENTS: &str = "builds/contents";
/// Manifests, configurations and compressed layers by digest.
pub const BLOBS: &str = "content/blobs/sha256";
/// Blobs being written.
pub const INGEST: &str = "content/ingest";
/// Image archives being loaded.
pub const LOADS: &str = "content/loads";
/// References -> images.
pub const IMAGES_RECORD: &str = "images.json";
/// Contexts of builds that run.
pub const BUILD_CONTEXTS: &str = "builds/contexts";
/// Folders of `RUN --mount=type=cache`, see `builds::caches`.
pub const BUILD_CACHES: &str = "builds/caches";
/// Below a folder in memory, not the data root.
pub const BUILD_SECRETS: &str = "build-secrets";
/// The engine's own identity, made once: 32 random hex digits and more, one line.
pub const ENGINE_ID: &str = "engine-id";
/// The boot during which the data root was last opened (the kernel's boot id).
pub const BOOT: &str = "boot-id";
/// Locked by the engine that uses the folder.
pub const LOCK: &str = "lock";

/// Which boot of the host this is, and whether the engine before this one ran in it: then everything it wrote is there,
/// synced or not.
#[derive(Debug)]
pub struct Boot {
    path: PathBuf,
    now: Vec<u8>,
    /// The host was not interrupted since the last [`note`](Boot::note).
    pub is_same: bool,
}

impl Boot {
    /// Looks, and changes nothing.
    pub fn of(data_root: &Path) -> io::Result<Boot> {
        let now = fs::read("/proc/sys/kernel/random/boot_id")?;
        let path = data_root.join(BOOT);
        let is_same = fs::read(&path).is_ok_and(|then| then == now);
        Ok(Boot { path, now, is_same })
    }

    /// Notes this boot for the next engine: everything that an interruption may have damaged has been removed. An engine
    /// that ends before leaves that to the next.
    pub fn note(self) -> io::Result<()> {
        if !self.is_same {
            // Not durable on purpose: lost in a power cut, it says what it should.
            fs::write(self.path, self.now)?;
        }
        Ok(())
    }
}

/// Replaces (or makes) a file durably: temporary file beside it, sync, rename, sync the folder. `mode` as in chmod(2).
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let (temporary, file) = write_temporary(path, bytes, mode)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(folder)
}

/// Makes a file that is not there yet, durably, with one commit of the file system's journal where [`write_durably`] needs two:
/// it has its name before its content is on disk, so that after a power cut it may be there and be empty. Readers take an empty
/// file for none.
pub fn make_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let file = write_aside(path, bytes, mode)?;
    file.sync_all()?;
    sync_folder(folder)
}

/// Replaces (or makes) a file so that others find its old or its new content; a power cut may leave it empty.
/// Returns it, to be synced.
pub fn write_aside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let (temporary, file) = write_temporary(path, bytes, mode)?;
    fs::rename(&temporary, path)?;
    Ok(file)
}

fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<(PathBuf, File)> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    Ok((temporary, file))
}

/// Makes renames and removals in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Bytes of the content of all files below a folder, as their lengths say; hard links count once.
pub fn content_bytes(root: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut links = std::collections::HashSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        // Files and folders may go while we count.
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != root => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(facts) = entry.metadata() else {
                continue;
            };
            if facts.is_dir() {
                folders.push(entry.path());
            } else if facts.is_file()
                && (facts.nlink() == 1 || links.insert((facts.dev(), facts.ino())))
            {
                bytes += facts.len();
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        write_durably(&path, b"first, and longer", 0o600).unwrap();
        write_durably(&path, b"second", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
    #[test]
    fn a_boot_is_the_same_once_it_was_noted() {
        let folder = tempfile::tempdir().unwrap();
        // An engine that ends before it has cleared up after an interruption leaves that to the next.
        assert!(!Boot::of(folder.path()).unwrap().is_same);
        let boot = Boot::of(folder.path()).unwrap();
        assert!(!boot.is_same);
        boot.note().unwrap();
        assert!(Boot::of(folder.path()).unwrap().is_same);
        fs::write(folder.path().join(BOOT), "another\n").unwrap();
        assert!(!Boot::of(folder.path()).unwrap().is_same);
    }
}
