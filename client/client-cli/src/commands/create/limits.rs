//! How much of the host a container may use.

use super::devices;
use crate::commands::resources::Resources;
use crate::parse;
use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

#[derive(clap::Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct Limits {
    #[command(flatten)]
    resources: Resources,
    /// How readily its memory is swapped out, 0 to 100
    #[arg(long, allow_negative_numbers = true)]
    memory_swappiness: Option<i64>,
    /// Memory of the kernel on its behalf
    #[arg(long)]
    kernel_memory: Option<String>,
    /// Do not end it when it is out of memory
    #[arg(long)]
    oom_kill_disable: bool,
    /// How readily it is ended when the host is out of memory, -1000 to 1000
    #[arg(long, allow_negative_numbers = true)]
    oom_score_adj: Option<i64>,
    /// The same of one disk: /dev/sda:500
    #[arg(long)]
    blkio_weight_device: Vec<String>,
    /// Bytes a second read of a disk: /dev/sda:1m
    #[arg(long)]
    device_read_bps: Vec<String>,
    /// Reads a second of a disk: /dev/sda:100
    #[arg(long)]
    device_read_iops: Vec<String>,
    /// Bytes a second written to a disk: /dev/sda:1m
    #[arg(long)]
    device_write_bps: Vec<String>,
    /// Writes a second to a disk: /dev/sda:100
    #[arg(long)]
    device_write_iops: Vec<String>,
    /// Limit of its processes: name=soft[:hard]
    #[arg(long)]
    ulimit: Vec<String>,
    /// Size of /dev/shm, for example 128m
    #[arg(long)]
    shm_size: Option<String>,
    /// Option of the storage: size=10g
    #[arg(long)]
    storage_opt: Vec<String>,
}

impl Limits {
    pub(super) fn add(&self, host: &mut Map<String, Value>) -> Result<()> {
        self.resources.add(host)?;
        for (key, value) in [
            ("KernelMemory", &self.kernel_memory),
            ("ShmSize", &self.shm_size),
        ] {
            if let Some(text) = value {
                host.insert(key.into(), json!(parse::bytes(text)?));
            }
        }
        for (key, value) in [
            ("MemorySwappiness", self.memory_swappiness),
            ("OomScoreAdj", self.oom_score_adj),
        ] {
            host.extend(value.map(|value| (key.to_owned(), json!(value))));
        }
        if self.oom_kill_disable {
            host.insert("OomKillDisable".into(), json!(true));
        }
        type Reads = fn(&str) -> Result<i64>;
        let number: Reads = |text| Ok(text.parse()?);
        let lists: [(&str, &str, &str, &[String], Reads); 5] = [
            (
                "BlkioWeightDevice",
                "blkio-weight-device",
                "Weight",
                &self.blkio_weight_device,
                number,
            ),
            (
                "BlkioDeviceReadBps",
                "device-read-bps",
                "Rate",
                &self.device_read_bps,
                parse::bytes,
            ),
            (
                "BlkioDeviceWriteBps",
                "device-write-bps",
                "Rate",
                &self.device_write_bps,
                parse::bytes,
            ),
            (
                "BlkioDeviceReadIOps",
                "device-read-iops",
                "Rate",
                &self.device_read_iops,
                number,
            ),
            (
                "BlkioDeviceWriteIOps",
                "device-write-iops",
                "Rate",
                &self.device_write_iops,
                number,
            ),
        ];
        for (key, flag, amount, texts, read) in lists {
            let list: Vec<Value> = texts
                .iter()
                .map(|text| devices::amount(text, amount, read))
                .collect::<Result<_>>()
                .with_context(|| format!("invalid --{flag}"))?;
            if !list.is_empty() {
                host.insert(key.into(), json!(list));
            }
        }
        if !self.ulimit.is_empty() {
            let limits = self.ulimit.iter().map(|text| parse::ulimit(text));
            host.insert(
                "Ulimits".into(),
                limits.collect::<Result<Vec<Value>>>()?.into(),
            );
        }
        if !self.storage_opt.is_empty() {
            let options = parse::pairs(&self.storage_opt, '=');
            host.insert("StorageOpt".into(), options.into());
        }
        Ok(())
    }
}
