//! Who may use which cache mount, and when.
//!
//! A step takes everything it mounts at once: each id once, as its first mount of that id says, in the order of the ids. So
//! two mounts of one id are one folder, and no two steps wait for each other.

use super::mount::Sharing;
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::RwLock;

/// The cache mounts that steps have or wait for.
#[derive(Default)]
pub(super) struct CacheLocks(Mutex<HashMap<String, Arc<RwLock<()>>>>);

/// Those of one step, until it is dropped.
pub(super) struct HeldCaches {
    names: BTreeMap<String, String>,
    _guards: Vec<Box<dyn Any + Send + Sync>>,
}

impl HeldCaches {
    /// What the cache of an id is called for this step: a private one may be the second of its id.
    pub(super) fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.names.get(id).map_or(id, String::as_str)
    }

    /// The step has none.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}

impl CacheLocks {
    fn of(&self, id: &str) -> Arc<RwLock<()>> {
        let mut locks = super::service::locked(&self.0);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(id.to_owned()).or_default().clone()
    }

    /// Waits until the step may have all of them.
    pub(super) async fn hold(
        &self,
        wanted: impl IntoIterator<Item = (&str, Sharing)>,
    ) -> HeldCaches {
        let mut sharing_of: BTreeMap<&str, Sharing> = BTreeMap::new();
        for (id, sharing) in wanted {
            sharing_of.entry(id).or_insert(sharing);
        }
        let mut held = HeldCaches {
            names: BTreeMap::new(),
            _guards: Vec::new(),
        };
        for (id, sharing) in sharing_of {
            let (name, guard): (String, Box<dyn Any + Send + Sync>) = match sharing {
                Sharing::Shared => (id.to_owned(), Box::new(self.of(id).read_owned().await)),
                Sharing::Locked => (id.to_owned(), Box::new(self.of(id).write_owned().await)),
                Sharing::Private => self.first_free(id),
            };
            held.names.insert(id.to_owned(), name);
            held._guards.push(guard);
        }
        held
    }

    /// One that no step has, for nobody else until the answer is dropped.
    pub(super) fn try_hold(&self, id: &str) -> Option<impl Sized + Send + use<>> {
        self.of(id).try_write_owned().ok()
    }

    fn first_free(&self, id: &str) -> (String, Box<dyn Any + Send + Sync>) {
        let mut number = 1;
        loop {
            let name = match number {
                1 => id.to_owned(),
                number => format!("{id} (private {number})"),
            };
            if let Ok(guard) = self.of(&name).try_write_owned() {
                return (name, Box::new(guard));
            }
            number += 1;
        }
    }

    /// Whether a step has it, or waits for it.
    pub(super) fn is_in_use(&self, id: &str) -> bool {
        let locks = super::service::locked(&self.0);
        locks
            .get(id)
            .is_some_and(|lock| Arc::strong_count(lock) > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Sharing::{Locked, Private, Shared};
    use super::*;
    use std::time::Duration;

    /// What would hang is an error.
    async fn soon<T>(work: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(60), work)
            .await
            .expect("nobody waits for ever")
    }

    #[tokio::test]
    async fn one_step_has_one_folder_for_an_id() {
        let locks = CacheLocks::default();
        let held = soon(locks.hold([("a", Locked), ("a", Locked), ("a", Shared)])).await;
        assert_eq!(held.name("a"), "a");
        assert!(locks.is_in_use("a") && !locks.is_in_use("b"));
        drop(held);
        assert!(!locks.is_in_use("a"));
        let alone = locks.try_hold("a");
        assert!(alone.is_some() && locks.try_hold("a").is_none());
        let first = soon(locks.hold([("p", Private), ("p", Private)])).await;
        assert_eq!(first.name("p"), "p");
        let second = soon(locks.hold([("p", Private)])).await;
        assert_eq!(second.name("p"), "p (private 2)");
        assert!(locks.is_in_use("p (private 2)") && !locks.is_in_use("p (private 3)"));
    }

    #[tokio::test]
    async fn steps_that_want_the_same_in_another_order_do_not_wait_for_each_other() {
        let locks = Arc::new(CacheLocks::default());
        // While somebody has the first, both wait; neither has the second meanwhile.
        let gate = locks.hold([("l1", Locked)]).await;
        let step = |ids: [&'static str; 2]| {
            let locks = locks.clone();
            tokio::spawn(async move { drop(locks.hold(ids.map(|id| (id, Locked))).await) })
        };
        let steps = [step(["l1", "l2"]), step(["l2", "l1"])];
        tokio::task::yield_now().await;
        assert!(!locks.is_in_use("l2"));
        drop(gate);
        for step in steps {
            soon(step).await.expect("it ended");
        }
    }
}
