//! The janitor: makes spare namespaces and removes old ones, beside the way of a container's start.

use super::namespace;
use super::netlink::Socket;
use super::{Chore, Inner, failed, link, lock};
use engine::networks::NetworkError;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::sync::mpsc;

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

    /// The janitor's life.
    pub(super) fn keep_house(&self, inbox: &mpsc::Receiver<Chore>, route: &mut Socket) {
        while let Ok(chore) = inbox.recv() {
            match chore {
                Chore::Refill => self.refill(route),
                Chore::Remove { namespace, lease } => {
                    namespace::remove(&namespace, route);
                    if let Some(address) = lease {
                        lock(&self.books).leases.give_back(address);
                    }
                }
                Chore::Stop => break,
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
