//! docker-machine's verbs that this version does not have. They are named so that scripts get a clear answer.

use crate::failure::Failure;
use clap::Args;
use std::ffi::OsString;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    rest: Vec<OsString>,
}

pub(crate) fn sorry(verb: &str) -> Failure {
    let instead = match verb {
        "scp" => "`machine ssh NAME tar c FILE | tar x` copies files",
        "mount" => "`docker run -v` with a volume keeps data in the machine",
        _ => "`machine rm NAME` and `machine create NAME` make it anew",
    };
    Failure::new(format!("`{verb}` arrives in a later version"), instead)
}
