//! `machine provision`: the engine set up anew on a machine that is there.

use super::Names;
use crate::Context;

pub(crate) fn run(context: &Context, names: &Names) -> anyhow::Result<()> {
    super::for_each(context, names, |name| {
        context.machines.provision(name, &context.console)
    })
}
