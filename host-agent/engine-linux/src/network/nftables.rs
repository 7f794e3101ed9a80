//! The firewall: our own nf_tables table, written straight over netlink, so that publishing a port is one small batch
//! and no program is started.
//!
//! ```text
//! table ip berth {
//!     map published    { inet_proto . inet_service : ipv4_addr . inet_service }              # on 0.0.0.0
//!     map published_at { ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }  # on one address
//!     set loopback     { ipv4_addr . inet_proto . inet_service }                             # on 127.0.0.0/8
//!     chain guard       { type filter hook prerouting priority raw
//!         iifname != "lo" ip daddr . meta l4proto . th dport @loopback drop }
//!     chain prerouting  { type nat hook prerouting priority dstnat
//!         fib daddr type != local return
//!         dnat to ip daddr . meta l4proto . th dport map @published_at
//!         dnat to meta l4proto . th dport map @published }
//!     chain output      { type nat hook output priority dstnat
//!         ip daddr 127.0.0.0/8 return          # the proxy in our process serves these
//!         ... as prerouting }
//!     chain postrouting { type nat hook postrouting priority srcnat
//!         ip saddr SUBNET oifname != BRIDGE masquerade
//!         ip saddr SUBNET oifname BRIDGE ct status dnat masquerade }   # hairpin: answers must pass here again
//!     chain forward     { type filter hook forward priority filter
//!         oifname BRIDGE ct state established,related accept
//!         iifname BRIDGE accept
//!         oifname BRIDGE ct status dnat accept
//!         oifname BRIDGE drop }                # nobody routes around the published ports
//! }
//! ```
//!
//! The whole table is replaced in one transaction, with the elements of running containers, so a new start of the
//! agent opens no gap. An `accept` here does not overrule a `drop` in another table: beside a dockerd whose iptables
//! FORWARD policy is DROP, its DOCKER-USER chain has to let the bridge through.
//!
//! Formats and numbers: `linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`.

use super::netlink::{Message, NLM_F_CREATE, Socket};
use engine::networks::Protocol;
use ipnet::Ipv4Net;
use std::io;
use std::net::Ipv4Addr;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;
const NFPROTO_IPV4: u8 = 2;

const HOOK_PREROUTING: u32 = 0;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

const NF_DROP: i32 = 0;
const NF_ACCEPT: i32 = 1;
const NFT_RETURN: i32 = -5;

/// The first 32-bit register; the 16-byte register 1 lies over the first four.
const R0: u32 = 8;
const R_WIDE: u32 = 1;
const R_DATA: u32 = 12;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;
const STATE_ESTABLISHED_RELATED: u32 = 0b110;
const STATUS_DST_NAT: u32 = 1 << 5;
const ADDRESS_TYPE_LOCAL: u32 = 2;

const TYPE_IPV4: u32 = 7;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const SET_MAP: u32 = 0x8;

const PUBLISHED: &str = "published";
const PUBLISHED_AT: &str = "published_at";
const LOOPBACK: &str = "loopback";
/// So that a nested list stays below the 64 KiB an attribute can hold.
const ELEMENTS_PER_MESSAGE: usize = 500;

/// A published port as the firewall sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    /// `0.0.0.0`: every address of the host.
    pub host_address: Ipv4Addr,
    pub host_port: u16,
    pub protocol: Protocol,
    pub container_address: Ipv4Addr,
    pub container_port: u16,
}

impl Forward {
    fn set(&self) -> &'static str {
        if self.host_address.is_unspecified() {
            PUBLISHED
        } else if self.host_address.is_loopback() {
            LOOPBACK
        } else {
            PUBLISHED_AT
        }
    }

    fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(12);
        if self.set() != PUBLISHED {
            key.extend(self.host_address.octets());
        }
        key.extend([protocol_number(self.protocol), 0, 0, 0]);
        key.extend(self.host_port.to_be_bytes());
        key.extend([0, 0]);
        key
    }

    fn data(&self) -> Vec<u8> {
        let mut data = self.container_address.octets().to_vec();
        data.extend(self.container_port.to_be_bytes());
        data.extend([0, 0]);
        data
    }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Our table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub name: String,
    pub bridge: String,
    pub subnet: Ipv4Net,
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, flags, &[NFPROTO_IPV4, 0, 0, 0])
}

fn batch(mut inner: Vec<Message>) -> Vec<Message> {
    let resource = SUBSYSTEM.to_be_bytes();
    let edge = |kind| Message::new(kind, 0, &[0, 0, resource[0], resource[1]]);
    inner.insert(0, edge(BATCH_BEGIN));
    inner.push(edge(BATCH_END));
    inner
}

impl Table {
    /// Whether the table is there.
    pub(crate) fn exists(&self, socket: &mut Socket) -> io::Result<bool> {
        let mut request = message(GETTABLE, 0);
        request.text(1, &self.name);
        match socket.query(request, false, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Replaces the whole table, in one transaction.
    pub(crate) fn install(&self, socket: &mut Socket, forwards: &[Forward]) -> io::Result<()> {
        // Creating what may be there makes the removal that follows always succeed.
        let mut messages = vec![
            self.table(NEWTABLE, NLM_F_CREATE),
            self.table(DELTABLE, 0),
            self.table(NEWTABLE, NLM_F_CREATE),
        ];
        let port = [TYPE_PROTOCOL, TYPE_SERVICE];
        let address_port = [TYPE_IPV4, TYPE_PROTOCOL, TYPE_SERVICE];
        let target = [TYPE_IPV4, TYPE_SERVICE];
        messages.push(self.new_set(1, PUBLISHED, &port, Some(&target)));
        messages.push(self.new_set(2, PUBLISHED_AT, &address_port, Some(&target)));
        messages.push(self.new_set(3, LOOPBACK, &address_port, None));

        messages.push(self.chain("guard", "filter", HOOK_PREROUTING, PRIORITY_RAW));
        messages.push(self.chain("prerouting", "nat", HOOK_PREROUTING, PRIORITY_DSTNAT));
        messages.push(self.chain("output", "nat", HOOK_OUTPUT, PRIORITY_DSTNAT));
        messages.push(self.chain("postrouting", "nat", HOOK_POSTROUTING, PRIORITY_SRCNAT));
        messages.push(self.chain("forward", "filter", HOOK_FORWARD, PRIORITY_FILTER));

        messages.push(self.rule("guard", |rule| {
            interface(rule, META_IIFNAME, NOT_EQUAL, "lo");
            load_key(rule, true);
            lookup(rule, LOOPBACK, None);
            verdict(rule, NF_DROP);
        }));
        messages.push(self.rule("output", |rule| {
            destination_loopback(rule);
            verdict(rule, NFT_RETURN);
        }));
        for chain in ["prerouting", "output"] {
            messages.push(self.rule(chain, |rule| {
                not_for_this_host(rule);
                verdict(rule, NFT_RETURN);
            }));
            for (set, with_address) in [(PUBLISHED_AT, true), (PUBLISHED, false)] {
                messages.push(self.rule(chain, |rule| {
                    load_key(rule, with_address);
                    lookup(rule, set, Some(R_DATA));
                    destination_nat(rule);
                }));
            }
        }
        messages.push(self.rule("postrouting", |rule| {
            source_in(rule, self.subnet);
            interface(rule, META_OIFNAME, NOT_EQUAL, &self.bridge);
            expression(rule, "masq", |_| {});
        }));
        messages.push(self.rule("postrouting", |rule| {
            source_in(rule, self.subnet);
            interface(rule, META_OIFNAME, EQUAL, &self.bridge);
            conntrack(rule, CT_STATUS, STATUS_DST_NAT);
            expression(rule, "masq", |_| {});
        }));
        messages.push(self.rule("forward", |rule| {
            interface(rule, META_OIFNAME, EQUAL, &self.bridge);
            conntrack(rule, CT_STATE, STATE_ESTABLISHED_RELATED);
            verdict(rule, NF_ACCEPT);
        }));
        messages.push(self.rule("forward", |rule| {
            interface(rule, META_IIFNAME, EQUAL, &self.bridge);
            verdict(rule, NF_ACCEPT);
        }));
        messages.push(self.rule("forward", |rule| {
            interface(rule, META_OIFNAME, EQUAL, &self.bridge);
            conntrack(rule, CT_STATUS, STATUS_DST_NAT);
            verdict(rule, NF_ACCEPT);
        }));
        messages.push(self.rule("forward", |rule| {
            interface(rule, META_OIFNAME, EQUAL, &self.bridge);
            verdict(rule, NF_DROP);
        }));
        self.elements(&mut messages, NEWSETELEM, NLM_F_CREATE, forwards);
        socket.transaction(batch(messages))
    }

    /// Publishes ports, all or none.
    pub(crate) fn add(&self, socket: &mut Socket, forwards: &[Forward]) -> io::Result<()> {
        self.change(socket, NEWSETELEM, NLM_F_CREATE, forwards)
    }

    /// Takes ports back; success when they are gone already.
    pub(crate) fn remove(&self, socket: &mut Socket, forwards: &[Forward]) -> io::Result<()> {
        match self.change(socket, DELSETELEM, 0, forwards) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {
                // One of them was missing, which undid the rest of the batch: one by one.
                for forward in forwards {
                    match self.change(socket, DELSETELEM, 0, &[*forward]) {
                        Err(error) if error.raw_os_error() != Some(nix::libc::ENOENT) => {
                            return Err(error);
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            other => other,
        }
    }

    /// How many ports the firewall has, for tests and checks.
    pub(crate) fn count(&self, socket: &mut Socket) -> io::Result<usize> {
        let mut count = 0;
        for set in [PUBLISHED, PUBLISHED_AT, LOOPBACK] {
            let mut request = message(GETSETELEM, 0);
            request.text(1, &self.name).text(2, set);
            socket.query(request, true, |payload| {
                for (kind, list) in super::netlink::attributes(payload.get(4..).unwrap_or(&[])) {
                    if kind == 3 {
                        count += super::netlink::attributes(list).count();
                    }
                }
            })?;
        }
        Ok(count)
    }

    fn change(
        &self,
        socket: &mut Socket,
        kind: u16,
        flags: u16,
        forwards: &[Forward],
    ) -> io::Result<()> {
        if forwards.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::new();
        self.elements(&mut messages, kind, flags, forwards);
        socket.transaction(batch(messages))
    }

    fn elements(&self, messages: &mut Vec<Message>, kind: u16, flags: u16, forwards: &[Forward]) {
        for set in [PUBLISHED, PUBLISHED_AT, LOOPBACK] {
            let of_set: Vec<&Forward> = forwards.iter().filter(|one| one.set() == set).collect();
            for some in of_set.chunks(ELEMENTS_PER_MESSAGE) {
                let mut request = message(kind, flags);
                request.text(1, &self.name).text(2, set).nest(3, |list| {
                    for forward in some {
                        list.nest(1, |element| {
                            value(element, 1, &forward.key());
                            if set != LOOPBACK {
                                value(element, 2, &forward.data());
                            }
                        });
                    }
                });
                messages.push(request);
            }
        }
    }

    fn table(&self, kind: u16, flags: u16) -> Message {
        let mut request = message(kind, flags);
        request.text(1, &self.name);
        request
    }

    fn new_set(&self, id: u32, name: &str, key: &[u32], data: Option<&[u32]>) -> Message {
        // Concatenated types: six bits each; every field fills whole 32-bit registers.
        let kind = |fields: &[u32]| fields.iter().fold(0, |sum, field| (sum << 6) | field);
        let mut request = message(NEWSET, NLM_F_CREATE);
        request
            .text(1, &self.name)
            .text(2, name)
            .number_be(3, if data.is_some() { SET_MAP } else { 0 })
            .number_be(4, kind(key))
            .number_be(5, 4 * key.len() as u32);
        if let Some(data) = data {
            request
                .number_be(6, kind(data))
                .number_be(7, 4 * data.len() as u32);
        }
        request.number_be(10, id);
        request
    }

    fn chain(&self, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
        let mut request = message(NEWCHAIN, NLM_F_CREATE);
        request
            .text(1, &self.name)
            .text(3, name)
            .nest(4, |attributes| {
                attributes
                    .number_be(1, hook)
                    .number_be(2, priority.cast_unsigned());
            })
            .number_be(5, NF_ACCEPT as u32)
            .text(7, kind);
        request
    }

    fn rule(&self, chain: &str, fill: impl FnOnce(&mut Message)) -> Message {
        // NLM_F_APPEND: in the order of the calls.
        let mut request = message(NEWRULE, NLM_F_CREATE | 0x800);
        request.text(1, &self.name).text(2, chain).nest(4, fill);
        request
    }
}

fn expression(rule: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    rule.nest(1, |element| {
        element.text(1, name).nest(2, fill);
    });
}

fn value(message: &mut Message, kind: u16, bytes: &[u8]) {
    message.nest(kind, |data| {
        data.attribute(1, bytes);
    });
}

fn compare(rule: &mut Message, register: u32, operation: u32, bytes: &[u8]) {
    expression(rule, "cmp", |cmp| {
        cmp.number_be(1, register).number_be(2, operation);
        value(cmp, 3, bytes);
    });
}

fn meta(rule: &mut Message, key: u32, register: u32) {
    expression(rule, "meta", |meta| {
        meta.number_be(1, register).number_be(2, key);
    });
}

fn interface(rule: &mut Message, key: u32, operation: u32, name: &str) {
    let mut padded = [0; 16];
    padded[..name.len()].copy_from_slice(name.as_bytes());
    meta(rule, key, R_WIDE);
    compare(rule, R_WIDE, operation, &padded);
}

/// `base`: 1 is the network header, 2 the transport header.
fn payload(rule: &mut Message, register: u32, base: u32, offset: u32, length: u32) {
    expression(rule, "payload", |load| {
        load.number_be(1, register)
            .number_be(2, base)
            .number_be(3, offset)
            .number_be(4, length);
    });
}

fn mask(rule: &mut Message, register: u32, mask: &[u8]) {
    expression(rule, "bitwise", |bitwise| {
        bitwise
            .number_be(1, register)
            .number_be(2, register)
            .number_be(3, mask.len() as u32);
        value(bitwise, 4, mask);
        value(bitwise, 5, &vec![0; mask.len()]);
    });
}

fn source_in(rule: &mut Message, net: Ipv4Net) {
    payload(rule, R0, 1, 12, 4);
    mask(rule, R0, &net.netmask().octets());
    compare(rule, R0, EQUAL, &net.network().octets());
}

fn destination_loopback(rule: &mut Message) {
    payload(rule, R0, 1, 16, 4);
    mask(rule, R0, &[255, 0, 0, 0]);
    compare(rule, R0, EQUAL, &[127, 0, 0, 0]);
}

fn not_for_this_host(rule: &mut Message) {
    expression(rule, "fib", |fib| {
        // Result 3: the type of the address; flag 2: of the destination.
        fib.number_be(1, R0).number_be(2, 3).number_be(3, 2);
    });
    compare(rule, R0, NOT_EQUAL, &ADDRESS_TYPE_LOCAL.to_ne_bytes());
}

fn load_key(rule: &mut Message, with_address: bool) {
    let mut register = R0;
    if with_address {
        payload(rule, register, 1, 16, 4);
        register += 1;
    }
    meta(rule, META_L4PROTO, register);
    payload(rule, register + 1, 2, 2, 2);
}

fn lookup(rule: &mut Message, set: &str, result: Option<u32>) {
    expression(rule, "lookup", |lookup| {
        lookup.text(1, set).number_be(2, R0);
        if let Some(register) = result {
            lookup.number_be(3, register);
        }
    });
}

fn destination_nat(rule: &mut Message) {
    expression(rule, "nat", |nat| {
        nat.number_be(1, 1)
            .number_be(2, u32::from(NFPROTO_IPV4))
            .number_be(3, R_DATA)
            .number_be(5, R_DATA + 1);
    });
}

fn conntrack(rule: &mut Message, key: u32, bits: u32) {
    expression(rule, "ct", |ct| {
        ct.number_be(1, R0).number_be(2, key);
    });
    mask(rule, R0, &bits.to_ne_bytes());
    compare(rule, R0, NOT_EQUAL, &[0; 4]);
}

fn verdict(rule: &mut Message, code: i32) {
    expression(rule, "immediate", |immediate| {
        immediate.number_be(1, 0).nest(2, |data| {
            data.nest(2, |verdict| {
                verdict.number_be(1, code.cast_unsigned());
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_goes_to_the_set_of_its_address() {
        let forward = |host: [u8; 4]| Forward {
            host_address: host.into(),
            host_port: 8080,
            protocol: Protocol::Tcp,
            container_address: [172, 17, 0, 2].into(),
            container_port: 80,
        };
        assert_eq!(forward([0, 0, 0, 0]).set(), PUBLISHED);
        assert_eq!(forward([0, 0, 0, 0]).key(), [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(forward([127, 0, 0, 5]).set(), LOOPBACK);
        assert_eq!(forward([10, 0, 2, 15]).set(), PUBLISHED_AT);
        assert_eq!(
            forward([10, 0, 2, 15]).key(),
            [10, 0, 2, 15, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]
        );
        assert_eq!(forward([10, 0, 2, 15]).data(), [172, 17, 0, 2, 0, 80, 0, 0]);
    }
}
