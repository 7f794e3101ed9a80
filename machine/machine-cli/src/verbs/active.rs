//! `machine active`

use crate::Context;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Accepted for docker-machine's scripts: only one local question is asked
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10, hide = true)]
    timeout: u64,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    tracing::debug!(timeout = arguments.timeout, "nothing here takes that long");
    let docker_host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let name = context.machines.active(&docker_host)?;
    context.console.print(&name);
    Ok(())
}
