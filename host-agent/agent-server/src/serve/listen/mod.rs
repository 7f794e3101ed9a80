//! From sockets to requests: our own accept loop, the same for unix sockets, tcp and TLS.
//!
//! ```text
//! bind (refusals happen here, before anything of the engine is touched) -> serve: accept -> [TLS handshake] -> HTTP/1.1
//! stop: no more accepts; idle connections close; busy ones get a moment (an attach or `events` never ends by itself)
//! ```

mod first_line;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
mod unix;

use super::config::{Config, Host};
use axum::Router;
use axum::extract::Request;
use first_line::FirstLine;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tls::ReloadingTls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::Service;

/// Connections served at the same time, all listeners together; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4096;
/// For a TLS handshake.
pub(crate) const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// For a request's head; also how long an idle connection is kept. dockerd's number.
const HEAD_WITHIN: Duration = Duration::from_secs(5 * 60);
/// hyper's read buffer, and with it the largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// How long busy connections may go on after a stop.
const BUSY_WITHIN: Duration = Duration::from_secs(2);

/// One bound socket.
pub struct Listener {
    name: String,
    kind: Kind,
}

enum Kind {
    Unix(unix::Socket),
    Tcp(TcpListener, Option<Arc<ReloadingTls>>),
}

/// Why a socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {host}{}", hint(source))]
    Bind {
        host: Host,
        #[source]
        source: io::Error,
    },
    #[error(
        "cannot listen on unix://{path}: another server answers there; stop it or choose another --host"
    )]
    Answered { path: PathBuf },
    #[error("cannot listen on unix://{path}: a file that is no socket is in the way")]
    NoSocket { path: PathBuf },
    #[error("cannot give unix://{path} to group {group}: there is no such group")]
    NoGroup { path: PathBuf, group: String },
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            " (another engine or program uses this port: stop it or choose another --host)"
        }
        io::ErrorKind::AddrNotAvailable => " (this host does not have that address)",
        _ => "",
    }
}

/// All bound sockets.
pub struct Listeners {
    listeners: Vec<Listener>,
    tls: Option<Arc<ReloadingTls>>,
}

impl Listeners {
    /// Binds everything the configuration asks for, or nothing.
    pub async fn bind(config: &Config) -> Result<Listeners, ListenError> {
        let tls = match &config.tls {
            Some(files) => Some(Arc::new(ReloadingTls::load(files.clone())?)),
            None => None,
        };
        let mut listeners = Vec::with_capacity(config.hosts.len());
        for host in &config.hosts {
            let kind = match host {
                Host::Unix(path) => Kind::Unix(unix::Socket::bind(path, config.group.as_deref())?),
                Host::Tcp(address) => {
                    let listener = TcpListener::bind(address).await;
                    let listener = listener.map_err(|source| ListenError::Bind {
                        host: host.clone(),
                        source,
                    })?;
                    Kind::Tcp(listener, tls.clone())
                }
            };
            listeners.push(Listener {
                name: host.to_string(),
                kind,
            });
        }
        Ok(Listeners { listeners, tls })
    }

    /// The tcp addresses that were bound; of interest where port 0 was asked for.
    #[cfg(test)]
    fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let of_listener = |listener: &Listener| match &listener.kind {
            Kind::Tcp(listener, _) => listener.local_addr().ok(),
            Kind::Unix(_) => None,
        };
        self.listeners.iter().filter_map(of_listener).collect()
    }

    /// For SIGHUP: reads the certificates again now instead of at the next connection.
    pub fn reloader(&self) -> impl Fn() + Send + 'static {
        let tls = self.tls.clone();
        move || {
            if let Some(tls) = &tls {
                tls.reload();
            }
        }
    }

    /// Serves until `stop`; then lets busy connections end for a moment.
    pub async fn serve(self, router: Router, stop: CancellationToken) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut loops = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let serving = Serving {
                router: router.clone(),
                stop: stop.clone(),
                permits: permits.clone(),
            };
            let stop = stop.clone();
            loops.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = listener.accept_all(serving) => {}
                }
                // Removes the socket's file.
                drop(listener);
            });
        }
        while loops.join_next().await.is_some() {}
        // Every connection holds a permit: when all are back, none is left.
        let all = permits.acquire_many(MAX_CONNECTIONS as u32);
        if tokio::time::timeout(BUSY_WITHIN, all).await.is_err() {
            let busy = MAX_CONNECTIONS - permits.available_permits();
            tracing::info!(busy, "closing connections that are still in use");
        }
    }
}

/// What every connection needs.
#[derive(Clone)]
struct Serving {
    router: Router,
    stop: CancellationToken,
    permits: Arc<Semaphore>,
}

impl Listener {
    /// Never returns; dropped to stop.
    async fn accept_all(&self, serving: Serving) {
        loop {
            let permit = serving.permits.clone().acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let accepted = match &self.kind {
                Kind::Unix(socket) => socket
                    .accept()
                    .await
                    .map(|stream| serving.spawn(stream, permit)),
                Kind::Tcp(listener, None) => listener.accept().await.map(|(stream, _)| {
                    prepare_tcp(&stream);
                    serving.spawn(stream, permit);
                }),
                Kind::Tcp(listener, Some(tls)) => listener.accept().await.map(|(stream, peer)| {
                    prepare_tcp(&stream);
                    serving.spawn_tls(stream, peer, tls.clone(), permit);
                }),
            };
            if let Err(error) = accepted {
                // Out of file descriptors or memory, mostly: it passes, but not at once.
                tracing::warn!(listener = self.name, %error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers are small and must not wait; a client that vanished without a word must not stay for ever.
pub(crate) fn prepare_tcp(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
    let _ = rustix::net::sockopt::set_tcp_keepidle(stream, Duration::from_secs(30));
    let _ = rustix::net::sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15));
}

impl Serving {
    fn spawn(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        permit: OwnedSemaphorePermit,
    ) {
        let connection = self.connection(stream);
        tokio::spawn(async move {
            connection.await;
            drop(permit);
        });
    }

    fn spawn_tls(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        tls: Arc<ReloadingTls>,
        permit: OwnedSemaphorePermit,
    ) {
        let serving = self.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_WITHIN, tls.accept(stream)).await {
                Ok(Ok(stream)) => serving.connection(stream).await,
                // A port scan, a wrong certificate: the client is told by an alert, the log only where asked for.
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
            }
            drop(permit);
        });
    }

    /// One connection until it ends or has been taken over.
    fn connection(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let router = self.router.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            // A router is always ready.
            router.clone().call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_WITHIN)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(FirstLine::new(stream)), service)
            .with_upgrades();
        let stop = self.stop.clone();
        async move {
            tokio::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.cancelled() => {
                    // The request that is being answered is the last one.
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended badly");
            }
        }
    }
}
