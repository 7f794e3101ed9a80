//! [`ContainerFiles`] on Linux: each operation runs on a thread that has a mount namespace of its own, in which the
//! container's volumes are mounted on its root file system ([`view`]). Everything in there is opened relative to the
//! root's descriptor with `openat2(RESOLVE_IN_ROOT)`: whatever links a container has or swaps while we work, they lead
//! to its own files.

mod extract;
mod paths;
mod view;

use crate::archive::decode::StreamReader;
use crate::archive::tree::{TreeWriter, descriptor_path};
use crate::archive::write::PieceWriter;
use crate::shim::users;
use async_trait::async_trait;
use engine::containers::files::{ContainerFiles, FileError, FileView, PathStat, WriteOptions};
use engine::images::{BorrowedRoot, ByteStream};
use engine::runtime::RuntimeError;
use extract::Extractor;
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use view::Root;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct ViewedFiles;

fn failed(step: impl Into<String>, source: impl Into<io::Error>) -> FileError {
    FileError::Failed {
        step: step.into(),
        source: source.into(),
    }
}

/// What the kernel said about a path that the client named.
fn lookup_error(path: &str, error: Errno) -> FileError {
    match error {
        Errno::NOENT => FileError::NotFound,
        Errno::NOTDIR => FileError::NotADirectory {
            path: path.to_owned(),
        },
        Errno::LOOP => FileError::Invalid {
            why: format!("{path}: too many levels of symbolic links"),
        },
        Errno::NAMETOOLONG => FileError::Invalid {
            why: format!("{path}: file name too long"),
        },
        Errno::INVAL if path.contains('\0') => FileError::Invalid {
            why: "a path cannot have a zero byte in it".into(),
        },
        error => failed(format!("look up {path}"), error),
    }
}

/// Runs `work` on a thread of its own and waits for what it answers.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce(oneshot::Sender<Result<T, FileError>>) + Send + 'static,
) -> Result<T, FileError> {
    let (answer, answered) = oneshot::channel();
    // Not from the pool: the thread leaves the others' mount namespace and cannot come back.
    std::thread::Builder::new()
        .name("container-files".into())
        .spawn(move || work(answer))
        .map_err(|error| failed("start a thread", error))?;
    answered
        .await
        .map_err(|_| failed("work on files", io::Error::other("it was cut off")))?
}

#[async_trait]
impl ContainerFiles for ViewedFiles {
    async fn stat(&self, view: FileView, path: &str) -> Result<PathStat, FileError> {
        let path = path.to_owned();
        on_thread(move |answer| {
            let stat = Root::enter(&view).and_then(|root| stat_now(&root, &paths::absolute(&path)));
            let _ = answer.send(stat);
        })
        .await
    }

    async fn read(&self, view: FileView, path: &str) -> Result<(PathStat, ByteStream), FileError> {
        let path = path.to_owned();
        on_thread(move |answer| {
            let path = paths::absolute(&path);
            let found = Root::enter(&view).and_then(|root| {
                let stat = stat_now(&root, &path)?;
                Ok((root, stat))
            });
            let (root, stat) = match found {
                Ok(found) => found,
                Err(error) => {
                    let _ = answer.send(Err(error));
                    return;
                }
            };
            let (writer, stream) = PieceWriter::new();
            if answer.send(Ok((stat, stream))).is_ok() {
                finish(writer, |tree| add_path(&root, &path, tree));
            }
        })
        .await
    }

    async fn write(
        &self,
        view: FileView,
        path: &str,
        options: WriteOptions,
        content: ByteStream,
    ) -> Result<(), FileError> {
        let path = path.to_owned();
        let content = StreamReader::new(content);
        on_thread(move |answer| {
            let _ = answer.send(write_now(&view, &path, &options, content));
        })
        .await
    }

    async fn export(&self, root: BorrowedRoot) -> Result<ByteStream, FileError> {
        on_thread(move |answer| {
            // What is mounted inside of containers is not mounted here, so this sees the root file system alone.
            let opened = view::open_folder(&root.path);
            let opened = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    let _ = answer.send(Err(failed("open the root file system", error)));
                    return;
                }
            };
            let (writer, stream) = PieceWriter::new();
            if answer.send(Ok(stream)).is_ok() {
                finish(writer, |tree| tree.add_tree(opened.as_fd(), b""));
            }
        })
        .await
    }
}

/// Writes an archive to its end, or its reader is told why it ends early.
fn finish(
    mut writer: PieceWriter,
    add: impl FnOnce(&mut TreeWriter<&mut PieceWriter>) -> io::Result<()>,
) {
    let mut tree = TreeWriter::new(&mut writer);
    let outcome = add(&mut tree).and_then(|()| tree.finish().map(|_| ()));
    if let Err(error) = &outcome
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        tracing::warn!(%error, "an archive of a container's files ends early");
    }
    writer.finish(outcome);
}

fn stat_now(root: &Root, path: &str) -> Result<PathStat, FileError> {
    let opened = root
        .open(path, OFlags::PATH | OFlags::NOFOLLOW)
        .map_err(|error| lookup_error(path, error))?;
    let facts = rustix::fs::fstat(&opened).map_err(|error| lookup_error(path, error))?;
    let link_target = match FileType::from_raw_mode(facts.st_mode) {
        FileType::Symlink => root
            .resolve(path)
            .map_err(|error| lookup_error(path, error))?,
        _ => String::new(),
    };
    let nanoseconds = i128::from(facts.st_mtime) * 1_000_000_000 + i128::from(facts.st_mtime_nsec);
    Ok(PathStat {
        name: paths::base(path).to_owned(),
        size: facts.st_size,
        mode: facts.st_mode,
        modified: OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        link_target,
    })
}

/// Adds what is at `path`: a folder with everything in it, anything else by itself.
fn add_path(root: &Root, path: &str, tree: &mut TreeWriter<&mut PieceWriter>) -> io::Result<()> {
    let name = paths::base(path);
    let opened = root.open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW);
    match opened {
        Ok(folder) => {
            tree.add_folder(folder.as_fd(), name.as_bytes().to_vec())?;
            // The root's entries are `/bin`, not `//bin`.
            let prefix = format!("{}/", name.trim_end_matches('/'));
            tree.add_tree(folder.as_fd(), prefix.as_bytes())
        }
        Err(Errno::NOTDIR | Errno::LOOP) => {
            let (parent, last) = paths::split(path);
            let folder = root.open(parent, OFlags::PATH | OFlags::DIRECTORY)?;
            let last = OsStr::from_bytes(last.as_bytes());
            let facts = rustix::fs::statat(&folder, last, AtFlags::SYMLINK_NOFOLLOW)?;
            tree.add(folder.as_fd(), last, name.as_bytes().to_vec(), &facts)
        }
        Err(error) => Err(error.into()),
    }
}

fn write_now(
    view: &FileView,
    path: &str,
    options: &WriteOptions,
    content: StreamReader,
) -> Result<(), FileError> {
    let root = Root::enter(view)?;
    let path = paths::absolute(path);
    let folder = root
        .open(&path, OFlags::PATH)
        .map_err(|error| lookup_error(&path, error))?;
    let facts = rustix::fs::fstat(&folder).map_err(|error| lookup_error(&path, error))?;
    if FileType::from_raw_mode(facts.st_mode) != FileType::Directory {
        return Err(FileError::ExtractionPoint);
    }
    let resolved = root
        .resolve(&path)
        .map_err(|error| lookup_error(&path, error))?;
    if let Some(refusal) = view.refusal(&resolved) {
        return Err(refusal);
    }
    let owner = match &options.owner {
        None => None,
        Some(user) => {
            // Through the descriptor: the view's root, not the host's path to it.
            let root = PathBuf::from(descriptor_path(root.as_fd()));
            Some(owner(&root, user)?)
        }
    };
    Extractor::new(&root, &resolved, options.keep_kinds, owner, options.largest).extract(content)
}

fn owner(root: &Path, user: &str) -> Result<(u32, u32), FileError> {
    // Docker reads `:group` as root with that group.
    let user = match user.strip_prefix(':') {
        Some(group) => format!("0:{group}"),
        None => user.to_owned(),
    };
    let found = users::look_up(root, &user, &[]).map_err(|refusal| FileError::Invalid {
        why: engine::error::full_message(&RuntimeError::from(refusal)),
    })?;
    Ok((found.uid, found.gid))
}

#[cfg(test)]
mod tests;
