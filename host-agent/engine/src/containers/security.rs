//! `--security-opt`.

use crate::runtime::{AppArmor, Seccomp};

/// What the options say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    pub no_new_privileges: bool,
    pub seccomp: Seccomp,
    pub apparmor: AppArmor,
    /// `systempaths=unconfined`: nothing is masked.
    pub unmasked: bool,
}

impl Default for Security {
    fn default() -> Self {
        Security {
            no_new_privileges: false,
            seccomp: Seccomp::Default,
            apparmor: AppArmor::Default,
            unmasked: false,
        }
    }
}

/// Reads the options; the error is Docker's sentence.
pub fn parse(options: &[String]) -> Result<Security, String> {
    let mut security = Security::default();
    for option in options {
        if option == "no-new-privileges" {
            security.no_new_privileges = true;
            continue;
        }
        // Old clients separate with a colon.
        let separator = if option.contains('=') { '=' } else { ':' };
        let Some((name, value)) = option.split_once(separator) else {
            return Err(format!("invalid --security-opt 1: \"{option}\""));
        };
        match name {
            // Labels are SELinux's; on a host without it Docker takes and ignores them, too.
            "label" => {}
            "apparmor" => {
                security.apparmor = match value {
                    "" => AppArmor::Default,
                    "unconfined" => AppArmor::Unconfined,
                    name => AppArmor::Profile(name.to_owned()),
                };
            }
            "seccomp" => {
                security.seccomp = match value {
                    "unconfined" => Seccomp::Unconfined,
                    "builtin" => Seccomp::Default,
                    profile => {
                        serde_json::from_str::<serde_json::Value>(profile)
                            .map_err(|error| format!("Decoding seccomp profile failed: {error}"))?;
                        Seccomp::Profile(profile.to_owned())
                    }
                };
            }
            "no-new-privileges" => {
                security.no_new_privileges = match value {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(format!("invalid --security-opt 2: \"{option}\"")),
                };
            }
            "systempaths" if value == "unconfined" => security.unmasked = true,
            "writable-cgroups" if value == "false" => {}
            _ => return Err(format!("invalid --security-opt 2: \"{option}\"")),
        }
    }
    Ok(security)
}

/// What Docker masks.
pub const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What Docker makes read-only.
pub const READ_ONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[&str]) -> Result<Security, String> {
        parse(
            &options
                .iter()
                .map(|option| (*option).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_options_docker_has() {
        let all = read(&[
            "no-new-privileges",
            "seccomp=unconfined",
            "apparmor:unconfined",
            "label=disable",
        ])
        .expect("good");
        assert!(all.no_new_privileges);
        assert_eq!(all.seccomp, Seccomp::Unconfined);
        assert_eq!(all.apparmor, AppArmor::Unconfined);
        assert!(matches!(
            read(&["seccomp={}"]).expect("good").seccomp,
            Seccomp::Profile(_)
        ));
        assert!(read(&["systempaths=unconfined"]).expect("good").unmasked);
    }

    #[test]
    fn others_are_refused() {
        assert_eq!(
            read(&["fast"]),
            Err("invalid --security-opt 1: \"fast\"".into())
        );
        assert_eq!(
            read(&["fast=1"]),
            Err("invalid --security-opt 2: \"fast=1\"".into())
        );
        assert!(read(&["seccomp={"]).is_err());
        assert!(read(&["no-new-privileges=maybe"]).is_err());
    }
}
