//! What a machine takes of this computer: disk, memory, room.

use super::system;
use machine_core::driver::{DriverError, Progress};
use std::fs::OpenOptions;
use std::path::Path;

const MIB: u64 = 1024 * 1024;
/// A sparse disk takes nothing at first; below this the first image pulled would fail.
const LEAST_FREE_SPACE: u64 = 1024 * MIB;

/// The guest grows its file system when the disk has grown.
pub(super) fn grow_disk(path: &Path, mebibytes: u64) -> Result<(), DriverError> {
    let failed = |error| DriverError::failed(format!("grow the disk {}", path.display()), error);
    let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() < mebibytes * MIB {
        file.set_len(mebibytes * MIB).map_err(failed)?;
    }
    Ok(())
}

/// A new raw file that takes no space yet.
pub(super) fn make_disk(
    path: &Path,
    mebibytes: u64,
    progress: &dyn Progress,
) -> Result<(), DriverError> {
    let failed = |error| DriverError::failed(format!("make the disk {}", path.display()), error);
    let file = system::private(OpenOptions::new().write(true).create_new(true))
        .open(path)
        .map_err(failed)?;
    if let Err(error) = system::make_sparse(path, &file) {
        progress.say(&format!(
            "The disk takes all of its {mebibytes} MiB at once: {error}"
        ));
    }
    file.set_len(mebibytes * MIB).map_err(failed)
}

pub(super) fn check_memory(wanted_mib: u64) -> Result<(), DriverError> {
    match system::memory_mib() {
        Some(total) if wanted_mib > total => Err(DriverError::InvalidFlag {
            flag: "qemu-memory".into(),
            why: format!("{wanted_mib} MiB is more than this computer has ({total} MiB)"),
        }),
        _ => Ok(()),
    }
}

pub(super) fn check_space(store: &Path) -> Result<(), DriverError> {
    // The store may not exist yet.
    let existing = store
        .ancestors()
        .find(|folder| folder.exists())
        .unwrap_or(Path::new("/"));
    let Some((free, _)) = system::disk_space(existing) else {
        return Ok(());
    };
    if free < LEAST_FREE_SPACE {
        return Err(DriverError::NotReady {
            what: format!(
                "only {} MiB are free where {} is",
                free / MIB,
                store.display()
            ),
            hint: format!(
                "free at least {} MiB, or put the store elsewhere with MACHINE_STORAGE_PATH",
                LEAST_FREE_SPACE / MIB
            ),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_memory_than_there_is_is_refused() {
        assert!(check_memory(256).is_ok());
        if cfg!(any(target_os = "linux", windows)) {
            assert!(
                check_memory(1 << 40)
                    .unwrap_err()
                    .to_string()
                    .contains("more than this computer has")
            );
        }
    }
}
