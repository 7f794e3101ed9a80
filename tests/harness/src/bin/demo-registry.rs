//! Serves Debian's busybox as a container image on loopback, for demonstrations without internet.
//!
//! `demo-registry [--port PORT] [--store FOLDER] [--image REPOSITORY:TAG]... [--until-input-ends]` prints `http://127.0.0.1:PORT` once it can
//! be pulled from, and serves until it is ended. Without `--image` it has `library/busybox:latest` and, because scripts
//! like to call it so, `library/alpine:latest`.

use anyhow::{Context, Result, bail};
use harness::registry::Registry;
use std::io::Write;

fn main() -> Result<()> {
    let mut port = 0u16;
    let mut store = None;
    let mut images = Vec::new();
    let mut until_input_ends = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{flag} needs a value"))
        };
        match flag.as_str() {
            "--port" => port = value()?.parse().context("--port takes a number")?,
            "--store" => store = Some(std::path::PathBuf::from(value()?)),
            "--image" => images.push(value()?),
            "--until-input-ends" => until_input_ends = true,
            other => bail!(
                "unknown argument {other:?}; usage: demo-registry [--port PORT] [--store FOLDER] [--image REPOSITORY:TAG]... [--until-input-ends]"
            ),
        }
    }
    if images.is_empty() {
        images = vec![
            "library/busybox:latest".into(),
            "library/alpine:latest".into(),
        ];
    }
    let registry = match (&store, port) {
        (None, 0) => Registry::start()?,
        (Some(store), port) => Registry::start_at(port, store)?,
        (None, _) => bail!("--port needs --store"),
    };
    for image in images {
        let (repository, tag) = image
            .rsplit_once(':')
            .with_context(|| format!("{image:?} is not REPOSITORY:TAG"))?;
        registry.push_busybox(repository, tag, "demo")?;
    }
    println!("{}", registry.url());
    std::io::stdout().flush()?;
    if until_input_ends {
        // Whoever started us holds the other end: when it is gone, however it ended, so are we.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
        return Ok(());
    }
    registry.wait()
}
