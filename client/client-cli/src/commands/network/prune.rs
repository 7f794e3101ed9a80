//! `berth network prune`

use crate::engine::{Engine, query};
use crate::{parse, show};
use anyhow::{Result, bail};
use serde_json::Value;
use std::io::IsTerminal;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only those that fit, for example until=24h
    #[arg(long)]
    filter: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    if !options.force && !confirmed()? {
        return Ok(0);
    }
    let query = query(&[("filters", parse::filters(&options.filter)?)]);
    let pruned = engine
        .post(&format!("/networks/prune{query}"), None)
        .await?;
    let names: Vec<&str> = pruned["NetworksDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !names.is_empty() {
        show::print(&format!("Deleted Networks:\n{}\n", names.join("\n")))?;
    }
    Ok(0)
}

fn confirmed() -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("this removes all networks no container is in: say so with --force");
    }
    show::print("This removes all networks no container is in. Go on? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
