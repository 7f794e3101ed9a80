//! `machine upgrade`: the engine of this program's version, on a machine that is there.

use super::Names;
use crate::Context;

pub(crate) fn run(context: &Context, names: &Names) -> anyhow::Result<()> {
    super::for_each(context, names, |name| {
        context.machines.upgrade(name, &context.console)
    })
}
