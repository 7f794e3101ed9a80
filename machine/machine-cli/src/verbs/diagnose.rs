//! `machine diagnose`: one file for whoever helps, without secrets.

use super::Name;
use crate::Context;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// The file to write [default: NAME-diagnose.tar]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let name = &arguments.name.name;
    let path = match &arguments.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{name}-diagnose.tar")),
    };
    context.machines.diagnose(name, &path)?;
    context.console.print(&format!(
        "Wrote {}. It holds logs and settings, no keys; have a look before you pass it on.",
        path.display()
    ));
    Ok(())
}
