//! `berth pull`

use crate::credentials;
use crate::engine::{Engine, query};
use crate::show;
use crate::show::progress::{self, Place};
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
    /// Platform to take from an image made for several, for example linux/amd64
    #[arg(long)]
    platform: Option<String>,
    image: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let tagged = with_tag(&options.image);
    if options.all_tags && tagged == options.image {
        bail!("tag can't be used with --all-tags/-a");
    }
    let image = match options.all_tags {
        true => options.image.clone(),
        false => tagged,
    };
    let platform = options.platform.as_deref();
    download(engine, &image, platform, options.quiet, Place::Output).await?;
    show::print(&format!("{image}\n"))?;
    Ok(0)
}

/// Downloads an image and shows the progress.
pub(crate) async fn download(
    engine: &Engine,
    image: &str,
    platform: Option<&str>,
    quiet: bool,
    place: Place,
) -> Result<()> {
    let mut pairs = vec![("fromImage", image.to_owned())];
    pairs.extend(platform.map(|platform| ("platform", platform.to_owned())));
    let auth = credentials::header(image);
    let body = engine
        .stream(
            Method::POST,
            &format!("/images/create{}", query(&pairs)),
            &[("x-registry-auth", &auth)],
        )
        .await?;
    progress::show_at(place, body, quiet).await
}

/// Without tag and digest it is the tag `latest`; the engine would take all tags.
pub(crate) fn with_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag() {
        assert_eq!(with_tag("alpine"), "alpine:latest");
        assert_eq!(with_tag("host:5000/a/b"), "host:5000/a/b:latest");
        assert_eq!(with_tag("a:1"), "a:1");
        assert_eq!(with_tag("a@sha256:00"), "a@sha256:00");
    }
}
