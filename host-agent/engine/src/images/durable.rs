//! What a pull stored becomes durable behind its answer.
//!
//! ```text
//! pull: content in the page cache -> record says "unsynced" (durably) -> answer
//!                                    '-> make_durable(): everything synced -> record without the remark
//! ```
//!
//! A registry's bytes can be had again, so nobody who pulls waits for the disk. An engine that is killed in between does it
//! at its next start; where the host itself was interrupted, the image is forgotten then, because a file may have its size
//! and not its content. Who makes something on top that cannot be had again (a container) waits here first; commits and
//! loads sync by themselves.

use super::records::ImageRecords;
use super::service::{Catalog, ImageService};
use super::{Digest, ImageError};

impl ImageService {
    /// Returns when every image recorded before would survive a power cut.
    pub async fn make_durable(&self) -> Result<(), ImageError> {
        let asked_for = self.catalog().records.unsynced.clone();
        // Whoever comes while somebody else is at it finds nothing left to do.
        let _only_one = self.inner.syncing.lock().await;
        loop {
            let before = self.catalog();
            if before.records.unsynced.is_disjoint(&asked_for) {
                return Ok(());
            }
            self.backends().layers.sync().await?;
            self.backends().blobs.sync().await?;
            self.change(|catalog| {
                let ImageRecords {
                    images, unsynced, ..
                } = &mut catalog.records;
                // One that was removed and pulled again meanwhile is not what was synced: once more.
                unsynced.retain(|id| {
                    !before.records.unsynced.contains(id)
                        || images.get(id) != before.records.images.get(id)
                });
                Ok(())
            })
            .await?;
        }
    }

    /// [`Self::make_durable`] without waiting for it.
    pub(super) fn make_durable_soon(&self) {
        if self.catalog().records.unsynced.is_empty() {
            return;
        }
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(error) = service.make_durable().await {
                // Whoever needs the image tries again, and tells.
                tracing::warn!(error = %crate::error::full_message(&error), "cannot write images to the disk");
            }
        });
    }

    pub(super) fn is_durable(&self, image: &Digest) -> bool {
        !self.catalog().records.unsynced.contains(image)
    }
}

impl Catalog {
    /// Forgets images whose content an interruption of the host may have damaged; tells whether there were any.
    pub(super) fn forget_unsynced(&mut self) -> bool {
        let unsynced = std::mem::take(&mut self.records.unsynced);
        for id in &unsynced {
            let names: Vec<&str> = self
                .records
                .references
                .iter()
                .filter(|(_, image)| *image == id)
                .map(|(name, _)| name.as_str())
                .collect();
            tracing::warn!(image = %id, names = names.join(" "),
                "this image was pulled just before the host was interrupted and is forgotten: pull it again");
            self.records.images.remove(id);
            self.records.references.retain(|_, image| image != id);
        }
        !unsynced.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use crate::images::fake::FakeImages;
    use crate::images::records::ImageStore;
    use crate::images::{
        BlobStore, ImageOptions, ImageService, ImageSource, ProgressSink, PullRequest, Reference,
    };
    use serde_json::json;

    async fn pulled(fakes: &FakeImages) -> ImageService {
        fakes
            .registry
            .push_image("a.example/thing", &["one", "two"], json!({}));
        let service = fakes.empty_service();
        let request = PullRequest {
            reference: Reference::parse("a.example/thing:latest").expect("good"),
            platform: None,
            credentials: None,
        };
        service
            .pull(request, &ProgressSink::none())
            .await
            .expect("pulled");
        service
    }

    #[tokio::test]
    async fn a_pulled_image_becomes_durable_and_containers_wait_for_that() {
        let fakes = FakeImages::default();
        let service = pulled(&fakes).await;
        let image = service.resolve("a.example/thing").await.expect("there");
        service.made_durable(&image.id).await.expect("synced");
        let stored = fakes.store.load().await.expect("there").records;
        assert!(stored.unsynced.is_empty() && stored.images.contains_key(&image.id));
        assert!(fakes.layers.syncs() > 0);
        // Another start of the host finds it.
        let again = fakes.service().await;
        assert_eq!(again.count(), 1);
    }

    #[tokio::test]
    async fn what_was_not_durable_is_kept_by_a_new_engine_and_forgotten_by_a_new_boot() {
        let fakes = FakeImages::default();
        let service = pulled(&fakes).await;
        let image = service.resolve("a.example/thing").await.expect("there");
        service.make_durable().await.expect("synced");
        let mut stored = fakes.store.load().await.expect("there").records;
        stored.unsynced.insert(image.id.clone());
        fakes.store.save(&stored).await.expect("stored");

        let options = ImageOptions {
            resumes: true,
            ..ImageOptions::default()
        };
        let same_boot = fakes.open_with(options).await;
        assert_eq!(same_boot.count(), 1);
        same_boot.make_durable().await.expect("synced");
        assert!(same_boot.is_durable(&image.id));

        fakes.store.save(&stored).await.expect("stored");
        let new_boot = fakes.service().await;
        assert_eq!(new_boot.count(), 0);
        assert!(new_boot.resolve("a.example/thing").await.is_err());
        assert!(fakes.blobs.list().await.expect("there").is_empty());
        let stored = fakes.store.load().await.expect("there").records;
        assert!(stored.references.is_empty() && stored.unsynced.is_empty());
    }

    #[tokio::test]
    async fn an_image_that_was_durable_stays_so_when_it_is_pulled_under_another_name() {
        let fakes = FakeImages::default();
        let service = pulled(&fakes).await;
        service.make_durable().await.expect("synced");
        fakes
            .registry
            .push_image("a.example/other", &["one", "two"], json!({}));
        let request = PullRequest {
            reference: Reference::parse("a.example/other:latest").expect("good"),
            platform: None,
            credentials: None,
        };
        service
            .pull(request, &ProgressSink::none())
            .await
            .expect("pulled");
        let stored = fakes.store.load().await.expect("there").records;
        assert!(stored.unsynced.is_empty());
        assert_eq!(stored.images.len(), 1);
    }
}
