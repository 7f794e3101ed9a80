//! Where containers may not talk to each other, none may pretend to be another: frames with somebody else's IPv4 address,
//! in a packet or in ARP, are dropped where they enter the bridge.
//!
//! ```text
//! table bridge berth {
//!     set guarded { ifname }
//!     set places  { ifname . ipv4_addr }
//!     chain prerouting { type filter hook prerouting priority -300
//!         iifname @guarded meta protocol ip  iifname . ip saddr     != @places drop
//!         iifname @guarded meta protocol arp iifname . arp saddr ip != @places drop }
//! }
//! ```

use super::expression::*;
use super::{
    ELEMENTS_PER_MESSAGE, HOOK_PREROUTING, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM, NEWTABLE,
    PRIORITY_RAW, TYPE_INTERFACE, TYPE_IPV4, base_chain, batch, message,
};
use crate::network::netlink::{Message, NLM_F_CREATE, Socket};
use std::io;
use std::net::Ipv4Addr;

const BRIDGE: u8 = 7;
const GUARDED: &str = "guarded";
const PLACES: &str = "places";
const CHAIN: &str = "prerouting";
const ETHERNET_IP: u16 = 0x0800;
const ETHERNET_ARP: u16 = 0x0806;
/// Where an IPv4 header and an ARP packet have the sender's address.
const SENDERS: [(u16, u32); 2] = [(ETHERNET_IP, 12), (ETHERNET_ARP, 14)];

/// Replaces the table: these ports of bridges send from these addresses alone. None: the table goes.
pub(crate) fn install(
    socket: &mut Socket,
    name: &str,
    places: &[(String, Vec<Ipv4Addr>)],
) -> io::Result<()> {
    let table = |kind: u16, flags: u16| {
        let mut request = message(BRIDGE, kind, flags);
        request.text(1, name);
        request
    };
    let mut messages = vec![table(NEWTABLE, NLM_F_CREATE), table(super::DELTABLE, 0)];
    if !places.is_empty() {
        messages.push(table(NEWTABLE, NLM_F_CREATE));
        for (id, set, kind, length) in [
            (1, GUARDED, TYPE_INTERFACE, 16),
            (2, PLACES, (TYPE_INTERFACE << 6) | TYPE_IPV4, 20),
        ] {
            let mut request = table(NEWSET, NLM_F_CREATE);
            request
                .text(2, set)
                .number_be(3, 0)
                .number_be(4, kind)
                .number_be(5, length)
                .number_be(10, id);
            messages.push(request);
        }
        let mut chain = table(NEWCHAIN, NLM_F_CREATE);
        base_chain(&mut chain, CHAIN, "filter", HOOK_PREROUTING, PRIORITY_RAW);
        messages.push(chain);
        for (protocol, offset) in SENDERS {
            let mut rule = table(NEWRULE, NLM_F_CREATE | 0x800);
            rule.text(2, CHAIN).nest(4, |rule| {
                interface(rule, META_IIFNAME, Is::In, GUARDED);
                meta(rule, META_PROTOCOL, R0);
                equals(rule, &protocol.to_be_bytes());
                meta(rule, META_IIFNAME, R0);
                payload(rule, R0 + 4, 1, offset, 4);
                lookup(rule, PLACES, Is::NotIn, None);
                verdict(rule, NF_DROP);
            });
            messages.push(rule);
        }
        let guarded = places.iter().map(|(link, _)| padded(link).to_vec());
        elements(&mut messages, &table, GUARDED, guarded.collect());
        let each = places.iter().flat_map(|(link, addresses)| {
            let key = |address: &Ipv4Addr| [&padded(link)[..], &address.octets()].concat();
            addresses.iter().map(key).collect::<Vec<_>>()
        });
        elements(&mut messages, &table, PLACES, each.collect());
    }
    socket.transaction(batch(messages))
}

fn elements(
    messages: &mut Vec<Message>,
    table: &impl Fn(u16, u16) -> Message,
    set: &str,
    keys: Vec<Vec<u8>>,
) {
    for some in keys.chunks(ELEMENTS_PER_MESSAGE) {
        let mut request = table(NEWSETELEM, NLM_F_CREATE);
        request.text(2, set).nest(3, |list| {
            for key in some {
                list.nest(1, |element| value(element, 1, key));
            }
        });
        messages.push(request);
    }
}
