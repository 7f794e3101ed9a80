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
    let pairs = match options.all_tags {
        true => Vec::new(),
        false => vec![("tag", tag.to_owned())],
    };
    let header = credentials::header(name);
    let body = engine
        .stream(
            Method::POST,
            &format!("/images/{}/push{}", escape(name), query(&pairs)),
            &[("x-registry-auth", &header)],
        )
        .await?;
    progress::show(body, options.quiet).await?;
    if options.quiet {
        show::print(&format!("{named}\n"))?;
    }
    Ok(0)
}
