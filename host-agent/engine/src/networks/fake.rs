//! A [`NetworkBackend`] and a [`NetworkStore`] that touch no kernel and no disk: addresses and ports are lent, and who has
//! them is remembered.

use super::ipam::Leases;
use super::link::{GatewayMode, LinkSettings};
use super::store::{NetworkStore, NetworkStoreError};
use super::{
    Attached, Attachment, Driver, Endpoint, EndpointRequest, HostFiles, Network, NetworkBackend,
    NetworkError, NetworkService, PortRequest, Protocol, PublishedPort, Subnet, Survivor,
    UsedRanges,
};
use crate::id::{ContainerId, NetworkId};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use time::OffsetDateTime;

const FIRST_EPHEMERAL: u16 = 49153;
/// Ports of the fake host that somebody else has: those below.
const FIRST_FREE: u16 = 1024;

/// A bridge network of this name with a subnet of its own.
pub fn network(name: &str) -> Network {
    let id = NetworkId::random();
    Network {
        name: name.into(),
        driver: Driver::Bridge,
        created: OffsetDateTime::UNIX_EPOCH,
        ipv4: true,
        ipv6: false,
        internal: false,
        attachable: false,
        subnets: vec![Subnet::of(
            "198.51.100.0/24".parse().expect("a range"),
            Ipv4Addr::new(198, 51, 100, 1).into(),
        )],
        options: BTreeMap::new(),
        ipam_options: None,
        labels: BTreeMap::new(),
        link: LinkSettings::new(Driver::Bridge, &id),
        id,
    }
}

/// Networks in memory.
pub struct FakeNetwork {
    predefined: Vec<Network>,
    books: Mutex<Books>,
}

#[derive(Default)]
struct Books {
    networks: BTreeMap<NetworkId, (Arc<Network>, Leases)>,
    attached: BTreeMap<ContainerId, Attached>,
}

impl Default for FakeNetwork {
    fn default() -> FakeNetwork {
        FakeNetwork::made(false)
    }
}

impl FakeNetwork {
    pub fn new() -> FakeNetwork {
        FakeNetwork::default()
    }

    /// The default bridge has IPv6, too.
    pub fn with_ipv6() -> FakeNetwork {
        FakeNetwork::made(true)
    }

    fn made(ipv6: bool) -> FakeNetwork {
        let mut predefined = Vec::new();
        let mut books = Books::default();
        for (name, driver) in [
            ("bridge", Driver::Bridge),
            ("host", Driver::Host),
            ("none", Driver::Null),
        ] {
            let mut network = network(name);
            network.driver = driver;
            if driver == Driver::Bridge {
                network.link.name = "berth0".into();
                network.subnets[0].range = "172.17.0.0/16".parse().expect("a range");
                network.subnets[0].gateway = Some(Ipv4Addr::new(172, 17, 0, 1).into());
                if ipv6 {
                    network.ipv6 = true;
                    network.subnets.push(Subnet::of(
                        "fd00:17::/64".parse().expect("a range"),
                        Ipv6Addr::new(0xfd00, 0x17, 0, 0, 0, 0, 0, 1).into(),
                    ));
                }
                let shared = Arc::new(network.clone());
                let leases = Leases::new(&shared);
                books.networks.insert(network.id.clone(), (shared, leases));
            } else {
                network.subnets.clear();
            }
            predefined.push(network);
        }
        FakeNetwork {
            predefined,
            books: Mutex::new(books),
        }
    }

    /// A service over this backend that remembers in memory.
    pub fn service(self: &Arc<Self>, events: crate::events::EventBus) -> NetworkService {
        NetworkService::empty(
            self.clone(),
            Arc::new(MemoryNetworks::default()),
            events,
            Arc::new(crate::clock::SystemClock),
            None,
        )
    }

    /// Who is attached now.
    pub fn attached(&self) -> Vec<ContainerId> {
        self.lock().attached.keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().expect("no panic while locked")
    }
}

fn clash(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
        && (one == other || one.is_unspecified() || other.is_unspecified())
}

impl Books {
    fn endpoint(&mut self, request: &EndpointRequest, slot: u8) -> Result<Endpoint, NetworkError> {
        let id = &request.network.id;
        let Some((network, leases)) = self.networks.get_mut(id) else {
            return Err(NetworkError::NotFound {
                name: request.network.name.clone(),
            });
        };
        let settings = &request.settings;
        let mut lend = |ipv4: bool, wanted: Option<IpAddr>| {
            leases
                .lease(ipv4, wanted, &request.preferred)
                .map_err(|refusal| NetworkError::of_lease(refusal, network, wanted))
        };
        let v4 = network
            .ipv4
            .then(|| lend(true, settings.ipv4.map(Into::into)))
            .transpose()?;
        let v6 = network
            .ipv6
            .then(|| lend(false, settings.ipv6.map(Into::into)))
            .transpose()?;
        let mac = match v4.map(|lease| lease.address) {
            Some(IpAddr::V4(address)) => {
                let [a, b, c, d] = address.octets();
                format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
            }
            _ => "02:42:00:00:00:02".into(),
        };
        let outside = network.is_way_out();
        Ok(Endpoint {
            network: id.clone(),
            network_name: network.name.clone(),
            endpoint_id: NetworkId::random().to_string(),
            mac_address: settings.mac_address.clone().unwrap_or(mac),
            address: v4.map(|lease| lease.address),
            prefix_length: v4.map_or(0, |lease| lease.prefix_length),
            gateway: v4.and_then(|lease| lease.gateway).filter(|_| outside),
            ipv6_address: v6.map(|lease| lease.address),
            ipv6_prefix_length: v6.map_or(0, |lease| lease.prefix_length),
            ipv6_gateway: v6.and_then(|lease| lease.gateway).filter(|_| outside),
            interface: format!("eth{slot}"),
            slot,
            gateway_priority: settings.gateway_priority,
            names: request.names.clone(),
            links: request.links.clone(),
            link_is_way: false,
            link_local: settings.link_local.clone(),
            sysctls: Vec::new(),
        })
    }

    fn give_back(&mut self, endpoint: &Endpoint) {
        if let Some((_, leases)) = self.networks.get_mut(&endpoint.network) {
            for address in endpoint.addresses() {
                leases.give_back(address);
            }
        }
    }

    /// Ports are there as long as a network leads out.
    fn settle(&self, attached: &mut Attached) -> Result<(), NetworkError> {
        let Some(way_out) = attached.way_out() else {
            attached.ports.clear();
            return Ok(());
        };
        if attached.ports.is_empty() {
            let link = &self.networks[&way_out.network].0.link;
            let modes = (link.gateway_mode_ipv4, link.gateway_mode_ipv6);
            attached.ports = self.ports(&attached.asked)?;
            for port in &mut attached.ports {
                let mode = match port.host_address {
                    IpAddr::V4(_) => modes.0,
                    IpAddr::V6(_) => modes.1,
                };
                if mode == GatewayMode::Routed {
                    port.host_port = 0;
                }
            }
        }
        Ok(())
    }

    fn ports(&self, asked: &[PortRequest]) -> Result<Vec<PublishedPort>, NetworkError> {
        let mut ports: Vec<PublishedPort> = Vec::new();
        for request in asked {
            let addresses = match request.host_address {
                Some(address) => vec![address],
                None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            };
            let (first, last) = match request.host_ports {
                (0, 0) => (FIRST_EPHEMERAL, u16::MAX),
                range => range,
            };
            let free = |port: u16| {
                let all = self
                    .attached
                    .values()
                    .flat_map(|other| &other.ports)
                    .chain(&ports);
                port >= FIRST_FREE
                    && !all.into_iter().any(|other| {
                        other.host_port == port
                            && other.protocol == request.protocol
                            && addresses.iter().any(|one| clash(*one, other.host_address))
                    })
            };
            let host_port =
                (first..=last)
                    .find(|port| free(*port))
                    .ok_or_else(|| NetworkError::PortTaken {
                        address: addresses[0].to_string(),
                        port: first,
                    })?;
            ports.extend(
                addresses
                    .iter()
                    .filter(|address| address.is_ipv4() || request.protocol != Protocol::Sctp)
                    .map(|host_address| PublishedPort {
                        container_port: request.container_port,
                        protocol: request.protocol,
                        host_address: *host_address,
                        host_port,
                    }),
            );
        }
        Ok(ports)
    }
}

#[async_trait]
impl NetworkBackend for FakeNetwork {
    fn predefined(&self) -> Vec<Network> {
        self.predefined.clone()
    }

    async fn used(&self, _: &str) -> Result<UsedRanges, NetworkError> {
        Ok(UsedRanges {
            near: vec!["203.0.113.0/24".parse().expect("a range")],
            far: Vec::new(),
        })
    }

    async fn create(&self, network: Arc<Network>) -> Result<(), NetworkError> {
        let mut books = self.lock();
        if network.driver == Driver::Ipvlan {
            return Err(NetworkError::Unsupported {
                what: "the network driver ipvlan".into(),
                why: "the fake kernel does not have it".into(),
            });
        }
        let leases = Leases::new(&network);
        books
            .networks
            .entry(network.id.clone())
            .or_insert((network, leases));
        Ok(())
    }

    async fn remove(&self, id: &NetworkId) -> Result<(), NetworkError> {
        let active: Vec<ContainerId> = self
            .endpoints(id)
            .into_iter()
            .map(|(container, _)| container)
            .collect();
        let mut books = self.lock();
        if let Some((network, _)) = books.networks.get(id)
            && !active.is_empty()
        {
            return Err(NetworkService::has_active_endpoints(network, &active));
        }
        books.networks.remove(id);
        Ok(())
    }

    fn endpoints(&self, network: &NetworkId) -> Vec<(ContainerId, Endpoint)> {
        let books = self.lock();
        let of_network = books.attached.iter().filter_map(|(container, attached)| {
            Some((container.clone(), attached.endpoint(network)?.clone()))
        });
        of_network.collect()
    }

    async fn attach(&self, attachment: Attachment) -> Result<Attached, NetworkError> {
        let mut books = self.lock();
        if books.attached.contains_key(&attachment.container) {
            return Err(NetworkError::Failed {
                step: format!("connect container {}", attachment.container.short()),
                source: "it is connected already".into(),
            });
        }
        let mut attached = Attached {
            namespace: PathBuf::from(format!(
                "/nonexistent/netns/{}",
                attachment.container.short()
            )),
            endpoints: Vec::new(),
            ports: Vec::new(),
            asked: attachment.ports.clone(),
            dns: attachment.dns.clone(),
            warnings: Vec::new(),
        };
        let mut requests = attachment.endpoints.iter().enumerate();
        let made = requests
            .try_for_each(|(slot, request)| {
                attached
                    .endpoints
                    .push(books.endpoint(request, slot as u8)?);
                Ok(())
            })
            .and_then(|()| books.settle(&mut attached));
        if let Err(error) = made {
            for endpoint in &attached.endpoints {
                books.give_back(endpoint);
            }
            return Err(error);
        }
        books
            .attached
            .insert(attachment.container, attached.clone());
        Ok(attached)
    }

    async fn connect(
        &self,
        container: &ContainerId,
        request: EndpointRequest,
    ) -> Result<Attached, NetworkError> {
        let mut books = self.lock();
        let Some(mut attached) = books.attached.get(container).cloned() else {
            return Err(NetworkError::Failed {
                step: format!("connect container {}", container.short()),
                source: "it has no network".into(),
            });
        };
        let slot = attached
            .endpoints
            .iter()
            .map(|endpoint| endpoint.slot + 1)
            .max()
            .unwrap_or(0);
        let endpoint = books.endpoint(&request, slot)?;
        attached.endpoints.push(endpoint.clone());
        if let Err(error) = books.settle(&mut attached) {
            books.give_back(&endpoint);
            return Err(error);
        }
        books.attached.insert(container.clone(), attached.clone());
        Ok(attached)
    }

    async fn disconnect(
        &self,
        container: &ContainerId,
        network: &NetworkId,
    ) -> Result<Attached, NetworkError> {
        let mut books = self.lock();
        let not_there = || NetworkError::Failed {
            step: format!("disconnect container {}", container.short()),
            source: "it is not in this network".into(),
        };
        let attached = books.attached.get(container).cloned();
        let mut attached = attached.ok_or_else(not_there)?;
        let place = attached
            .endpoints
            .iter()
            .position(|endpoint| endpoint.network == *network);
        let endpoint = attached.endpoints.remove(place.ok_or_else(not_there)?);
        books.settle(&mut attached)?;
        books.give_back(&endpoint);
        books.attached.insert(container.clone(), attached.clone());
        Ok(attached)
    }

    fn rename(&self, container: &ContainerId, names: &BTreeMap<NetworkId, Vec<String>>) {
        if let Some(attached) = self.lock().attached.get_mut(container) {
            for endpoint in &mut attached.endpoints {
                if let Some(names) = names.get(&endpoint.network) {
                    endpoint.names.clone_from(names);
                }
            }
        }
    }

    async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let mut books = self.lock();
        if let Some(attached) = books.attached.remove(container) {
            for endpoint in &attached.endpoints {
                books.give_back(endpoint);
            }
        }
        Ok(())
    }

    async fn recover(&self, running: Vec<Survivor>) -> Result<(), NetworkError> {
        let mut books = self.lock();
        for survivor in &running {
            for endpoint in &survivor.attached.endpoints {
                if let Some((_, leases)) = books.networks.get_mut(&endpoint.network) {
                    for address in endpoint.addresses() {
                        leases.hold(address);
                    }
                }
            }
        }
        let survivors = running.into_iter();
        books.attached = survivors
            .map(|survivor| (survivor.container, survivor.attached))
            .collect();
        Ok(())
    }

    async fn close(&self) {}

    fn resolv_conf(&self, ipv6: bool) -> String {
        let ipv6 = if ipv6 {
            "nameserver 2001:db8::53\n"
        } else {
            ""
        };
        format!("nameserver 192.0.2.53\n{ipv6}")
    }

    fn host_files(&self) -> HostFiles {
        HostFiles {
            hosts: "127.0.0.1\tlocalhost fake-host\n".into(),
            resolv_conf: "nameserver 127.0.0.53\n".into(),
        }
    }

    async fn warnings(&self) -> Vec<String> {
        vec!["a firewall of the fake host's drops".into()]
    }
}

/// Records in memory.
#[derive(Default)]
pub struct MemoryNetworks {
    records: Mutex<BTreeMap<NetworkId, Network>>,
}

#[async_trait]
impl NetworkStore for MemoryNetworks {
    async fn save(&self, network: &Network) -> Result<(), NetworkStoreError> {
        let mut records = self.records.lock().expect("no panic while locked");
        records.insert(network.id.clone(), network.clone());
        Ok(())
    }

    async fn remove(&self, id: &NetworkId) -> Result<(), NetworkStoreError> {
        self.records
            .lock()
            .expect("no panic while locked")
            .remove(id);
        Ok(())
    }

    async fn load(&self) -> Result<Vec<Network>, NetworkStoreError> {
        Ok(self
            .records
            .lock()
            .expect("no panic while locked")
            .values()
            .cloned()
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fakes_keep_their_contracts() {
        super::super::contract::check(&FakeNetwork::new()).await;
        super::super::store::contract::check(&MemoryNetworks::default()).await;
    }
}
