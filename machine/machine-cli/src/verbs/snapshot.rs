//! `machine snapshot create|ls|restore|rm`

use crate::Context;
use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Copy a machine's disks; a running one pauses meanwhile, and its memory is part of the copy
    Create(Named),
    /// List a machine's snapshots
    Ls(Machine),
    /// Put a stopped machine back to what it was
    Restore(Named),
    /// Delete a snapshot
    Rm(Named),
}

#[derive(Debug, Args)]
struct Machine {
    /// The machine
    #[arg(add = ArgValueCandidates::new(super::completion::machines))]
    machine: String,
}

#[derive(Debug, Args)]
struct Named {
    /// The machine
    #[arg(add = ArgValueCandidates::new(super::completion::machines))]
    machine: String,
    /// The snapshot
    snapshot: String,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let (machines, console) = (&context.machines, &context.console);
    match &arguments.what {
        What::Create(named) => {
            machines.create_snapshot(&named.machine, &named.snapshot, console)?;
        }
        What::Ls(machine) => {
            for snapshot in machines.snapshots(&machine.machine)? {
                let made = snapshot.made;
                let memory = if snapshot.with_memory {
                    "\twith memory"
                } else {
                    ""
                };
                console.print(&format!(
                    "{}\t{} {:02}:{:02}{memory}",
                    snapshot.name,
                    made.date(),
                    made.hour(),
                    made.minute()
                ));
            }
        }
        What::Restore(named) => {
            machines.restore_snapshot(&named.machine, &named.snapshot, console)?;
        }
        What::Rm(named) => {
            machines.remove_snapshot(&named.machine, &named.snapshot, console)?;
            console.print(&format!("Removed the snapshot \"{}\".", named.snapshot));
        }
    }
    Ok(())
}
