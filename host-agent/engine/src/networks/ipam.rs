//! Addresses: the choice of a subnet, and the addresses of a network that are lent. Pure, for every backend.

use super::UsedRanges;
use super::network::Network;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range that subnets are cut from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pool {
    pub base: IpNet,
    /// Prefix length of a subnet.
    pub size: u8,
}

/// Docker's pools for networks without a subnet of their own, in its order.
pub fn default_pools() -> Vec<Pool> {
    let wide = (17..32).map(|second| (Ipv4Addr::new(172, second, 0, 0), 16));
    let narrow = (0..16).map(|step| (Ipv4Addr::new(192, 168, step * 16, 0), 20));
    wide.chain(narrow)
        .map(|(address, size)| Pool {
            base: Ipv4Net::new_assert(address, size).into(),
            size,
        })
        .collect()
}

/// Whether two ranges share an address.
pub fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first IPv4 subnet of the pools that shares no address with what is used; where there is none, the first that shares
/// none with what is near.
pub fn choose(pools: &[Pool], used: &UsedRanges) -> Option<IpNet> {
    let first = |is_free: &dyn Fn(&IpNet) -> bool| {
        pools
            .iter()
            .filter(|pool| pool.base.addr().is_ipv4())
            .find_map(|pool| {
                let mut subnets = pool.base.subnets(pool.size).ok()?;
                subnets.find(|subnet| is_free(subnet))
            })
    };
    first(&|subnet| !used.all().any(|net| overlap(subnet, net)))
        .or_else(|| first(&|subnet| !used.near.iter().any(|net| overlap(subnet, net))))
}

/// An IPv6 subnet for a network that asked for none of its own: a /64 of the unique local range, random as RFC 4193 wants
/// it.
pub fn random_ipv6_subnet() -> IpNet {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets[1..8]).expect("the kernel has random numbers");
    octets[0] = 0xfd;
    Ipv6Net::new_assert(Ipv6Addr::from(octets), 64).into()
}

/// The gateway of a subnet that names none: its first address.
pub fn first_address(net: &IpNet) -> IpAddr {
    from_number(number(net.network()) + 1, net.addr().is_ipv4())
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn from_number(number: u128, is_ipv4: bool) -> IpAddr {
    if is_ipv4 {
        Ipv4Addr::from(number as u32).into()
    } else {
        Ipv6Addr::from(number).into()
    }
}

/// An address that is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub address: IpAddr,
    pub prefix_length: u8,
    pub gateway: Option<IpAddr>,
}

/// Why none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Exhausted,
    InUse,
    OutOfRange,
}

/// The addresses of one network that are lent.
#[derive(Debug)]
pub struct Leases {
    lenders: Vec<Lender>,
}

#[derive(Debug)]
struct Lender {
    range: IpNet,
    gateway: Option<IpAddr>,
    /// First and last number that may be lent unasked.
    from: u128,
    to: u128,
    taken: BTreeSet<u128>,
}

impl Lender {
    fn lease(&self, address: u128) -> Lease {
        Lease {
            address: from_number(address, self.range.addr().is_ipv4()),
            prefix_length: self.range.prefix_len(),
            gateway: self.gateway,
        }
    }

    /// The network's own address and, of IPv4, the one for all belong to nobody (/31 and /32 have neither).
    fn edge(&self, address: u128) -> bool {
        let net = &self.range;
        if net.prefix_len() + 1 >= net.max_prefix_len() {
            return false;
        }
        address == number(net.network())
            || (net.addr().is_ipv4() && address == number(net.broadcast()))
    }
}

impl Leases {
    /// Nothing lent but what the network itself takes: gateways and auxiliary addresses.
    pub fn new(network: &Network) -> Leases {
        let lenders = network.subnets.iter().map(|subnet| {
            let lend = subnet.lend.unwrap_or(subnet.range);
            let taken = subnet
                .gateway
                .iter()
                .chain(subnet.auxiliary.values())
                .map(|address| number(*address));
            Lender {
                range: subnet.range,
                gateway: subnet.gateway,
                from: number(lend.network()),
                to: number(lend.broadcast()),
                taken: taken.collect(),
            }
        });
        Leases {
            lenders: lenders.collect(),
        }
    }

    /// Lends an address of the family: `wanted` or nothing, else `preferred` if it is free, else the lowest free one.
    pub fn lease(
        &mut self,
        ipv4: bool,
        wanted: Option<IpAddr>,
        preferred: &[IpAddr],
    ) -> Result<Lease, Refusal> {
        let of_family = |address: &&IpAddr| address.is_ipv4() == ipv4;
        if let Some(address) = wanted {
            return self.take(address);
        }
        for address in preferred.iter().filter(of_family) {
            if let Ok(lease) = self.take(*address) {
                return Ok(lease);
            }
        }
        for lender in &mut self.lenders {
            if lender.range.addr().is_ipv4() != ipv4 {
                continue;
            }
            // What is taken is in order, so the first gap is found without trying every address.
            let mut next = lender.from;
            while lender.edge(next) {
                next += 1;
            }
            for taken in lender.taken.range(lender.from..) {
                if *taken > next {
                    break;
                }
                if *taken == next {
                    next += 1;
                }
            }
            if next <= lender.to && !lender.edge(next) {
                lender.taken.insert(next);
                return Ok(lender.lease(next));
            }
        }
        Err(Refusal::Exhausted)
    }

    fn take(&mut self, address: IpAddr) -> Result<Lease, Refusal> {
        let value = number(address);
        let lender = self
            .lenders
            .iter_mut()
            .find(|lender| lender.range.contains(&address))
            .ok_or(Refusal::OutOfRange)?;
        if lender.edge(value) {
            return Err(Refusal::OutOfRange);
        }
        if !lender.taken.insert(value) {
            return Err(Refusal::InUse);
        }
        Ok(lender.lease(value))
    }

    /// Takes note of an address in use.
    pub fn hold(&mut self, address: IpAddr) {
        // In use already: two containers of a damaged record; the first to end frees it.
        let _ = self.take(address);
    }

    pub fn give_back(&mut self, address: IpAddr) {
        for lender in &mut self.lenders {
            if lender.range.contains(&address) && lender.gateway != Some(address) {
                lender.taken.remove(&number(address));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::fake::network;

    fn leases(range: &str, gateway: &str) -> Leases {
        let mut network = network("n");
        network.subnets[0].range = range.parse().unwrap();
        network.subnets[0].gateway = Some(gateway.parse().unwrap());
        Leases::new(&network)
    }

    fn any(leases: &mut Leases, ipv4: bool) -> Option<String> {
        let lease = leases.lease(ipv4, None, &[]).ok()?;
        Some(lease.address.to_string())
    }

    #[test]
    fn the_first_pool_that_fits_is_chosen() {
        let nets = |texts: &[&str]| UsedRanges {
            near: texts.iter().map(|net| net.parse().unwrap()).collect(),
            far: Vec::new(),
        };
        let chosen =
            |used: &[&str]| choose(&default_pools(), &nets(used)).map(|net| net.to_string());
        assert_eq!(chosen(&[]).unwrap(), "172.17.0.0/16");
        let used = [
            "172.17.0.1/16",
            "172.18.5.0/24",
            "172.19.9.9/32",
            "fd00::/8",
        ];
        assert_eq!(chosen(&used).unwrap(), "172.20.0.0/16");
        assert_eq!(
            chosen(&["172.16.0.0/12", "192.168.0.0/18"]).unwrap(),
            "192.168.64.0/20"
        );
        assert_eq!(chosen(&["0.0.0.0/0"]), None);
        // Where routes by others cover everything, what is near must do.
        let mut all_far = nets(&["172.17.0.1/16"]);
        all_far.far = nets(&["172.16.0.0/12"]).near;
        let chosen = |used: &UsedRanges| choose(&default_pools(), used).unwrap().to_string();
        assert_eq!(chosen(&all_far), "192.168.0.0/20");
        all_far.far.push("192.168.0.0/16".parse().unwrap());
        assert_eq!(chosen(&all_far), "172.18.0.0/16");
        let small = [Pool {
            base: "10.9.0.0/16".parse().unwrap(),
            size: 24,
        }];
        let second = choose(&small, &nets(&["10.9.0.7/32"])).unwrap();
        assert_eq!(second.to_string(), "10.9.1.0/24");
    }

    #[test]
    fn addresses_are_lent_once_and_come_back() {
        let mut leases = leases("10.9.8.0/29", "10.9.8.1");
        leases.hold("10.9.8.3".parse().unwrap());
        let mut lent = Vec::new();
        while let Some(address) = any(&mut leases, true) {
            lent.push(address);
        }
        assert_eq!(lent, ["10.9.8.2", "10.9.8.4", "10.9.8.5", "10.9.8.6"]);
        leases.give_back("10.9.8.4".parse().unwrap());
        leases.give_back("10.9.8.1".parse().unwrap());
        assert_eq!(any(&mut leases, true).unwrap(), "10.9.8.4");
        assert_eq!(leases.lease(true, None, &[]), Err(Refusal::Exhausted));
    }

    #[test]
    fn a_wanted_address_is_lent_or_refused_and_a_preferred_one_if_it_is_free() {
        let mut leases = leases("10.9.8.0/24", "10.9.8.1");
        let mut want = |text: &str| {
            leases
                .lease(true, Some(text.parse().unwrap()), &[])
                .map(|lease| lease.address.to_string())
        };
        assert_eq!(want("10.9.8.77").unwrap(), "10.9.8.77");
        assert_eq!(want("10.9.8.77"), Err(Refusal::InUse));
        assert_eq!(want("10.9.8.1"), Err(Refusal::InUse));
        assert_eq!(want("10.9.8.0"), Err(Refusal::OutOfRange));
        assert_eq!(want("10.9.8.255"), Err(Refusal::OutOfRange));
        assert_eq!(want("10.9.9.1"), Err(Refusal::OutOfRange));
        let old = ["10.9.8.50".parse().unwrap()];
        assert_eq!(
            leases.lease(true, None, &old).unwrap().address.to_string(),
            "10.9.8.50"
        );
        assert_eq!(
            leases.lease(true, None, &old).unwrap().address.to_string(),
            "10.9.8.2"
        );
    }

    #[test]
    fn ranges_and_ipv6_are_kept_to() {
        let mut network = network("n");
        network.subnets = vec![
            super::super::network::Subnet {
                range: "10.9.0.0/16".parse().unwrap(),
                gateway: Some("10.9.0.1".parse().unwrap()),
                lend: Some("10.9.5.0/30".parse().unwrap()),
                auxiliary: [("router".to_owned(), "10.9.5.1".parse().unwrap())].into(),
                configured: true,
            },
            super::super::network::Subnet::of(
                "fd00:1::/64".parse().unwrap(),
                "fd00:1::1".parse().unwrap(),
            ),
        ];
        let mut leases = Leases::new(&network);
        let lent: Vec<String> = std::iter::from_fn(|| any(&mut leases, true)).collect();
        assert_eq!(lent, ["10.9.5.0", "10.9.5.2", "10.9.5.3"]);
        assert_eq!(any(&mut leases, false).unwrap(), "fd00:1::2");
        assert_eq!(
            first_address(&"fd00:1::/64".parse().unwrap()).to_string(),
            "fd00:1::1"
        );
        assert!(random_ipv6_subnet().to_string().starts_with("fd"));
    }

    proptest::proptest! {
        #[test]
        fn a_lease_is_inside_and_never_the_gateway(prefix in 16u8..31, gateway in 1u32..4, steps in proptest::collection::vec(proptest::bool::ANY, 1..200)) {
            let base = u32::from(Ipv4Addr::new(10, 200, 0, 0));
            let net = Ipv4Net::new(Ipv4Addr::from(base), prefix).unwrap();
            let gateway = Ipv4Addr::from(base + gateway);
            let mut leases = leases(&net.to_string(), &gateway.to_string());
            let mut held = BTreeSet::new();
            for take in steps {
                if take {
                    if let Ok(lease) = leases.lease(true, None, &[]) {
                        let IpAddr::V4(address) = lease.address else { panic!("of the other family") };
                        proptest::prop_assert!(net.contains(&address));
                        proptest::prop_assert_ne!(address, gateway);
                        proptest::prop_assert_ne!(address, net.network());
                        proptest::prop_assert_ne!(address, net.broadcast());
                        proptest::prop_assert!(held.insert(address));
                    }
                } else if let Some(address) = held.pop_first() {
                    leases.give_back(address.into());
                }
            }
        }
    }
}
