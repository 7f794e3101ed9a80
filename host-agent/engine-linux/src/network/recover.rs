//! A new start of the agent: what runs is taken into the books, the rest is removed.

use super::dns;
use super::netlink::Socket;
use super::{Entry, Inner, lock};
use engine::id::ContainerId;
use engine::networks::{Attached, NetworkError};
use std::collections::BTreeSet;
use std::ffi::OsString;

impl Inner {
    pub(super) fn recover(
        &self,
        running: Vec<(ContainerId, Attached)>,
    ) -> Result<(), NetworkError> {
        let mut keep: BTreeSet<OsString> = BTreeSet::new();
        let mut entries = Vec::new();
        for (container, attached) in running {
            keep.extend(attached.namespace.file_name().map(ToOwned::to_owned));
            let entry = self.take_in(&container, attached);
            entries.push((container, entry));
        }
        let mut kernel = lock(&self.kernel);
        let kept = {
            let mut books = lock(&self.books);
            books.attached.extend(entries);
            books.attached.keys().cloned().collect::<Vec<_>>()
        };
        self.install_firewall(&mut kernel)?;
        let mut ids: BTreeSet<_> = [self.default_id()].into();
        {
            let books = lock(&self.books);
            for entry in kept
                .iter()
                .filter_map(|container| books.attached.get(container))
            {
                keep.extend(entry.attached.namespace.file_name().map(ToOwned::to_owned));
                ids.extend(
                    entry
                        .attached
                        .endpoints
                        .iter()
                        .map(|endpoint| endpoint.network.clone()),
                );
            }
        }
        // A bridge that was deleted while nobody looked has lost its ports.
        for id in ids {
            self.rejoin(&id, &mut kernel);
        }
        // Our own spares, should there be any yet, are not leftovers; nor are those that are being made.
        let _making = lock(&self.making);
        let spares = lock(&self.spares);
        for spare in spares.wired.iter().chain(&spares.bare) {
            keep.extend(spare.path.file_name().map(ToOwned::to_owned));
        }
        let route: &mut Socket = &mut kernel.route;
        self.remove_leftovers(&keep, route)
    }

    /// The books' entry of a container that runs, with its ports and its DNS server open again.
    fn take_in(&self, container: &ContainerId, attached: Attached) -> Entry {
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
