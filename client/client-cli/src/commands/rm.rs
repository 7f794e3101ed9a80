//! `berth rm`

use super::each;
use crate::engine::{Engine, EngineError, escape, query};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kill running containers first; no error for those that do not exist
    #[arg(short, long)]
    force: bool,
    /// Remove their anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let query = query(&[
        ("force", options.force.to_string()),
        ("v", options.volumes.to_string()),
    ]);
    each(&options.containers, async |name| {
        match engine
            .delete(&format!("/containers/{}{query}", escape(name)))
            .await
        {
            Err(error) if options.force && EngineError::is_not_found(&error) => {
                eprintln!("berth: {error:#}");
                Ok(None)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(Some(name.to_owned())),
        }
    })
    .await
}
