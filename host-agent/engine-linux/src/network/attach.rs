//! Connecting a container: addresses, a namespace, links, names, the published ports; and the undoing of what was done when
//! a later step fails.

use super::link;
use super::namespace::{self, Namespace, Wiring, failed};
use super::netlink::Socket;
use super::networks::{on_parent, refusal};
use super::{Books, Chore, Entry, Inner, Kernel, leases_of, lock, mend};
use engine::id::{ContainerId, NetworkId};
use engine::networks::sysctls::LinkSysctl;
use engine::networks::{
    Attached, Attachment, Driver, Endpoint, EndpointRequest, Network, NetworkError,
};
use ipnet::IpNet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// Docker's option of an endpoint: the name of its link inside.
const INTERFACE_NAME: &str = "com.docker.network.endpoint.ifname";
/// How long an address on its way back is waited for; a namespace is removed in well under 0.1 s.
const RETURN_LIMIT: Duration = Duration::from_secs(2);

impl Inner {
    pub(super) fn attach(
        &self,
        attachment: &Attachment,
        chores: &mpsc::Sender<Chore>,
    ) -> Result<Attached, NetworkError> {
        let container = &attachment.container;
        {
            let mut books = lock(&self.books);
            if books.attached.contains_key(container) || !books.arriving.insert(container.clone()) {
                return Err(failed(
                    format!("connect container {}", container.short()),
                    "it is connected already",
                ));
            }
        }
        let outcome = self.lend_all(&attachment.endpoints).map(|endpoints| {
            let networks: Vec<NetworkId> = endpoints
                .iter()
                .map(|endpoint| endpoint.network.clone())
                .collect();
            let built = self.build(attachment, endpoints, chores);
            (networks, built)
        });
        let mut books = lock(&self.books);
        books.arriving.remove(container);
        let (networks, built) = outcome?;
        for id in &networks {
            if let Some(network) = books.networks.get_mut(id) {
                network.arriving -= 1;
            }
        }
        built.map(|entry| {
            let attached = entry.attached.clone();
            for endpoint in &attached.endpoints {
                self.directory.add(container, endpoint);
            }
            books.attached.insert(container.clone(), entry);
            attached
        })
    }

    /// All or nothing. The networks count the containers that arrive until the caller takes them off.
    fn lend_all(&self, requests: &[EndpointRequest]) -> Result<Vec<Endpoint>, NetworkError> {
        let mut endpoints = Vec::new();
        for (slot, request) in requests.iter().enumerate() {
            match self.lend(request, slot as u8) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    self.give_back(&leases_of(&endpoints));
                    let mut books = lock(&self.books);
                    for endpoint in &endpoints {
                        if let Some(network) = books.networks.get_mut(&endpoint.network) {
                            network.arriving -= 1;
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(endpoints)
    }

    /// Addresses for one place, which the network counts as arriving.
    pub(super) fn lend(
        &self,
        request: &EndpointRequest,
        slot: u8,
    ) -> Result<Endpoint, NetworkError> {
        let settings = &request.settings;
        let fixed_mac = match &settings.mac_address {
            Some(text) => Some(
                link::parse_mac(text).ok_or_else(|| NetworkError::Unsupported {
                    what: format!("the MAC address {text:?}"),
                    why: "it is not a unicast address like 02:42:ac:11:00:02".into(),
                })?,
            ),
            None => None,
        };
        let interface = match settings.driver_options.get(INTERFACE_NAME) {
            Some(name) if engine::networks::link::is_link_name(name) => name.clone(),
            Some(name) => {
                return Err(NetworkError::invalid(format!(
                    "invalid endpoint settings:\ninvalid value for {INTERFACE_NAME}: {name:?} is no name of a link"
                )));
            }
            None => format!("{}{slot}", request.network.link.interface_prefix),
        };
        let sysctls =
            LinkSysctl::asked_for(&settings.driver_options).map_err(NetworkError::invalid)?;
        let mut books = self.books_without_leaving(request);
        let Some(entry) = books.networks.get_mut(&request.network.id) else {
            return Err(NetworkError::NotFound {
                name: request.network.name.clone(),
            });
        };
        let network = entry.network.clone();
        let mut lend = |ipv4: bool, wanted: Option<IpAddr>| {
            entry
                .leases
                .lease(ipv4, wanted, &request.preferred)
                .map_err(|refusal| NetworkError::of_lease(refusal, &network, wanted))
        };
        let ipv4 = network
            .ipv4
            .then(|| lend(true, settings.ipv4.map(Into::into)))
            .transpose()?;
        let ipv6 = network
            .ipv6
            .then(|| lend(false, settings.ipv6.map(Into::into)))
            .transpose();
        let ipv6 = match ipv6 {
            Ok(ipv6) => ipv6,
            Err(error) => {
                if let Some(lease) = ipv4 {
                    entry.leases.give_back(lease.address);
                }
                return Err(error);
            }
        };
        let way_out = network.is_way_out();
        let of_address = match (ipv4, ipv6) {
            (Some(lease), _) => mac_for(lease.address),
            (None, Some(lease)) => mac_for(lease.address),
            (None, None) => link::mac_of(Ipv4Addr::UNSPECIFIED),
        };
        // In layer 3 there is nobody to ask for a gateway: what is sent by the link is on its way.
        let layer3 = network.driver == Driver::Ipvlan && network.link.mode.starts_with("l3");
        let gateway = |gateway: Option<IpAddr>| gateway.filter(|_| way_out && !layer3);
        entry.arriving += 1;
        Ok(Endpoint {
            network: network.id.clone(),
            network_name: network.name.clone(),
            endpoint_id: NetworkId::random().to_string(),
            mac_address: link::mac_text(fixed_mac.unwrap_or(of_address)),
            address: ipv4.map(|lease| lease.address),
            prefix_length: ipv4.map_or(0, |lease| lease.prefix_length),
            gateway: gateway(ipv4.and_then(|lease| lease.gateway)),
            ipv6_address: ipv6.map(|lease| lease.address),
            ipv6_prefix_length: ipv6.map_or(0, |lease| lease.prefix_length),
            ipv6_gateway: gateway(ipv6.and_then(|lease| lease.gateway)),
            interface,
            slot,
            gateway_priority: settings.gateway_priority,
            names: request.names.clone(),
            links: request.links.clone(),
            link_is_way: layer3 && way_out,
            link_local: settings.link_local.clone(),
            sysctls,
        })
    }

    /// The books, once no address that the request names is on its way back: a container that is started a moment after
    /// it was stopped gets the address it had.
    fn books_without_leaving(&self, request: &EndpointRequest) -> MutexGuard<'_, Books> {
        let settings = &request.settings;
        let named = settings.ipv4.map(IpAddr::from).into_iter();
        let named = named.chain(settings.ipv6.map(IpAddr::from));
        let places: Vec<(NetworkId, IpAddr)> = named
            .chain(request.preferred.iter().copied())
            .map(|address| (request.network.id.clone(), address))
            .collect();
        let is_leaving =
            |books: &mut Books| places.iter().any(|place| books.leaving.contains(place));
        let books = lock(&self.books);
        let (books, _) = self
            .returned
            .wait_timeout_while(books, RETURN_LIMIT, is_leaving)
            .unwrap_or_else(PoisonError::into_inner);
        books
    }

    pub(super) fn give_back(&self, leases: &[(NetworkId, IpAddr)]) {
        let mut books = lock(&self.books);
        for (network, address) in leases {
            books.leaving.remove(&(network.clone(), *address));
            if let Some(network) = books.networks.get_mut(network) {
                network.leases.give_back(*address);
            }
        }
        drop(books);
        self.returned.notify_all();
    }

    /// The links of these places that are on a link of the host.
    pub(super) fn inside_only(&self, endpoints: &[Endpoint]) -> Vec<String> {
        let books = lock(&self.books);
        let is_inside_only = |endpoint: &&Endpoint| {
            let entry = books.networks.get(&endpoint.network);
            entry.is_some_and(|entry| on_parent(&entry.network).is_some())
        };
        let links = endpoints.iter().filter(is_inside_only);
        links.map(|endpoint| endpoint.interface.clone()).collect()
    }

    /// Everything but the books. After an error nothing is left, or the janitor has been told.
    fn build(
        &self,
        attachment: &Attachment,
        endpoints: Vec<Endpoint>,
        chores: &mpsc::Sender<Chore>,
    ) -> Result<Entry, NetworkError> {
        let mut attached = Attached {
            namespace: Default::default(),
            endpoints,
            ports: Vec::new(),
            asked: attachment.ports.clone(),
            dns: attachment.dns.clone(),
            warnings: Vec::new(),
        };
        let taken = match self.take_ports(&mut attached) {
            Ok(taken) => taken,
            Err(error) => {
                self.give_back(&leases_of(&attached.endpoints));
                return Err(error);
            }
        };
        let namespace = match self.namespace_for(&attached.endpoints) {
            Ok(namespace) => namespace,
            Err(error) => {
                self.free(&taken);
                self.give_back(&leases_of(&attached.endpoints));
                return Err(error);
            }
        };
        attached.namespace.clone_from(&namespace.path);
        let made = self
            .join_all(attachment, &attached, namespace)
            .and_then(|()| self.serve_dns(&attached))
            .and_then(|dns| {
                let forwards = self.forwards(&attached);
                self.publish(&forwards)?;
                let anchor = mend::anchor(&attached.namespace, None)?;
                Ok((dns, forwards, anchor))
            });
        match made {
            Ok((dns, forwards, anchor)) => {
                let holding = self.hold_all(taken, &mut attached);
                Ok(Entry {
                    attached,
                    anchor: Some(anchor),
                    forwards,
                    holding,
                    dns,
                })
            }
            Err(error) => {
                self.free(&taken);
                // The addresses come back when the links are gone.
                let _ = chores.send(Chore::Remove {
                    leases: leases_of(&attached.endpoints),
                    inside: self.inside_only(&attached.endpoints),
                    namespace: attached.namespace,
                });
                Err(error)
            }
        }
    }

    /// A spare that is on the default bridge already where that is the first link, else one that is on none.
    fn namespace_for(&self, endpoints: &[Endpoint]) -> Result<Namespace, NetworkError> {
        let on_default = endpoints.first().is_some_and(|endpoint| {
            endpoint.network == self.predefined[0].id && endpoint.interface == "eth0"
        });
        if on_default {
            let mut kernel = lock(&self.kernel);
            self.check_link(&self.default_id(), &mut kernel)?;
        }
        let next = || {
            let mut spares = lock(&self.spares);
            match on_default {
                true => spares.wired.pop(),
                false => spares.bare.pop(),
            }
        };
        while let Some(spare) = next() {
            if namespace::is_there(&spare.path) {
                return Ok(spare);
            }
            tracing::warn!(path = %spare.path.display(), "a spare network namespace is gone");
            namespace::remove(&spare.path, &mut lock(&self.kernel).route);
        }
        let wiring = on_default.then(|| self.wiring());
        let mut kernel = lock(&self.kernel);
        let mut made = namespace::make(&self.namespaces, 1, wiring.as_ref(), &mut kernel.route)?;
        made.pop()
            .ok_or_else(|| failed("make a network namespace", "none was made"))
    }

    fn join_all(
        &self,
        attachment: &Attachment,
        attached: &Attached,
        mut namespace: Namespace,
    ) -> Result<(), NetworkError> {
        let path = namespace.path.clone();
        let mut wired = namespace.inside;
        for (request, endpoint) in attachment.endpoints.iter().zip(&attached.endpoints) {
            let socket = &mut namespace.socket;
            self.join(request, endpoint, &path, socket, wired.take())?;
        }
        if let [only] = attached.endpoints.as_slice()
            && only.network == self.predefined[0].id
            && only.ipv6_gateway.is_none()
            && only.interface == "eth0"
        {
            // Its default route is set already.
            return Ok(());
        }
        set_routes(attached, &mut namespace.socket)
    }

    /// Puts a link of a network into a namespace and gives it its addresses. `wired`: the index of the one that is there.
    pub(super) fn join(
        &self,
        request: &EndpointRequest,
        endpoint: &Endpoint,
        path: &Path,
        socket: &mut Socket,
        wired: Option<u32>,
    ) -> Result<(), NetworkError> {
        let network = &request.network;
        let index = match wired {
            Some(index) => index,
            None => {
                let mut kernel = lock(&self.kernel);
                self.check_link(&network.id, &mut kernel)?;
                self.make_link(network, endpoint, path, socket, &mut kernel)?
            }
        };
        self.configure(endpoint, network, index, path, socket)?;
        if wired.is_some()
            && let Some(gateway) = endpoint.gateway
        {
            socket
                .execute(vec![link::set_default_route(index, Some(gateway), true)])
                .map_err(|error| failed(format!("set the routes of {}", path.display()), error))?;
        }
        if let Some(IpAddr::V4(address)) = endpoint.address
            && request.settings.mac_address.is_some()
            && network.driver == Driver::Bridge
        {
            // The host may remember another hardware address for it; that there is nothing to forget is no error.
            let mut kernel = lock(&self.kernel);
            let forget = link::forget_neighbour(self.index_of(&network.id), address);
            let _ = kernel.route.execute(vec![forget]);
        }
        Ok(())
    }

    fn index_of(&self, network: &NetworkId) -> u32 {
        let books = lock(&self.books);
        books.networks.get(network).map_or(0, |entry| entry.index)
    }

    /// A place's link, down and without addresses; its index inside. The network's own link is known to be there.
    pub(super) fn make_link(
        &self,
        network: &Network,
        endpoint: &Endpoint,
        path: &Path,
        socket: &mut Socket,
        kernel: &mut Kernel,
    ) -> Result<u32, NetworkError> {
        let on = self.index_of(&network.id);
        let mtu = network.link.mtu.or(self.config.mtu);
        let name = &endpoint.interface;
        match on_parent(network) {
            Some(kind) => {
                let file = File::open(path)
                    .map_err(|error| failed(format!("open {}", path.display()), error))?;
                link::create_on_parent(&mut kernel.route, kind, on, mtu, name, file.as_fd())
                    .map_err(|error| refusal(network, error))?;
                namespace::index_of(socket, name)
            }
            None => {
                let wiring = Wiring {
                    bridge_index: on,
                    mtu,
                    isolated: !network.link.icc,
                };
                namespace::connect(
                    path,
                    socket,
                    &wiring,
                    name,
                    endpoint.slot,
                    &mut kernel.route,
                )
            }
        }
    }

    /// Gives a link its addresses, and sets it up.
    pub(super) fn configure(
        &self,
        endpoint: &Endpoint,
        network: &Network,
        index: u32,
        path: &Path,
        socket: &mut Socket,
    ) -> Result<(), NetworkError> {
        let step = || format!("configure the network of {}", path.display());
        let has_ipv6 =
            endpoint.ipv6_address.is_some() || endpoint.link_local.iter().any(IpAddr::is_ipv6);
        if has_ipv6 {
            namespace::enable_ipv6(path, &endpoint.interface)?;
        }
        let mut changes = Vec::new();
        // All ipvlan links have their parent's.
        if network.driver != Driver::Ipvlan
            && let Some(mac) = link::parse_mac(&endpoint.mac_address)
        {
            changes.push(link::set_mac(index, mac));
        }
        let own = [
            (endpoint.address, endpoint.prefix_length),
            (endpoint.ipv6_address, endpoint.ipv6_prefix_length),
        ];
        let own = own
            .into_iter()
            .filter_map(|(address, length)| Some((address?, length)));
        let local = endpoint.link_local.iter();
        let local = local.map(|address| (*address, if address.is_ipv4() { 16 } else { 64 }));
        for (address, length) in own.chain(local) {
            let net = IpNet::new(address, length).map_err(|error| failed(step(), error))?;
            changes.push(link::add_address(index, net));
        }
        if !endpoint.sysctls.is_empty() {
            // Before it is up, where it is not a spare's, but after an address: some need one of their family.
            socket
                .execute(std::mem::take(&mut changes))
                .map_err(|error| failed(step(), error))?;
            namespace::set_sysctls(path, endpoint)?;
        }
        changes.push(link::up(index));
        socket
            .execute(changes)
            .map_err(|error| failed(step(), error))
    }

    /// Takes off a container from those that arrive.
    pub(super) fn arrived(&self, network: &NetworkId) {
        if let Some(network) = lock(&self.books).networks.get_mut(network) {
            network.arriving -= 1;
        }
    }
}

fn mac_for(address: IpAddr) -> link::Mac {
    match address {
        IpAddr::V4(address) => link::mac_of(address),
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            link::mac_of(Ipv4Addr::new(a, b, c, d))
        }
    }
}

/// The default routes, as the container's networks have it now. `socket`: in its namespace.
pub(super) fn set_routes(attached: &Attached, socket: &mut Socket) -> Result<(), NetworkError> {
    let step = || format!("set the routes of {}", attached.namespace.display());
    let mut ways: Vec<&Endpoint> = attached.endpoints.iter().collect();
    ways.sort_by_key(|endpoint| {
        (
            std::cmp::Reverse(endpoint.gateway_priority),
            &endpoint.network_name,
        )
    });
    let mut changes = Vec::new();
    let mut removals = Vec::new();
    let way_of = |ipv4: bool| {
        ways.iter().find_map(|endpoint| {
            let (gateway, address) = match ipv4 {
                true => (endpoint.gateway, endpoint.address),
                false => (endpoint.ipv6_gateway, endpoint.ipv6_address),
            };
            let by_link = endpoint.link_is_way && address.is_some();
            (gateway.is_some() || by_link).then_some((*endpoint, gateway))
        })
    };
    for ipv4 in [true, false] {
        match way_of(ipv4) {
            Some((endpoint, gateway)) => {
                let index = namespace::index_of(socket, &endpoint.interface)?;
                if !ipv4 {
                    // Replacing would add a second one of another link.
                    removals.push(link::remove_default_route(false));
                }
                changes.push(link::set_default_route(index, gateway, ipv4));
            }
            None => removals.push(link::remove_default_route(ipv4)),
        }
    }
    // There may be none.
    let _ = socket
        .requests(removals)
        .map_err(|error| failed(step(), error))?;
    socket
        .execute(changes)
        .map_err(|error| failed(step(), error))
}

/// For messages about a container that has no namespace here.
pub(super) fn not_attached(container: &ContainerId) -> NetworkError {
    failed(
        format!("change the networks of container {}", container.short()),
        "it is not connected",
    )
}
