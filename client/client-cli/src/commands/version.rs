//! `berth version`

use crate::engine::Engine;
use crate::show;
use anyhow::Result;
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Show by a Go template, for example '{{.Server.Version}}'
    #[arg(short, long)]
    format: Option<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let mut client = json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "Os": std::env::consts::OS,
        "Arch": architecture(),
    });
    let server = engine.get("/version").await;
    if server.is_ok() {
        client["ApiVersion"] = Value::from(engine.api_version().await?);
    }
    if let Some(format) = &options.format {
        let both = json!({ "Client": client, "Server": server? });
        let text = if format == "json" {
            both.to_string()
        } else {
            go_template::render(format, &both)?
        };
        show::print(&(text + "\n"))?;
        return Ok(0);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![
        "Client: Berth".to_owned(),
        format!(" Version:     {}", text(&client["Version"])),
        format!(" API version: {}", text(&client["ApiVersion"])),
        format!(
            " OS/Arch:     {}/{}",
            text(&client["Os"]),
            text(&client["Arch"])
        ),
    ];
    let code = match server {
        Ok(server) => {
            let api = format!(
                "{} (minimum version {})",
                text(&server["ApiVersion"]),
                text(&server["MinAPIVersion"])
            );
            lines.extend([
                String::new(),
                format!("Server: {}", text(&server["Platform"]["Name"])),
                format!(" Version:     {}", text(&server["Version"])),
                format!(" API version: {api}"),
                format!(
                    " OS/Arch:     {}/{}",
                    text(&server["Os"]),
                    text(&server["Arch"])
                ),
                format!(" Kernel:      {}", text(&server["KernelVersion"])),
                format!(" Git commit:  {}", text(&server["GitCommit"])),
                format!(" Built:       {}", text(&server["BuildTime"])),
            ]);
            0
        }
        Err(error) => {
            show::print(&(lines.join("\n") + "\n"))?;
            return Err(error);
        }
    };
    show::print(&(lines.join("\n") + "\n"))?;
    Ok(code)
}

/// Go's names, which docker shows.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
