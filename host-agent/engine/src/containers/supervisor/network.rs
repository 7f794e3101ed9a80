//! The container's networks: what it gets of them when it starts, and what changes while it runs.

use super::Supervisor;
use crate::containers::container::{Command, Container};
use crate::containers::error::ContainerError;
use crate::containers::etc_files::{self, Dns, Gateways};
use crate::containers::lifecycle::ContainerState;
use crate::containers::links::{self, Link};
use crate::containers::memberships::{self, Membership, split_link};
use crate::containers::plan;
use crate::containers::ports;
use crate::containers::spec::NetworkChoice;
use crate::containers::store::Durability;
use crate::error::Class;
use crate::networks::{
    Attached, Attachment, Driver, Endpoint, EndpointRequest, EndpointSettings, Network,
    NetworkError, NetworkService,
};
use crate::runtime::NetworkNamespace;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The texts of the files in /etc that are the container's own.
#[derive(Default)]
struct EtcFiles {
    hostname: String,
    hosts: String,
    resolv_conf: String,
}

impl Supervisor {
    /// The namespace the container's processes will be in, with what there is in it.
    pub(super) async fn attach(
        &self,
    ) -> Result<(NetworkNamespace, Option<Attached>), ContainerError> {
        let spec = &self.container.spec;
        let endpoints = match &spec.host.network {
            _ if spec.config.network_disabled => Vec::new(),
            NetworkChoice::None => Vec::new(),
            NetworkChoice::Host => return Ok((NetworkNamespace::Host, None)),
            NetworkChoice::Container(id) => {
                let pid = self.pid_of(id, "network")?;
                return Ok((
                    NetworkNamespace::At(PathBuf::from(format!("/proc/{pid}/ns/net"))),
                    None,
                ));
            }
            NetworkChoice::Bridge | NetworkChoice::Named(_) => self.endpoint_requests()?,
        };
        let ports = ports::requests(
            &spec.host.port_bindings,
            &spec.config.exposed_ports,
            spec.host.publish_all_ports,
        )
        .map_err(ContainerError::invalid)?;
        let attachment = Attachment {
            container: self.container.id.clone(),
            endpoints,
            ports,
            dns: self.dns_servers(),
        };
        let attached = self
            .deps
            .networks
            .backend()
            .attach(attachment)
            .await
            .map_err(ContainerError::Network)?;
        for warning in &attached.warnings {
            tracing::warn!(container = %self.container.id, warning);
        }
        Ok((
            NetworkNamespace::At(attached.namespace.clone()),
            Some(attached),
        ))
    }

    fn dns_servers(&self) -> Vec<IpAddr> {
        let dns = Dns::of(&self.container.spec, &self.deps.settings.dns);
        dns.servers
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    /// The network of the mode first: its link is `eth0`.
    fn endpoint_requests(&self) -> Result<Vec<EndpointRequest>, ContainerError> {
        let memberships = self.status.borrow().memberships.clone();
        let main = self.container.spec.host.network.text();
        let mut requests = Vec::new();
        for (name, membership) in &*memberships {
            // By name: a network that was made anew since then is the one that is meant, as in Docker.
            let network = self
                .deps
                .networks
                .find(name)
                .map_err(ContainerError::Network)?;
            if matches!(network.driver, Driver::Null | Driver::Host) {
                continue;
            }
            if membership.network.is_none() {
                // It was not there when the container was made.
                NetworkService::check_settings(&network, &membership.settings)
                    .map_err(ContainerError::Network)?;
            }
            requests.push(self.endpoint_request(network, membership));
        }
        requests.sort_by_key(|request| request.network.name != main);
        Ok(requests)
    }

    fn endpoint_request(&self, network: Arc<Network>, membership: &Membership) -> EndpointRequest {
        let settings = membership.settings.clone();
        let links = settings.links.iter().filter_map(|text| split_link(text));
        EndpointRequest {
            preferred: membership.last_addresses.clone(),
            names: memberships::names(&self.container, &network, &settings),
            links: links
                .map(|(name, alias)| (alias.to_owned(), name.to_owned()))
                .collect(),
            network,
            settings,
        }
    }

    /// Remembers which addresses the container was lent.
    pub(super) fn remember_addresses(&self, attached: Option<&Attached>) {
        let Some(attached) = attached else { return };
        self.status.send_modify(|status| {
            let memberships = Arc::make_mut(&mut status.memberships);
            for endpoint in &attached.endpoints {
                if let Some(membership) = memberships.get_mut(&endpoint.network_name) {
                    membership.network = Some(endpoint.network.clone());
                    membership.last_addresses = endpoint.addresses().collect();
                }
            }
        });
    }

    /// Who has this container by a private name has its address in a file, and it may be another one now. Nobody is waited
    /// for: they may be waiting for us.
    pub(super) fn tell_linked(&self) {
        for other in self.registry.with_links() {
            let spec = other.latest_spec();
            let mut named = spec.host.links.iter().filter_map(|text| split_link(text));
            let means_us = |name: &str| {
                let found = self.registry.find(name);
                found.is_ok_and(|found| found.id == self.container.id)
            };
            if other.id != self.container.id && named.any(|(name, _)| means_us(name)) {
                let commands = other.commands.clone();
                // An error is the end of the other.
                tokio::spawn(async move { commands.send(Command::LinksChanged).await.ok() });
            }
        }
    }

    /// Returns the host name.
    pub(super) async fn write_files(
        &self,
        folder: &Path,
        attached: Option<&Attached>,
        links: &[Link],
    ) -> Result<String, ContainerError> {
        let files = self.etc_files(attached, links)?;
        let texts = vec![
            (plan::HOSTNAME_FILE, format!("{}\n", files.hostname)),
            (plan::HOSTS_FILE, files.hosts),
            (plan::RESOLV_CONF_FILE, files.resolv_conf),
        ];
        self.put_files(folder, texts).await?;
        Ok(files.hostname)
    }

    async fn put_files(
        &self,
        folder: &Path,
        files: Vec<(&'static str, String)>,
    ) -> Result<(), ContainerError> {
        let written = self.deps.files.write_all(folder, files).await;
        written.map_err(|error| {
            ContainerError::storage(format!("write the files of {}", self.container.id), error)
        })
    }

    fn etc_files(
        &self,
        attached: Option<&Attached>,
        links: &[Link],
    ) -> Result<EtcFiles, ContainerError> {
        // Who shares another's network is called as the other and sees the other's files.
        let other = match &self.container.spec.host.network {
            NetworkChoice::Container(id) => Some(self.registry.find(id)?),
            _ => None,
        };
        let theirs = other
            .as_ref()
            .and_then(|other| other.status.borrow().network.clone());
        let (owner, attached): (&Container, _) = match &other {
            Some(other) => (other, theirs.as_deref()),
            None => (&self.container, attached),
        };
        let (spec, short) = (&owner.spec, owner.id.short());
        let hostname = etc_files::hostname(spec, short);
        let dns = Dns::of(spec, &self.deps.settings.dns);
        let backend = self.deps.networks.backend();
        let in_any = |fits: fn(&Endpoint) -> bool| {
            attached.is_some_and(|attached| attached.endpoints.iter().any(fits))
        };
        let named = in_any(|endpoint| !endpoint.names.is_empty());
        let has_ipv6 = in_any(|endpoint| endpoint.ipv6_address.is_some());
        // In the host's network its own resolvers are reached, those on loopback too, and its names are as good as ever.
        let of_host = (spec.host.network == NetworkChoice::Host).then(|| backend.host_files());
        let resolv_conf = match &of_host {
            Some(of_host) => etc_files::resolv_conf(&dns, &of_host.resolv_conf),
            None if named => {
                etc_files::resolv_conf_of_network(&dns, &backend.resolv_conf(has_ipv6))
            }
            None => etc_files::resolv_conf(&dns, &backend.resolv_conf(has_ipv6)),
        };
        let gateways = self.host_gateways(of_host.is_some(), attached);
        let hosts = match of_host {
            Some(of_host) if spec.host.extra_hosts.is_empty() && !of_host.hosts.is_empty() => {
                of_host.hosts
            }
            _ => etc_files::hosts(spec, short, attached, &gateways, links),
        };
        Ok(EtcFiles {
            hostname,
            hosts,
            resolv_conf,
        })
    }

    /// What `host-gateway` stands for: what the engine was told, else the way out's gateway, else the default bridge's.
    fn host_gateways(&self, on_host: bool, attached: Option<&Attached>) -> Gateways {
        let told = &self.deps.settings.host_gateways;
        if !told.is_empty() {
            return Gateways {
                ipv4: told.iter().copied().find(IpAddr::is_ipv4),
                ipv6: told.iter().copied().find(IpAddr::is_ipv6),
            };
        }
        if on_host {
            return Gateways {
                ipv4: Some(std::net::Ipv4Addr::LOCALHOST.into()),
                ipv6: None,
            };
        }
        let way_out = attached.and_then(Attached::way_out);
        let default = || {
            let bridge = self.deps.networks.find("bridge").ok()?;
            let of_family = |subnet: &&crate::networks::Subnet| subnet.range.addr().is_ipv4();
            bridge.subnets.iter().find(of_family)?.gateway
        };
        Gateways {
            ipv4: way_out
                .and_then(|endpoint| endpoint.gateway)
                .or_else(default),
            ipv6: way_out.and_then(|endpoint| endpoint.ipv6_gateway),
        }
    }

    pub(super) fn tell_network(&self, action: &str) {
        let attached = self.status.borrow().network.clone();
        for endpoint in attached.iter().flat_map(|attached| &attached.endpoints) {
            if let Ok(network) = self.deps.networks.find(endpoint.network.as_str()) {
                self.tell_of(action, &network);
            }
        }
    }

    fn tell_of(&self, action: &str, network: &Network) {
        let container = self.container.id.to_string();
        self.deps
            .networks
            .tell(action, network, [("container", container)]);
    }

    // ---- while it runs, or rests ----

    pub(super) async fn connect_network(
        &mut self,
        network: Arc<Network>,
        settings: EndpointSettings,
    ) -> Result<(), ContainerError> {
        let memberships = self.status.borrow().memberships.clone();
        if memberships.contains_key(&network.name) {
            return Err(ContainerError::Connect(NetworkError::refused(
                Class::Denied,
                format!(
                    "endpoint with name {} already exists in network {}",
                    self.container.name(),
                    network.name
                ),
            )));
        }
        let mut membership = Membership {
            network: Some(network.id.clone()),
            settings,
            last_addresses: Vec::new(),
        };
        let running = self.has_namespace();
        let before = self.files_now();
        let mut attached = None;
        if running {
            let request = self.endpoint_request(network.clone(), &membership);
            let now = self
                .deps
                .networks
                .backend()
                .connect(&self.container.id, request)
                .await
                .map_err(ContainerError::Connect)?;
            if let Some(endpoint) = now.endpoint(&network.id) {
                membership.last_addresses = endpoint.addresses().collect();
            }
            attached = Some(Arc::new(now));
        }
        self.status.send_modify(|status| {
            Arc::make_mut(&mut status.memberships).insert(network.name.clone(), membership);
            if attached.is_some() {
                status.network = attached;
            }
        });
        self.networks_changed(&before).await;
        if running {
            self.tell_of("connect", &network);
        }
        Ok(())
    }

    pub(super) async fn disconnect_network(&mut self, name: &str) -> Result<(), ContainerError> {
        let (memberships, attached) = {
            let status = self.status.borrow();
            (status.memberships.clone(), status.network.clone())
        };
        if !memberships.contains_key(name) {
            return Err(ContainerError::Connect(NetworkError::refused(
                Class::Denied,
                format!(
                    "container {} is not connected to network {name}",
                    self.container.id
                ),
            )));
        }
        let endpoint = attached.iter().flat_map(|attached| &attached.endpoints);
        let endpoint = endpoint
            .into_iter()
            .find(|endpoint| endpoint.network_name == name)
            .cloned();
        let before = self.files_now();
        let mut now = None;
        if let Some(endpoint) = &endpoint
            && self.has_namespace()
        {
            let after = self
                .deps
                .networks
                .backend()
                .disconnect(&self.container.id, &endpoint.network)
                .await
                .map_err(ContainerError::Connect)?;
            now = Some(Arc::new(after));
        }
        self.status.send_modify(|status| {
            Arc::make_mut(&mut status.memberships).remove(name);
            if now.is_some() {
                status.network = now;
            }
        });
        self.networks_changed(&before).await;
        if let Some(network) =
            endpoint.and_then(|endpoint| self.deps.networks.find(endpoint.network.as_str()).ok())
        {
            self.tell_of("disconnect", &network);
        }
        Ok(())
    }

    /// Takes a link of the default bridge away. What the running program's environment says stays.
    pub(super) async fn remove_link(&mut self, alias: &str) -> Result<(), ContainerError> {
        let mut spec = (*self.container.latest_spec()).clone();
        let before = spec.host.links.len();
        let has_alias = |link: &String| split_link(link).is_some_and(|(_, other)| other == alias);
        spec.host.links.retain(|link| !has_alias(link));
        if spec.host.links.len() == before {
            return Err(ContainerError::NoSuchLink {
                name: format!("/{}/{alias}", self.container.name()),
            });
        }
        let before = self.files_now();
        self.status
            .send_modify(|status| status.updated = Some(Arc::new(spec)));
        self.networks_changed(&before).await;
        Ok(())
    }

    fn has_namespace(&self) -> bool {
        let status = self.status.borrow();
        let runs = matches!(
            status.state,
            ContainerState::Running { .. } | ContainerState::Paused { .. }
        );
        runs && status.network.is_some()
    }

    /// Brings files and record up to the networks there are now. `before`: see [`Supervisor::files_now`].
    async fn networks_changed(&self, before: &EtcFiles) {
        self.refresh_files(before).await;
        self.save(Durability::Synced).await;
    }

    /// A container that this one has by a private name has started.
    pub(super) async fn links_changed(&self) {
        let mut before = self.files_now();
        before.hosts.clear();
        self.refresh_files(&before).await;
    }

    /// What we would write now.
    fn files_now(&self) -> EtcFiles {
        let attached = self.status.borrow().network.clone();
        let files = self.etc_files(
            attached.as_deref(),
            &links::running(&self.registry, &self.container),
        );
        files.unwrap_or_default()
    }

    /// Brings the files of a running container up to date. What others have written into /etc/hosts stays there, and into
    /// /etc/resolv.conf where the container's first network with names does not come and its last one does not go.
    async fn refresh_files(&self, before: &EtcFiles) {
        if !self.has_namespace() {
            return;
        }
        let folder = self.deps.store.folder(&self.container.id);
        let attached = self.status.borrow().network.clone();
        let written = async {
            let files = self.etc_files(
                attached.as_deref(),
                &links::running(&self.registry, &self.container),
            )?;
            let there = self.deps.files.read(&folder.join(plan::HOSTS_FILE)).await;
            let there = there.unwrap_or_default();
            let hosts = etc_files::with_others_lines(files.hosts, &before.hosts, &there);
            let mut texts = vec![(plan::HOSTS_FILE, hosts)];
            if files.resolv_conf != before.resolv_conf {
                texts.push((plan::RESOLV_CONF_FILE, files.resolv_conf));
            }
            self.put_files(&folder, texts).await
        };
        if let Err(error) = written.await {
            tracing::warn!(container = %self.container.id, error = crate::error::full_message(&error), "names of hosts are not up to date");
        }
    }

    /// The container has another name; whether networks know it by that.
    pub(super) fn renamed(&self) -> bool {
        let (memberships, attached) = {
            let status = self.status.borrow();
            (status.memberships.clone(), status.network.clone())
        };
        let Some(attached) = attached else {
            return false;
        };
        let mut names = BTreeMap::new();
        for endpoint in &attached.endpoints {
            if let (Ok(network), Some(membership)) = (
                self.deps.networks.find(endpoint.network.as_str()),
                memberships.get(&endpoint.network_name),
            ) {
                let called = memberships::names(&self.container, &network, &membership.settings);
                names.insert(network.id.clone(), called);
            }
        }
        self.deps
            .networks
            .backend()
            .rename(&self.container.id, &names);
        self.status.send_modify(|status| {
            if let Some(attached) = &mut status.network {
                for endpoint in &mut Arc::make_mut(attached).endpoints {
                    if let Some(names) = names.remove(&endpoint.network) {
                        endpoint.names = names;
                    }
                }
            }
        });
        true
    }
}
