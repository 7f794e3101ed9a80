//! `berth rename`

use crate::engine::{Engine, escape, query};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    container: String,
    new_name: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let query = query(&[("name", options.new_name.clone())]);
    let path = format!("/containers/{}/rename{query}", escape(&options.container));
    engine.post(&path, None).await?;
    Ok(0)
}
