//! The resolv.conf that containers get: the host's, without resolvers that only the host can reach.

use engine::networks::HostFiles;
use std::net::IpAddr;

const HOST: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps the servers behind its local stub.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const STUB: &str = "127.0.0.53";
/// Docker's choice when the host has no resolver a container can reach.
const FALLBACK: &str = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n";
/// As well, where the container has IPv6.
const FALLBACK_IPV6: &str = "nameserver 2001:4860:4860::8888\nnameserver 2001:4860:4860::8844\n";

/// What the host itself goes by.
pub(crate) fn of_host() -> HostFiles {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    HostFiles {
        hosts: read("/etc/hosts"),
        resolv_conf: read(HOST),
    }
}

/// Reads the host's file as it is now; `ipv6`: for a container that has IPv6.
pub(crate) fn for_containers(ipv6: bool) -> String {
    let host = std::fs::read_to_string(HOST).unwrap_or_default();
    let servers: Vec<&str> = host.lines().filter_map(server).collect();
    let host = if servers == [STUB] {
        std::fs::read_to_string(BEHIND_STUB).unwrap_or(host)
    } else {
        host
    };
    filter(&host, ipv6)
}

/// The host's resolvers: no subnet of ours may cover one.
pub(crate) fn servers() -> Vec<IpAddr> {
    let host = std::fs::read_to_string(HOST).unwrap_or_default();
    host.lines()
        .filter_map(server)
        .filter_map(|address| address.parse().ok())
        .collect()
}

fn server(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next() == Some("nameserver"))
        .then(|| words.next())
        .flatten()
}

/// Servers on loopback go, and those with an IPv6 address where the container has none. With none left Docker's fallback
/// stands.
fn filter(host: &str, ipv6: bool) -> String {
    let mut text = String::new();
    let mut servers = 0;
    for line in host.lines() {
        if line.split_whitespace().next() == Some("nameserver") {
            let reachable = server(line)
                .and_then(|address| address.parse::<IpAddr>().ok())
                .is_some_and(|address| (ipv6 || address.is_ipv4()) && !address.is_loopback());
            if !reachable {
                continue;
            }
            servers += 1;
        }
        text.push_str(line);
        text.push('\n');
    }
    if servers == 0 {
        text.push_str(FALLBACK);
        if ipv6 {
            text.push_str(FALLBACK_IPV6);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[track_caller]
    fn check(host: &str, expected: &str) {
        assert_eq!(filter(host, false), expected);
    }

    #[test]
    fn only_servers_that_a_container_reaches_stay() {
        check("nameserver 10.0.2.3\n", "nameserver 10.0.2.3\n");
        check(
            "search lan\nnameserver 127.0.0.1\nnameserver 192.0.2.1\noptions ndots:2",
            "search lan\nnameserver 192.0.2.1\noptions ndots:2\n",
        );
        check(
            "nameserver ::1\nnameserver fd00::1\n",
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n",
        );
        check(
            "nameserver nonsense\nnameserver\n",
            "nameserver 8.8.8.8\nnameserver 8.8.4.4\n",
        );
        check("", "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }
    #[test]
    fn a_container_with_ipv6_keeps_servers_it_reaches_by_it() {
        let check = |host: &str, expected: &str| assert_eq!(filter(host, true), expected);
        check(
            "nameserver fd00::1\nnameserver ::1\nnameserver 192.0.2.1\n",
            "nameserver fd00::1\nnameserver 192.0.2.1\n",
        );
        // A link of the host is not the container's.
        check(
            "nameserver fe80::1%eth0\nnameserver fd00::1\n",
            "nameserver fd00::1\n",
        );
        check(
            "nameserver ::1\n",
            &[super::FALLBACK, super::FALLBACK_IPV6].concat(),
        );
    }
}
