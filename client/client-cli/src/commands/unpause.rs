//! `berth unpause`

use super::each;
use crate::engine::{Engine, escape};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    each(&options.containers, async |name| {
        engine
            .post(&format!("/containers/{}/unpause", escape(name)), None)
            .await?;
        Ok(Some(name.to_owned()))
    })
    .await
}
