//! `machine export`: a machine as one file.

use super::Name;
use crate::Context;
use clap::Args;
use machine_core::use_cases::exchange::ExportOptions;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// The file to write [default: NAME.machine.tar]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also the keys: whoever has the file is root on the machine
    #[arg(long)]
    keys: bool,
    /// Also the disk of a local machine, which must be stopped
    #[arg(long)]
    disk: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let name = &arguments.name.name;
    let path = match &arguments.output {
        Some(path) => path.clone(),
        None => PathBuf::from(format!("{name}.machine.tar")),
    };
    let options = ExportOptions {
        keys: arguments.keys,
        disks: arguments.disk,
    };
    context
        .machines
        .export(name, &path, options, &context.console)?;
    context.console.print(&format!("Wrote {}.", path.display()));
    Ok(())
}
