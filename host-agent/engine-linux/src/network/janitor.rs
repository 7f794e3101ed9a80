//! The janitor: makes spare namespaces and removes old ones, beside the way of a container's start.

use super::namespace;
use super::netlink::Socket;
use super::{Chore, Inner, failed, link, lock};
use engine::networks::{Driver, NetworkError};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// What is in use: names of namespaces' files, with the numbers of the links that are on the host's bridges.
#[derive(Debug, Default)]
pub(super) struct Keep(BTreeMap<OsString, BTreeSet<u8>>);

impl Keep {
    pub(super) fn add(&mut self, namespace: &Path, slots: impl IntoIterator<Item = u8>) {
        if let Some(name) = namespace.file_name() {
            self.0.entry(name.to_owned()).or_default().extend(slots);
        }
    }

    /// The numbers of the links of the namespace that is called so; `None`: it is not in use.
    fn links_of(&self, prefix: &str) -> Option<&BTreeSet<u8>> {
        let mut names = self.0.iter();
        let found = names.find(|(name, _)| namespace::begins_with(Path::new(name), prefix));
        found.map(|(_, slots)| slots)
    }
}

/// The kernel takes a namespace's links away some time after it: until then their hardware addresses are taken, and who has
/// their IP addresses next has those, too.
fn remove_inside(namespace: &Path, links: &[String]) {
    if links.is_empty() {
        return;
    }
    let removed = namespace::socket_in(namespace).and_then(|mut socket| {
        let mut each = links.iter();
        each.try_for_each(|name| link::remove(&mut socket, name))
            .map_err(|error| failed("remove the links of a container", error))
    });
    if let Err(error) = removed {
        tracing::debug!(
            error = engine::error::full_message(&error),
            "links of a container go with its namespace"
        );
    }
}

impl Inner {
    /// Removes namespaces, and links to them on our bridges, that belong to nothing in `keep`; the names of the links. What
    /// leads elsewhere stays: others may have links on the same bridge.
    pub(super) fn remove_leftovers(
        &self,
        keep: &Keep,
        route: &mut Socket,
    ) -> Result<Vec<String>, NetworkError> {
        let step = || format!("list {}", self.namespaces.display());
        let mut gone = Vec::new();
        for file in std::fs::read_dir(&self.namespaces).map_err(|error| failed(step(), error))? {
            let file = file.map_err(|error| failed(step(), error))?;
            if !keep.0.contains_key(&file.file_name()) {
                namespace::remove(&file.path(), route);
                gone.push(file.path());
            }
        }
        let is_left_over = |link: &str| {
            namespace::of_outside_name(link).is_some_and(|(prefix, slot)| {
                match keep.links_of(prefix) {
                    Some(slots) => !slots.contains(&slot),
                    None => gone.iter().any(|path| namespace::begins_with(path, prefix)),
                }
            })
        };
        let bridges: Vec<u32> = lock(&self.books)
            .networks
            .values()
            .filter(|entry| entry.network.driver == Driver::Bridge)
            .map(|entry| entry.index)
            .collect();
        let links = link::list(route).map_err(|error| failed("list links", error))?;
        let mut removed = Vec::new();
        for other in links {
            let on_ours = other.kind == "veth"
                && other.master.is_some_and(|master| bridges.contains(&master));
            if on_ours && is_left_over(&other.name) {
                link::remove(route, &other.name)
                    .map_err(|error| failed(format!("remove the link {}", other.name), error))?;
                removed.push(other.name);
            }
        }
        Ok(removed)
    }

    /// The janitor's life. Spares come first: somebody may be waiting for one, nobody for a removal.
    pub(super) fn keep_house(&self, inbox: &mpsc::Receiver<Chore>, route: &mut Socket) {
        let mut removals = VecDeque::new();
        let mut refill_at: Option<Instant> = None;
        let mut running = true;
        while running || !removals.is_empty() {
            let patience = match refill_at {
                _ if !removals.is_empty() => Duration::ZERO,
                Some(at) => at.saturating_duration_since(Instant::now()),
                None => Duration::MAX,
            };
            match inbox.recv_timeout(patience) {
                Ok(Chore::Refill { after }) => {
                    let at = Instant::now() + after;
                    refill_at = Some(refill_at.map_or(at, |earlier| earlier.min(at)));
                    continue;
                }
                Ok(Chore::Remove {
                    namespace,
                    leases,
                    inside,
                }) => {
                    removals.push_back((namespace, leases, inside));
                    continue;
                }
                Ok(Chore::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    running = false;
                    refill_at = None;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if refill_at.is_some_and(|at| at <= Instant::now()) {
                refill_at = None;
                self.refill(route);
            } else if let Some((namespace, leases, inside)) = removals.pop_front() {
                remove_inside(&namespace, &inside);
                namespace::remove(&namespace, route);
                self.give_back(&leases);
            }
        }
        let spares = std::mem::take(&mut *lock(&self.spares));
        for spare in spares.wired.iter().chain(&spares.bare) {
            namespace::remove(&spare.path, route);
        }
    }

    fn refill(&self, route: &mut Socket) {
        let (wired, bare) = {
            let spares = lock(&self.spares);
            (spares.wired.len(), spares.bare.len())
        };
        let wanted = self.config.spares;
        let wiring = self.wiring();
        for (have, wiring) in [(wired, Some(&wiring)), (bare, None)] {
            let missing = wanted.saturating_sub(have);
            if missing == 0 {
                continue;
            }
            let _making = lock(&self.making);
            match namespace::make(&self.namespaces, missing, wiring, route) {
                Ok(made) => {
                    let mut spares = lock(&self.spares);
                    let pool = if wiring.is_some() {
                        &mut spares.wired
                    } else {
                        &mut spares.bare
                    };
                    pool.extend(made);
                }
                // Whoever needs one makes it, and has the error to tell.
                Err(error) => {
                    tracing::warn!(
                        error = engine::error::full_message(&error),
                        "cannot make spare network namespaces"
                    );
                }
            }
        }
    }
}
