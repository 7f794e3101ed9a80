//! `machine ip`

use super::Names;
use crate::Context;

pub(crate) fn run(context: &Context, names: &Names) -> anyhow::Result<()> {
    let mut errors = Vec::new();
    let answers = super::some_at_a_time(&names.names, |name| {
        super::open_running(context, name).and_then(|machine| machine.address())
    });
    for answer in answers {
        match answer {
            Ok(address) => context.console.print(&address.ip.to_string()),
            Err(error) => errors.push(error.into()),
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(super::together(errors)),
    }
}
