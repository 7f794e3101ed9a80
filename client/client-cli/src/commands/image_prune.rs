//! `berth image prune`

use crate::engine::{Engine, query};
use crate::{parse, prompt, show};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// All images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: until=24h, label=KEY, label!=KEY
    #[arg(long)]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let what = match options.all {
        true => "all images without at least one container associated to them",
        false => "all dangling images",
    };
    if !options.force && !prompt::confirm(&format!("WARNING! This will remove {what}."))? {
        return Ok(1);
    }
    let mut filters = options.filter.clone();
    filters.push(format!("dangling={}", !options.all));
    let query = query(&[("filters", parse::filters(&filters)?)]);
    let answer = engine.post(&format!("/images/prune{query}"), None).await?;
    let mut text = String::new();
    for item in answer["ImagesDeleted"].as_array().into_iter().flatten() {
        if let Some(name) = item["Untagged"].as_str() {
            text.push_str(&format!("untagged: {name}\n"));
        }
        if let Some(id) = item["Deleted"].as_str() {
            text.push_str(&format!("deleted: {id}\n"));
        }
    }
    if !text.is_empty() {
        text = format!("Deleted Images:\n{text}\n");
    }
    let bytes = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    show::print(&format!(
        "{text}Total reclaimed space: {}\n",
        show::size(bytes)
    ))?;
    Ok(0)
}
