//! The three files of /etc that belong to the container and not to its image.

use super::spec::{ContainerSpec, NetworkChoice};
use crate::networks::Attached;
use std::fmt::Write;

/// A container's host name: as asked, else its short id.
pub fn hostname(spec: &ContainerSpec, short_id: &str) -> String {
    if spec.config.hostname.is_empty() {
        short_id.to_owned()
    } else {
        spec.config.hostname.clone()
    }
}

/// /etc/hosts, in Docker's order. `host.docker.internal:host-gateway` is the bridge's gateway.
pub fn hosts(spec: &ContainerSpec, short_id: &str, attached: Option<&Attached>) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let endpoint = attached.and_then(|attached| attached.endpoint.as_ref());
    for extra in &spec.host.extra_hosts {
        if let Some((name, address)) = split_extra_host(extra) {
            let gateway = endpoint.and_then(|endpoint| endpoint.gateway);
            match (address, gateway) {
                ("host-gateway", Some(gateway)) => {
                    let _ = writeln!(text, "{gateway}\t{name}");
                }
                // Without a bridge the host is where we are.
                ("host-gateway", None) => {
                    let _ = writeln!(text, "127.0.0.1\t{name}");
                }
                (address, _) => {
                    let _ = writeln!(text, "{address}\t{name}");
                }
            }
        }
    }
    if let Some(endpoint) = endpoint {
        let name = hostname(spec, short_id);
        let full = if spec.config.domain_name.is_empty() {
            name
        } else {
            format!("{name}.{} {name}", spec.config.domain_name)
        };
        let _ = writeln!(text, "{}\t{full}", endpoint.address);
        if let Some(address) = endpoint.ipv6_address {
            let _ = writeln!(text, "{address}\t{full}");
        }
    }
    text
}

/// `name:address` or `name=address`.
pub fn split_extra_host(text: &str) -> Option<(&str, &str)> {
    let (name, address) = match text.split_once('=') {
        Some(pair) => pair,
        None => text.split_once(':')?,
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let good = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
    (!name.is_empty() && good).then_some((name, address))
}

/// /etc/resolv.conf: the host's own, with whatever `--dns*` replaces.
pub fn resolv_conf(spec: &ContainerSpec, of_host: &str) -> String {
    let host = &spec.host;
    if spec.host.network == NetworkChoice::None && host.dns.is_empty() && host.dns_search.is_empty()
    {
        return of_host.to_owned();
    }
    if host.dns.is_empty() && host.dns_search.is_empty() && host.dns_options.is_empty() {
        return of_host.to_owned();
    }
    let kept = |word: &str| {
        of_host
            .lines()
            .filter(move |line| line.split_whitespace().next() == Some(word))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    let mut text = String::new();
    if host.dns.is_empty() {
        text.push_str(&kept("nameserver"));
    }
    for server in &host.dns {
        let _ = writeln!(text, "nameserver {server}");
    }
    if host.dns_search.is_empty() {
        text.push_str(&kept("search"));
    } else if host.dns_search != ["."] {
        // A single dot is "search nothing".
        let _ = writeln!(text, "search {}", host.dns_search.join(" "));
    }
    if host.dns_options.is_empty() {
        text.push_str(&kept("options"));
    } else {
        let _ = writeln!(text, "options {}", host.dns_options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::testing;

    #[test]
    fn dns_options_replace_the_hosts_own() {
        let mut spec = testing::spec();
        let of_host = "nameserver 192.0.2.1\nsearch home\n";
        assert_eq!(resolv_conf(&spec, of_host), of_host);
        spec.host.dns = vec!["192.0.2.9".into()];
        spec.host.dns_options = vec!["ndots:2".into()];
        assert_eq!(
            resolv_conf(&spec, of_host),
            "nameserver 192.0.2.9\nsearch home\noptions ndots:2\n"
        );
        spec.host.dns_search = vec![".".into()];
        assert!(!resolv_conf(&spec, of_host).contains("search"));
    }

    #[test]
    fn extra_hosts_are_written_and_checked() {
        let mut spec = testing::spec();
        spec.host.extra_hosts = vec!["db:192.0.2.7".into(), "six=[2001:db8::1]".into()];
        let text = hosts(&spec, "0123456789ab", None);
        assert!(text.contains("192.0.2.7\tdb\n"));
        assert!(text.contains("2001:db8::1\tsix\n"));
        assert_eq!(split_extra_host("db:nowhere"), None);
        assert_eq!(
            split_extra_host("six:2001:db8::1"),
            Some(("six", "2001:db8::1"))
        );
    }
}
