//! `machine regenerate-certs`

use super::Names;
use crate::Context;
use crate::failure::Failure;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    names: Names,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Make a new certificate for clients, too
    #[arg(long)]
    client_certs: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let console = &context.console;
    super::refuse_unknown(context, &arguments.names)?;
    if !arguments.force {
        match console.ask("Regenerate TLS machine certs?  Warning: this is irreversible.")? {
            Some(true) => {}
            Some(false) => return Ok(()),
            None => {
                return Err(Failure::new(
                    "nothing was changed: nobody answered the question",
                    "where nobody can answer, say -f",
                )
                .into());
            }
        }
    }
    console.print("Regenerating TLS certificates");
    if arguments.client_certs {
        context.machines.regenerate_client_certificate(console)?;
    }
    super::for_each(context, &arguments.names, |name| {
        context.machines.regenerate_certificates(name, console)
    })
}
