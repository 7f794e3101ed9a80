//! Requests to an engine's unix socket, byte for byte: also such as no client would send.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest an answer may take.
const LIMIT: Duration = Duration::from_secs(15);

/// An answer's status and body; the body may still be in chunks.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

/// Sends bytes, then reads until the other side closes. An answer that does not end within `limit` is an error; one that
/// is cut off is returned as far as it came.
pub fn exchange(socket: &Path, bytes: &[u8], limit: Duration) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    // An engine that refuses early does not read the rest.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error),
        _ => Ok(answer),
    }
}

/// One request with a body; `None` where the engine is not there or cuts the answer off. An engine that hangs fails the
/// test.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> Option<Reply> {
    let mut bytes = format!(
        "{method} {path} HTTP/1.1\r\nHost: engine\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    let answer = match exchange(socket, &bytes, LIMIT) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            panic!("{method} {path}: no whole answer within {LIMIT:?}")
        }
        outcome => outcome.ok()?,
    };
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Reply {
        status: head.split(' ').nth(1)?.parse().ok()?,
        body: body.to_owned(),
    })
}
