//! `berth history`

use crate::engine::{Engine, escape};
use crate::show;
use anyhow::Result;
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Show by a Go template: 'table ...', 'json' or a template a line
    #[arg(long)]
    format: Option<String>,
    image: String,
}

const HEADINGS: [(&str, &str); 6] = [
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let path = format!("/images/{}/history", escape(&options.image));
    let history = engine.get(&path).await?;
    let rows: Vec<Value> = history
        .as_array()
        .into_iter()
        .flatten()
        .map(|line| {
            let created = line["Created"].as_i64().unwrap_or_default();
            let by = line["CreatedBy"]
                .as_str()
                .unwrap_or_default()
                .replace('\t', " ");
            json!({
                "ID": show::id(line["Id"].as_str().unwrap_or_default(), options.no_trunc),
                "CreatedSince": if created > 0 { show::ago(created) } else { "N/A".into() },
                "CreatedAt": created,
                "CreatedBy": if options.no_trunc { by } else { show::ellipsis(&by, 45) },
                "Size": show::size(line["Size"].as_i64().unwrap_or_default()),
                "Comment": line["Comment"].as_str().unwrap_or_default(),
            })
        })
        .collect();
    let default = match options.quiet {
        true => "{{.ID}}",
        false => "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    };
    show::rows(&rows, options.format.as_deref(), default, &HEADINGS)?;
    Ok(0)
}
