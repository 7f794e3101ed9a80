//! `machine active`

use crate::Context;
use clap::Args;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Seconds to wait for the machines
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    timeout: u64,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let docker_host = std::env::var("DOCKER_HOST").unwrap_or_default();
    let timeout = Duration::from_secs(arguments.timeout);
    let name = context.machines.active(&docker_host, timeout)?;
    context.console.print(&name);
    Ok(())
}
