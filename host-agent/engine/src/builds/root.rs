//! The files of a stage or image, to look at while a build needs them.

use crate::id::ContainerId;
use crate::images::{BorrowedRoot, Digest, LayerError, Layers};
use std::sync::Arc;

/// Unmounts and removes what the look needed.
struct Lender {
    root: Option<BorrowedRoot>,
    layers: Arc<dyn Layers>,
    id: ContainerId,
    runtime: tokio::runtime::Handle,
}

impl Drop for Lender {
    fn drop(&mut self) {
        let (layers, id, root) = (self.layers.clone(), self.id.clone(), self.root.take());
        self.runtime.spawn(async move {
            drop(root);
            if let Err(error) = layers.remove(&id).await {
                tracing::warn!(
                    error = crate::error::full_message(&error),
                    "files of a build are still mounted"
                );
            }
        });
    }
}

/// Mounts layers with a writable layer of nobody's on top, which goes with the answer.
pub(super) async fn mount(
    layers: &Arc<dyn Layers>,
    top: Option<&Digest>,
) -> Result<Arc<BorrowedRoot>, LayerError> {
    let mut lender = Lender {
        root: None,
        layers: layers.clone(),
        id: ContainerId::random(),
        runtime: tokio::runtime::Handle::current(),
    };
    layers.prepare(&lender.id, top).await?;
    let root = layers.borrow(&lender.id, top).await?;
    let path = root.path.clone();
    lender.root = Some(root);
    Ok(Arc::new(BorrowedRoot::new(path, lender)))
}
