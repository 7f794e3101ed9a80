//! `images.json`: which images there are and what they are called.

use crate::files::{self, IMAGES_RECORD};
use async_trait::async_trait;
use engine::images::records::{ImageRecords, ImageStore, ImageStoreError, LoadedRecords};
use engine::record::{self, RecordError};
use std::io;
use std::path::{Path, PathBuf};

/// The format we write.
const VERSION: u32 = 1;
/// Added to the name of a record that cannot be read, and a number where such a file is there already.
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

    /// The name of the broken record of that number.
    fn aside(&self, number: u32) -> PathBuf {
        let mut aside = self.path.as_os_str().to_owned();
        aside.push(BROKEN);
        if number > 0 {
            aside.push(format!(".{number}"));
        }
        aside.into()
    }

    /// Whether a broken record lies beside this one.
    fn has_broken(&self) -> io::Result<bool> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(false);
        };
        let broken = [name.as_encoded_bytes(), BROKEN.as_bytes()].concat();
        let entries = match std::fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            entries => entries?,
        };
        for entry in entries {
            if entry?.file_name().as_encoded_bytes().starts_with(&broken) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn failed(&self, step: &'static str, source: io::Error) -> ImageStoreError {
        ImageStoreError::Failed {
            step,
            path: self.path.display().to_string(),
            source,
        }
    }

    fn load_now(&self) -> Result<LoadedRecords, ImageStoreError> {
        // As long as a broken record lies there, what it named may be wanted back.
        let is_broken = self.has_broken();
        let mut complete = !is_broken.map_err(|error| self.failed("look beside", error))?;
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
                    let mut numbers = (0..).map(|number| self.aside(number));
                    let aside = numbers
                        .find(|aside| !aside.exists())
                        .expect("there are more numbers than files");
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
