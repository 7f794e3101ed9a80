//! What `ps` can show of a process: the names of `-o`, their titles, their texts. The table of procps 4.

use crate::containers::host::ProcessFacts;

pub(super) type Show = fn(&ProcessFacts) -> String;

/// One thing to show.
#[derive(Clone, Copy)]
pub(super) struct Column {
    pub name: &'static str,
    pub title: &'static str,
    pub show: Show,
    /// With numbers in place of names (`ps n`).
    pub numeric: Option<Show>,
    /// Where the tree and the environment are shown.
    pub is_command: bool,
}

const fn plain(name: &'static str, title: &'static str, show: Show) -> Column {
    Column {
        name,
        title,
        show,
        numeric: None,
        is_command: false,
    }
}

const fn owner(name: &'static str, title: &'static str, show: Show, numeric: Show) -> Column {
    Column {
        numeric: Some(numeric),
        ..plain(name, title, show)
    }
}

const fn command(name: &'static str, title: &'static str, show: Show) -> Column {
    Column {
        is_command: true,
        ..plain(name, title, show)
    }
}

const COLUMNS: &[Column] = &[
    plain("pid", "PID", |p| p.pid.to_string()),
    plain("tgid", "TGID", |p| p.pid.to_string()),
    plain("ppid", "PPID", |p| p.parent.to_string()),
    plain("pgid", "PGID", |p| p.group.to_string()),
    plain("pgrp", "PGRP", |p| p.group.to_string()),
    plain("sid", "SID", |p| p.session.to_string()),
    plain("sess", "SESS", |p| p.session.to_string()),
    plain("tpgid", "TPGID", |p| p.foreground.to_string()),
    plain("lwp", "LWP", |p| p.thread.to_string()),
    plain("spid", "SPID", |p| p.thread.to_string()),
    plain("tid", "TID", |p| p.thread.to_string()),
    plain("nlwp", "NLWP", |p| p.threads.to_string()),
    plain("thcount", "THCNT", |p| p.threads.to_string()),
    owner(
        "user",
        "USER",
        |p| p.users.effective.1.clone(),
        |p| id(&p.users.effective),
    ),
    owner(
        "euser",
        "EUSER",
        |p| p.users.effective.1.clone(),
        |p| id(&p.users.effective),
    ),
    owner(
        "ruser",
        "RUSER",
        |p| p.users.real.1.clone(),
        |p| id(&p.users.real),
    ),
    owner(
        "suser",
        "SUSER",
        |p| p.users.saved.1.clone(),
        |p| id(&p.users.saved),
    ),
    owner(
        "fuser",
        "FUSER",
        |p| p.users.files.1.clone(),
        |p| id(&p.users.files),
    ),
    owner(
        "uid_hack",
        "UID",
        |p| p.users.effective.1.clone(),
        |p| id(&p.users.effective),
    ),
    plain("uid", "UID", |p| id(&p.users.effective)),
    plain("euid", "EUID", |p| id(&p.users.effective)),
    plain("ruid", "RUID", |p| id(&p.users.real)),
    plain("suid", "SUID", |p| id(&p.users.saved)),
    plain("fuid", "FUID", |p| id(&p.users.files)),
    owner(
        "group",
        "GROUP",
        |p| p.groups.effective.1.clone(),
        |p| id(&p.groups.effective),
    ),
    owner(
        "egroup",
        "EGROUP",
        |p| p.groups.effective.1.clone(),
        |p| id(&p.groups.effective),
    ),
    owner(
        "rgroup",
        "RGROUP",
        |p| p.groups.real.1.clone(),
        |p| id(&p.groups.real),
    ),
    owner(
        "sgroup",
        "SGROUP",
        |p| p.groups.saved.1.clone(),
        |p| id(&p.groups.saved),
    ),
    owner(
        "fgroup",
        "FGROUP",
        |p| p.groups.files.1.clone(),
        |p| id(&p.groups.files),
    ),
    plain("gid", "GID", |p| id(&p.groups.effective)),
    plain("egid", "EGID", |p| id(&p.groups.effective)),
    plain("rgid", "RGID", |p| id(&p.groups.real)),
    plain("sgid", "SGID", |p| id(&p.groups.saved)),
    plain("fgid", "FGID", |p| id(&p.groups.files)),
    plain("supgid", "SUPGID", |p| or_dash(&p.more_groups)),
    plain("c", "C", |p| (per_mille(p) / 10).min(99).to_string()),
    plain("pcpu", "%CPU", |p| tenth(per_mille(p))),
    plain("pmem", "%MEM", |p| tenth(p.memory_permille)),
    plain("vsz", "VSZ", |p| p.virtual_memory.to_string()),
    plain("sz", "SZ", |p| (p.virtual_memory / 4).to_string()),
    plain("rss", "RSS", |p| p.resident_memory.to_string()),
    plain("trs", "TRS", |p| p.code_memory.to_string()),
    plain("drs", "DRS", |p| {
        p.virtual_memory.saturating_sub(p.code_memory).to_string()
    }),
    plain("minflt", "MINFLT", |p| p.minor_faults.to_string()),
    plain("min_flt", "MINFL", |p| p.minor_faults.to_string()),
    plain("majflt", "MAJFLT", |p| p.major_faults.to_string()),
    plain("maj_flt", "MAJFL", |p| p.major_faults.to_string()),
    plain("tt", "TT", |p| p.terminal.clone()),
    plain("tname", "TTY", |p| p.terminal.clone()),
    plain("stat", "STAT", stat),
    plain("s", "S", |p| p.state.clone()),
    // Below the scheduler's own classes a process may be forked (1) and have been root (4).
    plain("f", "F", |p| (p.flags >> 6 & 7).to_string()),
    plain("pri", "PRI", |p| (39 - p.priority).to_string()),
    plain("opri", "PRI", |p| (60 + p.priority).to_string()),
    plain("priority", "PRI", |p| p.priority.to_string()),
    plain("ni", "NI", nice),
    plain("rtprio", "RTPRIO", |p| match p.realtime_priority {
        0 => "-".into(),
        priority => priority.to_string(),
    }),
    plain("cls", "CLS", |p| policy(p).into()),
    plain("policy", "POL", |p| policy(p).into()),
    plain("sched", "SCH", |p| p.policy.to_string()),
    plain("psr", "PSR", |p| p.processor.to_string()),
    plain("sgi_p", "P", |p| match p.state.as_str() {
        "R" => p.processor.to_string(),
        _ => "*".into(),
    }),
    plain("addr", "ADDR", |_| "-".into()),
    plain("stackp", "STACKP", |p| format!("{:016x}", p.stack_start)),
    plain("esp", "ESP", |p| format!("{:016x}", p.stack_pointer)),
    plain("eip", "EIP", |p| format!("{:016x}", p.instruction)),
    // No kernel tells these any more.
    plain("tmout", "TMOUT", |_| "-".into()),
    plain("alarm", "ALARM", |_| "-".into()),
    plain("wchan", "WCHAN", |p| or_dash(&p.waits_in)),
    plain("label", "LABEL", |p| or_dash(&p.label)),
    plain("cgroup", "CGROUP", |p| or_dash(&p.control_group)),
    plain("cgroupns", "CGROUPNS", |p| namespace(p, "cgroup")),
    plain("ipcns", "IPCNS", |p| namespace(p, "ipc")),
    plain("mntns", "MNTNS", |p| namespace(p, "mnt")),
    plain("netns", "NETNS", |p| namespace(p, "net")),
    plain("pidns", "PIDNS", |p| namespace(p, "pid")),
    plain("timens", "TIMENS", |p| namespace(p, "time")),
    plain("userns", "USERNS", |p| namespace(p, "user")),
    plain("utsns", "UTSNS", |p| namespace(p, "uts")),
    plain("oom", "OOM", |p| p.oom_score.to_string()),
    plain("oomadj", "OOMADJ", |p| p.oom_adjustment.to_string()),
    plain("pending", "PENDING", |p| p.signals.pending.clone()),
    plain("blocked", "BLOCKED", |p| p.signals.blocked.clone()),
    plain("ignored", "IGNORED", |p| p.signals.ignored.clone()),
    plain("caught", "CAUGHT", |p| p.signals.caught.clone()),
    plain("stime", "STIME", |p| p.start.clone()),
    plain("start_time", "START", |p| p.start.clone()),
    plain("bsdstart", "START", |p| p.start.clone()),
    plain("start", "STARTED", |p| {
        // `Sat Nov 21 15:26:02 2026`
        let words: Vec<&str> = p.start_whole.split_ascii_whitespace().collect();
        match words[..] {
            [_, _, _, time, _] if p.age < 86_400 => time.to_owned(),
            [_, month, day, ..] => format!("{month} {day}"),
            _ => "-".to_owned(),
        }
    }),
    plain("lstart", "STARTED", |p| p.start_whole.clone()),
    plain("etime", "ELAPSED", |p| elapsed(p.age)),
    plain("etimes", "ELAPSED", |p| p.age.to_string()),
    plain("time", "TIME", |p| clock(p.cpu_ticks / 100)),
    plain("times", "TIME", |p| (p.cpu_ticks / 100).to_string()),
    plain("bsdtime", "TIME", |p| {
        let seconds = p.cpu_ticks / 100;
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }),
    command("comm", "COMMAND", |p| p.name.clone()),
    command("ucmd", "CMD", |p| p.name.clone()),
    command("args", "COMMAND", |p| p.command.clone()),
    command("cmd", "CMD", |p| p.command.clone()),
    plain("exe", "EXE", |p| or_dash(&p.program)),
];

/// Other names of the same thing under the same title.
const SAME: &[(&str, &str)] = &[
    ("%cpu", "pcpu"),
    ("%mem", "pmem"),
    ("vsize", "vsz"),
    ("rssize", "rss"),
    ("rsz", "rss"),
    ("uname", "user"),
    ("tty", "tt"),
    ("tty4", "tname"),
    ("tty8", "tname"),
    ("state", "s"),
    ("flag", "f"),
    ("flags", "f"),
    ("nice", "ni"),
    ("class", "cls"),
    ("session", "sess"),
    ("cputime", "time"),
    ("cputimes", "times"),
    ("ucomm", "comm"),
    ("fname", "comm"),
    ("command", "args"),
    ("nwchan", "wchan"),
    ("wname", "wchan"),
    ("atime", "time"),
    ("intpri", "opri"),
    ("longtname", "tname"),
    ("start_stack", "stackp"),
    ("sig", "pending"),
    ("tsig", "pending"),
    ("sigmask", "blocked"),
    ("sigignore", "ignored"),
    ("sigcatch", "caught"),
];

/// What `ps m` shows in the line of a process only.
const OF_PROCESSES: &[&str] = &[
    "args", "cgroup", "cmd", "comm", "drs", "exe", "nlwp", "pgid", "pgrp", "pid", "pmem", "ppid",
    "rss", "sess", "sid", "stackp", "sz", "tgid", "thcount", "tname", "tpgid", "trs", "tt", "ucmd",
    "vsz",
];

/// What `ps m` shows in the lines of threads only.
const OF_THREADS: &[&str] = &[
    "blocked", "caught", "cls", "eip", "esp", "ignored", "lwp", "ni", "oom", "oomadj", "opri",
    "policy", "pri", "priority", "psr", "s", "sched", "sgi_p", "spid", "stat", "tid", "wchan",
];

impl Column {
    pub(super) fn is_of_processes(&self) -> bool {
        OF_PROCESSES.contains(&self.name)
    }

    pub(super) fn is_of_threads(&self) -> bool {
        OF_THREADS.contains(&self.name)
    }
}

/// What `ps --sort` compares where the text does not sort: ages fall as starts rise.
const SORTED_BY: &[(&str, &str)] = &[
    ("etime", "etimes"),
    ("time", "times"),
    ("bsdtime", "times"),
    ("cputime", "times"),
];

/// Names that procps has and we do not: refused with words of our own.
pub(super) const UNKNOWN_HERE: &[&str] = &[
    "cgname", "cp", "environ", "fds", "htprv", "htshr", "lsession", "luid", "lxc", "machine",
    "numa", "ouid", "pss", "rbytes", "rchars", "rops", "seat", "size", "slice", "supgrp", "unit",
    "uss", "uunit", "wbytes", "wcbytes", "wchars", "wops",
];

pub(super) fn find(name: &str) -> Option<Column> {
    let same = SAME.iter().find(|(other, _)| *other == name);
    let name = same.map_or(name, |(_, name)| name);
    COLUMNS.iter().find(|column| column.name == name).copied()
}

/// The column that processes are to be sorted by, and whether it runs the other way round.
pub(super) fn find_for_sorting(name: &str) -> Option<(Column, bool)> {
    if ["start", "start_time", "stime", "bsdstart", "lstart"].contains(&name) {
        return Some((find("etimes")?, true));
    }
    let other = SORTED_BY.iter().find(|(text, _)| *text == name);
    Some((find(other.map_or(name, |(_, number)| number))?, false))
}

fn id(ids: &(u32, String)) -> String {
    ids.0.to_string()
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

fn namespace(process: &ProcessFacts, kind: &str) -> String {
    let found = process.namespaces.iter().find(|(name, _)| name == kind);
    found.map_or_else(|| "-".into(), |(_, number)| number.to_string())
}

fn per_mille(process: &ProcessFacts) -> u64 {
    // Hundredths of a second, as the kernel counts them.
    (process.cpu_ticks * 10)
        .checked_div(process.age)
        .unwrap_or(0)
}

fn tenth(permille: u64) -> String {
    format!("{}.{}", permille / 10, permille % 10)
}

fn clock(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let rest = format!("{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60);
    if days > 0 {
        format!("{days}-{rest}")
    } else {
        rest
    }
}

fn elapsed(seconds: u64) -> String {
    if seconds < 3600 {
        format!("{:02}:{:02}", seconds / 60, seconds % 60)
    } else {
        clock(seconds)
    }
}

fn stat(process: &ProcessFacts) -> String {
    let mut text = process.state.clone();
    text.push_str(match process.nice {
        ..0 => "<",
        0 => "",
        1.. => "N",
    });
    for (holds, mark) in [
        (process.locked_memory > 0, 'L'),
        (process.session == process.pid, 's'),
        (process.threads > 1, 'l'),
        (i64::from(process.group) == process.foreground, '+'),
    ] {
        if holds {
            text.push(mark);
        }
    }
    text
}

/// Numbers of sched_setscheduler(2).
fn policy(process: &ProcessFacts) -> &'static str {
    match process.policy {
        0 => "TS",
        1 => "FF",
        2 => "RR",
        3 => "B",
        4 => "ISO",
        5 => "IDL",
        6 => "DLN",
        _ => "?",
    }
}

fn nice(process: &ProcessFacts) -> String {
    match policy(process) {
        "TS" | "B" | "IDL" => process.nice.to_string(),
        _ => "-".into(),
    }
}

/// Whether a list of names and numbers has this one.
pub(super) fn has_owner(list: &[String], ids: &(u32, String)) -> bool {
    list.iter()
        .any(|asked| *asked == ids.1 || *asked == ids.0.to_string())
}
