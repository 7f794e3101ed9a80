//! Networks: which there are, who is attached, and what the host has to do for it.
//!
//! ```text
//! routes --> NetworkService (which there are: records, subnets, rules)
//!                  |
//! supervisor --Attachment--> NetworkBackend::attach -> a namespace with links, addresses, names, published ports
//! ```
//!
//! Who is in a network is the backend's knowledge: it changes with every start and end of a container, and nothing of it
//! outlives them but what the container's own record says.

pub mod contract;
pub mod create;
pub mod fake;
pub mod ipam;
pub mod link;
pub mod network;
pub mod service;
pub mod store;
pub mod sysctls;

pub use network::{Driver, Network, Subnet};
pub use service::NetworkService;

use crate::error::Class;
use crate::id::{ContainerId, NetworkId};
use async_trait::async_trait;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use sysctls::LinkSysctl;

/// TCP, UDP or SCTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }

    /// From `tcp`, `udp`, `sctp`, any case.
    pub fn parse(text: &str) -> Option<Protocol> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "sctp" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    pub container_port: u16,
    pub protocol: Protocol,
    /// `None`: every address, IPv4 and IPv6.
    pub host_address: Option<IpAddr>,
    /// First and last of the ports that may be taken; 0..=0 is any free (ephemeral) port.
    pub host_ports: (u16, u16),
}

/// A port that is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    pub container_port: u16,
    pub protocol: Protocol,
    pub host_address: IpAddr,
    /// 0: none of the host's is taken, and the container's own is open to who has a route (gateway mode `routed`).
    pub host_port: u16,
}

impl PublishedPort {
    /// What is to be asked for to get it again.
    pub fn request(&self) -> PortRequest {
        PortRequest {
            container_port: self.container_port,
            protocol: self.protocol,
            host_address: Some(self.host_address),
            host_ports: (self.host_port, self.host_port),
        }
    }
}

/// What a container's creator (or `network connect`) asks of one network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSettings {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
    pub link_local: Vec<IpAddr>,
    /// `container[:alias]`, as given.
    pub links: Vec<String>,
    pub aliases: Vec<String>,
    pub mac_address: Option<String>,
    pub driver_options: BTreeMap<String, String>,
    /// The network with the highest one is the way out.
    pub gateway_priority: i64,
}

/// A container's wish to be in one network, made complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointRequest {
    pub network: Arc<Network>,
    pub settings: EndpointSettings,
    /// Addresses it had before: it gets them again if they are free.
    pub preferred: Vec<IpAddr>,
    /// What it is called in this network: its name, aliases, short id and host name.
    pub names: Vec<String>,
    /// Private names: alias -> name of another container.
    pub links: BTreeMap<String, String>,
}

/// What a container wants of the networks when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub container: ContainerId,
    /// In the order of its links: `eth0`, `eth1`. None: only loopback.
    pub endpoints: Vec<EndpointRequest>,
    pub ports: Vec<PortRequest>,
    /// DNS servers that names are asked of which no network of the container has; empty: the host's own.
    pub dns: Vec<IpAddr>,
}

/// One container's place in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub network: NetworkId,
    pub network_name: String,
    /// 64 hex digits.
    pub endpoint_id: String,
    pub mac_address: String,
    pub address: Option<IpAddr>,
    pub prefix_length: u8,
    pub gateway: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub ipv6_prefix_length: u8,
    pub ipv6_gateway: Option<IpAddr>,
    /// Name of its link inside.
    #[serde(default = "first_interface")]
    pub interface: String,
    /// Counts the links of the container: the host's end is named after it.
    #[serde(default)]
    pub slot: u8,
    #[serde(default)]
    pub gateway_priority: i64,
    #[serde(default)]
    pub names: Vec<String>,
    #[serde(default)]
    pub links: BTreeMap<String, String>,
    /// Leads out without a gateway: in layer 3 the link itself knows the way (ipvlan).
    #[serde(default)]
    pub link_is_way: bool,
    /// More addresses, of the link alone.
    #[serde(default)]
    pub link_local: Vec<IpAddr>,
    /// What the kernel is told about its link.
    #[serde(default)]
    pub sysctls: Vec<LinkSysctl>,
}

fn first_interface() -> String {
    "eth0".into()
}

impl Endpoint {
    /// Its address of either family, IPv4 first.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.address.into_iter().chain(self.ipv6_address)
    }

    /// Whether packets for elsewhere can leave by it.
    pub fn leads_out(&self) -> bool {
        self.gateway.is_some() || self.ipv6_gateway.is_some() || self.link_is_way
    }
}

/// What [`NetworkBackend::attach`] made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The namespace, bound to a file.
    pub namespace: PathBuf,
    /// In the order of their slots. Records of the first version of the agent have one or `null`, as `endpoint`.
    #[serde(alias = "endpoint", deserialize_with = "one_or_many")]
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<PublishedPort>,
    /// Ports as asked for: a network that leads out may come and go, and they with it.
    #[serde(default)]
    pub asked: Vec<PortRequest>,
    /// DNS servers of its own choice.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// For people: a port that is only reachable by some addresses, say.
    pub warnings: Vec<String>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Endpoint>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Many(Vec<Endpoint>),
        One(Option<Box<Endpoint>>),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::Many(many) => many,
        Either::One(one) => one.into_iter().map(|one| *one).collect(),
    })
}

impl Attached {
    /// The place in the network of this id.
    pub fn endpoint(&self, network: &NetworkId) -> Option<&Endpoint> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.network == *network)
    }

    /// The place that leads out: the highest priority, then the first name. Published ports lead to it.
    pub fn way_out(&self) -> Option<&Endpoint> {
        self.endpoints
            .iter()
            .filter(|endpoint| endpoint.leads_out())
            .min_by_key(|endpoint| {
                let name = endpoint.network_name.as_str();
                (std::cmp::Reverse(endpoint.gateway_priority), name)
            })
    }
}

/// A container that outlived the engine, as an engine that starts again knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survivor {
    pub container: ContainerId,
    pub attached: Attached,
    /// A process in its namespace: the way to it where its file is gone.
    pub process: Option<u32>,
}

/// Ranges that the host uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsedRanges {
    /// Of its own addresses, links and resolvers: who takes one of these cuts the host off.
    pub near: Vec<IpNet>,
    /// Where routes lead by others. They often cover far more than there is: those of a VPN, say.
    pub far: Vec<IpNet>,
}

impl UsedRanges {
    pub fn all(&self) -> impl Iterator<Item = &IpNet> {
        self.near.iter().chain(&self.far)
    }
}

/// Makes the host do what networks need.
#[async_trait]
pub trait NetworkBackend: Send + Sync + 'static {
    /// The networks that are there without anybody's doing: bridge, host, none.
    fn predefined(&self) -> Vec<Network>;

    /// Ranges the host uses for other things than the networks made here and the bridge `own`, which may be there already.
    async fn used(&self, own: &str) -> Result<UsedRanges, NetworkError>;

    /// Makes a network on the host. One that is there is repaired. After an error nothing is left.
    async fn create(&self, network: Arc<Network>) -> Result<(), NetworkError>;

    /// Removes a network from the host; refused while somebody is in it. Idempotent.
    async fn remove(&self, network: &NetworkId) -> Result<(), NetworkError>;

    /// Who is in a network now, in order of their ids.
    fn endpoints(&self, network: &NetworkId) -> Vec<(ContainerId, Endpoint)>;

    /// Gives a container its namespace, addresses and ports. After an error nothing is left.
    async fn attach(&self, attachment: Attachment) -> Result<Attached, NetworkError>;

    /// Puts an attached container into one more network; what it has then. Its ports are published once a network leads
    /// out, and refused with the network where somebody else has them.
    async fn connect(
        &self,
        container: &ContainerId,
        request: EndpointRequest,
    ) -> Result<Attached, NetworkError>;

    /// Takes an attached container out of one of its networks; what it has then: without a way out no ports.
    async fn disconnect(
        &self,
        container: &ContainerId,
        network: &NetworkId,
    ) -> Result<Attached, NetworkError>;

    /// An attached container is called otherwise from now on: its names by network.
    fn rename(&self, container: &ContainerId, names: &BTreeMap<NetworkId, Vec<String>>);

    /// Takes everything back. Idempotent; the slow parts may go on after the answer.
    async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError>;

    /// Told at start of the engine, for containers that still run: takes what they have into its books and listens
    /// again on their published ports. Namespaces of containers not named here are removed. Their networks have been
    /// made before. Links they should have and have not are made again.
    async fn recover(&self, running: Vec<Survivor>) -> Result<(), NetworkError>;

    /// Told at the engine's orderly end: what was only kept ready goes, what containers use stays.
    async fn close(&self);

    /// The host's own DNS servers and search domains for a container's /etc/resolv.conf, those left out that it cannot
    /// reach: on loopback, and by IPv6 where it has none (`ipv6`).
    fn resolv_conf(&self, ipv6: bool) -> String;

    /// The host's files as they are: for containers in its own network.
    fn host_files(&self) -> HostFiles;

    /// What of the host may keep containers from others, as sentences for people.
    async fn warnings(&self) -> Vec<String>;
}

/// What the host itself has in /etc; empty where it has no such file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFiles {
    pub hosts: String,
    pub resolv_conf: String,
}

/// Why the network could not.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network {name} not found")]
    NotFound { name: String },
    #[error(
        "driver failed programming external connectivity: Bind for {address}:{port} failed: port is already allocated"
    )]
    PortTaken { address: String, port: u16 },
    #[error("no available IPv4 addresses on this network's address pools: {network}")]
    NoAddress { network: String },
    #[error("Address already in use")]
    AddressTaken,
    #[error("{what} is not supported: {why}")]
    Unsupported { what: String, why: String },
    /// The sentence is complete, and Docker's where Docker has one.
    #[error("{why}")]
    Refused { class: Class, why: String },
    #[error(transparent)]
    Filter(#[from] engine_api::filters::FilterError),
    #[error("{step}")]
    Failed {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl NetworkError {
    pub fn invalid(why: impl Into<String>) -> NetworkError {
        NetworkError::refused(Class::Invalid, why)
    }

    pub fn refused(class: Class, why: impl Into<String>) -> NetworkError {
        NetworkError::Refused {
            class,
            why: why.into(),
        }
    }

    /// What a lease was refused for.
    pub fn of_lease(refusal: ipam::Refusal, network: &Network, wanted: Option<IpAddr>) -> Self {
        match (refusal, wanted) {
            (ipam::Refusal::InUse, _) => NetworkError::AddressTaken,
            (ipam::Refusal::OutOfRange, Some(address)) => NetworkError::invalid(format!(
                "invalid endpoint settings:\nno configured subnet contains IP address {address}"
            )),
            _ => NetworkError::NoAddress {
                network: network.name.clone(),
            },
        }
    }
}

impl crate::error::Classify for NetworkError {
    fn class(&self) -> Class {
        match self {
            NetworkError::NotFound { .. } => Class::NotFound,
            // Docker answers 500 to a taken port; scripts look for the text.
            NetworkError::PortTaken { .. } => Class::Internal,
            NetworkError::NoAddress { .. } | NetworkError::AddressTaken => Class::Denied,
            NetworkError::Unsupported { .. } | NetworkError::Filter(_) => Class::Invalid,
            NetworkError::Refused { class, .. } => *class,
            NetworkError::Failed { .. } => Class::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_first_agent_stored_is_read() {
        let old = r#"{"namespace":"/run/berth/netns/a","endpoint":{"network":"NET","network_name":"bridge","endpoint_id":"e",
            "mac_address":"02:42:ac:11:00:02","address":"172.17.0.2","prefix_length":16,"gateway":"172.17.0.1","ipv6_address":null,
            "ipv6_prefix_length":0,"ipv6_gateway":null},"ports":[],"warnings":[]}"#;
        let attached: Attached =
            serde_json::from_str(&old.replace("NET", &"1f".repeat(32))).unwrap();
        assert_eq!(attached.endpoints[0].interface, "eth0");
        assert_eq!(attached.way_out(), attached.endpoints.first());
        let none: Attached =
            serde_json::from_str(r#"{"namespace":"/x","endpoint":null,"ports":[],"warnings":[]}"#)
                .unwrap();
        assert_eq!(none.endpoints, []);
        let text = serde_json::to_string(&attached).unwrap();
        assert_eq!(serde_json::from_str::<Attached>(&text).unwrap(), attached);
    }
}
