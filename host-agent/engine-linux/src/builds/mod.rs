//! [`BuildFiles`] on Linux. Everything is opened relative to the tree's descriptor with `openat2(RESOLVE_IN_ROOT)`.

mod caches;
mod contents;
mod context;
mod git;
mod place;

pub use git::GitProgram;

use crate::archive::decode::{StreamReader, decoded, on_own_thread};
use crate::archive::tar::{TarLimits, TarReader};
use crate::archive::tree::{Descend, descriptor_path, retry, walk, xattrs};
use crate::archive::write::{EntryKind, NewEntry, PieceWriter, TarWriter};
use crate::files::{BUILD_CACHES, BUILD_CONTENTS, BUILD_CONTEXTS, BUILD_SECRETS};
use async_trait::async_trait;
use contents::KeptContents;
use engine::builds::files::{
    ArchivePart, BuildFiles, BuildFilesError, CacheFolder, ContextForm, CopyFrom, Missing, Place,
    SelectedFrom, SelectedSource, Selection,
};
use engine::builds::ignore;
use engine::builds::pattern::PathPattern;
use engine::images::{BorrowedRoot, ByteStream};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of a context's files, at most.
const CONTEXT_MAX: u64 = 128 << 30;

/// Keeps contexts below `<data-root>/builds/contexts`, cache mounts below `builds/caches`, and secrets in memory.
#[derive(Debug, Clone)]
pub struct DiskBuildFiles {
    folder: PathBuf,
    caches: PathBuf,
    secrets: PathBuf,
    contents: Arc<KeptContents>,
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
        let caches = data_root.join(BUILD_CACHES);
        caches::open(&caches)?;
        Ok(DiskBuildFiles {
            folder,
            caches,
            secrets,
            contents: Arc::new(KeptContents::open(data_root.join(BUILD_CONTENTS))?),
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

/// Removes a context's folder once nobody needs it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, folder = %self.0.display(), "a build context stays behind");
        }
    }
}

/// An opened tree.
struct Tree(OwnedFd);

fn open_tree(path: &Path) -> Result<OwnedFd, BuildFilesError> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| failed("open the files of the build", error))
}

impl Tree {
    fn open(root: &BorrowedRoot) -> Result<Tree, BuildFilesError> {
        open_tree(&root.path).map(Tree)
    }

    fn at(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        retry(|| {
            rustix::fs::openat2(
                &self.0,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
            )
        })
    }

    /// The path, with links in its folders (not at its end) resolved.
    fn real(&self, path: &str) -> rustix::io::Result<String> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if parent.is_empty() {
            return Ok(name.to_owned());
        }
        let parent = self.at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let base =
            rustix::fs::readlinkat(rustix::fs::CWD, descriptor_path(self.0.as_fd()), Vec::new())?;
        let whole =
            rustix::fs::readlinkat(rustix::fs::CWD, descriptor_path(parent.as_fd()), Vec::new())?;
        let base = base.to_string_lossy().into_owned();
        let whole = whole.to_string_lossy().into_owned();
        let inside = whole
            .strip_prefix(base.trim_end_matches('/'))
            .ok_or(Errno::NOENT)?
            .trim_start_matches('/');
        Ok(if inside.is_empty() {
            name.to_owned()
        } else {
            format!("{inside}/{name}")
        })
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
        blocking(move || {
            context::unpack(input, &folder.path, form, &contents)?;
            Ok(folder)
        })
        .await
    }

    async fn missing_contents(&self, digests: Vec<String>) -> Result<Vec<String>, BuildFilesError> {
        let contents = self.contents.clone();
        blocking(move || Ok(contents.missing(digests))).await
    }

    async fn forget_contents(&self) -> Result<u64, BuildFilesError> {
        let contents = self.contents.clone();
        blocking(move || contents.forget()).await
    }

    async fn free_bytes(&self) -> Result<u64, BuildFilesError> {
        let facts = rustix::fs::statvfs(&self.folder)
            .map_err(|error| failed("measure the free space", error))?;
        Ok(facts
            .f_bavail
            .saturating_mul(facts.f_frsize)
            .min(CONTEXT_MAX))
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

    async fn select(
        &self,
        tree: Arc<BorrowedRoot>,
        what: CopyFrom,
    ) -> Result<Selection, BuildFilesError> {
        blocking(move || {
            let tree = Tree::open(&tree)?;
            let sources = find(&tree, &what)?;
            let mut digest = Sha256::new();
            for source in &sources {
                visit(&tree, source, &what, &mut |entry| {
                    hash_entry(&mut digest, entry, what.with_owners)
                })
                .map_err(|error| failed(format!("read {}", source.path), error))?;
            }
            Ok(Selection {
                digest: hex::encode(digest.finalize()),
                sources,
                from: SelectedFrom(what),
            })
        })
        .await
    }

    async fn archive(&self, parts: Vec<ArchivePart>) -> Result<ByteStream, BuildFilesError> {
        let (mut writer, stream) = PieceWriter::new();
        tokio::task::spawn_blocking(move || {
            let outcome = write_archive(&parts, &mut writer);
            if let Err(error) = &outcome
                && error.kind() == io::ErrorKind::BrokenPipe
            {
                tracing::debug!("nobody reads the files of a build any more");
            }
            writer.finish(outcome);
            drop(parts);
        });
        Ok(stream)
    }

    async fn place(
        &self,
        root: Arc<BorrowedRoot>,
        path: &str,
        owner: Option<&str>,
    ) -> Result<Place, BuildFilesError> {
        let (path, owner) = (path.to_owned(), owner.map(str::to_owned));
        blocking(move || place::place(&Tree::open(&root)?, &path, owner.as_deref())).await
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

/// Copies a folder of a tree into a folder of ours: files, folders and links with owners, modes and times.
fn copy_tree(tree: &Tree, path: &str, target: &Path) -> io::Result<()> {
    let root = tree.at(&ignore::clean(path), OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut folders = Vec::new();
    walk(root.as_fd(), &mut |found| {
        let to = target.join(OsStr::from_bytes(found.path));
        match found.kind() {
            FileType::Directory => {
                std::fs::create_dir(&to)?;
                set_mode(&to, found.facts.st_mode & 0o7777)?;
                folders.push((to.clone(), found.facts.st_mtime));
            }
            FileType::RegularFile => {
                let opened = rustix::fs::openat(
                    found.folder,
                    found.name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let mut copy = File::create(&to)?;
                io::copy(&mut File::from(opened), &mut copy)?;
                set_mode(&to, found.facts.st_mode & 0o7777)?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(found.folder, found.name, Vec::new())?;
                std::os::unix::fs::symlink(OsStr::from_bytes(link.as_bytes()), &to)?;
            }
            // Devices, pipes and sockets are nothing for a cache.
            _ => return Ok(Descend::No),
        }
        std::os::unix::fs::lchown(&to, Some(found.facts.st_uid), Some(found.facts.st_gid))?;
        if found.kind() != FileType::Directory {
            rustix::fs::utimensat(
                rustix::fs::CWD,
                &to,
                &both_times(found.facts.st_mtime),
                AtFlags::SYMLINK_NOFOLLOW,
            )?;
        }
        Ok(Descend::Yes)
    })?;
    for (folder, modified) in folders.iter().rev() {
        rustix::fs::utimensat(
            rustix::fs::CWD,
            folder,
            &both_times(*modified),
            AtFlags::empty(),
        )?;
    }
    Ok(())
}

/// Paths that the patterns find, in the order of the patterns and then of names.
fn find(tree: &Tree, what: &CopyFrom) -> Result<Vec<SelectedSource>, BuildFilesError> {
    let mut found = Vec::new();
    for pattern in &what.sources {
        // What is before `/./` stays out of the names.
        let (pivot, named) = match pattern.split_once("/./") {
            Some((pivot, rest)) if what.parents => {
                (ignore::clean(pivot), format!("{pivot}/{rest}"))
            }
            _ => (String::new(), pattern.clone()),
        };
        // `..` cannot leave the tree: it stays at the top.
        let path = ignore::clean(&format!("/{named}"));
        let before = found.len();
        if path.contains(['*', '?', '[', '\\']) {
            expand(tree, &path, &pivot, what, &mut found)?;
            if found.len() == before {
                return Err(BuildFilesError::NoMatch);
            }
            continue;
        }
        let not_found = || BuildFilesError::NotFound { path: path.clone() };
        if !path.is_empty() && what.ignore.leaves_out_all_below(&path) {
            return Err(not_found());
        }
        let facts = facts(tree, &path).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => not_found(),
            error => failed(format!("look at {path}"), error),
        })?;
        let is_folder = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
        if !is_folder && what.ignore.leaves_out(&path) {
            return Err(not_found());
        }
        found.push(selected(tree, &path, &pivot, is_folder, what.parents)?);
    }
    Ok(found)
}

/// What a source is, a link at its end followed.
fn facts(tree: &Tree, path: &str) -> rustix::io::Result<Stat> {
    rustix::fs::fstat(tree.at(path, OFlags::PATH)?)
}

fn selected(
    tree: &Tree,
    path: &str,
    pivot: &str,
    is_folder: bool,
    parents: bool,
) -> Result<SelectedSource, BuildFilesError> {
    let name = if parents {
        let name = path
            .strip_prefix(pivot)
            .unwrap_or(path)
            .trim_start_matches('/');
        if is_folder && !name.is_empty() {
            format!("{name}/")
        } else {
            name.to_owned()
        }
    } else if is_folder {
        String::new()
    } else {
        path.rsplit('/').next().unwrap_or(path).to_owned()
    };
    let look = |error| failed(format!("look at {path}"), error);
    let mut real = tree.real(path).map_err(look)?;
    // A link that was named is the file it leads to.
    for _ in 0..40 {
        let (parent, last) = real.rsplit_once('/').unwrap_or(("", &real));
        if last.is_empty() {
            break;
        }
        let folder = tree
            .at(parent, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(look)?;
        match rustix::fs::readlinkat(&folder, last, Vec::new()) {
            Ok(target) => {
                let target = target.to_string_lossy();
                let next = if target.starts_with('/') {
                    target.into_owned()
                } else {
                    format!("/{parent}/{target}")
                };
                real = tree.real(&ignore::clean(&next)).map_err(look)?;
            }
            Err(_) => break,
        }
    }
    Ok(SelectedSource {
        path: real,
        name,
        is_folder,
    })
}

fn expand(
    tree: &Tree,
    pattern: &str,
    pivot: &str,
    what: &CopyFrom,
    found: &mut Vec<SelectedSource>,
) -> Result<(), BuildFilesError> {
    let pattern =
        PathPattern::new(pattern).map_err(|error| BuildFilesError::Invalid(error.to_string()))?;
    let mut paths = Vec::new();
    let root = tree
        .at("", OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|error| failed("read the context", error))?;
    walk(root.as_fd(), &mut |entry| {
        let Ok(path) = std::str::from_utf8(entry.path) else {
            return Ok(Descend::No);
        };
        if pattern.matches(path) && !what.ignore.leaves_out(path) {
            paths.push((path.to_owned(), entry.kind() == FileType::Directory));
            return Ok(Descend::No);
        }
        let may = pattern.may_match_below(path) && !what.ignore.leaves_out_all_below(path);
        Ok(if may { Descend::Yes } else { Descend::No })
    })
    .map_err(|error| failed("read the context", error))?;
    for (path, is_folder) in paths {
        found.push(selected(tree, &path, pivot, is_folder, what.parents)?);
    }
    Ok(())
}

/// Something that is copied.
struct Entry<'a> {
    folder: BorrowedFd<'a>,
    name: &'a OsStr,
    /// At the destination.
    path: Vec<u8>,
    facts: &'a Stat,
}

/// Visits everything that a source selects.
fn visit(
    tree: &Tree,
    source: &SelectedSource,
    what: &CopyFrom,
    act: &mut dyn FnMut(&Entry<'_>) -> io::Result<()>,
) -> io::Result<()> {
    if !source.is_folder {
        let (parent, name) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
        let folder = tree.at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let facts = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        return act(&Entry {
            folder: folder.as_fd(),
            name: OsStr::new(name),
            path: source.name.clone().into_bytes(),
            facts: &facts,
        });
    }
    let root = tree.at(&source.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    walk(root.as_fd(), &mut |found| {
        // Names that are no text cannot be in a pattern either.
        let inner = String::from_utf8_lossy(found.path);
        let whole = match source.path.as_str() {
            "" => inner.clone().into_owned(),
            above => format!("{above}/{inner}"),
        };
        if what.ignore.leaves_out_all_below(&whole) || what.exclude.leaves_out_all_below(&inner) {
            return Ok(Descend::No);
        }
        // A folder that is left out is there all the same where something in it is taken back in.
        let is_folder = found.kind() == FileType::Directory;
        if !is_folder && (what.ignore.leaves_out(&whole) || what.exclude.leaves_out(&inner)) {
            return Ok(Descend::No);
        }
        act(&Entry {
            folder: found.folder,
            name: found.name,
            path: [source.name.as_bytes(), found.path].concat(),
            facts: found.facts,
        })?;
        Ok(Descend::Yes)
    })
}

fn open_file(entry: &Entry<'_>) -> io::Result<File> {
    let opened = rustix::fs::openat(
        entry.folder,
        entry.name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(File::from(opened))
}

fn hash_entry(digest: &mut Sha256, entry: &Entry<'_>, with_owners: bool) -> io::Result<()> {
    let mut field = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    field(&entry.path);
    field(&entry.facts.st_mode.to_le_bytes());
    if with_owners {
        field(&entry.facts.st_uid.to_le_bytes());
        field(&entry.facts.st_gid.to_le_bytes());
    }
    match FileType::from_raw_mode(entry.facts.st_mode) {
        FileType::Symlink => {
            field(rustix::fs::readlinkat(entry.folder, entry.name, Vec::new())?.as_bytes());
        }
        FileType::CharacterDevice | FileType::BlockDevice => {
            field(&entry.facts.st_rdev.to_le_bytes())
        }
        FileType::RegularFile => {
            let mut file = open_file(entry)?;
            for (name, value) in xattrs(file.as_fd())? {
                field(&name);
                field(&value);
            }
            field(&entry.facts.st_size.to_le_bytes());
            let mut buffer = vec![0u8; 64 * 1024];
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    count => digest.update(&buffer[..count]),
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn write_archive(parts: &[ArchivePart], writer: &mut PieceWriter) -> io::Result<()> {
    let mut tar = TarWriter::new(writer);
    // Folders that several parts name.
    let mut made: BTreeSet<Vec<u8>> = BTreeSet::new();
    for part in parts {
        let tree = Tree::open(&part.tree).map_err(io::Error::other)?;
        write_part(&tree, part, &mut tar, &mut made)?;
    }
    tar.finish().map(|_| ())
}

fn write_part(
    tree: &Tree,
    part: &ArchivePart,
    tar: &mut TarWriter<&mut PieceWriter>,
    made: &mut BTreeSet<Vec<u8>>,
) -> io::Result<()> {
    let ArchivePart {
        selection, form, ..
    } = part;
    let clamped = |time: i64| form.latest.map_or(time, |latest| time.min(latest));
    let (new_uid, new_gid) = form.owner.unwrap_or((0, 0));
    for folder in &form.new_folders {
        let path = format!("{folder}/").into_bytes();
        if !made.insert(path.clone()) {
            continue;
        }
        tar.entry(&NewEntry {
            kind: EntryKind::Folder,
            path,
            link: Vec::new(),
            mode: 0o755,
            uid: new_uid,
            gid: new_gid,
            size: 0,
            mtime: clamped(form.new_folders_time),
            device: (0, 0),
            xattrs: Vec::new(),
        })?;
    }
    for source in &selection.sources {
        visit(tree, source, &selection.from.0, &mut |entry| {
            let mut path = form.prefix.clone().into_bytes();
            match &form.rename {
                Some(name) => path.extend_from_slice(name.as_bytes()),
                None => path.extend_from_slice(&entry.path),
            }
            let kind = match FileType::from_raw_mode(entry.facts.st_mode) {
                FileType::RegularFile => EntryKind::File,
                FileType::Directory => EntryKind::Folder,
                FileType::Symlink => EntryKind::Symlink,
                FileType::CharacterDevice => EntryKind::CharacterDevice,
                FileType::BlockDevice => EntryKind::BlockDevice,
                FileType::Fifo => EntryKind::Fifo,
                // No archive has sockets.
                _ => return Ok(()),
            };
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path);
            if name.starts_with(b".wh.") {
                // In a layer it would hide another file instead of being one.
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!(
                        "{:?}: names that begin with .wh. mark deleted files in images and cannot be copied",
                        String::from_utf8_lossy(&path)
                    ),
                ));
            }
            if kind == EntryKind::Folder {
                path.push(b'/');
                if !made.insert(path.clone()) {
                    return Ok(());
                }
            }
            let (uid, gid) = match form.owner {
                Some(owner) => owner,
                None if form.keep_owners => (entry.facts.st_uid, entry.facts.st_gid),
                None => (0, 0),
            };
            let mut new = NewEntry {
                kind,
                path,
                link: Vec::new(),
                mode: form.mode.unwrap_or(entry.facts.st_mode & 0o7777),
                uid,
                gid,
                size: 0,
                mtime: clamped(entry.facts.st_mtime),
                device: (0, 0),
                xattrs: Vec::new(),
            };
            match kind {
                EntryKind::File => {
                    let file = open_file(entry)?;
                    let facts = rustix::fs::fstat(&file)?;
                    new.size = u64::try_from(facts.st_size).unwrap_or(0);
                    new.xattrs = xattrs(file.as_fd())?;
                    return tar.file(&new, file);
                }
                EntryKind::Symlink => {
                    new.mode = 0o777;
                    new.link =
                        rustix::fs::readlinkat(entry.folder, entry.name, Vec::new())?.into_bytes();
                }
                EntryKind::CharacterDevice | EntryKind::BlockDevice => {
                    new.device = (
                        rustix::fs::major(entry.facts.st_rdev),
                        rustix::fs::minor(entry.facts.st_rdev),
                    );
                }
                _ => {}
            }
            tar.entry(&new)
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
