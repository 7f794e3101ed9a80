//! `machine clone`

use crate::Context;
use clap::Args;
use clap_complete::ArgValueCandidates;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machine to copy; it must be stopped
    #[arg(add = ArgValueCandidates::new(super::completion::machines))]
    machine: String,
    /// The new machine
    new: String,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let (machine, new) = (&arguments.machine, &arguments.new);
    Ok(context
        .machines
        .clone_machine(machine, new, &context.console)?)
}
