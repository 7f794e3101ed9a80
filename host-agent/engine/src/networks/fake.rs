//! A [`NetworkBackend`] that touches no kernel: it lends addresses and ports, and remembers who has them.

use super::{
    Attached, Attachment, Endpoint, NetworkBackend, NetworkError, NetworkFacts, NetworkMode,
    Protocol, PublishedPort, Subnet,
};
use crate::id::{ContainerId, NetworkId};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

const FIRST_EPHEMERAL: u16 = 49153;
const PREFIX_LENGTH: u8 = 24;

/// Networks in memory.
pub struct FakeNetwork {
    ids: [NetworkId; 3],
    attached: Mutex<BTreeMap<ContainerId, Attached>>,
}

impl Default for FakeNetwork {
    fn default() -> FakeNetwork {
        FakeNetwork {
            ids: std::array::from_fn(|_| NetworkId::random()),
            attached: Mutex::default(),
        }
    }
}

impl FakeNetwork {
    pub fn new() -> FakeNetwork {
        FakeNetwork::default()
    }

    /// Who is attached now.
    pub fn attached(&self) -> Vec<ContainerId> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Attached>> {
        self.attached.lock().expect("no panic while locked")
    }
}

fn gateway() -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, 1)
}

fn clash(one: IpAddr, other: IpAddr) -> bool {
    one.is_ipv4() == other.is_ipv4()
        && (one == other || one.is_unspecified() || other.is_unspecified())
}

#[async_trait]
impl NetworkBackend for FakeNetwork {
    async fn attach(&self, attachment: Attachment) -> Result<Attached, NetworkError> {
        let container = attachment.container;
        let mut attached = self.lock();
        if attached.contains_key(&container) {
            return Err(NetworkError::Failed {
                step: format!("connect container {}", container.short()),
                source: "it is connected already".into(),
            });
        }
        let namespace = PathBuf::from(format!("/nonexistent/netns/{}", container.short()));
        let new = match attachment.mode {
            NetworkMode::None => Attached {
                namespace,
                endpoint: None,
                ports: Vec::new(),
                warnings: Vec::new(),
            },
            NetworkMode::Named(name) => return Err(NetworkError::NotFound { name }),
            NetworkMode::Host | NetworkMode::Container(_) => {
                return Err(NetworkError::Unsupported {
                    what: "a network namespace of its own".into(),
                    why: "the container shares another's".into(),
                });
            }
            NetworkMode::Bridge => {
                let taken = |address: IpAddr| {
                    attached
                        .values()
                        .filter_map(|other| other.endpoint.as_ref())
                        .any(|endpoint| endpoint.address == address)
                };
                let address = (2..255)
                    .map(|last| IpAddr::from([198, 51, 100, last]))
                    .find(|address| !taken(*address))
                    .ok_or_else(|| NetworkError::NoAddress {
                        network: "bridge".into(),
                    })?;
                let mut ports: Vec<PublishedPort> = Vec::new();
                for request in &attachment.ports {
                    let addresses = match (request.host_address, request.protocol) {
                        (Some(address), _) => vec![address],
                        (None, Protocol::Sctp) => vec![Ipv4Addr::UNSPECIFIED.into()],
                        (None, _) => {
                            vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()]
                        }
                    };
                    let (first, last) = match request.host_ports {
                        (0, 0) => (FIRST_EPHEMERAL, u16::MAX),
                        range => range,
                    };
                    let free = |port: u16| {
                        let all = attached
                            .values()
                            .flat_map(|other| &other.ports)
                            .chain(&ports);
                        !all.into_iter().any(|other| {
                            other.host_port == port
                                && other.protocol == request.protocol
                                && addresses.iter().any(|one| clash(*one, other.host_address))
                        })
                    };
                    let host_port = (first..=last).find(|port| free(*port)).ok_or_else(|| {
                        NetworkError::PortTaken {
                            address: addresses[0].to_string(),
                            port: first,
                        }
                    })?;
                    ports.extend(addresses.iter().map(|host_address| PublishedPort {
                        container_port: request.container_port,
                        protocol: request.protocol,
                        host_address: *host_address,
                        host_port,
                    }));
                }
                let IpAddr::V4(v4) = address else {
                    unreachable!("only IPv4 addresses are lent");
                };
                let [a, b, c, d] = v4.octets();
                Attached {
                    namespace,
                    endpoint: Some(Endpoint {
                        network: self.ids[0].clone(),
                        network_name: "bridge".into(),
                        endpoint_id: NetworkId::random().to_string(),
                        mac_address: attachment
                            .mac_address
                            .unwrap_or_else(|| format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")),
                        address,
                        prefix_length: PREFIX_LENGTH,
                        gateway: Some(gateway().into()),
                        ipv6_address: None,
                        ipv6_prefix_length: 0,
                        ipv6_gateway: None,
                    }),
                    ports,
                    warnings: Vec::new(),
                }
            }
        };
        attached.insert(container, new.clone());
        Ok(new)
    }

    async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError> {
        self.lock().remove(container);
        Ok(())
    }

    async fn recover(&self, running: Vec<(ContainerId, Attached)>) -> Result<(), NetworkError> {
        self.lock().extend(running);
        Ok(())
    }

    fn networks(&self) -> Vec<NetworkFacts> {
        let fact = |index: usize, name: &str, driver: &str| NetworkFacts {
            id: self.ids[index].clone(),
            name: name.into(),
            driver: driver.into(),
            subnets: Vec::new(),
            options: BTreeMap::new(),
            endpoints: Vec::new(),
            created: time::OffsetDateTime::UNIX_EPOCH,
        };
        let mut bridge = fact(0, "bridge", "bridge");
        bridge.subnets = vec![Subnet {
            range: "198.51.100.0/24".into(),
            gateway: Some(gateway().to_string()),
        }];
        let attached = self.lock();
        bridge.endpoints = attached
            .iter()
            .filter_map(|(container, attached)| {
                Some((container.clone(), attached.endpoint.clone()?))
            })
            .collect();
        vec![bridge, fact(1, "host", "host"), fact(2, "none", "null")]
    }

    async fn close(&self) {}

    fn resolv_conf(&self) -> String {
        "nameserver 198.51.100.53\n".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        super::super::contract::check(&FakeNetwork::new()).await;
    }
}
