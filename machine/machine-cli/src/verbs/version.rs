//! `machine version`

use crate::Context;
use clap::Args;
use clap_complete::ArgValueCandidates;
use std::path::Path;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A machine, for the version of its engine
    #[arg(add = ArgValueCandidates::new(super::completion::machines))]
    name: Option<String>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let text = match &arguments.name {
        None => {
            let program = Path::new(context.program()).file_stem();
            own_version(&program.unwrap_or_default().to_string_lossy())
        }
        Some(name) => {
            let machine = context.machines.open(name)?;
            machine.connect(super::config::CONNECT_TIMEOUT)?.version
        }
    };
    context.console.print(&text);
    Ok(())
}

pub(crate) fn own_version(program: &str) -> String {
    format!("{program} version {}", env!("CARGO_PKG_VERSION"))
}
