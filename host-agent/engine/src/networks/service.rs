//! The networks there are: found, listed, removed. Making them is in `create`.

use super::ipam::{self, Pool};
use super::network::Network;
use super::store::NetworkStore;
use super::{Driver, Endpoint, NetworkBackend, NetworkError};
use crate::clock::Clock;
use crate::error::Class;
use crate::events::{Event, EventBus, EventKind};
use crate::id::{ContainerId, NetworkId};
use crate::patterns::Patterns;
use engine_api::Filters;
use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

/// The networks. Reads are answered from memory.
pub struct NetworkService {
    backend: Arc<dyn NetworkBackend>,
    store: Arc<dyn NetworkStore>,
    events: EventBus,
    clock: Arc<dyn Clock>,
    pools: Vec<Pool>,
    /// The predefined ones too.
    networks: RwLock<BTreeMap<NetworkId, Arc<Network>>>,
    /// Published ports (`8080/tcp`) that the computer this machine runs on does not have free, and why.
    port_problems: RwLock<BTreeMap<String, String>>,
    /// Held while networks are made and removed. `networks` is never held across an await.
    changing: tokio::sync::Mutex<()>,
}

impl NetworkService {
    /// Loads what the store has, and makes it on the host where it is not there (any more). A network that cannot be made is
    /// logged and kept: the host may be mended, and containers say what is missing when they start.
    pub async fn open(
        backend: Arc<dyn NetworkBackend>,
        store: Arc<dyn NetworkStore>,
        events: EventBus,
        clock: Arc<dyn Clock>,
        pools: Option<Vec<Pool>>,
    ) -> Result<NetworkService, NetworkError> {
        let service = NetworkService::empty(backend, store, events, clock, pools);
        for network in service.store.load().await? {
            let network = Arc::new(network);
            if let Err(error) = service.backend.create(network.clone()).await {
                tracing::error!(network = network.name, id = %network.id, error = crate::error::full_message(&error), "a network could not be made again");
            }
            service.insert(network);
        }
        Ok(service)
    }

    /// Over a store that is known to be empty (tests).
    pub fn empty(
        backend: Arc<dyn NetworkBackend>,
        store: Arc<dyn NetworkStore>,
        events: EventBus,
        clock: Arc<dyn Clock>,
        pools: Option<Vec<Pool>>,
    ) -> NetworkService {
        let networks = backend
            .predefined()
            .into_iter()
            .map(|network| (network.id.clone(), Arc::new(network)))
            .collect();
        NetworkService {
            backend,
            store,
            events,
            clock,
            pools: pools.unwrap_or_else(ipam::default_pools),
            networks: RwLock::new(networks),
            port_problems: RwLock::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Told by the desktop of a local machine: which published ports it could not open there. All of them, each time.
    pub fn set_port_problems(&self, problems: BTreeMap<String, String>) {
        let mut known = self
            .port_problems
            .write()
            .expect("no code panics while it holds this lock");
        for (port, why) in problems
            .iter()
            .filter(|(port, why)| known.get(*port) != Some(*why))
        {
            tracing::warn!(port, why, "a published port cannot be had on the desktop");
        }
        *known = problems;
    }

    /// What is known to be wrong with a container's published ports, as sentences for people.
    pub fn warnings_of(&self, attached: &super::Attached) -> Vec<String> {
        let problems = self
            .port_problems
            .read()
            .expect("no code panics while it holds this lock");
        let mut warnings = attached.warnings.clone();
        for published in &attached.ports {
            let port = format!("{}/{}", published.host_port, published.protocol.name());
            let warning = problems.get(&port).map(|why| {
                format!("Published port {port} cannot be reached on the desktop: {why}")
            });
            // Published on IPv4 and on IPv6 it is one port there.
            warnings.extend(warning.filter(|warning| !warnings.contains(warning)));
        }
        warnings
    }

    /// All that is known of ports that cannot be had on the desktop.
    pub fn port_problems(&self) -> BTreeMap<String, String> {
        self.port_problems
            .read()
            .expect("no code panics while it holds this lock")
            .clone()
    }

    /// What of the host may keep containers from others, as sentences for people.
    pub async fn warnings(&self) -> Vec<String> {
        self.backend.warnings().await
    }

    /// What does the host's part; for containers.
    pub fn backend(&self) -> &dyn NetworkBackend {
        &*self.backend
    }

    pub(super) fn store(&self) -> &dyn NetworkStore {
        &*self.store
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(super) fn pools(&self) -> &[Pool] {
        &self.pools
    }

    pub(super) fn changing(&self) -> &tokio::sync::Mutex<()> {
        &self.changing
    }

    pub(super) fn insert(&self, network: Arc<Network>) {
        self.networks
            .write()
            .expect("no code panics while it holds this lock")
            .insert(network.id.clone(), network);
    }

    /// Every network, the predefined ones first, then by age.
    pub fn all(&self) -> Vec<Arc<Network>> {
        let networks = self
            .networks
            .read()
            .expect("no code panics while it holds this lock");
        let mut all: Vec<Arc<Network>> = networks.values().cloned().collect();
        all.sort_by(|one, other| {
            let key = |network: &Network| {
                let predefined = network.is_predefined();
                let name = predefined.then(|| network.name.clone());
                (!predefined, name, network.created)
            };
            key(one).cmp(&key(other))
        });
        all
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Network>> {
        let networks = self
            .networks
            .read()
            .expect("no code panics while it holds this lock");
        networks
            .values()
            .find(|network| network.name == name)
            .cloned()
    }

    /// By full id, name, or the beginning of an id, in this order.
    pub fn find(&self, asked: &str) -> Result<Arc<Network>, NetworkError> {
        let networks = self
            .networks
            .read()
            .expect("no code panics while it holds this lock");
        if let Some(network) = NetworkId::parse(asked).and_then(|id| networks.get(&id)) {
            return Ok(network.clone());
        }
        let name = if asked == "default" { "bridge" } else { asked };
        if let Some(network) = networks.values().find(|network| network.name == name) {
            return Ok(network.clone());
        }
        let fitting: Vec<&Arc<Network>> = networks
            .values()
            .filter(|network| !asked.is_empty() && network.id.as_str().starts_with(asked))
            .collect();
        match fitting.as_slice() {
            [network] => Ok((*network).clone()),
            [] => Err(NetworkError::NotFound { name: asked.into() }),
            many => Err(NetworkError::invalid(format!(
                "network {asked} is ambiguous ({} matches found based on ID prefix)",
                many.len()
            ))),
        }
    }

    /// The networks that fit the filters `dangling`, `driver`, `id`, `label`, `name`, `scope`, `type`.
    pub fn list(&self, filters: &Filters) -> Result<Vec<Arc<Network>>, NetworkError> {
        filters.only(&[
            "dangling", "driver", "id", "label", "label!", "name", "scope", "type",
        ])?;
        let dangling = filters.flag("dangling")?;
        for kind in filters.values("type") {
            if !matches!(kind, "builtin" | "custom") {
                return Err(NetworkError::invalid(format!(
                    "invalid filter: 'type'='{kind}'"
                )));
            }
        }
        let (names, ids) = (Patterns::of(filters, "name"), Patterns::of(filters, "id"));
        let mut all = self.all();
        all.retain(|network| {
            let kind = if network.is_predefined() {
                "builtin"
            } else {
                "custom"
            };
            names.fit(&[&network.name])
                && ids.fit(&[network.id.as_str()])
                && filters.exact("driver", network.driver.name())
                && filters.exact("scope", "local")
                && filters.exact("type", kind)
                && filters.labels(&network.labels)
                && dangling.is_none_or(|dangling| {
                    // The predefined ones are in use by definition.
                    let unused = !network.is_predefined() && self.endpoints(network).is_empty();
                    unused == dangling
                })
        });
        Ok(all)
    }

    /// Who is in a network now.
    pub fn endpoints(&self, network: &Network) -> Vec<(ContainerId, Endpoint)> {
        self.backend.endpoints(&network.id)
    }

    /// Removes a network nobody is in.
    pub async fn remove(&self, asked: &str) -> Result<(), NetworkError> {
        let _changing = self.changing.lock().await;
        let network = self.find(asked)?;
        if network.is_predefined() {
            return Err(NetworkError::refused(
                Class::Denied,
                format!(
                    "{} is a pre-defined network and cannot be removed",
                    network.name
                ),
            ));
        }
        self.take_down(&network).await
    }

    /// The caller holds `changing`.
    async fn take_down(&self, network: &Network) -> Result<(), NetworkError> {
        // Out of the list first: nobody can start in what is being removed. The backend refuses if somebody is in it.
        let taken = self
            .networks
            .write()
            .expect("no code panics while it holds this lock")
            .remove(&network.id);
        let removed = match self.backend.remove(&network.id).await {
            Ok(()) => self
                .store
                .remove(&network.id)
                .await
                .map_err(NetworkError::from),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => {
                self.tell("destroy", network, []);
                Ok(())
            }
            Err(error) => {
                if let Some(network) = taken {
                    self.insert(network);
                }
                Err(error)
            }
        }
    }

    /// Removes the networks somebody made that nobody is in and that fit the filters (`label`, `label!`, `until`); `used`
    /// says which more are somebody's: those of containers that do not run.
    pub async fn prune(
        &self,
        filters: &Filters,
        used: impl Fn(&Network) -> bool,
    ) -> Result<Vec<String>, NetworkError> {
        filters.only(&["label", "label!", "until"])?;
        let until = crate::containers::list::until(filters, self.clock.now())
            .map_err(NetworkError::invalid)?;
        let _changing = self.changing.lock().await;
        let mut removed = Vec::new();
        for network in self.all() {
            let old_enough = until.is_none_or(|until| network.created < until);
            if network.is_predefined()
                || !old_enough
                || !filters.labels(&network.labels)
                || used(&network)
            {
                continue;
            }
            match self.take_down(&network).await {
                Ok(()) => removed.push(network.name.clone()),
                Err(error) => {
                    tracing::debug!(
                        network = network.name,
                        error = crate::error::full_message(&error),
                        "not pruned"
                    );
                }
            }
        }
        self.events.publish(Event {
            kind: EventKind::Network,
            action: "prune".into(),
            actor: String::new(),
            attributes: [("reclaimed".to_owned(), "0".to_owned())].into(),
            at: self.clock.now(),
        });
        Ok(removed)
    }

    /// Publishes an event about a network, with the attributes Docker always gives.
    pub fn tell<const N: usize>(&self, action: &str, network: &Network, more: [(&str, String); N]) {
        let mut attributes: BTreeMap<String, String> = [
            ("name".to_owned(), network.name.clone()),
            ("type".to_owned(), network.driver.name().to_owned()),
        ]
        .into();
        for (name, value) in more {
            attributes.insert(name.into(), value);
        }
        self.events.publish(Event {
            kind: EventKind::Network,
            action: action.to_owned(),
            actor: network.id.to_string(),
            attributes,
            at: self.clock.now(),
        });
    }

    /// Who is in a network, as an error of removing it.
    pub fn has_active_endpoints(network: &Network, containers: &[ContainerId]) -> NetworkError {
        let who: Vec<&str> = containers.iter().map(ContainerId::short).collect();
        NetworkError::refused(
            Class::Denied,
            format!(
                "error while removing network: network {} id {} has active endpoints ({})",
                network.name,
                network.id,
                who.join(", ")
            ),
        )
    }

    /// Whether a container may name an address of its own in this network. The error is Docker's sentence.
    pub fn check_settings(
        network: &Network,
        settings: &super::EndpointSettings,
    ) -> Result<(), NetworkError> {
        if network.driver == Driver::Host || network.driver == Driver::Null {
            return Ok(());
        }
        let wanted: Vec<std::net::IpAddr> = settings
            .ipv4
            .map(Into::into)
            .into_iter()
            .chain(settings.ipv6.map(Into::into))
            .collect();
        if !wanted.is_empty() && network.is_predefined() {
            return Err(NetworkError::invalid(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        if !settings.aliases.is_empty() && network.is_predefined() {
            return Err(NetworkError::invalid(
                "network-scoped alias is supported only for containers in user defined networks",
            ));
        }
        for address in &wanted {
            let mut of_family = network
                .subnets
                .iter()
                .filter(|subnet| subnet.range.addr().is_ipv4() == address.is_ipv4())
                .peekable();
            if of_family.peek().is_none_or(|subnet| !subnet.configured) {
                return Err(NetworkError::invalid(
                    "user specified IP address is supported only when connecting to networks with user configured subnets",
                ));
            }
            if !of_family.any(|subnet| subnet.range.contains(address)) {
                return Err(NetworkError::of_lease(
                    ipam::Refusal::OutOfRange,
                    network,
                    Some(*address),
                ));
            }
        }
        for address in &settings.link_local {
            let good = match address {
                std::net::IpAddr::V4(address) => address.is_link_local(),
                std::net::IpAddr::V6(address) => address.is_unicast_link_local(),
            };
            if !good {
                return Err(NetworkError::invalid(format!(
                    "invalid link-local IP address: {address}"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
