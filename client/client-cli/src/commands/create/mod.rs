//! `berth create`, and what it has in common with `berth run`: a container as flags describe it.

mod container;
mod devices;
mod health;
mod isolation;
mod limits;
mod mounts;
mod networks;

use crate::engine::Engine;
use crate::show;
use anyhow::Result;
pub(super) use container::Container;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    container: Container,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let id = options.container.create(engine, true).await?;
    show::print(&format!("{id}\n"))?;
    Ok(0)
}
