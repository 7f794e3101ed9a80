//! `berth network ls`

use crate::engine::{Engine, query};
use crate::{parse, show};
use anyhow::Result;
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Only those that fit, for example driver=bridge
    #[arg(short, long)]
    filter: Vec<String>,
    /// Show by a Go template: 'table ...', 'json' or a template a line
    #[arg(long)]
    format: Option<String>,
}

const HEADINGS: [(&str, &str); 7] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("CreatedAt", "CREATED AT"),
];

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let query = query(&[("filters", parse::filters(&options.filter)?)]);
    let networks = engine.get(&format!("/networks{query}")).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut rows: Vec<Value> = networks
        .as_array()
        .into_iter()
        .flatten()
        .map(|network| {
            json!({
                "ID": show::id(&text(&network["Id"]), options.no_trunc),
                "Name": network["Name"],
                "Driver": network["Driver"],
                "Scope": network["Scope"],
                "IPv6": network["EnableIPv6"].to_string(),
                "Internal": network["Internal"].to_string(),
                "CreatedAt": network["Created"],
            })
        })
        .collect();
    rows.sort_by_key(|row| text(&row["Name"]));
    let default = if options.quiet {
        "{{.ID}}"
    } else {
        "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
    };
    show::rows(&rows, options.format.as_deref(), default, &HEADINGS)?;
    Ok(0)
}
