//! Which addresses a network has: the choice of a subnet that fits the host, and the addresses lent to containers.

use ipnet::{IpNet, Ipv4Net};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Docker's pools for networks without a subnet of their own, in its order.
pub(crate) fn default_pools() -> Vec<Ipv4Net> {
    let wide = (17..32).map(|second| Ipv4Net::new_assert(Ipv4Addr::new(172, second, 0, 0), 16));
    let narrow = (0..16).map(|step| Ipv4Net::new_assert(Ipv4Addr::new(192, 168, step * 16, 0), 20));
    wide.chain(narrow).collect()
}

/// Whether two ranges share an address.
fn overlaps(one: &Ipv4Net, other: &Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first pool that shares no address with what the host uses.
pub(crate) fn choose(pools: &[Ipv4Net], used: &[IpNet]) -> Option<Ipv4Net> {
    pools
        .iter()
        .find(|pool| {
            used.iter().all(|net| match net {
                IpNet::V4(net) => !overlaps(pool, net),
                IpNet::V6(_) => true,
            })
        })
        .copied()
}

/// The addresses of one network that are lent.
#[derive(Debug)]
pub(crate) struct Leases {
    net: Ipv4Net,
    taken: BTreeSet<Ipv4Addr>,
}

impl Leases {
    /// `gateway` carries the network's address and prefix; the gateway itself is never lent.
    pub(crate) fn new(gateway: Ipv4Net) -> Leases {
        Leases {
            net: gateway.trunc(),
            taken: BTreeSet::from([gateway.addr()]),
        }
    }

    /// The lowest free address.
    pub(crate) fn lease(&mut self) -> Option<Ipv4Addr> {
        let free = self.net.hosts().find(|host| !self.taken.contains(host))?;
        self.taken.insert(free);
        Some(free)
    }

    /// Takes note of an address in use.
    pub(crate) fn hold(&mut self, address: Ipv4Addr) {
        self.taken.insert(address);
    }

    pub(crate) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pool_that_fits_is_chosen() {
        let pools = default_pools();
        assert_eq!(choose(&pools, &[]).unwrap().to_string(), "172.17.0.0/16");
        let used: Vec<IpNet> = [
            "172.17.0.1/16",
            "172.18.5.0/24",
            "172.19.9.9/32",
            "fd00::/8",
        ]
        .map(|net| net.parse().unwrap())
        .to_vec();
        assert_eq!(choose(&pools, &used).unwrap().to_string(), "172.20.0.0/16");
        let all: Vec<IpNet> = ["172.16.0.0/12", "192.168.0.0/18"]
            .map(|net| net.parse().unwrap())
            .to_vec();
        assert_eq!(choose(&pools, &all).unwrap().to_string(), "192.168.64.0/20");
        assert_eq!(choose(&pools, &["0.0.0.0/0".parse().unwrap()]), None);
    }

    #[test]
    fn addresses_are_lent_once_and_come_back() {
        let mut leases = Leases::new("10.9.8.1/29".parse().unwrap());
        leases.hold("10.9.8.3".parse().unwrap());
        let mut lent = Vec::new();
        while let Some(address) = leases.lease() {
            lent.push(address.to_string());
        }
        assert_eq!(lent, ["10.9.8.2", "10.9.8.4", "10.9.8.5", "10.9.8.6"]);
        leases.give_back("10.9.8.4".parse().unwrap());
        assert_eq!(leases.lease(), Some("10.9.8.4".parse().unwrap()));
        assert_eq!(leases.lease(), None);
    }

    proptest::proptest! {
        #[test]
        fn a_lease_is_inside_and_never_the_gateway(prefix in 16u8..31, gateway in 1u32..4, steps in proptest::collection::vec(proptest::bool::ANY, 1..200)) {
            let base = u32::from(Ipv4Addr::new(10, 200, 0, 0));
            let net = Ipv4Net::new(Ipv4Addr::from(base + gateway), prefix).unwrap();
            let mut leases = Leases::new(net);
            let mut held = BTreeSet::new();
            for take in steps {
                if take {
                    if let Some(address) = leases.lease() {
                        proptest::prop_assert!(net.contains(&address));
                        proptest::prop_assert_ne!(address, net.addr());
                        proptest::prop_assert_ne!(address, net.network());
                        proptest::prop_assert_ne!(address, net.broadcast());
                        proptest::prop_assert!(held.insert(address));
                    }
                } else if let Some(address) = held.pop_first() {
                    leases.give_back(address);
                }
            }
        }
    }
}
