//! In a container's namespace: questions to 127.0.0.11:53 go to the port where our DNS server listens. Not bound to port 53
//! itself, because a container may serve DNS on every address of its own.

use super::expression::{addressed_to, fixed_destination_nat};
use super::{
    HOOK_OUTPUT, NEWCHAIN, NEWRULE, NEWTABLE, PRIORITY_DSTNAT, base_chain, batch, message,
};
use crate::network::netlink::{NLM_F_CREATE, Socket};
use std::io;
use std::net::Ipv4Addr;

const TABLE: &str = "berth-dns";
const CHAIN: &str = "output";
const IPV4: u8 = 2;
const UDP: u8 = 17;
const TCP: u8 = 6;

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
    base_chain(&mut chain, CHAIN, "nat", HOOK_OUTPUT, PRIORITY_DSTNAT);
    messages.push(chain);
    for (protocol, port) in [(UDP, udp_port), (TCP, tcp_port)] {
        let mut rule = table(NEWRULE, NLM_F_CREATE | 0x800);
        rule.text(2, CHAIN).nest(4, |rule| {
            addressed_to(rule, server.octets(), protocol, 53);
            fixed_destination_nat(rule, server.octets(), port);
        });
        messages.push(rule);
    }
    socket.transaction(batch(messages))
}
