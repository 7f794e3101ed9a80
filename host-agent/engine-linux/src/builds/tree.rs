//! A folder that was opened once: a context, or an image's files. Links lead to what is in it and nowhere else.

use super::failed;
use crate::archive::tree::{descriptor_path, retry};
use engine::builds::files::BuildFilesError;
use engine::images::BorrowedRoot;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// An opened tree.
pub(super) struct Tree(pub(super) OwnedFd);

pub(super) fn open_tree(path: &Path) -> Result<OwnedFd, BuildFilesError> {
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|error| failed("open the files of the build", error))
}

impl Tree {
    pub(super) fn open(root: &BorrowedRoot) -> Result<Tree, BuildFilesError> {
        open_tree(&root.path).map(Tree)
    }

    pub(super) fn at(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
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
    pub(super) fn real(&self, path: &str) -> rustix::io::Result<String> {
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
