//! `berth volume prune`

use crate::engine::{Engine, query};
use crate::{parse, prompt, show};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// All unused volumes, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only those that fit: label=KEY, label!=KEY
    #[arg(long)]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let what = match options.all {
        true => "all local volumes not used by at least one container",
        false => "anonymous local volumes not used by at least one container",
    };
    if !options.force && !prompt::confirm(&format!("WARNING! This will remove {what}."))? {
        return Ok(1);
    }
    let mut filters = options.filter.clone();
    if options.all {
        filters.push("all=true".to_owned());
    }
    let query = query(&[("filters", parse::filters(&filters)?)]);
    let answer = engine.post(&format!("/volumes/prune{query}"), None).await?;
    let mut text = String::new();
    for name in answer["VolumesDeleted"].as_array().into_iter().flatten() {
        text.push_str(&format!("{}\n", name.as_str().unwrap_or_default()));
    }
    if !text.is_empty() {
        text = format!("Deleted Volumes:\n{text}\n");
    }
    let bytes = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    show::print(&format!(
        "{text}Total reclaimed space: {}\n",
        show::size(bytes)
    ))?;
    Ok(0)
}
