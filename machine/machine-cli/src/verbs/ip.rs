//! `machine ip`

use super::Names;
use crate::Context;

pub(crate) fn run(context: &Context, names: &Names) -> anyhow::Result<()> {
    let mut errors = Vec::new();
    for name in &names.names {
        match super::open_running(context, name).and_then(|machine| machine.address()) {
            Ok(address) => context.console.print(&address.ip.to_string()),
            Err(error) => errors.push(error.into()),
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(super::together(errors)),
    }
}
