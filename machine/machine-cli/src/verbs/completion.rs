//! `machine completion SHELL`

use crate::{Context, arguments};
use clap::Args;
use clap_complete::Shell;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    shell: Shell,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let program = std::path::Path::new(context.program())
        .file_stem()
        .map_or("machine".into(), |name| name.to_string_lossy().into_owned());
    let mut script = Vec::new();
    clap_complete::generate(
        arguments.shell,
        &mut arguments::grammar(),
        program,
        &mut script,
    );
    context
        .console
        .print(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}
