//! [`BuildFiles`] on Linux. Everything is opened relative to the tree's descriptor with `openat2(RESOLVE_IN_ROOT)`.

use crate::archive::tree::{Descend, descriptor_path, retry, walk, xattrs};
use crate::archive::write::{EntryKind, NewEntry, PieceWriter, TarWriter};
use crate::shim::users;
use async_trait::async_trait;
use engine::builds::files::{
    ArchiveForm, BuildFiles, BuildFilesError, CopyFrom, SelectedFrom, SelectedSource, Selection,
};
use engine::builds::ignore;
use engine::builds::pattern::PathPattern;
use engine::images::{BorrowedRoot, ByteStream};
use engine::runtime::RuntimeError;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keeps contexts below `<data-root>/builds/contexts`.
#[derive(Debug, Clone)]
pub struct DiskBuildFiles {
    folder: PathBuf,
}

impl DiskBuildFiles {
    /// Removes what an earlier engine left.
    pub fn open(data_root: &Path) -> io::Result<DiskBuildFiles> {
        let folder = data_root.join("builds/contexts");
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::create_dir_all(&folder)?;
        Ok(DiskBuildFiles { folder })
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

impl Tree {
    fn open(root: &BorrowedRoot) -> Result<Tree, BuildFilesError> {
        rustix::fs::open(
            &root.path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(Tree)
        .map_err(|error| failed("open the files of the build", error))
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
            let mut bytes = [0u8; 8];
            getrandom::fill(&mut bytes)
                .map_err(|error| failed("make a name", io::Error::other(error.to_string())))?;
            let path = folder.join(hex::encode(bytes));
            std::fs::create_dir(&path)
                .map_err(|error| failed("make a folder for the context", error))?;
            Ok(BorrowedRoot::new(path.clone(), Folder(path)))
        })
        .await
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

    async fn archive(
        &self,
        tree: Arc<BorrowedRoot>,
        selection: Selection,
        form: ArchiveForm,
    ) -> Result<ByteStream, BuildFilesError> {
        let opened = Tree::open(&tree)?;
        let (mut writer, stream) = PieceWriter::new();
        tokio::task::spawn_blocking(move || {
            let outcome = write_archive(&opened, &selection, &form, &mut writer);
            writer.finish(outcome);
            drop(tree);
        });
        Ok(stream)
    }

    async fn make_folder(
        &self,
        tree: Arc<BorrowedRoot>,
        path: &str,
        owner: Option<&str>,
    ) -> Result<bool, BuildFilesError> {
        let path = ignore::clean(path);
        let owner = owner.map(str::to_owned);
        blocking(move || {
            let opened = Tree::open(&tree)?;
            let step = || format!("make the folder /{path}");
            let (uid, gid) = match owner {
                None => (0, 0),
                Some(user) => identity(&opened, &user)?,
            };
            let mut was_there = true;
            let mut at = String::new();
            for name in path.split('/').filter(|name| !name.is_empty()) {
                let parent = opened
                    .at(&at, OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(|error| failed(step(), error))?;
                at = if at.is_empty() {
                    name.to_owned()
                } else {
                    format!("{at}/{name}")
                };
                match opened.at(&at, OFlags::PATH | OFlags::DIRECTORY) {
                    Ok(_) => continue,
                    Err(Errno::NOENT) => {}
                    Err(Errno::NOTDIR) => {
                        return Err(BuildFilesError::Invalid(format!(
                            "cannot make the folder /{path}: /{at} is a file"
                        )));
                    }
                    Err(error) => return Err(failed(step(), error)),
                }
                was_there = false;
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                    .map_err(|error| failed(step(), error))?;
                let made = opened
                    .at(&at, OFlags::RDONLY | OFlags::DIRECTORY)
                    .map_err(|error| failed(step(), error))?;
                // The umask is not the image's.
                rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))
                    .and_then(|()| {
                        let user = rustix::fs::Uid::from_raw(uid);
                        rustix::fs::fchown(&made, Some(user), Some(rustix::fs::Gid::from_raw(gid)))
                    })
                    .map_err(|error| failed(step(), error))?;
            }
            Ok(was_there)
        })
        .await
    }

    async fn is_folder(
        &self,
        tree: Arc<BorrowedRoot>,
        path: &str,
    ) -> Result<bool, BuildFilesError> {
        let path = ignore::clean(path);
        blocking(
            move || match Tree::open(&tree)?.at(&path, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(_) => Ok(true),
                Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
                Err(error) => Err(failed(format!("look at /{path}"), error)),
            },
        )
        .await
    }
}

/// `--chown` as numbers, by the image's own files.
fn identity(tree: &Tree, user: &str) -> Result<(u32, u32), BuildFilesError> {
    let root = PathBuf::from(descriptor_path(tree.0.as_fd()));
    users::look_up(&root, user, &[])
        .map(|identity| (identity.uid, identity.gid))
        .map_err(|refusal| {
            let why = engine::error::full_message(&RuntimeError::from(refusal));
            BuildFilesError::Invalid(format!("invalid owner {user:?}: {why}"))
        })
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

fn write_archive(
    tree: &Tree,
    selection: &Selection,
    form: &ArchiveForm,
    writer: &mut PieceWriter,
) -> io::Result<()> {
    let mut tar = TarWriter::new(writer);
    // Folders above what `--parents` names.
    let mut made: BTreeSet<Vec<u8>> = BTreeSet::new();
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
            if kind == EntryKind::Folder {
                path.push(b'/');
                if !made.insert(path.clone()) {
                    return Ok(());
                }
            }
            let mut new = NewEntry {
                kind,
                path,
                link: Vec::new(),
                mode: form.mode.unwrap_or(entry.facts.st_mode & 0o7777),
                uid: if form.keep_owners {
                    entry.facts.st_uid
                } else {
                    0
                },
                gid: if form.keep_owners {
                    entry.facts.st_gid
                } else {
                    0
                },
                size: 0,
                mtime: entry.facts.st_mtime,
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
    tar.finish().map(|_| ())
}

#[cfg(test)]
mod tests;
