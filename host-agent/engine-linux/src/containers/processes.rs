//! What /proc tells of processes: see proc_pid_stat(5).

use engine::containers::host::{Ids, ProcessFacts, SignalSets};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use time::OffsetDateTime;

/// USER_HZ: the unit of times in /proc, the same on every architecture we build for.
const TICKS_PER_SECOND: u64 = 100;
/// Kilobytes in a page.
const PAGE_KILOBYTES: u64 = 4;

/// Names by number, as /etc/passwd and /etc/group have them.
type Names = HashMap<u32, String>;

/// What is the same for all processes that are looked at together.
struct Host {
    users: Names,
    groups: Names,
    /// Seconds since 1970.
    boot: i64,
    now: OffsetDateTime,
    memory: u64,
}

pub(super) fn read(pids: &[u32], threads: bool) -> Vec<ProcessFacts> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let boot = text("/proc/stat").lines().find_map(|line| {
        let number = line.strip_prefix("btime ")?;
        number.trim().parse().ok()
    });
    let host = Host {
        users: names(&text("/etc/passwd")),
        groups: names(&text("/etc/group")),
        boot: boot.unwrap_or_default(),
        now: OffsetDateTime::now_utc(),
        memory: super::counters::total_memory(&text("/proc/meminfo")),
    };
    let mut all = Vec::new();
    for pid in pids {
        if threads {
            let folder = fs::read_dir(format!("/proc/{pid}/task"));
            let entries = folder.into_iter().flatten().flatten();
            let threads = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            all.extend(threads.filter_map(|thread| {
                read_one(&format!("/proc/{pid}/task/{thread}"), *pid, thread, &host)
            }));
        } else {
            all.extend(read_one(&format!("/proc/{pid}"), *pid, *pid, &host));
        }
    }
    all
}

/// Number and name are the third and the first field of both files.
fn names(text: &str) -> Names {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        Some((fields.nth(1)?.parse().ok()?, name.to_owned()))
    });
    lines.collect()
}

/// `folder` is the process's, with the times of all its threads, or a thread's.
fn read_one(folder: &str, pid: u32, thread: u32, host: &Host) -> Option<ProcessFacts> {
    let text = |name: &str| fs::read_to_string(format!("{folder}/{name}")).unwrap_or_default();
    let words = |name: &str| {
        let bytes = fs::read(format!("{folder}/{name}")).unwrap_or_default();
        let words = bytes
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty());
        words
            .map(String::from_utf8_lossy)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let mut facts = parse(&stat, host.boot, host.now)?;
    facts.pid = pid;
    facts.thread = thread;
    facts.memory_permille = (facts.resident_memory * 1024 * 1000)
        .checked_div(host.memory)
        .unwrap_or(0);
    let status = text("status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim()
    };
    facts.users = ids(field("Uid:"), &host.users);
    facts.groups = ids(field("Gid:"), &host.groups);
    facts.more_groups = field("Groups:").replace(' ', ",");
    facts.locked_memory = field("VmLck:").trim_end_matches(" kB").parse().unwrap_or(0);
    facts.signals = SignalSets {
        pending: field("SigPnd:").to_owned(),
        blocked: field("SigBlk:").to_owned(),
        ignored: field("SigIgn:").to_owned(),
        caught: field("SigCgt:").to_owned(),
    };
    facts.command = match words("cmdline") {
        line if line.is_empty() => format!("[{}]", facts.name),
        line => line,
    };
    facts.environment = words("environ");
    facts.waits_in = match text("wchan").as_str() {
        "0" => String::new(),
        function => function.to_owned(),
    };
    let label = text("attr/current");
    label
        .trim_matches(['\0', '\n'])
        .clone_into(&mut facts.label);
    facts.control_group = text("cgroup").lines().collect::<Vec<_>>().join(",");
    facts.oom_score = text("oom_score").trim().parse().unwrap_or(0);
    facts.oom_adjustment = text("oom_score_adj").trim().parse().unwrap_or(0);
    facts.namespaces = namespaces(folder);
    let program = fs::read_link(Path::new(folder).join("exe")).unwrap_or_default();
    facts.program = program.to_string_lossy().into_owned();
    Some(facts)
}

/// Of links such as `net:[4026531833]`.
fn namespaces(folder: &str) -> Vec<(String, u64)> {
    let entries = fs::read_dir(format!("{folder}/ns"));
    let numbers = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        let (_, number) = link.to_str()?.split_once(":[")?;
        let number = number.strip_suffix(']')?.parse().ok()?;
        Some((entry.file_name().into_string().ok()?, number))
    });
    numbers.collect()
}

/// Of `0 0 0 0`: real, effective, saved, and that of files.
fn ids(numbers: &str, names: &Names) -> Ids {
    let mut ids = numbers.split_ascii_whitespace().map(|number| {
        let id = number.parse().unwrap_or_default();
        let name = names.get(&id).cloned();
        (id, name.unwrap_or_else(|| number.to_owned()))
    });
    let mut next = || ids.next().unwrap_or_default();
    Ids {
        real: next(),
        effective: next(),
        saved: next(),
        files: next(),
    }
}

fn parse(stat: &str, boot: i64, now: OffsetDateTime) -> Option<ProcessFacts> {
    // The name is in parentheses and may contain anything, parentheses too.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Field 3 of the manual page is `fields[0]`.
    let signed = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let small = |field: usize| u32::try_from(number(field)?).ok();
    let started = boot + i64::try_from(number(22)? / TICKS_PER_SECOND).ok()?;
    let age = u64::try_from(now.unix_timestamp() - started).unwrap_or(0);
    let started = OffsetDateTime::from_unix_timestamp(started).ok()?;
    let short = |text: String| text[..3].to_owned();
    let month = short(started.month().to_string());
    let clock = format!("{:02}:{:02}", started.hour(), started.minute());
    let start = if started.date() == now.date() {
        clock.clone()
    } else if started.year() == now.year() {
        format!("{month}{:02}", started.day())
    } else {
        started.year().to_string()
    };
    Some(ProcessFacts {
        parent: small(4)?,
        group: small(5).unwrap_or(0),
        session: small(6).unwrap_or(0),
        terminal: terminal(number(7).unwrap_or(0)),
        foreground: signed(8).unwrap_or(-1),
        flags: number(9).unwrap_or(0),
        minor_faults: number(10).unwrap_or(0),
        major_faults: number(12).unwrap_or(0),
        cpu_ticks: number(14)? + number(15)?,
        priority: signed(18).unwrap_or(20),
        nice: signed(19).unwrap_or(0),
        threads: number(20).unwrap_or(1),
        start,
        start_whole: format!(
            "{} {month} {:>2} {clock}:{:02} {}",
            short(started.weekday().to_string()),
            started.day(),
            started.second(),
            started.year()
        ),
        age,
        state: (*fields.first()?).to_owned(),
        virtual_memory: number(23)? / 1024,
        resident_memory: number(24)? * PAGE_KILOBYTES,
        code_memory: number(27)
            .zip(number(26))
            .map_or(0, |(end, start)| end.saturating_sub(start) / 1024),
        stack_start: number(28).unwrap_or(0),
        stack_pointer: number(29).unwrap_or(0),
        instruction: number(30).unwrap_or(0),
        processor: number(39).unwrap_or(0),
        realtime_priority: number(40).unwrap_or(0),
        policy: number(41).unwrap_or(0),
        name: name.to_owned(),
        ..ProcessFacts::default()
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
            (facts.name.as_str(), facts.parent, facts.cpu_ticks),
            ("a) b (c", 1, 200)
        );
        assert_eq!(
            (facts.terminal.as_str(), facts.start.as_str()),
            ("pts/0", "13:48")
        );
        assert_eq!(facts.start_whole, "Mon Jan 12 13:48:40 1970");
        assert_eq!(
            (facts.age, facts.virtual_memory, facts.resident_memory),
            (100, 4000, 1000)
        );
    }

    #[test]
    fn our_own_process_is_found_and_one_that_is_not_there_is_left_out() {
        let own = std::process::id();
        let facts = read(&[own, u32::MAX / 2], false);
        assert_eq!(facts.len(), 1);
        assert_eq!((facts[0].pid, facts[0].thread), (own, own));
        assert!(!facts[0].command.is_empty() && !facts[0].program.is_empty());
        let user = rustix::process::geteuid().as_raw();
        assert_eq!(facts[0].users.effective.0, user);
        let threads = read(&[own], true);
        assert!(
            threads.iter().any(|thread| thread.thread == own),
            "{threads:?}"
        );
        assert!(threads.iter().all(|thread| thread.pid == own));
        let net = fs::read_link("/proc/self/ns/net").unwrap();
        let (_, number) = facts[0]
            .namespaces
            .iter()
            .find(|(kind, _)| kind == "net")
            .unwrap();
        assert_eq!(net.to_str(), Some(format!("net:[{number}]").as_str()));
    }

    #[test]
    fn the_time_of_a_process_is_that_of_all_its_threads() {
        let own = std::process::id();
        // This test runs in a thread that is not the process's first.
        let first = || read(&[own], true).into_iter().find(|one| one.thread == own);
        let whole = loop {
            let threads: u64 = read(&[own], true).iter().map(|one| one.cpu_ticks).sum();
            if threads >= first().unwrap().cpu_ticks + 3 {
                break threads;
            }
        };
        let told = read(&[own], false)[0].cpu_ticks;
        // The kernel rounds down what was user's and what was its own, by themselves.
        assert!(told + 1 >= whole, "{told} of {whole}");
    }
}
