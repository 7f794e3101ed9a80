//! AppArmor, on hosts that have it: the profile that containers get unless they are told otherwise, under Docker's name, so
//! that an administrator who knows the one knows the other.
//!
//! A profile of that name that is loaded already, a dockerd's or the administrator's own, stays as it is.

use engine::runtime::AppArmor;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

/// Docker's name.
pub(crate) const DEFAULT: &str = "docker-default";
const FOLDER: &str = "/sys/kernel/security/apparmor";
const PARSER: &str = "apparmor_parser";

/// Whether the kernel confines programs by profiles.
pub(crate) fn is_there() -> bool {
    // As dockerd: without its file system nothing can be asked of it.
    Path::new(FOLDER).is_dir()
        && fs::read_to_string("/sys/module/apparmor/parameters/enabled")
            .is_ok_and(|text| text.starts_with('Y'))
}

/// The profile to put a process under.
pub(crate) fn profile(wanted: &AppArmor) -> Option<String> {
    match wanted {
        AppArmor::Unconfined => None,
        AppArmor::Profile(name) => Some(name.clone()),
        AppArmor::Default => is_loaded(DEFAULT).then(|| DEFAULT.to_owned()),
    }
}

/// Whether the kernel has a profile of that name. Each line of the list is a name and, in brackets, a mode.
fn is_loaded(name: &str) -> bool {
    let profiles = fs::read_to_string(Path::new(FOLDER).join("profiles")).unwrap_or_default();
    profiles.lines().any(|line| {
        line.rsplit_once(" (")
            .is_some_and(|(other, _)| other == name)
    })
}

/// Loads the default profile, unless one of its name is there.
pub(crate) fn load_default() -> io::Result<()> {
    if is_loaded(DEFAULT) {
        return Ok(());
    }
    // What confines ourselves may send signals to containers.
    let own = fs::read_to_string("/proc/self/attr/current").unwrap_or_default();
    let own = own.split_whitespace().next().unwrap_or("unconfined");
    // Not into the cache: the profile names what confines us now.
    let mut parser = Command::new(PARSER)
        .args(["--replace", "--skip-cache"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = parser.stdin.take() {
        input.write_all(text(own).as_bytes())?;
    }
    let output = parser.wait_with_output()?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(io::Error::other(why.trim().to_owned()));
    }
    Ok(())
}

/// What containers may: everything that their capabilities, namespaces and devices leave them, but for mounts, the host's
/// knobs in /proc and /sys, and other programs.
fn text(own_profile: &str) -> String {
    format!(
        r#"#include <tunables/global>

profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  #include <abstractions/base>

  network,
  capability,
  file,
  umount,

  # The host's own programs and the engine end containers; inside, programs end each other.
  signal (receive) peer=unconfined,
  signal (receive) peer={own_profile},
  signal (send,receive) peer={DEFAULT},
  ptrace (trace,read,tracedby,readby) peer={DEFAULT},

  # Files right in /proc, and whatever is neither a process's folder nor /proc/sys.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{[^1-9],[^1-9][^0-9],[^1-9s][^0-9y][^0-9s],[^1-9][^0-9][^0-9][^0-9/]*}}/** w,
  # Of /proc/sys only /proc/sys/kernel/shm* may be written.
  deny @{{PROC}}/sys/[^k]** w,
  deny @{{PROC}}/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny @{{PROC}}/sysrq-trigger rwklx,
  deny @{{PROC}}/kcore rwklx,

  deny mount,

  # Of /sys only /sys/fs/cgroup may be written.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_a_profile_gets_it() {
        assert_eq!(profile(&AppArmor::Unconfined), None);
        let named = AppArmor::Profile("mine".into());
        assert_eq!(profile(&named).as_deref(), Some("mine"));
        if !is_there() {
            println!("skipped: this kernel has no AppArmor to load a profile into");
            assert_eq!(profile(&AppArmor::Default), None);
        }
    }

    /// Read by AppArmor's own parser, without loading it.
    #[test]
    fn the_profile_is_what_the_parser_reads() {
        let mut parser = Command::new(PARSER);
        parser.args(["--skip-kernel-load", "--skip-cache"]);
        // Without a kernel to ask, it is told what there is in its features' file.
        let parser = parser
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let Ok(mut parser) = parser.spawn() else {
            println!("skipped: there is no {PARSER} here");
            return;
        };
        parser
            .stdin
            .take()
            .unwrap()
            .write_all(text("unconfined").as_bytes())
            .unwrap();
        let output = parser.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
    }

    #[test]
    fn who_may_end_containers_is_named() {
        assert!(text("berth").contains("signal (receive) peer=berth,"));
    }
}
