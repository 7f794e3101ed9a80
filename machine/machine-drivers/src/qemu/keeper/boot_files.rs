//! What QEMU reads once: the kernel and the initial file system.
//!
//! QEMU maps both files and holds them for a reset, which never comes (`-no-reboot`): a hundred megabytes that an idle machine
//! would keep. So it gets copies in memory files, and the keeper empties these as soon as the guest is up. What was emptied
//! reads as zeros, so that nothing can stumble over it.

use std::fs::File;
use std::io;
use std::path::Path;

/// QEMU's options whose values are such files.
const OPTIONS: [&str; 2] = ["-kernel", "-initrd"];

/// The copies; they live as long as this.
#[derive(Debug, Default)]
pub(super) struct BootFiles {
    copies: Vec<File>,
}

impl BootFiles {
    /// Puts copies in the places of the files that `arguments` name. Where the system has no memory files, or no memory, QEMU
    /// reads the files themselves.
    pub(super) fn lend(arguments: &mut [String]) -> BootFiles {
        let places: Vec<usize> = (1..arguments.len())
            .filter(|index| OPTIONS.contains(&arguments[index - 1].as_str()))
            .collect();
        // A copy for each processor: somebody waits for the machine.
        let copies: Vec<io::Result<File>> = std::thread::scope(|scope| {
            let copying: Vec<_> = places
                .iter()
                .map(|place| {
                    let path = Path::new(&arguments[*place]);
                    scope.spawn(move || copy(path))
                })
                .collect();
            copying
                .into_iter()
                .map(|thread| thread.join().expect("copying does not panic"))
                .collect()
        });
        let mut lent = BootFiles::default();
        for (place, copied) in places.into_iter().zip(copies) {
            match copied {
                Ok(file) => {
                    arguments[place] = path_of(&file);
                    lent.copies.push(file);
                }
                Err(error) => {
                    tracing::debug!(%error, file = arguments[place], "QEMU reads the file itself");
                }
            }
        }
        lent
    }

    /// The guest has read them.
    pub(super) fn give_back(self) {
        for file in &self.copies {
            if let Err(error) = empty(file) {
                tracing::warn!(%error, "QEMU keeps what it booted from in memory");
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn copy(path: &Path) -> io::Result<File> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let mut original = File::open(path)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = File::from(memfd_create(&*name, MemfdFlags::CLOEXEC)?);
    io::copy(&mut original, &mut file)?;
    Ok(file)
}

/// Through this process, which outlives QEMU's need of it.
#[cfg(target_os = "linux")]
fn path_of(file: &File) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

/// Also takes the pages out of those who map the file.
#[cfg(target_os = "linux")]
fn empty(file: &File) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    // The last page as a whole, too.
    let all = file.metadata()?.len().next_multiple_of(1 << 20);
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, hole, 0, all)?)
}

#[cfg(not(target_os = "linux"))]
fn copy(_path: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
fn path_of(_file: &File) -> String {
    unreachable!("there are no copies here")
}

#[cfg(not(target_os = "linux"))]
fn empty(_file: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn copies_are_read_and_take_no_memory_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let kernel = folder.path().join("vmlinux");
        let contents = vec![7; 300_000];
        std::fs::write(&kernel, &contents).unwrap();
        let line = ["-m", "512", "-kernel", kernel.to_str().unwrap()];
        let mut arguments = line.map(str::to_owned).to_vec();
        arguments.extend(["-initrd", "/not/here"].map(str::to_owned));
        let lent = BootFiles::lend(&mut arguments);
        let copy = arguments[3].clone();
        assert_ne!(copy, kernel.to_str().unwrap());
        assert_eq!(std::fs::read(&copy).unwrap(), contents);
        // QEMU itself says best what is wrong with a file.
        assert_eq!(arguments[5], "/not/here");
        let seen = lent.copies[0].try_clone().unwrap();
        assert!(seen.metadata().unwrap().blocks() > 0);
        lent.give_back();
        assert_eq!(seen.metadata().unwrap().blocks(), 0);
        assert_eq!(seen.metadata().unwrap().len(), 300_000);
        assert_eq!(std::fs::read(&kernel).unwrap(), contents);
    }
}
