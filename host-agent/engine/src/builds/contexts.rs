//! Where the files of a build come from: tars, repositories, web servers, folders of this host.

use super::dockerfile;
use super::error::BuildError;
use super::files::ContextForm;
use super::request::Context;
use super::service::{BuildService, locked};
use super::sources::GitAddress;
use crate::containers::files::{FileView, WriteOptions};
use crate::images::{BorrowedRoot, ByteStream};
use bytes::Bytes;
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a context's files, at most.
const CONTEXT_MAX: u64 = 128 << 30;
/// Contexts that wait for their build, at most, and how long they do.
const OFFERED_MAX: usize = 64;
const OFFER_PATIENCE: Duration = Duration::from_secs(600);

impl BuildService {
    /// What a tar (plain, gzip, xz or zstd) brings, unpacked into a folder of its own.
    pub async fn context_from_tar(&self, content: ByteStream) -> Result<Context, BuildError> {
        self.context_of_tar(content, ContextForm::default()).await
    }

    /// The same for a client that sends only what has changed.
    pub async fn context_from_tar_keeping(
        &self,
        content: ByteStream,
    ) -> Result<Context, BuildError> {
        let form = ContextForm {
            keep_contents: true,
        };
        self.context_of_tar(content, form).await
    }

    async fn context_of_tar(
        &self,
        content: ByteStream,
        form: ContextForm,
    ) -> Result<Context, BuildError> {
        let folder = self.inner.files.unpack_context(content, form).await?;
        Ok(Context {
            files: Arc::new(folder),
        })
    }

    /// Those of the digests (64 hex digits) whose contents a client has to send.
    pub async fn missing_contents(&self, digests: Vec<String>) -> Result<Vec<String>, BuildError> {
        Ok(self.inner.files.missing_contents(digests).await?)
    }

    /// Unpacks an archive into a folder of the build's.
    pub(super) async fn unpack(
        &self,
        folder: &Arc<BorrowedRoot>,
        content: ByteStream,
    ) -> Result<(), BuildError> {
        let view = FileView {
            root: BorrowedRoot::new(folder.path.clone(), folder.clone()),
            mounts: Vec::new(),
            read_only_root: false,
        };
        let files = &self.inner.containers.deps().container_files;
        let options = WriteOptions {
            largest: Some(self.inner.files.room().await?.min(CONTEXT_MAX)),
            ..WriteOptions::default()
        };
        files
            .write(view, "/", options, content)
            .await
            .map_err(BuildError::Context)
    }

    /// Keeps a context for a build that is to come.
    pub async fn offer_context(
        &self,
        token: String,
        content: ByteStream,
    ) -> Result<(), BuildError> {
        if locked(&self.inner.offered).len() >= OFFERED_MAX {
            return Err(BuildError::Invalid(
                "too many build contexts wait for their build".into(),
            ));
        }
        let context = self.context_from_tar(content).await?;
        locked(&self.inner.offered).insert(token.clone(), context);
        let service = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(OFFER_PATIENCE).await;
            drop(service.take_offered(&token));
        });
        Ok(())
    }

    /// The context that was offered under a token.
    pub fn take_offered(&self, token: &str) -> Option<Context> {
        locked(&self.inner.offered).remove(token)
    }

    /// The files of a git repository or an archive.
    pub async fn context_from_address(&self, address: &str) -> Result<Context, BuildError> {
        if let Some(git) = GitAddress::parse(address) {
            git.check()?;
            return self.context_from_git(&git).await;
        }
        match self.context_from_url(address).await? {
            (Some(context), _) => Ok(context),
            (None, _) => Err(BuildError::Invalid(format!(
                "{address} is neither a git repository nor an archive"
            ))),
        }
    }

    /// A tar, or a Dockerfile's text where the bytes are no archive.
    pub async fn context_or_dockerfile(
        &self,
        mut content: ByteStream,
    ) -> Result<(Option<Context>, Option<Vec<u8>>), BuildError> {
        let mut start = Vec::new();
        while start.len() < 512 {
            match content.next().await {
                Some(piece) => start.extend_from_slice(&piece.map_err(BuildError::Read)?),
                None => break,
            }
        }
        if is_archive(&start) {
            let start = futures_util::stream::once(async move { Ok(Bytes::from(start)) });
            let context = self
                .context_from_tar(Box::pin(start.chain(content)))
                .await?;
            return Ok((Some(context), None));
        }
        while let Some(piece) = content.next().await {
            start.extend_from_slice(&piece.map_err(BuildError::Read)?);
            if start.len() > dockerfile::TEXT_MAX {
                return Err(dockerfile::DockerfileError::TooLarge.into());
            }
        }
        Ok((None, Some(start)))
    }

    /// The files of a repository.
    pub async fn context_from_git(&self, address: &GitAddress) -> Result<Context, BuildError> {
        let git = &self.inner.git;
        let commit = git.resolve(address).await?;
        address.check_commit(&commit)?;
        let files = git.fetch(address, &commit, address.keep_git_folder);
        let files = files.await?;
        Ok(Context {
            files: Arc::new(files),
        })
    }

    /// A tar or a Dockerfile from a web server.
    pub async fn context_from_url(
        &self,
        url: &str,
    ) -> Result<(Option<Context>, Option<Vec<u8>>), BuildError> {
        let download = self.inner.images.backends().downloads.fetch(url).await;
        let download = download.map_err(crate::images::ImageError::from)?;
        self.context_or_dockerfile(download.content).await
    }
}

/// By the first bytes: compressed, or a tar.
fn is_archive(start: &[u8]) -> bool {
    let compressed: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        &[0xfd, b'7', b'z', b'X', b'Z', 0],
        &[0x28, 0xb5, 0x2f, 0xfd],
        b"BZh",
    ];
    compressed.iter().any(|magic| start.starts_with(magic))
        || start.get(257..262) == Some(b"ustar")
        || start.contains(&0)
}
