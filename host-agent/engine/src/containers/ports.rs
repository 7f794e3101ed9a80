//! Ports: `80/tcp`, ranges, bindings, and what of it is to be published.

use super::spec::PortBinding;
use crate::networks::{PortRequest, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// `80`, `80/tcp`, `8000-8010/udp` -> first, last, protocol. The error is Docker's sentence.
pub fn parse_container_port(text: &str) -> Result<(u16, u16, Protocol), String> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = Protocol::parse(protocol).ok_or_else(|| format!("invalid proto: {protocol}"))?;
    let (first, last) =
        parse_range(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    if first == 0 {
        return Err(format!("invalid containerPort: {range}"));
    }
    Ok((first, last, protocol))
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = match text.split_once('-') {
        None => {
            let port = number(text)?;
            (port, port)
        }
        Some((first, last)) => (number(first)?, number(last)?),
    };
    (first <= last).then_some((first, last))
}

/// Digits only: `+80` is no port.
fn number(text: &str) -> Option<u16> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// The set `ExposedPorts` in one form: `80` becomes `80/tcp`, a range becomes its ports.
pub fn normalize_exposed(
    ports: impl IntoIterator<Item = String>,
) -> Result<BTreeSet<String>, String> {
    shown_as_exposed(&BTreeSet::new(), &ports.into_iter().collect::<Vec<_>>())
}

/// The set `ExposedPorts` for people who ask: as it was given, and what is published besides. The error is Docker's
/// sentence.
pub fn shown_as_exposed<'a>(
    given: &BTreeSet<String>,
    published: impl IntoIterator<Item = &'a String>,
) -> Result<BTreeSet<String>, String> {
    for port in given {
        parse_container_port(port)?;
    }
    let known: BTreeSet<(u16, &str)> = exposed(given)
        .map(|(port, protocol)| (port, protocol.name()))
        .collect();
    let mut all = given.clone();
    for port in published {
        let (first, last, protocol) = parse_container_port(port)?;
        let new = (first..=last).filter(|number| !known.contains(&(*number, protocol.name())));
        all.extend(new.map(|number| format!("{number}/{}", protocol.name())));
    }
    Ok(all)
}

/// The ports behind a checked set `ExposedPorts`: `80` is `80/tcp`, a range is its ports.
pub fn exposed(given: &BTreeSet<String>) -> impl Iterator<Item = (u16, Protocol)> + '_ {
    given
        .iter()
        .filter_map(|port| parse_container_port(port).ok())
        .flat_map(|(first, last, protocol)| (first..=last).map(move |number| (number, protocol)))
}

/// What to publish for the bindings asked for and, with `publish_all`, every exposed port that has none.
pub fn requests(
    bindings: &BTreeMap<String, Vec<PortBinding>>,
    exposed: &BTreeSet<String>,
    publish_all: bool,
) -> Result<Vec<PortRequest>, String> {
    let mut all = Vec::new();
    for (port, targets) in bindings {
        let (first, last, protocol) = parse_container_port(port)?;
        // No target at all is a target that leaves everything open, as in Docker.
        let open = [PortBinding::default()];
        let targets = if targets.is_empty() {
            &open[..]
        } else {
            targets
        };
        for target in targets {
            let host_address = match target.host_ip.as_str() {
                "" => None,
                text => Some(
                    text.trim_start_matches('[')
                        .trim_end_matches(']')
                        .parse::<IpAddr>()
                        .map_err(|_| format!("invalid IP address: {text}"))?,
                ),
            };
            let host_ports = match target.host_port.as_str() {
                "" => (0, 0),
                text => parse_range(text)
                    .ok_or_else(|| format!("invalid port specification: \"{text}\""))?,
            };
            for (offset, container_port) in (first..=last).enumerate() {
                // A range of the container onto a range of the host goes port by port.
                let host_ports = if first == last {
                    host_ports
                } else if host_ports == (0, 0) {
                    (0, 0)
                } else if host_ports.1 - host_ports.0 == last - first {
                    let port = host_ports.0 + u16::try_from(offset).unwrap_or(0);
                    (port, port)
                } else {
                    return Err(format!(
                        "invalid ranges specified for container and host Ports: {port} and {}",
                        target.host_port
                    ));
                };
                all.push(PortRequest {
                    container_port,
                    protocol,
                    host_address,
                    host_ports,
                });
            }
        }
    }
    if publish_all {
        for port in exposed {
            let (first, last, protocol) = parse_container_port(port)?;
            for container_port in first..=last {
                let known = |request: &PortRequest| {
                    request.container_port == container_port && request.protocol == protocol
                };
                if !all.iter().any(known) {
                    all.push(PortRequest {
                        container_port,
                        protocol,
                        host_address: None,
                        host_ports: (0, 0),
                    });
                }
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bindings(port: &str, ip: &str, host: &str) -> BTreeMap<String, Vec<PortBinding>> {
        let binding = PortBinding {
            host_ip: ip.into(),
            host_port: host.into(),
        };
        BTreeMap::from([(port.to_owned(), vec![binding])])
    }

    #[test]
    fn bindings_become_requests() {
        let all = requests(
            &bindings("80/tcp", "127.0.0.1", "8080"),
            &BTreeSet::new(),
            false,
        )
        .expect("good");
        assert_eq!(all[0].host_ports, (8080, 8080));
        assert_eq!(
            all[0].host_address,
            Some("127.0.0.1".parse().expect("an address"))
        );
        let range =
            requests(&bindings("80-81", "", "90-91"), &BTreeSet::new(), false).expect("good");
        assert_eq!(range[1].container_port, 81);
        assert_eq!(range[1].host_ports, (91, 91));
        let any = requests(
            &bindings("80/tcp", "", "8000-8010"),
            &BTreeSet::new(),
            false,
        )
        .expect("good");
        assert_eq!(any[0].host_ports, (8000, 8010));
    }

    #[test]
    fn exposed_ports_are_shown_as_they_were_given_and_understood_all_the_same() {
        let given = ["8080", "53/udp", "9000-9001/tcp"]
            .map(str::to_owned)
            .into();
        let published = ["8080/tcp", "80", "81/tcp"].map(str::to_owned);
        let shown = shown_as_exposed(&given, &published).expect("good");
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        assert_eq!(
            shown,
            ["53/udp", "80/tcp", "8080", "81/tcp", "9000-9001/tcp"]
        );
        let ports: Vec<u16> = exposed(&given).map(|(port, _)| port).collect();
        assert_eq!(ports, [53, 8080, 9000, 9001]);
        assert!(shown_as_exposed(&BTreeSet::from(["x".to_owned()]), []).is_err());
    }

    #[test]
    fn publish_all_adds_what_is_exposed_once() {
        let exposed = BTreeSet::from(["80/tcp".to_owned(), "53/udp".to_owned()]);
        let all = requests(&bindings("80/tcp", "", "8080"), &exposed, true).expect("good");
        assert_eq!(all.len(), 2);
        assert!(
            all.iter()
                .any(|request| request.protocol == Protocol::Udp && request.host_ports == (0, 0))
        );
    }

    #[test]
    fn nonsense_is_refused_with_a_sentence() {
        assert_eq!(
            parse_container_port("80/icmp"),
            Err("invalid proto: icmp".into())
        );
        assert_eq!(
            parse_container_port("x"),
            Err("invalid containerPort: x".into())
        );
        assert!(parse_container_port("0").is_err());
        assert!(parse_container_port("90-80").is_err());
        assert!(parse_container_port("99999").is_err());
        assert!(requests(&bindings("80", "nowhere", "80"), &BTreeSet::new(), false).is_err());
        assert!(requests(&bindings("80", "", "eighty"), &BTreeSet::new(), false).is_err());
        assert!(requests(&bindings("80-82", "", "90-91"), &BTreeSet::new(), false).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in ".{0,16}") {
            let _ = parse_container_port(&text);
        }

        #[test]
        fn good_ports_come_back(port in 1u16..) {
            prop_assert_eq!(parse_container_port(&format!("{port}/udp")), Ok((port, port, Protocol::Udp)));
        }
    }
}
