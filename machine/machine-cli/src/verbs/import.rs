//! `machine import`: a machine from a file that `export` wrote.

use crate::Context;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file
    file: PathBuf,
    /// The machine's name here [default: the one it had]
    name: Option<String>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let name =
        context
            .machines
            .import(&arguments.file, arguments.name.as_deref(), &context.console)?;
    context
        .console
        .print(&format!("Machine \"{name}\" is here."));
    Ok(())
}
