//! `machine env`: what a shell evaluates to point Docker clients at a machine.

use super::config::CONNECT_TIMEOUT;
use crate::Context;
use crate::failure::Failure;
use crate::shell::Shell;
use clap::Args;
use clap_complete::ArgValueCandidates;
use machine_core::{Machine, MachineError};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machine
    #[arg(add = ArgValueCandidates::new(super::completion::machines))]
    name: Option<String>,
    /// The shell to write for: bash, zsh, sh, fish, powershell, cmd, tcsh, emacs, nushell, elvish, xonsh; or dotenv, json [default: the one in use]
    #[arg(long)]
    shell: Option<String>,
    /// Unset the variables instead
    #[arg(short, long)]
    unset: bool,
    /// Also keep the machine's address from going through a proxy
    #[arg(long)]
    no_proxy: bool,
    /// Classic Swarm is not supported
    #[arg(long, hide = true)]
    swarm: bool,
}

const VARIABLES: [&str; 4] = [
    "DOCKER_TLS_VERIFY",
    "DOCKER_HOST",
    "DOCKER_CERT_PATH",
    "DOCKER_MACHINE_NAME",
];
/// Compose converts paths with it; only Windows needs it.
const COMPOSE_PATHS: &str = "COMPOSE_CONVERT_WINDOWS_PATHS";

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    refuse_swarm(arguments.swarm)?;
    let shell = match arguments.shell.as_deref() {
        Some(name) if !name.is_empty() => Shell::named(name),
        _ => Shell::detect(),
    };
    let lines = match (&arguments.name, arguments.unset) {
        (Some(_), true) => {
            return Err(Failure::new(
                "Expected no machine name when the -u flag is present",
                "leave the name out",
            )
            .into());
        }
        (None, true) => unset(shell, arguments.no_proxy),
        (name, false) => {
            let name = name.as_deref().unwrap_or("default");
            let machine = context.machines.open(name)?;
            machine.connect(CONNECT_TIMEOUT)?;
            set(shell, &Environment::of(&machine, arguments.no_proxy)?)
        }
    };
    for line in lines {
        context.console.print(&line);
    }
    if let Some(hint) = shell.hint(&context.typed) {
        context.console.print(&hint);
    }
    Ok(())
}

/// What points Docker clients at a machine.
pub(super) struct Environment {
    host: String,
    cert_path: String,
    name: String,
    /// The address to add to NO_PROXY.
    no_proxy: Option<String>,
}

impl Environment {
    pub(super) fn of(machine: &Machine, no_proxy: bool) -> Result<Environment, MachineError> {
        Ok(Environment {
            host: machine.url()?,
            cert_path: machine.place.folder.display().to_string(),
            name: machine.name().to_owned(),
            no_proxy: match no_proxy {
                true => Some(machine.address()?.ip.to_string()),
                false => None,
            },
        })
    }

    /// Names and values, in docker-machine's order.
    pub(super) fn variables(&self) -> Vec<(&'static str, String)> {
        let values = ["1", &self.host, &self.cert_path, &self.name];
        let mut variables: Vec<(&str, String)> = VARIABLES
            .iter()
            .zip(values)
            .map(|(name, value)| (*name, value.to_owned()))
            .collect();
        if cfg!(windows) {
            variables.push((COMPOSE_PATHS, "true".to_owned()));
        }
        if let Some(address) = &self.no_proxy {
            let (name, value) = no_proxy();
            variables.push((name, with_entry(&value, address)));
        }
        variables
    }
}

fn set(shell: Shell, environment: &Environment) -> Vec<String> {
    shell.set_all(&environment.variables())
}

fn unset(shell: Shell, also_no_proxy: bool) -> Vec<String> {
    let mut variables: Vec<(&str, Option<String>)> =
        VARIABLES.iter().map(|name| (*name, None)).collect();
    if cfg!(windows) {
        variables.push((COMPOSE_PATHS, None));
    }
    if also_no_proxy {
        let (name, value) = no_proxy();
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        let rest = without_entry(&value, address_of(&host));
        variables.push((name, Some(rest).filter(|rest| !rest.is_empty())));
    }
    shell.unset_all(&variables)
}

/// The variable in use and its value: the lower-case one if it is set.
fn no_proxy() -> (&'static str, String) {
    match std::env::var("no_proxy") {
        Ok(value) if !value.is_empty() => ("no_proxy", value),
        _ => ("NO_PROXY", std::env::var("NO_PROXY").unwrap_or_default()),
    }
}

fn with_entry(list: &str, entry: &str) -> String {
    if list.split(',').any(|has| has.trim() == entry) {
        return list.to_owned();
    }
    match list.is_empty() {
        true => entry.to_owned(),
        false => format!("{list},{entry}"),
    }
}

/// What others put there stays.
fn without_entry(list: &str, entry: &str) -> String {
    let rest: Vec<&str> = list.split(',').filter(|has| has.trim() != entry).collect();
    rest.join(",")
}

/// The address in `tcp://ADDRESS:PORT`.
fn address_of(docker_host: &str) -> &str {
    let rest = docker_host.split("://").nth(1).unwrap_or("");
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

pub(super) fn refuse_swarm(swarm: bool) -> Result<(), Failure> {
    if swarm {
        return Err(Failure::new(
            "--swarm is for classic Swarm, which has ended",
            "leave it out",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What each shell gets, for machines and for --unset, hint included.
    #[test]
    fn every_shell() {
        let environment = Environment {
            host: "tcp://127.40.0.2:2376".into(),
            cert_path: "/home/me/.docker/machine/machines/dev".into(),
            name: "dev".into(),
            no_proxy: None,
        };
        let mut text = String::new();
        for name in [
            "bash",
            "fish",
            "powershell",
            "cmd",
            "tcsh",
            "emacs",
            "nushell",
            "elvish",
            "xonsh",
            "dotenv",
            "json",
        ] {
            let shell = Shell::named(name);
            let typed = ["machine", "env", "--shell", name, "dev"].map(String::from);
            let unset_typed = ["machine", "env", "--shell", name, "-u"].map(String::from);
            text.push_str(&format!("== {name}\n"));
            text.push_str(&set(shell, &environment).join("\n"));
            text.push_str(&format!("\n{}\n", shell.hint(&typed).unwrap_or_default()));
            text.push_str(&format!("== {name} --unset\n"));
            text.push_str(&unset(shell, false).join("\n"));
            text.push_str(&format!(
                "\n{}\n",
                shell.hint(&unset_typed).unwrap_or_default()
            ));
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn no_proxy_keeps_what_others_put_there() {
        assert_eq!(with_entry("", "127.40.0.2"), "127.40.0.2");
        assert_eq!(with_entry("a,b", "127.40.0.2"), "a,b,127.40.0.2");
        assert_eq!(with_entry("a,127.40.0.2", "127.40.0.2"), "a,127.40.0.2");
        assert_eq!(
            with_entry("127.40.0.22", "127.40.0.2"),
            "127.40.0.22,127.40.0.2"
        );
        assert_eq!(without_entry("a,127.40.0.2,b", "127.40.0.2"), "a,b");
        assert_eq!(without_entry("127.40.0.2", "127.40.0.2"), "");
        assert_eq!(address_of("tcp://127.40.0.2:2376"), "127.40.0.2");
        assert_eq!(address_of("tcp://[::1]:2376"), "::1");
    }
}
