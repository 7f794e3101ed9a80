//! Progress of downloads: bars on a terminal, plain lines elsewhere. Reads the engine's stream of JSON messages.

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use std::collections::HashMap;
use std::io::IsTerminal;

/// A message longer than this is no progress message.
const MAX_MESSAGE: usize = 1 << 20;

/// Where lines go that are no bars.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Output,
    /// Where standard output is the container's (`run`).
    Errors,
}

/// Shows the messages until they end; an error among them is our error.
pub(crate) async fn show(body: Incoming, quiet: bool) -> Result<()> {
    show_at(Place::Output, body, quiet).await
}

/// The same elsewhere.
pub(crate) async fn show_at(place: Place, mut body: Incoming, quiet: bool) -> Result<()> {
    let mut screen = Screen::new(quiet);
    screen.place = place;
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.context("the engine hung up")?.into_data() else {
            continue;
        };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            if !line.iter().all(u8::is_ascii_whitespace) {
                screen
                    .message(&serde_json::from_slice(&line).context("the engine sent no JSON")?)?;
            }
        }
        if buffer.len() > MAX_MESSAGE {
            bail!("the engine sent a message without an end");
        }
    }
    if !buffer.iter().all(u8::is_ascii_whitespace) {
        screen.message(&serde_json::from_slice(&buffer).context("the engine sent no JSON")?)?;
    }
    Ok(())
}

struct Screen {
    quiet: bool,
    place: Place,
    bars: Option<MultiProgress>,
    by_id: HashMap<String, ProgressBar>,
}

impl Screen {
    fn new(quiet: bool) -> Screen {
        let bars = (!quiet && std::io::stderr().is_terminal()).then(MultiProgress::new);
        Screen {
            quiet,
            place: Place::Output,
            bars,
            by_id: HashMap::new(),
        }
    }

    fn message(&mut self, message: &Value) -> Result<()> {
        if let Some(error) = message["errorDetail"]["message"]
            .as_str()
            .or_else(|| message["error"].as_str())
        {
            bail!("{error}");
        }
        if self.quiet {
            return Ok(());
        }
        if let Some(text) = message["stream"].as_str() {
            return self.print(text);
        }
        let Some(status) = message["status"].as_str() else {
            return Ok(());
        };
        let id = message["id"].as_str();
        match (&self.bars, id) {
            // The line about the whole image has its tag as id; only layers have bars.
            (Some(bars), Some(id)) if !status.starts_with("Pulling from") => {
                let bar = self.by_id.entry(id.to_owned()).or_insert_with(|| {
                    let bar = bars.add(ProgressBar::new(0));
                    bar.set_style(
                        ProgressStyle::with_template("{prefix}: {msg}").expect("a good template"),
                    );
                    bar.set_prefix(id.to_owned());
                    bar
                });
                let total = message["progressDetail"]["total"].as_u64();
                match (message["progressDetail"]["current"].as_u64(), total) {
                    (Some(current), Some(total)) if total > 0 => {
                        let style = "{prefix}: {msg} [{bar:40.=>-}] {bytes}/{total_bytes}";
                        bar.set_style(
                            ProgressStyle::with_template(style)
                                .expect("a good template")
                                .progress_chars("=> "),
                        );
                        bar.set_length(total);
                        bar.set_position(current);
                    }
                    _ => bar.set_style(
                        ProgressStyle::with_template("{prefix}: {msg}").expect("a good template"),
                    ),
                }
                bar.set_message(status.to_owned());
                if matches!(
                    status,
                    "Pull complete" | "Already exists" | "Pushed" | "Layer already exists"
                ) || status.starts_with("Mounted from")
                {
                    bar.abandon();
                }
                Ok(())
            }
            (Some(bars), _) => Ok(bars.println(line(id, status))?),
            // Without a terminal only what is final is worth a line.
            (None, _) if message["progressDetail"]["current"].is_number() => Ok(()),
            (None, _) => self.print(&(line(id, status) + "\n")),
        }
    }

    fn print(&self, text: &str) -> Result<()> {
        match self.place {
            Place::Output => super::print(text),
            Place::Errors => {
                eprint!("{text}");
                Ok(())
            }
        }
    }
}

fn line(id: Option<&str>, status: &str) -> String {
    match id {
        Some(id) => format!("{id}: {status}"),
        None => status.to_owned(),
    }
}
