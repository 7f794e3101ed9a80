//! What a run has mounted on the host besides its root file system: volumes with options, and the /dev/shm that other
//! containers may share.

use super::Supervisor;
use crate::containers::error::ContainerError;
use crate::containers::plan;
use crate::containers::spec::{IpcMode, MountKind};
use crate::id::ContainerId;
use crate::images::LayerFolders;
use std::collections::BTreeMap;
use std::path::PathBuf;

impl Supervisor {
    /// Has the container's volumes mounted. After an error the caller unmounts.
    pub(super) async fn mount_volumes(&self) -> Result<(), ContainerError> {
        for mount in &self.container.spec.mounts {
            let (MountKind::Volume, Some(name)) = (mount.kind, &mount.name) else {
                continue;
            };
            let facts = [
                ("destination", mount.destination.clone()),
                ("read/write", mount.read_write.to_string()),
                ("propagation", mount.propagation.clone()),
            ];
            let volumes = &self.deps.volumes;
            volumes.mount(name, &self.container.id, facts).await?;
        }
        Ok(())
    }

    /// For a container found running.
    pub(in crate::containers) async fn hold_volumes(&self) {
        for mount in &self.container.spec.mounts {
            if let (MountKind::Volume, Some(name)) = (mount.kind, &mount.name)
                && let Err(error) = self.deps.volumes.hold(name, &self.container.id).await
            {
                tracing::warn!(container = %self.container.id, error = crate::error::full_message(&error), "a volume is not mounted");
            }
        }
    }

    /// Where the images are that the container mounts. The mounts are made where only the container sees them.
    pub(super) fn image_folders(&self) -> Result<BTreeMap<String, LayerFolders>, ContainerError> {
        let images = self.container.spec.mounted_images();
        images
            .map(|(mount, image)| {
                let folders = self.deps.layers.stacked(image.top_layer.as_ref())?;
                Ok((mount.destination.clone(), folders))
            })
            .collect()
    }

    /// What this container's /dev/shm is on the host, where it is not the container's alone: its own that others may
    /// join, or that of the container whose it joins.
    pub(super) async fn shared_memory(&self) -> Result<Option<PathBuf>, ContainerError> {
        let host = &self.container.spec.host;
        match &host.ipc {
            IpcMode::Shareable => {
                let path = self.shared_memory_path(&self.container.id);
                self.deps
                    .files
                    .mount_shared_memory(&path, host.shm_size)
                    .await
                    .map_err(|error| {
                        ContainerError::storage(format!("mount {}", path.display()), error)
                    })?;
                Ok(Some(path))
            }
            IpcMode::Container(id) => {
                let other = self.registry.find(id)?;
                Ok((other.spec.host.ipc == IpcMode::Shareable)
                    .then(|| self.shared_memory_path(&other.id)))
            }
            _ => Ok(None),
        }
    }

    fn shared_memory_path(&self, id: &ContainerId) -> PathBuf {
        plan::shared_memory_path(&self.deps.store.folder(id))
    }

    /// Undoes both; containers that share the memory keep it. Nothing mounted is no error.
    pub(super) async fn unmount_all(&self) {
        for mount in &self.container.spec.mounts {
            if let (MountKind::Volume, Some(name)) = (mount.kind, &mount.name) {
                self.deps.volumes.unmount(name, &self.container.id).await;
            }
        }
        if self.container.spec.host.ipc == IpcMode::Shareable {
            let path = self.shared_memory_path(&self.container.id);
            if let Err(error) = self.deps.files.unmount_shared_memory(&path).await {
                tracing::warn!(container = %self.container.id, %error, "its /dev/shm is still mounted");
            }
        }
    }
}
