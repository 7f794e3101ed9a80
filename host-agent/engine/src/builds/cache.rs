//! The build cache: what a step made, by a key of everything that the step depends on.
//!
//! ```text
//! key = sha256( configuration, layers and platform before the step | the instruction, expanded | digests of what it reads )
//! ```
//!
//! The step before is in the key by what it made and not by its own key: where a step is done again and makes the same, the
//! cache goes on. Entries are in the images' record, so that one write makes an image and its entries durable together, and
//! what they name is kept as images' layers are. Uses are counted in memory and written along with the next entry.

use super::error::BuildError;
use super::files::CacheFolder;
use super::request::{CacheKind, CacheUsage, PruneRequest, Pruned};
use super::service::BuildService;
use crate::images::Digest;
use crate::images::records::{BuildRecord, ImageRecords};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use time::OffsetDateTime;

/// How much of the cache is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes of layers that no image has, and of cache mounts.
    pub bytes: u64,
    /// Since the last use.
    pub age: Duration,
    pub entries: usize,
}

impl CacheLimits {
    /// Everything is kept.
    pub const UNLIMITED: CacheLimits = CacheLimits {
        bytes: u64::MAX,
        age: Duration::MAX,
        entries: usize::MAX,
    };
}

impl Default for CacheLimits {
    fn default() -> Self {
        CacheLimits {
            bytes: 20 << 30,
            age: Duration::from_secs(60 * 24 * 60 * 60),
            entries: 10_000,
        }
    }
}

/// Uses of entries since the record was written.
pub(super) type Uses = BTreeMap<String, (OffsetDateTime, u64)>;

/// Writes uses into the record.
pub(super) fn count_uses(records: &mut ImageRecords, uses: Uses) {
    for (key, (at, count)) in uses {
        if let Some(entry) = records.builds.get_mut(&key) {
            entry.last_used = entry.last_used.max(at);
            entry.used += count;
        }
    }
}

/// Layers that images have.
fn layers_of_images(records: &ImageRecords) -> BTreeSet<Digest> {
    let images = records.images.values();
    images
        .flat_map(|image| image.layers.iter().map(|layer| layer.chain_id.clone()))
        .collect()
}

fn chain_of(entry: &BuildRecord) -> Option<&Digest> {
    Some(&entry.layer.as_ref()?.record.chain_id)
}

/// Takes entries out until `keep` says that it is enough; `order` is the order in which they go. Returns them, with the
/// bytes that nobody else has.
fn remove_entries(
    records: &mut ImageRecords,
    doomed: impl IntoIterator<Item = String>,
    shared: &BTreeSet<Digest>,
) -> (Vec<String>, u64) {
    let mut removed = Vec::new();
    let mut freed: BTreeMap<Digest, u64> = BTreeMap::new();
    for key in doomed {
        let Some(entry) = records.builds.remove(&key) else {
            continue;
        };
        if let Some(layer) = entry.layer
            && !shared.contains(&layer.record.chain_id)
        {
            freed.insert(layer.record.chain_id, layer.record.size);
        }
        removed.push(key);
    }
    for entry in records.builds.values() {
        if let Some(chain) = chain_of(entry) {
            freed.remove(chain);
        }
    }
    (removed, freed.values().sum())
}

/// Entries from the one that was not used for the longest time on. What another was made on counts as used with that: its
/// layer is below the other's and cannot go before it.
fn by_age(records: &ImageRecords) -> Vec<(OffsetDateTime, String)> {
    let mut latest: BTreeMap<&str, OffsetDateTime> = BTreeMap::new();
    let mut depths: BTreeMap<&str, usize> = BTreeMap::new();
    for (key, entry) in &records.builds {
        let parents = std::iter::successors(Some((key.as_str(), entry)), |(_, entry)| {
            let (key, entry) = records.builds.get_key_value(entry.parent.as_deref()?)?;
            Some((key.as_str(), entry))
        });
        let mut depth = 0;
        // A damaged record may lead in a circle.
        for (ancestor, _) in parents.take(records.builds.len()) {
            depth += 1;
            let used = latest.entry(ancestor).or_insert(entry.last_used);
            *used = entry.last_used.max(*used);
        }
        depths.insert(key, depth);
    }
    let mut keys: Vec<&String> = records.builds.keys().collect();
    keys.sort_by_key(|key| (latest[key.as_str()], Reverse(depths[key.as_str()])));
    keys.into_iter()
        .map(|key| (latest[key.as_str()], key.clone()))
        .collect()
}

/// Bytes of the layers that only the cache has.
fn own_bytes(records: &ImageRecords, shared: &BTreeSet<Digest>) -> u64 {
    let own: BTreeMap<&Digest, u64> = records
        .builds
        .values()
        .filter_map(|entry| entry.layer.as_ref())
        .filter(|layer| !shared.contains(&layer.record.chain_id))
        .map(|layer| (&layer.record.chain_id, layer.record.size))
        .collect();
    own.values().sum()
}

/// Names of the cache mounts that have to go, where steps and mounts go by their age until both together are within the
/// limits.
pub(super) fn mounts_beyond(
    records: &ImageRecords,
    mounts: &[CacheFolder],
    limits: &CacheLimits,
    now: OffsetDateTime,
) -> BTreeSet<String> {
    let mut records = records.clone();
    let shared = layers_of_images(&records);
    let in_mounts: u64 = mounts.iter().map(|mount| mount.size).sum();
    let mut held = own_bytes(&records, &shared) + in_mounts;
    let mut steps = by_age(&records).into_iter().peekable();
    let mut by_use: Vec<&CacheFolder> = mounts.iter().collect();
    by_use.sort_by_key(|mount| mount.last_used);
    let mut beyond = BTreeSet::new();
    for mount in by_use {
        let used = at(mount.last_used);
        while held > limits.bytes
            && let Some((_, key)) = steps.next_if(|(other, _)| *other < used)
        {
            held -= remove_entries(&mut records, [key], &shared).1;
        }
        if held > limits.bytes || now - used > limits.age {
            held -= mount.size;
            beyond.insert(mount.name.clone());
        }
    }
    beyond
}

/// Takes out what is beyond the limits, with so many bytes in cache mounts; answers whether that was anything.
pub(super) fn enforce(
    records: &mut ImageRecords,
    limits: &CacheLimits,
    now: OffsetDateTime,
    in_mounts: u64,
) -> bool {
    let shared = layers_of_images(records);
    let mut removed_any = false;
    let too_old: Vec<String> = records
        .builds
        .iter()
        .filter(|(_, entry)| now - entry.last_used > limits.age)
        .map(|(key, _)| key.clone())
        .collect();
    removed_any |= !remove_entries(records, too_old, &shared).0.is_empty();
    let excess = records.builds.len().saturating_sub(limits.entries);
    let oldest = by_age(records).into_iter().take(excess);
    let oldest: Vec<String> = oldest.map(|(_, key)| key).collect();
    removed_any |= !remove_entries(records, oldest, &shared).0.is_empty();
    let bytes = own_bytes(records, &shared);
    let room = limits.bytes.saturating_sub(in_mounts);
    if bytes > room {
        removed_any |= !shrink(records, &shared, bytes - room, |_| true)
            .0
            .is_empty();
    }
    removed_any
}

/// Removes the least recently used entries that `may` go until so many bytes are free.
fn shrink(
    records: &mut ImageRecords,
    shared: &BTreeSet<Digest>,
    wanted: u64,
    may: impl Fn(&str) -> bool,
) -> (Vec<String>, u64) {
    let (mut removed, mut freed) = (Vec::new(), 0);
    for (_, key) in by_age(records) {
        if freed >= wanted {
            break;
        }
        if may(&key) {
            let (gone, bytes) = remove_entries(records, [key], shared);
            removed.extend(gone);
            freed += bytes;
        }
    }
    (removed, freed)
}

fn at(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// The id of what is kept of contexts.
const CONTEXTS_ID: &str = "contexts";

const FILTERS: [&str; 10] = [
    "until",
    "unused-for",
    "id",
    "parent",
    "type",
    "description",
    "inuse",
    "shared",
    "private",
    "mutable",
];

impl BuildService {
    /// Every entry of the cache, every cache mount, and what is kept of contexts.
    pub async fn disk_usage(&self) -> Result<Vec<CacheUsage>, BuildError> {
        let catalog = self.inner.images.catalog();
        let mut records = catalog.records.clone();
        let uses = self.uses().clone();
        count_uses(&mut records, uses);
        let shared = layers_of_images(&records);
        let in_use = self.keys_in_use();
        let mut all: Vec<CacheUsage> = records
            .builds
            .iter()
            .map(|(key, entry)| CacheUsage {
                id: key.clone(),
                parent: entry.parent.clone(),
                kind: CacheKind::Regular,
                description: entry.created_by.clone(),
                in_use: in_use.contains(key),
                shared: chain_of(entry).is_some_and(|chain| shared.contains(chain)),
                size: entry.layer.as_ref().map_or(0, |layer| layer.record.size),
                created: entry.created,
                last_used: Some(entry.last_used),
                usage_count: entry.used,
            })
            .collect();
        for cache in self.inner.files.caches().await? {
            all.push(CacheUsage {
                in_use: self.is_cache_in_use(&cache.id),
                description: format!("cache mount {}", cache.id),
                id: cache.name,
                parent: None,
                kind: CacheKind::CacheMount,
                shared: false,
                size: cache.size,
                created: at(cache.created),
                last_used: Some(at(cache.last_used)),
                usage_count: 0,
            });
        }
        if let Some(kept) = self.inner.files.kept_contents().await? {
            all.push(CacheUsage {
                id: CONTEXTS_ID.to_owned(),
                parent: None,
                kind: CacheKind::Contexts,
                description: "contents of files of build contexts".into(),
                in_use: false,
                shared: false,
                size: kept.size,
                created: at(kept.created),
                last_used: Some(at(kept.last_used)),
                usage_count: 0,
            });
        }
        Ok(all)
    }

    /// Removes entries of the cache that fit the filters; what a build uses right now stays.
    pub async fn prune(&self, request: PruneRequest) -> Result<Pruned, BuildError> {
        request
            .filters
            .only(&FILTERS)
            .map_err(|error| BuildError::Invalid(error.to_string()))?;
        let now = self.now();
        let mut before = None;
        for name in ["until", "unused-for"] {
            for text in request.filters.values(name) {
                let at = crate::containers::list::parse_time(text, now)
                    .ok_or_else(|| BuildError::Invalid(format!("invalid {name} value: {text}")))?;
                before = Some(before.map_or(at, |other: OffsetDateTime| other.min(at)));
            }
        }
        let usage = self.disk_usage().await?;
        let fits = |entry: &CacheUsage| {
            let any = |name: &str, fits: &dyn Fn(&str) -> bool| {
                let mut values = request.filters.values(name).peekable();
                values.peek().is_none() || values.any(fits)
            };
            let flag = |name: &str, is: bool| any(name, &|value| is_true(value) == is);
            !entry.in_use
                && before.is_none_or(|before| entry.last_used.unwrap_or(entry.created) < before)
                && any("id", &|id| entry.id.starts_with(id))
                && any("parent", &|id| entry.parent.as_deref().is_some_and(|own| own.starts_with(id)))
                && any("type", &|kind| entry.kind.name() == kind)
                && any("description", &|text| entry.description.contains(text))
                && flag("inuse", false)
                && flag("mutable", entry.kind != CacheKind::Regular)
                && flag("shared", entry.shared)
                && flag("private", !entry.shared)
                // What images have costs nothing to keep, and makes their next build quick.
                && (request.all || !entry.shared)
        };
        let mut doomed: Vec<CacheUsage> =
            usage.iter().filter(|entry| fits(entry)).cloned().collect();
        doomed.sort_by_key(|entry| entry.last_used);
        let (mounts, steps): (Vec<_>, Vec<_>) = doomed
            .into_iter()
            .partition(|entry| entry.kind != CacheKind::Regular);
        let mut pruned = Pruned::default();
        // Down to what may stay.
        let own = usage.iter().filter(|entry| !entry.shared);
        let held = own.map(|entry| entry.size).sum();
        let free = match request.keep.least_free {
            0 => 0,
            _ => self.inner.files.free_bytes().await?,
        };
        let mut excess = request.keep.excess(held, free);
        for mount in mounts {
            if excess == Some(0) {
                break;
            }
            let freed = match mount.kind {
                CacheKind::Contexts => self.inner.files.forget_contents().await?,
                _ => {
                    self.inner.files.remove_cache(&mount.id).await?;
                    mount.size
                }
            };
            pruned.reclaimed += freed;
            excess = excess.map(|excess| excess.saturating_sub(mount.size));
            pruned.deleted.push(mount.id);
        }
        if steps.is_empty() || excess == Some(0) {
            return Ok(pruned);
        }
        let images = &self.inner.images;
        let uses = std::mem::take(&mut *self.uses());
        let names: BTreeSet<String> = steps.into_iter().map(|entry| entry.id).collect();
        let (removed, bytes) = images
            .change(|catalog| {
                let records = &mut catalog.records;
                count_uses(records, uses);
                let shared = layers_of_images(records);
                Ok(match excess {
                    None => remove_entries(records, names, &shared),
                    Some(wanted) => shrink(records, &shared, wanted, |key| names.contains(key)),
                })
            })
            .await?;
        pruned.deleted.extend(removed);
        pruned.reclaimed += bytes;
        images.collect_later();
        images.collect_if_due().await;
        Ok(pruned)
    }
}

/// Docker's spellings of yes.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "true" | "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::config::digest_of;
    use crate::images::records::{BuildLayer, LayerRecord};

    fn entry(layer: Option<(&str, u64)>, used: i64) -> BuildRecord {
        let at = OffsetDateTime::from_unix_timestamp(used).expect("a time");
        BuildRecord {
            created_by: "RUN".into(),
            created: at,
            layer: layer.map(|(name, size)| BuildLayer {
                diff_id: digest_of(name.as_bytes()),
                record: LayerRecord {
                    blob: digest_of(name.as_bytes()),
                    media_type: String::new(),
                    blob_size: 1,
                    chain_id: digest_of(name.as_bytes()),
                    size,
                },
            }),
            parent: None,
            last_used: at,
            used: 0,
        }
    }

    /// Key, the layer's name and size, when it was used last.
    type Made<'a> = (&'a str, Option<(&'a str, u64)>, i64);

    fn records(entries: &[Made<'_>]) -> ImageRecords {
        ImageRecords {
            builds: entries
                .iter()
                .map(|(key, layer, used)| ((*key).to_owned(), entry(*layer, *used)))
                .collect(),
            ..ImageRecords::default()
        }
    }

    #[test]
    fn limits_take_the_oldest_first() {
        let made = || {
            records(&[
                ("a", Some(("1", 10)), 1),
                ("b", Some(("2", 10)), 3),
                ("c", None, 2),
            ])
        };
        let limits = |bytes, age, entries| CacheLimits {
            bytes,
            age: Duration::from_secs(age),
            entries,
        };
        let now = OffsetDateTime::from_unix_timestamp(10).expect("a time");
        let check = |limits: CacheLimits, left: &[&str]| {
            let mut records = made();
            let changed = enforce(&mut records, &limits, now, 5);
            assert_eq!(
                records.builds.keys().collect::<Vec<_>>(),
                left,
                "{limits:?}"
            );
            assert_eq!(changed, left.len() < 3);
        };
        check(limits(25, 100, 9), &["a", "b", "c"]);
        check(limits(20, 100, 9), &["b", "c"]);
        check(limits(0, 100, 9), &[]);
        check(limits(25, 7, 9), &["b"]);
        check(limits(25, 100, 2), &["b", "c"]);
    }

    #[test]
    fn mounts_and_steps_go_by_their_age() {
        let records = records(&[("a", Some(("1", 10)), 1), ("b", Some(("2", 10)), 4)]);
        let mount = |name: &str, last_used| CacheFolder {
            name: name.into(),
            id: format!("/{name}"),
            size: 10,
            created: 0,
            last_used,
        };
        let mounts = [mount("new", 3), mount("old", 2)];
        let now = OffsetDateTime::from_unix_timestamp(10).expect("a time");
        for (bytes, age, beyond) in [
            (40, 100, &[][..]),
            (39, 100, &[]),
            (29, 100, &["old"]),
            (19, 100, &["new", "old"]),
            (0, 100, &["new", "old"]),
            (40, 7, &["old"]),
            (40, 6, &["new", "old"]),
        ] {
            let limits = CacheLimits {
                bytes,
                age: Duration::from_secs(age),
                entries: 9,
            };
            let found = mounts_beyond(&records, &mounts, &limits, now);
            assert_eq!(found.iter().collect::<Vec<_>>(), beyond, "{limits:?}");
        }
    }

    #[test]
    fn what_others_stand_on_goes_after_them() {
        let mut chains = records(&[
            ("a", Some(("1", 10)), 1),
            ("b", Some(("2", 10)), 2),
            ("c", Some(("3", 10)), 3),
            ("d", Some(("4", 10)), 2),
        ]);
        for (key, parent) in [("b", "a"), ("c", "b")] {
            chains.builds.get_mut(key).expect("made").parent = Some(parent.into());
        }
        let keys: Vec<String> = by_age(&chains).into_iter().map(|(_, key)| key).collect();
        assert_eq!(keys, ["d", "c", "b", "a"]);
        chains.builds.get_mut("a").expect("made").parent = Some("c".into());
        assert_eq!(by_age(&chains).len(), 4);
    }

    #[test]
    fn a_layer_of_two_entries_is_free_when_both_are_gone() {
        let mut both = records(&[("a", Some(("1", 10)), 1), ("b", Some(("1", 10)), 2)]);
        let shared = BTreeSet::new();
        assert_eq!(own_bytes(&both, &shared), 10);
        assert_eq!(
            remove_entries(&mut both, ["a".to_owned()], &shared),
            (vec!["a".into()], 0)
        );
        assert_eq!(
            remove_entries(&mut both, ["b".to_owned()], &shared),
            (vec!["b".into()], 10)
        );
    }
}
