//! Links, addresses and routes over rtnetlink: the few requests that bridges and containers need.
//! Formats and numbers: `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`; rtnetlink(7).

use super::netlink::{Message, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Socket, attributes};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_DELNEIGH: u16 = 29;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_LINK: u16 = 5;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_IPVLAN_MODE: u16 = 1;
const VETH_INFO_PEER: u16 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
/// Usable at once: nobody else has the address.
const IFA_F_NODAD: u8 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
/// Of a route to be removed: any.
const RT_SCOPE_NOWHERE: u8 = 255;

const NDA_DST: u16 = 1;
const NUD_NONE: u16 = 0;

const IFF_UP: u32 = 1;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A hardware address.
pub(crate) type Mac = [u8; 6];

/// A link as the kernel lists it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub kind: String,
    pub master: Option<u32>,
    /// A remark of whoever made it; mostly empty.
    pub alias: String,
}

fn ifinfo(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut body = [0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..12].copy_from_slice(&flags.to_ne_bytes());
    body[12..16].copy_from_slice(&change.to_ne_bytes());
    body
}

/// `RTM_DELLINK`, as a listener is told it.
pub(crate) const REMOVED: u16 = RTM_DELLINK;

pub(crate) fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = u32::from_ne_bytes(payload.get(4..8)?.try_into().ok()?);
    let mut link = Link {
        index,
        name: String::new(),
        kind: String::new(),
        master: None,
        alias: String::new(),
    };
    for (attribute, value) in attributes(payload.get(16..)?) {
        match attribute {
            IFLA_IFNAME => link.name = text(value),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_MASTER => link.master = value.try_into().ok().map(u32::from_ne_bytes),
            IFLA_LINKINFO => {
                for (attribute, value) in attributes(value) {
                    if attribute == IFLA_INFO_KIND {
                        link.kind = text(value);
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned()
}

/// The link of that name, if there is one.
pub(crate) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Link>> {
    let mut message = Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    let mut found = None;
    match socket.query(message, false, |payload| found = parse_link(payload)) {
        Ok(()) => Ok(found),
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All links of the namespace.
pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Link>> {
    let mut links = Vec::new();
    socket.query(
        Message::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0)),
        true,
        |payload| links.extend(parse_link(payload)),
    )?;
    Ok(links)
}

/// A new bridge, up. Its hardware address is set so that it does not change with its ports.
pub(crate) fn create_bridge(
    socket: &mut Socket,
    name: &str,
    mac: Mac,
    mtu: Option<u32>,
) -> io::Result<()> {
    let mut message = Message::new(
        RTM_NEWLINK,
        NLM_F_CREATE | NLM_F_EXCL,
        &ifinfo(0, IFF_UP, IFF_UP),
    );
    message
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_ADDRESS, &mac)
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "bridge");
        });
    if let Some(mtu) = mtu {
        message.number(IFLA_MTU, mtu);
    }
    socket.execute(vec![message])
}

/// A pair of connected links, both down: `name` here as a port of the bridge `master`, `peer` in `namespace`. (The
/// kernel connects the two after it would have set one up, which fails.)
pub(crate) fn create_pair(
    socket: &mut Socket,
    name: &str,
    master: u32,
    mtu: Option<u32>,
    peer: &str,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    if let Some(mtu) = mtu {
        message.number(IFLA_MTU, mtu);
    }
    message
        .number(IFLA_MASTER, master)
        .nest(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth")
                .nest(IFLA_INFO_DATA, |data| {
                    data.nest(VETH_INFO_PEER, |other| {
                        other
                            .raw(&ifinfo(0, 0, 0))
                            .text(IFLA_IFNAME, peer)
                            .number(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
                        if let Some(mtu) = mtu {
                            other.number(IFLA_MTU, mtu);
                        }
                    });
                });
        });
    socket.execute(vec![message])
}

/// Sets a link up by index.
pub(crate) fn up(index: u32) -> Message {
    Message::new(RTM_SETLINK, 0, &ifinfo(index, IFF_UP, IFF_UP))
}

/// Sets a link up by name.
pub(crate) fn up_by_name(name: &str) -> Message {
    let mut message = up(0);
    message.text(IFLA_IFNAME, name);
    message
}

/// Sets a bridge's port up, in hairpin mode: where bridged frames pass the firewall (br_netfilter), a container that
/// asks for its own published port has its frame sent back out of the port it came from. Isolated ports exchange frames,
/// ARP too, with the bridge alone and not with each other.
pub(crate) fn up_as_port(name: &str, isolated: bool) -> Message {
    let mut message = Message::new(RTM_NEWLINK, 0, &ifinfo(0, IFF_UP, IFF_UP));
    message.text(IFLA_IFNAME, name).nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_SLAVE_KIND, "bridge")
            .nest(IFLA_INFO_SLAVE_DATA, |data| {
                data.attribute(IFLA_BRPORT_MODE, &[1]);
                if isolated {
                    data.attribute(IFLA_BRPORT_ISOLATED, &[1]);
                }
            });
    });
    message
}

/// Makes a link a port of a bridge.
pub(crate) fn set_master(name: &str, master: u32) -> Message {
    let mut message = Message::new(RTM_SETLINK, 0, &ifinfo(0, 0, 0));
    message.text(IFLA_IFNAME, name).number(IFLA_MASTER, master);
    message
}

/// A link of its own on the link `parent`, made in `namespace` under the name `name`, down.
pub(crate) fn create_on_parent(
    socket: &mut Socket,
    kind: OnParent,
    parent: u32,
    mtu: Option<u32>,
    name: &str,
    namespace: BorrowedFd<'_>,
) -> io::Result<()> {
    let mut message = Message::new(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &ifinfo(0, 0, 0));
    message
        .text(IFLA_IFNAME, name)
        .number(IFLA_LINK, parent)
        .number(IFLA_NET_NS_FD, namespace.as_raw_fd() as u32);
    if let Some(mtu) = mtu {
        message.number(IFLA_MTU, mtu);
    }
    message.nest(IFLA_LINKINFO, |info| match kind {
        OnParent::Macvlan { mode } => {
            info.text(IFLA_INFO_KIND, "macvlan")
                .nest(IFLA_INFO_DATA, |data| {
                    data.number(IFLA_MACVLAN_MODE, mode);
                });
        }
        OnParent::Ipvlan { mode } => {
            info.text(IFLA_INFO_KIND, "ipvlan")
                .nest(IFLA_INFO_DATA, |data| {
                    data.attribute(IFLA_IPVLAN_MODE, &mode.to_ne_bytes());
                });
        }
    });
    socket.execute(vec![message])
}

/// What a link on another link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnParent {
    /// `MACVLAN_MODE_*`: 1 private, 2 vepa, 4 bridge, 8 passthru.
    Macvlan { mode: u32 },
    /// `IPVLAN_MODE_*`: 0 l2, 1 l3, 2 l3s.
    Ipvlan { mode: u16 },
}

/// Remarks something on a link.
pub(crate) fn set_alias(index: u32, alias: &str) -> Message {
    let mut message = Message::new(RTM_SETLINK, 0, &ifinfo(index, 0, 0));
    message.text(IFLA_IFALIAS, alias);
    message
}

/// Gives a link another hardware address; a veth may be up.
pub(crate) fn set_mac(index: u32, mac: Mac) -> Message {
    let mut message = Message::new(RTM_SETLINK, 0, &ifinfo(index, 0, 0));
    message.attribute(IFLA_ADDRESS, &mac);
    message
}

/// Removes a link; of a pair both. Success when it is gone already.
pub(crate) fn remove(socket: &mut Socket, name: &str) -> io::Result<()> {
    let mut message = Message::new(RTM_DELLINK, 0, &ifinfo(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    match socket.execute(vec![message]) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(()),
        other => other,
    }
}

fn bytes_of(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

fn address(kind: u16, flags: u16, index: u32, net: IpNet) -> Message {
    let mut body = [0; 8];
    body[0] = family_of(net.addr());
    body[1] = net.prefix_len();
    if net.addr().is_ipv6() {
        body[2] = IFA_F_NODAD;
    }
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut message = Message::new(kind, flags, &body);
    let address = bytes_of(net.addr());
    message
        .attribute(IFA_LOCAL, &address)
        .attribute(IFA_ADDRESS, &address);
    if let IpNet::V4(net) = net
        && net.prefix_len() < 31
    {
        message.attribute(IFA_BROADCAST, &net.broadcast().octets());
    }
    message
}

/// Gives a link an address; the same again is no error.
pub(crate) fn add_address(index: u32, net: IpNet) -> Message {
    address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, net)
}

/// Takes an address from a link.
pub(crate) fn remove_address(index: u32, net: IpNet) -> Message {
    address(RTM_DELADDR, 0, index, net)
}

fn default_route(kind: u16, flags: u16, family: u8, scope: u8) -> Message {
    let mut body = [0; 12];
    body[0] = family;
    body[4] = RT_TABLE_MAIN;
    body[5] = RTPROT_BOOT;
    body[6] = scope;
    body[7] = RTN_UNICAST;
    Message::new(kind, flags, &body)
}

/// The default route of a family, in place of the one there may be; without a gateway all is found on the link itself.
pub(crate) fn set_default_route(index: u32, gateway: Option<IpAddr>, ipv4: bool) -> Message {
    let flags = NLM_F_CREATE | NLM_F_REPLACE;
    let family = if ipv4 { AF_INET } else { AF_INET6 };
    let scope = match gateway {
        Some(_) => RT_SCOPE_UNIVERSE,
        None => RT_SCOPE_LINK,
    };
    let mut message = default_route(RTM_NEWROUTE, flags, family, scope);
    if let Some(gateway) = gateway {
        message.attribute(RTA_GATEWAY, &bytes_of(gateway));
    }
    message.number(RTA_OIF, index);
    message
}

/// Takes a default route away; that there is none is the kernel's error `ESRCH`.
pub(crate) fn remove_default_route(ipv4: bool) -> Message {
    let family = if ipv4 { AF_INET } else { AF_INET6 };
    default_route(RTM_DELROUTE, 0, family, RT_SCOPE_NOWHERE)
}

/// Forgets which hardware address a neighbour had.
pub(crate) fn forget_neighbour(index: u32, address: Ipv4Addr) -> Message {
    let mut body = [0; 12];
    body[0] = AF_INET;
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body[8..10].copy_from_slice(&NUD_NONE.to_ne_bytes());
    let mut message = Message::new(RTM_DELNEIGH, 0, &body);
    message.attribute(NDA_DST, &address.octets());
    message
}

/// An address of a link.
pub(crate) struct LinkAddress {
    pub index: u32,
    pub net: IpNet,
}

/// All addresses of the namespace.
pub(crate) fn addresses(socket: &mut Socket) -> io::Result<Vec<LinkAddress>> {
    let mut found = Vec::new();
    let mut body = [0; 8];
    body[0] = AF_UNSPEC;
    socket.query(Message::new(RTM_GETADDR, 0, &body), true, |payload| {
        let Some(header) = payload.get(..8) else {
            return;
        };
        let index = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let mut address = None;
        for (attribute, value) in attributes(&payload[8..]) {
            // On point-to-point links IFA_ADDRESS is the other end; IFA_LOCAL is ours.
            if attribute == IFA_LOCAL || (attribute == IFA_ADDRESS && address.is_none()) {
                address = parse_address(value);
            }
        }
        if let Some(net) = address.and_then(|ip| IpNet::new(ip, header[1]).ok()) {
            found.push(LinkAddress { index, net });
        }
    })?;
    Ok(found)
}

/// Where a route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    pub net: IpNet,
    pub link: Option<u32>,
    /// It is behind a gateway, not on the link.
    pub by_another: bool,
}

/// Destinations of all routes except the default ones.
pub(crate) fn routes(socket: &mut Socket) -> io::Result<Vec<Destination>> {
    let mut found = Vec::new();
    socket.query(Message::new(RTM_GETROUTE, 0, &[0; 12]), true, |payload| {
        let Some(header) = payload.get(..12) else {
            return;
        };
        let (family, length, kind) = (header[0], header[1], header[7]);
        if kind != RTN_UNICAST || length == 0 {
            return;
        }
        let mut destination = None;
        let mut link = None;
        let mut by_another = false;
        for (attribute, value) in attributes(&payload[12..]) {
            match attribute {
                RTA_DST => destination = parse_address(value),
                RTA_OIF => link = value.try_into().ok().map(u32::from_ne_bytes),
                RTA_GATEWAY => by_another = true,
                _ => {}
            }
        }
        let net = match (family, destination) {
            (AF_INET, Some(IpAddr::V4(ip))) => Ipv4Net::new(ip, length).ok().map(IpNet::V4),
            (AF_INET6, Some(IpAddr::V6(ip))) => Ipv6Net::new(ip, length).ok().map(IpNet::V6),
            _ => None,
        };
        found.extend(net.map(|net| Destination {
            net,
            link,
            by_another,
        }));
    })?;
    Ok(found)
}

fn parse_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    <[u8; 16]>::try_from(value)
        .ok()
        .map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
}

/// Reads `02:42:ac:11:00:02`; a group address is none for a link.
pub(crate) fn parse_mac(text: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next()?;
        if part.len() != 2 {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    (parts.next().is_none() && mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

/// `02:42:` and the address, as Docker does: the same address always has the same hardware address.
pub(crate) fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

pub(crate) fn mac_text(mac: Mac) -> String {
    let parts: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    parts.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses() {
        let mac = mac_of(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac_text(mac), "02:42:ac:11:00:02");
        assert_eq!(parse_mac("02:42:ac:11:00:02"), Some(mac));
        assert_eq!(parse_mac("02-42-AC-11-00-02"), Some(mac));
        for wrong in [
            "",
            "02:42:ac:11:00",
            "02:42:ac:11:00:02:03",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "2:42:ac:11:00:02",
            "zz:42:ac:11:00:02",
        ] {
            assert_eq!(parse_mac(wrong), None, "{wrong}");
        }
    }
}
