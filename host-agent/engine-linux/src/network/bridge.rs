//! Bridges of the host, their addresses, and what the host must allow for them.

use super::NetworkConfig;
use super::namespace::failed;
use super::netlink::Socket;
use super::{link, resolver};
use engine::networks::link::{GatewayMode, LinkSettings};
use engine::networks::{Driver, Network, NetworkError, UsedRanges, ipam};
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
    let gateway = match (config.address, present.first()) {
        (Some(address), _) => address,
        (None, Some(address)) => *address,
        (None, None) => {
            // The one that it had, where that can be.
            let old = remembered.map(|old| ipam::Pool {
                base: old.trunc().into(),
                size: old.prefix_len(),
            });
            let pools: Vec<ipam::Pool> = old.into_iter().chain(config.pools.clone()).collect();
            let net = ipam::choose(&pools, &used).ok_or_else(|| {
                failed(step(), "every address pool overlaps with the host's networks; choose an address with --bip")
            })?;
            let remembered = remembered.filter(|old| IpNet::V4(old.trunc()) == net);
            let IpAddr::V4(first) = ipam::first_address(&net) else {
                return Err(failed(step(), "the address pools have no IPv4 range"));
            };
            match remembered {
                Some(old) => old,
                None => {
                    Ipv4Net::new(first, net.prefix_len()).map_err(|error| failed(step(), error))?
                }
            }
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

/// The bridge of a network somebody made, with its gateways' addresses. What is there already stays. Returns its index, and
/// whether it was not there before.
pub(super) fn set_up(network: &Network, route: &mut Socket) -> Result<(u32, bool), NetworkError> {
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
            let index = create(name, seed, network.link.mtu, route)?;
            if !is_named_by_us(network) {
                // Whose it is must be known when the network is removed, by whichever agent that is.
                route
                    .execute(vec![link::set_alias(index, OURS)])
                    .map_err(|error| failed(step(), error))?;
            }
            index
        }
    };
    let outcome = configure(network, index, route).map_err(|error| failed(step(), error));
    if outcome.is_err() && existing.is_none() {
        let _ = link::remove(route, name);
    }
    outcome.map(|()| (index, existing.is_none()))
}

/// What the bridges that we have made are marked with where others have named them.
const OURS: &str = "berth";

fn is_named_by_us(network: &Network) -> bool {
    network.link.name == LinkSettings::new(Driver::Bridge, &network.id).name
}

/// Removes a network's bridge. One that was there before the network is somebody else's, and stays.
pub(super) fn take_down(network: &Network, route: &mut Socket) -> Result<(), NetworkError> {
    let name = &network.link.name;
    let step = || format!("remove the bridge {name}");
    let link = link::find(route, name).map_err(|error| failed(step(), error))?;
    match link {
        Some(link) if link.alias == OURS || is_named_by_us(network) => {
            link::remove(route, name).map_err(|error| failed(step(), error))
        }
        _ => Ok(()),
    }
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

/// Routes for more than this are ways out in parts, as VPNs set them (`0.0.0.0/1`), and no networks: no range for private use
/// is wider.
const WIDEST: (u8, u8) = (8, 7);

/// What the host uses: addresses and routes of links that are not `ours`, and its resolvers.
pub(super) fn used(
    route: &mut Socket,
    ours: impl Fn(Option<u32>) -> bool,
) -> Result<UsedRanges, NetworkError> {
    let mut used = UsedRanges::default();
    for address in link::addresses(route).map_err(|error| failed("list addresses", error))? {
        if !ours(Some(address.index)) {
            used.near.push(address.net);
        }
    }
    for to in link::routes(route).map_err(|error| failed("list routes", error))? {
        let widest = match to.net {
            IpNet::V4(_) => WIDEST.0,
            IpNet::V6(_) => WIDEST.1,
        };
        if ours(to.link) || to.net.prefix_len() < widest {
            continue;
        }
        match to.by_another {
            true => used.far.push(to.net),
            false => used.near.push(to.net),
        }
    }
    used.near
        .extend(resolver::servers().into_iter().map(IpNet::from));
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
