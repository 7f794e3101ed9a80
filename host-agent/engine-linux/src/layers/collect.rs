//! Removing layers that nobody uses: out of the way at once, off the disk behind the answer.
//!
//! ```text
//! collect: forgotten -> renamed to tmp-<random> -> answer
//!                                    '-> unlinked, as many folders at a time as there are processors
//! ```
//!
//! Hundreds of thousands of files take the kernel seconds, and nobody needs to wait for them: the name is free, and what
//! is left when the engine ends goes at its next start. Whoever is short of space waits ([`Removals::wait`]).

use super::{LINKS, OverlayLayers, State, TemporaryFolder};
use engine::images::{Digest, LayerError};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// Free bytes below which a pull waits for removals that are under way: more than most images have.
const SCARCE: u64 = 8 << 30;

/// Folders on their way out.
#[derive(Default)]
pub(super) struct Removals {
    under_way: Mutex<usize>,
    one_is_done: Condvar,
}

impl Removals {
    fn count(&self) -> MutexGuard<'_, usize> {
        self.under_way
            .lock()
            .expect("no code panics while it holds this lock")
    }

    /// Removes folders on a thread of its own: one that the end of the engine does not wait for.
    fn begin(self: &Arc<Self>, folders: Vec<TemporaryFolder>) {
        if folders.is_empty() {
            return;
        }
        *self.count() += 1;
        let under_way = UnderWay(self.clone());
        let remove = move || {
            drop_side_by_side(folders);
            drop(under_way);
        };
        let thread = std::thread::Builder::new().name("remove-layers".into());
        if let Err(error) = thread.spawn(remove) {
            // Dropped with the closure, the folders are gone already.
            tracing::debug!(%error, "no thread for removing layers");
        }
    }

    /// Returns when everything that was begun before is gone. Blocks.
    fn wait(&self) {
        let mut count = self.count();
        while *count > 0 {
            count = self
                .one_is_done
                .wait(count)
                .expect("no code panics while it holds this lock");
        }
    }
}

/// That folders are being removed.
struct UnderWay(Arc<Removals>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.count() -= 1;
        self.0.one_is_done.notify_all();
    }
}

/// Removes folders, as many at a time as there are processors: each is in a part of the disk of its own.
fn drop_side_by_side(folders: Vec<TemporaryFolder>) {
    let workers = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(folders.len());
    let left = Mutex::new(folders);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                // Taken out in a statement of its own, so that the lock is not held while a folder is removed.
                while let Some(folder) = {
                    let mut left = left
                        .lock()
                        .expect("no code panics while it holds this lock");
                    left.pop()
                } {
                    drop(folder);
                }
            });
        }
    });
}

impl State {
    /// The top layers of what containers stand on and mount.
    fn tops(&self) -> impl Iterator<Item = &Digest> {
        let mounted = self.images.values().flatten();
        self.containers.values().flatten().chain(mounted)
    }

    /// The layers that are used: those in `keep`, those below containers, and whatever is below these.
    fn used(&self, keep: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        let mut used: BTreeSet<Digest> = BTreeSet::new();
        for top in keep.iter().chain(self.tops()) {
            let mut next = Some(top);
            while let Some(chain_id) = next {
                if !used.insert(chain_id.clone()) {
                    break;
                }
                next = self
                    .layers
                    .get(chain_id)
                    .and_then(|layer| layer.parent.as_ref());
            }
        }
        used
    }

    /// Folders of layers whose record cannot be read and that nobody can need. `keep` names every layer of every image; of
    /// a container we know the top layer only, so as long as one's chain breaks off, each of them may be what is missing.
    fn useless(&self, used: &BTreeSet<Digest>) -> BTreeSet<Digest> {
        let chains_are_whole = self.tops().all(|top| {
            let mut next = Some(top);
            while let Some(chain_id) = next {
                match self.layers.get(chain_id) {
                    Some(layer) => next = layer.parent.as_ref(),
                    None => return false,
                }
            }
            true
        });
        match chains_are_whole {
            true => self.unreadable.difference(used).cloned().collect(),
            false => BTreeSet::new(),
        }
    }
}

impl OverlayLayers {
    /// Takes what is not used out of the way; returns the chain ids.
    pub(super) async fn collect_unused(
        &self,
        keep: &BTreeSet<Digest>,
    ) -> Result<Vec<Digest>, LayerError> {
        let (removed, folders, links) = {
            let mut state = self.state();
            let used = state.used(keep);
            let useless = state.useless(&used);
            let removed: Vec<Digest> = state
                .layers
                .keys()
                .filter(|chain_id| !used.contains(chain_id))
                .cloned()
                .collect();
            let links: Vec<String> = removed
                .iter()
                .filter_map(|chain_id| state.layers.remove(chain_id))
                .map(|layer| layer.link)
                .collect();
            state
                .unreadable
                .retain(|chain_id| !useless.contains(chain_id));
            let folders: Vec<Digest> = removed.iter().cloned().chain(useless).collect();
            (removed, folders, links)
        };
        self.blocking(
            || "remove unused layers".into(),
            move |this| {
                let mut asides = Vec::new();
                for chain_id in folders {
                    // Renamed first: half a layer must never carry a layer's name.
                    let aside = TemporaryFolder::new(&this.inner.folder)?;
                    let layer = this.inner.folder.join(chain_id.hex());
                    fs::rename(layer, aside.path.join("layer"))?;
                    asides.push(aside);
                }
                for link in links {
                    match fs::remove_file(this.inner.folder.join(LINKS).join(link)) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                        _ => {}
                    }
                }
                this.inner.removals.begin(asides);
                Ok(())
            },
        )
        .await?;
        Ok(removed)
    }

    /// Waits for the removals under way, if the disk has less than `least` free bytes.
    pub(super) async fn wait_for_removals(&self, least: u64) -> Result<(), LayerError> {
        if *self.inner.removals.count() == 0 {
            return Ok(());
        }
        self.blocking(
            || "wait until unused layers are removed".into(),
            move |this| {
                let facts = rustix::fs::statvfs(&this.inner.folder)?;
                if facts.f_bavail.saturating_mul(facts.f_frsize) < least {
                    this.inner.removals.wait();
                }
                Ok(())
            },
        )
        .await
    }

    /// The same, where the disk is nearly full.
    pub(super) async fn wait_where_scarce(&self) -> Result<(), LayerError> {
        self.wait_for_removals(SCARCE).await
    }
}
