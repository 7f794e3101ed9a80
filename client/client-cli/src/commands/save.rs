//! `berth save`

use crate::engine::{Engine, query};
use anyhow::{Context, Result};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Write to a file instead of standard output
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[arg(required = true)]
    images: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    if options.output.is_none() && std::io::stdout().is_terminal() {
        anyhow::bail!(
            "an archive is not for the terminal: use --output FILE or redirect standard output"
        );
    }
    let pairs: Vec<(&str, String)> = options
        .images
        .iter()
        .map(|image| ("names", image.clone()))
        .collect();
    let path = format!("/images/get{}", query(&pairs));
    // Asked before the file is touched: what cannot be saved leaves an old file as it was.
    let body = engine.stream(Method::GET, &path, &[]).await?;
    match &options.output {
        None => copy(body, &mut std::io::stdout()).await?,
        Some(path) => {
            let mut temporary = path.clone().into_os_string();
            temporary.push(format!(".{}", std::process::id()));
            let temporary = PathBuf::from(temporary);
            let cannot = || format!("cannot write {}", path.display());
            let mut file = std::fs::File::create(&temporary).with_context(cannot)?;
            let written = match copy(body, &mut file).await {
                Ok(()) => std::fs::rename(&temporary, path).with_context(cannot),
                Err(error) => Err(error),
            };
            if written.is_err() {
                let _ = std::fs::remove_file(&temporary);
            }
            written?;
        }
    }
    Ok(0)
}

async fn copy(mut body: Incoming, output: &mut (dyn Write + Send)) -> Result<()> {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("the engine hung up")?.into_data() {
            output
                .write_all(&data)
                .context("cannot write the archive")?;
        }
    }
    output.flush().context("cannot write the archive")
}
