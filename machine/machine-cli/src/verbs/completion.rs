//! `machine completion SHELL`: a script that asks this program what fits at each press of the key, so that machines' names are
//! completed, too.

use crate::{Context, arguments};
use anyhow::Context as _;
use clap::Args;
use clap_complete::CompletionCandidate;
use clap_complete::env::{CompleteEnv, Shells};
use machine_core::MachineStore;

/// Set by the scripts when they ask.
const VARIABLE: &str = "MACHINE_COMPLETE";

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// bash, zsh, fish, powershell or elvish
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(["bash", "zsh", "fish", "powershell", "elvish"]))]
    shell: String,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let path = std::path::Path::new(context.program());
    let name = path
        .file_stem()
        .map_or("machine".into(), |name| name.to_string_lossy().into_owned());
    let shells = Shells::builtins();
    let shell = shells
        .completer(&arguments.shell)
        .context("this shell has no completion")?;
    let mut script = Vec::new();
    // Called by its name as it was: a script in a profile must outlive updates.
    shell.write_registration(VARIABLE, &name, &name, context.program(), &mut script)?;
    context
        .console
        .print(String::from_utf8_lossy(&script).trim_end());
    Ok(())
}

/// Answers a completion script, if it is one that asks.
pub(crate) fn answer() {
    if std::env::var_os(VARIABLE).is_some() {
        CompleteEnv::with_factory(arguments::grammar)
            .var(VARIABLE)
            .complete();
    }
}

/// The store's machines, for flags and arguments that take one.
pub(crate) fn machines() -> Vec<CompletionCandidate> {
    let root = std::env::var_os("MACHINE_STORAGE_PATH")
        .filter(|path| !path.is_empty())
        .map(std::path::PathBuf::from)
        .or_else(|| MachineStore::default_root().ok());
    let names = root.and_then(|root| MachineStore::new(root).names().ok());
    names
        .unwrap_or_default()
        .into_iter()
        .map(CompletionCandidate::new)
        .collect()
}
