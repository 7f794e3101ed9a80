//! `berth push`

use super::pull::with_tag;
use crate::credentials;
use crate::engine::{Engine, escape, query};
use crate::show::{self, progress};
use anyhow::{Result, bail};
use http::Method;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    image: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let named = with_tag(&options.image);
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (named.as_str(), "latest"),
    };
    if options.all_tags && named == options.image {
        bail!("tag can't be used with --all-tags/-a");
    }
    let tag = (!options.all_tags).then_some(tag);
    send(engine, name, tag, options.quiet).await?;
    if options.quiet {
        show::print(&format!("{named}\n"))?;
    }
    Ok(0)
}

/// Sends the image of a name without a word about it.
pub(super) async fn upload(engine: &Engine, image: &str) -> Result<()> {
    let named = with_tag(image);
    let (name, tag) = named.rsplit_once(':').unwrap_or((&named, "latest"));
    send(engine, name, Some(tag), true).await
}

/// Without a tag all of the repository.
async fn send(engine: &Engine, name: &str, tag: Option<&str>, quiet: bool) -> Result<()> {
    let pairs: Vec<_> = tag.map(|tag| ("tag", tag.to_owned())).into_iter().collect();
    let header = credentials::header(name);
    let body = engine
        .stream(
            Method::POST,
            &format!("/images/{}/push{}", escape(name), query(&pairs)),
            &[("x-registry-auth", &header)],
        )
        .await?;
    progress::show(body, quiet).await
}
