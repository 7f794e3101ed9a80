//! Bytes that arrive in pieces, made a reader on a blocking thread: gzip, zstd, xz, bzip2 or plain, told by the first bytes.

use super::zstd_reader::{LargeMemory, ZstdReader};
use bytes::{Buf, Bytes};
use engine::images::ByteStream;
use futures_util::StreamExt;
use std::io::{self, BufRead, Read};
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::mpsc;

const BUFFER: usize = 128 * 1024;
/// Buffers between the thread that inflates and the one that reads.
const BUFFERS: usize = 4;

/// An async stream as a blocking reader. Use it only on a blocking thread.
///
/// A task gathers the pieces as they come and hands them over in batches: to wake the reader for each of them would cost
/// more than the pieces themselves, as an HTTP body gives only one at a time and waits until it is asked for the next.
pub struct StreamReader {
    batches: mpsc::Receiver<io::Result<Vec<Bytes>>>,
    batch: std::vec::IntoIter<Bytes>,
    piece: Bytes,
}

impl StreamReader {
    /// To be called within the tokio runtime.
    pub fn new(stream: ByteStream) -> StreamReader {
        let (sender, batches) = mpsc::channel(BATCHES);
        tokio::spawn(async move {
            // A reader that stops early shall not be held up by a sender that does not.
            tokio::select! {
                () = gather(stream, &sender) => {}
                () = sender.closed() => {}
            }
        });
        StreamReader {
            batches,
            batch: Vec::new().into_iter(),
            piece: Bytes::new(),
        }
    }
}

/// Bytes of a batch.
const BATCH: usize = 256 * 1024;
/// Batches that wait for the reader.
const BATCHES: usize = 3;

async fn gather(mut stream: ByteStream, sender: &mpsc::Sender<io::Result<Vec<Bytes>>>) {
    let (mut batch, mut size) = (Vec::new(), 0);
    loop {
        let next = stream.next().await;
        if let Some(Ok(piece)) = next {
            size += piece.len();
            batch.push(piece);
            if size < BATCH {
                continue;
            }
            size = 0;
            if sender.send(Ok(std::mem::take(&mut batch))).await.is_err() {
                return;
            }
            continue;
        }
        // What came before the end or an error is still good.
        let _ = sender.send(Ok(batch)).await;
        if let Some(Err(error)) = next {
            let _ = sender.send(Err(error)).await;
        }
        return;
    }
}

impl BufRead for StreamReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.piece.is_empty() {
            match self.batch.next() {
                Some(piece) => self.piece = piece,
                None => match self.batches.blocking_recv() {
                    Some(batch) => self.batch = batch?.into_iter(),
                    None => break,
                },
            }
        }
        Ok(&self.piece)
    }

    fn consume(&mut self, count: usize) {
        self.piece.advance(count);
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

/// `read` of what has a buffer of its own.
pub(super) fn read_buffered(input: &mut dyn BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let ready = input.fill_buf()?;
    let count = buffer.len().min(ready.len());
    buffer[..count].copy_from_slice(&ready[..count]);
    input.consume(count);
    Ok(count)
}

/// KiB that unpacking xz may take: its highest preset needs 65 MiB. One stream has so much at a time.
const XZ_MEMORY: u32 = 80 * 1024;

/// The plain bytes of a gzip, zstd, xz, bzip2 or plain stream.
pub fn decoded<'a>(input: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match decoder(input)? {
        Decoder::Plain(reader) => Box::new(reader),
        Decoder::Packed(reader) => reader,
    })
}

/// Reads the plain bytes of such a stream; what must be inflated is inflated on a thread of its own meanwhile.
pub fn read_decoded<T>(
    input: impl BufRead + Send,
    work: impl FnOnce(&mut dyn BufRead) -> T,
) -> io::Result<T> {
    Ok(match decoder(input)? {
        Decoder::Plain(mut reader) => work(&mut reader),
        Decoder::Packed(mut reader) => on_own_thread(&mut *reader, work),
    })
}

enum Decoder<'a, R> {
    /// As it came, with the beginning that was looked at.
    Plain(io::Chain<io::Cursor<Vec<u8>>, R>),
    Packed(Box<dyn Read + Send + 'a>),
}

fn decoder<'a, R: BufRead + Send + 'a>(mut input: R) -> io::Result<Decoder<'a, R>> {
    let mut head = [0u8; 6];
    let mut known = 0;
    // A first piece shorter than the magic number is possible.
    while known < head.len() {
        match input.read(&mut head[known..])? {
            0 => break,
            count => known += count,
        }
    }
    let whole = Read::chain(io::Cursor::new(head[..known].to_vec()), input);
    let reader: Box<dyn Read + Send + 'a> = match &head[..known] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(ZstdReader::new(whole)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Box::new(
            LargeMemory::take().hold(lzma_rust2::XzReader::new_mem_limit(whole, true, XZ_MEMORY)),
        ),
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] => {
            Box::new(bzip2::bufread::MultiBzDecoder::new(whole))
        }
        _ => return Ok(Decoder::Plain(whole)),
    };
    Ok(Decoder::Packed(reader))
}

/// Runs `input` on a thread of its own, so that inflating and what reads it work at the same time. At most four
/// buffers wait between the two; they go round, because fresh ones would be zeroed and mapped anew each time.
pub fn on_own_thread<T>(
    input: &mut (dyn Read + Send),
    work: impl FnOnce(&mut dyn BufRead) -> T,
) -> T {
    let (sender, receiver) = sync_channel::<io::Result<(Vec<u8>, usize)>>(BUFFERS);
    // Room for every buffer there is, so that giving one back never waits.
    let (spare_sender, spares) = sync_channel::<Vec<u8>>(BUFFERS + 2);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                let mut buffer = spares.try_recv().unwrap_or_else(|_| vec![0; BUFFER]);
                let mut filled = 0;
                let outcome = loop {
                    match input.read(&mut buffer[filled..]) {
                        Ok(0) => break Ok(true),
                        Ok(count) => filled += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => break Err(error),
                    }
                    if filled == buffer.len() {
                        break Ok(false);
                    }
                };
                let is_end = !matches!(outcome, Ok(false));
                if filled > 0 && sender.send(Ok((buffer, filled))).is_err() {
                    return;
                }
                if let Err(error) = outcome {
                    let _ = sender.send(Err(error));
                }
                if is_end {
                    return;
                }
            }
        });
        let mut pieces = Pieces {
            receiver,
            spares: spare_sender,
            piece: Vec::new(),
            unread: 0..0,
        };
        // `pieces` is dropped before the scope waits for the thread, which ends then.
        let mut pieces_reader = &mut pieces;
        let answer = work(&mut pieces_reader);
        drop(pieces);
        answer
    })
}

struct Pieces {
    receiver: Receiver<io::Result<(Vec<u8>, usize)>>,
    spares: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
    unread: Range<usize>,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread.is_empty() {
            // The end stays the end: the sender is gone.
            if let Ok(piece) = self.receiver.recv() {
                let (piece, filled) = piece?;
                let used = std::mem::replace(&mut self.piece, piece);
                self.unread = 0..filled;
                if !used.is_empty() {
                    let _ = self.spares.try_send(used);
                }
            }
        }
        Ok(&self.piece[self.unread.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.unread.start += count;
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast())
            .read_to_end(&mut packed)
            .expect("memory");
        packed
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut encoder = lzma_rust2::XzWriter::new(Vec::new(), options).expect("memory");
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn the_first_bytes_tell_the_compression() {
        let plain = vec![7u8; 300_000];
        for packed in [
            plain.clone(),
            gzip(&plain),
            [gzip(&plain[..1000]), gzip(&plain[1000..])].concat(),
            zstd::encode_all(&plain[..], 3).expect("memory"),
            xz(&plain),
            bzip2(&plain),
            [bzip2(&plain[..1000]), bzip2(&plain[1000..])].concat(),
        ] {
            let mut reader = decoded(&packed[..]).expect("good");
            let unpacked = on_own_thread(&mut *reader, |reader| {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map(|_| bytes)
            })
            .expect("good");
            assert!(unpacked == plain);
        }
        let cut = bzip2(&plain);
        let mut reader = decoded(&cut[..cut.len() - 5]).expect("starts well");
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
        assert_eq!(
            decoded(&b"ab"[..]).expect("short").read(&mut [0; 9]).ok(),
            Some(2)
        );
    }

    #[test]
    fn a_truncated_gzip_is_an_error() {
        let packed = gzip(&[1; 100_000]);
        let mut reader = decoded(&packed[..packed.len() - 9]).expect("starts well");
        assert!(io::copy(&mut reader, &mut io::sink()).is_err());
    }

    #[test]
    fn a_reader_that_stops_early_does_not_hang() {
        let plain = vec![0u8; 10 << 20];
        on_own_thread(&mut &plain[..], |reader| {
            let mut some = [0; 10];
            reader.read_exact(&mut some).expect("there is more");
        });
    }
}
