//! `berth import`

use super::commit::name_and_tag;
use crate::engine::{Engine, query};
use crate::show::progress;
use anyhow::{Context, Result, bail};
use http::Method;
use std::io::Read;

#[derive(clap::Args)]
#[command(
    after_help = "The tar (plain, gzip, xz or zstd) is a whole file system, as 'berth export' writes it; the image has one layer and the
settings given here. Images written by 'docker save' are for 'berth load'.

Examples:
  berth import -c 'CMD [\"/bin/sh\"]' root.tar.gz me/root:v1
  berth import http://files.example/root.tar.xz me/root
  berth export web | berth import - me/web:flat"
)]
pub(crate) struct Options {
    /// Dockerfile instruction to apply: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR
    #[arg(short, long)]
    change: Vec<String>,
    /// A comment on the image
    #[arg(short, long, default_value = "")]
    message: String,
    /// What it is for, for example linux/arm64
    #[arg(long, default_value = "")]
    platform: String,
    /// A file here, a URL that the engine fetches, or - for standard input
    source: String,
    /// NAME[:TAG] of the image
    name: Option<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let is_url = ["http://", "https://"]
        .iter()
        .any(|scheme| options.source.starts_with(scheme));
    let (name, tag) = name_and_tag(options.name.as_deref().unwrap_or_default());
    let source = if is_url { options.source.as_str() } else { "-" };
    let mut pairs = vec![
        ("fromSrc", source.to_owned()),
        ("repo", name.to_owned()),
        ("tag", tag.to_owned()),
        ("message", options.message.clone()),
        ("platform", options.platform.clone()),
    ];
    pairs.extend(
        options
            .change
            .iter()
            .map(|change| ("changes", change.clone())),
    );
    let path = format!("/images/create{}", query(&pairs));
    let body = if is_url {
        engine.stream(Method::POST, &path, &[]).await?
    } else {
        let content: Box<dyn Read + Send> = match options.source.as_str() {
            "-" if crate::streams::stdin_is_terminal() => {
                bail!("a tar is not typed in: name a file or redirect standard input")
            }
            "-" => Box::new(std::io::stdin()),
            file => {
                let opened = std::fs::File::open(file);
                Box::new(opened.with_context(|| format!("cannot open {file}"))?)
            }
        };
        engine
            .upload(Method::POST, &path, "application/x-tar", &[], content)
            .await?
    };
    progress::show(body, false).await?;
    Ok(0)
}
