//! Asks an engine two questions over mutual TLS: are you there, and which version are you? Blocking and small on
//! purpose: `machine` starts no async runtime, so that verbs that need no VM answer at once.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::layout;

/// Far more than `/version` says.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why an engine gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("the certificates in {} cannot be used", folder.display())]
    Certificates {
        folder: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the engine at {address} did not answer")]
    Talk {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the engine at {address} answered {path} with status {status}: {body}")]
    Status {
        address: SocketAddr,
        path: &'static str,
        status: u16,
        body: String,
    },
    #[error("the answer of {address} cannot be understood: {why}")]
    Nonsense { address: SocketAddr, why: String },
}

impl EngineError {
    /// The certificates do not fit: waiting longer will not help.
    pub fn is_about_trust(&self) -> bool {
        match self {
            EngineError::File { .. } | EngineError::Certificates { .. } => true,
            EngineError::Talk { source, .. } => source
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>()),
            _ => false,
        }
    }
}

/// The part of `/version` that is shown.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct EngineVersion {
    #[serde(rename = "Version")]
    pub version: String,
    #[serde(rename = "ApiVersion", default)]
    pub api_version: String,
}

/// An engine and the certificates to talk to it.
#[derive(Debug, Clone)]
pub struct EngineClient {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl EngineClient {
    /// `folder` holds ca.pem, cert.pem and key.pem, as `DOCKER_CERT_PATH` does.
    pub fn new(folder: &Path, ip: IpAddr, port: u16) -> Result<EngineClient, EngineError> {
        let unusable = |source| EngineError::Certificates {
            folder: folder.to_path_buf(),
            source,
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&folder.join(layout::CA_CERT))? {
            roots.add(certificate).map_err(unusable)?;
        }
        let chain = certificates(&folder.join(layout::CLIENT_CERT))?;
        let key_path = folder.join(layout::CLIENT_KEY);
        let key = PrivateKeyDer::from_pem_file(&key_path).map_err(|source| EngineError::File {
            path: key_path,
            source,
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        Ok(EngineClient {
            address: SocketAddr::new(ip, port),
            tls: Arc::new(tls),
        })
    }

    /// The certificates, for those who talk longer than one question and answer.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.tls.clone()
    }

    /// `GET /version`.
    pub fn version(&self, timeout: Duration) -> Result<EngineVersion, EngineError> {
        let body = self.get("/version", timeout)?;
        serde_json::from_slice(&body).map_err(|error| self.nonsense(error.to_string()))
    }

    /// `GET /_ping`.
    pub fn ping(&self, timeout: Duration) -> Result<(), EngineError> {
        self.get("/_ping", timeout).map(drop)
    }

    fn nonsense(&self, why: impl Into<String>) -> EngineError {
        EngineError::Nonsense {
            address: self.address,
            why: why.into(),
        }
    }

    fn get(&self, path: &'static str, timeout: Duration) -> Result<Vec<u8>, EngineError> {
        let address = self.address;
        let deadline = Instant::now() + timeout;
        let socket = TcpStream::connect_timeout(&address, timeout)
            .map_err(|source| EngineError::Connect { address, source })?;
        let talk = |source| EngineError::Talk { address, source };
        let connection =
            ClientConnection::new(self.tls.clone(), ServerName::IpAddress(address.ip().into()))
                .map_err(|error| talk(io::Error::other(error)))?;
        let socket = UntilDeadline { socket, deadline };
        let mut stream = StreamOwned::new(connection, socket);
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: machine/{}\r\nConnection: close\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        )
        .and_then(|()| stream.flush())
        .map_err(talk)?;
        let answer = read_answer(&mut stream).map_err(talk)?;
        let (status, body) = parse_answer(&answer).map_err(|why| self.nonsense(why))?;
        if status != 200 {
            let body = String::from_utf8_lossy(&body).trim().to_owned();
            return Err(EngineError::Status {
                address,
                path,
                status,
                body,
            });
        }
        Ok(body)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EngineError> {
    let failed = |source| EngineError::File {
        path: path.to_path_buf(),
        source,
    };
    let list: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect();
    let list = list.map_err(failed)?;
    if list.is_empty() {
        return Err(failed(rustls::pki_types::pem::Error::NoItemsFound));
    }
    Ok(list)
}

/// A socket whose every read and write ends at one deadline, so that a slow drip cannot hold us.
struct UntilDeadline {
    socket: TcpStream,
    deadline: Instant,
}

impl UntilDeadline {
    fn left(&self) -> io::Result<Duration> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")),
            left => Ok(left),
        }
    }
}

/// A timed-out socket says "would block" on Unix.
fn as_timeout(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "timed out"),
        _ => error,
    }
}

impl Read for UntilDeadline {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buffer).map_err(as_timeout)
    }
}

impl Write for UntilDeadline {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(buffer).map_err(as_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Reads until the answer is whole or the engine closes.
fn read_answer(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = [0u8; 8192];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            // Closing without TLS's goodbye: whether something is missing shows in parse_answer.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !answer.is_empty() => {
                return Ok(answer);
            }
            Err(error) => return Err(error),
        }
        if answer.len() > MAX_ANSWER_BYTES {
            return Err(io::Error::other("the answer is far too long"));
        }
        if parse_answer(&answer).is_ok_and(|_| is_delimited(&answer)) {
            return Ok(answer);
        }
    }
}

/// The answer says where it ends, so there is no need to wait for the engine to close.
fn is_delimited(answer: &[u8]) -> bool {
    find(answer, b"\r\n\r\n").is_some_and(|end| {
        let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
        head.contains("\r\ncontent-length:") || head.contains("\r\ntransfer-encoding: chunked")
    })
}

/// Status and body of a whole HTTP/1.1 answer.
fn parse_answer(answer: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let end = find(answer, b"\r\n\r\n").ok_or("the head does not end")?;
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| "the head is not text")?;
    let body = &answer[end + 4..];
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|status| status.parse().ok())
        .ok_or("it is not HTTP")?;
    let header = |wanted: &str| {
        lines.clone().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    if header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        return Ok((status, unchunk(body)?));
    }
    match header("content-length") {
        Some(length) => {
            let length: usize = length.parse().map_err(|_| "bad Content-Length")?;
            let body = body.get(..length).ok_or("the body is cut off")?;
            Ok((status, body.to_vec()))
        }
        None => Ok((status, body.to_vec())),
    }
}

fn unchunk(mut body: &[u8]) -> Result<Vec<u8>, String> {
    let mut whole = Vec::new();
    loop {
        let end = find(body, b"\r\n").ok_or("a chunk is cut off")?;
        let size = std::str::from_utf8(&body[..end])
            .ok()
            .and_then(|line| line.split(';').next())
            .and_then(|size| usize::from_str_radix(size.trim(), 16).ok())
            .ok_or("bad chunk size")?;
        if size == 0 {
            return Ok(whole);
        }
        let chunk = body[end + 2..].get(..size).ok_or("a chunk is cut off")?;
        whole.extend_from_slice(chunk);
        body = body.get(end + 2 + size + 2..).ok_or("a chunk is cut off")?;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(answer: &str, expected: Result<(u16, &str), &str>) {
        let parsed = parse_answer(answer.as_bytes());
        let expected = expected
            .map(|(status, body)| (status, body.as_bytes().to_vec()))
            .map_err(str::to_owned);
        assert_eq!(parsed, expected, "{answer:?}");
    }

    #[test]
    fn answers() {
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK",
            Ok((200, "OK")),
        );
        check("HTTP/1.1 404 Not Found\r\n\r\nno", Ok((404, "no")));
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
            Ok((200, "abcde")),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nOK",
            Err("the body is cut off"),
        );
        check(
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            Err("bad Content-Length"),
        );
        check(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffff\r\nab",
            Err("a chunk is cut off"),
        );
        check("SSH-2.0-x\r\n\r\n", Err("it is not HTTP"));
        check("HTTP/1.1 200 OK\r\n", Err("the head does not end"));
    }
}
