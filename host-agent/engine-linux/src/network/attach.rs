//! Connecting a container: an address, a namespace, the published ports; and the undoing of what was done when a later step
//! fails.

use super::link;
use super::namespace::{self, Namespace, failed};
use super::nftables::Forward;
use super::ports::Taken;
use super::proxy::Proxy;
use super::{Chore, Entry, Holding, Inner, Kernel, conntrack, forward, lock, v4};
use engine::id::NetworkId;
use engine::networks::{Attached, Attachment, Endpoint, NetworkError, NetworkMode, Protocol};
use ipnet::Ipv4Net;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;

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
        let outcome = match &attachment.mode {
            NetworkMode::Bridge => self.attach_to_bridge(attachment, chores),
            NetworkMode::None => self.attach_to_none(attachment),
            NetworkMode::Named(name) => Err(NetworkError::NotFound { name: name.clone() }),
            NetworkMode::Host | NetworkMode::Container(_) => Err(NetworkError::Unsupported {
                what: "a network namespace of its own".into(),
                why: "the container shares another's".into(),
            }),
        };
        let mut books = lock(&self.books);
        books.arriving.remove(container);
        outcome.map(|entry| {
            let attached = entry.attached.clone();
            books.attached.insert(container.clone(), entry);
            attached
        })
    }

    fn attach_to_none(&self, attachment: &Attachment) -> Result<Entry, NetworkError> {
        let spare = lock(&self.spares).bare.pop();
        let namespace = match spare {
            Some(namespace) => namespace,
            None => {
                let mut kernel = lock(&self.kernel);
                one(namespace::make(
                    &self.namespaces,
                    1,
                    None,
                    &mut kernel.route,
                )?)?
            }
        };
        let mut warnings = Vec::new();
        if !attachment.ports.is_empty() {
            warnings.push("Published ports are discarded when using network mode none".to_owned());
        }
        Ok(Entry {
            attached: Attached {
                namespace: namespace.path,
                endpoint: None,
                ports: Vec::new(),
                warnings,
            },
            forwards: Vec::new(),
            holding: Vec::new(),
        })
    }

    fn attach_to_bridge(
        &self,
        attachment: &Attachment,
        chores: &mpsc::Sender<Chore>,
    ) -> Result<Entry, NetworkError> {
        // Checks first, then what can be undone by dropping, then the kernel.
        let fixed_mac = match &attachment.mac_address {
            Some(text) => Some(
                link::parse_mac(text).ok_or_else(|| NetworkError::Unsupported {
                    what: format!("the MAC address {text:?}"),
                    why: "it is not a unicast address like 02:42:ac:11:00:02".into(),
                })?,
            ),
            None => None,
        };
        let taken = self
            .ports
            .take(&attachment.ports, self.config.userland_proxy)?;
        let address = lock(&self.books).leases.lease();
        let Some(address) = address else {
            self.free(&taken);
            return Err(NetworkError::NoAddress {
                network: self.bridge.name.clone(),
            });
        };
        let give_back = |taken: &[Taken]| {
            self.free(taken);
            lock(&self.books).leases.give_back(address);
        };

        let spare = lock(&self.spares).wired.pop();
        let namespace = match spare {
            Some(namespace) => Ok(namespace),
            None => {
                let mut kernel = lock(&self.kernel);
                namespace::make(&self.namespaces, 1, Some(&self.wiring()), &mut kernel.route)
                    .and_then(one)
            }
        };
        let namespace = match namespace {
            Ok(namespace) => namespace,
            Err(error) => {
                give_back(&taken);
                return Err(error);
            }
        };
        let path = namespace.path.clone();
        let configured = self
            .configure(namespace, address, fixed_mac)
            .and_then(|mac| {
                self.publish(&taken, address)
                    .map(|forwards| (mac, forwards))
            });
        let (mac, forwards) = match configured {
            Ok(done) => done,
            Err(error) => {
                self.free(&taken);
                // The address comes back when the links are gone.
                let _ = chores.send(Chore::Remove {
                    namespace: path,
                    lease: Some(address),
                });
                return Err(error);
            }
        };

        let mut ports = Vec::new();
        let mut holding = Vec::new();
        let mut warnings = Vec::new();
        for one in taken {
            ports.push(one.published.clone());
            if let Err(warning) = self.hold(one, address, &mut holding) {
                warnings.push(warning);
            }
        }
        Ok(Entry {
            attached: Attached {
                namespace: path,
                endpoint: Some(Endpoint {
                    network: self.bridge.id.clone(),
                    network_name: self.bridge.name.clone(),
                    endpoint_id: NetworkId::random().to_string(),
                    mac_address: link::mac_text(mac),
                    address: address.into(),
                    prefix_length: self.gateway.prefix_len(),
                    gateway: Some(self.gateway.addr().into()),
                    ipv6_address: None,
                    ipv6_prefix_length: 0,
                    ipv6_gateway: None,
                }),
                ports,
                warnings,
            },
            forwards,
            holding,
        })
    }

    fn free(&self, taken: &[Taken]) {
        for one in taken {
            self.ports.give_back(&one.published);
        }
    }

    /// Gives the link inside its addresses and the way out.
    fn configure(
        &self,
        mut namespace: Namespace,
        address: Ipv4Addr,
        fixed_mac: Option<link::Mac>,
    ) -> Result<link::Mac, NetworkError> {
        let step = || format!("configure the network of {}", namespace.path.display());
        let inside = namespace
            .inside
            .ok_or_else(|| failed(step(), "it has no link"))?;
        let net = Ipv4Net::new(address, self.gateway.prefix_len())
            .map_err(|error| failed(step(), error))?;
        let mac = fixed_mac.unwrap_or_else(|| link::mac_of(address));
        namespace
            .socket
            .execute(vec![
                link::set_mac(inside, mac),
                link::add_address(inside, net),
                link::add_default_route(inside, self.gateway.addr()),
            ])
            .map_err(|error| failed(step(), error))?;
        if fixed_mac.is_some() {
            // The host may remember another hardware address for it; that there is nothing to forget is no error.
            let forget = link::forget_neighbour(self.bridge_index, address);
            let _ = lock(&self.kernel).route.execute(vec![forget]);
        }
        Ok(mac)
    }

    pub(super) fn publish(
        &self,
        taken: &[Taken],
        address: Ipv4Addr,
    ) -> Result<Vec<Forward>, NetworkError> {
        let forwards: Vec<Forward> = taken
            .iter()
            .filter_map(|one| forward(&one.published, address))
            .collect();
        if !forwards.is_empty() {
            let mut kernel = lock(&self.kernel);
            self.table
                .add(&mut kernel.netfilter, &forwards)
                .map_err(|error| failed("publish ports in the firewall", error))?;
            forget_flows(&mut kernel, &forwards);
        }
        Ok(forwards)
    }

    pub(super) fn close(&self, forwards: &[Forward]) -> Result<(), NetworkError> {
        let mut kernel = lock(&self.kernel);
        self.table
            .remove(&mut kernel.netfilter, forwards)
            .map_err(|error| failed("take published ports out of the firewall", error))?;
        forget_flows(&mut kernel, forwards);
        Ok(())
    }

    /// Keeps a port's socket, and serves it. The error is a warning for people: the firewall serves the port anyway.
    pub(super) fn hold(
        &self,
        taken: Taken,
        container: Ipv4Addr,
        holding: &mut Vec<Holding>,
    ) -> Result<(), String> {
        let Some(socket) = taken.socket else {
            return Ok(());
        };
        let published = taken.published;
        if !self.config.userland_proxy || published.protocol == Protocol::Sctp {
            holding.push(Holding::Bound(socket));
            return Ok(());
        }
        let target = SocketAddr::new(container.into(), published.container_port);
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

fn one(mut made: Vec<Namespace>) -> Result<Namespace, NetworkError> {
    made.pop()
        .ok_or_else(|| failed("make a network namespace", "none was made"))
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
        let host = addresses
            .into_iter()
            .filter_map(|address| v4(address.net.addr()))
            .collect();
        conntrack::forget(&mut kernel.netfilter, forwards, &host)
    });
    if let Err(error) = outcome {
        tracing::debug!(%error, "cannot forget the flows to a UDP port");
    }
}
