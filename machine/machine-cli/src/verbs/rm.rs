//! `machine rm`

use crate::Context;
use crate::autostart::Autostart;
use crate::failure::Failure;
use clap::Args;
use clap_complete::ArgValueCandidates;
use machine_core::StoreError;
use machine_core::docker_context::{ContextError, DockerContexts};
use machine_core::error::chain;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machines
    #[arg(required = true, add = ArgValueCandidates::new(super::completion::machines))]
    names: Vec<String>,
    /// Do not ask, and forget a machine even if it cannot be removed
    #[arg(short, long)]
    force: bool,
    /// Do not ask
    #[arg(short)]
    yes: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let console = &context.console;
    let mut errors: Vec<anyhow::Error> = Vec::new();
    let mut names = Vec::new();
    for name in &arguments.names {
        match context.machines.store().load(name) {
            Err(error @ (StoreError::NoSuchMachine { .. } | StoreError::InvalidName { .. })) => {
                errors.push(error.into());
            }
            // A broken record is a machine too; removing it decides what can be done.
            _ if !names.contains(name) => names.push(name.clone()),
            _ => {}
        }
    }
    if names.is_empty() {
        return Err(super::together(errors));
    }
    console.print(&format!("About to remove {}", names.join(", ")));
    console.print("WARNING: This action will delete both local reference and remote instance.");
    if !arguments.yes && !arguments.force {
        match console.ask("Are you sure?")? {
            Some(true) => {}
            Some(false) => return Ok(()),
            None => {
                return Err(Failure::new(
                    "nothing was removed: nobody answered the question",
                    "where nobody can answer, say -y",
                )
                .into());
            }
        }
    }
    context.console.catch_interrupts()?;
    for name in &names {
        // Windows' file goes with the machine's folder.
        let autostart = Autostart::of(context.machines.store(), name);
        let autostart = autostart.ok().filter(Autostart::is_on);
        match context.machines.remove(name, arguments.force, console) {
            Ok(()) => {
                console.print(&format!("Successfully removed {name}"));
                forget_contexts(context, name);
                if let Some(Err(error)) = autostart.map(|autostart| autostart.turn_off()) {
                    console.warn(&format!("it is still started at log-in: {error:#}"));
                }
            }
            Err(error) => errors.push(error.into()),
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(super::together(errors)),
    }
}

/// Docker contexts of a machine that is gone would only fail. That they cannot be removed is no reason to fail here.
fn forget_contexts(context: &Context, name: &str) {
    let removed = DockerContexts::default_root()
        .map_err(ContextError::from)
        .and_then(|root| {
            let place = context.machines.store().place(name)?;
            DockerContexts::new(root).forget_machine(&place)
        });
    match removed {
        Ok(names) => {
            for name in names {
                context
                    .console
                    .print(&format!("Removed the Docker context \"{name}\""));
            }
        }
        Err(error) => context
            .console
            .warn(&format!("its Docker context stays: {}", chain(&error))),
    }
}
