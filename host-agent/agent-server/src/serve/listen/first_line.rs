//! Quotation marks in a connection's first request line, as people type them after `curl -g`:
//! `/containers/json?filters={"status":["running"]}`. Go's server takes them, the `http` crate's URI does not and answers
//! 400 before any route is asked, so they are escaped on their way in. Clients that send more than one request over a
//! connection are programs, and those escape by themselves.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A line that has not ended after so many bytes is left as it is.
const LINE_MAX: usize = 64 * 1024;

pub(super) struct FirstLine<S> {
    stream: S,
    /// Bytes of the line so far; `None` when it has ended.
    seen: Option<usize>,
    /// What was read and is to be handed on, from the end.
    waiting: Vec<u8>,
}

impl<S> FirstLine<S> {
    pub(super) fn new(stream: S) -> FirstLine<S> {
        FirstLine {
            stream,
            seen: Some(0),
            waiting: Vec::new(),
        }
    }

    fn take(&mut self, read: &[u8], seen: usize) {
        let end = read.iter().position(|byte| *byte == b'\n');
        let (line, rest) = read.split_at(end.unwrap_or(read.len()));
        for byte in line {
            match byte {
                b'"' => self.waiting.extend(b"%22"),
                b'<' => self.waiting.extend(b"%3C"),
                b'>' => self.waiting.extend(b"%3E"),
                other => self.waiting.push(*other),
            }
        }
        self.waiting.extend(rest);
        let seen = seen + line.len();
        self.seen = (end.is_none() && seen < LINE_MAX).then_some(seen);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FirstLine<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.waiting.is_empty() {
            let Some(seen) = this.seen else {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            };
            let mut bytes = [0; 4096];
            let mut own = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut own))?;
            this.take(own.filled(), seen);
        }
        let count = this.waiting.len().min(buffer.remaining());
        buffer.put_slice(&this.waiting[..count]);
        this.waiting.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FirstLine<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn only_the_first_line_is_escaped_however_it_comes() {
        let sent: &[u8] = b"GET /x?a=\"b\"&c=<d> HTTP/1.1\r\nX: \"y\"\r\n\r\n\"body\"<>";
        let expected = "GET /x?a=%22b%22&c=%3Cd%3E HTTP/1.1\r\nX: \"y\"\r\n\r\n\"body\"<>";
        for size in [1, 2, 7, sent.len()] {
            let (mut client, server) = tokio::io::duplex(1024);
            let mut server = FirstLine::new(server);
            let mut got = Vec::new();
            for piece in sent.chunks(size) {
                client.write_all(piece).await.expect("written");
                let mut small = [0; 5];
                let count = server.read(&mut small).await.expect("read");
                got.extend(&small[..count]);
            }
            drop(client);
            server.read_to_end(&mut got).await.expect("read");
            assert_eq!(String::from_utf8(got).expect("text"), expected, "{size}");
        }
    }
}
