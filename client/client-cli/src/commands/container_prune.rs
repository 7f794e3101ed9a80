//! `berth container prune`

use crate::engine::{Engine, query};
use crate::{parse, show};
use anyhow::{Result, bail};
use serde_json::Value;
use std::io::{BufRead, Write};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that fit: until=AGE, label=KEY[=VALUE], label!=KEY[=VALUE]
    #[arg(long)]
    filter: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    if !options.force && !confirmed()? {
        bail!("nothing was removed");
    }
    let mut pairs = Vec::new();
    if !options.filter.is_empty() {
        pairs.push(("filters", parse::filters(&options.filter)?));
    }
    let path = format!("/containers/prune{}", query(&pairs));
    let answer = engine.post(&path, None).await?;
    let mut text = String::new();
    let removed = answer["ContainersDeleted"].as_array().into_iter().flatten();
    for id in removed.filter_map(Value::as_str) {
        text.push_str(&format!("{id}\n"));
    }
    if !text.is_empty() {
        text = format!("Deleted Containers:\n{text}\n");
    }
    let bytes = answer["SpaceReclaimed"].as_i64().unwrap_or_default();
    show::print(&format!(
        "{text}Total reclaimed space: {}\n",
        show::size(bytes)
    ))?;
    Ok(0)
}

fn confirmed() -> Result<bool> {
    print!(
        "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] "
    );
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
