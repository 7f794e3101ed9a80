//! The files of one log, from the oldest rotated one to the one being written.

use crate::shim::log_writer::rotated;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

const BLOCK: usize = 64 << 10;

/// A line longer than this is not a line: an entry holds at most 16 KiB of text and its attributes.
const LONGEST: usize = 4 << 20;

/// Takes a line without its newline; false ends the reading.
type Sink<'a> = dyn FnMut(&[u8]) -> bool + 'a;

/// A place in the file being written.
pub struct Cursor {
    path: PathBuf,
    file: Option<File>,
    position: u64,
    /// A line whose end is not written yet.
    rest: Vec<u8>,
}

/// Sends what is written now: all of it, or the last `tail` lines. The cursor goes on behind it.
pub fn read_written(path: &Path, tail: Option<usize>, sink: &mut Sink) -> io::Result<Cursor> {
    let mut cursor = Cursor {
        path: path.to_owned(),
        file: open(path)?,
        position: 0,
        rest: Vec::new(),
    };
    let mut older = Vec::new();
    let mut wanted = tail;
    if let (Some(count), Some(file)) = (wanted, &cursor.file) {
        let (start, found) = last_lines(file, count)?;
        cursor.position = start;
        wanted = Some(count - found);
    }
    // Rotated files, newest first, as far as lines are wanted.
    for number in 1.. {
        let plain = rotated(path, number, false);
        let zipped = rotated(path, number, true);
        let part = if let Some(file) = open(&plain)? {
            if let Some(newest) = &cursor.file
                && newest.metadata()?.ino() == file.metadata()?.ino()
            {
                // Rotated since it was opened: it is the cursor's.
                continue;
            }
            Part::Plain(file)
        } else if zipped.exists() {
            Part::Zipped(zipped)
        } else {
            break;
        };
        let skip = match wanted {
            None => 0,
            Some(0) => break,
            Some(count) => {
                let all = part.count_lines()?;
                let found = all.min(count);
                wanted = Some(count - found);
                all - found
            }
        };
        older.push((part, skip));
    }
    for (part, skip) in older.into_iter().rev() {
        if !part.send(skip, sink)? {
            return Ok(cursor);
        }
    }
    cursor.read_on(sink)?;
    Ok(cursor)
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

enum Part {
    Plain(File),
    Zipped(PathBuf),
}

impl Part {
    fn reader(&self) -> io::Result<Box<dyn BufRead + '_>> {
        Ok(match self {
            Part::Plain(file) => {
                let mut file = file;
                file.seek(SeekFrom::Start(0))?;
                Box::new(BufReader::with_capacity(BLOCK, file))
            }
            Part::Zipped(path) => Box::new(BufReader::with_capacity(
                BLOCK,
                MultiGzDecoder::new(BufReader::new(File::open(path)?)),
            )),
        })
    }

    fn count_lines(&self) -> io::Result<usize> {
        let mut reader = self.reader()?;
        let mut count = 0;
        loop {
            let block = reader.fill_buf()?;
            if block.is_empty() {
                return Ok(count);
            }
            count += memchr::memchr_iter(b'\n', block).count();
            let length = block.len();
            reader.consume(length);
        }
    }

    fn send(&self, mut skip: usize, sink: &mut Sink) -> io::Result<bool> {
        let mut reader = self.reader()?;
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader
                .by_ref()
                .take(LONGEST as u64)
                .read_until(b'\n', &mut line)?
                == 0
            {
                return Ok(true);
            }
            if skip > 0 {
                skip -= 1;
                continue;
            }
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            if !sink(&line) {
                return Ok(false);
            }
        }
    }
}

/// Where the last `count` whole lines begin, and how many there are.
fn last_lines(file: &File, count: usize) -> io::Result<(u64, usize)> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; BLOCK];
    let mut found = 0;
    let mut last_newline = None;
    while end > 0 {
        let length = BLOCK.min(end as usize);
        let start = end - length as u64;
        file.read_exact_at(&mut block[..length], start)?;
        for at in memchr::memrchr_iter(b'\n', &block[..length]) {
            let position = start + at as u64;
            if last_newline.is_none() {
                last_newline = Some(position);
                if count == 0 {
                    return Ok((position + 1, 0));
                }
                continue;
            }
            // Everything behind this newline up to the last one is `found + 1` lines.
            found += 1;
            if found == count {
                return Ok((position + 1, count));
            }
        }
        end = start;
    }
    Ok((0, found + usize::from(last_newline.is_some())))
}

impl Cursor {
    /// Sends what has been written since, also across rotation.
    pub fn advance(&mut self, sink: &mut Sink) -> io::Result<()> {
        while self.read_on(sink)? {
            if !self.next_file()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads the open file to its present end; false where the sink wants no more.
    fn read_on(&mut self, sink: &mut Sink) -> io::Result<bool> {
        let Some(file) = &self.file else {
            return Ok(true);
        };
        if file.metadata()?.len() < self.position {
            // Emptied: a log of one file starts again when it is full.
            self.position = 0;
            self.rest.clear();
        }
        let mut block = vec![0; BLOCK];
        loop {
            let count = file.read_at(&mut block, self.position)?;
            if count == 0 {
                return Ok(true);
            }
            self.position += count as u64;
            let mut data = &block[..count];
            while let Some(at) = memchr::memchr(b'\n', data) {
                let more = if self.rest.is_empty() {
                    sink(&data[..at])
                } else {
                    self.rest.extend_from_slice(&data[..at]);
                    let more = sink(&self.rest);
                    self.rest.clear();
                    more
                };
                if !more {
                    return Ok(false);
                }
                data = &data[at + 1..];
            }
            self.rest.extend_from_slice(data);
            if self.rest.len() > LONGEST {
                self.rest.clear();
            }
        }
    }

    /// Where the open file has been rotated away: opens the one that follows it. False where there is none.
    fn next_file(&mut self) -> io::Result<bool> {
        let Some(newest) = open(&self.path)? else {
            return Ok(false);
        };
        if let Some(file) = &self.file {
            let here = file.metadata()?.ino();
            if newest.metadata()?.ino() == here {
                return Ok(false);
            }
            // Rotated more than once since: the next is not the newest.
            for number in 1.. {
                let Some(older) = open(&rotated(&self.path, number, false))? else {
                    break;
                };
                if older.metadata()?.ino() == here {
                    if number > 1
                        && let Some(next) = open(&rotated(&self.path, number - 1, false))?
                    {
                        self.switch(next);
                        return Ok(true);
                    }
                    break;
                }
            }
        }
        self.switch(newest);
        Ok(true)
    }

    fn switch(&mut self, file: File) {
        self.file = Some(file);
        self.position = 0;
        self.rest.clear();
    }
}
