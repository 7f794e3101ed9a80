//! A new start of the agent: what runs is taken into the books, the rest is removed.

use super::attach::set_routes;
use super::dns;
use super::janitor::Keep;
use super::networks::on_parent;
use super::{Entry, Inner, lock, mend, namespace};
use engine::networks::{Attached, NetworkError, PublishedPort, Survivor};

impl Inner {
    pub(super) fn recover(&self, running: Vec<Survivor>) -> Result<(), NetworkError> {
        let mut entries = Vec::new();
        for survivor in running {
            let container = survivor.container.clone();
            entries.push((container, self.take_in(survivor)));
        }
        let mut kernel = lock(&self.kernel);
        let kept: Vec<Attached> = {
            let mut books = lock(&self.books);
            books.attached.extend(entries);
            let attached = books.attached.values();
            attached.map(|entry| entry.attached.clone()).collect()
        };
        self.install_firewall(&mut kernel)?;
        self.drop_unneeded_table(&mut kernel)?;
        // What a bridge has lost, or a crash left half done.
        self.check_link(&self.default_id(), &mut kernel)?;
        self.mend_links(&mut kernel);
        let has_inside_links = lock(&self.books)
            .networks
            .values()
            .any(|entry| on_parent(&entry.network).is_some());
        let mut keep = Keep::default();
        for attached in &kept {
            keep.add(
                &attached.namespace,
                attached.endpoints.iter().map(|endpoint| endpoint.slot),
            );
            if has_inside_links && let Err(error) = self.mend_inside(attached, &mut kernel) {
                tracing::warn!(
                    namespace = %attached.namespace.display(),
                    error = engine::error::full_message(&error),
                    "the links of a container could not be looked after"
                );
            }
        }
        // Our own spares, should there be any yet, are not leftovers; nor are those that are being made.
        let _making = lock(&self.making);
        let spares = lock(&self.spares);
        for spare in &spares.wired {
            keep.add(&spare.path, [0]);
        }
        for spare in &spares.bare {
            keep.add(&spare.path, []);
        }
        for link in self.remove_leftovers(&keep, &mut kernel.route)? {
            let Some((prefix, _)) = namespace::of_outside_name(&link) else {
                continue;
            };
            // The way out may have led by it.
            for attached in &kept {
                if namespace::begins_with(&attached.namespace, prefix) {
                    let mut socket = namespace::socket_in(&attached.namespace)?;
                    set_routes(attached, &mut socket)?;
                }
            }
        }
        Ok(())
    }

    /// The books' entry of a container that runs, with its ports and its DNS server open again.
    fn take_in(&self, survivor: Survivor) -> Entry {
        let Survivor {
            container,
            mut attached,
            process,
        } = survivor;
        let container = &container;
        if attached.asked.is_empty() {
            // The record of an agent that did not keep what was asked for.
            attached.asked = attached.ports.iter().map(PublishedPort::request).collect();
        }
        let anchor = match mend::anchor(&attached.namespace, process) {
            Ok(anchor) => Some(anchor),
            Err(error) => {
                tracing::error!(
                    container = container.short(),
                    error = engine::error::full_message(&error),
                    "the network namespace of a running container cannot be reached"
                );
                None
            }
        };
        {
            let mut books = lock(&self.books);
            for endpoint in &attached.endpoints {
                self.directory.remove(container, endpoint);
                self.directory.add(container, endpoint);
                if let Some(network) = books.networks.get_mut(&endpoint.network) {
                    for address in endpoint.addresses() {
                        network.leases.hold(address);
                    }
                }
            }
        }
        let mut entry = Entry {
            forwards: self.forwards(&attached),
            attached,
            anchor,
            holding: Vec::new(),
            dns: None,
        };
        for published in &entry.attached.ports {
            let held = match self.ports.retake(published, self.config.userland_proxy) {
                Ok(taken) => self.hold(taken, &entry.attached, &mut entry.holding),
                Err(error) => Err(engine::error::full_message(&error)),
            };
            if let Err(warning) = held {
                tracing::warn!(
                    container = container.short(),
                    warning,
                    "a published port of a running container is served by the firewall alone"
                );
            }
        }
        match self.serve_dns(&entry.attached) {
            Ok(server) => entry.dns = server,
            Err(error) => tracing::warn!(
                container = container.short(),
                error = engine::error::full_message(&error),
                "a running container has no DNS server"
            ),
        }
        entry
    }

    /// The DNS server of a container, if it is in a network that has names.
    pub(super) fn serve_dns(
        &self,
        attached: &Attached,
    ) -> Result<Option<dns::Server>, NetworkError> {
        let named = attached
            .endpoints
            .iter()
            .any(|endpoint| !endpoint.names.is_empty());
        if !named {
            return Ok(None);
        }
        dns::Server::start(
            &attached.namespace,
            self.directory.clone(),
            self.upstream.clone(),
            view(attached),
        )
        .map(Some)
    }
}

/// What a container's DNS server is to know.
pub(super) fn view(attached: &Attached) -> dns::View {
    let way_out = attached.way_out().map(|endpoint| &endpoint.network);
    let mut endpoints: Vec<_> = attached
        .endpoints
        .iter()
        .filter(|endpoint| !endpoint.names.is_empty())
        .collect();
    endpoints.sort_by_key(|endpoint| Some(&endpoint.network) != way_out);
    dns::View {
        networks: endpoints
            .iter()
            .map(|endpoint| (endpoint.network.clone(), endpoint.network_name.clone()))
            .collect(),
        links: endpoints
            .iter()
            .flat_map(|endpoint| endpoint.links.clone())
            .collect(),
        servers: attached.dns.clone(),
        outside: way_out.is_some(),
    }
}
