//! `--link` on the default bridge: names in /etc/hosts and variables in the environment.
//! What they are called: moby `daemon/links/links.go`.

use super::container::Container;
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

/// `target` under the name `alias` in `parent`.
pub(super) fn of(parent: &Container, target: &Container, alias: &str, address: IpAddr) -> Link {
    let mut names = vec![
        alias.to_owned(),
        super::etc_files::hostname(&target.spec, target.id.short()),
    ];
    if target.name() != alias {
        names.push(target.name());
    }
    let config = &target.spec.config;
    Link {
        address,
        names,
        environment: environment(
            &format!("/{}/{alias}", parent.name()),
            alias,
            address,
            &config.exposed_ports,
            &config.env,
        ),
    }
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
