//! `machine context`: a Docker context for a machine, so that `docker --context dev` and desktop tools find it.

use super::Name;
use crate::Context;
use clap::Args;
use machine_core::docker_context::DockerContexts;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// The context's name [default: the machine's]
    #[arg(long = "name", value_name = "CONTEXT")]
    context: Option<String>,
    /// Also make it the context that docker uses when nothing else is said
    #[arg(long = "use", conflicts_with = "remove")]
    make_current: bool,
    /// Remove the context
    #[arg(long = "rm")]
    remove: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let name = &arguments.name.name;
    let named = arguments.context.as_deref().unwrap_or(name);
    let contexts = DockerContexts::new(DockerContexts::default_root()?);
    if arguments.remove {
        // The machine itself may be gone by now.
        contexts.remove(named, &context.machines.store().place(name)?)?;
        context
            .console
            .print(&format!("Removed the Docker context \"{named}\"."));
        return Ok(());
    }
    let machine = context.machines.open(name)?;
    contexts.write(named, &machine.place, &machine.url()?)?;
    context
        .console
        .print(&format!("Wrote the Docker context \"{named}\"."));
    if arguments.make_current {
        contexts.make_current(named)?;
        context
            .console
            .print(&format!("docker uses \"{named}\" from now on."));
    } else {
        context
            .console
            .print(&format!("Use it with: docker --context {named} ps"));
    }
    Ok(())
}
