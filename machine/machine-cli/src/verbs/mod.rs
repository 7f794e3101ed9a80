//! The verbs, written out: one file each.

mod active;
mod completion;
mod config;
mod create;
mod env;
mod inspect;
mod ip;
mod kill;
mod later;
mod ls;
mod regenerate_certs;
mod restart;
mod rm;
mod ssh;
mod start;
mod status;
mod stop;
mod url;
pub(crate) mod version;

use crate::failure::Many;
use crate::{Context, exit_code};
use clap::{Args, Subcommand};
use machine_core::driver::FlagValues;
use machine_core::{Machine, MachineError};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print which machine DOCKER_HOST points at
    Active(active::Arguments),
    /// Print a shell's completion script
    Completion(completion::Arguments),
    /// Print the flags that connect a Docker client
    Config(config::Arguments),
    /// Make a machine
    Create(Box<create::Arguments>),
    /// Print the commands that point a shell's Docker clients at a machine
    Env(env::Arguments),
    /// Print what is stored of a machine
    Inspect(inspect::Arguments),
    /// Print machines' addresses
    Ip(Names),
    /// End machines at once
    Kill(Names),
    /// List machines
    #[command(alias = "list")]
    Ls(ls::Arguments),
    /// Stop and start machines
    Restart(Names),
    /// Remove machines
    Rm(rm::Arguments),
    /// Log in to a machine, or run a command in it
    Ssh(ssh::Arguments),
    /// Start machines
    Start(Names),
    /// Print a machine's state
    Status(Name),
    /// Stop machines in order
    Stop(Names),
    /// Print a machine's URL
    Url(Name),
    /// Print this program's version, or that of a machine's engine
    Version(version::Arguments),
    /// Make new certificates for machines
    RegenerateCerts(regenerate_certs::Arguments),
    /// Set up the engine anew (arrives in a later version)
    Provision(later::Arguments),
    /// Upgrade the engine (arrives in a later version)
    Upgrade(later::Arguments),
    /// Copy files (arrives in a later version)
    Scp(later::Arguments),
    /// Mount a machine's folder (arrives in a later version)
    Mount(later::Arguments),
}

/// One machine.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The machine
    #[arg(default_value = "default", hide_default_value = true)]
    name: String,
}

/// Any number of machines.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// The machines
    #[arg(default_value = "default", hide_default_value = true)]
    names: Vec<String>,
}

impl Verb {
    /// Whether stdout is for a program to read, so that remarks belong on stderr.
    pub(crate) fn speaks_on_stderr(&self) -> bool {
        !matches!(
            self,
            Verb::Create(_)
                | Verb::Start(_)
                | Verb::Stop(_)
                | Verb::Restart(_)
                | Verb::Kill(_)
                | Verb::Rm(_)
                | Verb::RegenerateCerts(_)
        )
    }

    pub(crate) fn run(self, context: &Context, driver_values: FlagValues) -> anyhow::Result<u8> {
        match self {
            Verb::Active(arguments) => active::run(context, &arguments)?,
            Verb::Completion(arguments) => completion::run(context, &arguments)?,
            Verb::Config(arguments) => config::run(context, &arguments)?,
            Verb::Create(arguments) => create::run(context, *arguments, driver_values)?,
            Verb::Env(arguments) => env::run(context, &arguments)?,
            Verb::Inspect(arguments) => inspect::run(context, &arguments)?,
            Verb::Ip(names) => ip::run(context, &names)?,
            Verb::Kill(names) => kill::run(context, &names)?,
            Verb::Ls(arguments) => ls::run(context, &arguments)?,
            Verb::Restart(names) => restart::run(context, &names)?,
            Verb::Rm(arguments) => rm::run(context, &arguments)?,
            Verb::Ssh(arguments) => return ssh::run(context, &arguments),
            Verb::Start(names) => start::run(context, &names)?,
            Verb::Status(name) => status::run(context, &name)?,
            Verb::Stop(names) => stop::run(context, &names)?,
            Verb::Url(name) => url::run(context, &name)?,
            Verb::Version(arguments) => version::run(context, &arguments)?,
            Verb::RegenerateCerts(arguments) => regenerate_certs::run(context, &arguments)?,
            Verb::Provision(_) => return Err(later::sorry("provision").into()),
            Verb::Upgrade(_) => return Err(later::sorry("upgrade").into()),
            Verb::Scp(_) => return Err(later::sorry("scp").into()),
            Verb::Mount(_) => return Err(later::sorry("mount").into()),
        }
        Ok(exit_code::SUCCESS)
    }
}

/// Runs one verb on many machines at the same time. Names that are no machines are told before anything is done; failures are
/// told together at the end.
fn for_each(
    context: &Context,
    names: &Names,
    work: impl Fn(&str) -> Result<(), MachineError> + Sync,
) -> anyhow::Result<()> {
    refuse_unknown(context, names)?;
    context.console.catch_interrupts()?;
    let mut unique = names.names.clone();
    unique.sort();
    unique.dedup();
    let errors: Vec<anyhow::Error> = std::thread::scope(|scope| {
        let workers: Vec<_> = unique
            .iter()
            .map(|name| scope.spawn(|| work(name)))
            .collect();
        workers
            .into_iter()
            .filter_map(|worker| worker.join().expect("a verb does not panic").err())
            .map(anyhow::Error::from)
            .collect()
    });
    match errors.is_empty() {
        true => Ok(()),
        false => Err(together(errors)),
    }
}

fn refuse_unknown(context: &Context, names: &Names) -> anyhow::Result<()> {
    let unknown: Vec<anyhow::Error> = names
        .names
        .iter()
        .filter_map(|name| context.machines.store().load(name).err())
        .map(anyhow::Error::from)
        .collect();
    match unknown.is_empty() {
        true => Ok(()),
        false => Err(together(unknown)),
    }
}

fn together(mut errors: Vec<anyhow::Error>) -> anyhow::Error {
    match errors.len() {
        1 => errors.remove(0),
        _ => Many(errors).into(),
    }
}

/// A machine that runs, for verbs that answer questions about running ones.
fn open_running(context: &Context, name: &str) -> Result<Machine, MachineError> {
    let machine = context.machines.open(name)?;
    machine.require_running()?;
    Ok(machine)
}
