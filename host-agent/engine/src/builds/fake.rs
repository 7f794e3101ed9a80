//! For tests of what stands on the build service and does not build.

use super::files::{
    BuildFiles, BuildFilesError, CacheFolder, ContextForm, CopyFrom, FillPart, KeptContents, Links,
    Missing, Place, Selection,
};
use super::ignore::Ignore;
use super::sources::{GitAddress, GitFetcher, SourceError};
use crate::images::{BorrowedRoot, ByteStream};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// There are no files, and none can be made.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFiles;

fn none<T>() -> Result<T, BuildFilesError> {
    Err(BuildFilesError::Invalid("there are no files here".into()))
}

#[async_trait]
impl BuildFiles for NoFiles {
    async fn new_folder(&self) -> Result<BorrowedRoot, BuildFilesError> {
        none()
    }

    async fn unpack_context(
        &self,
        _: ByteStream,
        _: ContextForm,
    ) -> Result<BorrowedRoot, BuildFilesError> {
        none()
    }

    async fn missing_contents(&self, digests: Vec<String>) -> Result<Vec<String>, BuildFilesError> {
        Ok(digests)
    }

    async fn kept_contents(&self) -> Result<Option<KeptContents>, BuildFilesError> {
        Ok(None)
    }

    async fn forget_contents(&self) -> Result<u64, BuildFilesError> {
        Ok(0)
    }

    async fn free_bytes(&self) -> Result<u64, BuildFilesError> {
        Ok(0)
    }

    async fn room(&self) -> Result<u64, BuildFilesError> {
        Ok(0)
    }

    async fn read(
        &self,
        _: Arc<BorrowedRoot>,
        _: &str,
        _: u64,
    ) -> Result<Option<Vec<u8>>, BuildFilesError> {
        Ok(None)
    }

    async fn leave_out(&self, _: Arc<BorrowedRoot>, _: Ignore) -> Result<(), BuildFilesError> {
        Ok(())
    }

    async fn select(
        &self,
        _: Arc<BorrowedRoot>,
        _: CopyFrom,
    ) -> Result<Selection, BuildFilesError> {
        Err(BuildFilesError::NoMatch)
    }

    async fn fill(
        &self,
        _: &Path,
        _: Option<Arc<BorrowedRoot>>,
        _: Vec<FillPart>,
    ) -> Result<(), BuildFilesError> {
        none()
    }

    async fn place(
        &self,
        _: Arc<BorrowedRoot>,
        _: &str,
        _: Links,
        _: Option<&str>,
    ) -> Result<Place, BuildFilesError> {
        none()
    }

    async fn write_files(
        &self,
        _: Arc<BorrowedRoot>,
        _: Vec<(String, Vec<u8>)>,
    ) -> Result<(), BuildFilesError> {
        none()
    }

    async fn write_stream(
        &self,
        _: Arc<BorrowedRoot>,
        _: &str,
        _: ByteStream,
        _: u64,
    ) -> Result<String, BuildFilesError> {
        none()
    }

    async fn set_facts(
        &self,
        _: Arc<BorrowedRoot>,
        _: &str,
        _: Option<i64>,
        _: u32,
    ) -> Result<(), BuildFilesError> {
        none()
    }

    async fn open_archive(
        &self,
        _: Arc<BorrowedRoot>,
        _: &str,
    ) -> Result<Option<ByteStream>, BuildFilesError> {
        Ok(None)
    }

    async fn secret(
        &self,
        _: Vec<u8>,
        _: u32,
        _: (u32, u32),
    ) -> Result<BorrowedRoot, BuildFilesError> {
        none()
    }

    async fn missing(
        &self,
        _: Arc<BorrowedRoot>,
        _: Vec<String>,
    ) -> Result<Vec<Missing>, BuildFilesError> {
        Ok(Vec::new())
    }

    async fn remove_missing(
        &self,
        _: Arc<BorrowedRoot>,
        _: Vec<Missing>,
    ) -> Result<(), BuildFilesError> {
        Ok(())
    }

    async fn clamp_times(&self, _: PathBuf, _: i64) -> Result<(), BuildFilesError> {
        Ok(())
    }

    async fn cache(
        &self,
        _: &str,
        _: Option<(Arc<BorrowedRoot>, String)>,
        _: u32,
        _: (u32, u32),
    ) -> Result<PathBuf, BuildFilesError> {
        none()
    }

    async fn caches(&self) -> Result<Vec<CacheFolder>, BuildFilesError> {
        Ok(Vec::new())
    }

    async fn remove_cache(&self, _: &str) -> Result<(), BuildFilesError> {
        Ok(())
    }
}

/// A host without git.
#[async_trait]
impl GitFetcher for NoFiles {
    async fn resolve(&self, address: &GitAddress) -> Result<String, SourceError> {
        Err(SourceError::NoGit {
            address: address.remote.clone(),
        })
    }

    async fn fetch(
        &self,
        address: &GitAddress,
        _: &str,
        _: bool,
    ) -> Result<BorrowedRoot, SourceError> {
        Err(SourceError::NoGit {
            address: address.remote.clone(),
        })
    }
}
