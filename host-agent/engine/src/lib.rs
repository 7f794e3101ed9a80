//! The engine's domain: what containers, images, networks and volumes are, the rules they follow, and the traits a
//! host must offer. No HTTP and no system calls in here: `agent-server` translates, `engine-linux` does.

pub mod builds;
pub mod clock;
pub mod containers;
pub mod error;
pub mod events;
pub mod execs;
pub mod id;
pub mod images;
pub mod logs;
pub mod networks;
mod patterns;
pub mod record;
pub mod runtime;
pub mod volumes;
