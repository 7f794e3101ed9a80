//! Fakes of images and of what containers' files stand on.

use super::locked;
use crate::containers::spec::MountedImage;
use crate::id::ContainerId;
use crate::images::{
    BorrowedRoot, ByteStream, Change, ContainerDiskUsage, Digest, Image, ImageConfig,
    ImageLookupError, ImageSource, LayerError, LayerFolders, Layers,
};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

/// Id of the only image there is, `busybox`.
pub fn image_id() -> Digest {
    Digest::from_hex(&"ab".repeat(32)).expect("64 hex digits")
}

/// The image `data`.
pub fn data_image() -> MountedImage {
    let digest = |digits: &str| Digest::from_hex(&digits.repeat(32)).expect("64 hex digits");
    MountedImage {
        id: digest("da"),
        top_layer: Some(digest("1a")),
    }
}

/// `busybox`, `foreign`, and `data` with a layer.
pub struct FakeImages;

#[async_trait]
impl ImageSource for FakeImages {
    async fn resolve(&self, name: &str) -> Result<Image, ImageLookupError> {
        let (id, data) = (image_id(), data_image());
        // Of a processor nobody tests on.
        let is_foreign = name == "foreign";
        let is_data = ["data", data.id.as_str()].contains(&name);
        if !is_foreign && !is_data && !["busybox", "busybox:latest", id.as_str()].contains(&name) {
            return Err(ImageLookupError::NotFound { name: name.into() });
        }
        let config = ImageConfig {
            cmd: Some(vec!["echo".into(), "hello".into()]),
            ..ImageConfig::default()
        };
        let (id, top_layer) = match is_data {
            true => (data.id, data.top_layer),
            false => (id, None),
        };
        Ok(Image {
            id,
            config,
            top_layer,
            os: "linux".into(),
            architecture: match is_foreign {
                true => "ppc64".into(),
                false => crate::images::Platform::host().architecture,
            },
            created: None,
        })
    }
}

/// Remembers what is mounted.
#[derive(Default)]
pub struct FakeLayers {
    pub prepared: Mutex<BTreeSet<ContainerId>>,
    pub mounted: Mutex<BTreeSet<ContainerId>>,
    /// The next removal fails.
    pub fail_removal: Mutex<bool>,
    /// Held: removals wait.
    pub busy: tokio::sync::Mutex<()>,
    /// What every container is said to have changed.
    pub changes: Mutex<Vec<Change>>,
    /// Layers of images that containers mount.
    pub kept: Mutex<BTreeMap<ContainerId, Vec<Digest>>>,
}

#[async_trait]
impl Layers for FakeLayers {
    async fn prepare(&self, container: &ContainerId, _: Option<&Digest>) -> Result<(), LayerError> {
        locked(&self.prepared).insert(container.clone());
        Ok(())
    }

    async fn keep(
        &self,
        container: &ContainerId,
        top_layers: Vec<Digest>,
    ) -> Result<(), LayerError> {
        locked(&self.kept).insert(container.clone(), top_layers);
        Ok(())
    }

    fn stacked(&self, top_layer: Option<&Digest>) -> Result<LayerFolders, LayerError> {
        let layer = top_layer.map(|top| top.hex().to_owned());
        Ok(LayerFolders {
            folder: "/fake/layers".into(),
            names: layer.into_iter().chain(["empty".to_owned()]).collect(),
        })
    }

    async fn mount(
        &self,
        container: &ContainerId,
        _: Option<&Digest>,
    ) -> Result<PathBuf, LayerError> {
        locked(&self.mounted).insert(container.clone());
        Ok(PathBuf::from("/fake/rootfs"))
    }

    async fn borrow(
        &self,
        container: &ContainerId,
        _: Option<&Digest>,
    ) -> Result<BorrowedRoot, LayerError> {
        let path = PathBuf::from("/fake/rootfs").join(container.as_str());
        Ok(BorrowedRoot::new(path, ()))
    }

    async fn changes(
        &self,
        _: &ContainerId,
        _: Option<&Digest>,
    ) -> Result<Vec<Change>, LayerError> {
        Ok(locked(&self.changes).clone())
    }

    async fn diff(&self, _: &ContainerId, _: Option<&Digest>) -> Result<ByteStream, LayerError> {
        Ok(crate::images::blobs::stream_of(vec![0; 1024]))
    }

    async fn unmount(&self, container: &ContainerId) -> Result<(), LayerError> {
        locked(&self.mounted).remove(container);
        Ok(())
    }

    async fn remove(&self, container: &ContainerId) -> Result<(), LayerError> {
        let _disk = self.busy.lock().await;
        if std::mem::take(&mut *locked(&self.fail_removal)) {
            return Err(LayerError::Failed {
                step: "remove the layer".into(),
                source: "busy".into(),
            });
        }
        locked(&self.mounted).remove(container);
        locked(&self.prepared).remove(container);
        locked(&self.kept).remove(container);
        Ok(())
    }

    async fn usage(
        &self,
        _: &ContainerId,
        _: Option<&Digest>,
    ) -> Result<ContainerDiskUsage, LayerError> {
        Ok(ContainerDiskUsage {
            writable: 10,
            total: 110,
        })
    }

    fn folders(&self, container: &ContainerId, _: Option<&Digest>) -> BTreeMap<String, String> {
        ["LowerDir", "MergedDir", "UpperDir", "WorkDir"]
            .map(|name| (name.into(), format!("/fake/{container}/{name}")))
            .into()
    }
}
