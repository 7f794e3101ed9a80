//! The proxy in our own process for connections that the firewall does not redirect: those to 127.0.0.1 and to IPv6
//! addresses. It accepts on the socket that holds the published port.

use super::carry;
use engine::networks::Protocol;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt,
    sockopt,
};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// A UDP client that was silent so long is forgotten; Docker's proxy uses the same time.
const UDP_IDLE: Duration = Duration::from_secs(90);
/// Clients of one UDP port that are remembered at a time.
const UDP_CLIENTS: usize = 4096;
const LARGEST_DATAGRAM: usize = 65_535;
/// How fast both connections send, whatever the host has for others: they do not leave it. BBR would look for a bottleneck
/// with timers, which costs more time than the copying.
const UNPACED: &str = "cubic";
/// When the process has no descriptors left, accepting again at once would only burn time.
const PAUSE: Duration = Duration::from_millis(100);

/// A proxy of one published port; ends when dropped.
pub(crate) struct Proxy {
    task: JoinHandle<()>,
    target: Target,
}

/// Where connections go; it moves when the container leaves the network it was reached by.
type Target = Arc<RwLock<SocketAddr>>;

fn now(target: &Target) -> SocketAddr {
    *target
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Proxy {
    /// Serves `socket`, which is bound (and for TCP listens). Needs a tokio runtime.
    pub(crate) fn start(
        socket: OwnedFd,
        protocol: Protocol,
        target: SocketAddr,
    ) -> io::Result<Proxy> {
        let target = Target::new(RwLock::new(target));
        let task = match protocol {
            Protocol::Udp => {
                let socket = std::net::UdpSocket::from(socket);
                socket.set_nonblocking(true)?;
                let listener = Listener::new(UdpSocket::from_std(socket)?)?;
                tokio::spawn(datagrams(listener, target.clone()))
            }
            Protocol::Tcp | Protocol::Sctp => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                tokio::spawn(streams(TcpListener::from_std(listener)?, target.clone()))
            }
        };
        Ok(Proxy { task, target })
    }

    /// New connections go there, and datagrams.
    pub(crate) fn lead_to(&self, address: IpAddr) {
        let mut target = self
            .target
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        target.set_ip(address);
    }

    /// Ends it and waits until the port is free.
    pub(crate) async fn stop(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn streams(listener: TcpListener, target: Target) {
    // Dropped with this task: the connections end with the container's port.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    connections.spawn(stream(client, now(&target)));
                }
                Err(error) => {
                    tracing::debug!(%error, "the proxy cannot accept");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn stream(client: TcpStream, target: SocketAddr) {
    match TcpStream::connect(target).await {
        Ok(container) => {
            for socket in [&client, &container] {
                let _ = socket.set_nodelay(true);
                let _ = setsockopt(socket, sockopt::TcpCongestion, &UNPACED.into());
            }
            // A broken connection is its two ends' affair.
            let _ = carry::both_ways(&client, &container).await;
        }
        Err(error) => tracing::debug!(%target, %error, "the proxy cannot reach the container"),
    }
}

/// The socket of a published UDP port. A client expects its answer from the address it has sent to, which on a socket that
/// is bound to all of them is told by the kernel, packet by packet.
struct Listener {
    socket: UdpSocket,
}

/// Who sent a datagram, and to which address of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Sender {
    from: SocketAddr,
    /// `None`: the socket is bound to it.
    to: Option<IpAddr>,
}

impl Listener {
    fn new(socket: UdpSocket) -> io::Result<Listener> {
        match socket.local_addr()?.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => {
                setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
            }
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
            _ => {}
        }
        Ok(Listener { socket })
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Sender)> {
        let receive = || receive(&self.socket, buffer);
        self.socket.async_io(Interest::READABLE, receive).await
    }

    async fn send(&self, datagram: &[u8], to: Sender) -> io::Result<()> {
        let send = || send(&self.socket, datagram, to);
        self.socket.async_io(Interest::WRITABLE, send).await
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Sender)> {
    let mut space = nix::cmsg_space!(nix::libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let received =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut to = None;
    for told in received.cmsgs()? {
        match told {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let address = u32::from_be(info.ipi_spec_dst.s_addr);
                to = Some(Ipv4Addr::from(address).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
            }
            _ => {}
        }
    }
    let from = received.address.and_then(|address| {
        let v4 = address
            .as_sockaddr_in()
            .map(|v4| SocketAddr::V4((*v4).into()));
        v4.or_else(|| {
            address
                .as_sockaddr_in6()
                .map(|v6| SocketAddr::V6((*v6).into()))
        })
    });
    let from = from.ok_or_else(|| io::Error::other("a datagram from nobody"))?;
    Ok((received.bytes, Sender { from, to }))
}

fn send(socket: &UdpSocket, datagram: &[u8], to: Sender) -> io::Result<()> {
    let parts = [IoSlice::new(datagram)];
    let address = SockaddrStorage::from(to.from);
    let flags = MsgFlags::MSG_DONTWAIT;
    let fd = socket.as_raw_fd();
    let v4;
    let v6;
    let from: &[ControlMessage<'_>] = match to.to {
        Some(IpAddr::V4(own)) => {
            v4 = nix::libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: nix::libc::in_addr {
                    s_addr: u32::from(own).to_be(),
                },
                ipi_addr: nix::libc::in_addr { s_addr: 0 },
            };
            &[ControlMessage::Ipv4PacketInfo(&v4)]
        }
        Some(IpAddr::V6(own)) => {
            v6 = nix::libc::in6_pktinfo {
                ipi6_addr: nix::libc::in6_addr {
                    s6_addr: own.octets(),
                },
                ipi6_ifindex: 0,
            };
            &[ControlMessage::Ipv6PacketInfo(&v6)]
        }
        None => &[],
    };
    sendmsg(fd, &parts, from, flags, Some(&address))?;
    Ok(())
}

struct Client {
    socket: Arc<UdpSocket>,
    active: Arc<AtomicBool>,
    target: SocketAddr,
    answers: AbortHandle,
}

async fn datagrams(listener: Listener, target: Target) {
    let listener = Arc::new(listener);
    let mut clients: HashMap<Sender, Client> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        tokio::select! {
            received = listener.receive(&mut buffer) => match received {
                Ok((length, sender)) => {
                    let target = now(&target);
                    // Where it was served somebody else may be now.
                    if clients.get(&sender).is_some_and(|client| client.target != target)
                        && let Some(client) = clients.remove(&sender)
                    {
                        client.answers.abort();
                    }
                    if !clients.contains_key(&sender) {
                        if clients.len() >= UDP_CLIENTS {
                            continue;
                        }
                        match connect(target).await {
                            Ok(socket) => {
                                let (socket, active) = (Arc::new(socket), Arc::default());
                                let answers = answers.spawn(answer(
                                    listener.clone(), sender, Arc::clone(&socket), Arc::clone(&active),
                                ));
                                clients.insert(sender, Client { socket, active, target, answers });
                            }
                            Err(error) => {
                                tracing::debug!(%error, "the proxy cannot open a socket");
                                continue;
                            }
                        }
                    }
                    if let Some(client) = clients.get(&sender) {
                        client.active.store(true, Ordering::Relaxed);
                        // Refused while nobody listens in the container: datagrams may be lost.
                        let _ = client.socket.send(&buffer[..length]).await;
                    }
                }
                // Earlier answers may have been refused by their client; that is no reason to stop.
                Err(error) => {
                    tracing::debug!(%error, "the proxy cannot receive");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(ended) = answers.join_next() => {
                if let Ok(sender) = ended {
                    clients.remove(&sender);
                }
            }
        }
    }
}

async fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Carries a container's answers to one client until both are silent.
async fn answer(
    listener: Arc<Listener>,
    to: Sender,
    socket: Arc<UdpSocket>,
    active: Arc<AtomicBool>,
) -> Sender {
    let mut buffer = vec![0; LARGEST_DATAGRAM];
    loop {
        match tokio::time::timeout(UDP_IDLE, socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                let _ = listener.send(&buffer[..length], to).await;
            }
            Ok(Err(_)) => tokio::time::sleep(PAUSE).await,
            Err(_) if active.swap(false, Ordering::Relaxed) => {}
            Err(_) => return to,
        }
    }
}
