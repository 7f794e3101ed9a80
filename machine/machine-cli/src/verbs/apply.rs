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
//! be changed, or cannot be compared, is told.

use crate::Context;
use crate::failure::Failure;
use anyhow::Context as _;
use clap::Args;
use machine_core::driver::{Change, Flag, FlagValue};
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
                let found = compare(context, &record, wanted)
                    .with_context(|| format!("machine \"{name}\" cannot be compared"))?;
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
    command.args(&context.again).arg("create");
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
#[derive(Default)]
struct Found {
    change: Change,
    told: Vec<String>,
    /// Something differs that only a new machine can have.
    cannot: bool,
}

impl Found {
    fn differs(&mut self, key: &str) {
        self.cannot = true;
        self.told
            .push(format!("{key} differs and cannot be changed"));
    }
}

fn compare(
    context: &Context,
    record: &MachineRecord,
    declared: &BTreeMap<String, Value>,
) -> anyhow::Result<Found> {
    let mut found = Found::default();
    if let Some(driver) = declared.get("driver")
        && text("driver", driver)? != record.driver_name
    {
        // The other keys may be flags of that other driver.
        found.differs("driver");
        return Ok(found);
    }
    let mut of_driver = Vec::new();
    for (key, value) in declared.iter().filter(|(key, _)| *key != "driver") {
        match engine_and_swarm(record, key) {
            Some(has) if has != texts(key, value)? => found.differs(key),
            Some(_) => {}
            None => of_driver.push((key, value)),
        }
    }
    if of_driver.is_empty() {
        return Ok(found);
    }
    // A plug-in is started to be asked for its flags.
    let flags = context.machines.driver(&record.driver_name)?.flags()?;
    for (key, value) in of_driver {
        compare_with_driver(record, &flags, key, value, &mut found)?;
    }
    Ok(found)
}

fn compare_with_driver(
    record: &MachineRecord,
    flags: &[Flag],
    key: &str,
    value: &Value,
    found: &mut Found,
) -> Result<(), Failure> {
    let flag = flags
        .iter()
        .find(|flag| flag.name == key || flag.aliases.contains(&key))
        .ok_or_else(|| {
            let driver = &record.driver_name;
            Failure::new(
                format!("`create` has no flag --{key} with the driver {driver}"),
                format!("`machine create -d {driver} --help` lists them"),
            )
        })?;
    let number = |name: &str| record.driver.get(name).and_then(serde_json::Value::as_u64);
    match flag.name {
        "qemu-cpus" => {
            let wanted: u32 = text(key, value)?.parse().map_err(|_| {
                Failure::new(format!("{key} is no number"), "give 1 to 255 processors")
            })?;
            if number("CPU") != Some(u64::from(wanted)) {
                found.change.cpus = Some(wanted);
                found
                    .told
                    .push(format!("{wanted} processors from the next start"));
            }
        }
        "qemu-memory" => {
            let wanted = size(key, value)?;
            if number("Memory") != Some(wanted) {
                found.change.memory_mib = Some(wanted);
                found
                    .told
                    .push(format!("{wanted} MiB of memory from the next start"));
            }
        }
        "qemu-disk-size" => {
            let wanted = size(key, value)?;
            if number("DiskSize") != Some(wanted) {
                found.change.disk_mib = Some(wanted);
                found
                    .told
                    .push(format!("a disk of {wanted} MiB from the next start"));
            }
        }
        "qemu-mount" => {
            let wanted = texts(key, value)?;
            if record.driver.get("Mounts") != Some(&serde_json::json!(wanted)) {
                found.told.push(match wanted.is_empty() {
                    true => "the home is shared from the next start".to_owned(),
                    false => format!("{} shared from the next start", wanted.join(", ")),
                });
                found.change.mounts = Some(wanted);
            }
        }
        // Each driver keeps its flags in its own way, and a plug-in's way is not ours to know: what it was given counts.
        name => match record
            .berth
            .as_ref()
            .and_then(|berth| berth.flags.get(name))
        {
            Some(given) if given_texts(given) != texts(key, value)? => found.differs(key),
            Some(_) => {}
            None => found.told.push(format!(
                "{key} cannot be compared: what it was made with is not remembered"
            )),
        },
    }
    Ok(())
}

/// What a machine has of the options of `create` that are no driver's.
fn engine_and_swarm(record: &MachineRecord, key: &str) -> Option<Vec<String>> {
    let engine = &record.host_options.engine_options;
    let swarm = &record.host_options.swarm_options;
    let list = |list: &[String]| list.to_vec();
    let one = |text: &str| vec![text.to_owned()];
    let switch = |on: bool| vec![on.to_string()];
    Some(match key {
        "engine-label" => list(&engine.labels),
        "engine-opt" => list(&engine.arbitrary_flags),
        "engine-env" => list(&engine.env),
        "engine-registry-mirror" => list(&engine.registry_mirror),
        "engine-insecure-registry" => list(&engine.insecure_registry),
        "engine-storage-driver" => one(&engine.storage_driver),
        "engine-install-url" => one(&engine.install_url),
        "tls-san" => list(&record.host_options.auth_options.server_cert_sans),
        "swarm" => switch(swarm.is_swarm),
        "swarm-image" => one(&swarm.image),
        "swarm-master" => switch(swarm.master),
        "swarm-discovery" => one(&swarm.discovery),
        "swarm-strategy" => one(&swarm.strategy),
        "swarm-opt" => list(&swarm.arbitrary_flags),
        "swarm-join-opt" => list(&swarm.arbitrary_join_flags),
        "swarm-host" => one(&swarm.host),
        "swarm-addr" => one(&swarm.address),
        "swarm-experimental" => switch(swarm.is_experimental),
        _ => return None,
    })
}

/// A declared value as the words of a command line.
fn texts(key: &str, value: &Value) -> Result<Vec<String>, Failure> {
    match value {
        Value::Array(values) => values.iter().map(|value| text(key, value)).collect(),
        Value::Boolean(on) => Ok(vec![on.to_string()]),
        one => Ok(vec![text(key, one)?]),
    }
}

fn given_texts(value: &FlagValue) -> Vec<String> {
    match value {
        FlagValue::Bool(on) => vec![on.to_string()],
        FlagValue::Int(number) => vec![number.to_string()],
        FlagValue::Text(text) => vec![text.clone()],
        FlagValue::List(list) => list.clone(),
    }
}

fn size(key: &str, value: &Value) -> Result<u64, Failure> {
    let text = text(key, value)?;
    machine_drivers::mebibytes(&text).ok_or_else(|| {
        Failure::new(
            format!("{key}: {text:?} is no size"),
            "give MiB, or a number with M, G or T",
        )
    })
}
