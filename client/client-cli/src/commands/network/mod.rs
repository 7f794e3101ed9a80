//! `berth network`: one file a verb.

mod connect;
mod create;
mod disconnect;
mod inspect;
mod ls;
mod prune;
mod rm;

use crate::engine::Engine;
use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// Verbs about networks.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// Make a network
    Create(create::Options),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ls::Options),
    /// Show everything about networks
    Inspect(inspect::Options),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(rm::Options),
    /// Put a container into a network
    Connect(connect::Options),
    /// Take a container out of a network
    Disconnect(disconnect::Options),
    /// Remove networks that no container is in
    Prune(prune::Options),
}

pub(crate) async fn perform(engine: &Engine, verb: &Verb) -> Result<u8> {
    match verb {
        Verb::Create(options) => create::perform(engine, options).await,
        Verb::Ls(options) => ls::perform(engine, options).await,
        Verb::Inspect(options) => inspect::perform(engine, options).await,
        Verb::Rm(options) => rm::perform(engine, options).await,
        Verb::Connect(options) => connect::perform(engine, options).await,
        Verb::Disconnect(options) => disconnect::perform(engine, options).await,
        Verb::Prune(options) => prune::perform(engine, options).await,
    }
}

/// `name=value` words as an object; `what` is the flag they came with.
fn pairs(words: &[String], what: &str) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        if name.is_empty() {
            bail!("invalid {what} '{word}': expected name=value");
        }
        all.insert(name.to_owned(), value.into());
    }
    Ok(all)
}
