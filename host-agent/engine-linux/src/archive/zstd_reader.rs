//! zstd within bounds. A frame says how much of what was unpacked must be kept at hand, its window, and anybody who makes an
//! image chooses that number.
//!
//! ```text
//! window <= 8 MiB     unpacked at once: what the format recommends every decoder to support (RFC 8878, 3.1.1.1.2)
//!        <= 32 MiB    the best levels of some builders: one such stream at a time, whoever wants it
//!        larger       refused
//! ```
//!
//! So the layers of a pull, three at a time, keep at most 32 + 8 + 8 MiB, whatever the image says.

use std::io::{self, BufRead, Read};
use std::sync::{Condvar, Mutex};
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer};

const MIB: u64 = 1 << 20;
/// Bytes of a window that any number of streams may have at a time.
const WINDOW_FREE: u64 = 8 * MIB;
/// Bytes of the largest window that is unpacked, and the same as a power of two.
const WINDOW_MAX: u64 = 32 * MIB;
const WINDOW_MAX_LOG: u32 = 25;

const FRAME: u32 = 0xfd2f_b528;
/// Frames of other programs, which are passed over; the last four bits are free.
const SKIPPABLE: u32 = 0x184d_2a50;

/// Whether somebody unpacks what needs much memory.
static LARGE_IS_TAKEN: Mutex<bool> = Mutex::new(false);
static LARGE_IS_FREE: Condvar = Condvar::new();

/// The right to unpack what needs much memory; one has it at a time. Who has it waits for nothing but its own input, so
/// nothing is waited for in a circle.
pub(super) struct LargeMemory(());

impl LargeMemory {
    /// Waits until nobody has it.
    pub(super) fn take() -> LargeMemory {
        let taken = LARGE_IS_TAKEN.lock().expect("nothing panics under it");
        let mut taken = LARGE_IS_FREE
            .wait_while(taken, |taken| *taken)
            .expect("nothing panics under it");
        *taken = true;
        LargeMemory(())
    }

    /// Keeps it for as long as the reader lives.
    pub(super) fn hold<R>(self, reader: R) -> Holding<R> {
        Holding {
            reader,
            _memory: self,
        }
    }
}

impl Drop for LargeMemory {
    fn drop(&mut self) {
        *LARGE_IS_TAKEN.lock().expect("nothing panics under it") = false;
        LARGE_IS_FREE.notify_one();
    }
}

/// A reader that needs much memory.
pub(super) struct Holding<R> {
    // Dropped first: then the memory is free.
    reader: R,
    _memory: LargeMemory,
}

impl<R: Read> Read for Holding<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// The plain bytes of zstd frames, one after the other.
pub(super) struct ZstdReader<R> {
    input: R,
    // Dropped before `memory`, as its window is what that stands for.
    context: DCtx<'static>,
    /// The beginning of the frame, looked at before the decoder sees it, and how much of it the decoder has.
    head: Vec<u8>,
    head_used: usize,
    in_frame: bool,
    /// Kept to the end: the decoder does not give a large window back before.
    memory: Option<LargeMemory>,
}

impl<R: BufRead> ZstdReader<R> {
    pub(super) fn new(input: R) -> ZstdReader<R> {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_MAX_LOG))
            .expect("within the library's bounds");
        ZstdReader {
            input,
            context,
            head: Vec::new(),
            head_used: 0,
            in_frame: false,
            memory: None,
        }
    }

    /// Looks at the next frame; `false` at the end.
    fn begin_frame(&mut self) -> io::Result<bool> {
        self.head.clear();
        self.head_used = 0;
        if self.input.fill_buf()?.is_empty() {
            return Ok(false);
        }
        self.look_at(4)?;
        self.in_frame = true;
        let magic = u32::from_le_bytes(self.head[..4].try_into().expect("four bytes"));
        if magic != FRAME {
            if magic & !0xf != SKIPPABLE {
                return Err(invalid("zstd data is followed by something else"));
            }
            return Ok(true);
        }
        let window = self.window()?;
        if window > WINDOW_MAX {
            return Err(invalid(format!(
                "zstd data with a window of {} MiB; this engine unpacks at most {} MiB: pack it with a lower level, or without --long",
                window.div_ceil(MIB),
                WINDOW_MAX / MIB
            )));
        }
        if window > WINDOW_FREE && self.memory.is_none() {
            self.memory = Some(LargeMemory::take());
        }
        Ok(true)
    }

    /// Bytes of the frame's window (RFC 8878, 3.1.1.1).
    fn window(&mut self) -> io::Result<u64> {
        self.look_at(5)?;
        let descriptor = self.head[4];
        let is_single_segment = descriptor & 0x20 != 0;
        if !is_single_segment {
            self.look_at(6)?;
            let (exponent, mantissa) = (self.head[5] >> 3, self.head[5] & 7);
            let base = 1u64 << (10 + exponent);
            return Ok(base + base / 8 * u64::from(mantissa));
        }
        // All of the content is the window; its size follows the number of the dictionary.
        let start = 5 + [0, 1, 2, 4][usize::from(descriptor & 3)];
        let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
        self.look_at(start + length)?;
        let mut size = [0; 8];
        size[..length].copy_from_slice(&self.head[start..]);
        let size = u64::from_le_bytes(size);
        Ok(if length == 2 { size + 256 } else { size })
    }

    /// Reads so much of the frame ahead.
    fn look_at(&mut self, length: usize) -> io::Result<()> {
        let known = self.head.len();
        self.head.resize(length, 0);
        self.input.read_exact(&mut self.head[known..])
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.in_frame && !self.begin_frame()? {
                return Ok(0);
            }
            let of_head = self.head_used < self.head.len();
            let piece = match of_head {
                true => &self.head[self.head_used..],
                false => self.input.fill_buf()?,
            };
            let is_end = piece.is_empty();
            let mut from = InBuffer::around(piece);
            let mut to = OutBuffer::around(&mut *buffer);
            let left = self
                .context
                .decompress_stream(&mut to, &mut from)
                .map_err(|code| invalid(zstd_safe::get_error_name(code)))?;
            let (used, filled) = (from.pos(), to.pos());
            match of_head {
                true => self.head_used += used,
                false => self.input.consume(used),
            }
            self.in_frame = left > 0;
            if filled > 0 {
                return Ok(filled);
            }
            if is_end && self.in_frame {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "zstd data ends within a frame",
                ));
            }
        }
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// One frame with a window of that power of two.
    fn frame(content: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("memory");
        encoder.window_log(window_log).expect("within bounds");
        encoder.write_all(content).expect("memory");
        encoder.finish().expect("memory")
    }

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        // One byte at a time on the way in, and few on the way out.
        let input = io::BufReader::with_capacity(1, packed);
        let mut reader = ZstdReader::new(input);
        let mut buffer = [0; 1000];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(plain),
                count => plain.extend_from_slice(&buffer[..count]),
            }
        }
    }

    #[test]
    fn frames_of_every_shape_follow_each_other() {
        let content: Vec<u8> = (0..20_000u32).flat_map(|n| n.to_le_bytes()).collect();
        let skipped = [&(SKIPPABLE + 3).to_le_bytes()[..], &[2, 0, 0, 0, 7, 7]].concat();
        // Of a known size: one segment, with a size of 1, 2 and 4 bytes.
        let whole = |size: usize| zstd::bulk::compress(&content[..size], 3).expect("memory");
        let packed = [
            frame(&content, 20),
            skipped,
            whole(100),
            whole(5000),
            whole(80_000),
            frame(b"", 10),
            frame(&content, 25),
        ]
        .concat();
        let plain = [
            &content[..],
            &content[..100],
            &content[..5000],
            &content[..80_000],
            &content,
        ]
        .concat();
        assert!(unpack(&packed).expect("good") == plain);
        for cut in [3, packed.len() - 1, packed.len() - 5, 7] {
            let error = unpack(&packed[..cut]).expect_err("cut off");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
        let more = [frame(&content, 20), b"what is this?".to_vec()].concat();
        let error = unpack(&more).expect_err("no frame");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_window_that_is_too_large_is_refused_before_it_is_made() {
        for packed in [
            frame(b"tiny", 27),
            // Also behind a good one.
            [frame(b"good", 20), frame(b"tiny", 26)].concat(),
            // One segment of 1 GiB.
            [&FRAME.to_le_bytes()[..], &[0xa0, 0, 0, 0, 64, 1, 0, 0]].concat(),
        ] {
            let error = unpack(&packed).expect_err("too large");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            let text = error.to_string();
            assert!(text.contains("at most 32 MiB"), "{text}");
        }
    }

    #[test]
    fn one_has_a_large_window_at_a_time() {
        let packed = frame(&[7; 1000], 25);
        let first = frame(&[7; 1000], 24);
        let mut reader = ZstdReader::new(&first[..]);
        reader.read_exact(&mut [0; 10]).expect("good");
        assert!(reader.memory.is_some());
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::channel();
            scope.spawn(move || sender.send(unpack(&packed).expect("good").len()));
            // Small windows do not wait.
            assert_eq!(unpack(&frame(&[1; 9], 23)).expect("good"), [1; 9]);
            assert!(receiver.try_recv().is_err());
            drop(reader);
            assert_eq!(receiver.recv(), Ok(1000));
        });
    }
}
