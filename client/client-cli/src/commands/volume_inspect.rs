//! `berth volume inspect`

use super::inspect;
use crate::engine::Engine;
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Show by a Go template, for example '{{.Mountpoint}}'
    #[arg(short, long)]
    format: Option<String>,
    #[arg(required = true)]
    volumes: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let of_volumes = inspect::Options::of_kind("volume", &options.format, &options.volumes);
    inspect::perform(engine, &of_volumes).await
}
