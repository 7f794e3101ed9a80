//! The driver's flags and what they mean.

use super::shares;
use machine_core::driver::{DriverError, Flag, FlagKind, FlagValues};
use std::path::PathBuf;

const DEFAULT_MEMORY: &str = "1024";
const DEFAULT_DISK: &str = "20G";
/// Less than this and the kernel, the initial file system and the engine do not fit.
const LEAST_MEMORY_MIB: u64 = 256;
const LEAST_DISK_MIB: u64 = 1024;

/// Which accelerator was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Auto,
    Named(super::accelerator::Accelerator),
}

/// The flags' values, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub cpus: u32,
    pub memory_mib: u64,
    pub disk_mib: u64,
    pub accelerator: Wanted,
    /// The image's folder; the store's cache when not given.
    pub image: Option<PathBuf>,
    /// QEMU; the usual name on `PATH` when not given.
    pub program: Option<PathBuf>,
    /// Folders to share; none given: the home, for reading.
    pub mounts: Vec<String>,
}

fn processors() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

pub fn all() -> Vec<Flag> {
    vec![
        Flag {
            name: "qemu-cpus",
            aliases: &["cpus", "qemu-cpu-count"],
            help: "Number of processors",
            environment: Some("QEMU_CPU_COUNT"),
            kind: FlagKind::Int(i64::from(processors().min(2))),
        },
        Flag {
            name: "qemu-memory",
            aliases: &["memory"],
            help: "Memory in MiB, or with a unit, for example 2G",
            environment: Some("QEMU_MEMORY"),
            kind: FlagKind::Text(DEFAULT_MEMORY),
        },
        Flag {
            name: "qemu-disk-size",
            aliases: &["disk"],
            help: "Largest size of the disk in MiB, or with a unit, for example 20G; it takes only the space it uses",
            environment: Some("QEMU_DISK_SIZE"),
            kind: FlagKind::Text(DEFAULT_DISK),
        },
        Flag {
            name: shares::FLAG,
            aliases: &["mount"],
            help: "A folder of this computer to share, HOST:GUEST[:ro]; `none` shares nothing [default: the home, read-only, at the same path]",
            environment: Some("QEMU_MOUNT"),
            kind: FlagKind::List,
        },
        Flag {
            name: "qemu-accel",
            aliases: &["accel"],
            help: "Accelerator: auto, kvm, hvf, whpx or tcg",
            environment: Some("QEMU_ACCEL"),
            kind: FlagKind::Text("auto"),
        },
        Flag {
            name: "qemu-image",
            aliases: &[],
            help: "Folder of the guest image (default: cache/image in the store, else the one installed with this program)",
            environment: Some("QEMU_IMAGE"),
            kind: FlagKind::Text(""),
        },
        Flag {
            name: "qemu-program",
            aliases: &[],
            help: "The QEMU program to run (default: qemu-system-x86_64 or qemu-system-aarch64)",
            environment: Some("QEMU_PROGRAM"),
            kind: FlagKind::Text(""),
        },
    ]
}

impl Settings {
    pub fn read(values: &FlagValues) -> Result<Settings, DriverError> {
        let cpus = match values.int("qemu-cpus") {
            Some(count) => count,
            None => match values.text("qemu-cpus") {
                Some(text) => text
                    .parse()
                    .map_err(|_| invalid("qemu-cpus", format!("{text:?} is not a number")))?,
                None => i64::from(processors().min(2)),
            },
        };
        let cpus = u32::try_from(cpus)
            .ok()
            .filter(|count| (1..=255).contains(count))
            .ok_or_else(|| invalid("qemu-cpus", "give 1 to 255 processors"))?;
        let memory_mib = size(values, "qemu-memory", DEFAULT_MEMORY)?;
        if memory_mib < LEAST_MEMORY_MIB {
            return Err(invalid(
                "qemu-memory",
                format!(
                    "{memory_mib} MiB is too little; a machine needs at least {LEAST_MEMORY_MIB}"
                ),
            ));
        }
        let disk_mib = size(values, "qemu-disk-size", DEFAULT_DISK)?;
        if disk_mib < LEAST_DISK_MIB {
            return Err(invalid(
                "qemu-disk-size",
                format!("{disk_mib} MiB is too little; a machine needs at least {LEAST_DISK_MIB}"),
            ));
        }
        Ok(Settings {
            cpus,
            memory_mib,
            disk_mib,
            accelerator: wanted(values.text("qemu-accel").unwrap_or("auto"))?,
            image: values.text("qemu-image").map(PathBuf::from),
            program: values.text("qemu-program").map(PathBuf::from),
            mounts: values.list(shares::FLAG).to_vec(),
        })
    }
}

/// Reads `auto` or an accelerator's name.
pub fn wanted(text: &str) -> Result<Wanted, DriverError> {
    if text == "auto" {
        return Ok(Wanted::Auto);
    }
    super::accelerator::Accelerator::from_name(text)
        .map(Wanted::Named)
        .ok_or_else(|| {
            invalid(
                "qemu-accel",
                format!("{text:?} is none of auto, kvm, hvf, whpx, tcg"),
            )
        })
}

fn invalid(flag: &str, why: impl Into<String>) -> DriverError {
    DriverError::InvalidFlag {
        flag: flag.to_owned(),
        why: why.into(),
    }
}

fn size(values: &FlagValues, flag: &str, default: &str) -> Result<u64, DriverError> {
    if let Some(number) = values.int(flag) {
        return u64::try_from(number).map_err(|_| invalid(flag, "a size cannot be negative"));
    }
    let text = values.text(flag).unwrap_or(default);
    crate::size::mebibytes(text).ok_or_else(|| {
        invalid(
            flag,
            format!("{text:?} is not a size that can be; give MiB, or a number with M, G or T"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use machine_core::driver::FlagValue;

    fn values(pairs: &[(&str, &str)]) -> FlagValues {
        FlagValues(
            pairs
                .iter()
                .map(|(name, text)| (format!("qemu-{name}"), FlagValue::Text((*text).to_owned())))
                .collect(),
        )
    }

    #[test]
    fn defaults_are_sensible() {
        let settings = Settings::read(&FlagValues::default()).unwrap();
        assert!((1..=2).contains(&settings.cpus));
        assert_eq!((settings.memory_mib, settings.disk_mib), (1024, 20480));
        assert_eq!(settings.accelerator, Wanted::Auto);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_flag() {
        for (flag, value, why) in [
            ("memory", "255", "at least 256"),
            ("disk-size", "1023", "at least 1024"),
            ("cpus", "0", "1 to 255"),
            ("cpus", "many", "not a number"),
            ("accel", "warp", "none of auto"),
            ("memory", "lots", "not a size"),
            ("disk-size", "99999999T", "not a size that can be"),
        ] {
            let error = Settings::read(&values(&[(flag, value)]))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("--qemu-{flag}")) && error.contains(why),
                "{error}"
            );
        }
    }
}
