//! `berth image ...`: the verbs about images by their longer names.

use super::{build, history, image_prune, images, load, pull, push, rmi, save, tag};
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
    /// Build an image from a Dockerfile
    Build(build::Options),
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::Options),
    /// Show how an image was made
    History(history::Options),
    /// Take in images from a tar of `docker save`
    Load(load::Options),
    /// Remove images that no container uses
    Prune(image_prune::Options),
    /// Download an image
    Pull(pull::Options),
    /// Send an image to a registry
    Push(push::Options),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(rmi::Options),
    /// Write images to a tar
    Save(save::Options),
    /// Give an image one more name
    Tag(tag::Options),
}

pub(crate) async fn perform(engine: &Engine, options: Options) -> Result<u8> {
    match options.verb {
        Verb::Build(options) => build::perform(engine, &options).await,
        Verb::Ls(options) => images::perform(engine, &options).await,
        Verb::History(options) => history::perform(engine, &options).await,
        Verb::Load(options) => load::perform(engine, &options).await,
        Verb::Prune(options) => image_prune::perform(engine, &options).await,
        Verb::Pull(options) => pull::perform(engine, &options).await,
        Verb::Push(options) => push::perform(engine, &options).await,
        Verb::Rm(options) => rmi::perform(engine, &options).await,
        Verb::Save(options) => save::perform(engine, &options).await,
        Verb::Tag(options) => tag::perform(engine, &options).await,
    }
}
