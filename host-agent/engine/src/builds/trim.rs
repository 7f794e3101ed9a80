//! Keeps the cache within its limits also while nobody writes into it: what steps have made, and the cache mounts.

use super::cache::{self, CacheLimits};
use super::error::BuildError;
use super::service::BuildService;
use crate::error::full_message;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two looks at what has become too old.
const PAUSE: Duration = Duration::from_secs(60 * 60);

impl BuildService {
    /// Trims now and every hour, as long as the service is there.
    pub fn keep_trimmed(&self) {
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            while let Some(inner) = inner.upgrade() {
                BuildService { inner }.trim_or_tell().await;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }

    /// Trims after a build that does not wait for it.
    pub(super) fn trim_later(&self) {
        let service = self.clone();
        tokio::spawn(async move { service.trim_or_tell().await });
    }

    async fn trim_or_tell(&self) {
        if let Err(error) = self.trim().await {
            tracing::warn!(
                error = full_message(&error),
                "the build cache is not kept within its limits"
            );
        }
    }

    async fn trim(&self) -> Result<(), BuildError> {
        let limits = &self.inner.options.limits;
        if limits.bytes == CacheLimits::UNLIMITED.bytes && limits.age == CacheLimits::UNLIMITED.age
        {
            // Nobody wants to know how large they are.
            return Ok(());
        }
        let _one = self.inner.trimming.lock().await;
        let now = self.now();
        let mounts = self.inner.files.caches().await?;
        let mut records = self.inner.images.catalog().records.clone();
        cache::count_uses(&mut records, self.uses().clone());
        let beyond = cache::mounts_beyond(&records, &mounts, limits, now);
        let mut left = 0;
        for mount in &mounts {
            // A step that wants it meanwhile waits, and makes it anew.
            if beyond.contains(&mount.name)
                && let Some(_held) = self.inner.mounts.try_hold(&mount.id)
            {
                self.inner.files.remove_cache(&mount.name).await?;
            } else {
                left += mount.size;
            }
        }
        self.inner.in_mounts.store(left, Ordering::Relaxed);
        // Where nothing has to go, nothing is written.
        if !cache::enforce(&mut records, limits, now, left) {
            return Ok(());
        }
        let uses = std::mem::take(&mut *self.uses());
        let images = &self.inner.images;
        images
            .change(|catalog| {
                cache::count_uses(&mut catalog.records, uses);
                cache::enforce(&mut catalog.records, limits, now, left);
                Ok(())
            })
            .await?;
        images.collect_later();
        images.collect_if_due().await;
        Ok(())
    }
}
