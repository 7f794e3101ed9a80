//! Files on their way into images: the context, and what a `COPY` takes of it or of another image.

use super::ignore::Ignore;
use super::mode::FileMode;
use crate::images::{BorrowedRoot, ByteStream};
use async_trait::async_trait;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Reads contexts and images for a build. Implemented by `engine_linux::builds::DiskBuildFiles`. Whatever links a context
/// or an image has, they lead to its own files.
#[async_trait]
pub trait BuildFiles: Send + Sync + 'static {
    /// A new empty folder for a context, removed when the answer is dropped (or at the engine's next start).
    async fn new_folder(&self) -> Result<BorrowedRoot, BuildFilesError>;

    /// A context that comes as a tar: plain, gzip, xz or zstd.
    async fn unpack_context(
        &self,
        content: ByteStream,
        form: ContextForm,
    ) -> Result<BorrowedRoot, BuildFilesError>;

    /// Those of the digests (64 hex digits) whose contents are not kept of earlier contexts.
    async fn missing_contents(&self, digests: Vec<String>) -> Result<Vec<String>, BuildFilesError>;

    /// What is kept of earlier contexts; `None` where that is nothing.
    async fn kept_contents(&self) -> Result<Option<KeptContents>, BuildFilesError>;

    /// Keeps none of them any longer; answers how many bytes they had.
    async fn forget_contents(&self) -> Result<u64, BuildFilesError>;

    /// Bytes that are free on the disk of contexts and of the cache.
    async fn free_bytes(&self) -> Result<u64, BuildFilesError>;

    /// Bytes that a context, an archive or a download may take there: what is free, less a reserve for everything else.
    async fn room(&self) -> Result<u64, BuildFilesError>;

    /// A small file; `None` where there is none. Links are followed.
    async fn read(
        &self,
        tree: Arc<BorrowedRoot>,
        path: &str,
        largest: u64,
    ) -> Result<Option<Vec<u8>>, BuildFilesError>;

    /// Takes away what the rules of a `.dockerignore` leave out of a context.
    async fn leave_out(
        &self,
        tree: Arc<BorrowedRoot>,
        rules: Ignore,
    ) -> Result<(), BuildFilesError>;

    /// Finds what a copy takes and reads all of it for its digest.
    async fn select(
        &self,
        tree: Arc<BorrowedRoot>,
        what: CopyFrom,
    ) -> Result<Selection, BuildFilesError>;

    /// Puts what was selected into an empty folder, named as it arrives at its destination. With `below`, the folder is to
    /// be a layer on top of these files.
    async fn fill(
        &self,
        folder: &Path,
        below: Option<Arc<BorrowedRoot>>,
        parts: Vec<FillPart>,
    ) -> Result<(), BuildFilesError>;

    /// Where a copy's destination leads in an image's files, and what is missing on the way. `path` is absolute; `owner` is
    /// as for `--chown`, looked up in the image.
    async fn place(
        &self,
        root: Arc<BorrowedRoot>,
        path: &str,
        links: Links,
        owner: Option<&str>,
    ) -> Result<Place, BuildFilesError>;

    /// Writes small files (0644) into a folder of [`BuildFiles::new_folder`].
    async fn write_files(
        &self,
        folder: Arc<BorrowedRoot>,
        files: Vec<(String, Vec<u8>)>,
    ) -> Result<(), BuildFilesError>;

    /// Writes one file as a stream brings it, at most `largest` bytes; returns the sha256 of its content in hex.
    async fn write_stream(
        &self,
        folder: Arc<BorrowedRoot>,
        name: &str,
        content: ByteStream,
        largest: u64,
    ) -> Result<String, BuildFilesError>;

    /// Sets time (seconds since 1970) and permissions of a file in such a folder.
    async fn set_facts(
        &self,
        folder: Arc<BorrowedRoot>,
        name: &str,
        modified: Option<i64>,
        mode: u32,
    ) -> Result<(), BuildFilesError>;

    /// The content of a file if it is a tar, plain or compressed.
    async fn open_archive(
        &self,
        tree: Arc<BorrowedRoot>,
        path: &str,
    ) -> Result<Option<ByteStream>, BuildFilesError>;

    /// A file with this content that only root of this host sees, in memory where the host has such a place; it goes when
    /// the answer is dropped.
    async fn secret(
        &self,
        content: Vec<u8>,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<BorrowedRoot, BuildFilesError>;

    /// Those of the paths (absolute) that an image's files do not have: places for mounts, which the start of a container
    /// makes.
    async fn missing(
        &self,
        root: Arc<BorrowedRoot>,
        paths: Vec<String>,
    ) -> Result<Vec<Missing>, BuildFilesError>;

    /// Removes what has come there, as far as it is empty, and gives the folders above their times back.
    async fn remove_missing(
        &self,
        root: Arc<BorrowedRoot>,
        places: Vec<Missing>,
    ) -> Result<(), BuildFilesError>;

    /// Makes everything in a folder of the host at most so new (seconds since 1970).
    async fn clamp_times(&self, folder: PathBuf, latest: i64) -> Result<(), BuildFilesError>;

    /// The folder of a cache mount, made if it is not there: filled from `content` (a tree and a folder in it) or empty with
    /// this mode and owner.
    async fn cache(
        &self,
        id: &str,
        content: Option<(Arc<BorrowedRoot>, String)>,
        mode: u32,
        owner: (u32, u32),
    ) -> Result<PathBuf, BuildFilesError>;

    /// Every cache mount.
    async fn caches(&self) -> Result<Vec<CacheFolder>, BuildFilesError>;

    /// Removes a cache mount by the name that [`BuildFiles::caches`] gives it.
    async fn remove_cache(&self, name: &str) -> Result<(), BuildFilesError>;
}

/// How a context is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ContextForm {
    /// Contents of its files are kept for later ones, and files may come as digests of what is kept.
    pub keep_contents: bool,
}

/// What is to be copied.
#[derive(Debug, Clone, Default)]
pub struct CopyFrom {
    /// Patterns relative to the tree, as written.
    pub sources: Vec<String>,
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
    /// Nothing in it is left out or special, so that its folders may be moved as they are.
    pub is_whole: bool,
}

/// What becomes of links on the way to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    Followed,
    /// Whatever is there and is no folder makes room for one (`COPY --link`).
    Replaced,
}

/// Where a destination leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Relative to the root, without links; empty is the root.
    pub path: String,
    pub is_there: bool,
    /// There is a folder.
    pub is_folder: bool,
    /// Folders above `path` that are not there, the uppermost first.
    pub missing: Vec<String>,
    /// User and group of the owner that was asked for.
    pub owner: Option<(u32, u32)>,
}

/// A path that was not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Relative to the root, without links.
    pub path: String,
    /// The first part of it that was not there.
    pub first: String,
    /// When the folder of that was changed: seconds and nanoseconds.
    pub folder_time: (i64, i64),
}

/// Contents of contexts' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptContents {
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub created: i64,
    pub last_used: i64,
}

/// A cache mount on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFolder {
    /// Hex digits.
    pub name: String,
    /// As Dockerfiles name it.
    pub id: String,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub created: i64,
    pub last_used: i64,
}

/// A selection on its way into a folder.
pub struct FillPart {
    pub tree: Arc<BorrowedRoot>,
    pub selection: Selection,
    pub form: FillForm,
    /// Nobody else reads the tree any more: its files may be moved.
    pub take: bool,
}

/// How a selection arrives.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FillForm {
    /// Folders that come first, 0755 and of the owner, as new as `new_folders_time`.
    pub new_folders: Vec<String>,
    /// Seconds since 1970.
    pub new_folders_time: i64,
    /// `--chown`: everything belongs to it.
    pub owner: Option<(u32, u32)>,
    /// No time is later, seconds since 1970.
    pub latest: Option<i64>,
    /// In front of every name; empty or with a slash at the end.
    pub prefix: String,
    /// The name of the only file, instead of its own.
    pub rename: Option<String>,
    /// `--chmod`: of files and folders.
    pub mode: Option<FileMode>,
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
    /// It was kept when the client asked. It has to be sent now.
    #[error("the content of {path:?} in the build context is not kept any more")]
    ContentGone { path: String },
    #[error("cannot {step}")]
    Failed {
        step: String,
        #[source]
        source: std::io::Error,
    },
}
