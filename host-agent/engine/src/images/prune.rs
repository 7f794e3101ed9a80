//! Prune: images that no container uses go, those without a tag or all of them.

use super::list::has_labels;
use super::remove::{Removal, Removed};
use super::service::ImageService;
use super::{Digest, ImageError, Reference};
use crate::events::{Event, EventKind};
use std::collections::{BTreeMap, HashMap};
use time::OffsetDateTime;

/// Which images a prune may remove. Everything that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PruneFilter {
    /// Only images without a tag.
    pub dangling_only: bool,
    /// `key` or `key=value`; all of them.
    pub labels: Vec<String>,
    /// None of these (`label!`).
    pub without_labels: Vec<String>,
    /// Created before this time.
    pub until: Option<OffsetDateTime>,
}

impl Default for PruneFilter {
    fn default() -> Self {
        PruneFilter {
            dangling_only: true,
            labels: Vec::new(),
            without_labels: Vec::new(),
            until: None,
        }
    }
}

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    pub removed: Vec<Removed>,
    /// Bytes of unpacked layers.
    pub reclaimed: u64,
}

impl ImageService {
    /// Removes images that no container uses, and whatever content belongs to no image.
    pub async fn prune(&self, filter: &PruneFilter) -> Result<Pruned, ImageError> {
        let catalog = self.catalog();
        let sizes: HashMap<&Digest, u64> = catalog
            .records
            .images
            .values()
            .flat_map(|record| &record.layers)
            .map(|layer| (&layer.chain_id, layer.size))
            .collect();
        let mut pruned = Pruned::default();
        for id in catalog.records.images.keys() {
            if !self.users_of(id).is_empty() {
                continue;
            }
            let (labels, created) = match catalog.details.get(id) {
                Some(details) => (details.config.labels.clone(), details.created),
                None => (BTreeMap::new(), None),
            };
            let is_new = filter
                .until
                .is_some_and(|limit| created.is_none_or(|created| created > limit));
            let is_protected = filter
                .without_labels
                .iter()
                .any(|label| has_labels(&labels, std::slice::from_ref(label)));
            if is_new || is_protected || !has_labels(&labels, &filter.labels) {
                continue;
            }
            let references = catalog.references_to(id);
            if filter.dangling_only && references.iter().any(|reference| reference.tag.is_some()) {
                continue;
            }
            let mut names: Vec<String> = references.iter().map(Reference::to_string).collect();
            if names.is_empty() {
                names.push(id.as_str().to_owned());
            }
            for name in names {
                // Gone with the name before, or a container was made of it meanwhile: then it stays.
                if let Ok(removed) = self.remove(&name, Removal::default()).await {
                    pruned.removed.extend(removed);
                }
            }
        }
        for removed in &pruned.removed {
            if let Removed::Deleted(digest) = removed {
                pruned.reclaimed += sizes.get(digest).copied().unwrap_or(0);
            }
        }
        // Also what an interrupted pull left. What is told as reclaimed is free then.
        self.collect_later();
        self.collect_if_due().await;
        self.backends().layers.settle().await?;
        self.backends().events.publish(Event {
            kind: EventKind::Image,
            action: "prune".into(),
            actor: String::new(),
            attributes: BTreeMap::from([("reclaimed".into(), pruned.reclaimed.to_string())]),
            at: self.backends().clock.now(),
        });
        Ok(pruned)
    }
}
