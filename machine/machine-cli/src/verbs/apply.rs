//! `machine apply`: the machines that a file declares.
//!
//! ```toml
//! [machine.dev]
//! driver = "qemu"
//! cpus = 2
//! memory = "2G"
//! engine-label = ["tier=web"]
//! ```
//!
//! Keys are the flags of `create`. A machine that is not there is made, what can be changed is changed, and what differs and cannot
//! be changed is told.

use crate::Context;
use crate::failure::Failure;
use anyhow::Context as _;
use clap::Args;
use machine_core::driver::Change;
use machine_core::store::StoreError;
use machine_core::store::record::MachineRecord;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use toml::Value;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The file
    #[arg(short, long, value_name = "FILE", default_value = "machine.toml")]
    file: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// The file.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Declared {
    #[serde(default)]
    machine: BTreeMap<String, BTreeMap<String, Value>>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let path = &arguments.file;
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let declared: Declared = toml::from_str(&text).map_err(|error| {
        Failure::new(
            format!(
                "{} cannot be understood: {}",
                path.display(),
                error.message()
            ),
            "a machine is a table [machine.NAME] with the flags of `create` as keys",
        )
    })?;
    let store = context.machines.store();
    let mut drifted = 0;
    for (name, wanted) in &declared.machine {
        match store.load(name) {
            Err(StoreError::NoSuchMachine { .. }) => {
                context.console.print(&format!("{name}: create"));
                if !arguments.dry_run {
                    create(context, name, wanted)?;
                }
            }
            Err(error) => return Err(error.into()),
            Ok(record) => {
                let found = compare(&record, wanted)?;
                for line in &found.told {
                    context.console.print(&format!("{name}: {line}"));
                }
                drifted += usize::from(found.cannot);
                if found.change != Change::default() && !arguments.dry_run {
                    context
                        .machines
                        .change(name, &found.change, &context.console)?;
                }
                if found.told.is_empty() {
                    context.console.print(&format!("{name}: as declared"));
                }
            }
        }
    }
    if drifted > 0 {
        return Err(Failure::new(
            format!("{drifted} of the machines differ in what cannot be changed"),
            "remove them and apply again, or change the file",
        )
        .into());
    }
    Ok(())
}

/// `create` in a process of its own: the flags of its driver are its own business.
fn create(context: &Context, name: &str, wanted: &BTreeMap<String, Value>) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("cannot find this program's own path")?;
    let mut command = Command::new(program);
    command
        .arg("-s")
        .arg(context.machines.store().root())
        .arg("create");
    for (key, value) in wanted {
        command.args(flags(key, value)?);
    }
    let status = command
        .arg("--")
        .arg(name)
        .status()
        .context("cannot run create")?;
    if !status.success() {
        return Err(Failure::new(
            format!("machine \"{name}\" was not made"),
            "mend what is told above and apply again",
        )
        .into());
    }
    Ok(())
}

fn flags(key: &str, value: &Value) -> Result<Vec<String>, Failure> {
    Ok(match value {
        Value::Array(values) => {
            let mut all = Vec::new();
            for value in values {
                all.extend(flags(key, value)?);
            }
            all
        }
        Value::Boolean(true) => vec![format!("--{key}")],
        Value::Boolean(false) => Vec::new(),
        other => vec![format!("--{key}={}", text(key, other)?)],
    })
}

fn text(key: &str, value: &Value) -> Result<String, Failure> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        _ => Err(Failure::new(
            format!("the value of {key} is neither text, number, switch nor a list of those"),
            "give it as on the command line",
        )),
    }
}

/// How a machine differs from what is declared.
struct Found {
    change: Change,
    told: Vec<String>,
    /// Something differs that only a new machine can have.
    cannot: bool,
}

fn compare(record: &MachineRecord, wanted: &BTreeMap<String, Value>) -> anyhow::Result<Found> {
    let mut found = Found {
        change: Change::default(),
        told: Vec::new(),
        cannot: false,
    };
    let options = &record.host_options.engine_options;
    for (key, value) in wanted {
        let number = |name: &str| record.driver.get(name).and_then(serde_json::Value::as_u64);
        let size = || -> Result<u64, Failure> {
            let text = text(key, value)?;
            machine_drivers::mebibytes(&text).ok_or_else(|| {
                Failure::new(
                    format!("{key}: {text:?} is no size"),
                    "give MiB, or a number with M, G or T",
                )
            })
        };
        match key.trim_start_matches("qemu-") {
            "cpus" | "cpu-count" => {
                let wanted = size()? as u32;
                if number("CPU") != Some(wanted.into()) {
                    found.change.cpus = Some(wanted);
                    found
                        .told
                        .push(format!("{wanted} processors from the next start"));
                }
            }
            "memory" => {
                let wanted = size()?;
                if number("Memory") != Some(wanted) {
                    found.change.memory_mib = Some(wanted);
                    found
                        .told
                        .push(format!("{wanted} MiB of memory from the next start"));
                }
            }
            "disk" | "disk-size" => {
                let wanted = size()?;
                if number("DiskSize") != Some(wanted) {
                    found.change.disk_mib = Some(wanted);
                    found
                        .told
                        .push(format!("a disk of {wanted} MiB from the next start"));
                }
            }
            _ => {
                let has: Option<Vec<String>> = match key.as_str() {
                    "driver" => Some(vec![record.driver_name.clone()]),
                    "engine-label" => Some(options.labels.clone()),
                    "engine-opt" => Some(options.arbitrary_flags.clone()),
                    "engine-registry-mirror" => Some(options.registry_mirror.clone()),
                    "engine-insecure-registry" => Some(options.insecure_registry.clone()),
                    "tls-san" => Some(record.host_options.auth_options.server_cert_sans.clone()),
                    "url" => record
                        .driver
                        .get("URL")
                        .and_then(|v| v.as_str())
                        .map(|v| vec![v.to_owned()]),
                    // Each driver keeps its flags in its own way.
                    _ => None,
                };
                let wanted = match value {
                    Value::Array(values) => values
                        .iter()
                        .map(|v| text(key, v))
                        .collect::<Result<Vec<_>, _>>()?,
                    Value::Boolean(_) => continue,
                    one => vec![text(key, one)?],
                };
                if has.is_some_and(|has| has != wanted) {
                    found.cannot = true;
                    found
                        .told
                        .push(format!("{key} differs and cannot be changed"));
                }
            }
        }
    }
    Ok(found)
}
