//! Ports of a container: which are taken is decided by the network that leads out, and changes with it. The firewall leads
//! packets to them, and the proxy what the firewall does not redirect.

use super::attach::not_attached;
use super::namespace::failed;
use super::nftables::Forward;
use super::ports::{Serve, Taken, Way};
use super::proxy::Proxy;
use super::{Holding, Inner, Kernel, conntrack, link, lock};
use engine::id::ContainerId;
use engine::networks::link::GatewayMode;
use engine::networks::{
    Attached, Driver, Endpoint, NetworkError, PortRequest, Protocol, PublishedPort,
};
use std::net::{IpAddr, SocketAddr};

/// Where a container's ports are to be, and how they are served.
#[derive(PartialEq)]
struct Publication {
    wishes: Vec<PortRequest>,
    serve: Serve,
}

impl Inner {
    /// `None`: nothing is asked for, or nobody can come in. That is by a bridge that leads out alone.
    fn publication(&self, attached: &Attached) -> Option<Publication> {
        let mut wishes = attached.asked.clone();
        let way_out = attached.way_out().filter(|_| !wishes.is_empty())?;
        let network = lock(&self.books)
            .networks
            .get(&way_out.network)
            .map(|entry| entry.network.clone())
            .filter(|network| network.driver == Driver::Bridge)?;
        let link = &network.link;
        let binding = link
            .host_binding
            .filter(|address| !address.is_unspecified());
        for wish in &mut wishes {
            wish.host_address = wish.host_address.or(binding);
        }
        let has_ipv6 = way_out.ipv6_address.is_some();
        let modes = (link.gateway_mode_ipv4, link.gateway_mode_ipv6);
        let has_sctp = wishes.iter().any(|wish| wish.protocol == Protocol::Sctp);
        Some(Publication {
            wishes,
            serve: Serve {
                proxy: self.config.userland_proxy,
                sctp_ipv6: has_sctp && has_ipv6 && self.config.firewall_ipv6,
                ipv4: way(way_out.address.is_some(), modes.0, modes.1),
                ipv6: way(has_ipv6, modes.1, modes.0),
            },
        })
    }

    /// Takes the ports that a container asks for, if somebody can come in, and lists them. They are not served yet.
    pub(super) fn take_ports(&self, attached: &mut Attached) -> Result<Vec<Taken>, NetworkError> {
        attached.ports.clear();
        attached.warnings.clear();
        let taken = match self.publication(attached) {
            Some(publication) => self.ports.take(&publication.wishes, publication.serve)?,
            None => {
                attached.warnings.extend(why_none(attached));
                Vec::new()
            }
        };
        attached.ports = taken.iter().map(|one| one.published.clone()).collect();
        Ok(taken)
    }

    /// Brings a container's ports in line with the networks it has now: `attached`, which then lists them.
    pub(super) fn publish_again(
        &self,
        container: &ContainerId,
        attached: &mut Attached,
    ) -> Result<(), NetworkError> {
        let before = {
            let books = lock(&self.books);
            let entry = books.attached.get(container);
            entry.map(|entry| entry.attached.clone())
        };
        let before = before.ok_or_else(|| not_attached(container))?;
        let publication = self.publication(&before);
        if publication == self.publication(attached) {
            return self.lead_on(container, attached);
        }
        self.unpublish(container)?;
        // A network that brings the way in is refused, as in Docker, where somebody else has the ports; nothing has been
        // given up for it then.
        let refuses = publication.is_none() && attached.endpoints.len() > before.endpoints.len();
        let taken = match self.take_ports(attached) {
            Err(error) if !refuses => {
                attached.warnings.push(engine::error::full_message(&error));
                Vec::new()
            }
            taken => taken?,
        };
        let forwards = self.forwards(attached);
        if let Err(error) = self.publish(&forwards) {
            self.free(&taken);
            return Err(error);
        }
        let holding = self.hold_all(taken, attached);
        if let Some(entry) = lock(&self.books).attached.get_mut(container) {
            (entry.forwards, entry.holding) = (forwards, holding);
        }
        Ok(())
    }

    /// The same ports lead to where the container is reached now.
    fn lead_on(&self, container: &ContainerId, attached: &Attached) -> Result<(), NetworkError> {
        let after = self.forwards(attached);
        let before = {
            let books = lock(&self.books);
            let entry = books.attached.get(container);
            entry.map_or(Vec::new(), |entry| entry.forwards.clone())
        };
        if before != after {
            self.close(&before)?;
            self.publish(&after)?;
        }
        let mut books = lock(&self.books);
        let Some(entry) = books.attached.get_mut(container) else {
            return Ok(());
        };
        if let Some(address) = attached.way_out().and_then(proxied) {
            for holding in &entry.holding {
                if let Holding::Proxy(proxy) = holding {
                    proxy.lead_to(address);
                }
            }
        }
        entry.forwards = after;
        Ok(())
    }

    /// Gives all ports of a container up. Not for a thread of the runtime: it waits for the proxy.
    fn unpublish(&self, container: &ContainerId) -> Result<(), NetworkError> {
        let (forwards, holding, ports) = match lock(&self.books).attached.get_mut(container) {
            Some(entry) => (
                std::mem::take(&mut entry.forwards),
                std::mem::take(&mut entry.holding),
                std::mem::take(&mut entry.attached.ports),
            ),
            None => return Ok(()),
        };
        tokio::runtime::Handle::current().block_on(self.release(holding, &ports));
        self.close(&forwards)
    }

    /// When this is done, the ports are free.
    pub(super) async fn release(&self, holding: Vec<Holding>, ports: &[PublishedPort]) {
        for holding in holding {
            match holding {
                Holding::Proxy(proxy) => proxy.stop().await,
                Holding::Bound(socket) => drop(socket),
            }
        }
        for published in ports {
            self.ports.give_back(published);
        }
    }

    /// As [`Inner::release`], for what nobody serves yet.
    pub(super) fn free(&self, taken: &[Taken]) {
        for one in taken {
            self.ports.give_back(&one.published);
        }
    }

    /// What the firewall does for a container's ports. A port on an IPv6 address of a container without one is the proxy's
    /// alone.
    pub(super) fn forwards(&self, attached: &Attached) -> Vec<Forward> {
        let Some(way_out) = attached.way_out() else {
            return Vec::new();
        };
        let forward = |port: &PublishedPort| {
            Some(Forward {
                host_address: port.host_address,
                host_port: port.host_port,
                protocol: port.protocol,
                container_address: match port.host_address {
                    IpAddr::V4(_) => way_out.address?,
                    IpAddr::V6(_) => way_out.ipv6_address?,
                },
                container_port: port.container_port,
                routed: port.host_port == 0,
            })
        };
        attached.ports.iter().filter_map(forward).collect()
    }

    pub(super) fn publish(&self, forwards: &[Forward]) -> Result<(), NetworkError> {
        let mut kernel = lock(&self.kernel);
        self.repair_firewall(&mut kernel)?;
        if forwards.is_empty() {
            return Ok(());
        }
        for table in self.tables(&kernel) {
            table
                .add(&mut kernel.netfilter, forwards)
                .map_err(|error| failed("publish ports in the firewall", error))?;
        }
        forget_flows(&mut kernel, forwards);
        Ok(())
    }

    pub(super) fn close(&self, forwards: &[Forward]) -> Result<(), NetworkError> {
        let mut kernel = lock(&self.kernel);
        for table in self.tables(&kernel) {
            table
                .remove(&mut kernel.netfilter, forwards)
                .map_err(|error| failed("take published ports out of the firewall", error))?;
        }
        forget_flows(&mut kernel, forwards);
        Ok(())
    }

    /// Serves the ports. What keeps them ours; what cannot be served is a warning.
    pub(super) fn hold_all(&self, taken: Vec<Taken>, attached: &mut Attached) -> Vec<Holding> {
        let mut all = Vec::new();
        for one in taken {
            if let Err(warning) = self.hold(one, attached, &mut all) {
                attached.warnings.push(warning);
            }
        }
        all
    }

    /// Keeps a port's socket, and serves it. The error is a warning for people: the firewall serves the port anyway.
    pub(super) fn hold(
        &self,
        taken: Taken,
        attached: &Attached,
        holding: &mut Vec<Holding>,
    ) -> Result<(), String> {
        let published = taken.published;
        if published.host_port == 0 {
            return Ok(());
        }
        let firewall = match published.host_address {
            IpAddr::V4(_) => self.config.firewall,
            IpAddr::V6(_) => self.config.firewall_ipv6,
        };
        if published.protocol == Protocol::Sctp && !firewall {
            return Err(format!(
                "port {}/sctp is not reachable: without firewall rules (--iptables=false) only TCP and UDP ports are served",
                published.host_port
            ));
        }
        let Some(socket) = taken.socket else {
            return Ok(());
        };
        let Some(target) = attached.way_out().and_then(proxied) else {
            holding.push(Holding::Bound(socket));
            return Ok(());
        };
        if !self.config.userland_proxy || published.protocol == Protocol::Sctp {
            holding.push(Holding::Bound(socket));
            return Ok(());
        }
        let target = SocketAddr::new(target, published.container_port);
        match Proxy::start(socket, published.protocol, target) {
            Ok(proxy) => {
                holding.push(Holding::Proxy(proxy));
                Ok(())
            }
            Err(error) => Err(format!(
                "port {} is not reachable on loopback: {error}",
                SocketAddr::new(published.host_address, published.host_port)
            )),
        }
    }
}

/// How one comes to a container by a family of the host's addresses. Where it `has` no address of that family, its other one
/// is meant, and how that is reached counts.
fn way(has: bool, mode: GatewayMode, other: GatewayMode) -> Way {
    match (has, mode, other) {
        (true, GatewayMode::Routed, _) => Way::Routed,
        (false, _, GatewayMode::Routed) => Way::Closed,
        _ => Way::Taken,
    }
}

/// Why ports that are asked for are not published.
fn why_none(attached: &Attached) -> Option<String> {
    let network = attached.way_out().or(attached.endpoints.first());
    let why = match network {
        None => "the container is in no network".to_owned(),
        Some(endpoint) => {
            let name = &endpoint.network_name;
            format!("network {name} has no way in from the host")
        }
    };
    (!attached.asked.is_empty()).then(|| format!("Ports are not published: {why}"))
}

/// Where the proxy reaches a container.
pub(super) fn proxied(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses().next()
}

/// See [`conntrack`]. Only a help for UDP: where the kernel cannot list flows, they end by themselves.
fn forget_flows(kernel: &mut Kernel, forwards: &[Forward]) {
    if !forwards
        .iter()
        .any(|forward| forward.protocol == Protocol::Udp)
    {
        return;
    }
    let outcome = link::addresses(&mut kernel.route).and_then(|addresses| {
        let host = addresses.into_iter().map(|address| address.net.addr());
        let host = host.collect();
        conntrack::forget(&mut kernel.netfilter, forwards, &host)
    });
    if let Err(error) = outcome {
        tracing::debug!(%error, "cannot forget the flows to a UDP port");
    }
}
