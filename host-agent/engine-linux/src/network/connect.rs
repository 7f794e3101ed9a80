//! Networks of a container that runs: one more, one less.

use super::attach::{not_attached, set_routes};
use super::namespace::{self, failed};
use super::recover::view;
use super::{Inner, leases_of, link, lock, mend};
use engine::id::{ContainerId, NetworkId};
use engine::networks::{Attached, EndpointRequest, NetworkError};

impl Inner {
    pub(super) fn connect(
        &self,
        container: &ContainerId,
        request: &EndpointRequest,
    ) -> Result<Attached, NetworkError> {
        let mut attached = self.attached(container)?;
        // The first number that no link has: others may have been taken out.
        let slot = (0..u8::MAX)
            .find(|slot| {
                attached
                    .endpoints
                    .iter()
                    .all(|endpoint| endpoint.slot != *slot)
            })
            .ok_or_else(|| failed("connect a container", "it has too many links"))?;
        let endpoint = self.lend(request, slot)?;
        let path = attached.namespace.clone();
        attached.endpoints.push(endpoint.clone());
        // The container runs: it may send as soon as its link is up.
        lock(&self.books)
            .joining
            .push((path.clone(), endpoint.clone()));
        self.guard(std::slice::from_ref(&endpoint));
        let made = namespace::socket_in(&path).and_then(|mut socket| {
            self.join(request, &endpoint, &path, &mut socket, None)
                .and_then(|()| set_routes(&attached, &mut socket))
                .and_then(|()| self.settle(container, attached.clone()))
        });
        let id = &endpoint.endpoint_id;
        let mut books = lock(&self.books);
        books
            .joining
            .retain(|(_, joining)| joining.endpoint_id != *id);
        drop(books);
        self.arrived(&endpoint.network);
        match made {
            Ok(attached) => {
                self.directory.add(container, &endpoint);
                Ok(attached)
            }
            Err(error) => {
                self.remove_link(&attached, &endpoint);
                self.guard(std::slice::from_ref(&endpoint));
                self.give_back(&leases_of(std::slice::from_ref(&endpoint)));
                attached.endpoints.pop();
                // The first error is the one to tell.
                let _ = namespace::socket_in(&path)
                    .and_then(|mut socket| set_routes(&attached, &mut socket));
                Err(error)
            }
        }
    }

    pub(super) fn disconnect(
        &self,
        container: &ContainerId,
        network: &NetworkId,
    ) -> Result<Attached, NetworkError> {
        let mut attached = self.attached(container)?;
        let place = attached
            .endpoints
            .iter()
            .position(|endpoint| endpoint.network == *network)
            .ok_or_else(|| not_attached(container))?;
        let endpoint = attached.endpoints.remove(place);
        // Out of the books, whatever is left of it: the link goes with the namespace at the latest.
        let attached = self.settle(container, attached)?;
        self.directory.remove(container, &endpoint);
        self.remove_link(&attached, &endpoint);
        self.guard(std::slice::from_ref(&endpoint));
        self.give_back(&leases_of(std::slice::from_ref(&endpoint)));
        let mut socket = namespace::socket_in(&attached.namespace)?;
        set_routes(&attached, &mut socket)?;
        Ok(attached)
    }

    fn attached(&self, container: &ContainerId) -> Result<Attached, NetworkError> {
        let books = lock(&self.books);
        let entry = books.attached.get(container);
        let entry = entry.ok_or_else(|| not_attached(container))?;
        mend::hold_on(&entry.attached.namespace, entry.anchor.as_ref())?;
        Ok(entry.attached.clone())
    }

    /// Brings books, ports and DNS in line with the networks a container has now, which are returned with its ports.
    fn settle(
        &self,
        container: &ContainerId,
        mut attached: Attached,
    ) -> Result<Attached, NetworkError> {
        let has_dns = {
            let books = lock(&self.books);
            let entry = books.attached.get(container);
            entry.is_some_and(|entry| entry.dns.is_some())
        };
        let server = match has_dns {
            true => None,
            false => self.serve_dns(&attached)?,
        };
        self.publish_again(container, &mut attached)?;
        let mut books = lock(&self.books);
        let entry = books.attached.get_mut(container);
        let entry = entry.ok_or_else(|| not_attached(container))?;
        match &entry.dns {
            Some(server) => server.update(view(&attached)),
            None => entry.dns = server,
        }
        entry.attached = attached.clone();
        Ok(attached)
    }

    fn remove_link(&self, attached: &Attached, endpoint: &engine::networks::Endpoint) {
        // From inside: there every kind of link has a name.
        let removed = namespace::socket_in(&attached.namespace).and_then(|mut socket| {
            link::remove(&mut socket, &endpoint.interface)
                .map_err(|error| failed(format!("remove the link {}", endpoint.interface), error))
        });
        if let Err(error) = removed {
            tracing::warn!(
                namespace = %attached.namespace.display(),
                error = engine::error::full_message(&error),
                "a link of a container is left over"
            );
        }
    }
}
