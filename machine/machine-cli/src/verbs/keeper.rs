//! `machine keeper`: the process that owns one running local machine. Started by the driver, not by people.

use clap::Args;
use std::ffi::OsString;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    anyhow::bail!(
        "no driver of this build has a keeper: {:?}",
        arguments.arguments
    )
}
