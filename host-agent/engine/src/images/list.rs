//! Looking at images: list with filters, inspect, history.

use super::service::{Catalog, ImageService, ImageView};
use super::{Digest, ImageError, ImageLookupError, Platform};
use std::collections::{BTreeMap, BTreeSet};
use time::OffsetDateTime;

/// Which images a list has. Everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFilter {
    /// Also images without a name that others were made of.
    pub all: bool,
    /// Without any tag (`true`), or with one (`false`).
    pub dangling: Option<bool>,
    /// `key` or `key=value`; all of them.
    pub labels: Vec<String>,
    /// Created before, or since, these images.
    pub before: Vec<String>,
    pub since: Vec<String>,
    /// Patterns as `alp*`, `*/thing:1.?`; one of them.
    pub references: Vec<String>,
    /// Created before this time.
    pub until: Option<OffsetDateTime>,
}

/// One line of `docker history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryLine {
    /// The newest line has the image's own, the next ones those of the images it was made of, as far as they are known; the
    /// others show `<missing>`, as in Docker.
    pub id: Option<Digest>,
    pub created: Option<OffsetDateTime>,
    pub created_by: String,
    pub comment: String,
    /// Bytes of the step's layer.
    pub size: u64,
    pub tags: Vec<String>,
}

impl ImageService {
    /// One image.
    pub fn inspect(&self, name: &str) -> Result<ImageView, ImageError> {
        let catalog = self.catalog();
        let id = catalog.lookup(name)?;
        view(&catalog, &id, name)
    }

    /// One image, which must be for the platform if one is given.
    pub fn inspect_on(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<ImageView, ImageError> {
        let image = self.inspect(name)?;
        match platform {
            Some(wanted) if !wanted.is_served_by(&image.details.platform) => {
                Err(ImageLookupError::OtherPlatform {
                    name: name.to_owned(),
                    platform: wanted.familiar(),
                }
                .into())
            }
            _ => Ok(image),
        }
    }

    /// Images, newest first.
    pub fn list(&self, filter: &ImageFilter) -> Result<Vec<ImageView>, ImageError> {
        if filter.references.iter().any(|text| !is_pattern(text)) {
            // Go's words.
            return Err(ImageError::Invalid {
                message: "syntax error in pattern".into(),
            });
        }
        let catalog = self.catalog();
        let created_of = |name: &String| -> Result<Option<OffsetDateTime>, ImageError> {
            let id = catalog.lookup(name)?;
            Ok(catalog.details.get(&id).and_then(|details| details.created))
        };
        let before = filter
            .before
            .iter()
            .map(created_of)
            .collect::<Result<Vec<_>, _>>()?;
        let since = filter
            .since
            .iter()
            .map(created_of)
            .collect::<Result<Vec<_>, _>>()?;
        let records = catalog.records.images.values();
        let parents: BTreeSet<&Digest> = records
            .filter_map(|record| record.parent.as_ref())
            .collect();
        let mut images: Vec<ImageView> = catalog
            .records
            .images
            .keys()
            .filter_map(|id| catalog.view(id))
            .filter(|image| {
                let created = image.details.created;
                before.iter().all(|limit| created < *limit)
                    && since.iter().all(|limit| created > *limit)
                    && filter
                        .until
                        .is_none_or(|limit| created.is_none_or(|created| created < limit))
                    && has_labels(&image.details.config.labels, &filter.labels)
            })
            .filter_map(|image| by_reference(image, &filter.references))
            .filter(|image| match filter.dangling {
                None => true,
                Some(true) => image.repo_tags.is_empty(),
                // As Docker has it: an image with a digest reference only is not left out here.
                Some(false) => !image.repo_tags.is_empty() || !image.repo_digests.is_empty(),
            })
            .filter(|image| {
                let is_between = image.repo_tags.is_empty()
                    && image.repo_digests.is_empty()
                    && parents.contains(&image.id);
                !is_between || (filter.all && filter.dangling != Some(true))
            })
            .collect();
        images.sort_by(|a, b| (b.details.created, &a.id).cmp(&(a.details.created, &b.id)));
        Ok(images)
    }

    /// For each image the bytes of its layers that another image has, too.
    pub fn shared_sizes(&self) -> BTreeMap<Digest, u64> {
        let catalog = self.catalog();
        let mut users: BTreeMap<&Digest, usize> = BTreeMap::new();
        for record in catalog.records.images.values() {
            let layers: BTreeSet<&Digest> =
                record.layers.iter().map(|layer| &layer.chain_id).collect();
            for layer in layers {
                *users.entry(layer).or_default() += 1;
            }
        }
        let shared = |record: &super::records::ImageRecord| {
            let layers = record.layers.iter();
            layers
                .filter(|layer| users.get(&layer.chain_id).is_some_and(|count| *count > 1))
                .map(|layer| layer.size)
                .sum()
        };
        let images = catalog.records.images.iter();
        images
            .map(|(id, record)| (id.clone(), shared(record)))
            .collect()
    }

    /// How an image was made; it must be for the platform if one is given.
    pub fn history(
        &self,
        name: &str,
        platform: Option<&Platform>,
    ) -> Result<Vec<HistoryLine>, ImageError> {
        let image = self.inspect_on(name, platform)?;
        let mut layers = image.record.layers.iter();
        let mut lines: Vec<HistoryLine> = image
            .details
            .history
            .iter()
            .map(|entry| HistoryLine {
                id: None,
                created: entry.created,
                created_by: entry.created_by.clone(),
                comment: entry.comment.clone(),
                size: match entry.empty_layer {
                    true => 0,
                    false => layers.next().map_or(0, |layer| layer.size),
                },
                tags: Vec::new(),
            })
            .collect();
        lines.reverse();
        let catalog = self.catalog();
        let mut maker = Some(image);
        for line in &mut lines {
            let Some(image) = maker else { break };
            line.id = Some(image.id);
            line.tags = image.repo_tags;
            let parent = image.record.parent;
            maker = parent.and_then(|parent| catalog.view(&parent));
        }
        Ok(lines)
    }

    /// Name of the storage driver and its data on an image, for `inspect`.
    pub async fn driver_data(&self, image: &ImageView) -> (String, BTreeMap<String, String>) {
        let top = image.record.layers.last().map(|layer| &layer.chain_id);
        self.backends().layers.driver_data(top).await
    }
}

fn view(catalog: &Catalog, id: &Digest, name: &str) -> Result<ImageView, ImageError> {
    catalog.view(id).ok_or_else(|| {
        ImageLookupError::NotFound {
            name: name.to_owned(),
        }
        .into()
    })
}

pub(super) fn has_labels(labels: &BTreeMap<String, String>, wanted: &[String]) -> bool {
    wanted.iter().all(|wanted| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    })
}

/// Keeps the references that fit a pattern, and the image if any does.
fn by_reference(mut image: ImageView, patterns: &[String]) -> Option<ImageView> {
    if patterns.is_empty() {
        return Some(image);
    }
    let fits = |reference: &String| {
        let name = super::Reference::parse(reference)
            .map(|reference| reference.repository.familiar())
            .unwrap_or_default();
        patterns.iter().any(|pattern| {
            matches(pattern.as_bytes(), reference.as_bytes())
                || matches(pattern.as_bytes(), name.as_bytes())
        })
    };
    image.repo_tags.retain(fits);
    image.repo_digests.retain(fits);
    (!image.repo_tags.is_empty() || !image.repo_digests.is_empty()).then_some(image)
}

/// Go's `path.Match`: `*` and `?` stop at `/`, `[a-z]` and `[^a]` are classes, `\` quotes. A malformed pattern fits
/// nothing.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // (rest of pattern behind the last star, text it was tried at)
    let mut retry: Option<(&[u8], &[u8])> = None;
    let (mut pattern, mut text) = (pattern, text);
    loop {
        let step = match (pattern.first(), text.first()) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                pattern = &pattern[1..];
                retry = Some((pattern, text));
                continue;
            }
            (Some(b'?'), Some(byte)) if *byte != b'/' => Some((&pattern[1..], &text[1..])),
            (Some(b'['), Some(byte)) => class(&pattern[1..], *byte).map(|rest| (rest, &text[1..])),
            (Some(b'\\'), Some(byte)) if pattern.get(1) == Some(byte) => {
                Some((&pattern[2..], &text[1..]))
            }
            (Some(expected), Some(byte))
                if expected == byte && !matches!(expected, b'?' | b'\\') =>
            {
                Some((&pattern[1..], &text[1..]))
            }
            _ => None,
        };
        if let Some((next_pattern, next_text)) = step {
            (pattern, text) = (next_pattern, next_text);
            continue;
        }
        match retry {
            Some((behind_star, [first, rest @ ..])) if *first != b'/' => {
                retry = Some((behind_star, rest));
                (pattern, text) = (behind_star, rest);
            }
            _ => return false,
        }
    }
}

/// Whether Go's `path.Match` reads it: classes end and have something in them, and a `\` quotes something.
fn is_pattern(pattern: &str) -> bool {
    let mut rest = pattern.chars();
    // A character of a class; only `\` makes one of `-` and `]`.
    fn member(rest: &mut std::str::Chars) -> bool {
        match rest.next() {
            None | Some('-' | ']') => false,
            Some('\\') => rest.next().is_some(),
            Some(_) => true,
        }
    }
    while let Some(character) = rest.next() {
        match character {
            '\\' if rest.next().is_none() => return false,
            '[' => {
                if rest.as_str().starts_with('^') {
                    rest.next();
                }
                loop {
                    if !member(&mut rest) {
                        return false;
                    }
                    if rest.as_str().starts_with('-') {
                        rest.next();
                        if !member(&mut rest) {
                            return false;
                        }
                    }
                    if rest.as_str().starts_with(']') {
                        rest.next();
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    true
}

/// The pattern behind a class that has the byte in it.
fn class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let is_negated = pattern.first() == Some(&b'^');
    let mut rest = &pattern[usize::from(is_negated)..];
    let mut found = false;
    let mut is_first = true;
    loop {
        match rest {
            [b']', after @ ..] if !is_first => {
                return (found != is_negated && byte != b'/').then_some(after);
            }
            [b'\\', one, after @ ..] => {
                found |= *one == byte;
                rest = after;
            }
            [low, b'-', high, after @ ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                rest = after;
            }
            [one, after @ ..] => {
                found |= *one == byte;
                rest = after;
            }
            [] => return None,
        }
        is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_gos() {
        let fits = |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes());
        assert!(fits("alpine", "alpine"));
        assert!(fits("alp*", "alpine:3.20"));
        assert!(fits("*:3.*", "alpine:3.20"));
        assert!(!fits("*", "me/thing"));
        assert!(fits("*/*", "me/thing"));
        assert!(fits("a?pine", "alpine"));
        assert!(fits("[a-c]lpine", "alpine"));
        assert!(!fits("[^a]lpine", "alpine"));
        assert!(fits("[^b]lpine", "alpine"));
        assert!(!fits("[", "["));
        assert!(!fits("alp", "alpine"));
        assert!(fits("\\*", "*"));
        assert!(fits("[\\]]", "]"));
        assert!(fits("*e", "alpine"));
    }

    #[test]
    fn bad_patterns_are_told() {
        for good in ["", "a*", "[a]", "[^a-z]x", "\\[", "[\\]]", "]"] {
            assert!(is_pattern(good), "{good}");
        }
        for bad in [
            "[", "[]", "[]a]", "[a", "[a-", "[a-]", "[-a]", "[^]", "a\\", "[\\",
        ] {
            assert!(!is_pattern(bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_hangs_or_panics(pattern in "[*?\\[\\]a^/\\\\-]{0,12}", text in "[a/]{0,30}") {
            let _ = matches(pattern.as_bytes(), text.as_bytes());
        }
    }
}
