//! `berth export`

use crate::archive;
use crate::engine::{Engine, escape};
use anyhow::{Context, Result, bail};
use http::Method;
use std::io::{IsTerminal, Write};

#[derive(clap::Args)]
#[command(
    after_help = "The tar has the container's whole file system without volumes, binds and settings. 'berth import' makes an image
of it; to keep layers and settings use 'berth commit' instead.

Examples:
  berth export -o web.tar web
  berth export web | gzip > web.tar.gz"
)]
pub(crate) struct Options {
    /// Write to a file instead of standard output
    #[arg(short, long)]
    output: Option<std::path::PathBuf>,
    container: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    if options.output.is_none() && std::io::stdout().is_terminal() {
        bail!("a tar is nothing to look at: use --output FILE or redirect standard output");
    }
    let path = format!("/containers/{}/export", escape(&options.container));
    let body = engine.stream(Method::GET, &path, &[]).await?;
    let output = options.output.clone();
    archive::read_body(body, move |reader| {
        let mut writer: Box<dyn Write> = match &output {
            None => Box::new(std::io::stdout().lock()),
            Some(file) => Box::new(
                std::fs::File::create(file)
                    .with_context(|| format!("cannot write {}", file.display()))?,
            ),
        };
        std::io::copy(reader, &mut writer).context("cannot write the tar")?;
        writer.flush().context("cannot write the tar")
    })
    .await?;
    Ok(0)
}
