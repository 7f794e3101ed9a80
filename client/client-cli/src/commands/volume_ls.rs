//! `berth volume ls`

use crate::engine::{Engine, query};
use crate::{parse, show};
use anyhow::Result;
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only those that fit: dangling=true, driver=, label=, name=
    #[arg(short, long)]
    filter: Vec<String>,
    /// Show by a Go template: 'table ...', 'json' or a template a line
    #[arg(long)]
    format: Option<String>,
    /// Only names
    #[arg(short, long)]
    quiet: bool,
}

const HEADINGS: [(&str, &str); 4] = [
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
];

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let query = query(&[("filters", parse::filters(&options.filter)?)]);
    let answer = engine.get(&format!("/volumes{query}")).await?;
    let rows: Vec<Value> = answer["Volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|volume| {
            let labels = volume["Labels"].as_object().into_iter().flatten();
            let labels: Vec<String> = labels
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
                .collect();
            json!({
                "Driver": volume["Driver"],
                "Name": volume["Name"],
                "Scope": volume["Scope"],
                "Mountpoint": volume["Mountpoint"],
                "Labels": labels.join(","),
            })
        })
        .collect();
    let default = if options.quiet {
        "{{.Name}}"
    } else {
        "table {{.Driver}}\t{{.Name}}"
    };
    show::rows(&rows, options.format.as_deref(), default, &HEADINGS)?;
    Ok(0)
}
