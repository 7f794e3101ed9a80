//! `berth volume ...`

use super::{volume_create, volume_inspect, volume_ls, volume_prune, volume_rm};
use crate::engine::Engine;
use anyhow::Result;
use clap::Subcommand;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a volume
    Create(volume_create::Options),
    /// Show everything about volumes
    Inspect(volume_inspect::Options),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(volume_ls::Options),
    /// Remove volumes that no container uses
    Prune(volume_prune::Options),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(volume_rm::Options),
}

pub(crate) async fn perform(engine: &Engine, options: Options) -> Result<u8> {
    match options.verb {
        Verb::Create(options) => volume_create::perform(engine, &options).await,
        Verb::Inspect(options) => volume_inspect::perform(engine, &options).await,
        Verb::Ls(options) => volume_ls::perform(engine, &options).await,
        Verb::Prune(options) => volume_prune::perform(engine, &options).await,
        Verb::Rm(options) => volume_rm::perform(engine, &options).await,
    }
}
