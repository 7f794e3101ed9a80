//! `berth load`

use crate::engine::Engine;
use crate::show::progress;
use anyhow::{Context, Result};
use std::io::Read;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Read from a file instead of standard input
    #[arg(short, long)]
    input: Option<std::path::PathBuf>,
    /// Do not show the progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let source: Box<dyn Read + Send> = match &options.input {
        Some(path) => {
            let file = std::fs::File::open(path);
            Box::new(file.with_context(|| format!("cannot open {}", path.display()))?)
        }
        None if crate::streams::stdin_is_terminal() => {
            anyhow::bail!("an image is not typed in: use --input FILE or redirect standard input")
        }
        None => Box::new(std::io::stdin()),
    };
    let path = format!("/images/load?quiet={}", options.quiet);
    let body = engine
        .upload(http::Method::POST, &path, "application/x-tar", &[], source)
        .await?;
    progress::show(body, false).await?;
    Ok(0)
}
