//! The files of a container from outside: `docker cp`, `docker diff`, `docker export`.
//!
//! ```text
//!  stat, read, write --> FileView (root file system, volumes, binds) --> ContainerFiles: a view of its own, links confined
//!  export            --> the root file system alone
//!  changes           --> Layers: what the container's own layer says
//! ```
//!
//! Running and stopped containers look the same: volumes and binds are where the container has them, /proc, /dev and
//! tmpfs mounts are not there. As in Docker, a copy of `/` must not be a copy of the host's kernel interfaces.

use super::container::Container;
use super::error::ContainerError;
use super::lifecycle::ContainerState;
use super::plan::{HOSTNAME_FILE, HOSTS_FILE, RESOLV_CONF_FILE};
use super::service::ContainerService;
use super::spec::MountKind;
use crate::error::{Class, Classify};
use crate::id::ContainerId;
use crate::images::{BorrowedRoot, ByteStream, Change, LayerFolders};
use crate::volumes::VolumeService;
use async_trait::async_trait;
use std::path::PathBuf;
use std::sync::Arc;
use time::OffsetDateTime;

/// Reaches into containers' files. Implemented by `engine_linux::containers::ViewedFiles` and, for tests, by
/// [`FakeContainerFiles`](super::testing::FakeContainerFiles).
#[async_trait]
pub trait ContainerFiles: Send + Sync + 'static {
    /// What is at `path`. Links in its folders are followed, inside of the container only; a link at its end is followed
    /// where `path` ends with a slash or `/.`.
    async fn stat(&self, view: FileView, path: &str) -> Result<PathStat, FileError>;

    /// The same, and a tar of it as it is read. The entries' names begin with the last part of `path`.
    async fn read(&self, view: FileView, path: &str) -> Result<(PathStat, ByteStream), FileError>;

    /// Unpacks a tar (plain, gzip, xz, bzip2 or zstd) into the folder at `path`, which must be there.
    async fn write(
        &self,
        view: FileView,
        path: &str,
        options: WriteOptions,
        content: ByteStream,
    ) -> Result<(), FileError>;

    /// The whole root file system as a tar, as it is read. Nothing mounted in it is part of it.
    async fn export(&self, root: BorrowedRoot) -> Result<ByteStream, FileError>;
}

/// Where a container's files are.
pub struct FileView {
    pub root: BorrowedRoot,
    /// In the order in which they are mounted.
    pub mounts: Vec<ViewMount>,
    pub read_only_root: bool,
}

/// A volume, bind or file of the engine's, as the container sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewMount {
    pub source: ViewSource,
    /// Inside the source; its links are the container's and stay inside.
    pub subpath: String,
    pub target: String,
    pub read_only: bool,
    /// With what is mounted in the source.
    pub recursive: bool,
    /// One of /etc/hosts and the like: where its source is not there yet it is left out, and it does not count as a
    /// volume for the read-only rules.
    pub is_own: bool,
}

/// What is seen at a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ViewSource {
    /// Of the host.
    Path(PathBuf),
    /// Of an image, to be mounted for this view only.
    Image(LayerFolders),
}

impl FileView {
    /// Why nothing may be written into the folder `resolved` (absolute, without links), if so. The deepest mount decides.
    pub fn refusal(&self, resolved: &str) -> Option<FileError> {
        let contains = |target: &str| {
            resolved
                .strip_prefix(target.trim_end_matches('/'))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let deepest = self
            .mounts
            .iter()
            .filter(|mount| !mount.is_own && contains(&mount.target))
            .max_by_key(|mount| mount.target.len());
        match deepest {
            Some(mount) if mount.read_only => Some(FileError::VolumeReadOnly),
            None if self.read_only_root => Some(FileError::RootReadOnly),
            _ => None,
        }
    }
}

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathStat {
    /// The last part of the path.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// File type and permissions as stat(2) gives them.
    pub mode: u32,
    pub modified: OffsetDateTime,
    /// Where a link leads in the end, as an absolute path; empty where it is no link.
    pub link_target: String,
}

/// How an archive is unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// A folder is not replaced by something else, nor the other way round.
    pub keep_kinds: bool,
    /// Docker's `User`: everything gets this owner instead of the archive's. Looked up in the container's files.
    pub owner: Option<String>,
    /// Bytes of all files together; more is refused.
    pub largest: Option<u64>,
}

/// Why files could not be had or written. Texts are Docker's where scripts read them.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// [`ContainerService`] says it with the names the client used.
    #[error("no such file or directory")]
    NotFound,
    #[error("{path}: not a directory")]
    NotADirectory { path: String },
    #[error("extraction point is not a directory")]
    ExtractionPoint,
    #[error("container rootfs is marked read-only")]
    RootReadOnly,
    #[error("mounted volume is marked read-only")]
    VolumeReadOnly,
    /// The archive or the path cannot be used; the sentence is complete.
    #[error("{why}")]
    Invalid { why: String },
    #[error("cannot read the archive")]
    Archive(#[source] std::io::Error),
    #[error("{step}")]
    Failed {
        step: String,
        #[source]
        source: std::io::Error,
    },
}

impl Classify for FileError {
    fn class(&self) -> Class {
        match self {
            FileError::NotFound => Class::NotFound,
            FileError::NotADirectory { .. }
            | FileError::ExtractionPoint
            | FileError::Invalid { .. }
            | FileError::Archive(_) => Class::Invalid,
            FileError::RootReadOnly | FileError::VolumeReadOnly => Class::Denied,
            FileError::Failed { .. } => Class::Internal,
        }
    }
}

impl ContainerService {
    /// What is at a path in a container.
    pub async fn stat_path(&self, asked: &str, path: &str) -> Result<PathStat, ContainerError> {
        let container = self.find(asked)?;
        let _held = self.hold_volumes(&container).await?;
        let view = self.view(&container).await?;
        let stat = self.deps.container_files.stat(view, path).await;
        stat.map_err(|error| file_error(error, asked, path))
    }

    /// A path of a container as a tar.
    pub async fn read_path(
        &self,
        asked: &str,
        path: &str,
    ) -> Result<(PathStat, ByteStream), ContainerError> {
        let container = self.find(asked)?;
        // Until the answer: what is read then is mounted in the reader's own namespace.
        let _held = self.hold_volumes(&container).await?;
        let view = self.view(&container).await?;
        let read = self.deps.container_files.read(view, path).await;
        let read = read.map_err(|error| file_error(error, asked, path))?;
        self.deps.tell(&container, "archive-path", []);
        Ok(read)
    }

    /// Unpacks a tar into a folder of a container. With `as_user` everything belongs to the user the container runs as.
    pub async fn write_path(
        &self,
        asked: &str,
        path: &str,
        keep_kinds: bool,
        as_user: bool,
        content: ByteStream,
    ) -> Result<(), ContainerError> {
        let container = self.find(asked)?;
        let _held = self.hold_volumes(&container).await?;
        let view = self.view(&container).await?;
        let user = &container.spec.config.user;
        let options = WriteOptions {
            keep_kinds,
            owner: (as_user && !user.is_empty()).then(|| user.clone()),
            largest: None,
        };
        let written = self
            .deps
            .container_files
            .write(view, path, options, content)
            .await;
        written.map_err(|error| file_error(error, asked, path))?;
        self.deps.tell(&container, "extract-to-dir", []);
        Ok(())
    }

    /// `docker export`.
    pub async fn export(&self, asked: &str) -> Result<ByteStream, ContainerError> {
        let container = self.find(asked)?;
        let root = self.root(&container).await?;
        let content = self.deps.container_files.export(root).await;
        let content = content.map_err(|error| file_error(error, asked, "/"))?;
        self.deps.tell(&container, "export", []);
        Ok(content)
    }

    /// `docker diff`.
    pub async fn changes(&self, asked: &str) -> Result<Vec<Change>, ContainerError> {
        let container = self.find(asked)?;
        let top_layer = container.spec.top_layer.as_ref();
        Ok(self.deps.layers.changes(&container.id, top_layer).await?)
    }

    async fn root(&self, container: &Container) -> Result<BorrowedRoot, ContainerError> {
        if let ContainerState::Removing = container.status().state {
            return Err(ContainerError::Conflict {
                why: format!("container {} is being removed", container.id),
            });
        }
        let top_layer = container.spec.top_layer.as_ref();
        Ok(self.deps.layers.borrow(&container.id, top_layer).await?)
    }

    /// Has volumes that are something mounted (memory, another folder, NFS) there while a stopped container's files are
    /// looked at.
    async fn hold_volumes(&self, container: &Container) -> Result<HeldVolumes, ContainerError> {
        let mut held = HeldVolumes {
            volumes: self.deps.volumes.clone(),
            // Not the container itself, which may begin to run or end meanwhile.
            borrower: ContainerId::random(),
            names: Vec::new(),
        };
        for name in container
            .spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
            .filter_map(|mount| mount.name.as_ref())
        {
            held.volumes.hold(name, &held.borrower).await?;
            held.names.push(name.clone());
        }
        Ok(held)
    }

    async fn view(&self, container: &Arc<Container>) -> Result<FileView, ContainerError> {
        let root = self.root(container).await?;
        let spec = &container.spec;
        let mut mounts: Vec<ViewMount> = spec
            .mounts
            .iter()
            .filter(|mount| mount.kind != MountKind::Tmpfs)
            .map(|mount| {
                Ok(ViewMount {
                    source: match &mount.image {
                        Some(image) => {
                            let top_layer = image.top_layer.as_ref();
                            ViewSource::Image(self.deps.layers.stacked(top_layer)?)
                        }
                        None => ViewSource::Path(mount.source.clone()),
                    },
                    subpath: mount.subpath.clone(),
                    target: mount.destination.clone(),
                    read_only: !mount.read_write,
                    recursive: mount.recursive,
                    is_own: false,
                })
            })
            .collect::<Result<_, ContainerError>>()?;
        let folder = self.folder(&container.id);
        for (target, file) in [
            ("/etc/hostname", HOSTNAME_FILE),
            ("/etc/hosts", HOSTS_FILE),
            ("/etc/resolv.conf", RESOLV_CONF_FILE),
        ] {
            if !mounts.iter().any(|mount| mount.target == target) {
                mounts.push(ViewMount {
                    source: ViewSource::Path(folder.join(file)),
                    subpath: String::new(),
                    target: target.to_owned(),
                    read_only: spec.host.read_only_root,
                    recursive: false,
                    is_own: true,
                });
            }
        }
        Ok(FileView {
            root,
            mounts,
            read_only_root: spec.host.read_only_root,
        })
    }
}

/// Volumes that are let go when nobody looks any more.
struct HeldVolumes {
    volumes: Arc<VolumeService>,
    borrower: ContainerId,
    names: Vec<String>,
}

impl Drop for HeldVolumes {
    fn drop(&mut self) {
        let names = std::mem::take(&mut self.names);
        if names.is_empty() {
            return;
        }
        let (volumes, borrower) = (self.volumes.clone(), self.borrower.clone());
        // A client that went away ends its request anywhere.
        tokio::spawn(async move {
            for name in names {
                volumes.let_go(&name, &borrower).await;
            }
        });
    }
}

fn file_error(error: FileError, container: &str, path: &str) -> ContainerError {
    match error {
        FileError::NotFound => ContainerError::NoSuchFile {
            path: path.to_owned(),
            container: container.to_owned(),
        },
        other => ContainerError::File(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(target: &str, read_only: bool) -> ViewMount {
        ViewMount {
            source: ViewSource::Path("/source".into()),
            subpath: String::new(),
            target: target.into(),
            read_only,
            recursive: true,
            is_own: false,
        }
    }

    #[track_caller]
    fn check(read_only_root: bool, path: &str, expected: Option<&str>) {
        let own = ViewMount {
            is_own: true,
            ..mount("/etc/hosts", true)
        };
        let view = FileView {
            root: BorrowedRoot::new("/root".into(), ()),
            mounts: vec![mount("/data", true), mount("/data/open", false), own],
            read_only_root,
        };
        let refusal = view.refusal(path).map(|error| error.to_string());
        assert_eq!(refusal.as_deref(), expected, "{path}");
    }

    #[test]
    fn the_deepest_mount_decides_what_may_be_written() {
        let (volume, root) = (
            Some("mounted volume is marked read-only"),
            Some("container rootfs is marked read-only"),
        );
        check(false, "/", None);
        check(true, "/", root);
        check(true, "/database", root);
        check(false, "/data", volume);
        check(false, "/data/x/y", volume);
        check(true, "/data/open", None);
        check(true, "/data/open/x", None);
        check(false, "/data/opened", volume);
        check(false, "/etc/hosts", None);
    }
}
