//! `berth stats`

use crate::engine::{Engine, EngineError, escape, query};
use crate::show;
use anyhow::{Context, Result};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::io::IsTerminal;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Stopped containers too
    #[arg(short, long)]
    all: bool,
    /// Once, instead of again and again
    #[arg(long)]
    no_stream: bool,
    /// Do not shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Show by a Go template: 'table ...', 'json' or a template a line
    #[arg(long)]
    format: Option<String>,
    containers: Vec<String>,
}

const HEADINGS: [(&str, &str); 9] = [
    ("ID", "CONTAINER ID"),
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let table = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
    loop {
        let names = if options.containers.is_empty() {
            running(engine, options.all).await?
        } else {
            options.containers.clone()
        };
        let readings = names.iter().map(|name| async move {
            let path = format!("/containers/{}/stats?stream=false", escape(name));
            engine
                .get(&path)
                .await
                .map(|stats| row(name, &stats, options.no_trunc))
        });
        let mut rows = Vec::new();
        for reading in join_all(readings).await {
            match reading {
                Ok(row) => rows.push(row),
                // One that was removed while we asked for all is of no interest.
                Err(error)
                    if options.containers.is_empty() && EngineError::is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if !options.no_stream && std::io::stdout().is_terminal() {
            // To the top left, and nothing left below.
            show::print("\x1b[H\x1b[J")?;
        }
        show::rows(&rows, options.format.as_deref(), table, &HEADINGS)?;
        if options.no_stream {
            return Ok(0);
        }
        if names.is_empty() {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
}

async fn running(engine: &Engine, all: bool) -> Result<Vec<String>> {
    let query = query(&[("all", all.to_string())]);
    let listed = engine.get(&format!("/containers/json{query}")).await?;
    listed
        .as_array()
        .context("the engine's answer is no list")?
        .iter()
        .map(|one| {
            Ok(one["Id"]
                .as_str()
                .context("a container without an id")?
                .to_owned())
        })
        .collect()
}

fn row(asked: &str, stats: &Value, whole: bool) -> Value {
    let memory = &stats["memory_stats"];
    let used = used_memory(memory);
    let limit = memory["limit"].as_u64().unwrap_or(0);
    let share = if limit == 0 {
        0.0
    } else {
        used as f64 / limit as f64 * 100.0
    };
    let networks = || stats["networks"].as_object().into_iter().flatten();
    let over_all = |key: &str| -> u64 {
        networks()
            .filter_map(|(_, counters)| counters[key].as_u64())
            .sum()
    };
    let blocks = |operation: &str| -> u64 {
        let table = stats["blkio_stats"]["io_service_bytes_recursive"].as_array();
        let lines = table.into_iter().flatten();
        lines
            .filter(|line| {
                let op = line["op"].as_str().unwrap_or_default();
                op.eq_ignore_ascii_case(operation)
            })
            .filter_map(|line| line["value"].as_u64())
            .sum()
    };
    let size = |bytes: u64| show::size(i64::try_from(bytes).unwrap_or(i64::MAX));
    json!({
        "Container": asked,
        "ID": show::id(stats["id"].as_str().unwrap_or_default(), whole),
        "Name": stats["name"].as_str().unwrap_or_default().trim_start_matches('/'),
        "CPUPerc": format!("{:.2}%", processor_share(stats)),
        "MemUsage": format!("{} / {}", binary_size(used), binary_size(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", size(over_all("rx_bytes")), size(over_all("tx_bytes"))),
        "BlockIO": format!("{} / {}", size(blocks("read")), size(blocks("write"))),
        "PIDs": stats["pids_stats"]["current"].as_u64().unwrap_or(0).to_string(),
    })
}

/// Percent of one processor: the container's part of what all of them did between two readings.
fn processor_share(stats: &Value) -> f64 {
    let number = |which: &str, path: &[&str]| -> f64 {
        let found = path.iter().fold(&stats[which], |value, key| &value[key]);
        found.as_f64().unwrap_or(0.0)
    };
    let difference = |path: &[&str]| number("cpu_stats", path) - number("precpu_stats", path);
    let own = difference(&["cpu_usage", "total_usage"]);
    let all = difference(&["system_cpu_usage"]);
    let processors = number("cpu_stats", &["online_cpus"]);
    if own > 0.0 && all > 0.0 {
        own / all * processors * 100.0
    } else {
        0.0
    }
}

/// Without the files that the kernel can drop at any time, as docker counts.
fn used_memory(memory: &Value) -> u64 {
    let usage = memory["usage"].as_u64().unwrap_or(0);
    let droppable = ["total_inactive_file", "inactive_file"]
        .iter()
        .find_map(|key| memory["stats"][*key].as_u64());
    droppable
        .filter(|bytes| *bytes < usage)
        .map_or(usage, |bytes| usage - bytes)
}

/// `1.5GiB`: four significant digits, steps of 1024.
fn binary_size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let whole = (value as u64).to_string().len();
    let digits = 4usize.saturating_sub(whole);
    let mut text = format!("{value:.digits$}");
    if text.contains('.') {
        text = text.trim_end_matches('0').trim_end_matches('.').to_owned();
    }
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_becomes_dockers_row() {
        let stats = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 100}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 12 << 20, "limit": 100 << 20, "stats": {"inactive_file": 2 << 20}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 500}, "eth1": {"rx_bytes": 500, "tx_bytes": 0}},
            "blkio_stats": {"io_service_bytes_recursive": [
                {"op": "Read", "value": 4096}, {"op": "Write", "value": 0}, {"op": "Total", "value": 4096}]},
            "pids_stats": {"current": 3},
        });
        let row = row("web", &stats, false);
        assert_eq!(row["CPUPerc"], "40.00%");
        assert_eq!(row["MemUsage"], "10MiB / 100MiB");
        assert_eq!(row["MemPerc"], "10.00%");
        assert_eq!(row["NetIO"], "1.5kB / 500B");
        assert_eq!(row["BlockIO"], "4.1kB / 0B");
        assert_eq!(
            (&row["ID"], &row["PIDs"]),
            (&json!("0123456789ab"), &json!("3"))
        );
        let zero = super::row("x", &json!({}), false);
        assert_eq!(zero["MemUsage"], "0B / 0B");
        assert_eq!(binary_size(1536 << 20), "1.5GiB");
    }
}
