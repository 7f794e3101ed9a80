//! Copies of disks: their holes stay holes, and where the file system can (Btrfs, XFS, APFS) nothing is copied at all
//! until one of the two changes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

const BLOCK: usize = 1 << 20;

/// Copies `from` to `to`, which must not exist, and makes it durable.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let (source, target) = (File::open(from)?, options.open(to)?);
    let copied = copy_files(&source, &target);
    if copied.is_err() {
        // Half a disk is worth nothing.
        let _ = std::fs::remove_file(to);
    }
    copied
}

fn copy_files(source: &File, target: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    if rustix::fs::ioctl_ficlone(target, source).is_ok() {
        return target.sync_all();
    }
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let mut at = 0;
    while let Some((start, end)) = next_data(source, at, length)? {
        copy_range(source, target, start, end)?;
        at = end;
    }
    target.sync_all()
}

/// The next part of the file that is no hole.
#[cfg(unix)]
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    use rustix::io::Errno;
    if at >= length {
        return Ok(None);
    }
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => {
            let end = seek(file, SeekFrom::Hole(start)).map_err(io::Error::from)?;
            Ok(Some((start, end.min(length))))
        }
        Err(Errno::NXIO) => Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL) => Ok(Some((at, length))),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(unix))]
fn next_data(_file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    Ok((at < length).then_some((at, length)))
}

fn copy_range(mut source: &File, mut target: &File, start: u64, end: u64) -> io::Result<()> {
    source.seek(SeekFrom::Start(start))?;
    target.seek(SeekFrom::Start(start))?;
    let mut left = end - start;
    let mut buffer = vec![0; BLOCK];
    while left > 0 {
        let wanted = left.min(BLOCK as u64) as usize;
        let count = source.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // Zeros that were written are as good as a hole.
        match buffer[..count].iter().all(|byte| *byte == 0) {
            true => drop(target.seek(SeekFrom::Current(count as i64))?),
            false => target.write_all(&buffer[..count])?,
        }
        left -= count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_equal_and_as_small() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("a"), folder.path().join("b"));
        let mut file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.seek(SeekFrom::Start(5 << 20)).unwrap();
        file.write_all(&[7; 300_000]).unwrap();
        file.seek(SeekFrom::Start((64 << 20) - 3)).unwrap();
        file.write_all(b"end").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read(&from).unwrap(), std::fs::read(&to).unwrap());
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            assert!(to.metadata().unwrap().blocks() * 512 < 4 << 20);
        }
        assert!(copy(&from, &to).is_err(), "nothing is overwritten");
    }
}
