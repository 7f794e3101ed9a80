//! What a network is. Fixed when it is made: only who is in it changes.

use super::link::LinkSettings;
use crate::id::NetworkId;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use time::OffsetDateTime;

/// How a network is made on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of the host, with NAT to the outside.
    Bridge,
    /// The host's own network.
    Host,
    /// Only loopback.
    Null,
    /// Links of their own on a link of the host, each with its hardware address.
    Macvlan,
    /// Links of their own on a link of the host, all with its hardware address.
    Ipvlan,
}

impl Driver {
    /// Docker's name.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Bridge => "bridge",
            Driver::Host => "host",
            Driver::Null => "null",
            Driver::Macvlan => "macvlan",
            Driver::Ipvlan => "ipvlan",
        }
    }

    /// From Docker's name; empty is the default, `bridge`.
    pub fn parse(text: &str) -> Option<Driver> {
        Some(match text {
            "" | "default" | "bridge" => Driver::Bridge,
            "host" => Driver::Host,
            "null" => Driver::Null,
            "macvlan" => Driver::Macvlan,
            "ipvlan" => Driver::Ipvlan,
            _ => return None,
        })
    }
}

/// A network. Stored as it is (`networks/<id>.json`), so new fields need a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub id: NetworkId,
    pub name: String,
    pub driver: Driver,
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    pub ipv4: bool,
    pub ipv6: bool,
    /// No way to the outside.
    pub internal: bool,
    pub attachable: bool,
    pub subnets: Vec<Subnet>,
    /// As given.
    pub options: BTreeMap<String, String>,
    /// As given: nobody here reads them, `inspect` shows them.
    pub ipam_options: Option<BTreeMap<String, String>>,
    pub labels: BTreeMap<String, String>,
    /// What `options` mean.
    pub link: LinkSettings,
}

/// An address range of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// `172.18.0.0/16`
    pub range: IpNet,
    pub gateway: Option<IpAddr>,
    /// The part of the range that addresses are lent from; `None`: all of it.
    pub lend: Option<IpNet>,
    /// Addresses that are somebody else's, by a name for people.
    pub auxiliary: BTreeMap<String, IpAddr>,
    /// Asked for by its creator, not chosen by us. Fixed addresses need that.
    pub configured: bool,
}

impl Subnet {
    /// A range alone.
    pub fn of(range: IpNet, gateway: IpAddr) -> Subnet {
        Subnet {
            range,
            gateway: Some(gateway),
            lend: None,
            auxiliary: BTreeMap::new(),
            configured: false,
        }
    }
}

impl Network {
    /// Names that every engine has, whoever made it.
    pub fn is_predefined_name(name: &str) -> bool {
        matches!(name, "bridge" | "host" | "none" | "default")
    }

    pub fn is_predefined(&self) -> bool {
        Network::is_predefined_name(&self.name)
    }

    /// Whether containers in it are found by name: in every network somebody has made.
    pub fn has_names(&self) -> bool {
        !self.is_predefined()
    }

    /// Whether it leads to the outside.
    pub fn is_way_out(&self) -> bool {
        !self.internal && !matches!(self.driver, Driver::Host | Driver::Null)
    }
}
