//! Why something with images failed.

use super::archive::ArchiveError;
use super::config::ConfigError;
use super::manifest::ManifestError;
use super::policy::Forbidden;
use super::records::ImageStoreError;
use super::registry::RegistryError;
use super::{BlobError, Digest, ImageLookupError, LayerError, Platform, ReferenceError};
use crate::error::{Class, Classify};

/// The error of [`ImageService`](super::ImageService). Texts that scripts read are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Lookup(#[from] ImageLookupError),
    #[error(
        "pull access denied for {name}, repository does not exist or may require 'docker login'"
    )]
    PullDenied {
        name: String,
        #[source]
        source: RegistryError,
    },
    #[error("manifest for {name} not found")]
    ManifestMissing {
        name: String,
        #[source]
        source: RegistryError,
    },
    #[error("repository {name} not found")]
    RepositoryMissing {
        name: String,
        #[source]
        source: RegistryError,
    },
    #[error(transparent)]
    Registry(RegistryError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("cannot use the image configuration {id}")]
    Config {
        id: Digest,
        #[source]
        source: ConfigError,
    },
    #[error("the image has {layers} layers, but its configuration names {diff_ids}")]
    LayerCount { layers: usize, diff_ids: usize },
    #[error("image operating system {os:?} cannot be used on this platform ({platform})")]
    WrongSystem { os: String, platform: Platform },
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error("failed to register layer")]
    Layer(#[from] LayerError),
    /// Another layer of the same image failed; its error is the one that is told.
    #[error("the layer below could not be had")]
    ParentFailed,
    #[error(transparent)]
    Store(#[from] ImageStoreError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Instruction(#[from] super::instructions::InstructionError),
    #[error(transparent)]
    Download(#[from] super::download::DownloadError),
    /// A reference is the image's only one, and a container needs the image.
    #[error(
        "conflict: unable to remove repository reference {reference:?} (must force) - container {container} is using its referenced image {image}"
    )]
    ReferenceInUse {
        reference: String,
        container: String,
        image: String,
    },
    #[error("conflict: unable to delete {image} ({}) - {why}", if *.forcible { "must be forced" } else { "cannot be forced" })]
    DeleteConflict {
        image: String,
        forcible: bool,
        why: String,
    },
    #[error("refusing to create a tag with a digest reference")]
    TagWithDigest,
    /// Something in a loaded archive is not what it should be: whoever sent it is at fault.
    #[error(transparent)]
    BadArchive(Box<ImageError>),
    #[error("An image does not exist locally with the tag: {name}")]
    NothingToPush { name: String },
    #[error("tag does not exist: {name}")]
    NoSuchTag { name: String },
    /// The administrator's rules.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    #[error("{message}")]
    Invalid { message: String },
}

impl Classify for ImageError {
    fn class(&self) -> Class {
        match self {
            ImageError::Reference(error) => error.class(),
            ImageError::Lookup(error) => error.class(),
            ImageError::PullDenied { .. }
            | ImageError::ManifestMissing { .. }
            | ImageError::RepositoryMissing { .. }
            | ImageError::Manifest(ManifestError::NoPlatform { .. }) => Class::NotFound,
            ImageError::Registry(error) => error.class(),
            ImageError::Manifest(_)
            | ImageError::Config { .. }
            | ImageError::LayerCount { .. }
            | ImageError::WrongSystem { .. } => Class::Internal,
            ImageError::Blob(error) => error.class(),
            ImageError::Layer(error) => error.class(),
            ImageError::ParentFailed => Class::Internal,
            ImageError::Store(error) => error.class(),
            ImageError::Archive(error) => error.class(),
            ImageError::Instruction(error) => error.class(),
            ImageError::Download(error) => error.class(),
            ImageError::ReferenceInUse { .. } | ImageError::DeleteConflict { .. } => {
                Class::Conflict
            }
            ImageError::NothingToPush { .. } | ImageError::NoSuchTag { .. } => Class::NotFound,
            ImageError::Forbidden(error) => error.class(),
            ImageError::BadArchive(_) | ImageError::TagWithDigest | ImageError::Invalid { .. } => {
                Class::Invalid
            }
        }
    }
}

impl ImageError {
    /// What an error means where the content came from the client.
    pub(super) fn from_load(error: ImageError) -> ImageError {
        match error {
            ImageError::Manifest(_)
            | ImageError::Config { .. }
            | ImageError::LayerCount { .. }
            | ImageError::WrongSystem { .. }
            | ImageError::Blob(BlobError::Mismatch { .. } | BlobError::TooLarge { .. })
            | ImageError::Layer(LayerError::Invalid { .. }) => {
                ImageError::BadArchive(Box::new(error))
            }
            other => other,
        }
    }

    /// What a registry's refusal means for a pull of `familiar` (Docker's `TranslatePullError`).
    pub(super) fn from_pull(error: RegistryError, name: &super::Reference) -> ImageError {
        match error {
            RegistryError::Denied { .. } => ImageError::PullDenied {
                name: name.repository.familiar(),
                source: error,
            },
            RegistryError::NameUnknown { .. } => ImageError::RepositoryMissing {
                name: name.repository.familiar(),
                source: error,
            },
            RegistryError::ManifestUnknown { .. } => ImageError::ManifestMissing {
                name: name.familiar(),
                source: error,
            },
            other => ImageError::Registry(other),
        }
    }
}
