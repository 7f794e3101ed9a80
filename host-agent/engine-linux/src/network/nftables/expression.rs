//! The parts rules are made of, as the kernel reads them. Registers, keys and attributes: `linux/netfilter/nf_tables.h`.

use super::{Family, octets};
use crate::network::netlink::Message;
use ipnet::IpNet;
use std::net::IpAddr;

pub(super) const NF_DROP: i32 = 0;
pub(super) const NF_ACCEPT: i32 = 1;
pub(super) const NFT_JUMP: i32 = -3;
pub(super) const NFT_RETURN: i32 = -5;
/// Where a map of verdicts puts what it finds.
pub(super) const R_VERDICT: u32 = 0;

/// The first 32-bit register; the 16-byte register 1 lies over the first four.
pub(super) const R0: u32 = 8;
/// Where maps put what they find: past the longest key, an IPv6 address with protocol and port.
pub(super) const R_DATA: u32 = 16;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

pub(super) const META_PROTOCOL: u32 = 1;
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
pub(super) const CT_STATE: u32 = 0;
pub(super) const CT_STATUS: u32 = 2;
pub(super) const STATE_ESTABLISHED_RELATED: u32 = 0b110;
pub(super) const STATUS_DST_NAT: u32 = 1 << 5;
const ADDRESS_TYPE_LOCAL: u32 = 2;

/// Whether what is looked up must be there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Is {
    In,
    NotIn,
}

pub(super) fn expression(rule: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    rule.nest(1, |element| {
        element.text(1, name).nest(2, fill);
    });
}

pub(super) fn value(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nest(kind, |data| {
        data.attribute(1, bytes);
    });
}

fn compare(rule: &mut Message, operation: u32, bytes: &[u8]) {
    expression(rule, "cmp", |cmp| {
        cmp.number_be(1, R0).number_be(2, operation);
        value(cmp, 3, bytes);
    });
}

pub(super) fn equals(rule: &mut Message, bytes: &[u8]) {
    compare(rule, EQUAL, bytes);
}

pub(super) fn meta(rule: &mut Message, key: u32, register: u32) {
    expression(rule, "meta", |meta| {
        meta.number_be(1, register).number_be(2, key);
    });
}

/// Link names are 16 bytes, filled up with zeros.
pub(super) fn padded(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    let length = name.len().min(15);
    padded[..length].copy_from_slice(&name.as_bytes()[..length]);
    padded
}

/// The link of this key is not the one of that name.
pub(super) fn not_interface(rule: &mut Message, key: u32, name: &str) {
    meta(rule, key, R0);
    compare(rule, NOT_EQUAL, &padded(name));
}

/// The link of this key is in a set, or not.
pub(super) fn interface(rule: &mut Message, key: u32, is: Is, set: &str) {
    meta(rule, key, R0);
    lookup(rule, set, is, None);
}

/// `base`: 0 is the link's header, 1 the network's, 2 the transport's.
pub(super) fn payload(rule: &mut Message, register: u32, base: u32, offset: u32, length: u32) {
    expression(rule, "payload", |load| {
        load.number_be(1, register)
            .number_be(2, base)
            .number_be(3, offset)
            .number_be(4, length);
    });
}

fn mask(rule: &mut Message, mask: &[u8]) {
    expression(rule, "bitwise", |bitwise| {
        bitwise
            .number_be(1, R0)
            .number_be(2, R0)
            .number_be(3, mask.len() as u32);
        value(bitwise, 4, mask);
        value(bitwise, 5, &vec![0; mask.len()]);
    });
}

/// The source address is in a set of ranges.
pub(super) fn source_in(rule: &mut Message, family: Family, set: &str) {
    let (offset, length) = family.source();
    payload(rule, R0, 1, offset, length);
    lookup(rule, set, Is::In, None);
}

/// The protocol above IP.
pub(super) fn transport_is(rule: &mut Message, protocol: u8) {
    meta(rule, META_L4PROTO, R0);
    equals(rule, &[protocol]);
}

pub(super) fn destination_loopback(rule: &mut Message, family: Family) {
    let (offset, length) = family.destination();
    payload(rule, R0, 1, offset, length);
    match family {
        Family::Ipv4 => {
            mask(rule, &[255, 0, 0, 0]);
            equals(rule, &[127, 0, 0, 0]);
        }
        Family::Ipv6 => equals(rule, &std::net::Ipv6Addr::LOCALHOST.octets()),
    }
}

/// The destination is in a range, and none of these addresses.
pub(super) fn destination_in(rule: &mut Message, net: &IpNet, but: &[IpAddr]) {
    let (offset, length) = Family::of(&net.addr()).destination();
    payload(rule, R0, 1, offset, length);
    mask(rule, &octets(net.netmask()));
    equals(rule, &octets(net.network()));
    for address in but.iter().filter(|address| net.contains(*address)) {
        payload(rule, R0, 1, offset, length);
        compare(rule, NOT_EQUAL, &octets(*address));
    }
}

/// The connection is none that anybody keeps account of.
pub(super) fn without_tracking(rule: &mut Message) {
    expression(rule, "notrack", |_| {});
}

pub(super) fn not_for_this_host(rule: &mut Message) {
    expression(rule, "fib", |fib| {
        // Result 3: the type of the address; flag 2: of the destination.
        fib.number_be(1, R0).number_be(2, 3).number_be(3, 2);
    });
    compare(rule, NOT_EQUAL, &ADDRESS_TYPE_LOCAL.to_ne_bytes());
}

/// `[destination .] protocol . destination port`
pub(super) fn load_key(rule: &mut Message, family: Family, with_address: bool) {
    let mut register = R0;
    if with_address {
        let (offset, length) = family.destination();
        payload(rule, register, 1, offset, length);
        register += length / 4;
    }
    meta(rule, META_L4PROTO, register);
    payload(rule, register + 1, 2, 2, 2);
}

pub(super) fn lookup(rule: &mut Message, set: &str, is: Is, result: Option<u32>) {
    expression(rule, "lookup", |lookup| {
        lookup.text(1, set).number_be(2, R0);
        if let Some(register) = result {
            lookup.number_be(3, register);
        }
        if is == Is::NotIn {
            lookup.number_be(5, 1);
        }
    });
}

/// To the address and port that a map has found.
pub(super) fn destination_nat(rule: &mut Message, family: Family) {
    let (_, length) = family.destination();
    expression(rule, "nat", |nat| {
        nat.number_be(1, 1)
            .number_be(2, u32::from(family.number()))
            .number_be(3, R_DATA)
            .number_be(5, R_DATA + length / 4);
    });
}

pub(super) fn masquerade(rule: &mut Message) {
    expression(rule, "masq", |_| {});
}

pub(super) fn conntrack(rule: &mut Message, key: u32, bits: u32) {
    expression(rule, "ct", |ct| {
        ct.number_be(1, R0).number_be(2, key);
    });
    mask(rule, &bits.to_ne_bytes());
    compare(rule, NOT_EQUAL, &[0; 4]);
}

pub(super) fn verdict(rule: &mut Message, code: i32) {
    expression(rule, "immediate", |immediate| {
        immediate.number_be(1, 0).nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.number_be(1, code.cast_unsigned());
            });
        });
    });
}

/// Which port of a packet, and which address beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PortAt {
    Source,
    Destination,
}

/// Writes another port into IPv4 packets of this protocol that have this address and port.
pub(super) fn set_port(
    rule: &mut Message,
    at: PortAt,
    address: [u8; 4],
    protocol: u8,
    from: u16,
    to: u16,
) {
    let ((offset, length), port) = match at {
        PortAt::Source => (Family::Ipv4.source(), 0),
        PortAt::Destination => (Family::Ipv4.destination(), 2),
    };
    payload(rule, R0, 1, offset, length);
    equals(rule, &address);
    transport_is(rule, protocol);
    payload(rule, R0, 2, port, 2);
    equals(rule, &from.to_be_bytes());
    expression(rule, "immediate", |immediate| {
        immediate.number_be(1, R0);
        value(immediate, 2, &to.to_be_bytes());
    });
    // Where the header has its checksum: UDP at 6, TCP at 16.
    let checksum = if protocol == 17 { 6 } else { 16 };
    expression(rule, "payload", |store| {
        store
            .number_be(5, R0)
            .number_be(2, 2)
            .number_be(3, port)
            .number_be(4, 2)
            .number_be(6, 1)
            .number_be(7, checksum);
    });
}
