//! The janitor: makes spare namespaces and removes old ones, beside the way of a container's start.

use super::namespace;
use super::netlink::Socket;
use super::{Chore, Inner, failed, link, lock};
use engine::networks::NetworkError;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

impl Inner {
    /// Removes namespaces, and links on our bridge, that belong to none of the files in `keep`.
    pub(super) fn remove_leftovers(
        &self,
        keep: &BTreeSet<OsString>,
        route: &mut Socket,
    ) -> Result<(), NetworkError> {
        let step = || format!("list {}", self.namespaces.display());
        for file in std::fs::read_dir(&self.namespaces).map_err(|error| failed(step(), error))? {
            let file = file.map_err(|error| failed(step(), error))?;
            if !keep.contains(&file.file_name()) {
                namespace::remove(&file.path(), route);
            }
        }
        let kept: BTreeSet<String> = keep
            .iter()
            .filter_map(|name| namespace::outside_name(Path::new(name)))
            .collect();
        let links = link::list(route).map_err(|error| failed("list links", error))?;
        for other in links {
            let ours = other.kind == "veth" && other.master == Some(self.bridge_index);
            if ours && !kept.contains(&other.name) {
                link::remove(route, &other.name)
                    .map_err(|error| failed(format!("remove the link {}", other.name), error))?;
            }
        }
        Ok(())
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
                Ok(Chore::Remove { namespace, lease }) => {
                    removals.push_back((namespace, lease));
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
            } else if let Some((namespace, lease)) = removals.pop_front() {
                namespace::remove(&namespace, route);
                if let Some(address) = lease {
                    lock(&self.books).leases.give_back(address);
                }
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
