//! Questions that no network of the container answers: asked of other servers, in their order, over what the client used.

use super::message::{Code, outcome_of};
use crate::network::namespace;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};

/// Docker's patience with one server.
const PATIENCE: Duration = Duration::from_secs(4);
/// Docker asks no more than three.
const SERVERS: usize = 3;
/// How long the host's list of servers is believed.
const FRESH: Duration = Duration::from_secs(2);
const PORT: u16 = 53;

/// How the client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// The host's own servers.
pub(crate) struct Upstream {
    fixed: Option<Vec<SocketAddr>>,
    known: Mutex<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Upstream {
    /// `fixed`: these and not those of the host's /etc/resolv.conf.
    pub(crate) fn new(fixed: Option<Vec<SocketAddr>>) -> Upstream {
        Upstream {
            fixed,
            known: Mutex::default(),
        }
    }

    /// `own`: the container's choice; empty for the host's.
    fn servers(&self, own: &[IpAddr]) -> Vec<SocketAddr> {
        if !own.is_empty() {
            // Ourselves, that would be for ever.
            let others = own
                .iter()
                .filter(|address| **address != IpAddr::V4(super::server::ADDRESS));
            return others
                .map(|address| SocketAddr::new(*address, PORT))
                .collect();
        }
        if let Some(fixed) = &self.fixed {
            return fixed.clone();
        }
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match &*known {
            Some((at, servers)) if at.elapsed() < FRESH => servers.clone(),
            _ => {
                let servers = crate::network::resolver::servers();
                let servers: Vec<SocketAddr> = servers
                    .into_iter()
                    .map(|address| SocketAddr::new(address, PORT))
                    .collect();
                *known = Some((Instant::now(), servers.clone()));
                servers
            }
        }
    }

    /// The answer of the first server that has a useful one; `None`: none had. The servers of the container's choice are
    /// asked from its `namespace`: they are those that it reaches itself.
    pub(super) async fn ask(
        &self,
        own: &[IpAddr],
        namespace: &Path,
        query: &[u8],
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let from = (!own.is_empty()).then_some(namespace);
        let mut last = None;
        for server in self.servers(own).into_iter().take(SERVERS) {
            let asked = async {
                match transport {
                    Transport::Udp => over_udp(server, from, query).await,
                    Transport::Tcp => over_tcp(server, from, query).await,
                }
            };
            match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(response)) => {
                    let code = outcome_of(&response, query);
                    // Another server may know more than one that failed or does not want to.
                    let useless = [Code::ServerFailure as u8, Code::Refused as u8];
                    if code.is_some_and(|code| !useless.contains(&code)) {
                        return Some(response);
                    }
                    last = Some(response);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "a DNS server does not answer"),
                Err(_) => tracing::debug!(%server, "a DNS server does not answer in time"),
            }
        }
        last
    }
}

/// A socket of the namespace `from`, or of the host.
async fn socket<T: Send + 'static>(
    from: Option<&Path>,
    open: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let Some(namespace) = from.map(Path::to_owned) else {
        return open();
    };
    tokio::task::spawn_blocking(move || namespace::within(&namespace, open))
        .await?
        .map_err(io::Error::other)?
}

async fn over_udp(server: SocketAddr, from: Option<&Path>, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own for each question: nobody can guess where the answer is expected.
    let open = move || {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let socket = UdpSocket::from_std(socket(from, open).await?)?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if outcome_of(&buffer[..length], query).is_some() {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, from: Option<&Path>, query: &[u8]) -> io::Result<Vec<u8>> {
    let open = move || match server {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let mut stream = socket(from, open).await?.connect(server).await?;
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(query);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut response = vec![0; usize::from(length)];
    stream.read_exact(&mut response).await?;
    match outcome_of(&response, query) {
        Some(_) => Ok(response),
        None => Err(io::Error::other("it answered something else")),
    }
}
