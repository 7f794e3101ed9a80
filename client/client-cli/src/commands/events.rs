//! `berth events`

use crate::engine::{Engine, query};
use crate::{parse, show};
use anyhow::{Context, Result};
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Also what happened since: Unix seconds, RFC 3339, or an age such as 10m
    #[arg(long)]
    since: Option<String>,
    /// Only until: Unix seconds, RFC 3339, or an age such as 10m
    #[arg(long)]
    until: Option<String>,
    /// Only those that fit, for example type=container
    #[arg(short, long)]
    filter: Vec<String>,
    /// Show by a Go template, or 'json'
    #[arg(long)]
    format: Option<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let mut pairs = Vec::new();
    for (key, value) in [("since", &options.since), ("until", &options.until)] {
        if let Some(text) = value {
            let moment =
                parse::moment(text).with_context(|| format!("invalid --{key} '{text}'"))?;
            pairs.push((key, moment));
        }
    }
    if !options.filter.is_empty() {
        pairs.push(("filters", parse::filters(&options.filter)?));
    }
    let path = format!("/events{}", query(&pairs));
    let mut body = engine.stream(Method::GET, &path, &[]).await?;
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the engine hung up")?.into_data() else {
            continue;
        };
        rest.extend_from_slice(&data);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let event = serde_json::from_slice(&line).context("the engine's answer is not JSON")?;
            show::print(&format!("{}\n", text(&event, options.format.as_deref())?))?;
        }
    }
    Ok(0)
}

fn text(event: &Value, format: Option<&str>) -> Result<String> {
    match format {
        Some("json") => return Ok(event.to_string()),
        Some(template) => return Ok(go_template::render(template, event)?),
        None => {}
    }
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nanoseconds = event["timeNano"].as_i64().unwrap_or_default();
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into())
        .ok()
        .and_then(|at| {
            at.format(&time::format_description::well_known::Rfc3339)
                .ok()
        })
        .unwrap_or_default();
    let actor = &event["Actor"];
    let mut attributes: Vec<String> = actor["Attributes"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", word(value)))
        .collect();
    attributes.sort();
    let mut line = format!("{at} {} {}", word(&event["Type"]), word(&event["Action"]));
    let id = word(&actor["ID"]);
    if !id.is_empty() {
        line.push_str(&format!(" {id}"));
    }
    if !attributes.is_empty() {
        line.push_str(&format!(" ({})", attributes.join(", ")));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line_as_dockers() {
        let event = json!({
            "Type": "container", "Action": "start", "timeNano": 1_700_000_000_000_000_042_i64,
            "Actor": {"ID": "abc", "Attributes": {"name": "web", "image": "busybox"}},
        });
        assert_eq!(
            text(&event, None).expect("good"),
            "2023-11-14T22:13:20.000000042Z container start abc (image=busybox, name=web)"
        );
        assert_eq!(text(&event, Some("{{.Action}}")).expect("good"), "start");
    }
}
