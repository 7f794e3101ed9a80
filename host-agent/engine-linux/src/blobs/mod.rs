//! Blobs and the images' record on disk.
//!
//! ```text
//! content/blobs/sha256/<digest>   appears by one rename, complete and verified
//! content/ingest/<digest>         being written, or given up by who sent it; found at the start, it is the beginning of
//!                                 that blob if the host was not interrupted ([`Leftovers`]), else it goes
//! content/ingest/<digest>.<random> the same, when two write one blob at once
//! images.json                     see `records`
//! ```

mod records;

pub use records::DiskImages;

use crate::archive::decode::{StreamReader, decoded, on_own_thread};
use crate::files::{BLOBS, INGEST};
use async_trait::async_trait;
use bytes::Bytes;
use engine::images::manifest::DOCKER_LAYER_GZIP;
use engine::images::{BlobError, BlobStore, ByteStream, Digest, Packed};
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Bytes of a blob handed on at a time.
const PIECE: usize = 128 * 1024;

/// How long to wait for somebody who writes a blob that nobody else should be writing.
const LAST_PIECES: Duration = Duration::from_secs(2);

/// What becomes of blobs that an engine which was killed had begun to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// What was written is there, byte for byte: the host went on.
    Keep,
    /// After a power cut a file may have its size and not its content.
    Remove,
}

/// Blobs under a data root. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DiskBlobs {
    blobs: PathBuf,
    ingest: PathBuf,
    /// Being written by this process.
    active: Arc<Mutex<HashSet<Digest>>>,
}

impl DiskBlobs {
    /// Uses (and makes) `<data root>/content`, and removes what a crash left half-written.
    pub fn open(data_root: &Path) -> Result<DiskBlobs, BlobError> {
        DiskBlobs::open_with(data_root, Leftovers::Remove)
    }

    /// The same, with a choice about what a crash left.
    pub fn open_with(data_root: &Path, leftovers: Leftovers) -> Result<DiskBlobs, BlobError> {
        let store = DiskBlobs {
            blobs: data_root.join(BLOBS),
            ingest: data_root.join(INGEST),
            active: Arc::default(),
        };
        let open = || {
            let mut maker = DirBuilder::new();
            maker.recursive(true).mode(0o700);
            maker.create(&store.blobs)?;
            maker.create(&store.ingest)?;
            for entry in fs::read_dir(&store.ingest)? {
                let entry = entry?;
                let is_digest = entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| Digest::from_hex(name).is_some());
                if leftovers == Leftovers::Remove || !is_digest {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        };
        open().map_err(|source| failed(format!("open {}", store.blobs.display()), source))?;
        Ok(store)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DiskBlobs) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || work(&this))
            .await
            .map_err(|error| failed("work on a blob".into(), io::Error::other(error)))?
    }

    fn open_now(&self, digest: &Digest) -> Result<File, BlobError> {
        File::open(self.path(digest)).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => BlobError::Missing {
                digest: digest.clone(),
            },
            _ => failed(format!("open blob {digest}"), source),
        })
    }

    fn put_now(&self, digest: Digest, mut content: StreamReader) -> Result<u64, BlobError> {
        let step = || format!("write blob {digest}");
        let claim = Claim::of(&self.active, &digest);
        let name = match claim.is_some() {
            true => digest.hex().to_owned(),
            false => format!(
                "{}.{}",
                digest.hex(),
                engine::id::ContainerId::random().short()
            ),
        };
        let mut temporary =
            Temporary::new(self.ingest.join(name)).map_err(|source| failed(step(), source))?;
        let mut hash = Sha256::new();
        let mut size = 0u64;
        loop {
            let piece = match content.fill_buf() {
                Ok(piece) => piece,
                Err(error) => {
                    if claim.is_some() && error.kind() == io::ErrorKind::ConnectionAborted {
                        temporary.keep();
                    }
                    return Err(BlobError::Source(error));
                }
            };
            if piece.is_empty() {
                break;
            }
            hash.update(piece);
            (&temporary.file)
                .write_all(piece)
                .map_err(|source| failed(step(), source))?;
            let count = piece.len();
            size += count as u64;
            content.consume(count);
        }
        let actual =
            Digest::from_hex(&hex::encode(hash.finalize())).expect("a sha256 has 64 digits");
        if actual != digest {
            return Err(BlobError::Mismatch { digest, actual });
        }
        // Over a blob of the same name is over the same bytes.
        fs::rename(&temporary.path, self.path(&digest)).map_err(|source| failed(step(), source))?;
        Ok(size)
    }
}

/// Writes to a file and remembers what.
struct Hashed<'a> {
    file: &'a File,
    hash: Sha256,
    size: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn digest(hash: Sha256) -> Digest {
    Digest::from_hex(&hex::encode(hash.finalize())).expect("a sha256 has 64 digits")
}

impl DiskBlobs {
    fn pack_now(&self, content: StreamReader) -> Result<Packed, BlobError> {
        let step = || "write a layer".to_owned();
        let temporary =
            Temporary::new(self.ingest.join(engine::id::ContainerId::random().as_str()))
                .map_err(|source| failed(step(), source))?;
        let mut plain = decoded(content).map_err(BlobError::Content)?;
        let mut plain_hash = Sha256::new();
        let output = Hashed {
            file: &temporary.file,
            hash: Sha256::new(),
            size: 0,
        };
        // Somebody waits for this, and the layer may never leave this host: quick rather than small.
        let mut packer = flate2::write::GzEncoder::new(output, flate2::Compression::fast());
        on_own_thread(&mut *plain, |reader| {
            loop {
                let piece = reader.fill_buf().map_err(BlobError::Content)?;
                if piece.is_empty() {
                    return Ok(());
                }
                plain_hash.update(piece);
                packer
                    .write_all(piece)
                    .map_err(|source| failed(step(), source))?;
                let count = piece.len();
                reader.consume(count);
            }
        })?;
        let output = packer.finish().map_err(|source| failed(step(), source))?;
        let packed = Packed {
            diff_id: digest(plain_hash),
            blob: digest(output.hash),
            blob_size: output.size,
            media_type: DOCKER_LAYER_GZIP,
        };
        fs::rename(&temporary.path, self.path(&packed.blob))
            .map_err(|source| failed(step(), source))?;
        Ok(packed)
    }
}

/// A file being written; goes when dropped, unless it was renamed away.
struct Temporary {
    path: PathBuf,
    file: File,
    is_kept: bool,
}

impl Temporary {
    fn new(path: PathBuf) -> io::Result<Temporary> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Temporary {
            path,
            file,
            is_kept: false,
        })
    }

    /// Leaves the file where it is.
    fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename it is not there any more.
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// That this process writes a blob; ends when dropped.
struct Claim {
    active: Arc<Mutex<HashSet<Digest>>>,
    digest: Digest,
}

impl Claim {
    /// `None` where somebody has it.
    fn of(active: &Arc<Mutex<HashSet<Digest>>>, digest: &Digest) -> Option<Claim> {
        lock(active).insert(digest.clone()).then(|| Claim {
            active: active.clone(),
            digest: digest.clone(),
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.active).remove(&self.digest);
    }
}

fn lock(active: &Mutex<HashSet<Digest>>) -> MutexGuard<'_, HashSet<Digest>> {
    active
        .lock()
        .expect("no code panics while it holds this lock")
}

fn failed(step: String, source: io::Error) -> BlobError {
    BlobError::Failed { step, source }
}

/// A file as a stream, read ahead by two pieces on a blocking thread.
pub(crate) fn stream_file(file: File) -> ByteStream {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(2);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let outcome = match rustix::io::read(&file, spare_capacity(&mut piece)) {
                Ok(0) => return,
                Ok(_) => Ok(Bytes::from(piece)),
                Err(Errno::INTR) => continue,
                Err(error) => Err(error.into()),
            };
            let is_error = outcome.is_err();
            if sender.blocking_send(outcome).is_err() || is_error {
                return;
            }
        }
    });
    Box::pin(futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context)
    }))
}

#[async_trait]
impl BlobStore for DiskBlobs {
    async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let digest = digest.clone();
        self.blocking(move |this| match fs::metadata(this.path(&digest)) {
            Ok(facts) => Ok(Some(facts.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed(format!("look for blob {digest}"), source)),
        })
        .await
    }

    async fn put(&self, digest: &Digest, content: ByteStream) -> Result<u64, BlobError> {
        let digest = digest.clone();
        let content = StreamReader::new(content);
        self.blocking(move |this| this.put_now(digest, content))
            .await
    }

    async fn adopt(&self, digest: &Digest, file: &Path) -> Result<(), BlobError> {
        let (digest, file) = (digest.clone(), file.to_owned());
        self.blocking(move |this| match fs::hard_link(&file, this.path(&digest)) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed(format!("keep blob {digest}"), source))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn take_partial(&self, digest: &Digest) -> Result<Option<(u64, ByteStream)>, BlobError> {
        let digest = digest.clone();
        // Who wrote it a moment ago may have been given up, and have the last pieces in hand.
        let begin = Instant::now();
        while lock(&self.active).contains(&digest) && begin.elapsed() < LAST_PIECES {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let found = self
            .blocking(move |this| {
                // Held until it is opened and has no name any more.
                let Some(_claim) = Claim::of(&this.active, &digest) else {
                    return Ok(None);
                };
                let path = this.ingest.join(digest.hex());
                let take = || -> io::Result<(u64, File)> {
                    let file = File::open(&path)?;
                    let size = file.metadata()?.len();
                    fs::remove_file(&path)?;
                    Ok((size, file))
                };
                match take() {
                    Ok((size, file)) => Ok((size > 0).then_some((size, file))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(failed(format!("look for a part of blob {digest}"), source)),
                }
            })
            .await?;
        Ok(found.map(|(size, file)| (size, stream_file(file))))
    }

    async fn remove_partials(&self) -> Result<(), BlobError> {
        self.blocking(|this| {
            let remove = || {
                for entry in fs::read_dir(&this.ingest)? {
                    fs::remove_file(entry?.path())?;
                }
                Ok(())
            };
            remove().map_err(|source| failed(format!("empty {}", this.ingest.display()), source))
        })
        .await
    }

    async fn pack(&self, content: ByteStream) -> Result<Packed, BlobError> {
        let content = StreamReader::new(content);
        self.blocking(move |this| this.pack_now(content)).await
    }

    async fn read(&self, digest: &Digest, limit: u64) -> Result<Bytes, BlobError> {
        let digest = digest.clone();
        self.blocking(move |this| {
            let file = this.open_now(&digest)?;
            let mut bytes = Vec::new();
            file.take(limit + 1)
                .read_to_end(&mut bytes)
                .map_err(|source| failed(format!("read blob {digest}"), source))?;
            if bytes.len() as u64 > limit {
                return Err(BlobError::TooLarge {
                    size: bytes.len() as u64,
                    digest,
                    limit,
                });
            }
            Ok(bytes.into())
        })
        .await
    }

    async fn open(&self, digest: &Digest) -> Result<ByteStream, BlobError> {
        let digest = digest.clone();
        let file = self.blocking(move |this| this.open_now(&digest)).await?;
        Ok(stream_file(file))
    }

    async fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        let digest = digest.clone();
        self.blocking(move |this| match fs::remove_file(this.path(&digest)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(failed(format!("remove blob {digest}"), source))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn list(&self) -> Result<Vec<Digest>, BlobError> {
        self.blocking(move |this| {
            let list = || {
                let mut found = Vec::new();
                for entry in fs::read_dir(&this.blobs)? {
                    found.extend(entry?.file_name().to_str().and_then(Digest::from_hex));
                }
                Ok(found)
            };
            list().map_err(|source| failed(format!("read {}", this.blobs.display()), source))
        })
        .await
    }

    async fn sync(&self) -> Result<(), BlobError> {
        self.blocking(|this| {
            crate::layers::sync_file_system(&this.blobs)
                .map_err(|source| failed("write blobs to the disk".into(), source))
        })
        .await
    }
}

#[cfg(test)]
mod tests;
