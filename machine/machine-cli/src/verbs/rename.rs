//! `machine rename`

use crate::Context;
use crate::autostart::Autostart;
use clap::Args;
use clap_complete::ArgValueCandidates;
use machine_core::docker_context::DockerContexts;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machine; a local one must be stopped
    #[arg(add = ArgValueCandidates::new(super::completion::machines))]
    machine: String,
    /// Its new name
    new: String,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let contexts = DockerContexts::default_root().ok().map(DockerContexts::new);
    let (machine, new) = (&arguments.machine, &arguments.new);
    let store = context.machines.store();
    let autostart = Autostart::of(store, machine).ok().filter(Autostart::is_on);
    context
        .machines
        .rename(machine, new, contexts.as_ref(), &context.console)?;
    context
        .console
        .print(&format!("Machine \"{machine}\" is now \"{new}\"."));
    if let Some(old) = autostart {
        let moved = Autostart::of(store, new).and_then(|new| {
            old.turn_off()?;
            new.turn_on()
        });
        if let Err(error) = moved {
            context.console.warn(&format!(
                "it no longer starts at log-in: {error:#} (try: machine autostart {new})"
            ));
        }
    }
    Ok(())
}
