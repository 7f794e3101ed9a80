//! Layers that are made here: a folder is filled, or taken from a container, and becomes a layer as it is. Only its digest
//! has to be found out, by writing its tar to nowhere. The tar is made again when somebody wants it (`docker save`, a push),
//! so that what [`crate::archive::write`] writes must stay as it is, byte for byte.

use super::changes::write_layer;
use super::{LAYER_DIFF, OverlayLayers, Staged, TemporaryFolder, Unpacked, failed, open_path};
use crate::archive::write::PieceWriter;
use async_trait::async_trait;
use engine::id::ContainerId;
use engine::images::{
    ByteStream, Digest, DraftLayer, LayerError, LayerInfo, LayerSpec, SealedLayer, StagedLayer,
};
use sha2::{Digest as _, Sha256};
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Bytes of a tar in which nothing is: the two blocks of its end.
const EMPTY_TAR_SIZE: u64 = 1024;

struct Draft {
    layers: OverlayLayers,
    aside: TemporaryFolder,
    files: PathBuf,
}

struct Sealed {
    draft: Draft,
    diff_id: Digest,
    tar_size: u64,
    /// Bytes of its files.
    content: u64,
}

/// Counts and hashes what is written to it.
#[derive(Default)]
struct Measure {
    hash: Sha256,
    size: u64,
}

impl Measure {
    fn digest(self) -> Digest {
        Digest::from_hex(&hex::encode(self.hash.finalize())).expect("a sha256 has 64 digits")
    }
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OverlayLayers {
    pub(super) async fn new_draft(&self) -> Result<Box<dyn DraftLayer>, LayerError> {
        let draft = self
            .blocking(
                || "make a folder for a layer".into(),
                |this| {
                    let aside = TemporaryFolder::new(&this.inner.folder)?;
                    let files = aside.path.join(LAYER_DIFF);
                    DirBuilder::new().mode(0o755).create(&files)?;
                    let layers = this.clone();
                    Ok(Draft {
                        layers,
                        aside,
                        files,
                    })
                },
            )
            .await?;
        Ok(Box::new(draft))
    }

    pub(super) async fn draft_of_container(
        &self,
        container: &ContainerId,
        top_layer: Option<&Digest>,
    ) -> Result<Box<dyn DraftLayer>, LayerError> {
        let stack = self.stack(container, top_layer)?;
        let id = container.clone();
        let draft = self
            .blocking(
                || format!("take the files of container {}", container.short()),
                move |this| {
                    let aside = TemporaryFolder::new(&this.inner.folder)?;
                    let files = aside.path.join(LAYER_DIFF);
                    this.take_upper(&id, &stack, &files)?;
                    let layers = this.clone();
                    Ok(Draft {
                        layers,
                        aside,
                        files,
                    })
                },
            )
            .await?;
        Ok(Box::new(draft))
    }

    /// The tar of a layer.
    pub(super) fn archive_of(&self, chain_id: &Digest) -> Result<ByteStream, LayerError> {
        let Some(layer) = self.state().layers.get(chain_id).cloned() else {
            return Err(LayerError::Missing {
                chain_id: chain_id.clone(),
            });
        };
        let files = self.files_of(chain_id);
        let (writer, stream) = PieceWriter::new();
        tokio::task::spawn_blocking(move || {
            let mut output = Watched {
                writer,
                measure: Measure::default(),
            };
            let outcome = open_path(&files)
                .and_then(|root| write_layer(&root, &mut output))
                .and_then(|_| {
                    let actual = output.measure.digest();
                    match actual == layer.diff_id {
                        true => Ok(()),
                        false => Err(io::Error::other(format!(
                            "the files of layer {} are not what they were: they have the digest {actual}",
                            layer.diff_id
                        ))),
                    }
                });
            output.writer.finish(outcome);
        });
        Ok(stream)
    }
}

/// Writes on, and remembers what.
struct Watched {
    writer: PieceWriter,
    measure: Measure,
}

impl Write for Watched {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.measure.write(&bytes[..count])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[async_trait]
impl DraftLayer for Draft {
    fn folder(&self) -> &Path {
        &self.files
    }

    async fn seal(self: Box<Self>) -> Result<Box<dyn SealedLayer>, LayerError> {
        let seal = move || {
            let mut measure = Measure::default();
            let content = write_layer(&open_path(&self.files)?, &mut measure)?;
            Ok::<_, io::Error>(Sealed {
                draft: *self,
                tar_size: measure.size,
                diff_id: measure.digest(),
                content,
            })
        };
        let sealed = tokio::task::spawn_blocking(seal)
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| failed("read the files of a new layer", error))?;
        Ok(Box::new(sealed))
    }
}

#[async_trait]
impl SealedLayer for Sealed {
    fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    fn tar_size(&self) -> u64 {
        self.tar_size
    }

    fn is_empty(&self) -> bool {
        self.tar_size == EMPTY_TAR_SIZE
    }

    async fn commit(
        self: Box<Self>,
        chain_id: Digest,
        parent: Option<Digest>,
    ) -> Result<LayerInfo, LayerError> {
        let staged = Staged {
            layers: self.draft.layers,
            spec: LayerSpec {
                chain_id,
                diff_id: self.diff_id,
                parent,
            },
            folder: self.draft.aside,
            unpacked: Unpacked {
                size: self.content,
                ..Unpacked::default()
            },
        };
        Box::new(staged).commit().await
    }
}
