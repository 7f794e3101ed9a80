//! In a container's namespace: questions to 127.0.0.11:53 go to the port where our DNS server listens. Not bound to port 53
//! itself, because a container may serve DNS on every address of its own.
//!
//! ```text
//! chain output { type filter hook output priority raw
//!     ip daddr 127.0.0.11 udp dport 53   udp dport set PORT
//!     ip saddr 127.0.0.11 udp sport PORT udp sport set 53      # the answers; TCP alike
//! }
//! ```
//!
//! Ports are written, not translated: translation would have the kernel track every connection of the container.

use super::expression::{PortAt, set_port};
use super::{HOOK_OUTPUT, NEWCHAIN, NEWRULE, NEWTABLE, PRIORITY_RAW, base_chain, batch, message};
use crate::network::netlink::{NLM_F_CREATE, Socket};
use std::io;
use std::net::Ipv4Addr;

const TABLE: &str = "berth-dns";
const CHAIN: &str = "output";
const IPV4: u8 = 2;
const UDP: u8 = 17;
const TCP: u8 = 6;
const PORT: u16 = 53;

/// `socket` must be of the container's namespace. What was there before is replaced.
pub(crate) fn redirect(
    socket: &mut Socket,
    server: Ipv4Addr,
    udp_port: u16,
    tcp_port: u16,
) -> io::Result<()> {
    let table = |kind: u16, flags: u16| {
        let mut request = message(IPV4, kind, flags);
        request.text(1, TABLE);
        request
    };
    let mut messages = vec![
        table(NEWTABLE, NLM_F_CREATE),
        table(super::DELTABLE, 0),
        table(NEWTABLE, NLM_F_CREATE),
    ];
    let mut chain = table(NEWCHAIN, NLM_F_CREATE);
    base_chain(&mut chain, CHAIN, "filter", HOOK_OUTPUT, PRIORITY_RAW);
    messages.push(chain);
    for (protocol, port) in [(UDP, udp_port), (TCP, tcp_port)] {
        for (at, from, to) in [
            (PortAt::Destination, PORT, port),
            (PortAt::Source, port, PORT),
        ] {
            let mut rule = table(NEWRULE, NLM_F_CREATE | 0x800);
            rule.text(2, CHAIN).nest(4, |rule| {
                set_port(rule, at, server.octets(), protocol, from, to);
            });
            messages.push(rule);
        }
    }
    socket.transaction(batch(messages))
}
