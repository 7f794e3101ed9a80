//! `machine set`: other processors, memory and disk for a machine that is there.

use super::Name;
use crate::Context;
use crate::failure::Failure;
use clap::Args;
use machine_core::driver::{Change, Status};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// Number of processors
    #[arg(long, value_name = "NUMBER")]
    cpus: Option<u32>,
    /// Memory in MiB, or with a unit, for example 2G
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    memory: Option<u64>,
    /// Largest size of the disk in MiB, or with a unit; it only grows
    #[arg(long, value_name = "SIZE", value_parser = mebibytes)]
    disk: Option<u64>,
}

/// A plain number counts MiB, as docker-machine's flags do.
fn mebibytes(text: &str) -> Result<u64, String> {
    machine_drivers::mebibytes(text)
        .ok_or_else(|| "give MiB, or a number with M, G or T".to_owned())
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let change = Change {
        cpus: arguments.cpus,
        memory_mib: arguments.memory,
        disk_mib: arguments.disk,
    };
    if change == Change::default() {
        return Err(Failure::new(
            "nothing is to be changed",
            "give --cpus, --memory or --disk",
        )
        .into());
    }
    let name = &arguments.name.name;
    let status = context.machines.change(name, &change, &context.console)?;
    context.console.print(&match status {
        Status::Stopped => format!("Machine \"{name}\" was changed."),
        _ => format!(
            "Machine \"{name}\" was changed; it counts from its next start: machine restart {name}"
        ),
    });
    Ok(())
}
