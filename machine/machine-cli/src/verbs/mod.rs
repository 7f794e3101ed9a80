//! The verbs, written out: one file each.

mod active;
mod adopt;
mod apply;
mod attach;
mod autostart;
mod clone;
pub(crate) mod completion;
mod config;
mod context;
mod create;
mod diagnose;
mod env;
mod export;
mod import;
mod inspect;
mod ip;
mod kill;
mod logs;
mod ls;
mod man;
mod mount;
mod protect;
mod provision;
mod regenerate_certs;
mod rename;
mod restart;
mod resume;
mod rm;
mod scp;
mod set;
mod snapshot;
mod ssh;
mod start;
mod status;
mod stop;
mod suspend;
mod upgrade;
mod url;
mod use_machine;
pub(crate) mod version;

use crate::failure::Many;
use crate::{Context, exit_code};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
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
    Status(status::Arguments),
    /// Stop machines in order
    Stop(Names),
    /// Print a machine's URL
    Url(Name),
    /// Print this program's version, or that of a machine's engine
    Version(version::Arguments),
    /// Make new certificates for machines
    RegenerateCerts(regenerate_certs::Arguments),
    /// Set up the engine of machines anew
    Provision(Names),
    /// Bring the engine of machines to this program's version
    Upgrade(Names),
    /// Copy files between this computer and machines
    Scp(scp::Arguments),
    /// Mount a machine's folder here, with sshfs
    Mount(mount::Arguments),
    /// Write a Docker context for a machine
    Context(context::Arguments),
    /// Start a shell, or run a command, whose Docker clients talk to a machine
    #[command(name = "use")]
    UseMachine(use_machine::Arguments),
    /// Change what a machine is made of
    Set(set::Arguments),
    /// Put machines to sleep, their memory on disk
    Suspend(Names),
    /// Wake suspended machines
    Resume(Names),
    /// Keep copies of a machine's disks
    Snapshot(snapshot::Arguments),
    /// Copy a machine
    Clone(clone::Arguments),
    /// Give a machine another name
    Rename(rename::Arguments),
    /// Keep machines from being removed
    Protect(protect::Arguments),
    /// Start a machine when you log in
    Autostart(autostart::Arguments),
    /// Show a machine's console and its keeper's log
    Logs(logs::Arguments),
    /// Write a file for whoever helps, without secrets
    Diagnose(diagnose::Arguments),
    /// Write a machine to one file
    Export(export::Arguments),
    /// Make a machine of an exported file
    Import(import::Arguments),
    /// Remember an engine that was set up elsewhere
    Attach(attach::Arguments),
    /// Make a machine of a host whose Docker engine runs already
    Adopt(adopt::Arguments),
    /// Make and change machines as a file declares them
    Apply(apply::Arguments),
    /// Write manual pages
    #[command(hide = true)]
    Man(man::Arguments),
}

/// One machine.
#[derive(Debug, Args)]
pub(crate) struct Name {
    /// The machine
    #[arg(default_value = "default", hide_default_value = true, add = ArgValueCandidates::new(completion::machines))]
    name: String,
}

/// Any number of machines.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// The machines
    #[arg(default_value = "default", hide_default_value = true, add = ArgValueCandidates::new(completion::machines))]
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
                | Verb::Provision(_)
                | Verb::Upgrade(_)
                | Verb::Suspend(_)
                | Verb::Resume(_)
                | Verb::Snapshot(_)
                | Verb::Clone(_)
                | Verb::Rename(_)
                | Verb::Attach(_)
                | Verb::Adopt(_)
                | Verb::Apply(_)
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
            Verb::Status(arguments) => status::run(context, &arguments)?,
            Verb::Stop(names) => stop::run(context, &names)?,
            Verb::Url(name) => url::run(context, &name)?,
            Verb::Version(arguments) => version::run(context, &arguments)?,
            Verb::RegenerateCerts(arguments) => regenerate_certs::run(context, &arguments)?,
            Verb::Provision(names) => provision::run(context, &names)?,
            Verb::Upgrade(names) => upgrade::run(context, &names)?,
            Verb::Scp(arguments) => return scp::run(context, &arguments),
            Verb::Mount(arguments) => return mount::run(context, &arguments),
            Verb::Context(arguments) => context::run(context, &arguments)?,
            Verb::UseMachine(arguments) => return use_machine::run(context, &arguments),
            Verb::Set(arguments) => set::run(context, &arguments)?,
            Verb::Suspend(names) => suspend::run(context, &names)?,
            Verb::Resume(names) => resume::run(context, &names)?,
            Verb::Snapshot(arguments) => snapshot::run(context, &arguments)?,
            Verb::Clone(arguments) => clone::run(context, &arguments)?,
            Verb::Rename(arguments) => rename::run(context, &arguments)?,
            Verb::Protect(arguments) => protect::run(context, &arguments)?,
            Verb::Autostart(arguments) => autostart::run(context, &arguments)?,
            Verb::Logs(arguments) => logs::run(context, &arguments)?,
            Verb::Diagnose(arguments) => diagnose::run(context, &arguments)?,
            Verb::Export(arguments) => export::run(context, &arguments)?,
            Verb::Import(arguments) => import::run(context, &arguments)?,
            Verb::Attach(arguments) => attach::run(context, &arguments)?,
            Verb::Adopt(arguments) => adopt::run(context, &arguments)?,
            Verb::Apply(arguments) => apply::run(context, &arguments)?,
            Verb::Man(arguments) => man::run(context, &arguments)?,
        }
        Ok(exit_code::SUCCESS)
    }
}

/// So many machines are worked on at a time: enough for slow hosts to wait side by side, few enough for a laptop to boot them.
const AT_A_TIME: usize = 8;

/// Runs one verb on many machines, several at the same time. Names that are no machines are told before anything is done; failures are
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
    let done = some_at_a_time(&unique, work);
    let errors: Vec<anyhow::Error> = done
        .into_iter()
        .filter_map(|done| Some(done.err()?.into()))
        .collect();
    match errors.is_empty() {
        true => Ok(()),
        false => Err(together(errors)),
    }
}

/// Does the work for each name, [`AT_A_TIME`] side by side. Returns what came of it, in the names' order.
fn some_at_a_time<T: Send>(names: &[String], work: impl Fn(&str) -> T + Sync) -> Vec<T> {
    let waiting = std::sync::Mutex::new(names.iter().enumerate());
    let done = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..names.len().min(AT_A_TIME) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("not poisoned").next();
                    let Some((index, name)) = next else { return };
                    let result = work(name);
                    done.lock().expect("not poisoned").push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("not poisoned");
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    #[test]
    fn many_machines_are_worked_on_side_by_side_but_not_all_at_once() {
        let names: Vec<String> = (10..30).map(|number| format!("m{number}")).collect();
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let done = some_at_a_time(&names, |name| {
            let now = running.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            // Like a slow host: nobody goes on until as many as may have come.
            let since = Instant::now();
            while most.load(Ordering::SeqCst) < AT_A_TIME && since.elapsed().as_secs() < 30 {
                std::thread::sleep(Duration::from_millis(1));
            }
            running.fetch_sub(1, Ordering::SeqCst);
            name.to_owned()
        });
        assert_eq!(most.into_inner(), AT_A_TIME);
        assert_eq!(done, names, "each once, in their order");
    }
}
