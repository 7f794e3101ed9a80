//! `images.json`: which images there are and what they are called.

use crate::files::{self, IMAGES_RECORD};
use async_trait::async_trait;
use engine::images::records::{ImageRecords, ImageStore, ImageStoreError, LoadedRecords};
use engine::record::{self, RecordError};
use std::io;
use std::path::{Path, PathBuf};

/// The format we write.
const VERSION: u32 = 1;
/// Added to the name of a record that cannot be read.
const BROKEN: &str = ".broken";

/// The record under a data root.
#[derive(Debug, Clone)]
pub struct DiskImages {
    path: PathBuf,
}

impl DiskImages {
    /// Uses `<data root>/images.json`.
    pub fn new(data_root: &Path) -> DiskImages {
        DiskImages {
            path: data_root.join(IMAGES_RECORD),
        }
    }

    fn set_aside(&self) -> PathBuf {
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(BROKEN);
        aside.into()
    }

    fn failed(&self, step: &'static str, source: io::Error) -> ImageStoreError {
        ImageStoreError::Failed {
            step,
            path: self.path.display().to_string(),
            source,
        }
    }

    fn load_now(&self) -> Result<LoadedRecords, ImageStoreError> {
        let aside = self.set_aside();
        // As long as a broken record lies there, what it named may be wanted back.
        let mut complete = !aside.exists();
        let records = match std::fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => ImageRecords::default(),
            Err(error) => return Err(self.failed("read", error)),
            Ok(bytes) => match record::decode(VERSION, &bytes) {
                Ok(records) => records,
                Err(RecordError::Newer { found, .. }) => {
                    return Err(ImageStoreError::Newer {
                        path: self.path.display().to_string(),
                        version: found,
                    });
                }
                Err(error @ RecordError::Damaged(_)) => {
                    std::fs::rename(&self.path, &aside)
                        .map_err(|error| self.failed("set aside", error))?;
                    tracing::error!(
                        error = %engine::error::full_message(&error), kept_as = %aside.display(),
                        "the record of images was unreadable and is set aside; images must be pulled again, and no unused layer is removed while that file is there"
                    );
                    complete = false;
                    ImageRecords::default()
                }
            },
        };
        Ok(LoadedRecords { records, complete })
    }
}

#[async_trait]
impl ImageStore for DiskImages {
    async fn load(&self) -> Result<LoadedRecords, ImageStoreError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || this.load_now())
            .await
            .map_err(|error| self.failed("read", io::Error::other(error)))?
    }

    async fn save(&self, records: &ImageRecords) -> Result<(), ImageStoreError> {
        let bytes = record::encode(VERSION, records);
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || files::write_durably(&path, &bytes, 0o600))
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|error| self.failed("write", error))
    }
}
