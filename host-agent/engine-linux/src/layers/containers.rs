//! Containers' root file systems: their own layer on top of an image's, mounted while somebody needs it.
//!
//! ```text
//! mount ----> wanted    --.
//! borrow ---> borrowers --+--> mounted as long as either is there
//! ```
//!
//! Overlayfs must not have the same upper folder in two mounts, so everybody shares the one that is there.

use super::changes::Stack;
use super::mount::Overlay;
use super::{
    EMPTY, IMAGES, LINKS, LOWER, MERGED, OverlayLayers, PLACES, UPPER, WORK, failed, mount,
    open_path, remove_path,
};
use crate::archive::write::PieceWriter;
use crate::{files, quota};
use async_trait::async_trait;
use engine::id::ContainerId;
use engine::images::{
    BorrowedRoot, ByteStream, Change, ContainerDiskUsage, Digest, LayerError, LayerFolders, Layers,
};
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Somebody uses a container's mounted root file system.
struct Loan {
    layers: OverlayLayers,
    container: ContainerId,
    runtime: tokio::runtime::Handle,
}

impl Drop for Loan {
    fn drop(&mut self) {
        let (layers, container) = (self.layers.clone(), self.container.clone());
        let give_back = move || {
            let lock = layers.lock_of(&container);
            let _guard = lock
                .lock()
                .expect("no code panics while it holds this lock");
            if let Some(count) = layers.state().borrowers.get_mut(&container) {
                *count -= 1;
            }
            if let Err(error) = layers.unmount_unused(&container) {
                tracing::warn!(%container, %error, "a root file system is still mounted");
            }
        };
        // An unmount may wait for the disk: not on an async thread. And never on the thread that drops this, which may be
        // in a mount namespace of its own: what is unmounted there stays mounted for everybody else. Nor may that thread
        // ask for a thread of the pool: a new one would be its child, in its namespace, and do the next one's work there.
        self.runtime
            .spawn(async move { tokio::task::spawn_blocking(give_back).await });
    }
}

impl OverlayLayers {
    fn lock_of(&self, container: &ContainerId) -> Arc<Mutex<()>> {
        let mut locks = self
            .inner
            .container_locks
            .lock()
            .expect("no code panics while it holds this lock");
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(container.clone()).or_default().clone()
    }

    /// Makes the folders of a container's own layer. The lock of the container is held.
    fn make_rw(&self, container: &ContainerId, top: Option<&Digest>) -> io::Result<()> {
        let rw = self.rw(container);
        let lower = top.map_or("", |top| top.as_str());
        // It is written last, and after an interruption of the host it may be there without its content.
        if fs::read_to_string(rw.join(LOWER)).is_ok_and(|text| text == lower) {
            return Ok(());
        }
        // Others than root need to pass through where a container's user is another user of the host.
        DirBuilder::new().recursive(true).mode(0o701).create(&rw)?;
        let model = match top {
            Some(top) => self.files_of(top),
            None => self.inner.folder.join(EMPTY),
        };
        for name in [UPPER, WORK, MERGED] {
            match DirBuilder::new().mode(0o700).create(rw.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        // The merged root shows the upper folder's owner and mode.
        let facts = fs::metadata(model)?;
        let upper = rw.join(UPPER);
        std::os::unix::fs::chown(&upper, Some(facts.uid()), Some(facts.gid()))?;
        fs::set_permissions(&upper, fs::Permissions::from_mode(facts.mode() & 0o7777))?;
        fs::write(rw.join(LOWER), lower)
    }

    /// Notes that the container stands on these layers, if they are there.
    fn claim(&self, container: &ContainerId, top: Option<&Digest>) -> Result<(), LayerError> {
        let mut state = self.state();
        if let Some(top) = top
            && !state.layers.contains_key(top)
        {
            return Err(LayerError::Missing {
                chain_id: top.clone(),
            });
        }
        state.containers.insert(container.clone(), top.cloned());
        Ok(())
    }

    fn mount_now(&self, container: &ContainerId, links: &[String]) -> io::Result<()> {
        let rw = self.rw(container);
        Overlay {
            links: &self.inner.folder.join(LINKS),
            lower: links,
            upper: Some((&rw.join(UPPER), &rw.join(WORK))),
            target: &rw.join(MERGED),
        }
        .mount()
    }

    /// Mounts it if it is not. The lock of the container is held.
    fn mount_locked(
        &self,
        container: &ContainerId,
        top: Option<&Digest>,
        links: &[String],
    ) -> io::Result<()> {
        if self.state().mounted.contains(container) {
            return Ok(());
        }
        self.make_rw(container, top)?;
        self.mount_now(container, links)?;
        self.state().mounted.insert(container.clone());
        Ok(())
    }

    /// Takes it out of the mounted ones, if nobody needs it or `by_force`; tells whether it was among them. From then on
    /// a mount waits for the container's lock.
    fn take_mounted(&self, container: &ContainerId, by_force: bool) -> bool {
        let mut state = self.state();
        if state.borrowers.get(container) == Some(&0) {
            state.borrowers.remove(container);
        }
        let is_needed = state.wanted.contains(container) || state.borrowers.contains_key(container);
        if is_needed && !by_force {
            return false;
        }
        state.wanted.remove(container);
        state.mounted.remove(container)
    }

    /// Unmounts it unless somebody needs it. The lock of the container is held.
    fn unmount_unused(&self, container: &ContainerId) -> io::Result<()> {
        if !self.take_mounted(container, false) {
            return Ok(());
        }
        mount::unmount(&self.rw(container).join(MERGED)).inspect_err(|_| {
            self.state().mounted.insert(container.clone());
        })
    }

    /// Moves what a container has changed to `target`, without what is no change. The container can only be removed then.
    pub(super) fn take_upper(
        &self,
        container: &ContainerId,
        stack: &Stack,
        target: &Path,
    ) -> io::Result<()> {
        let lock = self.lock_of(container);
        let _guard = lock
            .lock()
            .expect("no code panics while it holds this lock");
        let rw = self.rw(container);
        if self.take_mounted(container, true) {
            mount::unmount(&rw.join(MERGED))?;
        }
        stack.strip()?;
        fs::rename(rw.join(UPPER), target)
    }

    /// The container's own layer and what is below it, opened.
    pub(super) fn stack(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<Stack, LayerError> {
        // Also says whether all of them are there.
        self.links(top_layer)?;
        let open = || {
            let upper = open_path(&self.rw(container).join(UPPER))?;
            let lower = self
                .diffs(top_layer)
                .iter()
                .map(|diff| open_path(diff.as_ref()))
                .collect::<io::Result<_>>()?;
            Ok(Stack { upper, lower })
        };
        open().map_err(|error: io::Error| {
            failed(
                format!("open the layers of container {}", container.short()),
                error,
            )
        })
    }
}

#[async_trait]
impl Layers for OverlayLayers {
    async fn prepare(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<(), LayerError> {
        self.claim(container, top_layer)?;
        let (id, top) = (container.clone(), top_layer.cloned());
        self.blocking(
            || format!("make the writable layer of container {}", container.short()),
            move |this| {
                let lock = this.lock_of(&id);
                let _guard = lock
                    .lock()
                    .expect("no code panics while it holds this lock");
                this.make_rw(&id, top.as_ref())
            },
        )
        .await
    }

    async fn keep(
        &self,
        container: &ContainerId,
        top_layers: Vec<Digest>,
    ) -> Result<(), LayerError> {
        {
            let mut state = self.state();
            if let Some(missing) = top_layers
                .iter()
                .find(|top| !state.layers.contains_key(*top))
            {
                return Err(LayerError::Missing {
                    chain_id: missing.clone(),
                });
            }
            state.images.insert(container.clone(), top_layers.clone());
        }
        let note = self.rw(container).join(IMAGES);
        self.blocking(
            || {
                format!(
                    "note the images that container {} mounts",
                    container.short()
                )
            },
            move |_| {
                fs::write(
                    note,
                    top_layers
                        .iter()
                        .map(|top| format!("{top}\n"))
                        .collect::<String>(),
                )
            },
        )
        .await
    }

    fn stacked(&self, top_layer: Option<&Digest>) -> Result<LayerFolders, LayerError> {
        let mut names = self.links(top_layer)?;
        if top_layer.is_some() {
            names.push(format!("../{EMPTY}"));
        }
        Ok(LayerFolders {
            folder: self.inner.folder.join(LINKS),
            names,
        })
    }

    fn limits_size(&self) -> bool {
        self.inner.limits_size
    }

    async fn limit(&self, container: &ContainerId, bytes: u64) -> Result<(), LayerError> {
        let rw = self.rw(container);
        self.blocking(
            || {
                format!(
                    "limit the writable layer of container {}",
                    container.short()
                )
            },
            // Overlayfs moves files from the one to the other, which a kernel refuses between projects.
            move |_| quota::limit(&[&rw.join(UPPER), &rw.join(WORK)], bytes),
        )
        .await
    }

    async fn mount(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<PathBuf, LayerError> {
        let merged = self.rw(container).join(MERGED);
        {
            let mut state = self.state();
            if state.mounted.contains(container) {
                state.wanted.insert(container.clone());
                return Ok(merged);
            }
        }
        self.claim(container, top_layer)?;
        let mut links = self.links(top_layer)?;
        links.push(format!("../{PLACES}"));
        let (id, top) = (container.clone(), top_layer.cloned());
        self.blocking(
            || {
                format!(
                    "mount the root file system of container {}",
                    container.short()
                )
            },
            move |this| {
                let lock = this.lock_of(&id);
                let _guard = lock
                    .lock()
                    .expect("no code panics while it holds this lock");
                this.mount_locked(&id, top.as_ref(), &links)?;
                this.state().wanted.insert(id);
                Ok(())
            },
        )
        .await?;
        Ok(merged)
    }

    async fn borrow(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<BorrowedRoot, LayerError> {
        let links = self.links(top_layer)?;
        let (id, top) = (container.clone(), top_layer.cloned());
        let loan = self
            .blocking(
                || {
                    format!(
                        "mount the root file system of container {}",
                        container.short()
                    )
                },
                move |this| {
                    let lock = this.lock_of(&id);
                    let _guard = lock
                        .lock()
                        .expect("no code panics while it holds this lock");
                    // A removal may have been before us at the lock.
                    if !this.state().containers.contains_key(&id) {
                        return Err(io::Error::other("the container is being removed"));
                    }
                    this.mount_locked(&id, top.as_ref(), &links)?;
                    *this.state().borrowers.entry(id.clone()).or_default() += 1;
                    Ok(Loan {
                        layers: this.clone(),
                        container: id,
                        runtime: tokio::runtime::Handle::current(),
                    })
                },
            )
            .await?;
        Ok(BorrowedRoot::new(self.rw(container).join(MERGED), loan))
    }

    async fn changes(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<Vec<Change>, LayerError> {
        let stack = self.stack(container, top_layer)?;
        self.blocking(
            || format!("compare container {} with its image", container.short()),
            move |_| stack.changes(),
        )
        .await
    }

    async fn diff(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<ByteStream, LayerError> {
        let stack = self.stack(container, top_layer)?;
        let (mut writer, stream) = PieceWriter::new();
        tokio::task::spawn_blocking(move || {
            let outcome = stack.write_diff(&mut writer);
            writer.finish(outcome);
        });
        Ok(stream)
    }

    async fn unmount(&self, container: &ContainerId) -> Result<(), LayerError> {
        let id = container.clone();
        self.blocking(
            || {
                format!(
                    "unmount the root file system of container {}",
                    container.short()
                )
            },
            move |this| {
                let lock = this.lock_of(&id);
                let _guard = lock
                    .lock()
                    .expect("no code panics while it holds this lock");
                this.state().wanted.remove(&id);
                this.unmount_unused(&id)
            },
        )
        .await
    }

    async fn remove(&self, container: &ContainerId) -> Result<(), LayerError> {
        let id = container.clone();
        self.blocking(
            || {
                format!(
                    "remove the writable layer of container {}",
                    container.short()
                )
            },
            move |this| {
                let lock = this.lock_of(&id);
                let _guard = lock
                    .lock()
                    .expect("no code panics while it holds this lock");
                // Whoever has borrowed it keeps what it has open, and finds nothing more.
                if this.take_mounted(&id, true) {
                    mount::unmount(&this.rw(&id).join(MERGED))?;
                }
                if this.inner.limits_size {
                    // A project without a limit and without files is forgotten by the kernel.
                    let _ = quota::forget(&this.rw(&id).join(UPPER));
                }
                remove_path(&this.rw(&id))?;
                let mut state = this.state();
                state.containers.remove(&id);
                state.images.remove(&id);
                Ok(())
            },
        )
        .await
    }

    async fn usage(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<ContainerDiskUsage, LayerError> {
        let mut below = 0u64;
        {
            let state = self.state();
            let mut next = top_layer.cloned();
            while let Some(chain_id) = next {
                let Some(layer) = state.layers.get(&chain_id) else {
                    return Err(LayerError::Missing { chain_id });
                };
                below += layer.size;
                next = layer.parent.clone();
            }
        }
        let upper = self.rw(container).join(UPPER);
        let writable = self
            .blocking(
                || {
                    format!(
                        "measure the writable layer of container {}",
                        container.short()
                    )
                },
                move |_| match files::content_bytes(&upper) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
                    outcome => outcome,
                },
            )
            .await?;
        Ok(ContainerDiskUsage {
            writable,
            total: writable + below,
        })
    }

    fn folders(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> BTreeMap<String, String> {
        let rw = self.rw(container);
        let mut folders: BTreeMap<String, String> = [
            ("UpperDir", UPPER),
            ("WorkDir", WORK),
            ("MergedDir", MERGED),
        ]
        .map(|(key, name)| (key.to_owned(), rw.join(name).display().to_string()))
        .into();
        let mut lower = self.diffs(top_layer);
        if lower.is_empty() {
            lower.push(self.inner.folder.join(EMPTY).display().to_string());
        }
        folders.insert("LowerDir".to_owned(), lower.join(":"));
        folders
    }
}
