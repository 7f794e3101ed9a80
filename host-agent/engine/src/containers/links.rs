//! `--link` on the default bridge: names in /etc/hosts and variables in the environment.
//! What they are called: moby `daemon/links/links.go`.

use super::container::Container;
use super::error::ContainerError;
use super::memberships::split_link;
use super::registry::Registry;
use super::service::ContainerService;
use super::spec::NetworkChoice;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Another container as this one has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub address: IpAddr,
    /// In the order in which /etc/hosts has them.
    pub names: Vec<String>,
    /// `NAME=value`
    pub environment: Vec<String>,
}

/// Other containers that `container` has by a private name, with their addresses; only on the default bridge. Elsewhere
/// links are names in the DNS.
pub(super) fn all(registry: &Registry, container: &Container) -> Result<Vec<Link>, ContainerError> {
    let asked = asked(container);
    let each = asked.iter().filter_map(|text| split_link(text));
    each.map(|(name, alias)| link(registry, container, name, alias))
        .collect()
}

/// As [`all`], of those that run now.
pub(super) fn running(registry: &Registry, container: &Container) -> Vec<Link> {
    let asked = asked(container);
    let each = asked.iter().filter_map(|text| split_link(text));
    each.filter_map(|(name, alias)| link(registry, container, name, alias).ok())
        .collect()
}

/// What a process that joins `container` now is told of its links: `NAME=value`.
pub(super) fn variables(registry: &Registry, container: &Container) -> Vec<String> {
    let links = running(registry, container).into_iter();
    links.flat_map(|link| link.environment).collect()
}

impl ContainerService {
    /// What a process that joins `container` now is told of its links: `NAME=value`.
    pub(crate) fn linked_environment(&self, container: &Container) -> Vec<String> {
        variables(&self.registry, container)
    }
}

fn asked(container: &Container) -> Vec<String> {
    if container.spec.host.network != NetworkChoice::Bridge {
        return Vec::new();
    }
    container.latest_spec().host.links.clone()
}

/// The container `name` under the name `alias` in `parent`.
fn link(
    registry: &Registry,
    parent: &Container,
    name: &str,
    alias: &str,
) -> Result<Link, ContainerError> {
    let target = registry.find(name)?;
    let status = target.status();
    if !status.state.is_running() {
        return Err(ContainerError::invalid(format!(
            "Cannot link to a non running container: /{} AS /{}/{alias}",
            target.name(),
            parent.name()
        )));
    }
    let endpoints = status.network.iter().flat_map(|network| &network.endpoints);
    let mut of_bridge = endpoints.filter(|endpoint| endpoint.network_name == "bridge");
    let Some(address) = of_bridge.next().and_then(|endpoint| endpoint.address) else {
        return Err(ContainerError::invalid(format!(
            "Cannot link to /{}, as it does not belong to the default network",
            target.name()
        )));
    };
    let mut names = vec![
        alias.to_owned(),
        super::etc_files::hostname(&target.spec, target.id.short()),
    ];
    if target.name() != alias {
        names.push(target.name());
    }
    let config = &target.spec.config;
    Ok(Link {
        address,
        names,
        environment: environment(
            &format!("/{}/{alias}", parent.name()),
            alias,
            address,
            &config.exposed_ports,
            &config.env,
        ),
    })
}

fn environment(
    name: &str,
    alias: &str,
    address: IpAddr,
    exposed: &BTreeSet<String>,
    env: &[String],
) -> Vec<String> {
    let alias = alias.replace('-', "_").to_ascii_uppercase();
    let mut ports: Vec<(u16, &str)> = super::ports::exposed(exposed)
        .map(|(number, protocol)| (number, protocol.name()))
        .collect();
    // The lowest, TCP before the others.
    ports.sort_by_key(|(number, protocol)| (*number, *protocol != "tcp"));
    let mut variables = Vec::new();
    if let Some((number, protocol)) = ports.first() {
        variables.push(format!("{alias}_PORT={protocol}://{address}:{number}"));
    }
    for (number, protocol) in ports {
        let prefix = format!("{alias}_PORT_{number}_{}", protocol.to_ascii_uppercase());
        variables.push(format!("{prefix}={protocol}://{address}:{number}"));
        variables.push(format!("{prefix}_ADDR={address}"));
        variables.push(format!("{prefix}_PORT={number}"));
        variables.push(format!("{prefix}_PROTO={protocol}"));
    }
    variables.push(format!("{alias}_NAME={name}"));
    for entry in env {
        let Some((key, value)) = entry.split_once('=') else {
            continue;
        };
        if !matches!(key, "HOME" | "PATH") {
            variables.push(format!("{alias}_ENV_{key}={value}"));
        }
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_tells_of_ports_and_variables() {
        let exposed = ["5432/tcp", "53/udp", "53/tcp"].map(str::to_owned).into();
        let env = ["PATH=/bin", "COLOR=blue"].map(str::to_owned);
        let variables = environment(
            "/web/the-db",
            "the-db",
            [172, 17, 0, 5].into(),
            &exposed,
            &env,
        );
        for expected in [
            "THE_DB_PORT=tcp://172.17.0.5:53",
            "THE_DB_PORT_5432_TCP=tcp://172.17.0.5:5432",
            "THE_DB_PORT_5432_TCP_ADDR=172.17.0.5",
            "THE_DB_PORT_5432_TCP_PORT=5432",
            "THE_DB_PORT_53_UDP_PROTO=udp",
            "THE_DB_NAME=/web/the-db",
            "THE_DB_ENV_COLOR=blue",
        ] {
            assert!(
                variables.iter().any(|one| one == expected),
                "{expected}: {variables:?}"
            );
        }
        assert!(!variables.iter().any(|one| one.contains("PATH")));
    }
}
