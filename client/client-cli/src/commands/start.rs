//! `berth start`

use super::attach::{Joined, exit_code};
use super::each;
use crate::engine::{Engine, escape};
use anyhow::{Result, bail};
use http::Method;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Show the output, pass signals on, and end with the program's exit code
    #[arg(short, long)]
    attach: bool,
    /// Attach our standard input, too
    #[arg(short, long)]
    interactive: bool,
    /// Keys that detach from the terminal
    #[arg(long)]
    detach_keys: Option<String>,
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    if options.attach || options.interactive {
        let [name] = options.containers.as_slice() else {
            bail!("you cannot start and attach multiple containers at once");
        };
        return attached(engine, options, &escape(name)).await;
    }
    each(&options.containers, async |name| {
        engine
            .post(&format!("/containers/{}/start", escape(name)), None)
            .await?;
        Ok(Some(name.to_owned()))
    })
    .await
}

async fn attached(engine: &Engine, options: &Options, name: &str) -> Result<u8> {
    let container = engine.get(&format!("/containers/{name}/json")).await?;
    let joined = Joined {
        input: options.interactive,
        detach_keys: options.detach_keys.clone(),
        signals: true,
    };
    let stream = joined.open(engine, name, &container).await?;
    let condition = match container["HostConfig"]["AutoRemove"].as_bool() {
        Some(true) => "removed",
        _ => "next-exit",
    };
    let wait = format!("/containers/{name}/wait?condition={condition}");
    let exit = engine.stream(Method::POST, &wait, &[]).await?;
    engine
        .post(&format!("/containers/{name}/start"), None)
        .await?;
    joined.run(engine, name, &container, stream).await?;
    let tty = container["Config"]["Tty"] == true;
    exit_code(engine, name, tty, exit).await
}
