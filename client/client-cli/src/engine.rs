//! Talks HTTP to an engine: unix socket, tcp, or tcp with mutual TLS. Each request has a connection of its own: a local
//! connect costs nothing, and hijacked streams need theirs anyway.

use crate::environment::Endpoint;
use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;

/// What we send: all at once, or as it is read.
type Body = BoxBody<Bytes, std::io::Error>;

/// The newest version of the API that we speak.
const NEWEST_VERSION: (u32, u32) = (1, 51);

/// Why the engine could not be asked, or what it answered.
#[derive(Debug)]
pub(crate) enum EngineError {
    Unreachable {
        endpoint: String,
        source: std::io::Error,
    },
    Tls {
        endpoint: String,
        source: std::io::Error,
    },
    /// The engine said no, in these words.
    Refused { status: StatusCode, message: String },
}

impl std::fmt::Display for EngineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EngineError::Unreachable { endpoint, .. } => {
                write!(f, "cannot connect to the engine at {endpoint}")
            }
            EngineError::Tls { endpoint, .. } => {
                write!(f, "no secure connection to the engine at {endpoint}")
            }
            EngineError::Refused { message, .. } => {
                write!(f, "Error response from daemon: {message}")
            }
        }
    }
}

impl std::error::Error for EngineError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EngineError::Unreachable { source, .. } | EngineError::Tls { source, .. } => {
                Some(source)
            }
            EngineError::Refused { .. } => None,
        }
    }
}

impl EngineError {
    /// What to try next.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            EngineError::Unreachable { .. } => {
                Some("is the machine running? 'machine ls' shows it, 'eval $(machine env NAME)' points here".into())
            }
            EngineError::Tls { .. } => {
                Some("DOCKER_CERT_PATH must hold ca.pem, cert.pem and key.pem of this engine's machine".into())
            }
            EngineError::Refused { .. } => None,
        }
    }

    /// Whether the engine says that it clashes with the state of things.
    pub(crate) fn is_conflict(error: &anyhow::Error) -> bool {
        matches!(
            error.downcast_ref::<EngineError>(),
            Some(EngineError::Refused {
                status: StatusCode::CONFLICT,
                ..
            })
        )
    }

    /// Whether the engine does not know the thing.
    pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
        matches!(
            error.downcast_ref::<EngineError>(),
            Some(EngineError::Refused {
                status: StatusCode::NOT_FOUND,
                ..
            })
        )
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An engine somewhere.
pub(crate) struct Engine {
    endpoint: Endpoint,
    facts: OnceCell<Facts>,
}

/// What an engine says of itself.
struct Facts {
    /// The API version both sides speak, `1.NN`.
    version: String,
    is_berth: bool,
}

impl Engine {
    pub(crate) fn new(endpoint: Endpoint) -> Engine {
        Engine {
            endpoint,
            facts: OnceCell::new(),
        }
    }

    /// The API version both sides speak, `1.NN`.
    pub(crate) async fn api_version(&self) -> Result<&str> {
        Ok(&self.facts().await?.version)
    }

    /// Whether it is ours: then it has what Docker's API has no words for.
    pub(crate) async fn is_berth(&self) -> Result<bool> {
        Ok(self.facts().await?.is_berth)
    }

    async fn facts(&self) -> Result<&Facts> {
        let facts = self.facts.get_or_try_init(|| async {
            let response = self.send_raw(Method::GET, "/_ping", None, &[]).await?;
            let theirs = response
                .headers()
                .get("api-version")
                .and_then(|value| value.to_str().ok());
            let theirs = theirs.and_then(|text| text.split_once('.'));
            let theirs =
                theirs.and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            let (major, minor) = theirs.unwrap_or(NEWEST_VERSION).min(NEWEST_VERSION);
            let server = response.headers().get(header::SERVER);
            Ok::<_, anyhow::Error>(Facts {
                version: format!("{major}.{minor}"),
                is_berth: server.is_some_and(|name| name.as_bytes().starts_with(b"Berth/")),
            })
        });
        facts.await
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        json(self.send(Method::GET, path, None, &[]).await?).await
    }

    pub(crate) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Value> {
        json(self.send(Method::POST, path, body, &[]).await?).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        json(self.send(Method::DELETE, path, None, &[]).await?).await
    }

    /// The headers of an answer without a body.
    pub(crate) async fn head(&self, path: &str) -> Result<http::HeaderMap> {
        let response = self.send(Method::HEAD, path, None, &[]).await?;
        Ok(response.headers().clone())
    }

    /// An answer whose body is read as it comes.
    pub(crate) async fn stream(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Incoming> {
        Ok(self.send(method, path, None, headers).await?.into_body())
    }

    /// Sends what `source` gives, piece by piece; the answer's body is read as it comes.
    pub(crate) async fn upload(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        headers: &[(&str, &str)],
        mut source: Box<dyn std::io::Read + Send>,
    ) -> Result<Incoming> {
        let (pieces, queue) = tokio::sync::mpsc::channel(4);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = vec![0; 64 * 1024];
                let frame = match source.read(&mut piece) {
                    Ok(0) => return,
                    Ok(count) => {
                        piece.truncate(count);
                        Ok(http_body::Frame::data(Bytes::from(piece)))
                    }
                    Err(error) => Err(error),
                };
                let failed = frame.is_err();
                // The engine may have hung up: its answer says why.
                if pieces.blocking_send(frame).is_err() || failed {
                    return;
                }
            }
        });
        let stream = futures_util::stream::unfold(queue, |mut queue| async {
            queue.recv().await.map(|frame| (frame, queue))
        });
        let path = format!("/v{}{path}", self.api_version().await?);
        let body = BodyExt::boxed(StreamBody::new(stream));
        let mut all = headers.to_vec();
        all.push(("content-type", content_type));
        let response = self.exchange(method, &path, body, &all).await?;
        Ok(response.into_body())
    }

    /// Turns the connection into a two-way stream of bytes.
    pub(crate) async fn hijack(
        &self,
        path: &str,
        body: Option<&Value>,
    ) -> Result<TokioIo<Upgraded>> {
        let headers = [("connection", "Upgrade"), ("upgrade", "tcp")];
        let response = self.send(Method::POST, path, body, &headers).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            anyhow::bail!(
                "the engine did not open a stream for {path}: it answered {}",
                response.status()
            );
        }
        Ok(TokioIo::new(
            hyper::upgrade::on(response)
                .await
                .context("the engine did not open a stream")?,
        ))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>> {
        let path = format!("/v{}{path}", self.api_version().await?);
        self.send_raw(method, &path, body, headers).await
    }

    async fn send_raw(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>> {
        let bytes = match body {
            Some(value) => Bytes::from(value.to_string()),
            None => Bytes::new(),
        };
        let mut all = headers.to_vec();
        if body.is_some() {
            all.push(("content-type", "application/json"));
        }
        let whole = Full::new(bytes).map_err(|never| match never {}).boxed();
        self.exchange(method, path, whole, &all).await
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Body,
        headers: &[(&str, &str)],
    ) -> Result<Response<Incoming>> {
        let mut sender = self.connect().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "engine")
            .header(
                header::USER_AGENT,
                concat!("berth/", env!("CARGO_PKG_VERSION")),
            );
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(body)
            .context("cannot put the request together")?;
        let response = sender.send_request(request).await;
        let response =
            response.with_context(|| format!("the engine at {} hung up", self.endpoint))?;
        let status = response.status();
        if status.is_success()
            || status == StatusCode::SWITCHING_PROTOCOLS
            || status == StatusCode::NOT_MODIFIED
        {
            return Ok(response);
        }
        let text = response.into_body().collect().await;
        let text = text.context("the engine's answer ended early")?.to_bytes();
        let message = serde_json::from_slice::<Value>(&text)
            .ok()
            .and_then(|value| value["message"].as_str().map(str::to_owned))
            .unwrap_or_else(|| format!("{status} {}", String::from_utf8_lossy(&text).trim()));
        Err(EngineError::Refused { status, message }.into())
    }

    async fn connect(&self) -> Result<SendRequest<Body>> {
        let unreachable = |source| EngineError::Unreachable {
            endpoint: self.endpoint.to_string(),
            source,
        };
        let stream: Box<dyn Stream> = match &self.endpoint {
            #[cfg(unix)]
            Endpoint::Unix(path) => Box::new(
                tokio::net::UnixStream::connect(path)
                    .await
                    .map_err(unreachable)?,
            ),
            #[cfg(not(unix))]
            Endpoint::Unix(path) => {
                anyhow::bail!("unix socket {} on a system without them", path.display())
            }
            Endpoint::Tcp { host, port, tls } => {
                let stream = TcpStream::connect((host.as_str(), *port))
                    .await
                    .map_err(unreachable)?;
                // Keys and small frames must not wait for company.
                stream.set_nodelay(true).map_err(unreachable)?;
                match tls {
                    None => Box::new(stream),
                    Some(folder) => {
                        let config = Arc::new(tls_config(folder)?);
                        let name = ServerName::try_from(host.clone())
                            .context("the engine's name is no host name")?;
                        let connector = tokio_rustls::TlsConnector::from(config);
                        let secured = connector.connect(name, stream).await;
                        Box::new(secured.map_err(|source| EngineError::Tls {
                            endpoint: self.endpoint.to_string(),
                            source,
                        })?)
                    }
                }
            }
        };
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .context("the engine does not speak HTTP")?;
        // Errors of the connection reach whoever waits for the answer.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }
}

async fn json(response: Response<Incoming>) -> Result<Value> {
    let bytes = response
        .into_body()
        .collect()
        .await
        .context("the engine's answer ended early")?
        .to_bytes();
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).context("the engine's answer is not JSON")
}

fn tls_config(folder: &Path) -> Result<rustls::ClientConfig> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read(&path)
            .with_context(|| format!("cannot read {} (DOCKER_CERT_PATH)", path.display()))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&read("ca.pem")?) {
        roots
            .add(certificate.context("ca.pem is not a certificate")?)
            .context("ca.pem is not a certificate")?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read("cert.pem")?).collect();
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")?).context("key.pem is not a key")?;
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring offers the default versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.context("cert.pem is not a certificate")?, key)
        .context("cert.pem and key.pem do not fit together")
}

/// Escapes one value of a query string, or one piece of a path.
pub(crate) fn escape(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' => {
                result.push(byte.into());
            }
            _ => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}

/// Puts a query string together from pairs.
pub(crate) fn query(pairs: &[(&str, String)]) -> String {
    let parts: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", escape(value)))
        .collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!("?{}", parts.join("&"))
    }
}
