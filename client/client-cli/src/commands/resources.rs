//! How much of the host a container may use, as far as that can be changed while it runs.

use crate::parse;
use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
pub(crate) struct Resources {
    /// Memory limit, for example 512m
    #[arg(short, long)]
    memory: Option<String>,
    /// Memory and swap together; -1 is without limit
    #[arg(long, allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory the container is pressed down to when the host runs short
    #[arg(long)]
    memory_reservation: Option<String>,
    /// CPUs it may use, for example 1.5
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
    /// Microseconds, of realtime programs
    #[arg(long)]
    cpu_rt_period: Option<i64>,
    /// Microseconds in each period, of realtime programs
    #[arg(long)]
    cpu_rt_runtime: Option<i64>,
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
}

impl Resources {
    pub(crate) fn add(&self, body: &mut Map<String, Value>) -> Result<()> {
        for (key, value) in [
            ("Memory", &self.memory),
            ("MemorySwap", &self.memory_swap),
            ("MemoryReservation", &self.memory_reservation),
        ] {
            match value.as_deref() {
                None => {}
                Some("-1") if key == "MemorySwap" => drop(body.insert(key.into(), json!(-1))),
                Some(text) => drop(body.insert(key.into(), json!(parse::bytes(text)?))),
            }
        }
        if let Some(cpus) = self.cpus {
            if !(cpus.is_finite() && cpus > 0.0) {
                bail!("invalid --cpus {cpus}: it must be more than 0");
            }
            body.insert("NanoCpus".into(), json!((cpus * 1e9) as i64));
        }
        for (key, value) in [
            ("CpuShares", self.cpu_shares),
            ("CpuPeriod", self.cpu_period),
            ("CpuQuota", self.cpu_quota),
            ("CpuRealtimePeriod", self.cpu_rt_period),
            ("CpuRealtimeRuntime", self.cpu_rt_runtime),
            ("PidsLimit", self.pids_limit),
            ("BlkioWeight", self.blkio_weight.map(i64::from)),
        ] {
            body.extend(value.map(|value| (key.to_owned(), json!(value))));
        }
        for (key, value) in [
            ("CpusetCpus", &self.cpuset_cpus),
            ("CpusetMems", &self.cpuset_mems),
        ] {
            body.extend(value.as_ref().map(|text| (key.to_owned(), json!(text))));
        }
        Ok(())
    }
}
