//! The default bridge of the host, and its address.

use super::NetworkConfig;
use super::namespace::failed;
use super::netlink::Socket;
use super::{link, resolver, subnet};
use engine::networks::NetworkError;
use ipnet::{IpNet, Ipv4Net};

/// Makes sure that the bridge is there, up, and has its address; returns its index and address.
pub(super) fn set_up(
    config: &NetworkConfig,
    remembered: Option<Ipv4Net>,
    route: &mut Socket,
) -> Result<(u32, Ipv4Net), NetworkError> {
    let name = &config.bridge;
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
    let index = existing.as_ref().map(|link| link.index);
    let mut present = Vec::new();
    let mut used = Vec::new();
    for address in link::addresses(route).map_err(|error| failed("list addresses", error))? {
        match address.net {
            IpNet::V4(net) if Some(address.index) == index => present.push(net),
            net => used.push(net),
        }
    }
    for (net, link) in link::routes(route).map_err(|error| failed("list routes", error))? {
        if index.is_none() || link != index {
            used.push(net);
        }
    }
    used.extend(resolver::servers().into_iter().map(IpNet::from));
    let gateway = match (config.address, present.first(), remembered) {
        (Some(address), _, _) => address,
        (None, Some(address), _) => *address,
        (None, None, Some(old)) if subnet::choose(&[old.trunc()], &used).is_some() => old,
        (None, None, _) => {
            let net = subnet::choose(&config.pools, &used).ok_or_else(|| {
                failed(step(), "every address pool overlaps with the host's networks; choose an address with --bip")
            })?;
            let first = net.hosts().next().unwrap_or(net.addr());
            Ipv4Net::new(first, net.prefix_len()).map_err(|error| failed(step(), error))?
        }
    };
    let index = match index {
        Some(index) => index,
        None => {
            link::create_bridge(route, name, link::mac_of(gateway.addr()))
                .map_err(|error| failed(step(), error))?;
            link::find(route, name)
                .map_err(|error| failed(step(), error))?
                .ok_or_else(|| failed(step(), "it vanished"))?
                .index
        }
    };
    let mut changes: Vec<_> = present
        .iter()
        .filter(|net| **net != gateway)
        .map(|net| link::remove_address(index, *net))
        .collect();
    if !present.contains(&gateway) {
        changes.push(link::add_address(index, gateway));
    }
    changes.push(link::up(index));
    route
        .execute(changes)
        .map_err(|error| failed(step(), error))?;
    Ok((index, gateway))
}

/// Lets the kernel carry packets between the bridge and the world.
pub(super) fn enable_forwarding() -> Result<(), NetworkError> {
    const FILE: &str = "/proc/sys/net/ipv4/ip_forward";
    if std::fs::read_to_string(FILE).is_ok_and(|value| value.trim() == "1") {
        return Ok(());
    }
    std::fs::write(FILE, "1").map_err(|error| failed(format!("write 1 to {FILE}"), error))
}
