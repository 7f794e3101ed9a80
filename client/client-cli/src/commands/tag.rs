//! `berth tag`

use crate::engine::{Engine, escape, query};
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Name or id of an image
    source: String,
    /// One more name for it
    target: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let last = options.target.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match options.target[last..].split_once(':') {
        Some((name, tag)) => (&options.target[..last + name.len()], tag),
        None => (options.target.as_str(), ""),
    };
    let query = query(&[("repo", repository.to_owned()), ("tag", tag.to_owned())]);
    engine
        .post(
            &format!("/images/{}/tag{query}", escape(&options.source)),
            None,
        )
        .await?;
    Ok(0)
}
