//! Where containers may not talk to each other, none may pretend to be another: frames with somebody else's hardware or IP
//! address, in a packet, in ARP or in neighbour discovery, are dropped where they enter the bridge. Nor may a container
//! tell others which way is out.
//!
//! ```text
//! table bridge berth {
//!     set guarded  { ifname }
//!     set hardware { ifname . ether_addr }
//!     set places   { ifname . ipv4_addr }
//!     set places6  { ifname . ipv6_addr }
//!     chain prerouting { type filter hook prerouting priority -300
//!         iifname @guarded iifname . ether saddr != @hardware drop
//!         iifname @guarded meta protocol ip  iifname . ip saddr     != @places drop
//!         iifname @guarded meta protocol arp iifname . arp saddr ip != @places drop
//!         iifname @guarded meta protocol ip6 iifname . ip6 saddr    != @places6 drop
//!         iifname @guarded meta protocol ip6 icmpv6 type nd-neighbor-advert iifname . icmpv6 taddr != @places6 drop
//!         iifname @guarded meta protocol ip6 icmpv6 type { nd-router-advert, nd-redirect } drop }
//! }
//! ```
//!
//! `places6` has, beside a container's addresses, the link-local one that is made of its hardware address, and the
//! unspecified one, which asks whether an address is free.

use super::expression::*;
use super::{
    ELEMENTS_PER_MESSAGE, HOOK_PREROUTING, NEWCHAIN, NEWRULE, NEWSET, NEWSETELEM, NEWTABLE,
    PRIORITY_RAW, TYPE_INTERFACE, TYPE_IPV4, TYPE_IPV6, base_chain, batch, message, octets,
};
use crate::network::link::Mac;
use crate::network::netlink::{Message, NLM_F_CREATE, Socket};
use std::io;
use std::net::{IpAddr, Ipv6Addr};

const BRIDGE: u8 = 7;
const GUARDED: &str = "guarded";
const HARDWARE: &str = "hardware";
const PLACES: &str = "places";
const PLACES6: &str = "places6";
const CHAIN: &str = "prerouting";
const TYPE_ETHERNET: u32 = 9;
const ETHERNET_IP: u16 = 0x0800;
const ETHERNET_ARP: u16 = 0x0806;
const ETHERNET_IPV6: u16 = 0x86dd;
const ICMPV6: u8 = 58;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Where packets have the sender's address: the set it must be in, and offset and length.
const SENDERS: [(u16, &str, u32, u32); 3] = [
    (ETHERNET_IP, PLACES, 12, 4),
    (ETHERNET_ARP, PLACES, 14, 4),
    (ETHERNET_IPV6, PLACES6, 8, 16),
];

/// A port of a bridge, and who is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub link: String,
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
}

impl Place {
    fn keys(&self, ipv4: bool) -> Vec<Vec<u8>> {
        let mut addresses: Vec<IpAddr> = self.addresses.clone();
        addresses.push(link_local(self.mac).into());
        addresses.push(Ipv6Addr::UNSPECIFIED.into());
        addresses.retain(|address| address.is_ipv4() == ipv4);
        addresses.sort_unstable();
        addresses.dedup();
        let key = |address: &IpAddr| [&padded(&self.link)[..], &octets(*address)].concat();
        addresses.iter().map(key).collect()
    }

    fn hardware(&self) -> Vec<u8> {
        // Every field of a key fills whole registers.
        [&padded(&self.link)[..], &self.mac, &[0, 0]].concat()
    }
}

/// The address that a link gives itself: RFC 4291, appendix A.
fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// Replaces the table: these ports of bridges send as these alone. None: the table goes.
pub(crate) fn install(socket: &mut Socket, name: &str, places: &[Place]) -> io::Result<()> {
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
            (2, HARDWARE, (TYPE_INTERFACE << 6) | TYPE_ETHERNET, 24),
            (3, PLACES, (TYPE_INTERFACE << 6) | TYPE_IPV4, 20),
            (4, PLACES6, (TYPE_INTERFACE << 6) | TYPE_IPV6, 32),
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
        let mut rule = |fill: &dyn Fn(&mut Message)| {
            let mut rule = table(NEWRULE, NLM_F_CREATE | 0x800);
            rule.text(2, CHAIN).nest(4, |rule| {
                interface(rule, META_IIFNAME, Is::In, GUARDED);
                fill(rule);
                verdict(rule, NF_DROP);
            });
            messages.push(rule);
        };
        rule(&|rule| {
            meta(rule, META_IIFNAME, R0);
            payload(rule, R0 + 4, 0, 6, 6);
            lookup(rule, HARDWARE, Is::NotIn, None);
        });
        for (protocol, set, offset, length) in SENDERS {
            rule(&|rule| {
                protocol_is(rule, protocol);
                meta(rule, META_IIFNAME, R0);
                payload(rule, R0 + 4, 1, offset, length);
                lookup(rule, set, Is::NotIn, None);
            });
        }
        rule(&|rule| {
            icmpv6(rule, NEIGHBOUR_ADVERTISEMENT);
            meta(rule, META_IIFNAME, R0);
            payload(rule, R0 + 4, 2, 8, 16);
            lookup(rule, PLACES6, Is::NotIn, None);
        });
        for kind in [ROUTER_ADVERTISEMENT, REDIRECT] {
            rule(&|rule| icmpv6(rule, kind));
        }
        let mut fill = |set, keys: Vec<Vec<u8>>| elements(&mut messages, &table, set, keys);
        let names = places.iter().map(|place| padded(&place.link).to_vec());
        fill(GUARDED, names.collect());
        fill(HARDWARE, places.iter().map(Place::hardware).collect());
        for (set, ipv4) in [(PLACES, true), (PLACES6, false)] {
            fill(
                set,
                places.iter().flat_map(|place| place.keys(ipv4)).collect(),
            );
        }
    }
    socket.transaction(batch(messages))
}

/// Whether the table is there.
pub(crate) fn exists(socket: &mut Socket, name: &str) -> io::Result<bool> {
    let mut request = message(BRIDGE, super::GETTABLE, 0);
    request.text(1, name);
    match socket.query(request, false, |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if super::not_there(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

fn protocol_is(rule: &mut Message, ethernet: u16) {
    meta(rule, META_PROTOCOL, R0);
    equals(rule, &ethernet.to_be_bytes());
}

fn icmpv6(rule: &mut Message, kind: u8) {
    protocol_is(rule, ETHERNET_IPV6);
    transport_is(rule, ICMPV6);
    payload(rule, R0, 2, 0, 1);
    equals(rule, &[kind]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_the_addresses_that_its_link_gives_itself() {
        let place = Place {
            link: "veth0".into(),
            mac: [0x02, 0x42, 0xac, 0x11, 0, 2],
            addresses: vec!["172.17.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        };
        assert_eq!(link_local(place.mac).to_string(), "fe80::42:acff:fe11:2");
        assert_eq!(place.keys(true).len(), 1);
        assert_eq!(place.keys(true)[0][16..], [172, 17, 0, 2]);
        let six: Vec<Ipv6Addr> = place
            .keys(false)
            .iter()
            .map(|key| Ipv6Addr::from(<[u8; 16]>::try_from(&key[16..]).unwrap()))
            .collect();
        let expected = ["::", "fd00::2", "fe80::42:acff:fe11:2"];
        assert_eq!(six, expected.map(|text| text.parse::<Ipv6Addr>().unwrap()));
        assert_eq!(place.hardware().len(), 24);
    }
}
