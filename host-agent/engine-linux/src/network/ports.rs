//! Ports of the host: taken by binding them, so that the kernel itself says who was first, whichever program it was.
//! The bound socket then serves the proxy.

use super::namespace::failed;
use engine::networks::{NetworkError, PortRequest, Protocol, PublishedPort};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;

/// Docker's range where the kernel tells none.
const EPHEMERAL: (u16, u16) = (49153, 65535);
const EPHEMERAL_FILE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Who will serve a container's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Serve {
    /// The proxy: sockets are taken so that it can accept on them.
    pub proxy: bool,
    /// The firewall can lead SCTP to the container by IPv6.
    pub sctp_ipv6: bool,
    /// For the host's addresses of this family.
    pub ipv4: Way,
    /// As `ipv4`.
    pub ipv6: Way,
}

impl Serve {
    fn way(&self, address: &IpAddr) -> Way {
        match address {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

/// How one comes to a container by the host's addresses of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// By a port that is taken there.
    Taken,
    /// Not by them, but by the container's own address of that family (gateway mode `routed`).
    Routed,
    /// Not at all.
    Closed,
}

/// A port that is ours, with the socket that holds it.
pub(crate) struct Taken {
    pub published: PublishedPort,
    /// `None` for SCTP where the kernel does not have it: only the firewall serves it. And for what is routed.
    pub socket: Option<OwnedFd>,
}

/// Which ports are given next, and the SCTP ones taken.
#[derive(Default)]
pub(crate) struct Ports {
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    next_ephemeral: BTreeMap<Protocol, u16>,
    sctp: BTreeSet<(IpAddr, u16)>,
}

enum Refusal {
    /// Somebody has it.
    InUse(IpAddr, u16),
    Other(NetworkError),
}

impl Ports {
    /// Takes what `requests` ask for, all or nothing.
    pub(crate) fn take(
        &self,
        requests: &[PortRequest],
        serve: Serve,
    ) -> Result<Vec<Taken>, NetworkError> {
        let mut all: Vec<Taken> = Vec::new();
        let mut seen: Vec<&PortRequest> = Vec::new();
        for request in requests {
            // The same line twice means it once, as in Docker.
            if seen.contains(&request) {
                continue;
            }
            seen.push(request);
            match self.take_one(request, serve) {
                Ok(taken) => all.extend(taken),
                Err(error) => {
                    for taken in &all {
                        self.give_back(&taken.published);
                    }
                    return Err(error);
                }
            }
        }
        Ok(all)
    }

    /// Takes ports that a running container has already.
    pub(crate) fn retake(
        &self,
        published: &PublishedPort,
        listening: bool,
    ) -> Result<Taken, NetworkError> {
        let socket = match published.host_port {
            0 => None,
            port => self
                .bind(published.host_address, port, published.protocol, listening)
                .map_err(into_error)?,
        };
        Ok(Taken {
            published: published.clone(),
            socket,
        })
    }

    /// Frees what no socket holds.
    pub(crate) fn give_back(&self, published: &PublishedPort) {
        if published.protocol == Protocol::Sctp {
            let mut books = self.books.lock().expect("no panic while locked");
            books
                .sctp
                .remove(&(published.host_address, published.host_port));
        }
    }

    fn take_one(&self, request: &PortRequest, serve: Serve) -> Result<Vec<Taken>, NetworkError> {
        let addresses: Vec<IpAddr> = match (request.host_address, request.protocol) {
            (Some(IpAddr::V6(_)), Protocol::Sctp) if !serve.sctp_ipv6 => {
                return Err(NetworkError::Unsupported {
                    what: "publishing an SCTP port on an IPv6 address".into(),
                    why: "only the firewall serves SCTP, and the container has no IPv6 address it could lead to".into(),
                });
            }
            (Some(address), _) => vec![address],
            (None, Protocol::Sctp) if !serve.sctp_ipv6 => vec![Ipv4Addr::UNSPECIFIED.into()],
            (None, _) => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let by = |way: Way| {
            addresses
                .iter()
                .filter(move |address| serve.way(address) == way)
        };
        let routed: Vec<Taken> = by(Way::Routed)
            .map(|address| open(request, address))
            .collect();
        let addresses: Vec<IpAddr> = by(Way::Taken).copied().collect();
        if addresses.is_empty() {
            return Ok(routed);
        }
        let mut first_refusal = None;
        for port in self.candidates(request) {
            match self.take_pair(request, &addresses, port, serve.proxy) {
                Ok(mut taken) => {
                    taken.extend(routed);
                    if request.host_ports == (0, 0) {
                        let mut books = self.books.lock().expect("no panic while locked");
                        books
                            .next_ephemeral
                            .insert(request.protocol, port.wrapping_add(1));
                    }
                    return Ok(taken);
                }
                Err(Refusal::InUse(address, port)) => {
                    first_refusal.get_or_insert((address, port));
                }
                Err(Refusal::Other(error)) => return Err(error),
            }
        }
        Err(match first_refusal {
            Some((address, port)) => NetworkError::PortTaken {
                address: address.to_string(),
                port,
            },
            None => NetworkError::Unsupported {
                what: format!(
                    "the port range {}-{}",
                    request.host_ports.0, request.host_ports.1
                ),
                why: "it is empty".into(),
            },
        })
    }

    fn candidates(&self, request: &PortRequest) -> Box<dyn Iterator<Item = u16>> {
        let (first, last) = request.host_ports;
        if (first, last) != (0, 0) {
            return Box::new(first..=last);
        }
        let (first, last) = ephemeral_range();
        let books = self.books.lock().expect("no panic while locked");
        let start = books
            .next_ephemeral
            .get(&request.protocol)
            .copied()
            .filter(|next| (first..=last).contains(next))
            .unwrap_or(first);
        Box::new((start..=last).chain(first..start))
    }

    fn take_pair(
        &self,
        request: &PortRequest,
        addresses: &[IpAddr],
        port: u16,
        listening: bool,
    ) -> Result<Vec<Taken>, Refusal> {
        let mut pair: Vec<Taken> = Vec::new();
        for address in addresses {
            match self.bind(*address, port, request.protocol, listening) {
                Ok(socket) => pair.push(Taken {
                    published: PublishedPort {
                        container_port: request.container_port,
                        protocol: request.protocol,
                        host_address: *address,
                        host_port: port,
                    },
                    socket,
                }),
                // A host without IPv6 publishes on IPv4 alone, unless IPv6 was asked for by name.
                Err(Refusal::Other(_))
                    if address.is_ipv6() && request.host_address.is_none() && !host_has_ipv6() => {}
                Err(refusal) => {
                    for taken in &pair {
                        self.give_back(&taken.published);
                    }
                    return Err(refusal);
                }
            }
        }
        Ok(pair)
    }

    fn bind(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
        listening: bool,
    ) -> Result<Option<OwnedFd>, Refusal> {
        let kind = match protocol {
            Protocol::Tcp => SockType::Stream,
            Protocol::Udp => SockType::Datagram,
            Protocol::Sctp => {
                let mut books = self.books.lock().expect("no panic while locked");
                let clash = books.sctp.iter().any(|(other, other_port)| {
                    *other_port == port
                        && other.is_ipv4() == address.is_ipv4()
                        && (*other == address || other.is_unspecified() || address.is_unspecified())
                });
                if clash {
                    return Err(Refusal::InUse(address, port));
                }
                let held = hold_sctp(SocketAddr::new(address, port));
                if matches!(held, Err(rustix::io::Errno::ADDRINUSE)) {
                    return Err(Refusal::InUse(address, port));
                }
                books.sctp.insert((address, port));
                // Without SCTP in the kernel nobody else can have it.
                return Ok(held.ok());
            }
        };
        let open = || -> nix::Result<OwnedFd> {
            let family = match address {
                IpAddr::V4(_) => AddressFamily::Inet,
                IpAddr::V6(_) => AddressFamily::Inet6,
            };
            let fd = socket(
                family,
                kind,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                None,
            )?;
            if address.is_ipv6() {
                setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            }
            let serves = listening && protocol == Protocol::Tcp;
            if serves {
                // Connections that just ended do not keep a port from being published again.
                setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            }
            bind(
                fd.as_raw_fd(),
                &SockaddrStorage::from(SocketAddr::new(address, port)),
            )?;
            if serves {
                // musl's SOMAXCONN is 128, and nix refuses more.
                listen(&fd, Backlog::new(1024).unwrap_or(Backlog::MAXCONN))?;
            }
            Ok(fd)
        };
        match open() {
            Ok(fd) => Ok(Some(fd)),
            Err(nix::Error::EADDRINUSE) => Err(Refusal::InUse(address, port)),
            Err(error) => Err(Refusal::Other(failed(
                format!(
                    "driver failed programming external connectivity: failed to bind port {}/{}",
                    SocketAddr::new(address, port),
                    protocol.name()
                ),
                error.desc(),
            ))),
        }
    }
}

/// A port that is routed. Which of the host's was asked for says nothing, as in Docker.
fn open(request: &PortRequest, address: &IpAddr) -> Taken {
    let host_address: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Taken {
        published: PublishedPort {
            container_port: request.container_port,
            protocol: request.protocol,
            host_address,
            host_port: 0,
        },
        socket: None,
    }
}

/// Takes an SCTP port of the host, which no program then can have.
fn hold_sctp(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with};
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::SCTP))?;
    if address.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

fn into_error(refusal: Refusal) -> NetworkError {
    match refusal {
        Refusal::InUse(address, port) => NetworkError::PortTaken {
            address: address.to_string(),
            port,
        },
        Refusal::Other(error) => error,
    }
}

fn host_has_ipv6() -> bool {
    std::fs::read_to_string("/proc/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty())
}

fn ephemeral_range() -> (u16, u16) {
    let text = std::fs::read_to_string(EPHEMERAL_FILE).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => (first, last),
        _ => EPHEMERAL,
    }
}
