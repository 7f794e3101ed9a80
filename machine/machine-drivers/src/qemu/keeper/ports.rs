//! Published container ports appear on the machine's loopback address, and vanish with their container.

use super::super::arguments::NETWORK;
use super::qmp::{Qmp, QmpError};
use super::status::Board;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// A port of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub number: u16,
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    /// Never open here: QEMU forwards the others alone.
    Sctp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl Port {
    /// `8080/tcp`
    fn parse(text: &str) -> Option<Port> {
        let (number, protocol) = text.split_once('/')?;
        let protocols = [Protocol::Tcp, Protocol::Udp];
        Some(Port {
            number: number.parse().ok()?,
            protocol: protocols.into_iter().find(|p| p.name() == protocol)?,
        })
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol.name())
    }
}

/// The part of `/containers/json` that matters here.
#[derive(Debug, Deserialize)]
pub struct Container {
    #[serde(rename = "Ports", default)]
    ports: Vec<Published>,
}

#[derive(Debug, Deserialize)]
struct Published {
    #[serde(rename = "IP", default)]
    ip: String,
    #[serde(rename = "PublicPort", default)]
    public: Option<u16>,
    #[serde(rename = "Type", default)]
    protocol: String,
}

/// What should be open, and what cannot be and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub open: BTreeSet<Port>,
    pub problems: BTreeMap<Port, String>,
}

/// What the running containers publish. A port that is published more than once (IPv4 and IPv6) counts once.
pub fn wanted(containers: &[Container]) -> Wanted {
    let mut wanted = Wanted::default();
    for published in containers.iter().flat_map(|container| &container.ports) {
        let Some(number) = published.public.filter(|number| *number != 0) else {
            continue; // exposed, not published
        };
        let protocol = match published.protocol.as_str() {
            "udp" => Protocol::Udp,
            "tcp" => Protocol::Tcp,
            "sctp" => Protocol::Sctp,
            other => {
                tracing::warn!(
                    number,
                    protocol = other,
                    "a published port of an unknown protocol"
                );
                continue;
            }
        };
        if protocol == Protocol::Sctp {
            let port = Port { number, protocol };
            let why = "SCTP ports are reached inside the machine only";
            wanted.problems.insert(port, why.into());
            continue;
        }
        let port = Port { number, protocol };
        if published
            .ip
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_loopback())
        {
            wanted.problems.insert(
                port,
                format!("published on {} inside the machine only", published.ip),
            );
        } else {
            wanted.open.insert(port);
        }
    }
    for port in &wanted.open {
        wanted.problems.remove(port);
    }
    wanted
}

/// The forwards that QEMU has.
pub struct Forwards {
    ip: Ipv4Addr,
    open: BTreeSet<Port>,
    /// Ports that failed, so that each is complained of once.
    failed: BTreeMap<Port, String>,
}

impl Forwards {
    /// `open`: what another keeper has opened, as the board shows it.
    pub fn new(ip: Ipv4Addr, open: &[String]) -> Forwards {
        Forwards {
            ip,
            open: open.iter().filter_map(|text| Port::parse(text)).collect(),
            failed: BTreeMap::new(),
        }
    }

    /// Opens and closes until QEMU has what is wanted, and tells the board.
    pub fn bring_to(&mut self, wanted: &Wanted, qmp: &Qmp, board: &Board) -> Result<(), QmpError> {
        let gone: Vec<Port> = self.open.difference(&wanted.open).copied().collect();
        for port in gone {
            let answer = qmp.human(&remove(self.ip, port))?;
            tracing::info!(%port, answer, "port closed");
            self.open.remove(&port);
        }
        self.failed
            .retain(|port, _| wanted.open.contains(port) || wanted.problems.contains_key(port));
        for (port, why) in &wanted.problems {
            self.complain(*port, why.clone());
        }
        for port in &wanted.open {
            if self.open.contains(port) {
                continue;
            }
            let answer = qmp.human(&add(self.ip, *port))?;
            if answer.is_empty() {
                tracing::info!(%port, ip = %self.ip, "port opened");
                self.open.insert(*port);
                self.failed.remove(port);
            } else {
                let why = explain(self.ip, *port).unwrap_or(answer);
                self.complain(*port, why);
            }
        }
        board.change(|status| {
            status.ports = self.open.iter().map(Port::to_string).collect();
            status.port_problems = self
                .failed
                .iter()
                .map(|(port, why)| format!("{port}: {why}"))
                .collect();
        });
        Ok(())
    }

    /// True while a port waits for another program to let go of it.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// `8080/tcp` and why it could not be opened.
    pub fn problems(&self) -> BTreeMap<String, String> {
        let each = self.failed.iter();
        each.map(|(port, why)| (port.to_string(), why.clone()))
            .collect()
    }

    fn complain(&mut self, port: Port, why: String) {
        if self.failed.get(&port) != Some(&why) {
            tracing::warn!(%port, ip = %self.ip, why, "published port not opened");
            self.failed.insert(port, why);
        }
    }
}

/// QEMU only says that it could not; the operating system says why.
fn explain(ip: Ipv4Addr, port: Port) -> Option<String> {
    let tried = match port.protocol {
        Protocol::Tcp => std::net::TcpListener::bind((ip, port.number)).map(drop),
        Protocol::Udp => std::net::UdpSocket::bind((ip, port.number)).map(drop),
        Protocol::Sctp => return None,
    };
    let error = tried.err()?;
    Some(match error.kind() {
        std::io::ErrorKind::AddrInUse => format!("another program has it on {ip}"),
        std::io::ErrorKind::PermissionDenied => {
            format!("ports below {} need more rights on this computer", 1024)
        }
        _ => error.to_string(),
    })
}

fn add(ip: Ipv4Addr, port: Port) -> String {
    let Port { number, protocol } = port;
    format!(
        "hostfwd_add {NETWORK} {}:{ip}:{number}-:{number}",
        protocol.name()
    )
}

fn remove(ip: Ipv4Addr, port: Port) -> String {
    let Port { number, protocol } = port;
    format!("hostfwd_remove {NETWORK} {}:{ip}:{number}", protocol.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[track_caller]
    fn check(containers: &str, open: &[&str], problems: &[&str]) {
        let containers: Vec<Container> = serde_json::from_str(containers).unwrap();
        let wanted = wanted(&containers);
        let names = |ports: Vec<&Port>| ports.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(wanted.open.iter().collect()), open);
        assert_eq!(names(wanted.problems.keys().collect()), problems);
    }

    #[test]
    fn published_ports_are_wanted_once() {
        check("[]", &[], &[]);
        check(
            r#"[{"Id":"a","Ports":[{"PrivatePort":80,"Type":"tcp"}]}]"#,
            &[],
            &[],
        );
        check(
            r#"[{"Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                          {"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}]},
                {"Ports":[{"IP":"0.0.0.0","PrivatePort":53,"PublicPort":53,"Type":"udp"},
                          {"IP":"0.0.0.0","PrivatePort":9,"PublicPort":9,"Type":"sctp"}]}]"#,
            &["53/udp", "8080/tcp"],
            &["9/sctp"],
        );
    }

    #[test]
    fn a_port_on_the_guests_own_loopback_is_a_problem_unless_it_is_elsewhere_too() {
        check(
            r#"[{"Ports":[{"IP":"127.0.0.1","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}]}]"#,
            &[],
            &["8080/tcp"],
        );
        check(
            r#"[{"Ports":[{"IP":"127.0.0.1","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                          {"IP":"0.0.0.0","PrivatePort":81,"PublicPort":8080,"Type":"tcp"}]}]"#,
            &["8080/tcp"],
            &[],
        );
    }

    #[test]
    fn forwards_are_bound_to_the_machines_address_only() {
        let port = Port {
            number: 8080,
            protocol: Protocol::Tcp,
        };
        let ip = Ipv4Addr::new(127, 20, 3, 4);
        assert_eq!(add(ip, port), "hostfwd_add net tcp:127.20.3.4:8080-:8080");
        assert_eq!(remove(ip, port), "hostfwd_remove net tcp:127.20.3.4:8080");
    }

    #[test]
    fn what_another_keeper_opened_is_known() {
        let told = ["8080/tcp", "53/udp", "x/tcp", "9/sctp", ""].map(str::to_owned);
        let forwards = Forwards::new(Ipv4Addr::LOCALHOST, &told);
        let open: Vec<String> = forwards.open.iter().map(Port::to_string).collect();
        assert_eq!(open, ["53/udp", "8080/tcp"]);
    }

    #[test]
    fn a_taken_port_says_so() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let port = Port {
            number,
            protocol: Protocol::Tcp,
        };
        let why = explain(Ipv4Addr::LOCALHOST, port).unwrap();
        assert!(why.contains("another program"), "{why}");
    }

    /// QEMU itself, without a machine in it: UDP as well as TCP is bound and let go again, and what is taken is told.
    #[test]
    fn ports_of_either_protocol_open_and_close() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let process = std::process::Command::new("qemu-system-x86_64")
            .args(["-M", "none", "-display", "none", "-nodefaults", "-S"])
            .args(["-netdev", &format!("user,id={NETWORK}"), "-qmp", "stdio"])
            .stdin(OwnedFd::from(theirs.try_clone().unwrap()))
            .stdout(OwnedFd::from(theirs))
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(mut process) = process else {
            println!("skipped: there is no qemu-system-x86_64 here");
            return;
        };
        let qmp = Qmp::over(ours, Duration::from_secs(60)).unwrap();
        // An address that only this test has.
        let own = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 77 ^ own[1], own[2], own[3] | 1);
        let board = Board::new();
        let mut forwards = Forwards::new(ip, &[]);
        let udp = |number: u16| std::net::UdpSocket::bind((ip, number));
        let taken = udp(40055).unwrap();
        let published = |numbers: &str| -> Wanted {
            let ports = numbers.split_whitespace().map(|port| {
                let (number, protocol) = port.split_once('/').unwrap();
                format!(r#"{{"IP":"0.0.0.0","PublicPort":{number},"Type":"{protocol}"}}"#)
            });
            let ports: Vec<String> = ports.collect();
            let text = format!(r#"[{{"Ports":[{}]}}]"#, ports.join(","));
            wanted(&serde_json::from_str::<Vec<Container>>(&text).unwrap())
        };
        let all = published("40053/tcp 40053/udp 40055/udp 40057/sctp");
        forwards.bring_to(&all, &qmp, &board).unwrap();
        std::net::TcpStream::connect((ip, 40053)).unwrap();
        udp(40053).expect_err("QEMU has it");
        assert_eq!(board.now().ports, ["40053/tcp", "40053/udp"]);
        let another = format!("another program has it on {ip}");
        let problems = forwards.problems();
        assert_eq!(problems["40055/udp"], another);
        assert!(problems["40057/sctp"].contains("inside the machine only"));
        assert_eq!(board.now().port_problems.len(), 2);
        drop(taken);
        forwards.bring_to(&all, &qmp, &board).unwrap();
        udp(40055).expect_err("QEMU has it now");
        let none = Wanted::default();
        forwards.bring_to(&none, &qmp, &board).unwrap();
        for number in [40053, 40055] {
            udp(number).expect("it was let go");
        }
        assert!(forwards.problems().is_empty());
        process.kill().unwrap();
        process.wait().unwrap();
    }
}
