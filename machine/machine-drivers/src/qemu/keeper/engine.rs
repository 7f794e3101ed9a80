//! Listens to the engine: over mutual TLS, `/events` tells that something happened to a container, `/containers/json`
//! tells what there is now. Asking again after every event is simpler than keeping count, and never wrong.

use super::ports::Container;
use machine_core::engine_client::EngineClient;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// More than this many bytes of containers is no answer of ours.
const MOST_BYTES: u64 = 16 << 20;
/// The longest an answer may take; under emulation a handshake alone takes a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

type Tls = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// Where the engine is and how to prove who we are.
pub struct Engine {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    /// Of the last question.
    idle: Mutex<Option<Tls>>,
}

/// A stream of events.
pub struct Events {
    body: Chunked<Tls>,
    line: Vec<u8>,
}

/// What listening brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// Containers or their ports may have changed.
    Changed,
    /// Something else happened, or nothing for a while.
    Nothing,
}

impl Engine {
    /// `folder` holds the machine's client certificates.
    pub fn new(
        folder: &Path,
        address: SocketAddr,
    ) -> Result<Engine, machine_core::engine_client::EngineError> {
        let client = EngineClient::new(folder, address.ip(), address.port())?;
        Ok(Engine {
            address,
            tls: client.tls(),
            idle: Mutex::default(),
        })
    }

    pub fn containers(&self) -> io::Result<Vec<Container>> {
        let text = self.ask("GET", "/containers/json", b"")?;
        serde_json::from_slice(&text).map_err(io::Error::other)
    }

    /// Tells the engine which published ports could not be opened here, so that it can say so of its containers.
    pub fn tell_port_problems(&self, problems: &BTreeMap<String, String>) -> io::Result<()> {
        let text = serde_json::to_vec(problems).map_err(io::Error::other)?;
        self.ask("POST", "/berth/port-problems", &text).map(drop)
    }

    /// Starts listening. What happened before is not told: ask for the containers after this, not before.
    pub fn events(&self) -> io::Result<Events> {
        // {"type":["container","network"]}: connecting a network can publish, too.
        let path = "/events?filters=%7B%22type%22%3A%5B%22container%22%2C%22network%22%5D%7D";
        let mut stream = self.connect()?;
        self.send(&mut stream, "GET", path, b"")?;
        Ok(Events {
            body: answer(stream)?,
            line: Vec::new(),
        })
    }

    /// A short question, over the connection of the last one: a handshake takes longer than all the rest.
    fn ask(&self, method: &str, path: &str, content: &[u8]) -> io::Result<Vec<u8>> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.take());
        if let Some(stream) = idle
            // The engine may have closed it in the meantime, or have been started again.
            && let Ok(text) = self.ask_over(stream, method, path, content)
        {
            return Ok(text);
        }
        self.ask_over(self.connect()?, method, path, content)
    }

    fn ask_over(
        &self,
        mut stream: Tls,
        method: &str,
        path: &str,
        content: &[u8],
    ) -> io::Result<Vec<u8>> {
        self.send(&mut stream, method, path, content)?;
        let mut body = answer(stream)?;
        let mut text = Vec::new();
        (&mut body).take(MOST_BYTES).read_to_end(&mut text)?;
        if matches!(body.left, Left::Length(0))
            && let Ok(mut idle) = self.idle.lock()
        {
            *idle = Some(body.inner);
        }
        Ok(text)
    }

    fn connect(&self) -> io::Result<Tls> {
        let socket = TcpStream::connect_timeout(&self.address, ANSWER_WITHIN)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_WITHIN))?;
        socket.set_write_timeout(Some(ANSWER_WITHIN))?;
        let connection = ClientConnection::new(
            self.tls.clone(),
            ServerName::IpAddress(self.address.ip().into()),
        )
        .map_err(io::Error::other)?;
        Ok(BufReader::new(StreamOwned::new(connection, socket)))
    }

    fn send(&self, stream: &mut Tls, method: &str, path: &str, content: &[u8]) -> io::Result<()> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: keeper/{}\r\n",
            self.address,
            env!("CARGO_PKG_VERSION")
        );
        if method == "POST" {
            let length = content.len();
            request.push_str(&format!(
                "Content-Type: application/json\r\nContent-Length: {length}\r\n"
            ));
        }
        request.push_str("\r\n");
        let stream = stream.get_mut();
        stream.write_all(request.as_bytes())?;
        stream.write_all(content)?;
        stream.flush()
    }
}

impl Events {
    /// Waits up to `limit` for something. An error is the end of the stream.
    pub fn next(&mut self, limit: Duration) -> io::Result<Told> {
        self.body
            .inner
            .get_ref()
            .sock
            .set_read_timeout(Some(limit))?;
        match self.body.read_line(&mut self.line) {
            Ok(()) => {
                let told = judge(&self.line);
                self.line.clear();
                Ok(told)
            }
            // What was read so far stays in the line.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                Ok(Told::Nothing)
            }
            Err(error) => Err(error),
        }
    }
}

/// Is this event one that can change which ports are published? Anything we cannot read is taken for one that can.
fn judge(line: &[u8]) -> Told {
    #[derive(Deserialize)]
    struct Event {
        #[serde(rename = "Action", default)]
        action: String,
    }
    if line.iter().all(u8::is_ascii_whitespace) {
        return Told::Nothing;
    }
    let Ok(event) = serde_json::from_slice::<Event>(line) else {
        return Told::Changed;
    };
    // `exec_create: sh` and the like come by the dozen from health checks.
    let quiet = [
        "exec_",
        "top",
        "attach",
        "resize",
        "health_status",
        "create",
        "export",
        "copy",
        "commit",
    ];
    match quiet.iter().any(|prefix| event.action.starts_with(prefix)) {
        true => Told::Nothing,
        false => Told::Changed,
    }
}

/// Reads the head of an answer; anything but 200 is an error.
fn answer<R: BufRead>(mut reader: R) -> io::Result<Chunked<R>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        let count = (&mut reader).take(8192).read_line(&mut head)?;
        if count == 0 || head.len() > 65536 {
            return Err(io::Error::other("the answer has no head"));
        }
        if head[before..].trim().is_empty() {
            break;
        }
    }
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !matches!(status, "200" | "204") {
        return Err(io::Error::other(format!(
            "the engine answered with status {status}"
        )));
    }
    let header = |wanted: &str| {
        head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted)
                .then(|| value.trim().to_ascii_lowercase())
        })
    };
    let left = if status == "204" {
        Left::Length(0)
    } else if header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        Left::BetweenChunks
    } else {
        match header("content-length").map(|value| value.parse()) {
            Some(Ok(length)) => Left::Length(length),
            Some(Err(_)) => return Err(io::Error::other("bad Content-Length")),
            None => Left::UntilEnd,
        }
    };
    Ok(Chunked {
        inner: reader,
        left,
        size_line: Vec::new(),
    })
}

/// A body, its chunks taken apart. A read that times out can be repeated without losing a byte.
struct Chunked<R> {
    inner: R,
    left: Left,
    size_line: Vec<u8>,
}

#[derive(Debug)]
enum Left {
    Length(u64),
    Chunk(u64),
    /// A chunk's data ended; its line end comes next.
    AfterChunk,
    BetweenChunks,
    UntilEnd,
    Done,
}

impl<R: BufRead> Chunked<R> {
    /// Appends to `line` up to and with a line end.
    fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<()> {
        let mut byte = [0u8];
        loop {
            if self.read(&mut byte)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            line.push(byte[0]);
            if byte[0] == b'\n' {
                return Ok(());
            }
            if line.len() > 1 << 20 {
                return Err(io::Error::other("an event is far too long"));
            }
        }
    }

    fn size(&mut self) -> io::Result<u64> {
        (&mut self.inner)
            .take(1024)
            .read_until(b'\n', &mut self.size_line)?;
        if !self.size_line.ends_with(b"\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = std::mem::take(&mut self.size_line);
        std::str::from_utf8(&line)
            .ok()
            .and_then(|text| text.split(';').next())
            .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
            .ok_or_else(|| io::Error::other("bad chunk size"))
    }
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.left {
                Left::Done | Left::Length(0) => return Ok(0),
                Left::UntilEnd => return self.inner.read(buffer),
                Left::Chunk(0) => self.left = Left::AfterChunk,
                Left::AfterChunk => {
                    (&mut self.inner)
                        .take(2)
                        .read_until(b'\n', &mut self.size_line)?;
                    if !self.size_line.ends_with(b"\n") {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.size_line.clear();
                    self.left = Left::BetweenChunks;
                }
                Left::BetweenChunks => {
                    self.left = match self.size()? {
                        0 => Left::Done,
                        size => Left::Chunk(size),
                    };
                }
                Left::Length(left) | Left::Chunk(left) => {
                    let most = buffer
                        .len()
                        .min(usize::try_from(left).unwrap_or(usize::MAX));
                    let count = self.inner.read(&mut buffer[..most])?;
                    if count == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    let left = left - count as u64;
                    self.left = match self.left {
                        Left::Length(_) => Left::Length(left),
                        _ => Left::Chunk(left),
                    };
                    return Ok(count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Result<String, String> {
        let mut body = String::new();
        answer(text.as_bytes())
            .and_then(|mut chunked| chunked.read_to_string(&mut body))
            .map(|_| body)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn bodies_of_every_kind() {
        assert_eq!(whole("HTTP/1.1 204 No Content\r\n\r\n"), Ok("".into()));
        assert_eq!(
            whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]more"),
            Ok("[]".into())
        );
        assert_eq!(
            whole(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n"
            ),
            Ok("abc".into())
        );
        assert_eq!(whole("HTTP/1.1 200 OK\r\n\r\nall"), Ok("all".into()));
        assert!(
            whole("HTTP/1.1 503 No\r\n\r\n")
                .unwrap_err()
                .contains("503")
        );
        assert!(whole("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[]").is_err());
        assert!(whole("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").is_err());
        assert!(whole("").is_err());
    }

    /// Gives one byte, then "would block", then the next byte.
    struct Drip<'a>(&'a [u8], bool);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            buffer[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn a_slow_stream_loses_nothing() {
        let text = b"5\r\n{\"a\":\r\n4\r\n\"b\"}\r\n2\r\n\n\n\r\n0\r\n\r\n";
        let mut body = Chunked {
            inner: BufReader::with_capacity(1, Drip(text, false)),
            left: Left::BetweenChunks,
            size_line: Vec::new(),
        };
        let mut line = Vec::new();
        for _ in 0..1000 {
            match body.read_line(&mut line) {
                Ok(()) => break,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(String::from_utf8(line).unwrap(), "{\"a\":\"b\"}\n");
    }

    #[test]
    fn only_what_can_change_ports_counts() {
        for (line, expected) in [
            (r#"{"Type":"container","Action":"start"}"#, Told::Changed),
            (r#"{"Type":"container","Action":"die"}"#, Told::Changed),
            (r#"{"Type":"network","Action":"connect"}"#, Told::Changed),
            (
                r#"{"Type":"container","Action":"exec_create: sh"}"#,
                Told::Nothing,
            ),
            (
                r#"{"Type":"container","Action":"health_status: healthy"}"#,
                Told::Nothing,
            ),
            ("\n", Told::Nothing),
            ("{not json", Told::Changed),
        ] {
            assert_eq!(judge(line.as_bytes()), expected, "{line}");
        }
    }
}
