//! A machine that someone else made and keeps: only its address is remembered.

use crate::host;
use machine_core::driver::{
    Address, Capabilities, Driver, DriverError, DriverState, Flag, FlagKind, FlagValues,
    MachinePlace, Status,
};

const URL_FLAG: &str = "url";
/// docker-machine's key for it.
const URL_KEY: &str = "URL";
/// Port of a `tcp://` address that names none.
const DEFAULT_PORT: u16 = guest_contract::API_PORT;

pub struct NoneDriver;

impl Driver for NoneDriver {
    fn name(&self) -> &'static str {
        "none"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    fn flags(&self) -> Result<Vec<Flag>, DriverError> {
        Ok(vec![Flag {
            name: URL_FLAG,
            aliases: &[],
            help: "URL of the host's engine, for example tcp://192.0.2.7:2376",
            environment: None,
            kind: FlagKind::Text(""),
        }])
    }

    fn check(&self, _place: &MachinePlace, values: &FlagValues) -> Result<(), DriverError> {
        host_and_port(url_of(values)?).map(drop)
    }

    fn plan(&self, place: &MachinePlace, values: &FlagValues) -> Result<DriverState, DriverError> {
        let url = url_of(values)?;
        let (host, _) = host_and_port(url)?;
        let mut state = DriverState::new();
        state.insert("MachineName".into(), place.name.clone().into());
        state.insert("IPAddress".into(), host.into());
        state.insert(URL_KEY.into(), url.into());
        Ok(state)
    }

    /// There is no provider to ask: as with docker-machine such a machine counts as running.
    fn status(&self, _place: &MachinePlace, _state: &DriverState) -> Result<Status, DriverError> {
        Ok(Status::Running)
    }

    fn address(&self, _place: &MachinePlace, state: &DriverState) -> Result<Address, DriverError> {
        let url = state
            .get(URL_KEY)
            .and_then(|url| url.as_str())
            .unwrap_or_default();
        let (host, port) = host_and_port(url)?;
        Ok(Address {
            ip: host::resolve(&host, port)?,
            api_port: port,
            ssh_port: 22,
            ssh_user: String::new(),
            ssh_host: None,
        })
    }
}

fn url_of(values: &FlagValues) -> Result<&str, DriverError> {
    values
        .text(URL_FLAG)
        .ok_or_else(|| DriverError::InvalidFlag {
            flag: URL_FLAG.into(),
            why: "the driver none needs the URL of an engine, for example tcp://192.0.2.7:2376"
                .into(),
        })
}

/// Host and port of `tcp://host[:port]`; IPv6 addresses stand in brackets.
fn host_and_port(url: &str) -> Result<(String, u16), DriverError> {
    let wrong = |why: &str| DriverError::InvalidFlag {
        flag: URL_FLAG.into(),
        why: format!("{why}: {url:?}"),
    };
    let rest = url
        .strip_prefix("tcp://")
        .ok_or_else(|| wrong("only tcp:// URLs can be used"))?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(inner) => {
            let (host, after) = inner
                .split_once(']')
                .ok_or_else(|| wrong("a bracket is missing"))?;
            (host, after.strip_prefix(':'))
        }
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(wrong("there is no host in"));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| wrong("the port is not a number from 1 to 65535"))?,
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Option<(&str, u16)>) {
        let found = host_and_port(url).ok();
        assert_eq!(
            found,
            expected.map(|(host, port)| (host.to_owned(), port)),
            "{url}"
        );
    }

    #[test]
    fn urls() {
        check("tcp://192.0.2.7:2376", Some(("192.0.2.7", 2376)));
        check("tcp://host.example/", Some(("host.example", 2376)));
        check("tcp://[2001:db8::1]:99", Some(("2001:db8::1", 99)));
        check("tcp://[2001:db8::1", None);
        check("unix:///run/x.sock", None);
        check("tcp://:2376", None);
        check("tcp://h:0", None);
        check("tcp://h:70000", None);
        check("tcp://user@h", None);
        check("", None);
    }
}
