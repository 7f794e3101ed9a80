//! `machine use`: a shell, or one command, whose Docker clients talk to a machine. A program cannot change the variables of the
//! shell that called it, so it starts a new one.

use super::config::CONNECT_TIMEOUT;
use super::env;
use crate::Context;
use clap::Args;
use clap_complete::ArgValueCandidates;
use std::ffi::OsString;
use std::process::Command;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machine
    #[arg(add = ArgValueCandidates::new(super::completion::machines))]
    name: String,
    /// Run this instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<u8> {
    let machine = context.machines.open(&arguments.name)?;
    machine.connect(CONNECT_TIMEOUT)?;
    let (program, rest) = match arguments.command.split_first() {
        Some((program, rest)) => (program.clone(), rest),
        None => {
            let shell = shell();
            context.console.say_to_person(&format!(
                "Docker clients of this shell use the machine \"{}\"; `exit` ends it.",
                machine.name()
            ));
            (shell, &[][..])
        }
    };
    let mut command = Command::new(&program);
    command.args(rest);
    for (name, value) in env::Environment::of(&machine, false)?.variables() {
        command.env(name, value);
    }
    let error = match super::ssh::run_in_our_place(&mut command) {
        Ok(code) => return Ok(code),
        Err(error) => error,
    };
    Err(anyhow::Error::new(error).context(format!("cannot run {}", program.to_string_lossy())))
}

/// The shell in use.
fn shell() -> OsString {
    let named = std::env::var_os(if cfg!(windows) { "COMSPEC" } else { "SHELL" });
    named
        .filter(|shell| !shell.is_empty())
        .unwrap_or_else(|| if cfg!(windows) { "cmd" } else { "sh" }.into())
}
