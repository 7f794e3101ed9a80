//! `berth network rm`

use crate::commands::each;
use crate::engine::{Engine, EngineError, escape};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// No error for networks that do not exist
    #[arg(short, long)]
    force: bool,
    #[arg(required = true)]
    networks: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    each(&options.networks, async |name| {
        match engine.delete(&format!("/networks/{}", escape(name))).await {
            Err(error) if options.force && EngineError::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(Some(name.to_owned())),
        }
    })
    .await
}
