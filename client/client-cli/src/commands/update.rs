//! `berth update`

use super::each;
use crate::engine::{Engine, escape};
use crate::parse;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Memory limit, for example 512m
    #[arg(short, long)]
    memory: Option<String>,
    /// Memory and swap together; -1 is without limit
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory the container is pressed down to when the host runs short
    #[arg(long)]
    memory_reservation: Option<String>,
    /// Processors, for example 1.5
    #[arg(long)]
    cpus: Option<f64>,
    /// Share of the processors' time, 2 to 262144
    #[arg(short, long)]
    cpu_shares: Option<i64>,
    /// Microseconds
    #[arg(long)]
    cpu_period: Option<i64>,
    /// Microseconds in each period
    #[arg(long, allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// Processors it may run on: 0-2,4
    #[arg(long)]
    cpuset_cpus: Option<String>,
    /// Memory nodes it may use: 0-1
    #[arg(long)]
    cpuset_mems: Option<String>,
    /// Processes; -1 is without limit
    #[arg(long, allow_negative_numbers = true)]
    pids_limit: Option<i64>,
    /// Share of the disks' time, 10 to 1000
    #[arg(long)]
    blkio_weight: Option<u16>,
    /// no, on-failure[:times], always or unless-stopped
    #[arg(long)]
    restart: Option<String>,
    #[arg(required = true)]
    containers: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let body = body(options)?;
    each(&options.containers, async |name| {
        let path = format!("/containers/{}/update", escape(name));
        let answer = engine.post(&path, Some(&body)).await?;
        let warnings = answer["Warnings"].as_array().into_iter().flatten();
        for warning in warnings.filter_map(Value::as_str) {
            eprintln!("WARNING: {warning}");
        }
        Ok(Some(name.to_owned()))
    })
    .await
}

fn body(options: &Options) -> Result<Value> {
    let mut body = Map::new();
    for (key, value) in [
        ("Memory", &options.memory),
        ("MemorySwap", &options.memory_swap),
        ("MemoryReservation", &options.memory_reservation),
    ] {
        match value.as_deref() {
            None => {}
            Some("-1") if key == "MemorySwap" => drop(body.insert(key.into(), json!(-1))),
            Some(text) => drop(body.insert(key.into(), json!(parse::bytes(text)?))),
        }
    }
    if let Some(cpus) = options.cpus {
        if !(cpus.is_finite() && cpus > 0.0) {
            bail!("invalid --cpus {cpus}: it must be more than 0");
        }
        body.insert("NanoCpus".into(), json!((cpus * 1e9) as i64));
    }
    for (key, value) in [
        ("CpuShares", options.cpu_shares),
        ("CpuPeriod", options.cpu_period),
        ("CpuQuota", options.cpu_quota),
        ("PidsLimit", options.pids_limit),
        ("BlkioWeight", options.blkio_weight.map(i64::from)),
    ] {
        body.extend(value.map(|value| (key.to_owned(), json!(value))));
    }
    for (key, value) in [
        ("CpusetCpus", &options.cpuset_cpus),
        ("CpusetMems", &options.cpuset_mems),
    ] {
        body.extend(value.as_ref().map(|text| (key.to_owned(), json!(text))));
    }
    if let Some(text) = &options.restart {
        let (name, times) = parse::restart_policy(text)?;
        body.insert(
            "RestartPolicy".into(),
            json!({ "Name": name, "MaximumRetryCount": times }),
        );
    }
    if body.is_empty() {
        bail!("you must provide one or more flags: 'berth update --help' lists them");
    }
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn parsed(words: &str) -> Result<Value> {
        body(&Line::try_parse_from(std::iter::once("update").chain(words.split(' ')))?.options)
    }

    #[test]
    fn flags_become_the_body() {
        let body =
            parsed("-m 64m --memory-swap -1 --cpus 0.5 --pids-limit -1 --restart on-failure:3 web");
        assert_eq!(
            body.expect("good"),
            json!({
                "Memory": 64 << 20, "MemorySwap": -1, "NanoCpus": 500_000_000, "PidsLimit": -1,
                "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
            })
        );
        for bad in [
            "web",
            "-m lots web",
            "--cpus 0 web",
            "--restart perhaps web",
        ] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
