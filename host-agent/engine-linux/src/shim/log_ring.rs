//! `mode=non-blocking`: a container never waits for its log. Lines wait in a buffer for a process that writes them; while
//! the disk is slow the buffer fills, and from then on new lines are dropped, as in Docker (moby daemon/logger/ring.go: what
//! is too much for the buffer is the newest message, and an empty buffer takes any).
//!
//! ```text
//! container -> shim: lines -> queue (max-buffer-size) -> pipe -> writer process: LogWriter -> file
//! ```
//!
//! A process and not a thread: the shim forks, and must have one thread for that. The writer ends when the pipe does, also
//! when the shim is killed: what it has been handed is written.

use super::log_writer::{LONGEST_PART, LogWriter};
use super::{fork_child, process};
use engine::runtime::{LogPlan, StreamKind};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use time::OffsetDateTime;

/// A message in the pipe: the stream, the length and the time in nanoseconds before the text.
const HEADER: usize = 1 + 4 + 8;
/// Bytes handed over in one write.
const PORTION: usize = 32 << 10;
/// How long the end of a container waits for its last lines to be written (moby's `loggerCloseTimeout`).
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(2);

/// The buffer, and the process that empties it.
pub(super) struct LogRing {
    /// Bytes of text that may wait.
    limit: u64,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: u64,
    /// Left the queue, and not all of it in the pipe yet.
    portion: Vec<u8>,
    written: usize,
    /// The begun line of each stream.
    begun: [Vec<u8>; 2],
    /// `None`: the writer is gone.
    pipe: Option<OwnedFd>,
    writer: Option<Pid>,
    dropped: u64,
}

impl LogRing {
    /// Starts the writer of a log that can be opened.
    pub(super) fn start(plan: &LogPlan, limit: u64) -> io::Result<LogRing> {
        let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        process::not_blocking(ours.as_raw_fd())?;
        let writer = fork_child(None, |_| {
            keep_only(&theirs)?;
            write_all(io::stdin(), plan)
        })?;
        Ok(LogRing {
            pipe: Some(ours),
            writer: Some(writer),
            ..LogRing::empty(limit)
        })
    }

    fn empty(limit: u64) -> LogRing {
        LogRing {
            limit,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            portion: Vec::new(),
            written: 0,
            begun: [Vec::new(), Vec::new()],
            pipe: None,
            writer: None,
            dropped: 0,
        }
    }

    /// Takes what one read of a stream gave.
    pub(super) fn take(&mut self, stream: StreamKind, mut data: &[u8]) {
        let at = OffsetDateTime::now_utc();
        while !data.is_empty() {
            let begun = &mut self.begun[stream as usize];
            let room = LONGEST_PART - begun.len();
            let window = &data[..data.len().min(room)];
            let (taken, whole) = match memchr::memchr(b'\n', window) {
                Some(position) => (position + 1, true),
                None => (window.len(), window.len() == room),
            };
            begun.extend_from_slice(&data[..taken]);
            data = &data[taken..];
            if whole {
                let line = std::mem::take(begun);
                self.add(stream, &line, at);
            }
        }
        self.hand_over();
    }

    fn add(&mut self, stream: StreamKind, line: &[u8], at: OffsetDateTime) {
        let length = line.len() as u64;
        if !self.waiting.is_empty() && self.waiting_bytes + length > self.limit {
            self.dropped += 1;
            return;
        }
        self.waiting.push_back(message(stream, line, at));
        self.waiting_bytes += length;
    }

    /// Gives the writer as much as the pipe takes.
    pub(super) fn hand_over(&mut self) {
        while let Some(pipe) = &self.pipe {
            if self.written == self.portion.len() {
                self.portion.clear();
                self.written = 0;
                while self.portion.len() < PORTION
                    && let Some(message) = self.waiting.pop_front()
                {
                    self.waiting_bytes -= (message.len() - HEADER) as u64;
                    self.portion.extend_from_slice(&message);
                }
                if self.portion.is_empty() {
                    return;
                }
            }
            match nix::unistd::write(pipe, &self.portion[self.written..]) {
                Ok(count) => self.written += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(error) => {
                    eprintln!("shim: the writer of the log is gone: {error}");
                    self.pipe = None;
                }
            }
        }
        // Nobody writes any more: what a container says is lost, not kept.
        self.dropped += self.waiting.len() as u64;
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        let waits = self.written < self.portion.len() || !self.waiting.is_empty();
        self.pipe.as_ref().filter(|_| waits).map(AsFd::as_fd)
    }

    /// Hands over all there is, and waits until it is written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        let end = Instant::now() + PATIENCE;
        for stream in [StreamKind::Stdout, StreamKind::Stderr] {
            let line = std::mem::take(&mut self.begun[stream as usize]);
            if !line.is_empty() {
                self.add(stream, &line, OffsetDateTime::now_utc());
            }
        }
        self.hand_over();
        while let Some(pipe) = self.waits_for() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::other(
                    "its last lines could not be written in time",
                ));
            }
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(pipe, PollFlags::POLLOUT)], left) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            self.hand_over();
        }
        // The writer's sign to end.
        self.pipe = None;
        if self.dropped > 0 {
            eprintln!(
                "shim: {} lines of output were dropped: the log was behind, and its buffer full",
                self.dropped
            );
        }
        while let Some(writer) = self.writer {
            match waitpid(writer, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) if Instant::now() < end => std::thread::sleep(PAUSE),
                Ok(WaitStatus::StillAlive) => {
                    return Err(io::Error::other("its last lines are still being written"));
                }
                _ => self.writer = None,
            }
        }
        Ok(())
    }

    pub(super) fn rest(&mut self) {
        if self.waits_for().is_none() {
            self.portion = Vec::new();
            self.written = 0;
            self.waiting = VecDeque::new();
        }
    }

    pub(super) fn reaped(&mut self, pid: Pid) {
        if self.writer == Some(pid) {
            self.writer = None;
        }
    }
}

fn message(stream: StreamKind, text: &[u8], at: OffsetDateTime) -> Vec<u8> {
    let nanoseconds = i64::try_from(at.unix_timestamp_nanos()).unwrap_or_default();
    let mut message = Vec::with_capacity(HEADER + text.len());
    message.push(stream as u8);
    message.extend_from_slice(&(text.len() as u32).to_le_bytes());
    message.extend_from_slice(&nanoseconds.to_le_bytes());
    message.extend_from_slice(text);
    message
}

/// In the writer: the pipe becomes its input, and nothing else of the shim's stays open. Connections and streams that it held
/// would not end with the shim.
fn keep_only(pipe: &OwnedFd) -> io::Result<()> {
    nix::unistd::dup2(pipe.as_raw_fd(), 0)?;
    // SAFETY: numbers only. No value of this process that owns one of these descriptors is used or dropped afterwards: the
    // process ends without running destructors.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    Errno::result(closed)?;
    Ok(())
}

/// The writer's whole life.
fn write_all(mut input: impl Read, plan: &LogPlan) -> io::Result<()> {
    let Some(mut log) = LogWriter::open(plan)? else {
        return Ok(());
    };
    let mut bytes: Vec<u8> = Vec::new();
    let mut buffer = vec![0; PORTION];
    loop {
        let count = match input.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        if count == 0 {
            return log.finish();
        }
        bytes.extend_from_slice(&buffer[..count]);
        let mut at = 0;
        while let Some((stream, time, text)) = read(&bytes[at..]) {
            if let Err(error) = log.append(stream, text, time) {
                eprintln!("shim: write the log: {error}");
            }
            at += HEADER + text.len();
        }
        bytes.drain(..at);
        if let Err(error) = log.flush() {
            // A full disk: the lines are lost, the next ones may not be.
            eprintln!("shim: write the log: {error}");
        }
    }
}

/// The first message, if it is whole.
fn read(bytes: &[u8]) -> Option<(StreamKind, OffsetDateTime, &[u8])> {
    let header = bytes.get(..HEADER)?;
    let stream = match header[0] {
        0 => StreamKind::Stdout,
        _ => StreamKind::Stderr,
    };
    let length = u32::from_le_bytes(header[1..5].try_into().ok()?) as usize;
    let nanoseconds = i64::from_le_bytes(header[5..].try_into().ok()?);
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into()).ok()?;
    Some((stream, time, bytes.get(HEADER..HEADER + length)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn waiting(ring: &LogRing) -> Vec<String> {
        let texts = ring.waiting.iter().map(|message| &message[HEADER..]);
        texts
            .map(|text| String::from_utf8_lossy(text).into_owned())
            .collect()
    }

    /// A ring with a pipe that takes nothing any more.
    fn stuck(limit: u64) -> (LogRing, OwnedFd) {
        let (theirs, ours) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
        process::not_blocking(ours.as_raw_fd()).unwrap();
        while nix::unistd::write(&ours, &[0; 4096]).is_ok() {}
        let mut ring = LogRing::empty(limit);
        ring.pipe = Some(ours);
        // On its way out of the queue already.
        ring.portion = message(StreamKind::Stdout, b"before\n", OffsetDateTime::UNIX_EPOCH);
        (ring, theirs)
    }

    #[test]
    fn a_full_buffer_drops_the_newest() {
        let (mut ring, _pipe) = stuck(12);
        ring.take(StreamKind::Stdout, b"one\ntwo\nthree\nfo");
        ring.take(StreamKind::Stderr, b"six\n");
        // Four bytes each; the third is too long for what is left, and one that fits is taken again.
        assert_eq!(waiting(&ring), ["one\n", "two\n", "six\n"]);
        assert_eq!(ring.dropped, 1);
        ring.take(StreamKind::Stdout, b"ur\n");
        assert_eq!((ring.waiting.len(), ring.dropped), (3, 2));
        assert!(ring.waits_for().is_some());
    }

    #[test]
    fn an_empty_buffer_takes_a_line_of_any_length() {
        let (mut ring, _pipe) = stuck(4);
        ring.take(StreamKind::Stdout, b"longer than all of it\n");
        assert_eq!(waiting(&ring), ["longer than all of it\n"]);
        ring.take(StreamKind::Stdout, b"x\n");
        assert_eq!(ring.dropped, 1);
    }

    #[test]
    fn what_is_handed_over_is_written_with_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        let plan = LogPlan::JsonFile {
            path: path.clone(),
            max_size: None,
            max_files: 1,
            compress: false,
            attributes: BTreeMap::new(),
            buffer: Some(1 << 20),
        };
        let at = OffsetDateTime::UNIX_EPOCH + Duration::from_millis(1500);
        let mut input = message(StreamKind::Stdout, b"one\n", at);
        input.extend(message(StreamKind::Stderr, &[b'x'; LONGEST_PART], at));
        input.extend(message(StreamKind::Stderr, b"end", at));
        // In pieces that know nothing of messages.
        let pieces = input.chunks(1000).map(io::Cursor::new);
        let all = pieces.fold(Box::new(io::empty()) as Box<dyn Read>, |all, piece| {
            Box::new(all.chain(piece))
        });
        write_all(all, &plan).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            r#"{"log":"one\n","stream":"stdout","time":"1970-01-01T00:00:01.5Z"}"#
        );
        assert_eq!(lines.len(), 3);
        assert!(lines[2].starts_with(r#"{"log":"end","stream":"stderr""#));
    }

    #[test]
    fn a_writer_that_is_gone_costs_lines_and_nothing_else() {
        let (mut ring, pipe) = stuck(1000);
        ring.take(StreamKind::Stdout, b"one\n");
        drop(pipe);
        ring.take(StreamKind::Stdout, b"two\n");
        assert_eq!((ring.waiting.len(), ring.dropped), (0, 2));
        assert!(ring.waits_for().is_none());
        ring.finish().unwrap();
    }
}
