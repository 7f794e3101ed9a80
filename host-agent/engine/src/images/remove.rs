//! Tag and remove. The rules are those of dockerd (moby, `daemon/images/image_delete.go`): removing a name only untags
//! while the image has other names; removing the last name, or the id, removes the image unless containers need it.

use super::service::{Catalog, ImageService};
use super::{Digest, ImageError, Platform, Reference};
use std::collections::BTreeSet;

/// How a removal is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// Also where stopped containers or several names are in the way.
    pub force: bool,
    /// Leaves the images it was made of, also those that have no name and that nothing else needs.
    pub keep_parents: bool,
    /// The image must be for it.
    pub platform: Option<Platform>,
}

/// One line of a removal's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A reference in its familiar form.
    Untagged(String),
    /// An image id or a layer's chain id.
    Deleted(Digest),
}

/// What a removal may do, found out before anything is changed.
struct Plan {
    references: Vec<Reference>,
    deletes_image: bool,
}

impl ImageService {
    /// Gives an image one more name.
    pub async fn tag(&self, name: &str, target: &Reference) -> Result<(), ImageError> {
        if target.digest.is_some() {
            return Err(ImageError::TagWithDigest);
        }
        target.check_as_name()?;
        let target = target.clone().or_latest();
        let now = self.backends().clock.now();
        let id = self
            .change(|catalog| {
                let id = catalog.lookup(name)?;
                if let Some(record) = catalog.records.images.get_mut(&id) {
                    record.last_tagged = Some(now);
                }
                catalog
                    .records
                    .references
                    .insert(target.to_string(), id.clone());
                Ok(id)
            })
            .await?;
        self.publish("tag", id.as_str(), &target.familiar());
        Ok(())
    }

    /// Removes a name or an image.
    pub async fn remove(&self, name: &str, how: Removal) -> Result<Vec<Removed>, ImageError> {
        if how.platform.is_some() {
            self.inspect_on(name, how.platform.as_ref())?;
        }
        let (id, plan) = {
            let catalog = self.catalog();
            let id = catalog.lookup(name)?;
            (id.clone(), self.plan(&catalog, &id, name, how.force)?)
        };
        // A removed image has none any more.
        let labels = self.labels_of(id.as_str());
        let deleted = self
            .change(|catalog| {
                for reference in &plan.references {
                    catalog.records.references.remove(&reference.to_string());
                }
                let mut deleted = Vec::new();
                let mut next = plan.deletes_image.then(|| id.clone());
                while let Some(image) = next {
                    let (parent, layers) = catalog.delete(&image);
                    deleted.push((image, layers));
                    next = parent.filter(|parent| {
                        !how.keep_parents
                            && catalog.records.images.contains_key(parent)
                            && catalog.references_to(parent).is_empty()
                            && !catalog.has_children(parent)
                            && self.users_of(parent).is_empty()
                    });
                }
                Ok(deleted)
            })
            .await?;
        let mut removed: Vec<Removed> = Vec::new();
        for reference in &plan.references {
            self.publish_with("untag", id.as_str(), id.as_str(), labels.clone());
            removed.push(Removed::Untagged(reference.familiar()));
        }
        if deleted.is_empty() {
            return Ok(removed);
        }
        for (image, layers) in deleted {
            self.publish("delete", image.as_str(), image.as_str());
            removed.push(Removed::Deleted(image));
            removed.extend(layers.into_iter().map(Removed::Deleted));
        }
        self.collect_later();
        self.collect_if_due().await;
        Ok(removed)
    }

    fn plan(
        &self,
        catalog: &Catalog,
        id: &Digest,
        name: &str,
        force: bool,
    ) -> Result<Plan, ImageError> {
        let all = catalog.references_to(id);
        let users = self.users_of(id);
        if is_id_or_prefix(id, name, catalog) {
            let is_single = is_single_reference(&all);
            if catalog.has_children(id) {
                return Err(ImageError::DeleteConflict {
                    image: short(id),
                    forcible: false,
                    why: "image has dependent child images".into(),
                });
            }
            self.check_conflicts(id, force, is_single || force, all.len())?;
            return Ok(Plan {
                references: all,
                deletes_image: true,
            });
        }
        if !force
            && is_single_reference(&all)
            && let Some((container, _)) = users.first()
        {
            return Err(ImageError::ReferenceInUse {
                reference: name.to_owned(),
                container: container.short().to_owned(),
                image: short(id),
            });
        }
        let mut reference = Reference::parse(name)?.or_latest();
        if reference.digest.is_some() {
            reference.tag = None;
        }
        let mut references = vec![reference.clone()];
        // With the last tag of a repository its digest references go, too.
        let same_repository: Vec<&Reference> = all
            .iter()
            .filter(|other| **other != reference && other.repository == reference.repository)
            .collect();
        if reference.digest.is_none() && same_repository.iter().all(|other| other.tag.is_none()) {
            references.extend(same_repository.into_iter().cloned());
        }
        let is_last = all.iter().all(|other| references.contains(other));
        // A container that runs (or, without force, that is there at all) keeps the image, now without a name; so does an
        // image that was made of it.
        let is_kept =
            users.iter().any(|(_, is_running)| *is_running || !force) || catalog.has_children(id);
        Ok(Plan {
            references,
            deletes_image: is_last && !is_kept,
        })
    }

    /// For a removal by id.
    fn check_conflicts(
        &self,
        id: &Digest,
        force: bool,
        ignores_references: bool,
        references: usize,
    ) -> Result<(), ImageError> {
        let conflict = |forcible: bool, why: String| {
            Err(ImageError::DeleteConflict {
                image: short(id),
                forcible,
                why,
            })
        };
        let users = self.users_of(id);
        if let Some((container, _)) = users.iter().find(|(_, is_running)| *is_running) {
            return conflict(
                false,
                format!(
                    "image is being used by running container {}",
                    container.short()
                ),
            );
        }
        if !ignores_references && references > 0 {
            return conflict(true, "image is referenced in multiple repositories".into());
        }
        if let Some((container, _)) = users.first()
            && !force
        {
            return conflict(
                true,
                format!(
                    "image is being used by stopped container {}",
                    container.short()
                ),
            );
        }
        Ok(())
    }
}

impl Catalog {
    /// Whether another image was made of this one.
    fn has_children(&self, id: &Digest) -> bool {
        let mut images = self.records.images.values();
        images.any(|record| record.parent.as_ref() == Some(id))
    }

    /// Takes an image out; returns its parent and the layers nobody uses any more, the top one first as Docker tells it.
    fn delete(&mut self, id: &Digest) -> (Option<Digest>, Vec<Digest>) {
        self.details.remove(id);
        let Some(record) = self.records.images.remove(id) else {
            return (None, Vec::new());
        };
        let others = self.records.images.values();
        let used: BTreeSet<&Digest> = others
            .flat_map(|record| &record.layers)
            .map(|layer| &layer.chain_id)
            .collect();
        let unused = record
            .layers
            .into_iter()
            .rev()
            .map(|layer| layer.chain_id)
            .filter(|chain_id| !used.contains(chain_id))
            .collect();
        (record.parent, unused)
    }
}

fn short(id: &Digest) -> String {
    id.hex()[..12].to_owned()
}

/// Whether `name` means the id and not a reference.
fn is_id_or_prefix(id: &Digest, name: &str, catalog: &Catalog) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    if !id.hex().starts_with(hex) {
        return false;
    }
    // A repository can be called `abc`, too: then the name counts.
    match Reference::parse(name) {
        Ok(reference) => !catalog
            .records
            .references
            .contains_key(&reference.or_latest().to_string()),
        Err(_) => true,
    }
}

/// At most one tag, and digests of its repository only.
fn is_single_reference(references: &[Reference]) -> bool {
    if references.len() <= 1 {
        return true;
    }
    let mut tags = references
        .iter()
        .filter(|reference| reference.digest.is_none());
    let single = match (tags.next(), tags.next()) {
        (Some(_), Some(_)) => return false,
        (Some(tag), None) => tag,
        (None, _) => &references[0],
    };
    references
        .iter()
        .filter(|reference| reference.digest.is_some())
        .all(|reference| reference.repository == single.repository)
}
