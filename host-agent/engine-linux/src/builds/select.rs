//! What a copy takes of a tree, and the digest of it.

use super::context::Digests;
use super::failed;
use super::tree::Tree;
use crate::archive::tree::{Descend, walk, xattrs};
use engine::builds::files::{BuildFilesError, CopyFrom, SelectedFrom, SelectedSource, Selection};
use engine::builds::ignore::{self, Ignore};
use engine::builds::pattern::PathPattern;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

/// Names of one file that [`super::fill`] may move: a context's own, and that of the content that is kept of it.
const NAMES_MAX: u64 = 2;

/// Finds everything and reads it for its digest.
pub(super) fn select(
    tree: &Tree,
    what: CopyFrom,
    received: &Digests,
) -> Result<Selection, BuildFilesError> {
    let mut sources = find(tree, &what)?;
    let mut hasher = Hasher {
        digest: Sha256::new(),
        with_owners: what.with_owners,
        received,
        buffer: vec![0; 64 * 1024],
    };
    for source in &mut sources {
        let mut is_plain = true;
        let all = visit(tree, source, &what, &mut |entry| {
            is_plain &= is_movable(entry, what.with_owners);
            hasher.add(entry)?;
            Ok(Descend::Yes)
        })
        .map_err(|error| failed(format!("read {}", source.path), error))?;
        source.is_whole = all && is_plain;
    }
    Ok(Selection {
        digest: hex::encode(hasher.digest.finalize()),
        sources,
        from: SelectedFrom(what),
    })
}

/// Whether something can be taken over with the folder it is in.
fn is_movable(entry: &Entry<'_>, with_owners: bool) -> bool {
    let facts = entry.facts;
    let is_roots = (facts.st_uid, facts.st_gid) == (0, 0);
    let kind_fits = matches!(
        FileType::from_raw_mode(facts.st_mode),
        FileType::RegularFile | FileType::Directory | FileType::Symlink
    );
    let is_folder = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
    kind_fits && (is_folder || may_move(facts)) && (is_roots || with_owners) && !hides(entry.name)
}

/// Whether a file may be moved into a layer: it must not be in another one, too.
pub(super) fn may_move(facts: &Stat) -> bool {
    facts.st_nlink <= NAMES_MAX
}

/// A name that would mark a deleted file in a layer.
pub(super) fn hides(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".wh.")
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
        let facts = facts(tree, &path).map_err(|error| match error {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => not_found(),
            error => failed(format!("look at {path}"), error),
        })?;
        let is_folder = FileType::from_raw_mode(facts.st_mode) == FileType::Directory;
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
        is_whole: false,
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
        if pattern.matches(path) {
            paths.push((path.to_owned(), entry.kind() == FileType::Directory));
            return Ok(Descend::No);
        }
        match pattern.may_match_below(path) {
            true => Ok(Descend::Yes),
            false => Ok(Descend::No),
        }
    })
    .map_err(|error| failed("read the context", error))?;
    for (path, is_folder) in paths {
        found.push(selected(tree, &path, pivot, is_folder, what.parents)?);
    }
    Ok(())
}

/// Something that is copied.
pub(super) struct Entry<'a> {
    pub(super) folder: BorrowedFd<'a>,
    pub(super) name: &'a OsStr,
    /// At the destination.
    pub(super) path: Vec<u8>,
    pub(super) facts: &'a Stat,
}

/// Visits everything that a source selects; answers whether nothing was left out.
pub(super) fn visit(
    tree: &Tree,
    source: &SelectedSource,
    what: &CopyFrom,
    act: &mut dyn FnMut(&Entry<'_>) -> io::Result<Descend>,
) -> io::Result<bool> {
    if !source.is_folder {
        let (parent, name) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
        let folder = tree.at(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        let facts = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        act(&Entry {
            folder: folder.as_fd(),
            name: OsStr::new(name),
            path: source.name.clone().into_bytes(),
            facts: &facts,
        })?;
        return Ok(true);
    }
    let has_rules = !what.exclude.is_empty();
    let mut all = true;
    let root = tree.at(&source.path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    walk(root.as_fd(), &mut |found| {
        if has_rules && leaves_out(&what.exclude, found.path, found.kind()) {
            all = false;
            return Ok(Descend::No);
        }
        act(&Entry {
            folder: found.folder,
            name: found.name,
            path: [source.name.as_bytes(), found.path].concat(),
            facts: found.facts,
        })
    })?;
    Ok(all)
}

/// Whether rules leave out what a walk has found, a folder with all that is in it.
pub(super) fn leaves_out(rules: &Ignore, path: &[u8], kind: FileType) -> bool {
    // Names that are no text cannot be in a pattern either.
    let path = String::from_utf8_lossy(path);
    match kind {
        // A folder that is left out is there all the same where something in it is taken back in.
        FileType::Directory => rules.leaves_out_all_below(&path),
        _ => rules.leaves_out(&path),
    }
}

pub(super) fn open_file(entry: &Entry<'_>) -> io::Result<File> {
    let opened = rustix::fs::openat(
        entry.folder,
        entry.name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(File::from(opened))
}

struct Hasher<'a> {
    digest: Sha256,
    with_owners: bool,
    /// Contents that are known.
    received: &'a Digests,
    buffer: Vec<u8>,
}

impl Hasher<'_> {
    fn field(&mut self, bytes: &[u8]) {
        self.digest.update((bytes.len() as u64).to_le_bytes());
        self.digest.update(bytes);
    }

    fn add(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.field(&entry.path);
        self.field(&entry.facts.st_mode.to_le_bytes());
        if self.with_owners {
            self.field(&entry.facts.st_uid.to_le_bytes());
            self.field(&entry.facts.st_gid.to_le_bytes());
        }
        match FileType::from_raw_mode(entry.facts.st_mode) {
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(entry.folder, entry.name, Vec::new())?;
                self.field(target.as_bytes());
            }
            FileType::CharacterDevice | FileType::BlockDevice => {
                self.field(&entry.facts.st_rdev.to_le_bytes());
            }
            FileType::RegularFile => self.add_content(entry)?,
            _ => {}
        }
        Ok(())
    }

    fn add_content(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        if let Some(content) = self.received.get(&entry.facts.st_ino) {
            self.field(content);
            return Ok(());
        }
        let mut file = open_file(entry)?;
        for (name, value) in xattrs(file.as_fd())? {
            self.field(&name);
            self.field(&value);
        }
        let mut content = Sha256::new();
        let mut left = u64::try_from(entry.facts.st_size).unwrap_or(0);
        // Nobody changes these files: what comes after their size need not be asked for.
        while left > 0 {
            let count = file.read(&mut self.buffer)?;
            if count == 0 {
                break;
            }
            content.update(&self.buffer[..count]);
            left = left.saturating_sub(count as u64);
        }
        let content: [u8; 32] = content.finalize().into();
        self.field(&content);
        Ok(())
    }
}
