//! `machine protect`: `rm` refuses a protected machine, even with -f.

use super::Names;
use crate::Context;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    names: Names,
    /// Take the protection away
    #[arg(long)]
    off: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    super::for_each(context, &arguments.names, |name| {
        let (machines, console) = (&context.machines, &context.console);
        machines.protect(name, !arguments.off, console)
    })
}
