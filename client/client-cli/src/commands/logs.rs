//! `berth logs`

use crate::engine::{Engine, escape, query};
use crate::streams;
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
                moment(text).with_context(|| format!("invalid --{key} '{text}'"))?,
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

/// Unix seconds from themselves, a date, or an age.
fn moment(text: &str) -> Result<String> {
    if text.parse::<f64>().is_ok() {
        return Ok(text.to_owned());
    }
    let format = &time::format_description::well_known::Rfc3339;
    if let Ok(date) = time::OffsetDateTime::parse(text, format) {
        return Ok(format!(
            "{}.{:09}",
            date.unix_timestamp(),
            date.nanosecond()
        ));
    }
    let mut seconds = 0.0;
    let mut digits = String::new();
    for c in text.chars() {
        let unit = match c {
            '0'..='9' | '.' => {
                digits.push(c);
                continue;
            }
            's' => 1.0,
            'm' => 60.0,
            'h' => 3600.0,
            _ => anyhow::bail!(
                "expected Unix seconds, a date like 2026-01-31T12:00:00Z, or an age like 1h30m"
            ),
        };
        seconds += unit
            * digits
                .parse::<f64>()
                .context("expected an age like 1h30m")?;
        digits.clear();
    }
    if !digits.is_empty() {
        anyhow::bail!("expected an age like 1h30m");
    }
    let now = time::OffsetDateTime::now_utc();
    Ok(format!(
        "{:.3}",
        now.unix_timestamp() as f64 + f64::from(now.millisecond()) / 1000.0 - seconds
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(moment("1700000000").expect("seconds"), "1700000000");
        assert_eq!(
            moment("2023-11-14T22:13:20Z").expect("a date"),
            "1700000000.000000000"
        );
        let age: f64 = moment("1h30m").expect("an age").parse().expect("a number");
        let now = time::OffsetDateTime::now_utc().unix_timestamp() as f64;
        assert!((now - 5400.0 - age).abs() < 5.0);
        for bad in ["x", "5", "1h5", "1d"] {
            assert_eq!(moment(bad).is_ok(), bad == "5", "{bad}");
        }
    }
}
