//! Hosts that are there already: what their drivers share.

use machine_core::driver::DriverError;
use std::net::{IpAddr, ToSocketAddrs};

/// The address of a host that was given by address or name.
pub fn resolve(host: &str, port: u16) -> Result<IpAddr, DriverError> {
    if let Ok(ip) = host.parse() {
        return Ok(ip);
    }
    let missing = |why: String| DriverError::NotReady {
        what: format!("the host {host:?} is not found: {why}"),
        hint: "check its name, or give its address".into(),
    };
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|error| missing(error.to_string()))?;
    let first = found
        .next()
        .ok_or_else(|| missing("it has no address".into()))?;
    Ok(first.ip())
}
