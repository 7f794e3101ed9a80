//! How docker shows things to people: ages, sizes, short ids, tables.

pub(crate) mod build;
pub(crate) mod progress;

use anyhow::Result;
use go_template::table::{Columns, Format};
use serde_json::Value;
use std::io::Write;

/// `4.26MB`: three significant digits, steps of 1000, as docker shows sizes.
pub(crate) fn size(bytes: i64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB", "PB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let mut text = format!("{value:.digits$}");
    if text.contains('.') {
        text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    format!("{text}{unit}")
}

/// `About a minute`: docker's words for a span of seconds.
pub(crate) fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours <= 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

/// `5 minutes ago` from Unix seconds.
pub(crate) fn ago(unix: i64) -> String {
    format!(
        "{} ago",
        duration((time::OffsetDateTime::now_utc().unix_timestamp() - unix).max(0))
    )
}

/// An id without its `sha256:`, cut to 12 digits unless all is wanted.
pub(crate) fn id(id: &str, whole: bool) -> String {
    if whole {
        return id.to_owned();
    }
    let bare = id.strip_prefix("sha256:").unwrap_or(id);
    bare.chars().take(12).collect()
}

/// At most so many characters, the last one `…` where something was cut.
pub(crate) fn ellipsis(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit - 1).collect();
    short.push('…');
    short
}

/// Prints rows by a format or, without one, the default table.
pub(crate) fn rows(
    rows: &[Value],
    format: Option<&str>,
    default: &str,
    headings: &[(&str, &str)],
) -> Result<()> {
    let format = match format {
        Some("" | "table") | None => Format::parse(default)?,
        Some(text) => Format::parse(text)?,
    };
    print(&format.render(rows, headings, Columns::DOCKER)?)
}

/// Prints; a reader that went away (`| head`) is no error worth words.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, expected) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_261_000, "4.26MB"),
            (42_600_000, "42.6MB"),
            (426_000_000, "426MB"),
            (1_500_000_000, "1.5GB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }

    #[test]
    fn durations() {
        for (seconds, expected) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (172_800, "2 days"),
            (1_814_400, "3 weeks"),
            (7_776_000, "3 months"),
            (94_608_000, "3 years"),
        ] {
            assert_eq!(duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn short_texts() {
        assert_eq!(id("sha256:0123456789abcdef", false), "0123456789ab");
        assert_eq!(ellipsis("\"sh -c sleep 1000\"", 8), "\"sh -c …");
        assert_eq!(ellipsis("short", 8), "short");
    }
}
