//! Connection tracking: a UDP "connection" is only packets, so a client that keeps sending to a published port would go on
//! being sent to where that port led before. When such a port opens or closes, its flows are forgotten.
//!
//! Formats and numbers: `linux/netfilter/nfnetlink_conntrack.h`.

use super::netlink::{Message, Socket, attributes};
use super::nftables::Forward;
use engine::networks::Protocol;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `AF_INET`, `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];
const UDP: u8 = 17;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_DESTINATION: u16 = 2;
const IPV6_DESTINATION: u16 = 4;
const PROTOCOL_NUMBER: u16 = 1;
const DESTINATION_PORT: u16 = 3;

fn message(kind: u16, family: u8) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, 0, &[family, 0, 0, 0])
}

/// Where a flow was first sent to.
#[derive(Debug, PartialEq, Eq)]
struct Destination {
    protocol: u8,
    address: IpAddr,
    port: u16,
}

fn destination(tuple: &[u8]) -> Option<Destination> {
    let (mut protocol, mut address, mut port) = (None, None, None);
    for (kind, inner) in attributes(tuple) {
        for (field, value) in attributes(inner) {
            match (kind, field) {
                (TUPLE_IP, IPV4_DESTINATION) => {
                    address = <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
                }
                (TUPLE_IP, IPV6_DESTINATION) => {
                    address = <[u8; 16]>::try_from(value).ok().map(IpAddr::from);
                }
                (TUPLE_PROTOCOL, PROTOCOL_NUMBER) => protocol = value.first().copied(),
                (TUPLE_PROTOCOL, DESTINATION_PORT) => {
                    port = value.try_into().ok().map(u16::from_be_bytes);
                }
                _ => {}
            }
        }
    }
    Some(Destination {
        protocol: protocol?,
        address: address?,
        port: port?,
    })
}

fn goes_to(forward: &Forward, flow: &Destination, host: &BTreeSet<IpAddr>) -> bool {
    forward.protocol == Protocol::Udp
        && forward.host_address.is_ipv4() == flow.address.is_ipv4()
        && flow.protocol == UDP
        && flow.port == forward.host_port
        && if forward.host_address.is_unspecified() {
            host.contains(&flow.address)
        } else {
            forward.host_address == flow.address
        }
}

/// Forgets the UDP flows to these published ports. `host`: the host's own addresses.
pub(crate) fn forget(
    socket: &mut Socket,
    forwards: &[Forward],
    host: &BTreeSet<IpAddr>,
) -> io::Result<()> {
    for family in FAMILIES {
        let mut removals = Vec::new();
        socket.query(message(GET, family), true, |payload| {
            for (kind, tuple) in attributes(payload.get(4..).unwrap_or(&[])) {
                if kind == TUPLE_ORIGINAL
                    && destination(tuple).is_some_and(|flow| {
                        forwards.iter().any(|forward| goes_to(forward, &flow, host))
                    })
                {
                    let mut removal = message(DELETE, family);
                    removal.nest(TUPLE_ORIGINAL, |nested| {
                        nested.raw(tuple);
                    });
                    removals.push(removal);
                }
            }
        })?;
        for removal in removals {
            match socket.execute(vec![removal]) {
                // It ended by itself.
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flows_to_the_hosts_published_port_are_forgotten() {
        let forward = |address: &str, port: u16, protocol| Forward {
            host_address: address.parse().unwrap(),
            host_port: port,
            protocol,
            container_address: [172, 17, 0, 2].into(),
            container_port: 53,
            routed: false,
        };
        let host = BTreeSet::from([IpAddr::from([192, 0, 2, 1]), IpAddr::from([127, 0, 0, 1])]);
        let flow = |protocol, address: [u8; 4], port| Destination {
            protocol,
            address: address.into(),
            port,
        };
        let any = forward("0.0.0.0", 53, Protocol::Udp);
        assert!(goes_to(&any, &flow(UDP, [192, 0, 2, 1], 53), &host));
        // A query of somebody behind us to a server elsewhere.
        assert!(!goes_to(&any, &flow(UDP, [8, 8, 8, 8], 53), &host));
        assert!(!goes_to(&any, &flow(6, [192, 0, 2, 1], 53), &host));
        assert!(!goes_to(&any, &flow(UDP, [192, 0, 2, 1], 54), &host));
        let one = forward("192.0.2.1", 53, Protocol::Udp);
        assert!(goes_to(&one, &flow(UDP, [192, 0, 2, 1], 53), &host));
        assert!(!goes_to(&one, &flow(UDP, [127, 0, 0, 1], 53), &host));
        let tcp = forward("0.0.0.0", 53, Protocol::Tcp);
        assert!(!goes_to(&tcp, &flow(UDP, [192, 0, 2, 1], 53), &host));
    }
}
