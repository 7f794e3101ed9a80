mod mirrors;
mod patience;
mod push;
mod search;
mod tls;

use super::*;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A small honest HTTP server: `answer` gets the request's first line and headers (lower-case) and says what goes back,
/// byte for byte; then the connection is closed.
struct Fake {
    address: String,
    /// First lines, with the Authorization header behind them.
    seen: Arc<Mutex<Vec<String>>>,
    /// With TLS from the next connection on, or without.
    tls: Arc<Mutex<Option<tokio_rustls::TlsAcceptor>>>,
}

struct Asked {
    method: String,
    path: String,
    body: Vec<u8>,
    headers: HashMap<String, String>,
    /// How often this path was asked for before.
    times: usize,
}

impl Asked {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Fake {
    async fn start(answer: impl Fn(&str, &Asked) -> Vec<u8> + Send + Sync + 'static) -> Fake {
        Fake::start_with(None, answer).await
    }

    /// The same with TLS.
    async fn start_with(
        tls: Option<tokio_rustls::TlsAcceptor>,
        answer: impl Fn(&str, &Asked) -> Vec<u8> + Send + Sync + 'static,
    ) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, host) = (seen.clone(), address.clone());
        let answer = Arc::new(answer);
        let tls = Arc::new(Mutex::new(tls));
        let has_tls = tls.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, host, answer) = (log.clone(), host.clone(), answer.clone());
                let tls = has_tls.lock().expect("not poisoned").clone();
                tokio::spawn(async move {
                    let mut first = [0];
                    let _ = stream.peek(&mut first).await;
                    match tls {
                        None => serve(stream, &host, &log, &*answer).await,
                        // As Go's server does it.
                        Some(_) if first[0] != 0x16 => {
                            let text = b"Client sent an HTTP request to an HTTPS server.\n";
                            let refused =
                                |_: &str, _: &Asked| response("400 Bad Request", "", text);
                            serve(stream, &host, &log, &refused).await;
                        }
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &host, &log, &*answer).await;
                            }
                        }
                    }
                });
            }
        });
        Fake { address, seen, tls }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

/// One request and its answer.
async fn serve(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    host: &str,
    log: &Mutex<Vec<String>>,
    answer: &(impl Fn(&str, &Asked) -> Vec<u8> + ?Sized),
) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&buffer[..count]),
            _ => return,
        }
        // The start of a TLS handshake: nobody here speaks that.
        if bytes[0] == 0x16 {
            return;
        }
    };
    let mut body = bytes.split_off(head);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default().to_owned();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers
        .get("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    while body.len() < length {
        match stream.read(&mut buffer).await {
            Ok(count) if count > 0 => body.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
    let mut words = first.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let asked_for = match method.as_str() {
        "GET" => path.clone(),
        other => format!("{other} {path}"),
    };
    let authorization = headers.get("authorization").map_or("", String::as_str);
    let times = {
        let mut log = log.lock().expect("not poisoned");
        let times = log
            .iter()
            .filter(|line: &&String| line.starts_with(&format!("{asked_for} [")))
            .count();
        log.push(format!("{asked_for} [{authorization}]"));
        times
    };
    let asked = Asked {
        method,
        path,
        body,
        headers,
        times,
    };
    let _ = stream.write_all(&answer(host, &asked)).await;
    let _ = stream.shutdown().await;
}

fn response(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn registry_with(mirrors: &[String]) -> HttpRegistry {
    quick(RegistryOptions {
        mirrors: mirrors.to_vec(),
        ..RegistryOptions::default()
    })
}

/// One that waits only as long as it is asked to.
fn quick(options: RegistryOptions) -> HttpRegistry {
    HttpRegistry::with_time(options, Duration::from_millis(1), Arc::new(HostTime))
        .expect("good options")
}

fn reference(text: &str) -> Reference {
    Reference::parse(text)
        .expect("a good reference")
        .or_latest()
}

fn user() -> Credentials {
    Credentials {
        username: "me".into(),
        password: "secret".into(),
        ..Credentials::default()
    }
}

/// Asks for a blob of this content, which somebody has, and reads what comes.
async fn fetch_blob(
    registry: &HttpRegistry,
    name: &Reference,
    content: &[u8],
    credentials: Option<&Credentials>,
) -> std::io::Result<Vec<u8>> {
    let (digest, size) = (digest_of(content), content.len() as u64);
    let stream = registry
        .blob(&name.repository, &digest, size, 0, credentials)
        .await
        .expect("somebody has it");
    read(stream).await
}

const MANIFEST: &[u8] = b"{\"schemaVersion\":2,\"manifests\":[]}";

async fn read(mut stream: ByteStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used_for_what_follows() {
    let fake = Fake::start(|host, asked| {
        if asked.path.starts_with("/token") {
            assert_eq!(asked.header("authorization"), "Basic bWU6c2VjcmV0");
            assert!(asked.path.contains("service=s") && asked.path.contains("repository%3Aa%3Apull"));
            return response("200 OK", "", b"{\"token\":\"t0k\",\"expires_in\":300}");
        }
        match asked.header("authorization") {
            "Bearer t0k" => response(
                "200 OK",
                "Content-Type: application/vnd.oci.image.manifest.v1+json; x=y\r\n",
                MANIFEST,
            ),
            _ => response(
                "401 Unauthorized",
                &format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:a:pull\"\r\n"),
                b"{\"errors\":[{\"code\":\"UNAUTHORIZED\"}]}",
            ),
        }
    })
    .await;
    let registry = registry_with(&[]);
    let name = reference(&format!("{}/a", fake.address));
    for _ in 0..2 {
        let manifest = registry.manifest(&name, Some(&user())).await.expect("good");
        assert_eq!(manifest.bytes, MANIFEST);
        assert_eq!(
            manifest.media_type,
            "application/vnd.oci.image.manifest.v1+json"
        );
    }
    let tokens = fake
        .seen()
        .iter()
        .filter(|line| line.starts_with("/token"))
        .count();
    assert_eq!(tokens, 1);
}

#[tokio::test]
async fn basic_credentials_are_sent_when_asked_for_and_refusals_have_dockers_words() {
    let fake = Fake::start(|_, asked| match asked.header("authorization") {
        "Basic bWU6c2VjcmV0" => response("200 OK", "", MANIFEST),
        _ => response(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"x\"\r\n",
            b"",
        ),
    })
    .await;
    let registry = registry_with(&[]);
    let name = reference(&format!("{}/a", fake.address));
    registry.manifest(&name, Some(&user())).await.expect("good");
    let error = registry.manifest(&name, None).await.expect_err("nobody");
    assert_eq!(error.to_string(), "no basic auth credentials");
    let mut wrong = user();
    wrong.password = "guess".into();
    let error = registry
        .manifest(&name, Some(&wrong))
        .await
        .expect_err("wrong");
    assert!(error.to_string().starts_with("unauthorized: "), "{error}");
    registry.login(&fake.address, &user()).await.expect("right");
    assert!(registry.login(&fake.address, &wrong).await.is_err());
}

#[tokio::test]
async fn a_redirect_to_another_host_gets_no_credentials() {
    let content = b"the blob".as_slice();
    let storage = Fake::start(move |_, _| response("200 OK", "", content)).await;
    let there = storage.address.clone();
    let fake = Fake::start(move |_, asked| match asked.header("authorization") {
        "" => response(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"x\"\r\n",
            b"",
        ),
        _ => response(
            "307 Temporary Redirect",
            &format!("Location: http://{there}/stored\r\n"),
            b"",
        ),
    })
    .await;
    let registry = registry_with(&[]);
    let name = reference(&format!("{}/a", fake.address));
    let got = fetch_blob(&registry, &name, content, Some(&user())).await;
    assert_eq!(got.expect("good"), content);
    assert_eq!(storage.seen(), ["/stored []"]);
}

#[tokio::test]
async fn temporary_failures_are_tried_again_and_lasting_ones_are_told() {
    let fake = Fake::start(|_, asked| match (asked.path.as_str(), asked.times) {
        ("/v2/slow/manifests/latest", 0) => {
            response("429 Too Many Requests", "Retry-After: 0\r\n", b"")
        }
        ("/v2/slow/manifests/latest", 1) => response("503 Service Unavailable", "", b""),
        ("/v2/slow/manifests/latest", _) => response("200 OK", "", MANIFEST),
        ("/v2/full/manifests/latest", _) => response(
            "429 Too Many Requests",
            "",
            b"{\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"slow down\"}]}",
        ),
        ("/v2/huge/manifests/latest", _) => response("200 OK", "", &vec![b' '; 5 << 20]),
        _ => response(
            "404 Not Found",
            "",
            b"{\"errors\":[{\"code\":\"MANIFEST_UNKNOWN\",\"message\":\"manifest unknown\"}]}",
        ),
    })
    .await;
    let registry = registry_with(&[]);
    let manifest = async |name: &str| {
        registry
            .manifest(&reference(&format!("{}/{name}", fake.address)), None)
            .await
    };
    manifest("slow").await.expect("the third time");
    let error = manifest("full").await.expect_err("never");
    assert_eq!(error.to_string(), "toomanyrequests: slow down");
    let error = manifest("none").await.expect_err("missing");
    assert_eq!(error.to_string(), "manifest unknown: manifest unknown");
    let error = manifest("huge").await.expect_err("too large");
    assert!(error.to_string().contains("more than"), "{error}");
    let by_digest = Repository::parse(&format!("{}/slow", fake.address))
        .expect("good")
        .with_digest(digest_of(b"another"));
    assert!(registry.manifest(&by_digest, None).await.is_err());
}

#[tokio::test]
async fn a_registry_without_tls_is_not_waited_for() {
    // As Go's server does it, TLS is answered with a line of plain text.
    let fake = Fake::start(|_, _| response("200 OK", "", MANIFEST)).await;
    let registry = HttpRegistry::new(RegistryOptions::default()).expect("good options");
    let begin = std::time::Instant::now();
    registry
        .manifest(&reference(&format!("{}/a", fake.address)), None)
        .await
        .expect("without TLS");
    // The five attempts would have waited 7.5 seconds in between.
    assert!(begin.elapsed() < Duration::from_secs(5));
}

/// Serves `content` and breaks the connection after `piece` bytes each time.
async fn broken_server(content: &'static [u8], piece: usize, with_ranges: bool) -> Fake {
    Fake::start(move |_, asked| {
        let start = asked
            .header("range")
            .strip_prefix("bytes=")
            .and_then(|range| range.trim_end_matches('-').parse::<usize>().ok())
            .filter(|_| with_ranges);
        let rest = &content[start.unwrap_or(0)..];
        let status = match start {
            Some(start) => format!(
                "206 Partial Content\r\nContent-Range: bytes {start}-{}/{}",
                content.len() - 1,
                content.len()
            ),
            None => "200 OK".to_owned(),
        };
        // Without ranges each attempt gets further.
        let end = match with_ranges {
            true => piece.min(rest.len()),
            false => (piece * (asked.times + 1)).min(rest.len()),
        };
        let mut answer = response(&status, "", rest);
        answer.truncate(answer.len() - rest.len() + end);
        answer
    })
    .await
}

#[tokio::test]
async fn a_broken_download_goes_on_where_it_was() {
    let content: &'static [u8] = Vec::leak((0..250_000u32).map(|n| n as u8).collect());
    for with_ranges in [true, false] {
        let fake = broken_server(content, 60_000, with_ranges).await;
        let registry = registry_with(&[]);
        let name = reference(&format!("{}/a", fake.address));
        let got = fetch_blob(&registry, &name, content, None).await;
        assert!(got.expect("in the end") == content, "ranges: {with_ranges}");
        assert!(fake.seen().len() >= 5, "it broke each time");
    }
    // When nothing more comes it ends with an error.
    let fake = broken_server(content, 0, true).await;
    let registry = registry_with(&[]);
    let name = reference(&format!("{}/a", fake.address));
    let got = fetch_blob(&registry, &name, content, None).await;
    assert!(got.is_err());
}

#[tokio::test]
async fn mirrors_are_asked_in_order_without_credentials() {
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        listener.local_addr().expect("bound").to_string()
    };
    let empty = Fake::start(|_, _| response("404 Not Found", "", b"")).await;
    let full = Fake::start(|_, asked| match asked.path.ends_with("latest") {
        true => response("200 OK", "", MANIFEST),
        false => response("404 Not Found", "", b""),
    })
    .await;
    let mirrors = [&refusing, &empty.address, &full.address].map(|host| format!("http://{host}"));
    let registry = registry_with(&mirrors);
    for _ in 0..2 {
        registry
            .manifest(&reference("alpine"), Some(&user()))
            .await
            .expect("the third has it");
    }
    assert_eq!(empty.seen().len(), 2);
    assert!(
        full.seen().iter().all(|line| line.ends_with("[]")),
        "{:?}",
        full.seen()
    );
}

#[tokio::test]
async fn a_mirror_that_asks_gets_the_credentials_as_dockerd_gives_them() {
    let mirror = Fake::start(|_, asked| match asked.header("authorization") {
        "Basic bWU6c2VjcmV0" => response("200 OK", "", MANIFEST),
        _ => response(
            "401 Unauthorized",
            "WWW-Authenticate: Basic realm=\"x\"\r\n",
            b"",
        ),
    })
    .await;
    let registry = registry_with(&[format!("http://{}", mirror.address)]);
    registry
        .manifest(&reference("alpine"), Some(&user()))
        .await
        .expect("signed in");
}

#[tokio::test]
async fn an_insecure_registry_is_reached_without_tls_and_tags_come_in_pages() {
    let fake = Fake::start(|_, asked| match asked.path.contains("last=") {
        false => response(
            "200 OK",
            "Link: </v2/a/tags/list?last=2&n=2>; rel=\"next\"\r\n",
            b"{\"tags\":[\"1\",\"2\"]}",
        ),
        true => response("200 OK", "", b"{\"tags\":[\"3\"]}"),
    })
    .await;
    let registry = registry_with(&[]);
    let name = reference(&format!("{}/a", fake.address));
    let tags = registry.tags(&name.repository, None).await.expect("good");
    assert_eq!(tags, ["1", "2", "3"]);
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    let registry = registry_with(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let error = registry
        .manifest(&reference(&format!("{address}/a")), None)
        .await
        .expect_err("nobody");
    let text = engine::error::full_message(&error);
    assert!(text.contains(&address.to_string()), "{text}");
    assert!(text.contains("refused"), "{text}");
}
