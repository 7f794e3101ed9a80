//! `manifest.json`: what a guest image is made of and how it is booted. Written by `image-builder`, read by drivers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the manifest in an image's folder.
pub const MANIFEST_FILE: &str = "manifest.json";
/// The version of [`Manifest`] that this build writes.
pub const MANIFEST_VERSION: u32 = 1;

/// One image: a folder with this manifest and the files it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    /// Name of the recipe.
    pub name: String,
    /// `x86_64` or `aarch64`.
    pub architecture: String,
    pub kernel_version: String,
    /// The kernel as an ELF file with a PVH entry point, uncompressed: a file name in the image's folder.
    pub kernel: String,
    /// The initial file system (cpio): a file name in the image's folder.
    pub initrd: String,
    /// Kernel command line that fits this image; a driver appends its own words.
    pub command_line: String,
    /// File name -> size and digest, for every file of the image but the manifest.
    pub files: BTreeMap<String, FileEntry>,
    /// The packages whose files are inside.
    pub packages: Vec<PackageEntry>,
    /// Version of the host agent inside.
    pub agent_version: String,
    /// Bytes of all files together, compressed as they would be published.
    pub download_bytes: u64,
}

/// Size in bytes and lower-case hex sha256 of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub bytes: u64,
    pub sha256: String,
}

/// A Debian package that went into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackageEntry {
    pub name: String,
    pub version: String,
    /// sha256 of the .deb.
    pub sha256: String,
    /// Short licence names read from the package's copyright file.
    pub licences: Vec<String>,
}
