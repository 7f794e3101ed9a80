//! A Linux host that somebody else made, reached over ssh: the engine is installed there, the host itself is never
//! started, stopped or removed by us.
//!
//! The host may be an address, a DNS name or a name of `~/.ssh/config`; that file, the ssh agent and jump hosts count,
//! since it is the person's own host and not ours.

use crate::host;
use machine_core::driver::{
    Address, Capabilities, Driver, DriverError, DriverState, Flag, FlagKind, FlagValues,
    MachinePlace, RemoteSettings, Status,
};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

const HOST_FLAG: &str = "generic-ip-address";
const SOCKET_FLAG: &str = "generic-docker-socket";
const DEFAULT_USER: &str = "root";
const DIAL_WITHIN: Duration = Duration::from_secs(3);
/// The host is there already: a boot is not waited for.
const LOG_IN_WITHIN: Duration = Duration::from_secs(30);

pub struct GenericDriver;

impl Driver for GenericDriver {
    fn name(&self) -> &'static str {
        "generic"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            boots_our_image: false,
            provisions_over_ssh: true,
            start_stop: false,
        }
    }

    fn flags(&self) -> Result<Vec<Flag>, DriverError> {
        Ok(vec![
            Flag {
                name: HOST_FLAG,
                aliases: &[],
                help: "The host: an address, a DNS name or a name of ~/.ssh/config",
                environment: Some("GENERIC_IP_ADDRESS"),
                kind: FlagKind::Text(""),
            },
            Flag {
                name: "generic-ssh-user",
                aliases: &[],
                help: "The user to log in as (default: what ~/.ssh/config says, else root)",
                environment: Some("GENERIC_SSH_USER"),
                kind: FlagKind::Text(""),
            },
            Flag {
                name: "generic-ssh-key",
                aliases: &[],
                help: "The private key to log in with (default: the ssh agent's and the usual ones)",
                environment: Some("GENERIC_SSH_KEY"),
                kind: FlagKind::Text(""),
            },
            Flag {
                name: "generic-ssh-port",
                aliases: &[],
                help: "The port of ssh (default: what ~/.ssh/config says, else 22)",
                environment: Some("GENERIC_SSH_PORT"),
                kind: FlagKind::Int(0),
            },
            Flag {
                name: "generic-engine-port",
                aliases: &[],
                help: "The port of the engine",
                environment: Some("GENERIC_ENGINE_PORT"),
                kind: FlagKind::Int(guest_contract::API_PORT as i64),
            },
            Flag {
                name: "generic-agent",
                aliases: &[],
                help: "The engine's program for the host's architecture (default: the one that came with this program)",
                environment: Some("MACHINE_AGENT"),
                kind: FlagKind::Text(""),
            },
            Flag {
                name: "generic-take-over",
                aliases: &[],
                help: "Take over an engine of ours that trusts another authority",
                environment: None,
                kind: FlagKind::Bool,
            },
            Flag {
                name: SOCKET_FLAG,
                aliases: &[],
                help: "Use the Docker engine that listens at this socket of the host and install none (`machine adopt` does this)",
                environment: None,
                kind: FlagKind::Text(""),
            },
        ])
    }

    fn check(&self, place: &MachinePlace, values: &FlagValues) -> Result<(), DriverError> {
        let state = self.plan(place, values)?;
        self.address(place, &state)?;
        if let Some(key) = values.text("generic-ssh-key")
            && !std::path::Path::new(key).is_file()
        {
            return Err(DriverError::InvalidFlag {
                flag: "generic-ssh-key".into(),
                why: format!("{key} is no file"),
            });
        }
        Ok(())
    }

    fn plan(&self, place: &MachinePlace, values: &FlagValues) -> Result<DriverState, DriverError> {
        let host = values
            .text(HOST_FLAG)
            .ok_or_else(|| DriverError::InvalidFlag {
                flag: HOST_FLAG.into(),
                why: "the driver generic needs a host, for example 192.0.2.7 or a name of ~/.ssh/config".into(),
            })?;
        if host.starts_with('-') || host.contains([' ', '/', '@']) {
            return Err(DriverError::InvalidFlag {
                flag: HOST_FLAG.into(),
                why: format!("{host:?} is no host; the user is named with --generic-ssh-user"),
            });
        }
        let port = |flag: &str, default: i64, least: i64| {
            let port = values.int(flag).unwrap_or(default);
            match (least..=65535).contains(&port) {
                true => Ok(port),
                false => Err(DriverError::InvalidFlag {
                    flag: flag.into(),
                    why: "a port is a number from 1 to 65535".into(),
                }),
            }
        };
        let configured = Configured::of(host)?;
        let user = values
            .text("generic-ssh-user")
            .map(str::to_owned)
            .unwrap_or_else(|| match configured.user_is_named {
                true => String::new(),
                false => DEFAULT_USER.to_owned(),
            });
        let absolute = |path: &str| {
            std::path::absolute(path)
                .map(|path| path.to_string_lossy().into_owned())
                .map_err(|error| DriverError::failed(format!("find {path}"), error))
        };
        let mut state = DriverState::new();
        let mut put = |key: &str, value: serde_json::Value| state.insert(key.into(), value);
        put("MachineName", place.name.clone().into());
        put("IPAddress", configured.host.clone().into());
        put("SSHHost", host.into());
        put("SSHUser", user.into());
        put("SSHPort", port("generic-ssh-port", 0, 0)?.into());
        put(
            "SSHKeyPath",
            match values.text("generic-ssh-key") {
                Some(key) => absolute(key)?,
                None => String::new(),
            }
            .into(),
        );
        put(
            "EnginePort",
            port("generic-engine-port", guest_contract::API_PORT.into(), 1)?.into(),
        );
        put("DialPort", configured.port.into());
        if let Some(agent) = values.text("generic-agent") {
            put("Agent", absolute(agent)?.into());
        }
        if values.bool("generic-take-over") {
            put("TakeOver", true.into());
        }
        if let Some(socket) = values.text(SOCKET_FLAG) {
            if !is_plain_path(socket) {
                return Err(DriverError::InvalidFlag {
                    flag: SOCKET_FLAG.into(),
                    why: format!("{socket:?} is no full path of letters, digits and . _ - /"),
                });
            }
            put("DockerSocket", socket.into());
        }
        Ok(state)
    }

    /// Somebody answers at the engine's port, or at ssh's.
    fn status(&self, place: &MachinePlace, state: &DriverState) -> Result<Status, DriverError> {
        let Ok(address) = self.address(place, state) else {
            // A name that is not found today.
            return Ok(Status::Stopped);
        };
        let dial = number(state, "DialPort").or(number(state, "SSHPort"));
        let ports = [Some(address.api_port), dial];
        let up = ports.into_iter().flatten().any(|port| {
            let socket = SocketAddr::new(address.ip, port);
            TcpStream::connect_timeout(&socket, DIAL_WITHIN).is_ok()
        });
        Ok(if up { Status::Running } else { Status::Stopped })
    }

    fn address(&self, _place: &MachinePlace, state: &DriverState) -> Result<Address, DriverError> {
        let text = |key: &str| state.get(key).and_then(|value| value.as_str());
        let host = text("IPAddress").unwrap_or_default();
        let api_port = number(state, "EnginePort").unwrap_or(guest_contract::API_PORT);
        Ok(Address {
            ip: host::resolve(host, api_port)?,
            api_port,
            ssh_port: number(state, "SSHPort").unwrap_or(0),
            ssh_user: text("SSHUser").unwrap_or_default().to_owned(),
            // A record of docker-machine has no name for ssh: there the address is all that is known.
            ssh_host: Some(text("SSHHost").unwrap_or(host).to_owned()),
        })
    }

    fn remote(&self, _place: &MachinePlace, state: &DriverState) -> RemoteSettings {
        RemoteSettings {
            agent: state
                .get("Agent")
                .and_then(|path| path.as_str())
                .map(PathBuf::from),
            take_over: state.get("TakeOver").and_then(|v| v.as_bool()) == Some(true),
            patience: LOG_IN_WITHIN,
            adopts: state
                .get("DockerSocket")
                .and_then(|socket| socket.as_str())
                .map(str::to_owned),
        }
    }
}

/// It becomes part of a service's file, where other signs mean something.
fn is_plain_path(path: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    path.starts_with('/') && path.chars().all(plain)
}

fn number(state: &DriverState, key: &str) -> Option<u16> {
    let port = state.get(key)?.as_u64()?;
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// What the person's ssh configuration says of a host.
#[derive(Debug, PartialEq, Eq)]
struct Configured {
    host: String,
    port: u16,
    /// The user comes from the configuration, not from who is logged in here.
    user_is_named: bool,
}

impl Configured {
    fn of(host: &str) -> Result<Configured, DriverError> {
        let output = Command::new("ssh")
            .args(["-G", "--", host])
            .stdin(Stdio::null())
            .output();
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(DriverError::NotReady {
                    what: "there is no `ssh` program on this computer".into(),
                    hint: machine_core::ssh::how_to_get("ssh").into(),
                });
            }
            other => other.map_err(|error| DriverError::failed("run ssh", error))?,
        };
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(DriverError::failed("read the ssh configuration", why));
        }
        let nobody = ["USER", "LOGNAME", "USERNAME"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
        Ok(Configured::read(
            &String::from_utf8_lossy(&output.stdout),
            host,
            nobody.as_deref(),
        ))
    }

    /// `ssh -G` names the person logged in here where the configuration names nobody.
    fn read(text: &str, host: &str, person: Option<&str>) -> Configured {
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        };
        Configured {
            host: value("hostname").unwrap_or(host).to_owned(),
            port: value("port")
                .and_then(|port| port.parse().ok())
                .unwrap_or(22),
            user_is_named: value("user").is_some_and(|user| {
                person != Some(user) && (person.is_some() || user != DEFAULT_USER)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine_core::driver::FlagValue;
    use std::path::Path;

    #[test]
    fn the_persons_configuration_is_read() {
        let text = "host db\nuser admin\nhostname 192.0.2.7\nport 2200\nproxyjump x\n";
        let expected = Configured {
            host: "192.0.2.7".into(),
            port: 2200,
            user_is_named: true,
        };
        assert_eq!(Configured::read(text, "db", Some("me")), expected);
        let unnamed = Configured::read("user me\nhostname db\nport 22\n", "db", Some("me"));
        assert!(!unnamed.user_is_named);
    }

    #[test]
    fn a_machine_of_docker_machine_is_understood() {
        let place = MachinePlace {
            name: "old".into(),
            folder: "/s/machines/old".into(),
            store: Path::new("/s").into(),
        };
        let state: DriverState = serde_json::from_str(
            r#"{"IPAddress":"192.0.2.7","MachineName":"old","SSHUser":"root","SSHPort":22,
                "SSHKeyPath":"/s/machines/old/id_rsa","StorePath":"/s","EnginePort":2376,"SSHKey":"/k"}"#,
        )
        .unwrap();
        let address = GenericDriver.address(&place, &state).unwrap();
        assert_eq!((address.api_port, address.ssh_port), (2376, 22));
        assert_eq!(address.ssh_host.as_deref(), Some("192.0.2.7"));
    }

    #[test]
    fn the_socket_of_another_engine_is_remembered() {
        let place = MachinePlace {
            name: "x".into(),
            folder: "/x".into(),
            store: "/".into(),
        };
        let plan = |socket: &str| {
            let text = |text: &str| FlagValue::Text(text.into());
            let values = [
                (HOST_FLAG.to_owned(), text("192.0.2.7")),
                (SOCKET_FLAG.to_owned(), text(socket)),
            ];
            GenericDriver.plan(&place, &FlagValues(values.into()))
        };
        let adopts = |socket: &str| GenericDriver.remote(&place, &plan(socket).unwrap()).adopts;
        assert_eq!(
            adopts("/run/docker.sock").as_deref(),
            Some("/run/docker.sock")
        );
        assert_eq!(adopts(""), None);
        for bad in ["run/docker.sock", "/run/a b", "/run/$(id)", "/run/'"] {
            assert!(plan(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        let place = MachinePlace {
            name: "x".into(),
            folder: "/x".into(),
            store: "/".into(),
        };
        for host in ["", "-oProxyCommand=touch", "root@h", "a b"] {
            let mut values = FlagValues::default();
            values
                .0
                .insert(HOST_FLAG.into(), FlagValue::Text(host.into()));
            let error = GenericDriver.plan(&place, &values).unwrap_err();
            assert!(matches!(error, DriverError::InvalidFlag { .. }), "{error}");
        }
    }
}
