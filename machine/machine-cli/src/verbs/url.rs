//! `machine url`

use super::Name;
use crate::Context;

pub(crate) fn run(context: &Context, name: &Name) -> anyhow::Result<()> {
    let machine = super::open_running(context, &name.name)?;
    context.console.print(&machine.url()?);
    Ok(())
}
