//! `berth network inspect`

use crate::engine::{Engine, escape};
use crate::show;
use anyhow::Result;
use go_template::Template;
use serde_json::Value;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Show by a Go template, for example '{{.Driver}}'
    #[arg(short, long)]
    format: Option<String>,
    #[arg(required = true)]
    networks: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let template = options.format.as_deref().map(Template::parse).transpose()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &options.networks {
        match engine.get(&format!("/networks/{}", escape(name))).await {
            Ok(network) => found.push(network),
            Err(error) => {
                eprintln!("berth: {error:#}");
                code = 1;
            }
        }
    }
    match template {
        Some(template) => {
            for network in &found {
                show::print(&(template.render(network)? + "\n"))?;
            }
        }
        None => {
            let all = Value::Array(found);
            show::print(&(go_template::render("{{prettyjson .}}", &all)? + "\n"))?;
        }
    }
    Ok(code)
}
