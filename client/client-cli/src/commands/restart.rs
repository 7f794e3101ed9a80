//! `berth restart`

use super::each;
use crate::engine::{Engine, escape, query};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds to wait before the container is killed (-1: for ever)
    #[arg(short, long, visible_alias = "timeout", allow_negative_numbers = true)]
    time: Option<i64>,
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let pairs: Vec<_> = options
        .time
        .map(|time| ("t", time.to_string()))
        .into_iter()
        .collect();
    let query = query(&pairs);
    each(&options.containers, async |name| {
        engine
            .post(
                &format!("/containers/{}/restart{query}", escape(name)),
                None,
            )
            .await?;
        Ok(Some(name.to_owned()))
    })
    .await
}
