//! Memory of processes, from /proc.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Resident memory in MB (1,000,000 bytes).
pub(crate) fn resident_mb(pid: u32) -> f64 {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The most it ever had, in MB.
pub(crate) fn largest_resident_mb(pid: u32) -> f64 {
    field(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Proportional share of memory in MB: shared pages are split among those who share them.
pub(crate) fn proportional_mb(pid: u32) -> f64 {
    field(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn field(path: &str, name: &str) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) * 1024.0 / 1e6
}

/// All processes whose command line names `folder`: an engine's own helpers and shims.
pub(crate) fn processes_naming(folder: &Path) -> BTreeSet<u32> {
    let needle = folder.to_string_lossy().into_owned();
    every_process()
        .into_keys()
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&needle)
        })
        .collect()
}

/// The process and those below it.
pub(crate) fn family_of(root: u32) -> BTreeSet<u32> {
    let parents = every_process();
    let mut family = BTreeSet::from([root]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| family.contains(parent) && !family.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            return family;
        }
        family.extend(more);
    }
}

/// Process id -> parent's.
fn every_process() -> BTreeMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in brackets may hold anything; the parent is the second field after it.
        let parent = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()?;
        Some((pid, parent))
    })
    .collect()
}
