//! One container's DNS server.

use super::directory::Directory;
use super::forward::{Transport, Upstream};
use super::message::{self, A, AAAA, Code, PTR, Question, Record};
use crate::network::namespace::{failed, within};
use crate::network::netlink::Socket;
use crate::network::nftables;
use engine::id::NetworkId;
use engine::networks::NetworkError;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

/// Where programs find it.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
/// Questions of one container that may wait for other servers; more are not answered, and asked again by their clients.
const WAITING: usize = 256;
const CONNECTIONS: usize = 64;
/// A TCP client that says nothing for so long is left.
const SILENCE: Duration = Duration::from_secs(10);
/// Longer datagrams are cut, and then not understood.
const LARGEST_QUERY: usize = 4096;
const PAUSE: Duration = Duration::from_millis(100);

/// What a container sees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Its networks with their names, the way out first.
    pub networks: Vec<(NetworkId, String)>,
    /// Alias -> container.
    pub links: BTreeMap<String, String>,
    /// Other servers of its own choice, asked from inside; empty for the host's.
    pub servers: Vec<IpAddr>,
    /// Whether anybody outside is asked: not for a container without a way out.
    pub outside: bool,
}

struct Shared {
    namespace: PathBuf,
    view: RwLock<View>,
    directory: Arc<Directory>,
    upstream: Arc<Upstream>,
    turn: AtomicUsize,
    waiting: Semaphore,
}

/// Serves while it lives.
pub(crate) struct Server {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Server {
    /// Opens the sockets in the namespace and serves them on the current runtime.
    pub(crate) fn start(
        namespace: &Path,
        directory: Arc<Directory>,
        upstream: Arc<Upstream>,
        view: View,
    ) -> Result<Server, NetworkError> {
        let (udp, tcp) = within(namespace, open)?
            .map_err(|error| failed("open the DNS server of a container", error))?;
        let shared = Arc::new(Shared {
            namespace: namespace.to_owned(),
            view: RwLock::new(view),
            directory,
            upstream,
            turn: AtomicUsize::new(0),
            waiting: Semaphore::new(WAITING),
        });
        let start = || -> io::Result<_> {
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            Ok((UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?))
        };
        let (udp, tcp) = start().map_err(|error| failed("serve DNS to a container", error))?;
        let tasks = [
            tokio::spawn(datagrams(shared.clone(), Arc::new(udp))),
            tokio::spawn(connections(shared.clone(), tcp)),
        ];
        Ok(Server { shared, tasks })
    }

    /// The container's networks have changed.
    pub(crate) fn update(&self, view: View) {
        *self
            .shared
            .view
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = view;
    }
}

/// On a thread in the namespace.
fn open() -> io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
    let udp = std::net::UdpSocket::bind((ADDRESS, 0))?;
    let tcp = std::net::TcpListener::bind((ADDRESS, 0))?;
    let (udp_port, tcp_port) = (udp.local_addr()?.port(), tcp.local_addr()?.port());
    let redirected = Socket::netfilter()
        .and_then(|mut socket| nftables::dns::redirect(&mut socket, ADDRESS, udp_port, tcp_port));
    match redirected {
        Ok(()) => Ok((udp, tcp)),
        Err(error) => {
            // A kernel without NAT in namespaces: then the port itself, which the container cannot use any more.
            tracing::debug!(%error, "questions to 127.0.0.11 are not redirected; port 53 is bound");
            Ok((
                std::net::UdpSocket::bind((ADDRESS, PORT))?,
                std::net::TcpListener::bind((ADDRESS, PORT))?,
            ))
        }
    }
}

enum Known {
    /// Ours to answer, if only with "there is no such record".
    Here(Vec<Record>),
    /// Not one of ours.
    Elsewhere,
}

impl Shared {
    fn view(&self) -> View {
        self.view
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    fn known(&self, view: &View, question: &Question) -> Known {
        if question.kind == PTR {
            let found = message::reversed(&question.name).and_then(|address| {
                let mut networks = view.networks.iter();
                networks.find_map(|(id, _)| self.directory.name_of(id, &address))
            });
            return match found {
                Some(name) => Known::Here(vec![Record::Name(name)]),
                None => Known::Elsewhere,
            };
        }
        let Some(mut addresses) = self.addresses(view, &question.name) else {
            return Known::Elsewhere;
        };
        addresses.retain(|address| match question.kind {
            A => address.is_ipv4(),
            AAAA => address.is_ipv6(),
            _ => false,
        });
        if !addresses.is_empty() {
            // Everybody's turn to be first.
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
            addresses.rotate_left(turn);
        }
        Known::Here(addresses.into_iter().map(Record::Address).collect())
    }

    fn addresses(&self, view: &View, name: &str) -> Option<Vec<IpAddr>> {
        let name = view.links.get(name).map_or(name, String::as_str);
        let name = name.to_lowercase();
        let in_any = |name: &str| {
            let mut networks = view.networks.iter();
            networks.find_map(|(id, _)| self.directory.find(id, name))
        };
        in_any(&name).or_else(|| {
            // `name.network`: in that one alone. Names of networks may have dots.
            view.networks.iter().find_map(|(id, network)| {
                let head = name
                    .strip_suffix(&network.to_lowercase())?
                    .strip_suffix('.')?;
                self.directory.find(id, head)
            })
        })
    }

    /// The answer, if there is to be one.
    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = message::read(query)?;
        let limit = match transport {
            Transport::Udp => question.udp_size,
            Transport::Tcp => usize::from(u16::MAX),
        };
        let view = self.view();
        match self.known(&view, &question) {
            Known::Here(records) => Some(message::answer(
                query,
                &question,
                Code::Fine,
                &records,
                limit,
            )),
            Known::Elsewhere if view.outside => {
                let _waiting = self.waiting.acquire().await.ok()?;
                let asked = self
                    .upstream
                    .ask(&view.servers, &self.namespace, query, transport);
                let answer = asked.await;
                answer.or_else(|| {
                    Some(message::answer(
                        query,
                        &question,
                        Code::ServerFailure,
                        &[],
                        limit,
                    ))
                })
            }
            Known::Elsewhere => Some(message::answer(
                query,
                &question,
                Code::ServerFailure,
                &[],
                limit,
            )),
        }
    }

    /// As [`Shared::answer`], without waiting for anybody; `None`: it has to.
    fn answer_at_once(&self, query: &[u8]) -> Option<Vec<u8>> {
        let question = message::read(query)?;
        let view = self
            .view
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match self.known(&view, &question) {
            Known::Here(records) => Some(message::answer(
                query,
                &question,
                Code::Fine,
                &records,
                question.udp_size,
            )),
            Known::Elsewhere => None,
        }
    }
}

/// What is no question we can read gets the header back with "not implemented", if it can be answered at all.
fn not_understood(query: &[u8]) -> Option<Vec<u8>> {
    let header = query.get(..12).filter(|header| header[2] & 0x80 == 0)?;
    let mut reply = header.to_vec();
    reply[2] |= 0x80;
    reply[3] = Code::NotImplemented as u8;
    reply[4..].fill(0);
    Some(reply)
}

async fn datagrams(shared: Arc<Shared>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; LARGEST_QUERY];
    let mut asking = JoinSet::new();
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => match received {
                Ok((length, from)) => {
                    let query = &buffer[..length];
                    let reply = match message::read(query) {
                        None => not_understood(query),
                        Some(_) => shared.answer_at_once(query),
                    };
                    if let Some(reply) = reply {
                        let _ = socket.send_to(&reply, from).await;
                    } else if asking.len() < WAITING && message::read(query).is_some() {
                        let (shared, socket, query) = (shared.clone(), socket.clone(), query.to_vec());
                        asking.spawn(async move {
                            if let Some(reply) = shared.answer(&query, Transport::Udp).await {
                                let _ = socket.send_to(&reply, from).await;
                            }
                        });
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "the DNS server cannot receive");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = asking.join_next() => {}
        }
    }
}

async fn connections(shared: Arc<Shared>, listener: TcpListener) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let shared = shared.clone();
                    open.spawn(async move {
                        // A broken connection is its client's affair.
                        let _ = connection(&shared, stream).await;
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "the DNS server cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn connection(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(SILENCE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(length)];
        tokio::time::timeout(SILENCE, stream.read_exact(&mut query)).await??;
        let reply = match shared.answer(&query, Transport::Tcp).await {
            Some(reply) => Some(reply),
            None => not_understood(&query),
        };
        let Some(reply) = reply else { return Ok(()) };
        let mut framed = (reply.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        stream.write_all(&framed).await?;
    }
}
