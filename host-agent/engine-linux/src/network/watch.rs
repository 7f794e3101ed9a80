//! Looks out for others who take away what is ours: a firewall that is loaded anew flushes our tables or their rules,
//! somebody deletes a bridge. The kernel tells; nothing is done and no time is spent until then.

use super::netlink::{Socket, attributes};
use super::nftables::{DELCHAIN, DELRULE, DELTABLE};
use super::{Inner, beside, link, lock, namespace};
use engine::id::NetworkId;
use engine::networks::Driver;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

const NF_TABLES: u16 = 10;
/// Whoever takes something away often puts something of his own there next: his work is not interrupted.
const PATIENCE: Duration = Duration::from_millis(200);

/// A thread that watches while this lives.
pub(super) struct Watch {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(inner: Arc<Inner>) -> io::Result<Watch> {
        let (mut links, mut tables) = (Socket::of_links()?, Socket::of_tables()?);
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let thread = std::thread::Builder::new()
            .name("network-watch".into())
            .spawn({
                let stop = stop.clone();
                move || {
                    while let Some(missed) = wait(&stop, &mut links, &mut tables, &inner) {
                        if missed {
                            std::thread::sleep(PATIENCE);
                            inner.repair();
                        }
                    }
                }
            })?;
        Ok(Watch {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Until something is told; whether it may have been ours. `None`: the end.
fn wait(stop: &EventFd, links: &mut Socket, tables: &mut Socket, inner: &Inner) -> Option<bool> {
    let readable = {
        let mut all = [stop.as_fd(), links.as_fd(), tables.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut all, PollTimeout::NONE) {
            Err(Errno::EINTR) => return Some(false),
            Err(error) => {
                tracing::warn!(%error, "nobody watches bridges and rules any more");
                return None;
            }
            Ok(_) => all.map(|one| one.any().unwrap_or(false)),
        }
    };
    if readable[0] {
        return None;
    }
    let mut missed = false;
    if readable[1] {
        let told = links.told(|told| {
            if told.kind == link::REMOVED
                && let Some(link) = link::parse_link(told.payload)
            {
                missed |= inner.owns_bridge(&link) || inner.owns_port(&link.name);
            }
        });
        // Told too much at once: it may have been among what was left out.
        missed |= told.is_err();
    }
    if readable[2] {
        let told = tables.told(|told| {
            // What we change is as we want it.
            if told.author == inner.author || told.kind >> 8 != NF_TABLES {
                return;
            }
            let kind = told.kind & 0xff;
            missed |= matches!(kind, DELTABLE | DELCHAIN | DELRULE)
                && name_of(told.payload) == Some(inner.table.as_bytes());
            // Another firewall may have begun to drop, or have lost our exceptions.
            missed |= inner.config.firewall && beside::is_concerned(kind, told.payload);
        });
        missed |= told.is_err();
    }
    Some(missed)
}

/// A table's name, without the closing zero.
fn name_of(payload: &[u8]) -> Option<&[u8]> {
    let mut all = attributes(payload.get(4..)?);
    let (_, name) = all.find(|(kind, _)| *kind == 1)?;
    name.strip_suffix(&[0])
}

impl Inner {
    fn owns_bridge(&self, link: &link::Link) -> bool {
        let books = lock(&self.books);
        let mut networks = books.networks.values();
        networks.any(|entry| entry.index == link.index)
    }

    /// Whether the link is the host's end of a container's.
    fn owns_port(&self, name: &str) -> bool {
        let Some((prefix, slot)) = namespace::of_outside_name(name) else {
            return false;
        };
        let books = lock(&self.books);
        let mut attached = books.attached.values().map(|entry| &entry.attached);
        attached.any(|attached| {
            namespace::begins_with(&attached.namespace, prefix)
                && attached
                    .endpoints
                    .iter()
                    .any(|endpoint| endpoint.slot == slot)
        })
    }

    /// Makes again what is gone.
    fn repair(&self) {
        let mut kernel = lock(&self.kernel);
        if let Err(error) = self.repair_rules(&mut kernel) {
            tracing::error!(
                error = engine::error::full_message(&error),
                "the firewall's rules are not as they should be and could not be made again"
            );
        }
        let networks: Vec<_> = {
            let books = lock(&self.books);
            let entries = books.networks.iter();
            let of_entry = |(id, entry): (&NetworkId, &super::networks::Entry)| {
                (id.clone(), entry.network.clone())
            };
            entries.map(of_entry).collect()
        };
        for (id, network) in networks {
            if self.config.firewall && network.driver == Driver::Bridge {
                beside::let_pass(&mut kernel.netfilter, &network.link.name);
            }
            if let Err(error) = self.check_link(&id, &mut kernel) {
                tracing::error!(
                    network = %id,
                    error = engine::error::full_message(&error),
                    "the link of a network is gone and could not be made again"
                );
            }
        }
        self.mend_links(&mut kernel);
    }
}
