//! `machine config`: flags for `docker $(machine config dev) ps`. Connects first, so it also tells whether the machine works.

use super::Name;
use crate::Context;
use clap::Args;
use machine_core::store::layout;
use std::time::Duration;

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// Classic Swarm is not supported
    #[arg(long, hide = true)]
    swarm: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    super::env::refuse_swarm(arguments.swarm)?;
    let machine = context.machines.open(&arguments.name.name)?;
    machine.connect(CONNECT_TIMEOUT)?;
    let folder = &machine.place.folder;
    context.console.print("--tlsverify");
    for (flag, file) in [
        ("tlscacert", layout::CA_CERT),
        ("tlscert", layout::CLIENT_CERT),
        ("tlskey", layout::CLIENT_KEY),
    ] {
        let path = folder.join(file);
        context
            .console
            .print(&format!("--{flag}=\"{}\"", path.display()));
    }
    context.console.print(&format!("-H={}", machine.url()?));
    Ok(())
}
