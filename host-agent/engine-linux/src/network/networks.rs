//! The networks of this host: made, repaired, removed.

use super::link::OnParent;
use super::namespace::{self, failed};
use super::netlink::Socket;
use super::nftables::{Area, Family, Forward, Table, guard};
use super::{Inner, Kernel, beside, bridge, link, lock, user_chain};
use engine::id::{ContainerId, NetworkId};
use engine::networks::ipam::Leases;
use engine::networks::link::GatewayMode;
use engine::networks::{Attached, Driver, Endpoint, Network, NetworkError, NetworkService};
use std::io;
use std::sync::Arc;

/// A network with what changes of it.
pub(super) struct Entry {
    pub network: Arc<Network>,
    /// Of the bridge, or of the link that macvlan and ipvlan links are on.
    pub index: u32,
    pub leases: Leases,
    /// Containers that are being attached: the network must not go under them.
    pub arriving: usize,
}

impl Entry {
    pub(super) fn new(network: Arc<Network>, index: u32) -> Entry {
        Entry {
            leases: Leases::new(&network),
            network,
            index,
            arriving: 0,
        }
    }
}

/// How the firewall sees a network.
fn area(network: &Network) -> Area {
    let nat = |mode: GatewayMode| {
        network.link.masquerade
            && !network.internal
            && matches!(mode, GatewayMode::Nat | GatewayMode::NatUnprotected)
    };
    let link = &network.link;
    Area {
        bridge: link.name.clone(),
        subnets: network.subnets.iter().map(|subnet| subnet.range).collect(),
        gateways: network
            .subnets
            .iter()
            .filter_map(|subnet| subnet.gateway)
            .collect(),
        icc: link.icc,
        internal: network.internal,
        masquerade_ipv4: nat(link.gateway_mode_ipv4),
        masquerade_ipv6: nat(link.gateway_mode_ipv6),
        unprotected_ipv4: link.gateway_mode_ipv4 == GatewayMode::NatUnprotected,
        unprotected_ipv6: link.gateway_mode_ipv6 == GatewayMode::NatUnprotected,
    }
}

/// What a link in this network is, where it is not a bridge's.
pub(super) fn on_parent(network: &Network) -> Option<OnParent> {
    match (network.driver, network.link.mode.as_str()) {
        (Driver::Macvlan, mode) => Some(OnParent::Macvlan {
            mode: match mode {
                "private" => 1,
                "vepa" => 2,
                "passthru" => 8,
                _ => 4,
            },
        }),
        (Driver::Ipvlan, mode) => Some(OnParent::Ipvlan {
            mode: match mode {
                "l3" => 1,
                "l3s" => 2,
                _ => 0,
            },
        }),
        _ => None,
    }
}

impl Inner {
    /// The tables that are in use.
    pub(super) fn tables(&self, kernel: &Kernel) -> Vec<Table> {
        let families = [Family::Ipv4, Family::Ipv6];
        families
            .into_iter()
            .filter(|family| match family {
                Family::Ipv4 => self.config.firewall,
                Family::Ipv6 => self.config.firewall_ipv6 && kernel.ipv6,
            })
            .map(|family| Table {
                name: self.table.clone(),
                family,
            })
            .collect()
    }

    /// The bridges, as the firewall sees them.
    fn areas(&self) -> Vec<Area> {
        let books = lock(&self.books);
        let bridges = books
            .networks
            .values()
            .filter(|entry| entry.network.driver == Driver::Bridge);
        bridges.map(|entry| area(&entry.network)).collect()
    }

    /// Puts the whole firewall there, as the books have it.
    pub(super) fn install_firewall(&self, kernel: &mut Kernel) -> Result<(), NetworkError> {
        let areas = self.areas();
        let forwards: Vec<Forward> = {
            let books = lock(&self.books);
            let entries = books.attached.values();
            let forwards = entries.flat_map(|entry| entry.forwards.iter().copied());
            forwards.collect()
        };
        for table in self.tables(kernel) {
            table
                .install(&mut kernel.netfilter, &areas, &forwards)
                .map_err(|error| failed("install the firewall's table", error))?;
        }
        self.install_guard(kernel);
        Ok(())
    }

    /// After containers have come to these places or left them, or before they come.
    pub(super) fn guard(&self, endpoints: &[Endpoint]) {
        let apart = {
            let books = lock(&self.books);
            endpoints.iter().any(|endpoint| {
                let entry = books.networks.get(&endpoint.network);
                entry.is_some_and(|entry| !entry.network.link.icc)
            })
        };
        if apart {
            self.install_guard(&mut lock(&self.kernel));
        }
    }

    /// Brings the guard of networks whose containers may not talk up to the books.
    pub(super) fn install_guard(&self, kernel: &mut Kernel) {
        if !self.config.firewall {
            return;
        }
        let places: Vec<guard::Place> = {
            let books = lock(&self.books);
            let apart = |id: &NetworkId| {
                let network = books.networks.get(id).map(|entry| &entry.network);
                network.is_some_and(|network| network.driver == Driver::Bridge && !network.link.icc)
            };
            let attached = books.attached.values().flat_map(|entry| {
                let Attached {
                    namespace,
                    endpoints,
                    ..
                } = &entry.attached;
                endpoints.iter().map(move |endpoint| (namespace, endpoint))
            });
            let joining = books
                .joining
                .iter()
                .map(|(path, endpoint)| (path, endpoint));
            let guarded = attached
                .chain(joining)
                .filter(|(_, endpoint)| apart(&endpoint.network));
            let places = guarded.filter_map(|(namespace, endpoint)| {
                Some(guard::Place {
                    link: namespace::outside_name(namespace, endpoint.slot)?,
                    mac: link::parse_mac(&endpoint.mac_address)?,
                    addresses: endpoint
                        .addresses()
                        .chain(endpoint.link_local.iter().copied())
                        .collect(),
                })
            });
            places.collect()
        };
        if places.is_empty() && !kernel.guarded {
            return;
        }
        match guard::install(&mut kernel.netfilter, &self.table, &places) {
            Ok(()) => kernel.guarded = !places.is_empty(),
            Err(error) => tracing::warn!(
                %error,
                "containers that may not talk to each other could pretend to be another: the kernel takes no rules for bridges"
            ),
        }
    }

    /// Somebody may have flushed the host's rules.
    pub(super) fn repair_firewall(&self, kernel: &mut Kernel) -> Result<(), NetworkError> {
        for table in self.tables(kernel) {
            let exists = table
                .exists(&mut kernel.netfilter)
                .map_err(|error| failed("ask nf_tables for our table", error))?;
            if !exists {
                tracing::warn!(
                    table = table.name,
                    "the firewall's table is gone; it is made again"
                );
                user_chain::make(&mut kernel.netfilter, &self.table);
                return self.install_firewall(kernel);
            }
        }
        Ok(())
    }

    /// Somebody has changed our rules: as [`Inner::repair_firewall`], looking at each table's rules, and at the guard.
    pub(super) fn repair_rules(&self, kernel: &mut Kernel) -> Result<(), NetworkError> {
        self.repair_firewall(kernel)?;
        let areas = self.areas();
        for table in self.tables(kernel) {
            let whole = table
                .has_all_rules(&mut kernel.netfilter, &areas)
                .map_err(|error| failed("list the firewall's rules", error))?;
            if !whole {
                tracing::warn!(
                    table = table.name,
                    "rules of the firewall are gone; they are made again"
                );
                return self.install_firewall(kernel);
            }
        }
        if kernel.guarded {
            let there = guard::exists(&mut kernel.netfilter, &self.table)
                .map_err(|error| failed("ask nf_tables for the guard of bridges", error))?;
            if !there {
                self.install_guard(kernel);
            }
        }
        Ok(())
    }

    pub(super) fn create_network(&self, network: &Arc<Network>) -> Result<(), NetworkError> {
        match network.driver {
            Driver::Host | Driver::Null => Ok(()),
            Driver::Bridge => self.create_bridge(network),
            Driver::Macvlan | Driver::Ipvlan => self.create_on_parent(network),
        }
    }

    fn create_bridge(&self, network: &Arc<Network>) -> Result<(), NetworkError> {
        let mut kernel = lock(&self.kernel);
        let known = lock(&self.books).networks.contains_key(&network.id);
        let (index, is_new) = bridge::set_up(network, &mut kernel.route)?;
        let undo = |kernel: &mut Kernel, error: NetworkError| {
            if !known {
                lock(&self.books).networks.remove(&network.id);
            }
            if is_new {
                let _ = link::remove(&mut kernel.route, &network.link.name);
            }
            Err(error)
        };
        {
            let mut books = lock(&self.books);
            match books.networks.get_mut(&network.id) {
                Some(entry) => entry.index = index,
                None => {
                    let entry = Entry::new(network.clone(), index);
                    books.networks.insert(network.id.clone(), entry);
                }
            }
        }
        let first_ipv6 = network.ipv6 && !kernel.ipv6;
        let installed = if first_ipv6 {
            let forwarding = match self.config.forwarding {
                true => bridge::enable_forwarding(true),
                false => Ok(()),
            };
            forwarding.and_then(|()| {
                kernel.ipv6 = true;
                self.install_firewall(&mut kernel)
            })
        } else if known {
            self.install_firewall(&mut kernel)
        } else {
            self.repair_firewall(&mut kernel)
                .and_then(|()| self.add_area(&mut kernel, network))
        };
        if let Err(error) = installed {
            return undo(&mut kernel, error);
        }
        if self.config.firewall {
            beside::let_pass(&mut kernel.netfilter, &network.link.name);
        }
        Ok(())
    }

    /// The table for IPv6 goes with the last network that has it.
    pub(super) fn drop_unneeded_table(&self, kernel: &mut Kernel) -> Result<(), NetworkError> {
        let needed = {
            let books = lock(&self.books);
            let mut networks = books.networks.values();
            networks.any(|entry| entry.network.driver == Driver::Bridge && entry.network.ipv6)
        };
        if needed || !kernel.ipv6 {
            return Ok(());
        }
        kernel.ipv6 = false;
        let table = Table {
            name: self.table.clone(),
            family: Family::Ipv6,
        };
        table
            .remove_all(&mut kernel.netfilter)
            .map_err(|error| failed("remove the firewall's table for IPv6", error))
    }

    fn add_area(&self, kernel: &mut Kernel, network: &Network) -> Result<(), NetworkError> {
        for table in self.tables(kernel) {
            table
                .add_area(&mut kernel.netfilter, &area(network))
                .map_err(|error| failed("let the network into the firewall", error))?;
        }
        Ok(())
    }

    fn create_on_parent(&self, network: &Arc<Network>) -> Result<(), NetworkError> {
        let name = &network.link.name;
        let driver = network.driver.name();
        if name.is_empty() {
            return Err(NetworkError::Unsupported {
                what: format!("a {driver} network without a parent"),
                why: "name the host's link it is to be on with -o parent=LINK".into(),
            });
        }
        let mut kernel = lock(&self.kernel);
        let parent = link::find(&mut kernel.route, name)
            .map_err(|error| failed(format!("look for the link {name}"), error))?;
        let Some(parent) = parent else {
            return Err(NetworkError::invalid(format!(
                "invalid subinterface vlan name {name}: the parent link does not exist; links for VLANs are not made by this engine"
            )));
        };
        // The kernel may not have the driver, and the link may not take it: a link made for a moment tells.
        probe(network, parent.index, &mut kernel.route)?;
        let mut books = lock(&self.books);
        let id = network.id.clone();
        match books.networks.get_mut(&id) {
            Some(entry) => entry.index = parent.index,
            None => {
                let entry = Entry::new(network.clone(), parent.index);
                books.networks.insert(id, entry);
            }
        }
        Ok(())
    }

    pub(super) fn remove_network(&self, id: &NetworkId) -> Result<(), NetworkError> {
        let mut kernel = lock(&self.kernel);
        let network = {
            let mut books = lock(&self.books);
            let Some(entry) = books.networks.get(id) else {
                return Ok(());
            };
            let network = entry.network.clone();
            let active: Vec<ContainerId> = books
                .attached
                .iter()
                .filter(|(_, attached)| attached.attached.endpoint(id).is_some())
                .map(|(container, _)| container.clone())
                .collect();
            if entry.arriving > 0 || !active.is_empty() {
                return Err(NetworkService::has_active_endpoints(&network, &active));
            }
            books.networks.remove(id);
            network
        };
        if network.driver != Driver::Bridge {
            return Ok(());
        }
        if self.config.firewall {
            beside::take_back(&mut kernel.netfilter, &network.link.name);
        }
        for table in self.tables(&kernel) {
            match table.remove_area(&mut kernel.netfilter, &area(&network)) {
                Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => {}
                other => {
                    other.map_err(|error| failed("take the network out of the firewall", error))?
                }
            }
        }
        self.drop_unneeded_table(&mut kernel)?;
        // Links of containers that have just ended may still be its ports: they are removed by the janitor, or here.
        bridge::take_down(&network, &mut kernel.route)
    }

    /// The index of a network's link as it is now. A bridge that somebody has deleted is made again, and the containers in it
    /// are connected again.
    pub(super) fn check_link(
        &self,
        id: &NetworkId,
        kernel: &mut Kernel,
    ) -> Result<u32, NetworkError> {
        let (network, index) = {
            let books = lock(&self.books);
            let entry = books
                .networks
                .get(id)
                .ok_or_else(|| NetworkError::NotFound {
                    name: id.to_string(),
                })?;
            (entry.network.clone(), entry.index)
        };
        let name = &network.link.name;
        let found = link::find(&mut kernel.route, name)
            .map_err(|error| failed(format!("look for the link {name}"), error))?;
        let now = match found {
            Some(link) if link.index == index => return Ok(index),
            Some(link) => link.index,
            None if network.driver == Driver::Bridge => {
                tracing::warn!(bridge = name, "a bridge is gone; it is made again");
                if *id == self.default_id() {
                    let (index, _) = bridge::set_up_default(
                        &self.config,
                        Some(self.gateway),
                        &mut kernel.route,
                    )?;
                    if network.ipv6 {
                        bridge::configure(&network, index, &mut kernel.route)
                            .map_err(|error| failed("give the default bridge IPv6", error))?;
                    }
                    index
                } else {
                    bridge::set_up(&network, &mut kernel.route)?.0
                }
            }
            None => {
                return Err(failed(
                    format!("connect to the link {name}"),
                    "it is not there any more",
                ));
            }
        };
        if let Some(entry) = lock(&self.books).networks.get_mut(id) {
            entry.index = now;
        }
        self.mend_links(kernel);
        Ok(now)
    }
}

fn probe(network: &Network, parent: u32, route: &mut Socket) -> Result<(), NetworkError> {
    let Some(kind) = on_parent(network) else {
        return Ok(());
    };
    let name = format!("bp{}", network.id.short());
    let here = std::fs::File::open("/proc/thread-self/ns/net")
        .map_err(|error| failed("open our own network namespace", error))?;
    use std::os::fd::AsFd;
    match link::create_on_parent(route, kind, parent, None, &name, here.as_fd()) {
        Ok(()) => link::remove(route, &name)
            .map_err(|error| failed(format!("remove the link {name}"), error)),
        Err(error) => Err(refusal(network, error)),
    }
}

/// Why a link on another could not be made.
pub(super) fn refusal(network: &Network, error: io::Error) -> NetworkError {
    let driver = network.driver.name();
    match error.raw_os_error() {
        Some(nix::libc::EOPNOTSUPP) => NetworkError::Unsupported {
            what: format!("the network driver {driver}"),
            why: format!("this kernel does not have {driver}"),
        },
        Some(nix::libc::EBUSY) => NetworkError::invalid(format!(
            "the link {} is used by another driver or mode: a link takes either macvlan or ipvlan links, and of macvlan one mode",
            network.link.name
        )),
        _ => failed(
            format!("create a {driver} link on {}", network.link.name),
            error,
        ),
    }
}
