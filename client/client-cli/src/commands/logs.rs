//! `berth logs`

use crate::engine::{Engine, escape, query};
use crate::{parse, streams};
use anyhow::{Context, Result};
use http::Method;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Go on with what the container writes from now on
    #[arg(short, long)]
    follow: bool,
    /// Only the last so many lines
    #[arg(short = 'n', long, default_value = "all")]
    tail: String,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Only what was written since: Unix seconds, RFC 3339, or an age such as 10m
    #[arg(long)]
    since: Option<String>,
    /// Only what was written before: Unix seconds, RFC 3339, or an age such as 10m
    #[arg(long)]
    until: Option<String>,
    /// Show the extra attributes of each line
    #[arg(long)]
    details: bool,
    container: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let name = escape(&options.container);
    let container = engine.get(&format!("/containers/{name}/json")).await?;
    let mut pairs = vec![
        ("stdout", "1".to_owned()),
        ("stderr", "1".to_owned()),
        ("follow", options.follow.to_string()),
        ("timestamps", options.timestamps.to_string()),
        ("details", options.details.to_string()),
        ("tail", options.tail.clone()),
    ];
    for (key, value) in [("since", &options.since), ("until", &options.until)] {
        if let Some(text) = value {
            pairs.push((
                key,
                parse::moment(text).with_context(|| format!("invalid --{key} '{text}'"))?,
            ));
        }
    }
    let mut body = engine
        .stream(
            Method::GET,
            &format!("/containers/{name}/logs{}", query(&pairs)),
            &[],
        )
        .await?;
    let (mut writer, reader) = tokio::io::duplex(64 * 1024);
    let feed = async move {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.context("the engine hung up")?.into_data() {
                writer.write_all(&data).await?;
            }
        }
        Ok::<_, anyhow::Error>(())
    };
    let framed = !container["Config"]["Tty"].as_bool().unwrap_or(false);
    let (fed, shown) = tokio::join!(feed, streams::copy_output(reader, framed));
    fed.and(shown)?;
    Ok(0)
}
