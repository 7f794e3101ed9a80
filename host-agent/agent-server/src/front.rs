//! `host-agent front`: mutual TLS before a Docker engine that somebody else installed.
//!
//! That engine is neither restarted nor configured: what comes out of TLS goes to its unix socket as it is, and back. So
//! attach, exec and every future version of the API pass through.

use crate::serve::config::TlsFiles;
use crate::serve::listen::tls::ReloadingTls;
use crate::serve::{claim, listen, notify_manager};
use anyhow::{Context, Result};
use clap::Parser;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

/// Connections at the same time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;

/// Serves a Docker engine's unix socket over TCP to clients that show a certificate of the authority.
#[derive(Debug, Parser)]
#[command(name = "host-agent front")]
struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// The engine's socket
    #[arg(long, value_name = "SOCKET")]
    to: PathBuf,
    /// The authority whose clients are let in
    #[arg(long, value_name = "FILE")]
    tlscacert: PathBuf,
    /// This host's certificate; it is read again when it changes
    #[arg(long, value_name = "FILE")]
    tlscert: PathBuf,
    /// Its key
    #[arg(long, value_name = "FILE")]
    tlskey: PathBuf,
    /// Where to write the process's number
    #[arg(long, value_name = "FILE")]
    pidfile: Option<PathBuf>,
}

pub fn main(args: Vec<OsString>) -> ExitCode {
    let program = OsString::from("host-agent front");
    let arguments = Arguments::parse_from(std::iter::once(program).chain(args));
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host-agent front: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if let Some(path) = &arguments.pidfile {
        claim::write_pidfile(path)?;
    }
    let served = runtime.block_on(serve(arguments));
    runtime.shutdown_background();
    if let Some(path) = &arguments.pidfile {
        let _ = std::fs::remove_file(path);
    }
    served
}

/// Until SIGTERM or SIGINT; SIGHUP reads the certificates again.
async fn serve(arguments: &Arguments) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let tls = Arc::new(ReloadingTls::load(TlsFiles {
        cert: arguments.tlscert.clone(),
        key: arguments.tlskey.clone(),
        client_ca: Some(arguments.tlscacert.clone()),
    })?);
    let listener = TcpListener::bind(arguments.listen)
        .await
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    tracing::info!(to = %arguments.to.display(), "listens on {}", arguments.listen);
    notify_manager("READY=1");
    let reload = tls.clone();
    let accepting = accept_all(listener, tls, Arc::from(arguments.to.as_path()));
    tokio::pin!(accepting);
    loop {
        tokio::select! {
            () = &mut accepting => {}
            _ = hangup.recv() => reload.reload(),
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
    }
}

/// Never returns.
async fn accept_all(listener: TcpListener, tls: Arc<ReloadingTls>, engine: Arc<Path>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = permits.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, peer)) => {
                listen::prepare_tcp(&stream);
                let (tls, engine) = (tls.clone(), engine.clone());
                tokio::spawn(async move {
                    if let Err(error) = pass(stream, &tls, &engine).await {
                        tracing::debug!(%peer, %error, "a connection ended badly");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: it passes, but not at once.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One connection, from its handshake to its end.
async fn pass(stream: TcpStream, tls: &ReloadingTls, engine: &Path) -> std::io::Result<()> {
    let mut client = tokio::time::timeout(listen::HANDSHAKE_WITHIN, tls.accept(stream)).await??;
    match UnixStream::connect(engine).await {
        Ok(mut engine) => {
            tokio::io::copy_bidirectional(&mut client, &mut engine).await?;
        }
        Err(error) => {
            // Read first: closing with unread bytes resets the connection, and the answer with it.
            let mut request = [0; 8192];
            let _ = client.read(&mut request).await?;
            let message = format!(
                "the Docker engine of this host does not answer at {}: {error}",
                engine.display()
            );
            let body = serde_json::json!({ "message": message }).to_string();
            let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).await?;
            client.shutdown().await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use certs::{Authority, SubjectAlternativeName, Validity};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::net::UnixListener;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    /// An authority, and a front that trusts it.
    struct World {
        folder: tempfile::TempDir,
        authority: Authority,
        address: SocketAddr,
    }

    impl World {
        async fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let authority = Authority::create("test", Validity::days(1)).unwrap();
            let names = [SubjectAlternativeName::Address([127, 0, 0, 1].into())];
            let issued = authority
                .issue_server("front", &names, Validity::days(1))
                .unwrap();
            let file = |name: &str, text: &str| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                path
            };
            let tls = ReloadingTls::load(TlsFiles {
                cert: file("cert", &issued.certificate),
                key: file("key", issued.key.expose()),
                client_ca: Some(file("ca", authority.certificate())),
            })
            .unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let engine: Arc<Path> = folder.path().join("engine.sock").into();
            tokio::spawn(accept_all(listener, Arc::new(tls), engine));
            World {
                folder,
                authority,
                address,
            }
        }

        /// A client whose certificate `signer` signed.
        async fn client(&self, signer: &Authority) -> std::io::Result<TlsStream<TcpStream>> {
            let mut roots = rustls::RootCertStore::empty();
            let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
            roots.add(pem(self.authority.certificate())).unwrap();
            let issued = signer.issue_client("me", Validity::days(1)).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key.expose().as_bytes()).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(vec![pem(&issued.certificate)], key)
                .unwrap();
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let stream = TcpStream::connect(self.address).await?;
            TlsConnector::from(Arc::new(config))
                .connect(name, stream)
                .await
        }
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_one_end_may_close_first() {
        let world = World::new().await;
        let engine = UnixListener::bind(world.folder.path().join("engine.sock")).unwrap();
        let mut client = world.client(&world.authority).await.unwrap();
        client.write_all(b"POST /attach").await.unwrap();
        let (mut inside, _) = engine.accept().await.unwrap();
        let mut heard = [0; 12];
        inside.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"POST /attach");
        // The client has no more to say (the end of its stdin) and still hears everything.
        client.shutdown().await.unwrap();
        let mut rest = Vec::new();
        inside.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
        let much = vec![7; 1 << 20];
        inside.write_all(&much).await.unwrap();
        drop(inside);
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        assert!(back == much, "{} bytes", back.len());
    }

    #[tokio::test]
    async fn strangers_are_kept_out_and_a_dead_engine_is_told() {
        let world = World::new().await;
        let other = Authority::create("other", Validity::days(1)).unwrap();
        // TLS 1.3 tells of a refused certificate at the first read.
        let refused = match world.client(&other).await {
            Ok(mut client) => client.read(&mut [0; 16]).await.map(drop),
            Err(error) => Err(error),
        };
        assert!(refused.is_err());
        let mut client = world.client(&world.authority).await.unwrap();
        client
            .write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("does not answer at"), "{answer}");
    }
}
