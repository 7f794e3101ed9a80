//! `berth network disconnect`

use crate::engine::{Engine, escape};
use anyhow::Result;
use serde_json::json;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// No error if it is not in the network
    #[arg(short, long)]
    force: bool,
    network: String,
    container: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let path = format!("/networks/{}/disconnect", escape(&options.network));
    let body = json!({ "Container": options.container, "Force": options.force });
    engine.post(&path, Some(&body)).await?;
    Ok(0)
}
