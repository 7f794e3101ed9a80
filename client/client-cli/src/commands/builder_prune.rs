//! `berth builder prune`

use crate::engine::{Engine, query};
use crate::{parse, prompt, show};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// All of the cache, not only what no image has
    #[arg(short, long)]
    all: bool,
    /// Only entries that fit: until=24h, id=ID, type=exec.cachemount, inuse=false ...
    #[arg(long)]
    filter: Vec<String>,
    /// Keep what was used last, up to so much: 512m, 2g
    #[arg(long, visible_alias = "reserved-space")]
    keep_storage: Option<String>,
    /// Keep no more than so much
    #[arg(long)]
    max_used_space: Option<String>,
    /// Remove no more than it takes to have so much free on the disk
    #[arg(long)]
    min_free_space: Option<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let what = match options.all {
        true => "all build cache",
        false => "all dangling build cache",
    };
    if !options.force && !prompt::confirm(&format!("WARNING! This will remove {what}."))? {
        return Ok(1);
    }
    let mut pairs = vec![("filters", parse::filters(&options.filter)?)];
    if options.all {
        pairs.push(("all", "1".to_owned()));
    }
    for (name, size) in [
        ("keep-storage", &options.keep_storage),
        ("max-used-space", &options.max_used_space),
        ("min-free-space", &options.min_free_space),
    ] {
        if let Some(size) = size {
            pairs.push((name, parse::bytes(size)?.to_string()));
        }
    }
    let answer = engine
        .post(&format!("/build/prune{}", query(&pairs)), None)
        .await?;
    let mut text = String::new();
    for id in answer["CachesDeleted"].as_array().into_iter().flatten() {
        text.push_str(&format!("{}\n", id.as_str().unwrap_or_default()));
    }
    if !text.is_empty() {
        text = format!("Deleted build cache objects:\n{text}\n");
    }
    let bytes = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    show::print(&format!("{text}Total:\t{}\n", show::size(bytes)))?;
    Ok(0)
}
