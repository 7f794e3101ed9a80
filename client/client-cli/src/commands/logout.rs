//! `berth logout`

use crate::credentials::{Config, server_name};
use crate::show;
use anyhow::Result;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Registry [default: Docker Hub]
    server: Option<String>,
}

/// Needs no engine: what is forgotten is on this side.
pub(crate) fn perform(options: &Options) -> Result<u8> {
    let server = server_name(options.server.as_deref().unwrap_or_default());
    let mut config = Config::load()?;
    match config.erase(&server)? {
        true => show::print(&format!("Removing login credentials for {server}\n"))?,
        false => show::print(&format!("Not logged in to {server}\n"))?,
    }
    Ok(0)
}
