//! `berth volume rm`

use super::each;
use crate::engine::{Engine, escape, query};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// A volume that is not there is no error
    #[arg(short, long)]
    force: bool,
    #[arg(required = true)]
    volumes: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let query = query(&[("force", options.force.to_string())]);
    each(&options.volumes, async |name| {
        let path = format!("/volumes/{}{query}", escape(name));
        engine.delete(&path).await?;
        Ok(Some(name.to_owned()))
    })
    .await
}
