//! `berth ps`

use crate::engine::{Engine, query};
use crate::{parse, show};
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::BTreeSet;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Stopped containers too
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// The newest so many, whatever their state
    #[arg(short = 'n', long, value_name = "COUNT")]
    last: Option<u32>,
    /// The newest, whatever its state
    #[arg(short, long)]
    latest: bool,
    /// Do not shorten ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Show sizes
    #[arg(short, long)]
    size: bool,
    /// Only those that fit, for example status=exited
    #[arg(short, long)]
    filter: Vec<String>,
    /// Show by a Go template: 'table ...', 'json' or a template a line
    #[arg(long)]
    format: Option<String>,
}

const HEADINGS: [(&str, &str); 14] = [
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Status", "STATUS"),
    ("State", "STATE"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("Networks", "NETWORKS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
];

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let mut pairs = vec![
        ("all", options.all.to_string()),
        ("size", options.size.to_string()),
    ];
    let limit = if options.latest {
        Some(1)
    } else {
        options.last
    };
    pairs.extend(limit.map(|limit| ("limit", limit.to_string())));
    if !options.filter.is_empty() {
        pairs.push(("filters", parse::filters(&options.filter)?));
    }
    let containers = engine
        .get(&format!("/containers/json{}", query(&pairs)))
        .await?;
    let rows: Vec<Value> = containers
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| row(container, options.no_trunc))
        .collect();
    let mut table =
        "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}".to_owned();
    if options.size {
        table.push_str("\t{{.Size}}");
    }
    let default = if options.quiet { "{{.ID}}" } else { &table };
    show::rows(&rows, options.format.as_deref(), default, &HEADINGS)?;
    Ok(0)
}

fn row(container: &Value, whole: bool) -> Value {
    let text = |key: &str| container[key].as_str().unwrap_or_default();
    let names: Vec<&str> = container["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(|name| name.trim_start_matches('/'))
        .collect();
    let command = format!("\"{}\"", text("Command"));
    let labels: Vec<String> = container["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let mounts: Vec<&str> = container["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|mount| {
            mount["Name"]
                .as_str()
                .filter(|name| !name.is_empty())
                .or(mount["Source"].as_str())
        })
        .collect();
    let networks: Vec<&String> = container["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flat_map(|map| map.keys())
        .collect();
    let size = container["SizeRw"].as_i64().unwrap_or_default();
    let total = container["SizeRootFs"].as_i64().unwrap_or_default();
    json!({
        "ID": show::id(text("Id"), whole),
        "Image": text("Image"),
        "Command": if whole { command } else { show::ellipsis(&command, 20) },
        "RunningFor": show::ago(container["Created"].as_i64().unwrap_or_default()),
        "CreatedAt": container["Created"],
        "Status": text("Status"),
        "State": text("State"),
        "Ports": ports(&container["Ports"]),
        "Names": names.join(","),
        "Size": format!("{} (virtual {})", show::size(size), show::size(total)),
        "Labels": labels.join(","),
        "Mounts": mounts.join(","),
        "Networks": networks.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(","),
        "LocalVolumes": mounts.len(),
    })
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`
fn ports(list: &Value) -> String {
    let texts: BTreeSet<(u64, String)> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let private = port["PrivatePort"].as_u64().unwrap_or_default();
            let end = format!("{private}/{}", port["Type"].as_str().unwrap_or("tcp"));
            let text = match port["PublicPort"].as_u64().filter(|public| *public != 0) {
                Some(public) => {
                    let address = port["IP"].as_str().unwrap_or_default();
                    let address = if address.contains(':') {
                        format!("[{address}]")
                    } else {
                        address.to_owned()
                    };
                    format!("{address}:{public}->{end}")
                }
                None => end,
            };
            (private, text)
        })
        .collect();
    texts
        .into_iter()
        .map(|(_, text)| text)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_shown_as_docker_does() {
        let list = json!([
            { "PrivatePort": 443, "Type": "tcp" },
            { "IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" },
            { "IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp" }
        ]);
        assert_eq!(
            ports(&list),
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 443/tcp"
        );
    }

    #[test]
    fn a_row_is_short_unless_all_is_wanted() {
        let container = json!({
            "Id": "0123456789abcdef", "Names": ["/web"], "Image": "alpine", "Command": "sh -c 'sleep 100000'",
            "Created": 0, "Status": "Up 2 minutes", "State": "running", "Ports": [], "Labels": { "a": "b" }
        });
        let short = row(&container, false);
        assert_eq!(short["ID"], "0123456789ab");
        assert_eq!(short["Command"], "\"sh -c 'sleep 10000…");
        assert_eq!(short["Names"], "web");
        assert_eq!(row(&container, true)["Command"], "\"sh -c 'sleep 100000'\"");
    }
}
