//! `machine scp`: files between this computer and machines, or between two machines, with the system's scp; with `-d` with
//! rsync, which sends only what differs.

use crate::Context;
use crate::failure::Failure;
use clap::Args;
use machine_core::ssh::{SshRoute, how_to_get, shell_word};
use machine_core::store::atomic;
use std::io;
use std::path::PathBuf;
use std::process::Command;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Copy folders with all that is in them
    #[arg(short, long)]
    recursive: bool,
    /// Send only what differs, with rsync
    #[arg(short, long)]
    delta: bool,
    /// No progress, no warnings
    #[arg(short, long)]
    quiet: bool,
    /// [[USER@]MACHINE:]PATH
    source: String,
    /// [[USER@]MACHINE:]PATH
    destination: String,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<u8> {
    let source = End::find(context, &arguments.source)?;
    let destination = End::find(context, &arguments.destination)?;
    let program = if arguments.delta { "rsync" } else { "scp" };
    let mut command = Command::new(program);
    let configuration = match (&source, &destination) {
        (End::There { route: a, .. }, End::There { route: b, .. }) => {
            if arguments.delta {
                return Err(Failure::new(
                    "rsync cannot copy from one machine to another",
                    "leave -d out, or copy to this computer first",
                )
                .into());
            }
            Some(Configuration::write(context, a, b)?)
        }
        _ => None,
    };
    match (&configuration, source.route().or(destination.route())) {
        (Some(configuration), _) => {
            command.arg("-F").arg(&configuration.path).arg("-3");
        }
        (None, Some(route)) if arguments.delta => {
            let ssh: Vec<String> = route.arguments().iter().map(|a| shell_word(a)).collect();
            command.arg("-e").arg(format!("ssh {}", ssh.join(" ")));
            command.arg(if arguments.quiet { "-q" } else { "--progress" });
        }
        (None, Some(route)) => {
            command.args(route.arguments());
        }
        // Both are here: a copy all the same, as docker-machine makes it.
        (None, None) => {}
    }
    if arguments.quiet && !arguments.delta {
        command.arg("-q");
    }
    if arguments.recursive {
        command.arg("-r");
    }
    command.arg("--");
    for (end, alias) in [(&source, SOURCE), (&destination, DESTINATION)] {
        command.arg(match configuration {
            Some(_) => end.by_alias(alias),
            None => end.as_argument(),
        });
    }
    let status = command
        .status()
        .map_err(|error| start_failure(program, error))?;
    drop(configuration);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(crate::exit_code::FAILURE))
}

/// A program of the system that could not be started.
pub(super) fn start_failure(program: &str, error: io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            format!("there is no `{program}` program on this computer"),
            how_to_get(program),
        )
        .into(),
        _ => anyhow::Error::new(error).context(format!("cannot run {program}")),
    }
}

const SOURCE: &str = "berth-source";
const DESTINATION: &str = "berth-destination";

/// One end of a copy.
enum End {
    Here(String),
    There {
        route: Box<SshRoute>,
        user: Option<String>,
        path: String,
    },
}

impl End {
    fn find(context: &Context, text: &str) -> anyhow::Result<End> {
        let Some((user, name, path)) = split(text) else {
            return Ok(End::Here(text.to_owned()));
        };
        if name == "localhost" {
            return Ok(End::Here(path.to_owned()));
        }
        let machine = super::open_running(context, name)?;
        Ok(End::There {
            route: Box::new(machine.ssh_route()?),
            user: user.map(str::to_owned),
            path: path.to_owned(),
        })
    }

    fn route(&self) -> Option<&SshRoute> {
        match self {
            End::Here(_) => None,
            End::There { route, .. } => Some(route),
        }
    }

    fn as_argument(&self) -> String {
        match self {
            End::Here(path) => path.clone(),
            End::There { route, user, path } => route.file_destination(user.as_deref(), path),
        }
    }

    fn by_alias(&self, alias: &str) -> String {
        match self {
            End::There {
                user: Some(user),
                path,
                ..
            } => format!("{user}@{alias}:{path}"),
            End::There { path, .. } => format!("{alias}:{path}"),
            End::Here(path) => path.clone(),
        }
    }
}

/// `[[USER@]MACHINE:]PATH`; `None` where there is no machine in it. `C:\x` and `./a:b` are paths.
pub(super) fn split(text: &str) -> Option<(Option<&str>, &str, &str)> {
    let (before, path) = text.split_once(':')?;
    if before.contains(['/', '\\']) || (cfg!(windows) && before.len() == 1) {
        return None;
    }
    Some(match before.rsplit_once('@') {
        Some((user, name)) => (Some(user), name, path),
        None => (None, before, path),
    })
}

/// The two machines may have different keys, ports and users, which scp takes from a file only. Gone when dropped.
struct Configuration {
    path: PathBuf,
}

impl Configuration {
    fn write(context: &Context, source: &SshRoute, to: &SshRoute) -> anyhow::Result<Configuration> {
        let mut text = source.section(SOURCE) + &to.section(DESTINATION);
        if source.personal || to.personal {
            // Behind ours: in ssh_config the first value counts.
            text.push_str("Host *\n  Include ~/.ssh/config\n");
        }
        let folder = context.machines.store().root();
        let path = folder.join(format!(".scp-{}", std::process::id()));
        atomic::write(&path, text.as_bytes()).map_err(|error| {
            anyhow::Error::new(error).context("cannot write ssh's configuration")
        })?;
        Ok(Configuration { path })
    }
}

impl Drop for Configuration {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_a_copy() {
        assert_eq!(split("dev:/x"), Some((None, "dev", "/x")));
        assert_eq!(split("me@dev:x:y"), Some((Some("me"), "dev", "x:y")));
        assert_eq!(split("localhost:/x"), Some((None, "localhost", "/x")));
        assert_eq!(split("/a:b"), None);
        assert_eq!(split("./a:b"), None);
        assert_eq!(split("plain"), None);
    }
}
