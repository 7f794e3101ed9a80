//! `berth search`

use crate::credentials;
use crate::engine::{Engine, query};
use crate::{parse, show};
use anyhow::{Context, Result};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only those that fit: stars=3, is-official=true
    #[arg(short, long)]
    filter: Vec<String>,
    /// At most so many results
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    limit: i64,
    /// Do not shorten
    #[arg(long)]
    no_trunc: bool,
    /// Show by a Go template: 'table ...', 'json' or a template a line
    #[arg(long)]
    format: Option<String>,
    /// A word, or host/word for another registry than Docker Hub
    term: String,
}

const HEADINGS: [(&str, &str); 5] = [
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let query = query(&[
        ("term", options.term.clone()),
        ("limit", options.limit.to_string()),
        ("filters", parse::filters(&options.filter)?),
    ]);
    let header = credentials::header(&options.term);
    let body = engine
        .stream(
            Method::GET,
            &format!("/images/search{query}"),
            &[("x-registry-auth", &header)],
        )
        .await?;
    let bytes = body
        .collect()
        .await
        .context("the engine hung up")?
        .to_bytes();
    let found: Value = serde_json::from_slice(&bytes).context("the engine's answer is not JSON")?;
    let ok = |value: &Value| {
        if value.as_bool() == Some(true) {
            "[OK]"
        } else {
            ""
        }
    };
    let rows: Vec<Value> = found
        .as_array()
        .into_iter()
        .flatten()
        .map(|line| {
            let text = line["description"].as_str().unwrap_or_default();
            let text = text.replace(['\n', '\r'], " ");
            json!({
                "Name": line["name"],
                "Description": if options.no_trunc { text } else { show::ellipsis(&text, 45) },
                "StarCount": line["star_count"].as_i64().unwrap_or_default(),
                "IsOfficial": ok(&line["is_official"]),
                "IsAutomated": ok(&line["is_automated"]),
            })
        })
        .collect();
    let default = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
    show::rows(&rows, options.format.as_deref(), default, &HEADINGS)?;
    Ok(0)
}
