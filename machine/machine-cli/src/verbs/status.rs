//! `machine status`

use super::Name;
use crate::Context;

pub(crate) fn run(context: &Context, name: &Name) -> anyhow::Result<()> {
    let machine = context.machines.open(&name.name)?;
    context.console.print(machine.status()?.name());
    Ok(())
}
