//! `berth volume create`

use crate::engine::Engine;
use crate::show;
use anyhow::Result;
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Driver; the only one is local
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Fact about the volume, name=value; may be repeated
    #[arg(long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Option of the driver (type, device, o, size), name=value; may be repeated
    #[arg(short, long = "opt", value_name = "OPTION")]
    options: Vec<String>,
    /// Left out: a name of its own
    name: Option<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let pairs = |list: &[String]| -> Map<String, Value> {
        list.iter()
            .map(|word| word.split_once('=').unwrap_or((word, "")))
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect()
    };
    let body = json!({
        "Name": options.name.as_deref().unwrap_or_default(),
        "Driver": options.driver,
        "DriverOpts": pairs(&options.options),
        "Labels": pairs(&options.labels),
    });
    let made = engine.post("/volumes/create", Some(&body)).await?;
    show::print(&format!("{}\n", made["Name"].as_str().unwrap_or_default()))?;
    Ok(0)
}
