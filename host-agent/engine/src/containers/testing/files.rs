//! Files of containers that are only archives: what was put into a folder is what comes out of it.

use super::locked;
use crate::containers::files::{ContainerFiles, FileError, FileView, PathStat, WriteOptions};
use crate::images::{BorrowedRoot, ByteStream};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::sync::Mutex;
use time::OffsetDateTime;

/// Every container has the folders `/` and `/tmp`, a file `/file`, and a link `/link` to it.
#[derive(Default)]
pub struct FakeContainerFiles {
    /// Folder -> the archive that was put there last, and how.
    pub written: Mutex<BTreeMap<String, (Bytes, WriteOptions)>>,
}

fn find(path: &str) -> Result<PathStat, FileError> {
    let (mode, target) = match path {
        "/" | "/tmp" => (0o40755, ""),
        "/file" => (0o100_644, ""),
        "/link" => (0o120_777, "/file"),
        _ => return Err(FileError::NotFound),
    };
    Ok(PathStat {
        name: path.rsplit('/').next().unwrap_or_default().to_owned(),
        size: 5,
        mode,
        modified: OffsetDateTime::UNIX_EPOCH,
        link_target: target.to_owned(),
    })
}

#[async_trait]
impl ContainerFiles for FakeContainerFiles {
    async fn stat(&self, _: FileView, path: &str) -> Result<PathStat, FileError> {
        find(path)
    }

    async fn read(&self, _: FileView, path: &str) -> Result<(PathStat, ByteStream), FileError> {
        let stat = find(path)?;
        let written = locked(&self.written).get(path).cloned();
        let (content, _) = written.unwrap_or_default();
        Ok((stat, crate::images::blobs::stream_of(content)))
    }

    async fn write(
        &self,
        view: FileView,
        path: &str,
        options: WriteOptions,
        mut content: ByteStream,
    ) -> Result<(), FileError> {
        if find(path)?.mode & 0o170_000 != 0o40_000 {
            return Err(FileError::ExtractionPoint);
        }
        if let Some(refusal) = view.refusal(path) {
            return Err(refusal);
        }
        let mut bytes = Vec::new();
        while let Some(piece) = content.next().await {
            bytes.extend_from_slice(&piece.map_err(FileError::Archive)?);
        }
        locked(&self.written).insert(path.to_owned(), (bytes.into(), options));
        Ok(())
    }

    async fn export(&self, _: BorrowedRoot) -> Result<ByteStream, FileError> {
        Ok(crate::images::blobs::stream_of("the whole root"))
    }
}
