//! The three files of /etc that belong to the container and not to its image.

use super::links::Link;
use super::spec::ContainerSpec;
use crate::networks::Attached;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

/// A container's host name: as asked, else its short id.
pub fn hostname(spec: &ContainerSpec, short_id: &str) -> String {
    if spec.config.hostname.is_empty() {
        short_id.to_owned()
    } else {
        spec.config.hostname.clone()
    }
}

/// What `host-gateway` stands for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gateways {
    pub ipv4: Option<IpAddr>,
    pub ipv6: Option<IpAddr>,
}

/// By this name every container with a way out finds the computer its user sits at: Docker Desktop's name for it.
pub const HOST_NAME: &str = "host.docker.internal";

/// /etc/hosts, in Docker's order.
pub fn hosts(
    spec: &ContainerSpec,
    short_id: &str,
    attached: Option<&Attached>,
    gateways: &Gateways,
    links: &[Link],
) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for extra in &spec.host.extra_hosts {
        match split_extra_host(extra) {
            Some((name, "host-gateway")) => {
                for gateway in gateways.ipv4.iter().chain(&gateways.ipv6) {
                    let _ = writeln!(text, "{gateway}\t{name}");
                }
            }
            Some((name, address)) => {
                let _ = writeln!(text, "{address}\t{name}");
            }
            None => {}
        }
    }
    let reaches_host = attached.is_some_and(|attached| attached.way_out().is_some());
    let is_named = |extra: &String| {
        split_extra_host(extra).is_some_and(|(name, _)| name.eq_ignore_ascii_case(HOST_NAME))
    };
    if reaches_host && !spec.host.extra_hosts.iter().any(is_named) {
        for gateway in gateways.ipv4.iter().chain(&gateways.ipv6) {
            let _ = writeln!(text, "{gateway}\t{HOST_NAME}");
        }
    }
    for link in links {
        let _ = writeln!(text, "{}\t{}", link.address, link.names.join(" "));
    }
    let name = hostname(spec, short_id);
    let full = if spec.config.domain_name.is_empty() {
        name
    } else {
        format!("{name}.{} {name}", spec.config.domain_name)
    };
    for endpoint in attached.iter().flat_map(|attached| &attached.endpoints) {
        for address in endpoint.addresses() {
            let _ = writeln!(text, "{address}\t{full}");
        }
    }
    text
}

/// /etc/hosts anew where a container runs already: `after`, and from what is `there` the lines of others, known by names that
/// are neither in `before` nor in `after`.
pub fn with_others_lines(after: String, before: &str, there: &str) -> String {
    fn names(line: &str) -> Vec<&str> {
        line.split_whitespace().skip(1).collect()
    }
    let ours: BTreeSet<Vec<&str>> = before.lines().chain(after.lines()).map(names).collect();
    let others = there
        .lines()
        .filter(|line| line.starts_with('#') || !ours.contains(&names(line)));
    let others: String = others.map(|line| format!("{line}\n")).collect();
    after + &others
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

/// What `--dns*` say, of a container or of the engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub options: Vec<String>,
    pub search: Vec<String>,
}

impl Dns {
    /// The container's own choices; each it does not make is the engine's.
    pub fn of(spec: &ContainerSpec, defaults: &Dns) -> Dns {
        let choose = |own: &Vec<String>, default: &Vec<String>| {
            if own.is_empty() {
                default.clone()
            } else {
                own.clone()
            }
        };
        Dns {
            servers: choose(&spec.host.dns, &defaults.servers),
            options: choose(&spec.host.dns_options, &defaults.options),
            search: choose(&spec.host.dns_search, &defaults.search),
        }
    }
}

/// /etc/resolv.conf: the host's own, with whatever `dns` replaces.
pub fn resolv_conf(dns: &Dns, of_host: &str) -> String {
    if *dns == Dns::default() {
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
    if dns.servers.is_empty() {
        text.push_str(&kept("nameserver"));
    }
    for server in &dns.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if dns.search.is_empty() {
        text.push_str(&kept("search"));
    } else if dns.search != ["."] {
        // A single dot is "search nothing".
        let _ = writeln!(text, "search {}", dns.search.join(" "));
    }
    if dns.options.is_empty() {
        text.push_str(&kept("options"));
    } else {
        let _ = writeln!(text, "options {}", dns.options.join(" "));
    }
    text
}

/// /etc/resolv.conf in a network somebody made: all questions go to the engine's own server there, which asks the others.
/// A name without a dot is a container's first, so it is never completed before it was asked for as it is.
pub fn resolv_conf_of_network(dns: &Dns, of_host: &str) -> String {
    let own = Dns {
        servers: vec![DNS_SERVER.into()],
        ..dns.clone()
    };
    let mut text = String::new();
    let mut options = None;
    for line in resolv_conf(&own, of_host).lines() {
        match line.strip_prefix("options") {
            Some(rest) => options = Some(rest.trim().to_owned()),
            None => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    let mut options: Vec<&str> = options
        .iter()
        .flat_map(|text| text.split_whitespace())
        .collect();
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0");
    }
    let _ = writeln!(text, "options {}", options.join(" "));
    text
}

/// Where the engine's own DNS server is, in every namespace of a network somebody made.
pub const DNS_SERVER: &str = "127.0.0.11";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::testing;

    #[test]
    fn dns_options_replace_the_hosts_own() {
        let mut spec = testing::spec();
        let of_host = "nameserver 192.0.2.1\nsearch home\n";
        let text =
            |spec: &ContainerSpec, defaults: &Dns| resolv_conf(&Dns::of(spec, defaults), of_host);
        let none = Dns::default();
        assert_eq!(text(&spec, &none), of_host);
        let engine = Dns {
            servers: vec!["192.0.2.8".into()],
            ..Dns::default()
        };
        assert_eq!(text(&spec, &engine), "nameserver 192.0.2.8\nsearch home\n");
        spec.host.dns = vec!["192.0.2.9".into()];
        spec.host.dns_options = vec!["ndots:2".into()];
        assert_eq!(
            text(&spec, &engine),
            "nameserver 192.0.2.9\nsearch home\noptions ndots:2\n"
        );
        spec.host.dns_search = vec![".".into()];
        assert!(!text(&spec, &none).contains("search"));
    }

    #[test]
    fn in_a_network_the_engine_answers() {
        let of_host = "nameserver 192.0.2.1\nsearch home\noptions timeout:1\n";
        assert_eq!(
            resolv_conf_of_network(&Dns::default(), of_host),
            "nameserver 127.0.0.11\nsearch home\noptions timeout:1 ndots:0\n"
        );
        let dns = Dns {
            servers: vec!["192.0.2.9".into()],
            options: vec!["ndots:3".into()],
            search: vec!["x".into()],
        };
        assert_eq!(
            resolv_conf_of_network(&dns, of_host),
            "nameserver 127.0.0.11\nsearch x\noptions ndots:3\n"
        );
    }

    #[test]
    fn lines_of_others_stay_in_etc_hosts() {
        let before = "127.0.0.1\tlocalhost\n172.17.0.9\tdb store\n172.17.0.3\tme\n";
        let there = "127.0.0.1\tlocalhost\n172.17.0.9\tdb store\n172.17.0.3\tme\n\n# mine\n192.0.2.1 other me\n";
        let after = "127.0.0.1\tlocalhost\n172.17.0.3\tme\n10.0.0.2\tme\n";
        assert_eq!(
            with_others_lines(after.into(), before, there),
            format!("{after}\n# mine\n192.0.2.1 other me\n")
        );
        // The other's address alone has changed; of a link that is not there now the line stays.
        let after = "127.0.0.1\tlocalhost\n172.17.0.4\tdb store\n";
        let there = "127.0.0.1\tlocalhost\n172.17.0.9\tdb store\n172.17.0.7\tcache\n";
        let text = with_others_lines(after.into(), "", there);
        assert_eq!(text, format!("{after}172.17.0.7\tcache\n"));
    }

    #[test]
    fn extra_hosts_are_written_and_checked() {
        let mut spec = testing::spec();
        spec.host.extra_hosts = vec!["db:192.0.2.7".into(), "six=[2001:db8::1]".into()];
        let gateways = Gateways {
            ipv4: Some([172, 17, 0, 1].into()),
            ipv6: None,
        };
        spec.host
            .extra_hosts
            .push("host.docker.internal:host-gateway".into());
        let link = Link {
            address: [172, 17, 0, 9].into(),
            names: vec!["db".into(), "0123".into()],
            environment: Vec::new(),
        };
        let text = hosts(&spec, "0123456789ab", None, &gateways, &[link]);
        assert!(text.contains("172.17.0.1\thost.docker.internal\n"));
        assert!(text.contains("172.17.0.9\tdb 0123\n"));
        assert!(text.contains("192.0.2.7\tdb\n"));
        assert!(text.contains("2001:db8::1\tsix\n"));
        assert_eq!(split_extra_host("db:nowhere"), None);
        assert_eq!(
            split_extra_host("six:2001:db8::1"),
            Some(("six", "2001:db8::1"))
        );
    }
}
