//! The end of a container.

use super::{Flow, Supervisor};
use crate::containers::container::Reply;
use crate::containers::error::ContainerError;
use crate::containers::lifecycle::{ContainerState, Request};
use crate::containers::spec::MountKind;
use crate::containers::store::Durability;

impl Supervisor {
    pub(super) async fn remove(&mut self, volumes: bool, reply: Reply) -> Flow {
        if let Err(error) = self.check(Request::Remove { force: false }) {
            let _ = reply.send(Err(error));
            return Flow::GoOn;
        }
        let _removal = self.registry.removals.clone().read_owned().await;
        self.status
            .send_modify(|status| status.state = ContainerState::Removing);
        if let Err(error) = self.deps.layers.remove(&self.container.id).await {
            let why = crate::error::full_message(&error);
            self.status
                .send_modify(|status| status.state = ContainerState::Dead { why: why.clone() });
            let _ = reply.send(Err(ContainerError::storage(
                format!(
                    "remove container \"/{}\": unable to remove filesystem",
                    self.container.name()
                ),
                error,
            )));
            self.save(Durability::Written).await;
            return Flow::GoOn;
        }
        let stored = self.deps.store.remove(&self.container.id).await;
        if let Err(error) = stored {
            self.status.send_modify(|status| {
                status.state = ContainerState::Dead {
                    why: error.to_string(),
                }
            });
            let _ = reply.send(Err(error.into()));
            return Flow::GoOn;
        }
        self.give_volumes_back(volumes).await;
        self.forget();
        let _ = reply.send(Ok(()));
        let _ = self.deps.runtime.cleanup(&self.container.id).await;
        Flow::Ended
    }

    /// Takes the container out of everybody's sight, and says so.
    pub(super) fn forget(&self) {
        self.registry.remove(&self.container);
        self.container.hub.end();
        self.deps.tell(&self.container, "destroy", []);
        for mount in self
            .container
            .spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            if let Some(name) = &mount.name {
                self.deps.volumes.release(name, &self.container.id);
            }
        }
        self.status.send_modify(|status| status.removed = true);
    }

    /// Removes what a forgotten container has on disk. The record goes last: after a crash in the middle the next engine finds
    /// it and goes on.
    pub(super) async fn clear_away(&self, volumes: bool) {
        let id = &self.container.id;
        let _ = self.deps.runtime.cleanup(id).await;
        if let Err(error) = self.deps.layers.remove(id).await {
            tracing::warn!(container = %id, error = crate::error::full_message(&error), "file system of a removed container is left over");
        }
        self.give_volumes_back(volumes).await;
        if let Err(error) = self.deps.store.remove(id).await {
            tracing::warn!(container = %id, %error, "folder of a removed container is left over");
        }
    }

    async fn give_volumes_back(&self, remove: bool) {
        for mount in self
            .container
            .spec
            .mounts
            .iter()
            .filter(|mount| mount.kind == MountKind::Volume)
        {
            let Some(name) = &mount.name else { continue };
            self.deps.volumes.release(name, &self.container.id);
            if remove && mount.anonymous {
                // Another container may have it by now (--volumes-from): then it stays.
                let _ = self.deps.volumes.remove(name, true).await;
            }
        }
    }

    /// An `--rm` container that ended while no engine was there.
    pub(in crate::containers) async fn finish_removal(self) {
        self.unmount_all().await;
        self.forget();
        self.detach().await;
        self.clear_away(true).await;
    }
}
