//! Files on their way into images: the context, and what a `COPY` takes of it or of another image.

use super::ignore::Ignore;
use crate::images::{BorrowedRoot, ByteStream};
use async_trait::async_trait;
use std::sync::Arc;

/// Reads contexts and images for a build. Implemented by `engine_linux::builds::DiskBuildFiles`. Whatever links a context
/// or an image has, they lead to its own files.
#[async_trait]
pub trait BuildFiles: Send + Sync + 'static {
    /// A new empty folder for a context, removed when the answer is dropped (or at the engine's next start).
    async fn new_folder(&self) -> Result<BorrowedRoot, BuildFilesError>;

    /// A small file; `None` where there is none. Links are followed.
    async fn read(
        &self,
        tree: Arc<BorrowedRoot>,
        path: &str,
        largest: u64,
    ) -> Result<Option<Vec<u8>>, BuildFilesError>;

    /// Finds what a copy takes and reads all of it for its digest.
    async fn select(
        &self,
        tree: Arc<BorrowedRoot>,
        what: CopyFrom,
    ) -> Result<Selection, BuildFilesError>;

    /// What was selected as a tar, named as it arrives at its destination.
    async fn archive(
        &self,
        tree: Arc<BorrowedRoot>,
        selection: Selection,
        form: ArchiveForm,
    ) -> Result<ByteStream, BuildFilesError>;

    /// Makes a folder and those above it, 0755, where they are missing. `owner` is as for `--chown`. Answers whether it
    /// was there.
    async fn make_folder(
        &self,
        tree: Arc<BorrowedRoot>,
        path: &str,
        owner: Option<&str>,
    ) -> Result<bool, BuildFilesError>;

    /// Whether there is a folder at a path, links followed.
    async fn is_folder(&self, tree: Arc<BorrowedRoot>, path: &str)
    -> Result<bool, BuildFilesError>;
}

/// What is to be copied.
#[derive(Debug, Clone, Default)]
pub struct CopyFrom {
    /// Patterns relative to the tree, as written.
    pub sources: Vec<String>,
    /// `.dockerignore`.
    pub ignore: Arc<Ignore>,
    /// `--exclude`.
    pub exclude: Arc<Ignore>,
    /// `--parents`: names keep their folders.
    pub parents: bool,
    /// Owners are part of the digest.
    pub with_owners: bool,
}

/// What a copy takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Of names, kinds, modes and contents; not of times. 64 hex digits.
    pub digest: String,
    pub sources: Vec<SelectedSource>,
    pub from: SelectedFrom,
}

/// The filters that were in force, for reading it again.
#[derive(Debug, Clone, Default)]
pub struct SelectedFrom(pub CopyFrom);

impl PartialEq for SelectedFrom {
    fn eq(&self, other: &Self) -> bool {
        self.0.sources == other.0.sources
    }
}
impl Eq for SelectedFrom {}

/// One path that a pattern found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedSource {
    /// Relative to the tree, links in its folders resolved; empty is the tree itself.
    pub path: String,
    /// What it is called at the destination. Of a folder it is the prefix of what is in it: empty, or with a slash.
    pub name: String,
    pub is_folder: bool,
}

/// How a selection is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveForm {
    /// In front of every name; empty or with a slash at the end.
    pub prefix: String,
    /// The name of the only file, instead of its own.
    pub rename: Option<String>,
    /// `--chmod`: of files and folders.
    pub mode: Option<u32>,
    /// Owners stay; otherwise all belongs to root.
    pub keep_owners: bool,
}

/// Why files of a build could not be had. Texts are Docker's where scripts read them.
#[derive(Debug, thiserror::Error)]
pub enum BuildFilesError {
    #[error(
        "file not found in build context or excluded by .dockerignore: stat {path}: file does not exist"
    )]
    NotFound { path: String },
    #[error("no source files were specified")]
    NoMatch,
    #[error("{0}")]
    Invalid(String),
    #[error("cannot {step}")]
    Failed {
        step: String,
        #[source]
        source: std::io::Error,
    },
}
