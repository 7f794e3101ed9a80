//! `machine suspend`

use super::Names;
use crate::Context;

pub(crate) fn run(context: &Context, names: &Names) -> anyhow::Result<()> {
    super::for_each(context, names, |name| {
        context.machines.suspend(name, &context.console)
    })
}
