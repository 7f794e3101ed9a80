//! The containers there are, by id and by name. Names are reserved before a container exists, so that two creates at once
//! cannot both have one.

use super::container::Container;
use super::error::ContainerError;
use crate::id::ContainerId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, RwLock};

#[derive(Default)]
pub(super) struct Registry {
    inner: RwLock<Inner>,
    /// The host goes down: nothing is started again.
    pub(super) closing: std::sync::atomic::AtomicBool,
    /// Read by whoever removes what a container has on disk, written by the engine's end, which waits for them.
    pub(super) removals: Arc<tokio::sync::RwLock<()>>,
}

#[derive(Default)]
struct Inner {
    containers: BTreeMap<ContainerId, Arc<Container>>,
    names: HashMap<String, ContainerId>,
    /// Those that were made with links: few, and every start asks for them.
    with_links: BTreeSet<ContainerId>,
}

impl Registry {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner
            .read()
            .expect("no code panics while it holds this lock")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner
            .write()
            .expect("no code panics while it holds this lock")
    }

    /// Takes a name for a container that is being made or renamed.
    pub(super) fn reserve(&self, name: &str, id: &ContainerId) -> Result<(), ContainerError> {
        let mut inner = self.write();
        if let Some(holder) = inner.names.get(name) {
            return Err(ContainerError::NameInUse {
                name: name.to_owned(),
                holder: holder.clone(),
            });
        }
        inner.names.insert(name.to_owned(), id.clone());
        Ok(())
    }

    /// Gives a name back, if `id` has it.
    pub(super) fn release(&self, name: &str, id: &ContainerId) {
        let mut inner = self.write();
        if inner.names.get(name) == Some(id) {
            inner.names.remove(name);
        }
    }

    pub(super) fn insert(&self, container: Arc<Container>) {
        let name = container.name();
        let mut inner = self.write();
        inner.names.insert(name, container.id.clone());
        if !container.spec.host.links.is_empty() {
            inner.with_links.insert(container.id.clone());
        }
        inner.containers.insert(container.id.clone(), container);
    }

    /// Takes a container and its name out.
    pub(super) fn remove(&self, container: &Container) {
        let mut inner = self.write();
        inner.containers.remove(&container.id);
        inner.with_links.remove(&container.id);
        inner.names.retain(|_, id| *id != container.id);
    }

    pub(super) fn all(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    /// Those that were made with links, which may be gone since.
    pub(super) fn with_links(&self) -> Vec<Arc<Container>> {
        let inner = self.read();
        let ids = inner.with_links.iter();
        ids.filter_map(|id| inner.containers.get(id).cloned())
            .collect()
    }

    /// By full id, name (with or without a slash) or beginning of an id, in this order.
    pub(super) fn find(&self, asked: &str) -> Result<Arc<Container>, ContainerError> {
        let inner = self.read();
        if let Some(id) = ContainerId::parse(asked)
            && let Some(container) = inner.containers.get(&id)
        {
            return Ok(container.clone());
        }
        let name = asked.strip_prefix('/').unwrap_or(asked);
        if let Some(container) = inner
            .names
            .get(name)
            .and_then(|id| inner.containers.get(id))
        {
            return Ok(container.clone());
        }
        let is_hex = !asked.is_empty()
            && asked
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let mut fitting = inner
            .containers
            .values()
            .filter(|container| is_hex && container.id.as_str().starts_with(asked));
        match (fitting.next(), fitting.next()) {
            (Some(container), None) => Ok(container.clone()),
            (Some(_), Some(_)) => Err(ContainerError::Ambiguous {
                name: asked.to_owned(),
            }),
            (None, _) => Err(ContainerError::NotFound {
                name: asked.to_owned(),
            }),
        }
    }
}
