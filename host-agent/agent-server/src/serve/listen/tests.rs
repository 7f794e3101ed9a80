//! Real sockets on loopback: TLS with and without client certificates, renewal, hijacked connections, stopping.

use super::*;
use crate::serve::hijack::{self, PumpEnd, StreamFormat};
use crate::serve::options::Options;
use axum::extract::Request as AxumRequest;
use axum::routing::{get, post};
use bytes::Bytes;
use certs::{Authority, SubjectAlternativeName, Validity};
use engine::runtime::StreamKind;
use engine_api::ApiVersion;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(20);

/// Certificates of one authority in a folder.
struct Certificates {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Certificates {
    fn new() -> Certificates {
        let certificates = Certificates {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::create("test", Validity::days(1)).unwrap(),
        };
        let ca = certificates.authority.certificate();
        std::fs::write(certificates.path("ca.pem"), ca).unwrap();
        certificates.renew();
        certificates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a new server certificate, by rename as provisioners do.
    fn renew(&self) -> String {
        let names = [SubjectAlternativeName::Address(
            "127.0.0.1".parse().unwrap(),
        )];
        let issued = self
            .authority
            .issue_server("server", &names, Validity::days(1))
            .unwrap();
        for (name, text) in [
            ("server-key.pem", issued.key.expose()),
            ("server.pem", &issued.certificate),
        ] {
            std::fs::write(self.path("new"), text).unwrap();
            std::fs::rename(self.path("new"), self.path(name)).unwrap();
        }
        issued.certificate
    }

    fn config(&self, verify: bool) -> Config {
        Config::from_options(Options {
            hosts: vec!["tcp://127.0.0.1:0".into()],
            tls: (!verify).then_some(true),
            tlsverify: verify.then_some(true),
            tlscacert: Some(self.path("ca.pem")),
            tlscert: Some(self.path("server.pem")),
            tlskey: Some(self.path("server-key.pem")),
            ..Options::default()
        })
        .unwrap()
    }

    /// A client that trusts this authority and shows a certificate of `shown`, if of any.
    fn client(&self, shown: Option<&Authority>) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.authority.certificate().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match shown {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let issued = authority.issue_client("me", Validity::days(1)).unwrap();
                let certificate =
                    CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(issued.key.expose().as_bytes()).unwrap();
                builder
                    .with_client_auth_cert(vec![certificate], key)
                    .unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

/// A server that runs until it is dropped.
struct Server {
    address: Option<SocketAddr>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(config: &Config, router: Router) -> Server {
        let listeners = Listeners::bind(config).await.unwrap();
        let address = listeners.tcp_addresses().first().copied();
        let stop = CancellationToken::new();
        let task = tokio::spawn(listeners.serve(router, stop.clone()));
        Server {
            address,
            stop,
            task,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address.unwrap()).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn hello() -> Router {
    Router::new().route("/hello", get(async || "hello"))
}

/// Sends a GET and reads everything until the end.
async fn ask(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &str,
) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer).unwrap())
}

async fn ask_over_tls(
    server: &Server,
    connector: &TlsConnector,
    path: &str,
) -> std::io::Result<String> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = connector.connect(name, server.connect().await).await?;
    ask(stream, path).await
}

#[tokio::test]
async fn only_certificates_of_the_authority_are_let_in() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.config(true), hello()).await;

    let known = certificates.client(Some(&certificates.authority));
    let answer = ask_over_tls(&server, &known, "/hello").await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");

    let nobody = certificates.client(None);
    assert!(ask_over_tls(&server, &nobody, "/hello").await.is_err());
    let other = Authority::create("other", Validity::days(1)).unwrap();
    let stranger = certificates.client(Some(&other));
    assert!(ask_over_tls(&server, &stranger, "/hello").await.is_err());

    let plain = ask(server.connect().await, "/hello").await.unwrap();
    assert!(
        plain.contains("Client sent an HTTP request to an HTTPS server."),
        "{plain}"
    );
    // A port scan does no harm.
    drop(server.connect().await);
    let again = ask_over_tls(&server, &known, "/hello").await.unwrap();
    assert!(again.ends_with("hello"));
}

#[tokio::test]
async fn tls_without_verify_takes_anybody() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.config(false), hello()).await;
    let nobody = certificates.client(None);
    let answer = ask_over_tls(&server, &nobody, "/hello").await.unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.config(true), hello()).await;
    let client = certificates.client(Some(&certificates.authority));
    let shown = async || {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = client.connect(name, server.connect().await).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let first = shown().await;
    assert_eq!(shown().await, first);
    let renewed = certificates.renew();
    let renewed = CertificateDer::from_pem_slice(renewed.as_bytes()).unwrap();
    assert_eq!(shown().await, renewed.to_vec());
    std::fs::write(certificates.path("server-key.pem"), "half a k").unwrap();
    assert_eq!(shown().await, renewed.to_vec());
}

#[tokio::test]
async fn wrong_files_are_refused_by_name() {
    let certificates = Certificates::new();
    let refused = async |part: &str| {
        let result = Listeners::bind(&certificates.config(true)).await;
        let error = result.err().expect("binding was to fail");
        let text = engine::error::full_message(&error);
        assert!(text.contains(part), "{text}");
    };
    std::fs::write(certificates.path("ca.pem"), "").unwrap();
    refused("holds no certificate").await;
    std::fs::remove_file(certificates.path("ca.pem")).unwrap();
    refused("cannot read the certificate authority").await;
    let key = Certificates::new().path("server-key.pem");
    let _ = std::fs::copy(key, certificates.path("server-key.pem"));
    let other = Certificates::new();
    std::fs::copy(
        other.path("server-key.pem"),
        certificates.path("server-key.pem"),
    )
    .unwrap();
    std::fs::copy(other.path("ca.pem"), certificates.path("ca.pem")).unwrap();
    refused("cannot be used together").await;
}

/// `cat` that greets first: what comes in goes out until input ends, then it says so on stderr.
fn cat() -> Router {
    Router::new().route("/cat", post(cat_handler))
}

async fn cat_handler(request: AxumRequest) -> axum::response::Response {
    let format = StreamFormat::Multiplexed;
    let content_type = format.content_type(ApiVersion::MAXIMUM);
    let (response, hijacked) = hijack::upgrade(request, content_type);
    tokio::spawn(async move {
        let hijacked = hijacked.await.unwrap();
        let (stdin, mut typed) = mpsc::channel::<Bytes>(1);
        let (printed, output) = mpsc::channel(1);
        tokio::spawn(async move {
            let greeting = (StreamKind::Stdout, Bytes::from_static(b"hi\n"));
            printed.send(greeting).await.unwrap();
            while let Some(piece) = typed.recv().await {
                if printed.send((StreamKind::Stdout, piece)).await.is_err() {
                    return;
                }
            }
            // Long after the input's end the output still goes.
            tokio::time::sleep(Duration::from_millis(50)).await;
            let farewell = (StreamKind::Stderr, Bytes::from_static(b"end of input\n"));
            printed.send(farewell).await.unwrap();
        });
        let end = hijack::pump(hijacked, format, Some(stdin), output).await;
        assert_eq!(end, PumpEnd::Output);
    });
    response
}

/// Reads frames until the end: (stream number, text).
async fn read_frames(mut stream: impl AsyncRead + Unpin) -> Vec<(u8, String)> {
    let mut frames = Vec::new();
    loop {
        let mut header = [0; 8];
        if stream.read_exact(&mut header).await.is_err() {
            return frames;
        }
        let length = u32::from_be_bytes(header[4..].try_into().unwrap());
        let mut text = vec![0; length as usize];
        stream.read_exact(&mut text).await.unwrap();
        frames.push((header[0], String::from_utf8(text).unwrap()));
    }
}

/// Attaches, types, closes only the writing side, and reads on.
async fn half_close(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut stream = BufReader::new(stream);
    stream
        .write_all(b"POST /cat HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    assert!(head.starts_with("HTTP/1.1 101 UPGRADED\r\n"), "{head}");
    let lower = head.to_ascii_lowercase();
    for line in [
        "connection: upgrade\r\n",
        "upgrade: tcp\r\n",
        "content-type: application/vnd.docker.multiplexed-stream\r\n",
    ] {
        assert!(lower.contains(line), "{head}");
    }
    stream.write_all(b"typed").await.unwrap();
    stream.flush().await.unwrap();
    stream.shutdown().await.unwrap();
    let frames = tokio::time::timeout(PATIENCE, read_frames(stream))
        .await
        .unwrap();
    let texts: Vec<(u8, &str)> = frames.iter().map(|(n, text)| (*n, text.as_str())).collect();
    assert_eq!(texts, [(1, "hi\n"), (1, "typed"), (2, "end of input\n")]);
}

#[tokio::test]
async fn the_end_of_input_leaves_output_going_over_tls() {
    let certificates = Certificates::new();
    let server = Server::start(&certificates.config(true), cat()).await;
    let client = certificates.client(Some(&certificates.authority));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = client.connect(name, server.connect().await).await.unwrap();
    half_close(stream).await;
}

fn open_config(host: String) -> Config {
    Config::from_options(Options {
        hosts: vec![host],
        ..Options::default()
    })
    .unwrap()
}

#[tokio::test]
async fn the_end_of_input_leaves_output_going_over_tcp_and_unix() {
    let server = Server::start(&open_config("tcp://127.0.0.1:0".into()), cat()).await;
    half_close(server.connect().await).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let _server = Server::start(&open_config(format!("unix://{}", path.display())), cat()).await;
    half_close(UnixStream::connect(&path).await.unwrap()).await;
}

#[tokio::test]
async fn a_client_that_does_not_ask_for_an_upgrade_gets_raw_output() {
    let server = Server::start(&open_config("tcp://127.0.0.1:0".into()), cat()).await;
    let mut stream = BufReader::new(server.connect().await);
    stream
        .write_all(b"POST /cat HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
        .await
        .unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "{head}");
    }
    assert!(head.contains(" 200 OK\r\n"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("chunked"), "{head}");
    let frames = tokio::time::timeout(PATIENCE, read_frames(stream))
        .await
        .unwrap();
    let texts: Vec<&str> = frames.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(texts, ["hi\n", "body", "end of input\n"]);
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_bounds_busy_ones() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let router = hello().route(
        "/for-ever",
        get(async || -> &'static str { std::future::pending().await }),
    );
    let mut server =
        Server::start(&open_config(format!("unix://{}", path.display())), router).await;
    let mut idle = UnixStream::connect(&path).await.unwrap();
    idle.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut some = [0; 16];
    idle.read_exact(&mut some).await.unwrap();
    let mut busy = UnixStream::connect(&path).await.unwrap();
    busy.write_all(b"GET /for-ever HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    server.stop.cancel();
    tokio::time::timeout(PATIENCE, &mut server.task)
        .await
        .expect("the stop is bounded")
        .unwrap();
    assert!(!Path::new(&path).exists(), "the socket's file is gone");
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let first = Server::start(&open_config("tcp://127.0.0.1:0".into()), hello()).await;
    let host = format!("tcp://{}", first.address.unwrap());
    let error = Listeners::bind(&open_config(host.clone()))
        .await
        .err()
        .unwrap();
    let text = engine::error::full_message(&error);
    assert!(
        text.contains(&host) && text.contains("another engine or program"),
        "{text}"
    );
}

#[tokio::test]
async fn an_endless_head_is_cut_off() {
    let server = Server::start(&open_config("tcp://127.0.0.1:0".into()), hello()).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET /hello HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    let piece = vec![b'x'; 64 * 1024];
    // The server closes after some pieces; writing then fails sooner or later.
    for _ in 0..16 {
        if stream.write_all(&piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.contains(" 431 "), "{answer}");
}
