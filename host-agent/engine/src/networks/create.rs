//! `docker network create`: check everything, then change.

use super::NetworkError;
use super::ipam::{self, overlap};
use super::link::{self, ENABLE_IPV4, ENABLE_IPV6, LinkSettings};
use super::network::{Driver, Network, Subnet};
use super::service::NetworkService;
use crate::error::Class;
use crate::id::NetworkId;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A network to make, as its creator asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateNetwork {
    pub name: String,
    /// Empty is `bridge`.
    pub driver: String,
    /// Empty is `local`.
    pub scope: String,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    /// `None`: yes.
    pub ipv4: Option<bool>,
    pub ipv6: Option<bool>,
    /// Empty is `default`.
    pub ipam_driver: String,
    pub ipam_options: Option<BTreeMap<String, String>>,
    pub subnets: Vec<SubnetRequest>,
    pub options: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
}

/// One entry of `IPAM.Config`, as given; empty texts are not given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubnetRequest {
    pub subnet: String,
    pub range: String,
    pub gateway: String,
    pub auxiliary: BTreeMap<String, String>,
}

/// What a create answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    pub id: NetworkId,
    /// Sentences for people.
    pub warnings: Vec<String>,
}

impl NetworkService {
    /// Makes a network; when this returns, it survives a crash of the host.
    pub async fn create(&self, request: CreateNetwork) -> Result<Created, NetworkError> {
        let driver = check(&request)?;
        let id = NetworkId::random();
        let (link, warnings) = LinkSettings::parse(driver, &id, request.internal, &request.options)
            .map_err(NetworkError::invalid)?;
        let by_option = |key: &str| {
            request
                .options
                .get(key)
                .map(|text| link::flag(key, text))
                .transpose()
        };
        let ipv4 = by_option(ENABLE_IPV4)
            .map_err(NetworkError::invalid)?
            .or(request.ipv4)
            .unwrap_or(true);
        let ipv6 = by_option(ENABLE_IPV6)
            .map_err(NetworkError::invalid)?
            .or(request.ipv6)
            .unwrap_or(false)
            // Who names a range of IPv6 wants it, whatever older clients fill in besides.
            || request.subnets.iter().any(|subnet| subnet.subnet.contains(':'));
        if !ipv4 && !ipv6 {
            return Err(NetworkError::invalid("IPv4 or IPv6 must be enabled"));
        }
        let mut subnets = request
            .subnets
            .iter()
            .filter(|subnet| **subnet != SubnetRequest::default())
            .map(parse_subnet)
            .collect::<Result<Vec<Subnet>, String>>()
            .map_err(|why| NetworkError::invalid(format!("invalid network config:\n{why}")))?;
        for subnet in &subnets {
            let (family, enabled) = match subnet.range {
                IpNet::V4(_) => ("IPv4", ipv4),
                IpNet::V6(_) => ("IPv6", ipv6),
            };
            if !enabled {
                return Err(NetworkError::invalid(format!(
                    "invalid network config:\n{family} subnet {} in a network without {family}",
                    subnet.range
                )));
            }
        }

        // One at a time: two networks must not be given the same range or name.
        let _changing = self.changing().lock().await;
        if self.by_name(&request.name).is_some() {
            return Err(NetworkError::refused(
                Class::Conflict,
                format!("network with name {} already exists", request.name),
            ));
        }
        self.place(driver, &link.name, (ipv4, ipv6), &mut subnets)
            .await?;
        if let Some(other) = self.all().into_iter().find(|other| {
            driver == Driver::Bridge
                && other.driver == Driver::Bridge
                && other.link.name == link.name
        }) {
            return Err(NetworkError::refused(
                Class::Denied,
                format!(
                    "cannot create network {} ({}): conflicts with network {} ({}): networks have same bridge name",
                    id, link.name, other.id, other.link.name
                ),
            ));
        }
        let network = Arc::new(Network {
            id: id.clone(),
            name: request.name,
            driver,
            created: self.clock().now(),
            ipv4,
            ipv6,
            internal: request.internal,
            attachable: request.attachable,
            subnets,
            options: request.options,
            ipam_options: request.ipam_options,
            labels: request.labels,
            link,
        });
        // The record first: a bridge without a record would be nobody's after a crash.
        self.store().save(&network).await?;
        if let Err(error) = self.backend().create(network.clone()).await {
            if let Err(left) = self.store().remove(&id).await {
                tracing::warn!(network = %id, error = crate::error::full_message(&left), "record of a network that could not be made is left over");
            }
            return Err(error);
        }
        self.insert(network.clone());
        self.tell("create", &network, []);
        Ok(Created { id, warnings })
    }

    /// Gives a network subnets that share no address with others and the host.
    async fn place(
        &self,
        driver: Driver,
        link: &str,
        (ipv4, ipv6): (bool, bool),
        subnets: &mut Vec<Subnet>,
    ) -> Result<(), NetworkError> {
        let ours: Vec<IpNet> = self
            .all()
            .iter()
            // The others use what the host's link has, and two of them may share it as Docker's do not: each is told.
            .flat_map(|network| {
                network
                    .subnets
                    .iter()
                    .map(|subnet| subnet.range)
                    .collect::<Vec<_>>()
            })
            .collect();
        let overlapping = || {
            NetworkError::refused(
                Class::Denied,
                "invalid pool request: Pool overlaps with other one on this address space",
            )
        };
        for (index, subnet) in subnets.iter().enumerate() {
            let earlier = subnets[..index].iter().map(|other| &other.range);
            if ours
                .iter()
                .chain(earlier)
                .any(|other| overlap(&subnet.range, other))
            {
                return Err(overlapping());
            }
        }
        let has = |subnets: &[Subnet], ipv4: bool| {
            subnets
                .iter()
                .any(|subnet| subnet.range.addr().is_ipv4() == ipv4)
        };
        let wants_ipv4 = ipv4 && !has(subnets, true);
        let on_bridge = driver == Driver::Bridge;
        if on_bridge || wants_ipv4 {
            let mut used = self.backend().used(link).await?;
            if on_bridge
                && let Some((subnet, other)) = subnets.iter().find_map(|subnet| {
                    let other = used.all().find(|other| overlap(&subnet.range, other))?;
                    Some((subnet.range, *other))
                })
            {
                return Err(NetworkError::refused(
                    Class::Denied,
                    format!(
                        "invalid pool request: Pool overlaps with other one on this address space: {subnet} with {other} of the host"
                    ),
                ));
            }
            if wants_ipv4 {
                used.near.extend(ours);
                let range = ipam::choose(self.pools(), &used).ok_or_else(|| {
                    NetworkError::invalid("all predefined address pools have been fully subnetted")
                })?;
                subnets.insert(0, Subnet::of(range, ipam::first_address(&range)));
            }
        }
        if ipv6 && !has(subnets, false) {
            let range = ipam::random_ipv6_subnet();
            subnets.push(Subnet::of(range, ipam::first_address(&range)));
        }
        Ok(())
    }
}

fn check(request: &CreateNetwork) -> Result<Driver, NetworkError> {
    let invalid = |why: String| Err(NetworkError::invalid(why));
    if request.name.trim().is_empty() {
        return invalid("invalid network name: name is empty".into());
    }
    if Network::is_predefined_name(&request.name) {
        return Err(NetworkError::refused(
            Class::Denied,
            format!(
                "operation is not permitted on predefined {} network",
                request.name
            ),
        ));
    }
    // Docker takes nearly anything; a name that looks like a mode, or like a path, could not be asked for again.
    let odd = |byte: u8| byte == b'/' || byte.is_ascii_control() || byte == b':';
    if request.name.len() > 255
        || request.name.bytes().any(odd)
        || request.name.trim() != request.name
    {
        return invalid(format!("invalid network name: {:?}", request.name));
    }
    if !matches!(request.scope.as_str(), "" | "local") {
        return invalid(format!(
            "network scope {} needs Swarm, which this engine does not have",
            request.scope
        ));
    }
    if request.ingress {
        return invalid("an ingress network needs Swarm, which this engine does not have".into());
    }
    if !matches!(request.ipam_driver.as_str(), "" | "default") {
        return Err(NetworkError::refused(
            Class::NotFound,
            format!("IPAM driver plugin {:?} not found", request.ipam_driver),
        ));
    }
    match Driver::parse(&request.driver) {
        Some(Driver::Host | Driver::Null) => Err(NetworkError::refused(
            Class::Denied,
            format!(
                "only one instance of \"{}\" network is allowed",
                request.driver
            ),
        )),
        Some(driver) => Ok(driver),
        None => Err(NetworkError::refused(
            Class::NotFound,
            format!("plugin {:?} not found", request.driver),
        )),
    }
}

/// The error is a sentence, for the one subnet.
fn parse_subnet(request: &SubnetRequest) -> Result<Subnet, String> {
    let text = &request.subnet;
    let range: IpNet = text
        .parse()
        .map_err(|_| format!("invalid subnet {text}: invalid CIDR block notation"))?;
    if range != range.trunc() {
        return Err(format!(
            "invalid subnet {text}: it should be {}",
            range.trunc()
        ));
    }
    let family = if range.addr().is_ipv4() {
        "IPv4"
    } else {
        "IPv6"
    };
    let widest = if range.addr().is_ipv4() { 31 } else { 127 };
    if range.prefix_len() > widest || range.prefix_len() == 0 {
        return Err(format!(
            "invalid subnet {text}: it has no room for a gateway and a container"
        ));
    }
    let lend = match request.range.as_str() {
        "" => None,
        text => {
            let lend: IpNet = text
                .parse()
                .map_err(|_| format!("invalid ip-range {text}: invalid CIDR block notation"))?;
            if lend.addr().is_ipv4() != range.addr().is_ipv4() {
                return Err(format!(
                    "invalid ip-range {text}: parent subnet is an {family} block"
                ));
            }
            if lend != lend.trunc() {
                return Err(format!(
                    "invalid ip-range {text}: it should be {}",
                    lend.trunc()
                ));
            }
            if !range.contains(&lend) {
                return Err(format!(
                    "invalid ip-range {text}: it is not contained in {range}"
                ));
            }
            Some(lend)
        }
    };
    let address = |what: &str, text: &str| -> Result<IpAddr, String> {
        let address: IpAddr = text
            .parse()
            .map_err(|_| format!("invalid {what} {text}: invalid address"))?;
        if address.is_ipv4() != range.addr().is_ipv4() {
            return Err(format!(
                "invalid {what} {text}: parent subnet is an {family} block"
            ));
        }
        if !range.contains(&address) {
            return Err(format!(
                "invalid {what} {text}: parent subnet {range} does not contain it"
            ));
        }
        Ok(address)
    };
    let gateway = match request.gateway.as_str() {
        "" => ipam::first_address(&lend.unwrap_or(range)),
        text => address("gateway", text)?,
    };
    // The first address of a smaller range than the subnet need not be the network's own.
    let gateway = match lend {
        Some(lend) if request.gateway.is_empty() && lend.network() != range.network() => {
            lend.network()
        }
        _ => gateway,
    };
    let mut auxiliary = BTreeMap::new();
    for (name, text) in &request.auxiliary {
        auxiliary.insert(name.clone(), address("auxiliary address", text)?);
    }
    if auxiliary.values().any(|address| *address == gateway) {
        return Err(format!(
            "invalid auxiliary address {gateway}: it is the gateway's"
        ));
    }
    Ok(Subnet {
        range,
        gateway: Some(gateway),
        lend,
        auxiliary,
        configured: true,
    })
}
