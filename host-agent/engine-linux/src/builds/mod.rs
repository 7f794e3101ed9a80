//! [`BuildFiles`] on Linux. Everything is opened relative to the tree's descriptor with `openat2(RESOLVE_IN_ROOT)`.

mod caches;
mod contents;
mod context;
mod fill;
mod git;
mod leave_out;
mod place;
mod select;
mod tree;

pub use git::GitProgram;

use crate::archive::decode::{StreamReader, decoded, on_own_thread};
use crate::archive::tar::{TarLimits, TarReader};
use crate::archive::tree::{Descend, walk};
use crate::files::{BUILD_CACHES, BUILD_CONTENTS, BUILD_CONTEXTS, BUILD_SECRETS};
use async_trait::async_trait;
use contents::KeptContents;
use context::Digests;
use engine::builds::files::{
    BuildFiles, BuildFilesError, CacheFolder, ContextForm, CopyFrom, FillPart,
    KeptContents as Kept, Links, Missing, Place, Selection,
};
use engine::builds::ignore::{self, Ignore};
use engine::images::{BorrowedRoot, ByteStream};
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tree::Tree;

/// Keeps contexts below `<data-root>/builds/contexts`, cache mounts below `builds/caches`, and secrets in memory.
#[derive(Debug, Clone)]
pub struct DiskBuildFiles {
    folder: PathBuf,
    caches: PathBuf,
    secrets: PathBuf,
    contents: Arc<KeptContents>,
    received: Received,
}

/// What is known of the contexts that are here, by their folders.
type Received = Arc<Mutex<HashMap<PathBuf, Arc<Digests>>>>;

fn locked(received: &Received) -> MutexGuard<'_, HashMap<PathBuf, Arc<Digests>>> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DiskBuildFiles {
    /// Removes what an earlier engine left. `memory` is a folder whose files are not written to a disk (a tmpfs).
    pub fn open(data_root: &Path, memory: &Path) -> io::Result<DiskBuildFiles> {
        let folder = data_root.join(BUILD_CONTEXTS);
        let secrets = memory.join(BUILD_SECRETS);
        for left in [&folder, &secrets] {
            match std::fs::remove_dir_all(left) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)?;
        crate::layers::spread(&folder);
        let caches = data_root.join(BUILD_CACHES);
        caches::open(&caches)?;
        Ok(DiskBuildFiles {
            folder,
            caches,
            secrets,
            contents: Arc::new(KeptContents::open(data_root.join(BUILD_CONTENTS))?),
            received: Received::default(),
        })
    }
}

/// Removes a secret once its step is over.
struct SecretFile(PathBuf);

impl Drop for SecretFile {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the file of a build's secret stays behind");
            }
            _ => {}
        }
    }
}

/// Bytes of a disk.
struct Space {
    free: u64,
    all: u64,
}

/// What builds leave free at least, however small an archive looked: a twentieth of the disk, and not more than this.
const RESERVE_MAX: u64 = 1 << 30;

impl Space {
    fn room(&self) -> u64 {
        self.free.saturating_sub((self.all / 20).min(RESERVE_MAX))
    }
}

fn space(folder: &Path) -> Result<Space, BuildFilesError> {
    let facts =
        rustix::fs::statvfs(folder).map_err(|error| failed("measure the free space", error))?;
    Ok(Space {
        free: facts.f_bavail.saturating_mul(facts.f_frsize),
        all: facts.f_blocks.saturating_mul(facts.f_frsize),
    })
}

fn failed(step: impl Into<String>, source: impl Into<io::Error>) -> BuildFilesError {
    BuildFilesError::Failed {
        step: step.into(),
        source: source.into(),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildFilesError> + Send + 'static,
) -> Result<T, BuildFilesError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(failed("work on files", io::Error::other(error))),
    }
}

/// Forgets what was known of a context; before its folder goes, whose name another one might get.
struct Forget {
    received: Received,
    path: PathBuf,
}

impl Drop for Forget {
    fn drop(&mut self) {
        locked(&self.received).remove(&self.path);
    }
}

/// Removes a context's folder once nobody needs it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a build context stays behind");
        }
    }
}

#[async_trait]
impl BuildFiles for DiskBuildFiles {
    async fn new_folder(&self) -> Result<BorrowedRoot, BuildFilesError> {
        let folder = self.folder.clone();
        blocking(move || {
            let name = random_name().map_err(|error| failed("make a name", error))?;
            let path = folder.join(name);
            std::fs::create_dir(&path)
                .map_err(|error| failed("make a folder for the context", error))?;
            Ok(BorrowedRoot::new(path.clone(), Folder(path)))
        })
        .await
    }

    async fn unpack_context(
        &self,
        content: ByteStream,
        form: ContextForm,
    ) -> Result<BorrowedRoot, BuildFilesError> {
        let folder = self.new_folder().await?;
        let input = StreamReader::new(content);
        let contents = self.contents.clone();
        let received = self.received.clone();
        blocking(move || {
            let digests = context::unpack(input, &folder.path, form, &contents)?;
            let path = folder.path.clone();
            locked(&received).insert(path.clone(), Arc::new(digests));
            let forget = Forget { received, path };
            Ok(BorrowedRoot::new(folder.path.clone(), (forget, folder)))
        })
        .await
    }

    async fn missing_contents(&self, digests: Vec<String>) -> Result<Vec<String>, BuildFilesError> {
        let contents = self.contents.clone();
        blocking(move || Ok(contents.missing(digests))).await
    }

    async fn kept_contents(&self) -> Result<Option<Kept>, BuildFilesError> {
        let contents = self.contents.clone();
        blocking(move || Ok(contents.usage())).await
    }

    async fn forget_contents(&self) -> Result<u64, BuildFilesError> {
        let contents = self.contents.clone();
        blocking(move || contents.forget()).await
    }

    async fn free_bytes(&self) -> Result<u64, BuildFilesError> {
        Ok(space(&self.folder)?.free)
    }

    async fn room(&self) -> Result<u64, BuildFilesError> {
        Ok(space(&self.folder)?.room())
    }

    async fn read(
        &self,
        tree: Arc<BorrowedRoot>,
        path: &str,
        largest: u64,
    ) -> Result<Option<Vec<u8>>, BuildFilesError> {
        let path = ignore::clean(path);
        blocking(move || {
            let step = || format!("read {path}");
            let opened = match Tree::open(&tree)?.at(&path, OFlags::RDONLY | OFlags::NONBLOCK) {
                Ok(opened) => File::from(opened),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(error) => return Err(failed(step(), error)),
            };
            if !opened
                .metadata()
                .map_err(|error| failed(step(), error))?
                .is_file()
            {
                return Err(BuildFilesError::Invalid(format!(
                    "{path} is not a regular file"
                )));
            }
            let mut bytes = Vec::new();
            opened
                .take(largest + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| failed(step(), error))?;
            if bytes.len() as u64 > largest {
                return Err(BuildFilesError::Invalid(format!(
                    "{path} is larger than {largest} bytes"
                )));
            }
            Ok(Some(bytes))
        })
        .await
    }

    async fn leave_out(
        &self,
        tree: Arc<BorrowedRoot>,
        rules: Ignore,
    ) -> Result<(), BuildFilesError> {
        blocking(move || leave_out::leave_out(&tree, &rules)).await
    }

    async fn select(
        &self,
        tree: Arc<BorrowedRoot>,
        what: CopyFrom,
    ) -> Result<Selection, BuildFilesError> {
        let received = locked(&self.received).get(&tree.path).cloned();
        blocking(move || {
            let received = received.unwrap_or_default();
            select::select(&Tree::open(&tree)?, what, &received)
        })
        .await
    }

    async fn fill(
        &self,
        folder: &Path,
        below: Option<Arc<BorrowedRoot>>,
        parts: Vec<FillPart>,
    ) -> Result<(), BuildFilesError> {
        let folder = folder.to_owned();
        blocking(move || match &below {
            Some(below) => fill::fill(&folder, fill::Into::Layer(&Tree::open(below)?), &parts),
            None => fill::fill(&folder, fill::Into::Folder, &parts),
        })
        .await
    }

    async fn place(
        &self,
        root: Arc<BorrowedRoot>,
        path: &str,
        links: Links,
        owner: Option<&str>,
    ) -> Result<Place, BuildFilesError> {
        let (path, owner) = (path.to_owned(), owner.map(str::to_owned));
        blocking(move || place::place(&Tree::open(&root)?, &path, links, owner.as_deref())).await
    }

    async fn write_files(
        &self,
        folder: Arc<BorrowedRoot>,
        files: Vec<(String, Vec<u8>)>,
    ) -> Result<(), BuildFilesError> {
        blocking(move || {
            for (name, content) in files {
                let step = || format!("write {name}");
                let path = in_folder(&folder, &name)?;
                std::fs::write(&path, content).map_err(|error| failed(step(), error))?;
                set_mode(&path, 0o644).map_err(|error| failed(step(), error))?;
            }
            Ok(())
        })
        .await
    }

    async fn write_stream(
        &self,
        folder: Arc<BorrowedRoot>,
        name: &str,
        content: ByteStream,
        largest: u64,
    ) -> Result<String, BuildFilesError> {
        let path = in_folder(&folder, name)?;
        let name = name.to_owned();
        let content = StreamReader::new(content);
        blocking(move || {
            let step = || format!("write {name}");
            let mut file = File::create(&path).map_err(|error| failed(step(), error))?;
            let mut content = content.take(largest.saturating_add(1));
            let mut digest = Sha256::new();
            let mut buffer = vec![0u8; 128 * 1024];
            let mut size = 0;
            loop {
                let count = content
                    .read(&mut buffer)
                    .map_err(|error| failed(format!("fetch {name}"), error))?;
                if count == 0 {
                    break;
                }
                digest.update(&buffer[..count]);
                file.write_all(&buffer[..count])
                    .map_err(|error| failed(step(), error))?;
                size += count as u64;
            }
            if size > largest {
                return Err(BuildFilesError::Invalid(format!(
                    "{name} is larger than {largest} bytes"
                )));
            }
            drop(folder);
            Ok(hex::encode(digest.finalize()))
        })
        .await
    }

    async fn set_facts(
        &self,
        folder: Arc<BorrowedRoot>,
        name: &str,
        modified: Option<i64>,
        mode: u32,
    ) -> Result<(), BuildFilesError> {
        let path = in_folder(&folder, name)?;
        blocking(move || {
            let set = || -> io::Result<()> {
                set_mode(&path, mode)?;
                if let Some(seconds) = modified {
                    rustix::fs::utimensat(
                        rustix::fs::CWD,
                        &path,
                        &both_times(seconds),
                        AtFlags::SYMLINK_NOFOLLOW,
                    )?;
                }
                Ok(())
            };
            drop(folder);
            set().map_err(|error| failed("set the facts of a file", error))
        })
        .await
    }

    async fn open_archive(
        &self,
        tree: Arc<BorrowedRoot>,
        path: &str,
    ) -> Result<Option<ByteStream>, BuildFilesError> {
        let path = ignore::clean(path);
        let opened = blocking(move || {
            let open = || -> io::Result<File> {
                let opened = Tree::open(&tree)
                    .map_err(io::Error::other)?
                    .at(&path, OFlags::RDONLY | OFlags::NONBLOCK)?;
                Ok(File::from(opened))
            };
            let mut file = open().map_err(|error| failed(format!("read {path}"), error))?;
            let is_file = file.metadata().is_ok_and(|facts| facts.is_file());
            if !is_file || !is_archive(&mut file) {
                return Ok(None);
            }
            file.rewind()
                .map_err(|error| failed(format!("read {path}"), error))?;
            Ok(Some(file))
        })
        .await?;
        Ok(opened.map(crate::blobs::stream_file))
    }

    async fn secret(
        &self,
        content: Vec<u8>,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<BorrowedRoot, BuildFilesError> {
        let folder = self.secrets.clone();
        blocking(move || {
            let make = || -> io::Result<BorrowedRoot> {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&folder)?;
                let path = folder.join(random_name()?);
                let secret = BorrowedRoot::new(path.clone(), SecretFile(path.clone()));
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .open(&path)?;
                file.write_all(&content)?;
                std::os::unix::fs::fchown(&file, Some(owner.0), Some(owner.1))?;
                set_mode(&path, mode & 0o7777)?;
                Ok(secret)
            };
            make().map_err(|error| failed("keep a secret", error))
        })
        .await
    }

    async fn missing(
        &self,
        root: Arc<BorrowedRoot>,
        paths: Vec<String>,
    ) -> Result<Vec<Missing>, BuildFilesError> {
        blocking(move || place::missing(&Tree::open(&root)?, &paths)).await
    }

    async fn remove_missing(
        &self,
        root: Arc<BorrowedRoot>,
        places: Vec<Missing>,
    ) -> Result<(), BuildFilesError> {
        blocking(move || place::remove_missing(&Tree::open(&root)?, &places)).await
    }

    async fn clamp_times(&self, folder: PathBuf, latest: i64) -> Result<(), BuildFilesError> {
        blocking(move || {
            let clamp = || -> io::Result<()> {
                let root = rustix::fs::open(
                    &folder,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                walk(root.as_fd(), &mut |found| {
                    if found.facts.st_mtime > latest {
                        rustix::fs::utimensat(
                            found.folder,
                            found.name,
                            &both_times(latest),
                            AtFlags::SYMLINK_NOFOLLOW,
                        )?;
                    }
                    Ok(Descend::Yes)
                })?;
                if rustix::fs::fstat(&root)?.st_mtime > latest {
                    rustix::fs::futimens(&root, &both_times(latest))?;
                }
                Ok(())
            };
            clamp().map_err(|error| failed("set times to SOURCE_DATE_EPOCH", error))
        })
        .await
    }

    async fn cache(
        &self,
        id: &str,
        content: Option<(Arc<BorrowedRoot>, String)>,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<PathBuf, BuildFilesError> {
        let (folder, id) = (self.caches.clone(), id.to_owned());
        blocking(move || {
            let content = match &content {
                Some((root, path)) => Some((Tree::open(root)?, path.as_str())),
                None => None,
            };
            let content = content.as_ref().map(|(tree, path)| (tree, *path));
            caches::obtain(&folder, &id, content, mode, owner)
        })
        .await
    }

    async fn caches(&self) -> Result<Vec<CacheFolder>, BuildFilesError> {
        let folder = self.caches.clone();
        blocking(move || caches::list(&folder)).await
    }

    async fn remove_cache(&self, name: &str) -> Result<(), BuildFilesError> {
        let (folder, name) = (self.caches.clone(), name.to_owned());
        blocking(move || caches::remove(&folder, &name)).await
    }
}

/// A file's path in a folder of ours; the name is one name.
fn in_folder(folder: &BorrowedRoot, name: &str) -> Result<PathBuf, BuildFilesError> {
    if name.is_empty() || matches!(name, "." | "..") || name.contains(['/', '\0']) {
        return Err(BuildFilesError::Invalid(format!(
            "{name:?} is no name for a file"
        )));
    }
    Ok(folder.path.join(name))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

fn both_times(seconds: i64) -> Timestamps {
    let at = Timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: at,
        last_modification: at,
    }
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(hex::encode(bytes))
}

/// Whether a file is a tar, whatever it is compressed with: its first entry can be read.
fn is_archive(file: &mut File) -> bool {
    let mut start = [0u8; 8];
    if !matches!(file.read(&mut start), Ok(count) if count > 2) || file.rewind().is_err() {
        return false;
    }
    let Ok(mut plain) = decoded(io::BufReader::new(file)) else {
        return false;
    };
    on_own_thread(&mut *plain, |reader| {
        matches!(
            TarReader::new(reader, TarLimits::default()).next_entry(),
            Ok(Some(_))
        )
    })
}

#[cfg(test)]
mod tests;
