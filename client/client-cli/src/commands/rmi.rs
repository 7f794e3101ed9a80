//! `berth rmi`

use super::each;
use crate::engine::{Engine, escape, query};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Remove also where stopped containers use the image
    #[arg(short, long)]
    force: bool,
    /// Keep untagged parents
    #[arg(long)]
    no_prune: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let query = query(&[
        ("force", options.force.to_string()),
        ("noprune", options.no_prune.to_string()),
    ]);
    each(&options.images, async |name| {
        let answer = engine
            .delete(&format!("/images/{}{query}", escape(name)))
            .await?;
        let lines: Vec<String> = answer
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|item| {
                let untagged = item["Untagged"]
                    .as_str()
                    .map(|name| format!("Untagged: {name}"));
                untagged.or_else(|| item["Deleted"].as_str().map(|id| format!("Deleted: {id}")))
            })
            .collect();
        Ok((!lines.is_empty()).then(|| lines.join("\n")))
    })
    .await
}
