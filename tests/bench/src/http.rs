//! The smallest HTTP client that drives an engine over its unix socket: one request a connection, read to the end.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// An engine's socket.
#[derive(Clone, Copy)]
pub(crate) struct Api<'a> {
    pub(crate) socket: &'a Path,
}

impl Api<'_> {
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, b"", "application/json")
    }

    pub(crate) fn post(&self, path: &str, body: Option<&Value>) -> Result<Value> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        self.call("POST", path, body.as_bytes(), "application/json")
    }

    /// The answer's text, streams with their frames.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        let (_, body) = self.exchange("GET", path, b"", "application/json")?;
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// Reads an answer and counts its bytes.
    pub(crate) fn download(&self, path: &str) -> Result<usize> {
        let (status, body) = self.exchange("GET", path, b"", "application/json")?;
        if status != 200 {
            bail!("GET {path}: {status}");
        }
        Ok(body.len())
    }

    /// A stream of messages, read to its end.
    pub(crate) fn post_text(&self, path: &str) -> Result<String> {
        let (status, body) = self.exchange("POST", path, b"", "application/json")?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if status != 200 {
            bail!("POST {path}: {status} {text}");
        }
        Ok(text)
    }

    /// An answer as it came.
    pub(crate) fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        let (status, body) = self.exchange("GET", path, b"", "application/json")?;
        if status != 200 {
            bail!("GET {path}: {status}");
        }
        Ok(body)
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value> {
        self.call("DELETE", path, b"", "application/json")
    }

    pub(crate) fn load(&self, archive: &[u8]) -> Result<Value> {
        self.call("POST", "/images/load?quiet=1", archive, "application/x-tar")
    }

    /// Builds a context and reads the messages to their end.
    pub(crate) fn build(&self, path: &str, context: &[u8]) -> Result<String> {
        let (status, body) = self.exchange("POST", path, context, "application/x-tar")?;
        let text = String::from_utf8_lossy(&body).into_owned();
        if status != 200 {
            bail!("POST {path}: {status} {text}");
        }
        Ok(text)
    }

    /// The answer's JSON; `Null` for an empty one or a stream that is none.
    fn call(&self, method: &str, path: &str, body: &[u8], content_type: &str) -> Result<Value> {
        let what = format!("{method} {path}");
        let (status, answer) = self
            .exchange(method, path, body, content_type)
            .with_context(|| what.clone())?;
        if !(200..400).contains(&status) {
            bail!("{what}: {status} {}", String::from_utf8_lossy(&answer));
        }
        Ok(serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        content_type: &str,
    ) -> Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(self.socket)?;
        // Credentials, `{}`: dockerd refuses a push that says nothing of them.
        let head = format!(
            "{method} /v1.41{path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: {content_type}\r\n\
             X-Registry-Auth: e30=\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .context("the answer has no head")?;
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .context("the answer has no status")?;
        let rest = &answer[end + 4..];
        let body = if head.contains("transfer-encoding: chunked") {
            unchunk(rest)?
        } else {
            rest.to_vec()
        };
        Ok((status, body))
    }
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest
            .windows(2)
            .position(|two| two == b"\r\n")
            .context("a chunk has no size")?;
        let size = std::str::from_utf8(&rest[..end])?
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        let size = usize::from_str_radix(size, 16).context("a chunk has no size")?;
        let start = end + 2;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(
            rest.get(start..start + size)
                .context("a chunk is cut off")?,
        );
        rest = rest.get(start + size + 2..).context("a chunk is cut off")?;
    }
}
