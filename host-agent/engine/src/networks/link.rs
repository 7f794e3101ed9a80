//! Options of a network (`-o`): what they are called and what they mean.

use super::network::Driver;
use crate::id::NetworkId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The options of a network, read. Names and defaults are Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSettings {
    /// The bridge's name; for macvlan and ipvlan the host's link they are on, empty for none.
    pub name: String,
    /// `None`: the kernel's default.
    pub mtu: Option<u32>,
    /// Containers may talk to each other.
    pub icc: bool,
    pub masquerade: bool,
    /// Where ports are published that name no address.
    pub host_binding: Option<IpAddr>,
    pub gateway_mode_ipv4: GatewayMode,
    pub gateway_mode_ipv6: GatewayMode,
    /// The bridge gets no IPv4 address.
    pub inhibit_ipv4: bool,
    /// Links in containers are called this and a number.
    pub interface_prefix: String,
    /// Of macvlan and ipvlan.
    pub mode: String,
}

/// How a bridge joins its containers and the outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayMode {
    /// Ports are translated; nothing else comes in.
    #[default]
    Nat,
    /// Ports are translated; other ports are reached by those who have a route.
    NatUnprotected,
    /// No translation: published ports are reached by those who have a route.
    Routed,
    /// Internal networks only: the host has no address on the bridge.
    Isolated,
}

impl GatewayMode {
    fn parse(text: &str) -> Option<GatewayMode> {
        Some(match text {
            "" | "nat" => GatewayMode::Nat,
            "nat-unprotected" => GatewayMode::NatUnprotected,
            "routed" => GatewayMode::Routed,
            "isolated" => GatewayMode::Isolated,
            _ => return None,
        })
    }
}

const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const INHIBIT: &str = "com.docker.network.bridge.inhibit_ipv4";
const GATEWAY_MODE_IPV4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const GATEWAY_MODE_IPV6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const MTU: &str = "com.docker.network.driver.mtu";
const PREFIX: &str = "com.docker.network.container_iface_prefix";
/// Read by the service: it decides whether the network has addresses of the family.
pub const ENABLE_IPV4: &str = "com.docker.network.enable_ipv4";
/// As [`ENABLE_IPV4`].
pub const ENABLE_IPV6: &str = "com.docker.network.enable_ipv6";

impl LinkSettings {
    /// A network without any option: `id` names its bridge.
    pub fn new(driver: Driver, id: &NetworkId) -> LinkSettings {
        LinkSettings {
            name: match driver {
                Driver::Bridge => format!("br-{}", id.short()),
                _ => String::new(),
            },
            mtu: None,
            icc: true,
            masquerade: true,
            host_binding: None,
            gateway_mode_ipv4: GatewayMode::Nat,
            gateway_mode_ipv6: GatewayMode::Nat,
            inhibit_ipv4: false,
            interface_prefix: "eth".into(),
            mode: String::new(),
        }
    }

    /// Reads the options of a network to be made. Second: sentences about those that mean nothing here. The error is a
    /// sentence.
    pub fn parse(
        driver: Driver,
        id: &NetworkId,
        internal: bool,
        options: &BTreeMap<String, String>,
    ) -> Result<(LinkSettings, Vec<String>), String> {
        let mut link = LinkSettings::new(driver, id);
        let mut warnings = Vec::new();
        for (key, value) in options {
            let wrong = |why: &str| Err(format!("invalid value for {key}: {value:?}: {why}"));
            match (driver, key.as_str()) {
                (_, ENABLE_IPV4 | ENABLE_IPV6) => {
                    flag(key, value)?;
                }
                (_, MTU) if value.is_empty() => {}
                (_, MTU) => match value.parse::<u32>() {
                    // The least that IPv4 demands, and the most a link can have.
                    Ok(mtu @ 68..=65535) => link.mtu = Some(mtu),
                    Ok(0) => {}
                    _ => return wrong("it must be a number from 68 to 65535"),
                },
                (_, PREFIX) => {
                    let good = !value.is_empty()
                        && value.len() <= 11
                        && value
                            .bytes()
                            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
                    if !good {
                        return wrong("it must have 1 to 11 letters, digits, '-', '_' or '.'");
                    }
                    link.interface_prefix.clone_from(value);
                }
                (Driver::Bridge, NAME) => {
                    if !is_link_name(value) {
                        return wrong("a link's name has 1 to 15 letters, digits, '-', '_' or '.'");
                    }
                    link.name.clone_from(value);
                }
                (Driver::Bridge, ICC) => link.icc = flag(key, value)?,
                (Driver::Bridge, MASQUERADE) => link.masquerade = flag(key, value)?,
                (Driver::Bridge, INHIBIT) => link.inhibit_ipv4 = flag(key, value)?,
                (Driver::Bridge, HOST_BINDING) => match value.parse::<IpAddr>() {
                    Ok(address @ IpAddr::V4(_)) => link.host_binding = Some(address),
                    _ => return wrong("it is not an IPv4 address"),
                },
                (Driver::Bridge, GATEWAY_MODE_IPV4 | GATEWAY_MODE_IPV6) => {
                    let Some(mode) = GatewayMode::parse(value) else {
                        return wrong("it is nat, nat-unprotected, routed or isolated");
                    };
                    if mode == GatewayMode::Isolated && !internal {
                        return wrong("isolated is for internal networks");
                    }
                    if key == GATEWAY_MODE_IPV4 {
                        link.gateway_mode_ipv4 = mode;
                    } else {
                        link.gateway_mode_ipv6 = mode;
                    }
                }
                (Driver::Macvlan | Driver::Ipvlan, "parent") => {
                    if !is_link_name(value) {
                        return wrong("it is no name of a link");
                    }
                    link.name.clone_from(value);
                }
                (Driver::Macvlan, "macvlan_mode") => match value.as_str() {
                    "" | "bridge" | "private" | "vepa" | "passthru" => link.mode.clone_from(value),
                    _ => return wrong("it is bridge, private, vepa or passthru"),
                },
                (Driver::Ipvlan, "ipvlan_mode") => match value.as_str() {
                    "" | "l2" | "l3" | "l3s" => link.mode.clone_from(value),
                    _ => return wrong("it is l2, l3 or l3s"),
                },
                (Driver::Ipvlan, "ipvlan_flag") => match value.as_str() {
                    "" | "bridge" => {}
                    _ => return wrong("bridge is the only one this engine has"),
                },
                (_, "com.docker.network.host_ipv4" | "com.docker.network.host_ipv6")
                | (_, "com.docker.network.bridge.trusted_host_interfaces") => {
                    return Err(format!(
                        "network option {key} is not supported by this engine"
                    ));
                }
                _ => warnings.push(format!(
                    "Network option {key} means nothing to the driver {}: it is only remembered.",
                    driver.name()
                )),
            }
        }
        Ok((link, warnings))
    }
}

/// Go's `strconv.ParseBool`.
pub(crate) fn flag(key: &str, text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!(
            "invalid value for {key}: {text:?} is neither true nor false"
        )),
    }
}

/// Whether the kernel takes it as the name of a link.
pub fn is_link_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 15
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        driver: Driver,
        pairs: &[(&str, &str)],
    ) -> Result<(LinkSettings, Vec<String>), String> {
        let options = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let id = NetworkId::parse(&"ab".repeat(32)).unwrap();
        LinkSettings::parse(driver, &id, false, &options)
    }

    #[test]
    fn options_are_read() {
        let (link, warnings) = parse(
            Driver::Bridge,
            &[
                (NAME, "br0"),
                (ICC, "false"),
                (MASQUERADE, "0"),
                (MTU, "1400"),
                (HOST_BINDING, "127.0.0.1"),
                ("mine", "1"),
            ],
        )
        .unwrap();
        assert_eq!(
            (link.name.as_str(), link.icc, link.masquerade),
            ("br0", false, false)
        );
        assert_eq!(
            (link.mtu, link.host_binding),
            (Some(1400), Some([127, 0, 0, 1].into()))
        );
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert_eq!(
            parse(Driver::Bridge, &[]).unwrap().0.name,
            "br-abababababab"
        );
        let (link, _) = parse(Driver::Macvlan, &[("parent", "eth0.10")]).unwrap();
        assert_eq!(link.name, "eth0.10");
    }

    #[test]
    fn nonsense_is_refused() {
        for (driver, key, value) in [
            (Driver::Bridge, NAME, "a name with blanks"),
            (Driver::Bridge, NAME, "sixteen-letters-x"),
            (Driver::Bridge, ICC, "perhaps"),
            (Driver::Bridge, MTU, "12"),
            (Driver::Bridge, MTU, "-1"),
            (Driver::Bridge, HOST_BINDING, "::1"),
            (Driver::Bridge, GATEWAY_MODE_IPV4, "isolated"),
            (Driver::Bridge, GATEWAY_MODE_IPV6, "magic"),
            (Driver::Macvlan, "macvlan_mode", "l2"),
            (Driver::Ipvlan, "ipvlan_mode", "bridge"),
            (Driver::Bridge, PREFIX, "a prefix"),
        ] {
            assert!(parse(driver, &[(key, value)]).is_err(), "{key}={value}");
        }
    }
}
