//! `machine attach`: an engine that was set up elsewhere, with the certificates somebody gave for it.

use crate::Context;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The machine's name here
    name: String,
    /// The engine's URL, for example tcp://192.0.2.7:2376
    url: String,
    /// Folder with ca.pem, cert.pem and key.pem
    #[arg(long, value_name = "FOLDER", env = "DOCKER_CERT_PATH")]
    certs: PathBuf,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let machine = context.machines.attach(
        &arguments.name,
        &arguments.url,
        &arguments.certs,
        &context.console,
    )?;
    context
        .console
        .print(&format!("Machine \"{}\" is attached.", machine.name()));
    Ok(())
}
