//! DHCP's packets (RFC 2131, options of RFC 2132), as far as a guest with one network card needs them. Nothing here
//! does I/O: what arrives from the wire is hostile until it is decoded.

use std::net::Ipv4Addr;
use std::time::Duration;

pub const SERVER_PORT: u16 = 67;
pub const CLIENT_PORT: u16 = 68;
/// The fixed fields up to and with the magic cookie.
const FIXED: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Lease time when the server names none, and the shortest we obey: a hostile "1 second" must not keep us busy.
const DEFAULT_LEASE: u32 = 3600;
const SHORTEST_LEASE: u32 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Discover,
    Offer,
    Request,
    Ack,
    Nak,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Discover => 1,
            Kind::Offer => 2,
            Kind::Request => 3,
            Kind::Ack => 5,
            Kind::Nak => 6,
        }
    }

    fn from_code(code: u8) -> Option<Kind> {
        Some(match code {
            1 => Kind::Discover,
            2 => Kind::Offer,
            3 => Kind::Request,
            5 => Kind::Ack,
            6 => Kind::Nak,
            _ => return None,
        })
    }
}

/// What a server grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Option<Ipv4Addr>,
    pub resolvers: Vec<Ipv4Addr>,
    pub server: Ipv4Addr,
    pub duration: Duration,
}

/// A reply that belongs to our transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Offer(Lease),
    Ack(Lease),
    Nak,
}

/// What the client says.
pub struct Question {
    pub kind: Kind,
    pub transaction: u32,
    pub mac: [u8; 6],
    /// The address we hold (renewal); then no `requested` and no `server` are sent.
    pub held: Option<Ipv4Addr>,
    pub requested: Option<(Ipv4Addr, Ipv4Addr)>,
}

pub fn encode(question: &Question) -> Vec<u8> {
    let mut packet = vec![0u8; FIXED];
    packet[0] = 1; // BOOTREQUEST
    packet[1] = 1; // Ethernet
    packet[2] = 6;
    packet[4..8].copy_from_slice(&question.transaction.to_be_bytes());
    if let Some(held) = question.held {
        packet[12..16].copy_from_slice(&held.octets());
    } else {
        packet[10] = 0x80; // answer by broadcast: we have no address yet
    }
    packet[28..34].copy_from_slice(&question.mac);
    packet[236..240].copy_from_slice(&MAGIC);
    packet.extend([53, 1, question.kind.code()]);
    if let Some((address, server)) = question.requested {
        packet.extend([50, 4]);
        packet.extend(address.octets());
        packet.extend([54, 4]);
        packet.extend(server.octets());
    }
    packet.extend([55, 4, 1, 3, 6, 51]); // mask, router, resolvers, lease time
    packet.push(255);
    packet.resize(packet.len().max(300), 0); // BOOTP relays drop shorter ones
    packet
}

/// `None` for anything that is not a well-formed answer to `transaction` for `mac`.
pub fn decode(packet: &[u8], transaction: u32, mac: [u8; 6]) -> Option<Reply> {
    if packet.len() < FIXED
        || packet[0] != 2
        || packet[4..8] != transaction.to_be_bytes()
        || packet[28..34] != mac
        || packet[236..240] != MAGIC
    {
        return None;
    }
    let mut kind = None;
    let mut prefix = None;
    let mut gateway = None;
    let mut resolvers = Vec::new();
    let mut server = None;
    let mut seconds = DEFAULT_LEASE;
    let mut rest = &packet[FIXED..];
    loop {
        let (&code, after) = rest.split_first()?;
        match code {
            255 => break,
            0 => {
                rest = after;
                continue;
            }
            _ => {}
        }
        let (&length, after) = after.split_first()?;
        let value = after.get(..usize::from(length))?;
        rest = &after[usize::from(length)..];
        match code {
            53 => kind = Kind::from_code(*value.first()?),
            1 => prefix = Some(prefix_of(address(value)?)?),
            3 => gateway = Some(address(value)?),
            6 => resolvers.extend(value.chunks_exact(4).take(3).filter_map(address)),
            51 => seconds = u32::from_be_bytes(value.get(..4)?.try_into().ok()?),
            54 => server = Some(address(value)?),
            _ => {}
        }
    }
    let kind = kind?;
    if kind == Kind::Nak {
        return Some(Reply::Nak);
    }
    let granted = address(&packet[16..20])?;
    if granted.is_unspecified()
        || granted.is_broadcast()
        || granted.is_multicast()
        || granted.is_loopback()
    {
        return None;
    }
    let lease = Lease {
        address: granted,
        prefix: prefix.unwrap_or(24),
        gateway: gateway.filter(|gateway| !gateway.is_unspecified()),
        resolvers,
        server: server?,
        duration: Duration::from_secs(u64::from(seconds.max(SHORTEST_LEASE))),
    };
    match kind {
        Kind::Offer => Some(Reply::Offer(lease)),
        Kind::Ack => Some(Reply::Ack(lease)),
        _ => None,
    }
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = value.get(..4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}

/// The prefix length of a mask, `None` for one with holes.
fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    (bits.count_ones() == ones).then_some(ones as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    fn reply(options: &[u8]) -> Vec<u8> {
        let mut packet = vec![0u8; FIXED];
        packet[0] = 2;
        packet[4..8].copy_from_slice(&7u32.to_be_bytes());
        packet[16..20].copy_from_slice(&[10, 0, 2, 15]);
        packet[28..34].copy_from_slice(&MAC);
        packet[236..240].copy_from_slice(&MAGIC);
        packet.extend(options);
        packet
    }

    const GOOD: &[u8] = &[
        53, 1, 5, 0, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 6, 4, 10, 0, 2, 3, 54, 4, 10, 0, 2,
        2, 51, 4, 0, 1, 0x51, 0x80, 255,
    ];

    #[test]
    fn an_acknowledgement_becomes_a_lease() {
        let Some(Reply::Ack(lease)) = decode(&reply(GOOD), 7, MAC) else {
            panic!("not read");
        };
        assert_eq!(lease.address, Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(lease.prefix, 24);
        assert_eq!(lease.gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
        assert_eq!(lease.resolvers, [Ipv4Addr::new(10, 0, 2, 3)]);
        assert_eq!(lease.duration, Duration::from_secs(86400));
    }

    #[test]
    fn what_is_not_for_us_or_malformed_is_dropped() {
        assert_eq!(decode(&reply(GOOD), 8, MAC), None);
        assert_eq!(decode(&reply(GOOD), 7, [0; 6]), None);
        assert_eq!(
            decode(&reply(&[53, 1, 5]), 7, MAC),
            None,
            "no end, no server"
        );
        assert_eq!(
            decode(&reply(&[53, 200, 5, 255]), 7, MAC),
            None,
            "length past the end"
        );
        assert_eq!(
            decode(
                &reply(&[53, 1, 5, 54, 4, 10, 0, 2, 2, 1, 4, 255, 0, 255, 0, 255]),
                7,
                MAC
            ),
            None,
            "mask with a hole"
        );
        assert_eq!(decode(&reply(&[53, 1, 6, 255]), 7, MAC), Some(Reply::Nak));
        let mut loopback = reply(GOOD);
        loopback[16..20].copy_from_slice(&[127, 0, 0, 1]);
        assert_eq!(decode(&loopback, 7, MAC), None);
        let short = reply(&[53, 1, 5, 54, 4, 10, 0, 2, 2, 51, 4, 0, 0, 0, 1, 255]);
        let Some(Reply::Ack(lease)) = decode(&short, 7, MAC) else {
            panic!("not read");
        };
        assert_eq!(lease.duration, Duration::from_secs(60));
    }

    #[test]
    fn a_question_names_us() {
        let packet = encode(&Question {
            kind: Kind::Request,
            transaction: 7,
            mac: MAC,
            held: None,
            requested: Some((Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2))),
        });
        assert_eq!(packet[..4], [1, 1, 6, 0]);
        assert_eq!(packet[28..34], MAC);
        assert_eq!(packet[FIXED..FIXED + 3], [53, 1, 3]);
        assert!(packet.len() >= 300);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode(&bytes, 7, MAC);
            let _ = decode(&reply(&bytes), 7, MAC);
        }
    }
}
