//! `berth info`

use crate::engine::Engine;
use crate::show;
use anyhow::Result;
use serde_json::Value;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Show by a Go template, for example '{{.ServerVersion}}'
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let info = engine.get("/info").await?;
    if let Some(format) = &options.format {
        let text = if format == "json" {
            info.to_string()
        } else {
            go_template::render(format, &info)?
        };
        show::print(&(text + "\n"))?;
        return Ok(0);
    }
    let rows: [(&str, &str); 17] = [
        ("Name", "Name"),
        ("Server Version", "ServerVersion"),
        ("Containers", "Containers"),
        (" Running", "ContainersRunning"),
        (" Paused", "ContainersPaused"),
        (" Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Storage Driver", "Driver"),
        ("Logging Driver", "LoggingDriver"),
        ("Cgroup Driver", "CgroupDriver"),
        ("Cgroup Version", "CgroupVersion"),
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("Architecture", "Architecture"),
        ("CPUs", "NCPU"),
        ("Total Memory", "MemTotal"),
        ("Data Root", "DockerRootDir"),
    ];
    let mut text = String::new();
    for (label, key) in rows {
        let value = match &info[key] {
            Value::Null => continue,
            Value::String(value) => value.clone(),
            Value::Number(bytes) if key == "MemTotal" => {
                show::size(bytes.as_i64().unwrap_or_default())
            }
            other => other.to_string(),
        };
        text.push_str(&format!("{label}: {value}\n"));
    }
    show::print(&text)?;
    for warning in info["Warnings"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        eprintln!("{warning}");
    }
    Ok(0)
}
