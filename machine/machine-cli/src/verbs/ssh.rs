//! `machine ssh`: the system's ssh program with the machine's key and a pinned host key. All that follows the machine's name goes to ssh
//! as it is, so `-L`, `-A` and `-t` work; ssh's exit status is ours.

use crate::Context;
use crate::failure::Failure;
use clap::Args;
use machine_core::store::layout;
use machine_core::{Machine, MachineError};
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::Command;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machine, then a command or options for ssh
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_names = ["NAME", "ARGUMENT"]
    )]
    rest: Vec<OsString>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<u8> {
    let (name, rest) = match arguments.rest.split_first() {
        Some((name, rest)) => (name.to_string_lossy().into_owned(), rest),
        None => ("default".to_owned(), &[][..]),
    };
    let machine = super::open_running(context, &name)?;
    let mut command = Command::new("ssh");
    command.args(options(&machine)?).args(rest);
    let error = match run_in_our_place(&mut command) {
        Ok(code) => return Ok(code),
        Err(error) => error,
    };
    Err(match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            "there is no `ssh` program on this computer",
            "install OpenSSH's client (Debian, Ubuntu: apt install openssh-client)",
        )
        .into(),
        _ => anyhow::Error::new(error).context("cannot run ssh"),
    })
}

/// ssh replaces us, so that signals and the exit status are its own.
#[cfg(unix)]
fn run_in_our_place(command: &mut Command) -> io::Result<u8> {
    use std::os::unix::process::CommandExt;
    Err(command.exec())
}

#[cfg(not(unix))]
fn run_in_our_place(command: &mut Command) -> io::Result<u8> {
    let status = command.status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(crate::exit_code::FAILURE))
}

fn options(machine: &Machine) -> Result<Vec<String>, MachineError> {
    let address = machine.address()?;
    let known_hosts = machine.place.folder.join(layout::KNOWN_HOSTS);
    let mut options = vec![
        // The user's own file is for other hosts; it must not change what happens here.
        "-F".into(),
        "none".into(),
        option("ConnectionAttempts", "3"),
        option("ConnectTimeout", "10"),
        option("ControlMaster", "no"),
        option("ControlPath", "none"),
        option("LogLevel", "ERROR"),
        option("PasswordAuthentication", "no"),
        option("ServerAliveInterval", "60"),
        // The host's key is taken the first time and must be the same ever after.
        option("StrictHostKeyChecking", "accept-new"),
        option("UserKnownHostsFile", &quoted(&known_hosts)),
    ];
    if let Some(key) = machine.ssh_key() {
        options.push(option("IdentitiesOnly", "yes"));
        options.push("-i".into());
        options.push(key.to_string_lossy().into_owned());
    }
    options.push("-p".into());
    options.push(address.ssh_port.to_string());
    options.push(format!("{}@{}", address.ssh_user, address.ip));
    Ok(options)
}

fn option(name: &str, value: &str) -> String {
    format!("-o{name}={value}")
}

/// ssh splits such values at spaces and replaces words after a percent sign.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.to_string_lossy().replace('%', "%%"))
}
