//! `berth kill`

use super::each;
use crate::engine::{Engine, escape};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Signal to send
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let signal = escape(&options.signal);
    each(&options.containers, async |name| {
        engine
            .post(
                &format!("/containers/{}/kill?signal={signal}", escape(name)),
                None,
            )
            .await?;
        Ok(Some(name.to_owned()))
    })
    .await
}
