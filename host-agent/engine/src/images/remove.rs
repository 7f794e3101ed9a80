//! Tag and remove. The rules are those of dockerd (moby, `daemon/images/image_delete.go`): removing a name only untags
//! while the image has other names; removing the last name, or the id, removes the image unless containers need it.

use super::service::{Catalog, ImageService};
use super::{Digest, ImageError, Reference};
use std::collections::BTreeSet;

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
    pub async fn remove(&self, name: &str, force: bool) -> Result<Vec<Removed>, ImageError> {
        let (id, plan) = {
            let catalog = self.catalog();
            let id = catalog.lookup(name)?;
            (id.clone(), self.plan(&catalog, &id, name, force)?)
        };
        let labels_and_names: Vec<String> =
            plan.references.iter().map(Reference::familiar).collect();
        let deleted_layers = self
            .change(|catalog| {
                for reference in &plan.references {
                    catalog.records.references.remove(&reference.to_string());
                }
                if !plan.deletes_image {
                    return Ok(Vec::new());
                }
                let record = catalog.records.images.remove(&id);
                catalog.details.remove(&id);
                let still_used: BTreeSet<&Digest> = catalog
                    .records
                    .images
                    .values()
                    .flat_map(|record| &record.layers)
                    .map(|layer| &layer.chain_id)
                    .collect();
                Ok(record
                    .into_iter()
                    .flat_map(|record| record.layers)
                    .map(|layer| layer.chain_id)
                    .filter(|chain_id| !still_used.contains(chain_id))
                    // The top layer first, as Docker tells it.
                    .rev()
                    .collect())
            })
            .await?;
        let mut removed: Vec<Removed> = Vec::new();
        for name in labels_and_names {
            self.publish("untag", id.as_str(), id.as_str());
            removed.push(Removed::Untagged(name));
        }
        if plan.deletes_image {
            self.publish("delete", id.as_str(), id.as_str());
            removed.push(Removed::Deleted(id));
            removed.extend(deleted_layers.into_iter().map(Removed::Deleted));
            self.collect_later();
            self.collect_if_due().await;
        }
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
        // A container that runs (or, without force, that is there at all) keeps the image, now without a name.
        let is_kept = users.iter().any(|(_, is_running)| *is_running || !force);
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
