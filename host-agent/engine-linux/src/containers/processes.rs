//! What /proc tells of processes: see proc_pid_stat(5).

use engine::containers::host::ProcessFacts;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use time::OffsetDateTime;

/// USER_HZ: the unit of times in /proc, the same on every architecture we build for.
const TICKS_PER_SECOND: u64 = 100;
/// Kilobytes in a page.
const PAGE_KILOBYTES: u64 = 4;

pub(super) fn read(pids: &[u32]) -> Vec<ProcessFacts> {
    let users = users(&fs::read_to_string("/etc/passwd").unwrap_or_default());
    let boot = fs::read_to_string("/proc/stat").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
        line.trim().parse::<i64>().ok()
    });
    let now = OffsetDateTime::now_utc();
    let memory =
        super::counters::total_memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default());
    pids.iter()
        .filter_map(|pid| read_one(*pid, &users, boot.unwrap_or_default(), now))
        .map(|mut facts| {
            facts.memory_permille = (facts.resident_memory * 1024 * 1000)
                .checked_div(memory)
                .unwrap_or(0);
            facts
        })
        .collect()
}

fn users(passwd: &str) -> HashMap<u32, String> {
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
        })
        .collect()
}

fn read_one(
    pid: u32,
    users: &HashMap<u32, String>,
    boot: i64,
    now: OffsetDateTime,
) -> Option<ProcessFacts> {
    let folder = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let owner = fs::metadata(&folder).ok()?.uid();
    let command = fs::read(format!("{folder}/cmdline")).unwrap_or_default();
    let mut facts = parse(&stat, boot, now)?;
    facts.pid = pid;
    facts.user = users
        .get(&owner)
        .cloned()
        .unwrap_or_else(|| owner.to_string());
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    facts.command = if words.is_empty() {
        format!("[{}]", facts.name)
    } else {
        words.join(" ")
    };
    Some(facts)
}

fn parse(stat: &str, boot: i64, now: OffsetDateTime) -> Option<ProcessFacts> {
    // The name is in parentheses and may contain anything, parentheses too.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 of the manual page is `fields[0]`.
    let number = |field: usize| {
        fields
            .get(field - 3)
            .and_then(|text| text.parse::<u64>().ok())
    };
    let cpu_seconds = (number(14)? + number(15)?) / TICKS_PER_SECOND;
    let started = boot + i64::try_from(number(22)? / TICKS_PER_SECOND).ok()?;
    let age = (now.unix_timestamp() - started).max(1);
    let started = OffsetDateTime::from_unix_timestamp(started).ok()?;
    let start = if started.date() == now.date() {
        format!("{:02}:{:02}", started.hour(), started.minute())
    } else {
        let month = started.month().to_string();
        format!("{}{:02}", &month[..3], started.day())
    };
    Some(ProcessFacts {
        pid: 0,
        parent: u32::try_from(number(4)?).ok()?,
        user: String::new(),
        cpu_percent: cpu_seconds * 100 / u64::try_from(age).ok()?,
        start,
        terminal: terminal(number(7).unwrap_or(0)),
        cpu_seconds,
        state: (*fields.first()?).to_owned(),
        virtual_memory: number(23)? / 1024,
        resident_memory: number(24)? * PAGE_KILOBYTES,
        memory_permille: 0,
        name: name.to_owned(),
        command: String::new(),
    })
}

/// Of a device number: pseudo-terminals have the majors 136 to 143.
fn terminal(device: u64) -> String {
    let (major, minor) = (
        (device >> 8) & 0xfff,
        (device & 0xff) | ((device >> 12) & 0xfff00),
    );
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_name_is() {
        let stat =
            "7 (a) b (c) S 1 7 7 34816 7 4194560 100 0 0 0 150 50 0 0 20 0 1 0 12000 4096000 250 0";
        let now = OffsetDateTime::from_unix_timestamp(1_000_220).unwrap();
        let facts = parse(stat, 1_000_000, now).unwrap();
        assert_eq!(
            (facts.name.as_str(), facts.parent, facts.cpu_seconds),
            ("a) b (c", 1, 2)
        );
        assert_eq!(
            (facts.terminal.as_str(), facts.start.as_str()),
            ("pts/0", "13:48")
        );
        assert_eq!(
            (
                facts.cpu_percent,
                facts.virtual_memory,
                facts.resident_memory
            ),
            (2, 4000, 1000)
        );
    }

    #[test]
    fn our_own_process_is_found_and_one_that_is_not_there_is_left_out() {
        let own = std::process::id();
        let facts = read(&[own, u32::MAX / 2]);
        assert_eq!(facts.len(), 1);
        assert_eq!(facts[0].pid, own);
        assert!(!facts[0].command.is_empty());
    }
}
