//! `machine set`: other processors, memory, disk and shared folders for a machine that is there.

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
    /// A folder of this computer to share, HOST:GUEST[:ro], in place of those there were; `none` shares nothing, `home` what
    /// a new machine shares
    #[arg(long, value_name = "FOLDER")]
    mount: Vec<String>,
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
        mounts: match arguments.mount.as_slice() {
            [] => None,
            [home] if home == "home" => Some(Vec::new()),
            given => Some(given.to_vec()),
        },
    };
    if change == Change::default() {
        return Err(Failure::new(
            "nothing is to be changed",
            "give --cpus, --memory, --disk or --mount",
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
