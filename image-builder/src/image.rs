//! Puts a base and an agent together as an image folder, whole or not at all.

use crate::base::{self, Base};
use crate::cache::{Cache, hex_sha256, lock_file, write_whole};
use crate::elf;
use crate::error::{BuildError, FileError};
use crate::progress::Progress;
use crate::tree::Tree;
use guest_contract::AGENT_PATH;
use guest_contract::manifest::{FileEntry, MANIFEST_FILE, MANIFEST_VERSION, Manifest};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

pub(crate) const INITRD_FILE: &str = "initrd";
/// zstd level at which files are compressed for publishing; the best that needs no extra memory to unpack.
const PUBLISHING_LEVEL: i32 = 19;
/// The same for the agent's part: a tenth larger, but measured in 0.3 s and not in 3.5 s at every new agent.
const AGENT_PUBLISHING_LEVEL: i32 = 12;

/// The agent, read and checked.
pub(crate) struct Agent {
    data: Vec<u8>,
}

impl Agent {
    /// Reads a program and checks that it can run as the only program of a guest: x86_64, and static.
    pub(crate) fn read(path: &Path) -> Result<Agent, BuildError> {
        let data = std::fs::read(path).map_err(|source| BuildError::ReadAgent {
            path: path.to_owned(),
            source,
        })?;
        let unfit = |why: String| BuildError::Agent {
            path: path.to_owned(),
            why,
        };
        let facts = elf::facts(&data).map_err(unfit)?;
        if let Some(interpreter) = facts.interpreter {
            return Err(unfit(format!(
                "it is linked dynamically (it needs {interpreter}); the target must be x86_64-unknown-linux-musl"
            )));
        }
        Ok(Agent { data })
    }

    /// A cpio archive of its own: the kernel unpacks several, one after the other.
    fn archive(self) -> Vec<u8> {
        let mut tree = Tree::default();
        tree.file(AGENT_PATH.trim_start_matches('/'), 0o755, self.data);
        let mut bytes = Vec::new();
        tree.write_cpio(&mut bytes)
            .expect("writing to memory fails for no reason of the disk");
        bytes
    }
}

/// What goes into the manifest from outside.
pub(crate) struct Labels {
    pub(crate) name: String,
    pub(crate) architecture: String,
    pub(crate) command_line: String,
    pub(crate) agent_version: String,
}

/// Writes the image. `None` if the cached base turned out to be damaged and was removed.
pub(crate) fn write(
    base: &Base,
    agent: Agent,
    labels: Labels,
    output: &Path,
    cache: &Cache,
    progress: Progress,
) -> Result<Option<Manifest>, BuildError> {
    let read = |name| base.read(name);
    let (Some(kernel), Some(mut initrd), Some(licences)) = (
        read(base::KERNEL_FILE)?,
        read(base::ARCHIVE_FILE)?,
        read(base::LICENCES_FILE)?,
    ) else {
        return Ok(None);
    };
    let agent_archive = agent.archive();
    // The parts of the initrd are measured apart, as two zstd frames one after the other: so the large one, which does
    // not change with the agent, is compressed once.
    let mut download_bytes = 0;
    for part in [&kernel, &initrd, &licences] {
        download_bytes += compressed_size(part, PUBLISHING_LEVEL, cache, progress)?;
    }
    download_bytes += compressed_size(&agent_archive, AGENT_PUBLISHING_LEVEL, cache, progress)?;
    initrd.extend_from_slice(&agent_archive);

    let files: BTreeMap<String, Vec<u8>> = [
        (base::KERNEL_FILE, kernel),
        (INITRD_FILE, initrd),
        (base::LICENCES_FILE, licences),
    ]
    .map(|(name, data)| (name.to_owned(), data))
    .into();
    let entry = |data: &Vec<u8>| FileEntry {
        bytes: data.len() as u64,
        sha256: hex_sha256(data),
    };
    let manifest = Manifest {
        version: MANIFEST_VERSION,
        name: labels.name,
        architecture: labels.architecture,
        kernel_version: base.description.kernel_version.clone(),
        kernel: base::KERNEL_FILE.into(),
        initrd: INITRD_FILE.into(),
        command_line: labels.command_line,
        files: files
            .iter()
            .map(|(name, data)| (name.clone(), entry(data)))
            .collect(),
        packages: base.description.packages.clone(),
        agent_version: labels.agent_version,
        download_bytes,
    };
    let mut text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    text.push(b'\n');
    let mut output_files: Vec<(&str, &[u8])> = Vec::new();
    for (name, data) in &files {
        output_files.push((name, data));
    }
    output_files.push((MANIFEST_FILE, &text));
    write_folder(output, &output_files, progress)?;
    Ok(Some(manifest))
}

/// Bytes of `data` when published; known sizes come from the cache.
fn compressed_size(
    data: &[u8],
    level: i32,
    cache: &Cache,
    progress: Progress,
) -> Result<u64, BuildError> {
    let path = cache.size(&format!("{}-{level}", hex_sha256(data)));
    if let Some(size) = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse().ok())
    {
        return Ok(size);
    }
    if data.len() > 8 * 1024 * 1024 && level == PUBLISHING_LEVEL {
        progress.step("Measuring the download size");
    }
    let mut counter = Counter(0);
    zstd::stream::copy_encode(data, &mut counter, level)
        .expect("compressing from memory to a counter fails for no reason of the disk");
    write_whole(&path, counter.0.to_string().as_bytes())?;
    Ok(counter.0)
}

struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes a folder beside its place, syncs it, and puts it in the place of the old one in a single step where the system
/// has one. Whatever fails, the old folder is still there and nothing else is.
fn write_folder(
    output: &Path,
    files: &[(&str, &[u8])],
    progress: Progress,
) -> Result<(), BuildError> {
    let output = std::path::absolute(output).map_err(FileError::on("resolve", output))?;
    let (Some(parent), Some(name)) = (output.parent(), output.file_name()) else {
        return Err(BuildError::OutputOccupied { path: output });
    };
    std::fs::create_dir_all(parent).map_err(FileError::on("create the folder", parent))?;
    let mut lock_name = std::ffi::OsString::from(".");
    lock_name.push(name);
    lock_name.push(".lock");
    let _lock = lock_file(&parent.join(lock_name), || {
        progress.step("Waiting for another build of this image");
    })?;
    check_replaceable(&output)?;

    let staging = tempfile::Builder::new()
        .prefix(".image-")
        .tempdir_in(parent)
        .map_err(FileError::on("write to", parent))?;
    for (name, data) in files {
        let path = staging.path().join(name);
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create_new(&path)?;
            file.write_all(data)?;
            file.sync_all()
        };
        write().map_err(FileError::on("write", &path))?;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(staging.path(), std::fs::Permissions::from_mode(0o755))
            .map_err(FileError::on("change", staging.path()))?;
    }
    sync_folder(staging.path())?;
    if output.exists() {
        // Afterwards the staging path names the old folder, and is removed with it.
        exchange(staging.path(), &output).map_err(FileError::on("replace", &output))?;
    } else {
        let staging = staging.keep();
        if let Err(error) = std::fs::rename(&staging, &output) {
            let _ = std::fs::remove_dir_all(&staging);
            return Err(FileError::on("write", &output)(error).into());
        }
    }
    sync_folder(parent)?;
    Ok(())
}

/// Only an image may be replaced: a mistyped --output must not cost anybody a folder.
fn check_replaceable(output: &Path) -> Result<(), BuildError> {
    let Ok(mut entries) = std::fs::read_dir(output) else {
        if output.exists() {
            return Err(BuildError::OutputOccupied {
                path: output.to_owned(),
            });
        }
        return Ok(());
    };
    if entries.next().is_some() && !output.join(MANIFEST_FILE).is_file() {
        return Err(BuildError::OutputOccupied {
            path: output.to_owned(),
        });
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn exchange(new: &Path, old: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
        // Some file systems cannot (NFS, 9p).
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => exchange_in_steps(new, old),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(new: &Path, old: &Path) -> std::io::Result<()> {
    exchange_in_steps(new, old)
}

fn exchange_in_steps(new: &Path, old: &Path) -> std::io::Result<()> {
    let mut aside = PathBuf::from(new).into_os_string();
    aside.push(".old");
    let aside = PathBuf::from(aside);
    std::fs::rename(old, &aside)?;
    if let Err(error) = std::fs::rename(new, old) {
        std::fs::rename(&aside, old)?;
        return Err(error);
    }
    std::fs::rename(&aside, new)
}

fn sync_folder(folder: &Path) -> Result<(), FileError> {
    // Only POSIX systems open folders as files.
    if cfg!(unix) {
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(FileError::on("sync", folder))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn images_are_replaced_and_nothing_is_left_over() {
        let parent = tempfile::tempdir().unwrap();
        let output = parent.path().join("image");
        for content in ["one", "two"] {
            let files = [(MANIFEST_FILE, content.as_bytes()), ("vmlinux", b"k")];
            write_folder(&output, &files, Progress::Silent).unwrap();
            assert_eq!(
                std::fs::read_to_string(output.join(MANIFEST_FILE)).unwrap(),
                content
            );
            assert_eq!(names(&output), [MANIFEST_FILE, "vmlinux"]);
        }
        assert_eq!(names(parent.path()), [".image.lock", "image"]);
    }

    #[test]
    fn the_way_without_an_atomic_exchange_exchanges_too() {
        let parent = tempfile::tempdir().unwrap();
        let (one, two) = (parent.path().join("one"), parent.path().join("two"));
        for path in [&one, &two] {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("name"), path.to_str().unwrap()).unwrap();
        }
        exchange_in_steps(&one, &two).unwrap();
        assert_eq!(
            std::fs::read(two.join("name")).unwrap(),
            one.to_str().unwrap().as_bytes()
        );
        assert_eq!(
            std::fs::read(one.join("name")).unwrap(),
            two.to_str().unwrap().as_bytes()
        );
        assert_eq!(names(parent.path()), ["one", "two"]);
    }

    #[test]
    fn other_folders_are_not_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let output = parent.path().join("photos");
        std::fs::create_dir(&output).unwrap();
        std::fs::write(output.join("cat.jpg"), b"meow").unwrap();
        let files = [(MANIFEST_FILE, &b"x"[..])];
        let error = write_folder(&output, &files, Progress::Silent).unwrap_err();
        assert!(
            matches!(error, BuildError::OutputOccupied { .. }),
            "{error}"
        );
        assert!(error.hint().is_some());
        assert_eq!(names(&output), ["cat.jpg"]);
    }

    #[test]
    fn a_failed_write_leaves_the_old_image() {
        let parent = tempfile::tempdir().unwrap();
        let output = parent.path().join("image");
        let good = [(MANIFEST_FILE, &b"good"[..])];
        write_folder(&output, &good, Progress::Silent).unwrap();
        // The second file cannot be created: its folder does not exist.
        let bad = [(MANIFEST_FILE, &b"bad"[..]), ("no/such", &b"x"[..])];
        write_folder(&output, &bad, Progress::Silent).unwrap_err();
        assert_eq!(std::fs::read(output.join(MANIFEST_FILE)).unwrap(), b"good");
        assert_eq!(names(parent.path()), [".image.lock", "image"]);
    }
}
