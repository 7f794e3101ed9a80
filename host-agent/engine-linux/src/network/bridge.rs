//! Bridges of the host, their addresses, and what the host must allow for them.

use super::NetworkConfig;
use super::namespace::failed;
use super::netlink::Socket;
use super::{link, resolver};
use engine::networks::link::GatewayMode;
use engine::networks::{Network, NetworkError, ipam};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The default bridge: makes sure that it is there, up, and has its address; returns its index and address.
pub(super) fn set_up_default(
    config: &NetworkConfig,
    remembered: Option<Ipv4Net>,
    route: &mut Socket,
) -> Result<(u32, Ipv4Net), NetworkError> {
    let name = &config.bridge;
    let step = || format!("set up the bridge {name}");
    let existing = find(name, route)?;
    let index = existing.as_ref().map(|link| link.index);
    let present = addresses_of(index, route)?;
    let used = used(route, |link| index.is_some() && link == index)?;
    let free = |net: &IpNet| !used.iter().any(|other| ipam::overlap(net, other));
    let gateway = match (config.address, present.first(), remembered) {
        (Some(address), _, _) => address,
        (None, Some(address), _) => *address,
        (None, None, Some(old)) if free(&IpNet::V4(old.trunc())) => old,
        (None, None, _) => {
            let net = ipam::choose(&config.pools, &used).ok_or_else(|| {
                failed(step(), "every address pool overlaps with the host's networks; choose an address with --bip")
            })?;
            let IpAddr::V4(first) = ipam::first_address(&net) else {
                return Err(failed(step(), "the address pools have no IPv4 range"));
            };
            Ipv4Net::new(first, net.prefix_len()).map_err(|error| failed(step(), error))?
        }
    };
    let index = match index {
        Some(index) => index,
        None => create(name, gateway.addr(), None, route)?,
    };
    let mut changes: Vec<_> = present
        .iter()
        .filter(|net| **net != gateway)
        .map(|net| link::remove_address(index, IpNet::V4(*net)))
        .collect();
    if !present.contains(&gateway) {
        changes.push(link::add_address(index, gateway.into()));
    }
    changes.push(link::up(index));
    route
        .execute(changes)
        .map_err(|error| failed(step(), error))?;
    Ok((index, gateway))
}

/// The bridge of a network somebody made, with its gateways' addresses; returns its index. What is there already stays.
pub(super) fn set_up(network: &Network, route: &mut Socket) -> Result<u32, NetworkError> {
    let name = &network.link.name;
    let step = || format!("set up the bridge {name}");
    let existing = find(name, route)?.map(|link| link.index);
    let index = match existing {
        Some(index) => index,
        None => {
            let ipv4 = network
                .subnets
                .iter()
                .find_map(|subnet| match subnet.gateway {
                    Some(IpAddr::V4(address)) => Some(address),
                    _ => None,
                });
            // A network of IPv6 alone: any address of ours will do, made from its id.
            let seed = ipv4.unwrap_or_else(|| {
                let bytes = network.id.as_str().as_bytes();
                Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
            });
            create(name, seed, network.link.mtu, route)?
        }
    };
    let outcome = configure(network, index, route).map_err(|error| failed(step(), error));
    if outcome.is_err() && existing.is_none() {
        let _ = link::remove(route, name);
    }
    outcome.map(|()| index)
}

/// The gateway of the default bridge in IPv6: the first address of the subnet that was asked for, of the one it had, or of a
/// random one.
pub(super) fn choose_ipv6(asked: Option<Ipv6Net>, before: Option<Ipv6Net>) -> Ipv6Net {
    let random = || match ipam::random_ipv6_subnet() {
        IpNet::V6(net) => net,
        IpNet::V4(_) => unreachable!("it is of IPv6"),
    };
    match (asked, before) {
        (Some(asked), Some(before)) if asked.trunc() == before.trunc() => before,
        (None, Some(before)) => before,
        (asked, _) => {
            let net = asked.unwrap_or_else(random).trunc();
            let first = Ipv6Addr::from(u128::from(net.network()) + 1);
            Ipv6Net::new_assert(first, net.prefix_len())
        }
    }
}

/// Gives a bridge the gateways' addresses of its network; what is there already stays.
pub(super) fn configure(network: &Network, index: u32, route: &mut Socket) -> std::io::Result<()> {
    let name = &network.link.name;
    if network.ipv6 {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "0")?;
        // Nobody in a container tells the host which way is out.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"), "0");
    }
    let mut changes = Vec::new();
    for subnet in &network.subnets {
        let hidden = match subnet.range {
            IpNet::V4(_) => {
                network.link.inhibit_ipv4 || network.link.gateway_mode_ipv4 == GatewayMode::Isolated
            }
            IpNet::V6(_) => network.link.gateway_mode_ipv6 == GatewayMode::Isolated,
        };
        if let Some(gateway) = subnet.gateway
            && !hidden
            && let Ok(net) = IpNet::new(gateway, subnet.range.prefix_len())
        {
            changes.push(link::add_address(index, net));
        }
    }
    changes.push(link::up(index));
    route.execute(changes)
}

/// The bridge of that name, if there is one; another link of that name is an error.
fn find(name: &str, route: &mut Socket) -> Result<Option<link::Link>, NetworkError> {
    let step = || format!("set up the bridge {name}");
    let existing = link::find(route, name).map_err(|error| failed(step(), error))?;
    if let Some(link) = &existing
        && link.kind != "bridge"
    {
        return Err(failed(
            step(),
            "a link of that name is there and is no bridge",
        ));
    }
    Ok(existing)
}

fn create(
    name: &str,
    address: Ipv4Addr,
    mtu: Option<u32>,
    route: &mut Socket,
) -> Result<u32, NetworkError> {
    let step = || format!("set up the bridge {name}");
    link::create_bridge(route, name, link::mac_of(address), mtu)
        .map_err(|error| failed(step(), error))?;
    super::namespace::index_of(route, name)
}

fn addresses_of(index: Option<u32>, route: &mut Socket) -> Result<Vec<Ipv4Net>, NetworkError> {
    let addresses = link::addresses(route).map_err(|error| failed("list addresses", error))?;
    let of_link = addresses
        .into_iter()
        .filter_map(|address| match address.net {
            IpNet::V4(net) if Some(address.index) == index => Some(net),
            _ => None,
        });
    Ok(of_link.collect())
}

/// What the host uses: addresses and routes of links that are not `ours`, and its resolvers.
pub(super) fn used(
    route: &mut Socket,
    ours: impl Fn(Option<u32>) -> bool,
) -> Result<Vec<IpNet>, NetworkError> {
    let mut used = Vec::new();
    for address in link::addresses(route).map_err(|error| failed("list addresses", error))? {
        if !ours(Some(address.index)) {
            used.push(address.net);
        }
    }
    for (net, link) in link::routes(route).map_err(|error| failed("list routes", error))? {
        if !ours(link) {
            used.push(net);
        }
    }
    used.extend(resolver::servers().into_iter().map(IpNet::from));
    Ok(used)
}

/// Lets the kernel carry packets between the bridges and the world.
pub(super) fn enable_forwarding(ipv6: bool) -> Result<(), NetworkError> {
    let file = if ipv6 {
        "/proc/sys/net/ipv6/conf/all/forwarding"
    } else {
        "/proc/sys/net/ipv4/ip_forward"
    };
    if std::fs::read_to_string(file).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    std::fs::write(file, "1").map_err(|error| failed(format!("write 1 to {file}"), error))
}
