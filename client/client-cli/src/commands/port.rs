//! `berth port`

use crate::engine::{Engine, escape};
use crate::show;
use anyhow::{Result, bail};
use serde_json::Value;

#[derive(clap::Args)]
pub(crate) struct Options {
    container: String,
    /// Only where this port goes: 80, or 53/udp
    private_port: Option<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let path = format!("/containers/{}/json", escape(&options.container));
    let container = engine.get(&path).await?;
    let ports = &container["NetworkSettings"]["Ports"];
    let mut text = String::new();
    match &options.private_port {
        Some(port) => {
            let name = if port.contains('/') {
                port.to_ascii_lowercase()
            } else {
                format!("{port}/tcp")
            };
            for address in addresses(&ports[name.as_str()]) {
                text.push_str(&format!("{address}\n"));
            }
            if text.is_empty() {
                bail!(
                    "no public port '{name}' published for {}",
                    options.container
                );
            }
        }
        None => {
            for (name, targets) in ports.as_object().into_iter().flatten() {
                for address in addresses(targets) {
                    text.push_str(&format!("{name} -> {address}\n"));
                }
            }
        }
    }
    show::print(&text)?;
    Ok(0)
}

fn addresses(targets: &Value) -> impl Iterator<Item = String> {
    targets.as_array().into_iter().flatten().map(|target| {
        let word = |key: &str| target[key].as_str().unwrap_or_default();
        let (address, port) = (word("HostIp"), word("HostPort"));
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    })
}
