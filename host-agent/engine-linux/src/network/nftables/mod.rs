//! The firewall: our own nf_tables tables, written straight over netlink, so that publishing a port is one small batch
//! and no program is started. One for IPv4, and one of the same name for IPv6 once a network has it.
//!
//! ```text
//! table ip berth {
//!     map published    { inet_proto . inet_service : ipv4_addr . inet_service }              # on 0.0.0.0
//!     map published_at { ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }  # on one address
//!     set loopback     { ipv4_addr . inet_proto . inet_service }                             # on 127.0.0.0/8
//!     set opened       { ipv4_addr . inet_proto . inet_service }                # container ports, gateway mode routed
//!     map inside       { ifname : verdict }                                     # bridge -> its chain
//!     set bridges, internal, unprotected { ifname }
//!     set same         { ifname . ifname }                                      # bridges whose containers may talk
//!     set subnets, masqueraded { ipv4_addr, intervals }
//!     chain in-BRIDGE   { ip daddr 172.17.0.0/16 ip daddr != 172.17.0.1 notrack accept }
//!     chain guard       { type filter hook prerouting priority raw
//!         iifname vmap @inside
//!         iifname != "lo" ip daddr . meta l4proto . th dport @loopback drop }
//!     chain prerouting  { type nat hook prerouting priority dstnat
//!         fib daddr type != local return
//!         dnat to ip daddr . meta l4proto . th dport map @published_at
//!         dnat to meta l4proto . th dport map @published }
//!     chain output      { type nat hook output priority dstnat
//!         ip daddr 127.0.0.0/8 return          # the proxy in our process serves these
//!         ... as prerouting }
//!     chain postrouting { type nat hook postrouting priority srcnat
//!         ip saddr @masqueraded oifname != @bridges masquerade
//!         ip saddr @subnets oifname @bridges ct status dnat masquerade }   # hairpin: answers must pass here again
//!     chain forward     { type filter hook forward priority filter
//!         iifname . oifname @same accept
//!         oifname @bridges ct state established,related accept
//!         iifname @internal drop
//!         oifname @internal drop
//!         oifname @bridges ct status dnat accept
//!         oifname @bridges ip daddr . meta l4proto . th dport @opened accept
//!         iifname != @bridges oifname @unprotected accept
//!         oifname @bridges drop                # other bridges, and who routes around the published ports
//!         iifname @bridges accept }
//! }
//! ```
//!
//! The rules never change but for one chain of each bridge: networks and ports are elements of the sets, so the cost of a
//! packet does not grow with them. A bridge's chain is for its containers' talk among themselves where bridged frames pass
//! the firewall (br_netfilter): nobody needs account kept of that, and it costs a tenth of the throughput.
//! The whole table is replaced in one transaction, with the elements of networks and running containers, so a new start of
//! the agent opens no gap. An `accept` here does not overrule a `drop` in another table: see [`super::beside`].
//!
//! Formats and numbers: `linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`.

pub(crate) mod dns;
mod expression;
pub(crate) mod guard;

use super::netlink::{Message, NLM_F_CREATE, Socket, attributes};
use engine::networks::Protocol;
use expression::*;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
pub(crate) const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
pub(crate) const DELTABLE: u16 = 2;
pub(crate) const NEWCHAIN: u16 = 3;
pub(crate) const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
pub(crate) const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const HOOK_PREROUTING: u32 = 0;
const HOOK_FORWARD: u32 = 2;
/// Hook of what is carried on.
pub(crate) const FORWARD: u32 = HOOK_FORWARD;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
const PRIORITY_RAW: i32 = -300;
const PRIORITY_DSTNAT: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SRCNAT: i32 = 100;

const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_INTERFACE: u32 = 41;
/// Type and length of a link's name.
const INTERFACE: (u32, u32) = (TYPE_INTERFACE, 16);
const SET_INTERVAL: u32 = 0x4;
const SET_MAP: u32 = 0x8;
const INTERVAL_END: u32 = 1;

const PUBLISHED: &str = "published";
const PUBLISHED_AT: &str = "published_at";
const LOOPBACK: &str = "loopback";
const OPENED: &str = "opened";
const BRIDGES: &str = "bridges";
const INTERNAL: &str = "internal";
const UNPROTECTED: &str = "unprotected";
const SAME: &str = "same";
const INSIDE: &str = "inside";
/// Data type of a map that finds verdicts: `NFT_DATA_VERDICT`.
const TYPE_VERDICT: u32 = 0xffff_ff00;
const SUBNETS: &str = "subnets";
const MASQUERADED: &str = "masqueraded";
/// So that a nested list stays below the 64 KiB an attribute can hold.
const ELEMENTS_PER_MESSAGE: usize = 500;

/// Which table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(crate) fn of(address: &IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::Ipv4,
            IpAddr::V6(_) => Family::Ipv6,
        }
    }

    /// `NFPROTO_*`
    fn number(self) -> u8 {
        match self {
            Family::Ipv4 => 2,
            Family::Ipv6 => 10,
        }
    }

    /// Offset and length of the source address in the header.
    fn source(self) -> (u32, u32) {
        match self {
            Family::Ipv4 => (12, 4),
            Family::Ipv6 => (8, 16),
        }
    }

    fn destination(self) -> (u32, u32) {
        match self {
            Family::Ipv4 => (16, 4),
            Family::Ipv6 => (24, 16),
        }
    }

    fn address_type(self) -> (u32, u32) {
        match self {
            Family::Ipv4 => (TYPE_IPV4, 4),
            Family::Ipv6 => (TYPE_IPV6, 16),
        }
    }
}

/// A published port as the firewall sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forward {
    /// `0.0.0.0`: every address of the host. Of the same family as the container's.
    pub host_address: IpAddr,
    pub host_port: u16,
    pub protocol: Protocol,
    pub container_address: IpAddr,
    pub container_port: u16,
    /// Nothing is translated: the container's port is open to those who have a route (gateway mode `routed`).
    pub routed: bool,
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Forward {
    fn family(&self) -> Family {
        Family::of(&self.container_address)
    }

    fn set(&self) -> &'static str {
        if self.routed {
            OPENED
        } else if self.host_address.is_unspecified() {
            PUBLISHED
        } else if self.host_address.is_loopback() {
            LOOPBACK
        } else {
            PUBLISHED_AT
        }
    }

    fn key(&self) -> Vec<u8> {
        let (address, port) = match self.set() {
            PUBLISHED => (Vec::new(), self.host_port),
            OPENED => (octets(self.container_address), self.container_port),
            _ => (octets(self.host_address), self.host_port),
        };
        let mut key = address;
        key.extend([protocol_number(self.protocol), 0, 0, 0]);
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
        key
    }

    fn data(&self) -> Vec<u8> {
        let mut data = octets(self.container_address);
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

/// A network as the firewall sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Area {
    pub bridge: String,
    /// Of both families.
    pub subnets: Vec<IpNet>,
    /// The host's own addresses in them.
    pub gateways: Vec<IpAddr>,
    pub icc: bool,
    pub internal: bool,
    pub masquerade_ipv4: bool,
    pub masquerade_ipv6: bool,
    pub unprotected_ipv4: bool,
    pub unprotected_ipv6: bool,
}

impl Area {
    fn elements(&self, family: Family) -> Vec<Element> {
        let name = padded(&self.bridge).to_vec();
        let (masquerade, unprotected) = match family {
            Family::Ipv4 => (self.masquerade_ipv4, self.unprotected_ipv4),
            Family::Ipv6 => (self.masquerade_ipv6, self.unprotected_ipv6),
        };
        let mut elements = vec![Element::key(BRIDGES, name.clone())];
        if self.internal {
            elements.push(Element::key(INTERNAL, name.clone()));
        }
        if unprotected {
            elements.push(Element::key(UNPROTECTED, name.clone()));
        }
        if self.icc {
            elements.push(Element::key(SAME, [name.clone(), name].concat()));
        }
        for subnet in &self.subnets {
            if Family::of(&subnet.addr()) != family {
                continue;
            }
            elements.extend(interval(SUBNETS, subnet));
            if masquerade {
                elements.extend(interval(MASQUERADED, subnet));
            }
        }
        elements
    }
}

/// A range is its first address, and the first address after it as its end.
fn interval(set: &'static str, net: &IpNet) -> Vec<Element> {
    let mut elements = vec![Element::key(set, octets(net.network()))];
    let after = match net.broadcast() {
        IpAddr::V4(last) => u32::from(last)
            .checked_add(1)
            .map(|next| next.to_be_bytes().to_vec()),
        IpAddr::V6(last) => u128::from(last)
            .checked_add(1)
            .map(|next| next.to_be_bytes().to_vec()),
    };
    elements.extend(after.map(|key| Element {
        set,
        key,
        data: None,
        end: true,
    }));
    elements
}

/// The chain of what comes in by a bridge.
fn chain_of(bridge: &str) -> String {
    format!("in-{bridge}")
}

struct Element {
    set: &'static str,
    key: Vec<u8>,
    data: Option<Vec<u8>>,
    end: bool,
}

impl Element {
    fn key(set: &'static str, key: Vec<u8>) -> Element {
        Element {
            set,
            key,
            data: None,
            end: false,
        }
    }

    fn of(forward: &Forward) -> Element {
        let set = forward.set();
        Element {
            set,
            key: forward.key(),
            data: matches!(set, PUBLISHED | PUBLISHED_AT).then(|| forward.data()),
            end: false,
        }
    }
}

/// Our table of one family.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub name: String,
    pub family: Family,
}

pub(crate) fn message(family: u8, kind: u16, flags: u16) -> Message {
    Message::new((SUBSYSTEM << 8) | kind, flags, &[family, 0, 0, 0])
}

pub(crate) fn batch(mut inner: Vec<Message>) -> Vec<Message> {
    let resource = SUBSYSTEM.to_be_bytes();
    let edge = |kind| Message::new(kind, 0, &[0, 0, resource[0], resource[1]]);
    inner.insert(0, edge(BATCH_BEGIN));
    inner.push(edge(BATCH_END));
    inner
}

fn not_there(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::libc::ENOENT)
}

impl Table {
    fn message(&self, kind: u16, flags: u16) -> Message {
        let mut message = message(self.family.number(), kind, flags);
        message.text(1, &self.name);
        message
    }

    /// Whether the table is there.
    pub(crate) fn exists(&self, socket: &mut Socket) -> io::Result<bool> {
        match socket.query(self.message(GETTABLE, 0), false, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if not_there(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether all its rules are there: somebody may have flushed them and left the table.
    pub(crate) fn has_all_rules(&self, socket: &mut Socket, areas: &[Area]) -> io::Result<bool> {
        let mut wanted = Vec::new();
        self.rules(&mut wanted);
        for area in areas {
            self.open_inside(&mut wanted, area);
        }
        let is_rule = |message: &&Message| message.kind() & 0xff == NEWRULE;
        let wanted = wanted.iter().filter(is_rule).count();
        let mut found = 0;
        socket.query(self.message(GETRULE, 0), true, |_| found += 1)?;
        Ok(found >= wanted)
    }

    /// Replaces the whole table, in one transaction.
    pub(crate) fn install(
        &self,
        socket: &mut Socket,
        areas: &[Area],
        forwards: &[Forward],
    ) -> io::Result<()> {
        // Creating what may be there makes the removal that follows always succeed.
        let mut messages = vec![
            self.message(NEWTABLE, NLM_F_CREATE),
            self.message(DELTABLE, 0),
            self.message(NEWTABLE, NLM_F_CREATE),
        ];
        self.sets(&mut messages);
        self.rules(&mut messages);
        for area in areas {
            self.open_inside(&mut messages, area);
        }
        let of_areas = areas.iter().flat_map(|area| area.elements(self.family));
        let elements: Vec<Element> = of_areas.chain(self.of_forwards(forwards)).collect();
        self.elements(&mut messages, NEWSETELEM, NLM_F_CREATE, &elements);
        socket.transaction(batch(messages))
    }

    /// Removes the table with all that is in it.
    pub(crate) fn remove_all(&self, socket: &mut Socket) -> io::Result<()> {
        match socket.transaction(batch(vec![self.message(DELTABLE, 0)])) {
            Err(error) if not_there(&error) => Ok(()),
            other => other,
        }
    }

    fn sets(&self, messages: &mut Vec<Message>) {
        let address = self.family.address_type();
        let (protocol, service) = ((TYPE_PROTOCOL, 4), (TYPE_SERVICE, 4));
        let target = [address, service];
        let place = [address, protocol, service];
        let mut add = |name: &str, flags: u32, key: &[(u32, u32)], data: Option<&[(u32, u32)]>| {
            let id = messages.len() as u32;
            messages.push(self.new_set(id, name, flags, key, data));
        };
        add(PUBLISHED, SET_MAP, &[protocol, service], Some(&target));
        add(PUBLISHED_AT, SET_MAP, &place, Some(&target));
        for name in [LOOPBACK, OPENED] {
            add(name, 0, &place, None);
        }
        for name in [BRIDGES, INTERNAL, UNPROTECTED] {
            add(name, 0, &[INTERFACE], None);
        }
        add(SAME, 0, &[INTERFACE, INTERFACE], None);
        for name in [SUBNETS, MASQUERADED] {
            add(name, SET_INTERVAL, &[address], None);
        }
        add(INSIDE, SET_MAP, &[INTERFACE], Some(&[(TYPE_VERDICT, 0)]));
    }

    /// The chain of a bridge whose containers may talk to each other.
    fn open_inside(&self, messages: &mut Vec<Message>, area: &Area) {
        let of_family = |subnet: &&IpNet| Family::of(&subnet.addr()) == self.family;
        let subnets: Vec<&IpNet> = area.subnets.iter().filter(of_family).collect();
        if !area.icc || subnets.is_empty() {
            return;
        }
        let name = chain_of(&area.bridge);
        let mut chain = self.message(NEWCHAIN, NLM_F_CREATE);
        chain.text(3, &name);
        messages.push(chain);
        for subnet in subnets {
            messages.push(self.rule(&name, |rule| {
                destination_in(rule, subnet, &area.gateways);
                without_tracking(rule);
                verdict(rule, NF_ACCEPT);
            }));
        }
        messages.push(self.inside_element(NEWSETELEM, NLM_F_CREATE, area));
    }

    fn close_inside(&self, area: &Area) -> Vec<Message> {
        let name = chain_of(&area.bridge);
        let mut rules = self.message(DELRULE, 0);
        rules.text(2, &name);
        let mut chain = self.message(DELCHAIN, 0);
        chain.text(3, &name);
        vec![self.inside_element(DELSETELEM, 0, area), rules, chain]
    }

    fn inside_element(&self, kind: u16, flags: u16, area: &Area) -> Message {
        let mut request = self.message(kind, flags);
        request.text(2, INSIDE).nest(3, |list| {
            list.nest(1, |element| {
                value(element, 1, &padded(&area.bridge));
                element.nest(2, |data| {
                    data.nest(2, |verdict| {
                        verdict
                            .number_be(1, NFT_JUMP.cast_unsigned())
                            .text(2, &chain_of(&area.bridge));
                    });
                });
            });
        });
        request
    }

    fn rules(&self, messages: &mut Vec<Message>) {
        let family = self.family;
        messages.push(self.chain("guard", "filter", HOOK_PREROUTING, PRIORITY_RAW));
        messages.push(self.chain("prerouting", "nat", HOOK_PREROUTING, PRIORITY_DSTNAT));
        messages.push(self.chain("output", "nat", HOOK_OUTPUT, PRIORITY_DSTNAT));
        messages.push(self.chain("postrouting", "nat", HOOK_POSTROUTING, PRIORITY_SRCNAT));
        messages.push(self.chain("forward", "filter", HOOK_FORWARD, PRIORITY_FILTER));
        let mut rule = |chain: &str, fill: &dyn Fn(&mut Message)| {
            messages.push(self.rule(chain, fill));
        };
        rule("guard", &|rule| {
            meta(rule, META_IIFNAME, R0);
            lookup(rule, INSIDE, Is::In, Some(R_VERDICT));
        });
        rule("guard", &|rule| {
            not_interface(rule, META_IIFNAME, "lo");
            load_key(rule, family, true);
            lookup(rule, LOOPBACK, Is::In, None);
            verdict(rule, NF_DROP);
        });
        rule("output", &|rule| {
            destination_loopback(rule, family);
            verdict(rule, NFT_RETURN);
        });
        for chain in ["prerouting", "output"] {
            rule(chain, &|rule| {
                not_for_this_host(rule);
                verdict(rule, NFT_RETURN);
            });
            for (set, with_address) in [(PUBLISHED_AT, true), (PUBLISHED, false)] {
                rule(chain, &|rule| {
                    load_key(rule, family, with_address);
                    lookup(rule, set, Is::In, Some(R_DATA));
                    destination_nat(rule, family);
                });
            }
        }
        rule("postrouting", &|rule| {
            source_in(rule, family, MASQUERADED);
            interface(rule, META_OIFNAME, Is::NotIn, BRIDGES);
            masquerade(rule);
        });
        rule("postrouting", &|rule| {
            source_in(rule, family, SUBNETS);
            interface(rule, META_OIFNAME, Is::In, BRIDGES);
            conntrack(rule, CT_STATUS, STATUS_DST_NAT);
            masquerade(rule);
        });
        rule("forward", &|rule| {
            meta(rule, META_IIFNAME, R0);
            meta(rule, META_OIFNAME, R0 + 4);
            lookup(rule, SAME, Is::In, None);
            verdict(rule, NF_ACCEPT);
        });
        rule("forward", &|rule| {
            interface(rule, META_OIFNAME, Is::In, BRIDGES);
            conntrack(rule, CT_STATE, STATE_ESTABLISHED_RELATED);
            verdict(rule, NF_ACCEPT);
        });
        for key in [META_IIFNAME, META_OIFNAME] {
            rule("forward", &|rule| {
                interface(rule, key, Is::In, INTERNAL);
                verdict(rule, NF_DROP);
            });
        }
        rule("forward", &|rule| {
            interface(rule, META_OIFNAME, Is::In, BRIDGES);
            conntrack(rule, CT_STATUS, STATUS_DST_NAT);
            verdict(rule, NF_ACCEPT);
        });
        rule("forward", &|rule| {
            interface(rule, META_OIFNAME, Is::In, BRIDGES);
            load_key(rule, family, true);
            lookup(rule, OPENED, Is::In, None);
            verdict(rule, NF_ACCEPT);
        });
        rule("forward", &|rule| {
            interface(rule, META_IIFNAME, Is::NotIn, BRIDGES);
            interface(rule, META_OIFNAME, Is::In, UNPROTECTED);
            verdict(rule, NF_ACCEPT);
        });
        rule("forward", &|rule| {
            interface(rule, META_OIFNAME, Is::In, BRIDGES);
            verdict(rule, NF_DROP);
        });
        rule("forward", &|rule| {
            interface(rule, META_IIFNAME, Is::In, BRIDGES);
            verdict(rule, NF_ACCEPT);
        });
    }

    /// Lets a network in.
    pub(crate) fn add_area(&self, socket: &mut Socket, area: &Area) -> io::Result<()> {
        let mut messages = Vec::new();
        let elements = area.elements(self.family);
        self.elements(&mut messages, NEWSETELEM, NLM_F_CREATE, &elements);
        self.open_inside(&mut messages, area);
        socket.transaction(batch(messages))
    }

    /// Success when it is gone already.
    pub(crate) fn remove_area(&self, socket: &mut Socket, area: &Area) -> io::Result<()> {
        match socket.transaction(batch(self.close_inside(area))) {
            Err(error) if !not_there(&error) => return Err(error),
            _ => {}
        }
        self.take_out(socket, area.elements(self.family))
    }

    /// Publishes ports, all or none. Those of the other family are not this table's.
    pub(crate) fn add(&self, socket: &mut Socket, forwards: &[Forward]) -> io::Result<()> {
        let elements: Vec<Element> = self.of_forwards(forwards).collect();
        self.change(socket, NEWSETELEM, NLM_F_CREATE, &elements)
    }

    /// Takes ports back; success when they are gone already.
    pub(crate) fn remove(&self, socket: &mut Socket, forwards: &[Forward]) -> io::Result<()> {
        let elements: Vec<Element> = self.of_forwards(forwards).collect();
        self.take_out(socket, elements)
    }

    fn take_out(&self, socket: &mut Socket, elements: Vec<Element>) -> io::Result<()> {
        match self.change(socket, DELSETELEM, 0, &elements) {
            Err(error) if not_there(&error) => {
                // One of them was missing, which undid the rest of the batch: set by set, then one by one.
                for element in &elements {
                    match self.change(socket, DELSETELEM, 0, std::slice::from_ref(element)) {
                        Err(error) if !not_there(&error) => return Err(error),
                        _ => {}
                    }
                }
                Ok(())
            }
            other => other,
        }
    }

    fn of_forwards(&self, forwards: &[Forward]) -> impl Iterator<Item = Element> {
        forwards
            .iter()
            .filter(|forward| forward.family() == self.family)
            .map(Element::of)
    }

    /// How many ports the firewall has, for tests and checks.
    pub(crate) fn count(&self, socket: &mut Socket) -> io::Result<usize> {
        let mut count = 0;
        for set in [PUBLISHED, PUBLISHED_AT, LOOPBACK, OPENED] {
            let mut request = self.message(GETSETELEM, 0);
            request.text(2, set);
            socket.query(request, true, |payload| {
                for (kind, list) in attributes(payload.get(4..).unwrap_or(&[])) {
                    if kind == 3 {
                        count += attributes(list).count();
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
        elements: &[Element],
    ) -> io::Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let mut messages = Vec::new();
        self.elements(&mut messages, kind, flags, elements);
        socket.transaction(batch(messages))
    }

    fn elements(&self, messages: &mut Vec<Message>, kind: u16, flags: u16, elements: &[Element]) {
        const SETS: [&str; 10] = [
            PUBLISHED,
            PUBLISHED_AT,
            LOOPBACK,
            OPENED,
            BRIDGES,
            INTERNAL,
            UNPROTECTED,
            SAME,
            SUBNETS,
            MASQUERADED,
        ];
        for set in SETS {
            let of_set: Vec<&Element> = elements.iter().filter(|one| one.set == set).collect();
            for some in of_set.chunks(ELEMENTS_PER_MESSAGE) {
                let mut request = self.message(kind, flags);
                request.text(2, set).nest(3, |list| {
                    for one in some {
                        list.nest(1, |element| {
                            value(element, 1, &one.key);
                            if let Some(data) = &one.data {
                                value(element, 2, data);
                            }
                            if one.end {
                                element.number_be(3, INTERVAL_END);
                            }
                        });
                    }
                });
                messages.push(request);
            }
        }
    }

    fn new_set(
        &self,
        id: u32,
        name: &str,
        flags: u32,
        key: &[(u32, u32)],
        data: Option<&[(u32, u32)]>,
    ) -> Message {
        // Concatenated types: six bits each; every field fills whole 32-bit registers.
        let kind = |fields: &[(u32, u32)]| fields.iter().fold(0, |sum, field| (sum << 6) | field.0);
        let length = |fields: &[(u32, u32)]| fields.iter().map(|field| field.1).sum();
        let mut request = self.message(NEWSET, NLM_F_CREATE);
        request
            .text(2, name)
            .number_be(3, flags)
            .number_be(4, kind(key))
            .number_be(5, length(key));
        if let Some(data) = data {
            request.number_be(6, kind(data)).number_be(7, length(data));
        }
        request.number_be(10, id);
        if key == [INTERFACE] {
            // For people: without it nft shows names backwards, which is as nothing. `NFTNL_UDATA_SET_KEYBYTEORDER`, the
            // host's.
            request.attribute(13, &[0, 4, 1, 0, 0, 0]);
        }
        request
    }

    fn chain(&self, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
        let mut request = self.message(NEWCHAIN, NLM_F_CREATE);
        base_chain(&mut request, name, kind, hook, priority);
        request
    }

    fn rule(&self, chain: &str, fill: impl FnOnce(&mut Message)) -> Message {
        // NLM_F_APPEND: in the order of the calls.
        let mut request = self.message(NEWRULE, NLM_F_CREATE | 0x800);
        request.text(2, chain).nest(4, fill);
        request
    }
}

pub(crate) fn base_chain(request: &mut Message, name: &str, kind: &str, hook: u32, priority: i32) {
    request
        .text(3, name)
        .nest(4, |attributes| {
            attributes
                .number_be(1, hook)
                .number_be(2, priority.cast_unsigned());
        })
        .number_be(5, NF_ACCEPT as u32)
        .text(7, kind);
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
            routed: false,
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
        let routed = Forward {
            routed: true,
            ..forward([0, 0, 0, 0])
        };
        assert_eq!(routed.set(), OPENED);
        assert_eq!(routed.key(), [172, 17, 0, 2, 6, 0, 0, 0, 0, 80, 0, 0]);
    }

    #[test]
    fn a_range_ends_where_the_next_begins() {
        let keys = |net: &str| -> Vec<Vec<u8>> {
            interval(SUBNETS, &net.parse().unwrap())
                .into_iter()
                .map(|element| element.key)
                .collect()
        };
        assert_eq!(keys("10.1.0.0/16"), [[10, 1, 0, 0], [10, 2, 0, 0]]);
        assert_eq!(keys("255.255.255.0/24"), [[255, 255, 255, 0]]);
    }
}
