//! Containers' links as the books have them: what is missing is made again, what nobody knows goes. A crash of the agent
//! between the kernel and a record leaves the one or the other, and outsiders delete links.

use super::attach::set_routes;
use super::namespace::{self, failed};
use super::networks::on_parent;
use super::{Inner, Kernel, link, lock};
use engine::networks::{Attached, Driver, Endpoint, Network, NetworkError};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Kinds of links that are made inside of a namespace alone.
const INSIDE_ONLY: [&str; 2] = ["macvlan", "ipvlan"];

impl Inner {
    /// Makes the links of all containers ports of their bridges again: those that are stay, those that are gone are made
    /// anew, as they were.
    pub(super) fn mend_links(&self, kernel: &mut Kernel) {
        let places: Vec<(Attached, Endpoint, Arc<Network>, u32)> = {
            let books = lock(&self.books);
            let attached = books.attached.values().map(|entry| &entry.attached);
            let places = attached.flat_map(|attached| {
                let endpoints = attached.endpoints.iter();
                endpoints.filter_map(|endpoint| {
                    let entry = books.networks.get(&endpoint.network)?;
                    let is_bridge = entry.network.driver == Driver::Bridge;
                    is_bridge.then(|| {
                        let network = entry.network.clone();
                        (attached.clone(), endpoint.clone(), network, entry.index)
                    })
                })
            });
            places.collect()
        };
        let links = match link::list(&mut kernel.route) {
            Ok(links) => links,
            Err(error) => {
                tracing::warn!(%error, "links of containers could not be looked at");
                return;
            }
        };
        let masters: HashMap<&str, Option<u32>> = links
            .iter()
            .map(|link| (link.name.as_str(), link.master))
            .collect();
        for (attached, endpoint, network, bridge) in &places {
            let Some(outside) = namespace::outside_name(&attached.namespace, endpoint.slot) else {
                continue;
            };
            let mended = match masters.get(outside.as_str()) {
                Some(Some(master)) if master == bridge => continue,
                Some(_) => kernel
                    .route
                    .execute(vec![
                        link::set_master(&outside, *bridge),
                        link::up_as_port(&outside, !network.link.icc),
                    ])
                    .map_err(|error| failed(format!("connect the link {outside}"), error)),
                None => self.make_again(attached, endpoint, network, kernel),
            };
            match mended {
                Ok(()) => tracing::info!(link = outside, "a container is connected again"),
                Err(error) => tracing::warn!(
                    link = outside,
                    error = engine::error::full_message(&error),
                    "a container could not be connected again"
                ),
            }
        }
        self.mend_spares(&masters, kernel);
    }

    /// Spares follow their bridge; one that has lost its link is none any more.
    fn mend_spares(&self, masters: &HashMap<&str, Option<u32>>, kernel: &mut Kernel) {
        let wiring = self.wiring();
        let mut broken = Vec::new();
        {
            let mut spares = lock(&self.spares);
            let outside = |path: &Path| namespace::outside_name(path, 0);
            spares.wired.retain(|spare| {
                let name = outside(&spare.path);
                let master = name.as_deref().and_then(|name| masters.get(name));
                let (Some(name), Some(master)) = (&name, master) else {
                    broken.push(spare.path.clone());
                    return false;
                };
                if *master == Some(wiring.bridge_index) {
                    return true;
                }
                let changes = vec![
                    link::set_master(name, wiring.bridge_index),
                    link::up_as_port(name, wiring.isolated),
                ];
                let moved = kernel.route.execute(changes).is_ok();
                if !moved {
                    broken.push(spare.path.clone());
                }
                moved
            });
        }
        for path in broken {
            namespace::remove(&path, &mut kernel.route);
        }
    }

    /// The link of a place that has lost it, with its addresses and the container's routes.
    fn make_again(
        &self,
        attached: &Attached,
        endpoint: &Endpoint,
        network: &Network,
        kernel: &mut Kernel,
    ) -> Result<(), NetworkError> {
        let path = &attached.namespace;
        let mut socket = namespace::socket_in(path)?;
        // The end inside goes with the one outside; one that is there is somebody else's.
        let index = self.make_link(network, endpoint, path, &mut socket, kernel)?;
        self.configure(endpoint, network, index, path, &mut socket)?;
        set_routes(attached, &mut socket)
    }

    /// Links inside of containers' namespaces that no bridge of the host knows: of networks on a link of the host.
    pub(super) fn mend_inside(
        &self,
        attached: &Attached,
        kernel: &mut Kernel,
    ) -> Result<(), NetworkError> {
        let mut socket = namespace::socket_in(&attached.namespace)?;
        let links = link::list(&mut socket).map_err(|error| failed("list links", error))?;
        let known: BTreeSet<&str> = attached
            .endpoints
            .iter()
            .map(|endpoint| endpoint.interface.as_str())
            .collect();
        let mut changed = false;
        for stray in links.iter().filter(|link| {
            INSIDE_ONLY.contains(&link.kind.as_str()) && !known.contains(link.name.as_str())
        }) {
            changed = true;
            link::remove(&mut socket, &stray.name)
                .map_err(|error| failed(format!("remove the link {}", stray.name), error))?;
        }
        for endpoint in &attached.endpoints {
            let network = lock(&self.books)
                .networks
                .get(&endpoint.network)
                .map(|entry| entry.network.clone());
            let Some(network) = network.filter(|network| on_parent(network).is_some()) else {
                continue;
            };
            if links.iter().all(|link| link.name != endpoint.interface) {
                changed = true;
                let path = &attached.namespace;
                let index = self.make_link(&network, endpoint, path, &mut socket, kernel)?;
                self.configure(endpoint, &network, index, path, &mut socket)?;
            }
        }
        match changed {
            true => set_routes(attached, &mut socket),
            false => Ok(()),
        }
    }
}

/// A container's namespace, kept by an open file; bound to its path again where somebody took that away. `process`: one
/// inside, if the file alone does not lead there any more.
pub(super) fn anchor(path: &Path, process: Option<u32>) -> Result<File, NetworkError> {
    if !namespace::is_there(path) {
        let Some(process) = process else {
            return Err(failed(
                format!("reach the network namespace {}", path.display()),
                "it is gone",
            ));
        };
        namespace::bind_again(&PathBuf::from(format!("/proc/{process}/ns/net")), path)?;
        tracing::warn!(path = %path.display(), "a container's network namespace had lost its file; it has it again");
    }
    File::open(path).map_err(|error| failed(format!("open {}", path.display()), error))
}

/// As [`anchor`], for one that is held already.
pub(super) fn hold_on(path: &Path, anchor: Option<&File>) -> Result<(), NetworkError> {
    match anchor {
        Some(file) if !namespace::is_there(path) => {
            let source = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            namespace::bind_again(&source, path)?;
            tracing::warn!(path = %path.display(), "a container's network namespace had lost its file; it has it again");
            Ok(())
        }
        _ => Ok(()),
    }
}
