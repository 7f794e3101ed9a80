//! `berth inspect`

use crate::engine::{Engine, EngineError, escape};
use crate::show;
use anyhow::{Result, bail};
use go_template::Template;
use serde_json::Value;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Show by a Go template, for example '{{.State.Status}}'
    #[arg(short, long)]
    format: Option<String>,
    /// Only this kind: container, image, volume or network
    #[arg(long = "type")]
    kind: Option<String>,
    /// Show the sizes of containers
    #[arg(short, long)]
    size: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

impl Options {
    /// For verbs about one kind of thing.
    pub(crate) fn of_kind(kind: &str, format: &Option<String>, names: &[String]) -> Options {
        Options {
            format: format.clone(),
            kind: Some(kind.to_owned()),
            size: false,
            names: names.to_vec(),
        }
    }
}

const KINDS: [&str; 4] = ["container", "image", "volume", "network"];

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    if let Some(kind) = &options.kind
        && !KINDS.contains(&kind.as_str())
    {
        bail!("unknown type '{kind}': it is one of {}", KINDS.join(", "));
    }
    let format = options.format.as_deref().filter(|format| *format != "json");
    let template = format.map(Template::parse).transpose()?;
    let mut found = Vec::new();
    let mut code = 0;
    for name in &options.names {
        match find(engine, options, name).await {
            Ok(Some(value)) => found.push(value),
            Ok(None) => {
                eprintln!(
                    "berth: no such {}: {name}",
                    options.kind.as_deref().unwrap_or("object")
                );
                code = 1;
            }
            Err(error) => {
                eprintln!("berth: {error:#}");
                code = 1;
            }
        }
    }
    match template {
        Some(template) => {
            for value in &found {
                show::print(&(template.render(value)? + "\n"))?;
            }
        }
        None if options.format.is_some() => show::print(&format!("{}\n", Value::Array(found)))?,
        None => {
            show::print(&(go_template::render("{{prettyjson .}}", &Value::Array(found))? + "\n"))?
        }
    }
    Ok(code)
}

async fn find(engine: &Engine, options: &Options, name: &str) -> Result<Option<Value>> {
    let name = escape(name);
    for kind in KINDS.iter().filter(|kind| {
        options
            .kind
            .as_deref()
            .is_none_or(|wanted| wanted == **kind)
    }) {
        let path = match *kind {
            "container" => format!("/containers/{name}/json?size={}", options.size),
            "image" => format!("/images/{name}/json"),
            "volume" => format!("/volumes/{name}"),
            _ => format!("/networks/{name}"),
        };
        match engine.get(&path).await {
            Ok(value) => return Ok(Some(value)),
            Err(error) if EngineError::is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
