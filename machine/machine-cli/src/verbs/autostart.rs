//! `machine autostart`

use super::Name;
use crate::Context;
use crate::autostart::Autostart;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// Do not start it any more
    #[arg(long)]
    off: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let name = &arguments.name.name;
    let store = context.machines.store();
    let autostart = Autostart::of(store, name)?;
    if arguments.off {
        autostart.turn_off()?;
        context
            .console
            .print(&format!("Machine \"{name}\" starts only when told to."));
        return Ok(());
    }
    store.load(name)?;
    autostart.turn_on()?;
    context.console.print(&format!(
        "Machine \"{name}\" starts when you log in ({}).",
        autostart.file().display()
    ));
    Ok(())
}
