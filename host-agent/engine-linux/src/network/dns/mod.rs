//! Names of containers: a DNS server in every namespace that is in a network somebody made.
//!
//! ```text
//! program -> 127.0.0.11:53 --redirect--> our socket in the namespace -> Directory: names of the container's networks
//!                                        (a task in this process)    \-> else the host's resolvers, or those of --dns,
//!                                                                                asked from inside
//! ```
//!
//! No process and no thread per container: the sockets are opened inside the namespace and served by the agent's runtime
//! outside of it. They end with the agent; the next one opens them again before anything else.

mod directory;
mod forward;
mod message;
mod server;

pub(crate) use directory::Directory;
pub(crate) use forward::Upstream;
pub(crate) use server::{Server, View};
