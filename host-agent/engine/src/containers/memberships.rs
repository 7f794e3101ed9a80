//! Which networks a container is in: chosen when it is made, changed by `network connect` and `disconnect`, remembered over
//! its runs.

use super::container::{Command, Container};
use super::error::ContainerError;
use super::service::ContainerService;
use super::spec::{ContainerSpec, HostSettings, NetworkChoice};
use crate::id::NetworkId;
use crate::networks::{Driver, EndpointSettings, Network, NetworkError, NetworkService};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// A container's being in one network, whether it runs or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Membership {
    /// `None` before the network was looked up: records of the first version of the agent.
    pub network: Option<NetworkId>,
    pub settings: EndpointSettings,
    /// Addresses of its last run: it gets them again if they are free.
    pub last_addresses: Vec<IpAddr>,
}

/// Memberships by the network's name. Networks are not renamed.
pub type Memberships = BTreeMap<String, Membership>;

/// What a record says that knows nothing of memberships: the network of the mode.
pub(super) fn of_mode(spec: &ContainerSpec) -> Memberships {
    match &spec.host.network {
        NetworkChoice::Container(_) => Memberships::new(),
        choice => {
            let mut membership = Membership::default();
            membership
                .settings
                .mac_address
                .clone_from(&spec.host.mac_address);
            [(choice.text().into_owned(), membership)].into()
        }
    }
}

/// A network that there is; one that is not there yet is looked for again at the start, as Docker does.
fn find_or_later(
    networks: &NetworkService,
    name: &str,
) -> Result<Option<Arc<Network>>, NetworkError> {
    match networks.find(name) {
        Ok(network) => Ok(Some(network)),
        Err(NetworkError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The memberships of a container to be made. Names of networks in `host` become those the networks call themselves.
pub(super) fn resolve(
    host: &mut HostSettings,
    networks: &NetworkService,
) -> Result<Memberships, NetworkError> {
    if let NetworkChoice::Named(name) = &host.network
        && let Some(network) = find_or_later(networks, name)?
    {
        host.network = NetworkChoice::parse(&network.name);
    }
    let asked = std::mem::take(&mut host.endpoints);
    if let NetworkChoice::Container(_) = host.network {
        // Clients repeat the mode there.
        return match asked.keys().find(|name| {
            NetworkChoice::parse(name) != host.network && !name.starts_with("container:")
        }) {
            None => Ok(Memberships::new()),
            Some(_) => Err(shared_network()),
        };
    }
    let main = host.network.text().into_owned();
    let mut memberships = Memberships::new();
    for (name, settings) in asked {
        let network = find_or_later(networks, &name)?;
        let membership = Membership {
            network: network.as_ref().map(|network| network.id.clone()),
            settings: settings.clone(),
            last_addresses: Vec::new(),
        };
        let name = network.map_or(name, |network| network.name.clone());
        if memberships.insert(name.clone(), membership).is_some() {
            return Err(NetworkError::invalid(format!(
                "network {name} is named twice"
            )));
        }
        host.endpoints.insert(name, settings);
    }
    // Docker's way: who names networks but leaves the mode to us is in those alone.
    if !memberships.contains_key(&main)
        && (memberships.is_empty() || host.network != NetworkChoice::Bridge)
    {
        let membership = Membership {
            network: find_or_later(networks, &main)?.map(|network| network.id.clone()),
            ..Membership::default()
        };
        memberships.insert(main.clone(), membership);
    }
    if let Some(membership) = memberships.get_mut(&main) {
        let own = &mut membership.settings.mac_address;
        match (&host.mac_address, own) {
            (Some(wide), Some(own)) if wide != own => {
                return Err(NetworkError::invalid(
                    "the container-wide MAC address must match the endpoint-specific MAC address for the main network, or be left empty",
                ));
            }
            (Some(wide), own) => *own = Some(wide.clone()),
            (None, _) => {}
        }
        if main != "bridge" {
            membership.settings.links.extend(host.links.iter().cloned());
        }
    }
    for (name, membership) in &memberships {
        let Some(network) = find_or_later(networks, name)? else {
            continue;
        };
        NetworkService::check_settings(&network, &membership.settings)?;
        if memberships.len() > 1 {
            match network.driver {
                Driver::Host => return Err(host_network()),
                Driver::Null => return Err(private_network()),
                _ => {}
            }
        }
    }
    Ok(memberships)
}

fn shared_network() -> NetworkError {
    NetworkError::invalid(
        "container sharing network namespace with another container or host cannot be connected to any other network",
    )
}

fn host_network() -> NetworkError {
    NetworkError::invalid(
        "container cannot be disconnected from host network or connected to host network",
    )
}

fn private_network() -> NetworkError {
    NetworkError::invalid(
        "container cannot be connected to multiple networks with one of the networks in private (none) mode",
    )
}

/// What a container is called in a network: its name, aliases, short id and host name, each once.
pub(super) fn names(
    container: &Container,
    network: &Network,
    settings: &EndpointSettings,
) -> Vec<String> {
    if !network.has_names() {
        return Vec::new();
    }
    let mut names = vec![container.name()];
    let hostname = &container.spec.config.hostname;
    let more = settings
        .aliases
        .iter()
        .cloned()
        .chain([container.id.short().to_owned(), hostname.clone()]);
    for name in more {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// `container[:alias]` -> container, alias.
pub fn split_link(text: &str) -> Option<(&str, &str)> {
    let (name, alias) = text.split_once(':').unwrap_or((text, text));
    let plain = |text: &str| !text.is_empty() && !text.contains([':', '/', ' ']);
    let (name, alias) = (
        name.trim_start_matches('/'),
        alias.rsplit('/').next().unwrap_or_default(),
    );
    (plain(name) && plain(alias)).then_some((name, alias))
}

impl ContainerService {
    /// `docker network connect`, for a container in any state.
    pub async fn connect(
        &self,
        asked: &str,
        network: &Arc<Network>,
        settings: EndpointSettings,
    ) -> Result<(), ContainerError> {
        let container = self.find(asked)?;
        let refuse = |error| Err(ContainerError::Connect(error));
        match (&container.spec.host.network, network.driver) {
            (NetworkChoice::Container(_), _) => return refuse(shared_network()),
            (NetworkChoice::Host, _) | (_, Driver::Host) => return refuse(host_network()),
            (NetworkChoice::None, _) | (_, Driver::Null) => return refuse(private_network()),
            _ => {}
        }
        NetworkService::check_settings(network, &settings).map_err(ContainerError::Connect)?;
        for link in &settings.links {
            if split_link(link).is_none() {
                return Err(ContainerError::invalid(format!(
                    "invalid argument \"{link}\" for --link: bad format for links: {link}"
                )));
            }
        }
        container
            .ask(|reply| Command::Connect {
                network: network.clone(),
                settings: Box::new(settings),
                reply,
            })
            .await
    }

    /// `docker network disconnect`. `asked_network`: as the client names it, because the network may be gone.
    pub async fn disconnect(&self, asked: &str, asked_network: &str) -> Result<(), ContainerError> {
        let network = self.deps.networks.find(asked_network);
        let container = match (self.find(asked), &network) {
            (Ok(container), _) => container,
            (Err(error), Ok(_)) => return Err(error),
            (Err(_), Err(_)) => {
                return Err(ContainerError::Connect(NetworkError::NotFound {
                    name: asked_network.into(),
                }));
            }
        };
        let name = match network {
            Ok(network) => {
                if network.driver == Driver::Host {
                    return Err(ContainerError::Connect(host_network()));
                }
                network.name.clone()
            }
            // A stopped container can be taken out of a network that is no more.
            Err(_) if container.status().memberships.contains_key(asked_network) => {
                asked_network.to_owned()
            }
            Err(error) => return Err(ContainerError::Connect(error)),
        };
        container
            .ask(|reply| Command::Disconnect {
                network: name,
                reply,
            })
            .await
    }

    /// `docker rm --link CONTAINER/ALIAS`
    pub async fn remove_link(&self, asked: &str, alias: &str) -> Result<(), ContainerError> {
        let container = self.find(asked)?;
        let alias = alias.to_owned();
        container
            .ask(|reply| Command::RemoveLink { alias, reply })
            .await
    }

    /// Whether some container, running or not, is in the network.
    pub fn uses_network(&self, network: &Network) -> bool {
        self.all().iter().any(|container| {
            container
                .status
                .borrow()
                .memberships
                .contains_key(&network.name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::split_link;

    #[test]
    fn links_are_read() {
        assert_eq!(split_link("db"), Some(("db", "db")));
        assert_eq!(split_link("db:database"), Some(("db", "database")));
        assert_eq!(split_link("/db:/web/database"), Some(("db", "database")));
        for bad in ["", ":", "a:", ":b", "a:b:c", "a b"] {
            assert_eq!(split_link(bad), None, "{bad}");
        }
    }
}
