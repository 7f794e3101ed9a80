//! `machine mount`: a folder of a machine as a folder here, with the system's sshfs.

use crate::Context;
use crate::failure::Failure;
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Take the mount away
    #[arg(short, long)]
    unmount: bool,
    /// [USER@]MACHINE:PATH
    source: String,
    /// The folder here [default: the same path as in the machine]
    folder: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<u8> {
    let Some((user, name, path)) = super::scp::split(&arguments.source) else {
        return Err(Failure::new(
            format!("{:?} names no machine", arguments.source),
            "give MACHINE:PATH, for example dev:/var/lib",
        )
        .into());
    };
    let folder = arguments
        .folder
        .clone()
        .unwrap_or_else(|| PathBuf::from(path));
    let (program, mut command) = if arguments.unmount {
        // The machine may be stopped or gone: a mount can be taken away all the same.
        context.machines.store().place(name)?;
        unmount(&folder)
    } else {
        let route = super::open_running(context, name)?.ssh_route()?;
        if !folder.is_dir() {
            return Err(Failure::new(
                format!("{} is not a folder", folder.display()),
                format!("make it first: mkdir -p {}", folder.display()),
            )
            .into());
        }
        let mut command = Command::new("sshfs");
        command
            .arg(route.file_destination(user, path))
            .arg(&folder)
            .args(for_sshfs(&route.arguments()));
        ("sshfs", command)
    };
    let status = command
        .status()
        .map_err(|error| super::scp::start_failure(program, error))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(crate::exit_code::FAILURE))
}

fn unmount(folder: &Path) -> (&'static str, Command) {
    let program = match cfg!(target_os = "linux") {
        true => "fusermount",
        false => "umount",
    };
    let mut command = Command::new(program);
    if program == "fusermount" {
        command.arg("-u");
    }
    command.arg(folder);
    (program, command)
}

/// sshfs splits the values of -o at commas.
fn for_sshfs(arguments: &[String]) -> Vec<String> {
    arguments
        .iter()
        .map(|argument| match argument.starts_with("-o") {
            true => argument.replace('\\', "\\\\").replace(',', "\\,"),
            false => argument.clone(),
        })
        .collect()
}
