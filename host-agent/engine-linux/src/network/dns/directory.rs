//! Who is called what in which network.

use engine::id::{ContainerId, NetworkId};
use engine::networks::Endpoint;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::RwLock;

/// The names of all networks. Asked by every DNS server, changed when containers come and go.
#[derive(Default)]
pub(crate) struct Directory {
    networks: RwLock<HashMap<NetworkId, Names>>,
}

#[derive(Default)]
struct Names {
    by_name: HashMap<String, Vec<(ContainerId, Vec<IpAddr>)>>,
    by_address: HashMap<IpAddr, String>,
}

impl Directory {
    pub(crate) fn add(&self, container: &ContainerId, endpoint: &Endpoint) {
        let Some(first) = endpoint.names.first() else {
            return;
        };
        let mut networks = self.write();
        let names = networks.entry(endpoint.network.clone()).or_default();
        let addresses: Vec<IpAddr> = endpoint.addresses().collect();
        for name in &endpoint.names {
            names
                .by_name
                .entry(name.to_lowercase())
                .or_default()
                .push((container.clone(), addresses.clone()));
        }
        for address in addresses {
            let full = format!("{first}.{}", endpoint.network_name);
            names.by_address.insert(address, full);
        }
    }

    pub(crate) fn remove(&self, container: &ContainerId, endpoint: &Endpoint) {
        let mut networks = self.write();
        let Some(names) = networks.get_mut(&endpoint.network) else {
            return;
        };
        for name in &endpoint.names {
            let key = name.to_lowercase();
            if let Some(places) = names.by_name.get_mut(&key) {
                places.retain(|(other, _)| other != container);
                if places.is_empty() {
                    names.by_name.remove(&key);
                }
            }
        }
        for address in endpoint.addresses() {
            names.by_address.remove(&address);
        }
        if names.by_name.is_empty() {
            networks.remove(&endpoint.network);
        }
    }

    /// The addresses of a name in one network; `None`: nobody is called so.
    pub(super) fn find(&self, network: &NetworkId, name: &str) -> Option<Vec<IpAddr>> {
        let networks = self.read();
        let places = networks.get(network)?.by_name.get(name)?;
        Some(
            places
                .iter()
                .flat_map(|(_, addresses)| addresses)
                .copied()
                .collect(),
        )
    }

    /// `name.network` of an address.
    pub(super) fn name_of(&self, network: &NetworkId, address: &IpAddr) -> Option<String> {
        self.read().get(network)?.by_address.get(address).cloned()
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<NetworkId, Names>> {
        self.networks
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<NetworkId, Names>> {
        self.networks
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
