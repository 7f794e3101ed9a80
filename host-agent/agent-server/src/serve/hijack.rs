//! Connections that stop being HTTP: attach and exec.
//!
//! ```text
//! client: POST .../attach, Connection: Upgrade, Upgrade: tcp      we: 101 UPGRADED, then the raw connection
//! client: POST .../attach                                         we: 200, then output until the connection closes
//! ```
//!
//! After a 101 each direction ends by itself: a client that closes its writing side (shutdown(2), or close_notify in TLS) has
//! ended the process's input and goes on reading output. Without an upgrade the input is what is left of the request's body.

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use engine::runtime::StreamKind;
use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderValue, StatusCode, Version, header};
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader};

/// Whether output is raw (a terminal) or framed (stdout and stderr told apart).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFormat {
    /// Bytes as they come.
    Raw,
    /// Docker's stdcopy frames, see [`frame`].
    Multiplexed,
}

impl StreamFormat {
    /// For a process with or without a terminal.
    pub fn of_terminal(tty: bool) -> StreamFormat {
        if tty {
            StreamFormat::Raw
        } else {
            StreamFormat::Multiplexed
        }
    }

    /// What the answer's Content-Type says to a client that spoke `version`.
    pub fn content_type(self, version: engine_api::ApiVersion) -> HeaderValue {
        HeaderValue::from_static(match self {
            StreamFormat::Multiplexed if version.names_multiplexed_streams() => {
                "application/vnd.docker.multiplexed-stream"
            }
            _ => "application/vnd.docker.raw-stream",
        })
    }
}

/// The client's end of a hijacked connection.
pub struct Hijacked {
    /// What the client sends; ends when it closes its writing side.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the client gets; shut down to end it.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
}

/// Takes the connection away from HTTP. Return the response at once and await the future elsewhere (a spawned task): it
/// resolves when the response's head has been sent.
///
/// A request whose body has been read already (exec start) is rebuilt with an empty one; keep its extensions, the upgrade is
/// in there.
pub fn upgrade(
    mut request: Request,
    content_type: HeaderValue,
) -> (Response, impl Future<Output = io::Result<Hijacked>> + Send) {
    let on_upgrade = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
    let mut response = Response::new(Body::empty());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    let mut plain = None;
    match &on_upgrade {
        Some(_) => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            // The docker CLI only looks at the number, but others were written by looking at dockerd's answer.
            response
                .extensions_mut()
                .insert(hyper::ext::ReasonPhrase::from_static(b"UPGRADED"));
            let headers = response.headers_mut();
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
        }
        None => {
            // Version 1.0 makes hyper end the body by closing instead of cutting it in chunks: old clients read raw bytes.
            *response.version_mut() = Version::HTTP_10;
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            *response.body_mut() = Body::from_stream(ReaderStream::new(theirs));
            let input = request
                .into_body()
                .into_data_stream()
                .map_err(io::Error::other)
                .boxed();
            plain = Some(Hijacked {
                reader: Box::new(StreamReader::new(input)),
                writer: Box::new(ours),
            });
        }
    }
    let connection = async move {
        match (on_upgrade, plain) {
            (Some(on_upgrade), _) => {
                let upgraded = on_upgrade.await.map_err(io::Error::other)?;
                let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
                Ok(Hijacked {
                    reader: Box::new(reader),
                    writer: Box::new(writer),
                })
            }
            (None, Some(hijacked)) => Ok(hijacked),
            (None, None) => unreachable!("without an upgrade the body is the connection"),
        }
    };
    (response, connection)
}

fn wants_upgrade(request: &Request) -> bool {
    request.headers().contains_key(header::UPGRADE)
        && request
            .headers()
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// The eight bytes before a piece of output: stream (1 stdout, 2 stderr), three zeros, length (big-endian).
pub fn frame_header(stream: StreamKind, length: usize) -> [u8; 8] {
    let number = match stream {
        StreamKind::Stdout => 1,
        StreamKind::Stderr => 2,
    };
    let length = u32::try_from(length).expect("a piece of output is smaller than 4 GiB");
    let [a, b, c, d] = length.to_be_bytes();
    [number, 0, 0, 0, a, b, c, d]
}

/// A piece of output with its header in front.
pub fn frame(stream: StreamKind, bytes: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(8 + bytes.len());
    framed.put_slice(&frame_header(stream, bytes.len()));
    framed.put_slice(bytes);
    framed.freeze()
}

/// Output in the form the client wants.
pub fn format_output(format: StreamFormat, stream: StreamKind, bytes: Bytes) -> Bytes {
    match format {
        StreamFormat::Raw => bytes,
        StreamFormat::Multiplexed => frame(stream, &bytes),
    }
}

/// Why [`pump`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PumpEnd {
    /// The process's output has ended, and everything of it was sent.
    Output,
    /// The client is gone.
    Client,
}

/// Moves bytes between a client and a process until its output ends or the client is gone. The client's end of input closes
/// the process's input (drops `stdin`) and nothing else.
pub async fn pump(
    hijacked: Hijacked,
    format: StreamFormat,
    stdin: Option<mpsc::Sender<Bytes>>,
    mut output: mpsc::Receiver<(StreamKind, Bytes)>,
) -> PumpEnd {
    let Hijacked {
        mut reader,
        mut writer,
    } = hijacked;
    // Input has a task of its own: a process that does not read its input must not hold up its output.
    let input = tokio::spawn(async move {
        let mut buffer = BytesMut::with_capacity(32 * 1024);
        loop {
            buffer.reserve(16 * 1024);
            match reader.read_buf(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) => {
                    let piece = buffer.split().freeze();
                    if let Some(stdin) = &stdin
                        && stdin.send(piece).await.is_err()
                    {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    });
    let end = loop {
        let Some((stream, bytes)) = output.recv().await else {
            break PumpEnd::Output;
        };
        if writer
            .write_all(&format_output(format, stream, bytes))
            .await
            .is_err()
        {
            break PumpEnd::Client;
        }
        // More may wait already: flush once for all of it.
        if output.is_empty() && writer.flush().await.is_err() {
            break PumpEnd::Client;
        }
    };
    let _ = writer.shutdown().await;
    input.abort();
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_dockers() {
        assert_eq!(
            &frame(StreamKind::Stderr, b"hello")[..],
            b"\x02\0\0\0\0\0\0\x05hello"
        );
        assert_eq!(
            frame_header(StreamKind::Stdout, 0x01020304),
            [1, 0, 0, 0, 1, 2, 3, 4]
        );
    }
}
