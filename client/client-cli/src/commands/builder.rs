//! `berth builder ...`: builds by Docker's longer name, and their cache.

use super::{build, builder_prune};
use crate::engine::Engine;
use anyhow::Result;
use clap::Subcommand;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Build an image from a Dockerfile
    Build(build::Options),
    /// Remove what builds keep to be quick the next time
    Prune(builder_prune::Options),
}

pub(crate) async fn perform(engine: &Engine, verb: Verb) -> Result<u8> {
    match verb {
        Verb::Build(options) => build::perform(engine, &options).await,
        Verb::Prune(options) => builder_prune::perform(engine, &options).await,
    }
}
