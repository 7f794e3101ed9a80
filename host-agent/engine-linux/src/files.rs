//! Names of the files and folders under `--data-root`, and writing them so that a crash leaves the old or the new content.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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
/// The engine's own identity, made once: a UUID, one line.
pub const ENGINE_ID: &str = "engine-id";
/// Locked by the engine that uses the folder.
pub const LOCK: &str = "lock";

/// Replaces (or makes) a file durably: temporary file beside it, sync, rename, sync the folder. `mode` as in chmod(2).
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_folder(folder)
}

/// Makes renames and removals in a folder durable.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
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
}
