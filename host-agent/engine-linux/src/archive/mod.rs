//! Archives: reading strangers' tars, and the streams they come in.
//!
//! `docker load` sends image archives in any order and of any size, so an archive's files are kept aside on the disk
//! (`content/loads/<random>/<number>`): names from the archive are keys of a map, never paths.

pub(crate) mod copy;
pub mod decode;
pub mod sparse;
pub mod tar;
pub mod tree;
pub mod write;
mod zstd_reader;

use self::tar::{TarLimits, TarReader};
use crate::blobs::stream_file;
use crate::files::LOADS;
use crate::layers::{normalise, remove_path};
use ::tar::EntryType;
use async_trait::async_trait;
use bytes::Bytes;
use decode::{StreamReader, decoded};
use engine::images::archive::{ArchiveError, ArchiveReader, StagedArchive};
use engine::images::{ByteStream, Digest};
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bounds on image archives. Their layers have bounds of their own when they are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveLimits {
    pub tar: TarLimits,
    /// Bytes of all files together, unpacked.
    pub bytes: u64,
}

impl Default for ArchiveLimits {
    fn default() -> Self {
        ArchiveLimits {
            // Images have some hundred files; 100,000 are many images.
            tar: TarLimits {
                entries: 100_000,
                ..TarLimits::default()
            },
            bytes: 256 << 30,
        }
    }
}

/// Bytes of an archive handled at a time.
const PIECE: usize = 128 * 1024;

/// Takes archives apart under a data root.
#[derive(Debug, Clone)]
pub struct DiskArchives {
    folder: PathBuf,
    limits: ArchiveLimits,
}

impl DiskArchives {
    /// Uses (and makes) `<data root>/content/loads`, and removes what a crash left there.
    pub fn open(data_root: &Path) -> Result<DiskArchives, ArchiveError> {
        DiskArchives::open_with(data_root, ArchiveLimits::default())
    }

    /// The same with other bounds.
    pub fn open_with(
        data_root: &Path,
        limits: ArchiveLimits,
    ) -> Result<DiskArchives, ArchiveError> {
        let folder = data_root.join(LOADS);
        remove_path(&folder)
            .and_then(|()| {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&folder)
            })
            .map_err(|source| failed(format!("make {}", folder.display()), source))?;
        Ok(DiskArchives { folder, limits })
    }

    fn stage_now(&self, input: StreamReader) -> Result<Staged, ArchiveError> {
        let folder = self.folder.join(engine::id::ContainerId::random().short());
        DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|source| failed("make a folder for the archive".into(), source))?;
        // From here on the folder goes with `staged`.
        let mut staged = Staged {
            folder,
            entries: HashMap::new(),
        };
        let mut limits = self.limits;
        if let Ok(facts) = rustix::fs::statvfs(&self.folder) {
            limits.bytes = limits
                .bytes
                .min(facts.f_bavail.saturating_mul(facts.f_frsize));
        }
        let plain = BufReader::with_capacity(PIECE, decoded(input).map_err(refused)?);
        let mut reader = TarReader::new(plain, limits.tar);
        let mut total = 0u64;
        while let Some(entry) = reader.next_entry().map_err(refused)? {
            let outside = || ArchiveError::Invalid {
                why: format!("{:?} leads out of the archive", entry.display()),
            };
            let path = normalise(&entry.path).ok_or_else(outside)?;
            let path = String::from_utf8(path).map_err(|_| ArchiveError::Invalid {
                why: format!("the name {:?} is not UTF-8", entry.display()),
            })?;
            match entry.kind {
                EntryType::Regular | EntryType::Continuous => {
                    total = total.saturating_add(entry.size);
                    if total > limits.bytes {
                        return Err(ArchiveError::Invalid {
                            why: format!("its files have more than {} bytes", limits.bytes),
                        });
                    }
                    if entry.sparse.is_some() {
                        return Err(ArchiveError::Invalid {
                            why: format!("{:?} is a file with holes", entry.display()),
                        });
                    }
                    let file = staged.keep(&mut reader)?;
                    staged.entries.insert(path, file);
                }
                EntryType::Symlink | EntryType::Link => {
                    // A symbolic link is relative to its folder, a hard link to the archive.
                    let mut target = match (entry.kind, path.rsplit_once('/')) {
                        (EntryType::Symlink, Some((folder, _))) => format!("{folder}/"),
                        _ => String::new(),
                    }
                    .into_bytes();
                    target.extend_from_slice(&entry.link);
                    let target = normalise(&target).ok_or_else(outside)?;
                    let target = String::from_utf8_lossy(&target).into_owned();
                    staged.entries.insert(path, Entry::Link(target));
                }
                // Folders say nothing; devices and the like have no place in an image archive and are not looked at.
                _ => {}
            }
        }
        // To the end, or the sender would see a broken connection.
        io::copy(&mut reader.into_inner(), &mut io::sink()).map_err(refused)?;
        Ok(staged)
    }
}

fn failed(step: String, source: io::Error) -> ArchiveError {
    ArchiveError::Failed { step, source }
}

/// An archive that cannot be read is the sender's fault.
fn refused(error: io::Error) -> ArchiveError {
    ArchiveError::Source(error)
}

#[async_trait]
impl ArchiveReader for DiskArchives {
    async fn stage(&self, content: ByteStream) -> Result<Box<dyn StagedArchive>, ArchiveError> {
        let this = self.clone();
        let input = StreamReader::new(content);
        let staged = tokio::task::spawn_blocking(move || this.stage_now(input))
            .await
            .map_err(|error| failed("read an archive".into(), io::Error::other(error)))??;
        Ok(Box::new(staged))
    }
}

enum Entry {
    File {
        name: String,
        digest: Digest,
        size: u64,
    },
    Link(String),
}

struct Staged {
    folder: PathBuf,
    entries: HashMap<String, Entry>,
}

impl Staged {
    fn keep(&self, content: &mut dyn BufRead) -> Result<Entry, ArchiveError> {
        let name = self.entries.len().to_string();
        let write = |source| failed("keep a file of the archive".into(), source);
        // The count grows with every new path; a path that comes twice reuses no number because it is inserted later.
        let mut serial = 0;
        let (name, mut file) = loop {
            let name = match serial {
                0 => name.clone(),
                serial => format!("{name}.{serial}"),
            };
            match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(self.folder.join(&name))
            {
                Ok(file) => break (name, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => serial += 1,
                Err(error) => return Err(write(error)),
            }
        };
        let mut hash = Sha256::new();
        let mut size = 0u64;
        loop {
            let piece = content.fill_buf().map_err(refused)?;
            if piece.is_empty() {
                break;
            }
            hash.update(piece);
            file.write_all(piece).map_err(write)?;
            let count = piece.len();
            size += count as u64;
            content.consume(count);
        }
        Ok(Entry::File {
            name,
            digest: Digest::from_hex(&hex::encode(hash.finalize()))
                .expect("a sha256 has 64 digits"),
            size,
        })
    }

    /// The file a path means; links are followed a few times, so that a circle ends.
    fn resolve(&self, path: &str) -> Option<(PathBuf, &Digest, u64)> {
        let path = normalise(path.as_bytes())?;
        let mut path = String::from_utf8(path).ok()?;
        for _ in 0..8 {
            match self.entries.get(&path)? {
                Entry::File { name, digest, size } => {
                    return Some((self.folder.join(name), digest, *size));
                }
                Entry::Link(target) => path.clone_from(target),
            }
        }
        None
    }

    fn missing(path: &str) -> ArchiveError {
        ArchiveError::Missing {
            path: path.to_owned(),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = remove_path(&self.folder) {
            tracing::warn!(path = %self.folder.display(), %error, "cannot remove a loaded archive's files");
        }
    }
}

#[async_trait]
impl StagedArchive for Staged {
    fn find(&self, path: &str) -> Option<(Digest, u64)> {
        let (_, digest, size) = self.resolve(path)?;
        Some((digest.clone(), size))
    }

    async fn read(&self, path: &str, limit: u64) -> Result<Bytes, ArchiveError> {
        let (file, _, size) = self.resolve(path).ok_or_else(|| Staged::missing(path))?;
        if size > limit {
            return Err(ArchiveError::TooLarge {
                path: path.to_owned(),
                size,
                limit,
            });
        }
        tokio::fs::read(file)
            .await
            .map(Bytes::from)
            .map_err(|source| failed(format!("read {path}"), source))
    }

    fn file(&self, path: &str) -> Option<PathBuf> {
        self.resolve(path).map(|(file, _, _)| file)
    }

    async fn open(&self, path: &str) -> Result<ByteStream, ArchiveError> {
        let (file, _, _) = self.resolve(path).ok_or_else(|| Staged::missing(path))?;
        let file = File::open(file).map_err(|source| failed(format!("open {path}"), source))?;
        Ok(stream_file(file))
    }
}
