//! The content of files, from the archive to the disk.

use super::sparse::SparseMap;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufRead, Seek, Write};

/// Which side failed.
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Like `io::copy` of at most `limit` bytes, but without a buffer of its own, and it tells which side failed.
pub(crate) fn copy(from: &mut dyn BufRead, limit: u64, to: &mut File) -> Result<(), CopyError> {
    let mut left = limit;
    while left > 0 {
        let ready = from.fill_buf().map_err(CopyError::Read)?;
        if ready.is_empty() {
            break;
        }
        let count = ready.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&ready[..count]).map_err(CopyError::Write)?;
        from.consume(count);
        left -= count as u64;
    }
    Ok(())
}

/// Everything, with its digest.
pub(crate) fn copy_hashed(
    from: &mut dyn BufRead,
    to: &mut File,
    hash: &mut Sha256,
) -> Result<(), CopyError> {
    loop {
        let ready = from.fill_buf().map_err(CopyError::Read)?;
        if ready.is_empty() {
            return Ok(());
        }
        let count = ready.len();
        hash.update(ready);
        to.write_all(ready).map_err(CopyError::Write)?;
        from.consume(count);
    }
}

/// Writes each part to its place; what is between them stays a hole.
pub(crate) fn copy_parts(
    from: &mut dyn BufRead,
    to: &mut File,
    map: &SparseMap,
) -> Result<(), CopyError> {
    for (offset, length) in &map.parts {
        to.seek(io::SeekFrom::Start(*offset))
            .map_err(CopyError::Write)?;
        copy(from, *length, to)?;
    }
    to.set_len(map.size).map_err(CopyError::Write)
}
