//! `machine ssh`: the system's ssh program with the machine's key and a pinned host key. All that follows the machine's name goes to ssh
//! as it is, so `-L`, `-A` and `-t` work; ssh's exit status is ours. With `--native-ssh`, and where there is no such program,
//! we log in ourselves.

use crate::{Context, native_ssh};
use anyhow::Context as _;
use clap::Args;
use std::ffi::OsString;
use std::io;
use std::process::Command;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machine, then a command or options for ssh
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_names = ["NAME", "ARGUMENT"],
        add = clap_complete::ArgValueCandidates::new(super::completion::machines)
    )]
    rest: Vec<OsString>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<u8> {
    let (name, rest) = match arguments.rest.split_first() {
        Some((name, rest)) => (name.to_string_lossy().into_owned(), rest),
        None => ("default".to_owned(), &[][..]),
    };
    let machine = super::open_running(context, &name)?;
    let natively = || {
        let words: Vec<String> = rest
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        native_ssh::run(&machine, &words)
    };
    if context.native_ssh {
        return natively();
    }
    let mut command = machine.ssh_route()?.command();
    command.args(rest);
    match run_in_our_place(&mut command) {
        Ok(code) => Ok(code),
        Err(error) if error.kind() == io::ErrorKind::NotFound && machine.ssh_key().is_some() => {
            natively().context("there is no `ssh` program on this computer, and without it")
        }
        Err(error) => Err(super::scp::start_failure("ssh", error)),
    }
}

/// The program replaces us, so that signals and the exit status are its own.
#[cfg(unix)]
pub(super) fn run_in_our_place(command: &mut Command) -> io::Result<u8> {
    use std::os::unix::process::CommandExt;
    Err(command.exec())
}

#[cfg(not(unix))]
pub(super) fn run_in_our_place(command: &mut Command) -> io::Result<u8> {
    let status = command.status()?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(crate::exit_code::FAILURE))
}
