//! Networks: which there are, who is attached, and what the host has to do for it.
//!
//! ```text
//! ContainerService --Attachment--> NetworkBackend::attach -> a namespace with addresses, published ports
//! ```

pub mod contract;
pub mod fake;

use crate::id::{ContainerId, NetworkId};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// How a container is connected, as its creator asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// `default` and `bridge`: the default bridge. Another network by name or id: issue 6.
    Bridge,
    Host,
    /// Only loopback.
    None,
    /// The namespace of another container.
    Container(ContainerId),
    /// A user-defined network by the name or id given.
    Named(String),
}

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
    pub host_port: u16,
}

/// What a container wants of the network when it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub container: ContainerId,
    /// Never `Host` or `Container`: these need no backend.
    pub mode: NetworkMode,
    /// A fixed hardware address, `02:42:...`.
    pub mac_address: Option<String>,
    pub ports: Vec<PortRequest>,
}

/// One container's place in one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub network: NetworkId,
    pub network_name: String,
    /// 64 hex digits.
    pub endpoint_id: String,
    pub mac_address: String,
    pub address: IpAddr,
    pub prefix_length: u8,
    pub gateway: Option<IpAddr>,
    pub ipv6_address: Option<IpAddr>,
    pub ipv6_prefix_length: u8,
    pub ipv6_gateway: Option<IpAddr>,
}

/// What [`NetworkBackend::attach`] made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The namespace, bound to a file.
    pub namespace: PathBuf,
    /// `None` in mode `None`.
    pub endpoint: Option<Endpoint>,
    pub ports: Vec<PublishedPort>,
    /// For people: a port that is only reachable by some addresses, say.
    pub warnings: Vec<String>,
}

/// A network for `GET /networks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkFacts {
    pub id: NetworkId,
    pub name: String,
    /// `bridge`, `host`, `null`.
    pub driver: String,
    pub subnets: Vec<Subnet>,
    pub options: std::collections::BTreeMap<String, String>,
    pub endpoints: Vec<(ContainerId, Endpoint)>,
    pub created: time::OffsetDateTime,
}

/// An address range of a network and its gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// `172.17.0.0/16`
    pub range: String,
    pub gateway: Option<String>,
}

/// Makes the host do what networks need.
#[async_trait]
pub trait NetworkBackend: Send + Sync + 'static {
    /// Gives a container its namespace, addresses and ports. After an error nothing is left.
    async fn attach(&self, attachment: Attachment) -> Result<Attached, NetworkError>;

    /// Takes everything back. Idempotent; the slow parts may go on after the answer.
    async fn detach(&self, container: &ContainerId) -> Result<(), NetworkError>;

    /// Told at start of the engine, for containers that still run: takes what they have into its books and listens
    /// again on their published ports. Namespaces of containers not named here are removed.
    async fn recover(&self, running: Vec<(ContainerId, Attached)>) -> Result<(), NetworkError>;

    /// Told at the engine's orderly end: what was only kept ready goes, what containers use stays.
    async fn close(&self);

    /// The networks there are.
    fn networks(&self) -> Vec<NetworkFacts>;

    /// The host's own DNS servers and search domains for a container's /etc/resolv.conf, loopback resolvers replaced.
    fn resolv_conf(&self) -> String;
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
    #[error("{what} is not supported: {why}")]
    Unsupported { what: String, why: String },
    #[error("{step}")]
    Failed {
        step: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl crate::error::Classify for NetworkError {
    fn class(&self) -> crate::error::Class {
        use crate::error::Class;
        match self {
            NetworkError::NotFound { .. } => Class::NotFound,
            // Docker answers 500 to a taken port; scripts look for the text.
            NetworkError::PortTaken { .. } => Class::Internal,
            NetworkError::NoAddress { .. } => Class::Denied,
            NetworkError::Unsupported { .. } => Class::Invalid,
            NetworkError::Failed { .. } => Class::Internal,
        }
    }
}
