//! Where networks are remembered that somebody has made: `networks/<id>.json`.

use super::Network;
use crate::id::NetworkId;
use async_trait::async_trait;

/// Newest version of the envelope that this build writes and reads.
pub const VERSION: u32 = 1;

/// Keeps the records of networks.
#[async_trait]
pub trait NetworkStore: Send + Sync + 'static {
    /// Writes a record; when this returns, it survives a crash of the host.
    async fn save(&self, network: &Network) -> Result<(), NetworkStoreError>;

    /// Removes a record. Not being there is no error.
    async fn remove(&self, id: &NetworkId) -> Result<(), NetworkStoreError>;

    /// Every readable record. A broken one is set aside and one of a newer version left alone, each with a log line.
    async fn load(&self) -> Result<Vec<Network>, NetworkStoreError>;
}

/// What could not be stored, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct NetworkStoreError {
    pub step: String,
    #[source]
    pub source: std::io::Error,
}

impl From<NetworkStoreError> for super::NetworkError {
    fn from(error: NetworkStoreError) -> Self {
        super::NetworkError::Failed {
            step: format!("cannot {}", error.step),
            source: error.source.into(),
        }
    }
}

/// What every implementation must keep to.
pub mod contract {
    use super::NetworkStore;
    use crate::networks::fake;

    /// Runs the checks on an empty store.
    pub async fn check(store: &dyn NetworkStore) {
        assert!(store.load().await.expect("an empty store loads").is_empty());
        let first = fake::network("first");
        let mut second = fake::network("second");
        store.save(&first).await.expect("save");
        store.save(&second).await.expect("save");
        second.labels.insert("a".into(), "1".into());
        store.save(&second).await.expect("a second save replaces");
        let mut loaded = store.load().await.expect("load");
        loaded.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(loaded, [first.clone(), second.clone()]);
        store.remove(&first.id).await.expect("remove");
        store
            .remove(&first.id)
            .await
            .expect("removing what is gone is no error");
        assert_eq!(store.load().await.expect("load"), [second.clone()]);
        store.remove(&second.id).await.expect("remove");
    }
}
