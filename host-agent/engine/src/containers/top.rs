//! `docker top`: the columns of `ps`, without a `ps`.

use super::error::ContainerError;
use super::host::ProcessFacts;
use super::lifecycle::Request;
use super::service::ContainerService;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTable {
    pub titles: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl ContainerService {
    /// The processes of a container in the columns that `ps_args` asks for (`-ef` where empty).
    pub async fn top(&self, asked: &str, ps_args: &str) -> Result<ProcessTable, ContainerError> {
        let columns = columns(ps_args).map_err(ContainerError::invalid)?;
        let (container, _) = self.decide(asked, Request::Top)?;
        let Some(task) = container.task() else {
            return Err(container.denied(super::lifecycle::Denied::NotRunning, asked));
        };
        let mut facts = self.deps.files.processes(task.processes().await?).await;
        facts.sort_by_key(|process| process.pid);
        self.deps.tell(&container, "top", []);
        Ok(ProcessTable {
            titles: columns
                .iter()
                .map(|(title, _)| (*title).to_owned())
                .collect(),
            rows: facts
                .iter()
                .map(|process| columns.iter().map(|(_, show)| show(process)).collect())
                .collect(),
        })
    }
}

type Column = (&'static str, fn(&ProcessFacts) -> String);

/// Every column we can show: name in `-o`, title, value.
const COLUMNS: &[(&str, Column)] = &[
    ("pid", ("PID", |p| p.pid.to_string())),
    ("ppid", ("PPID", |p| p.parent.to_string())),
    ("user", ("USER", |p| p.user.clone())),
    ("uid", ("UID", |p| p.user.clone())),
    ("c", ("C", |p| p.cpu_percent.to_string())),
    ("pcpu", ("%CPU", |p| format!("{}.0", p.cpu_percent))),
    ("vsz", ("VSZ", |p| p.virtual_memory.to_string())),
    ("rss", ("RSS", |p| p.resident_memory.to_string())),
    ("tty", ("TTY", |p| p.terminal.clone())),
    ("stat", ("STAT", |p| p.state.clone())),
    ("stime", ("STIME", |p| p.start.clone())),
    ("start", ("START", |p| p.start.clone())),
    ("time", ("TIME", |p| clock(p.cpu_seconds))),
    ("comm", ("COMMAND", |p| p.name.clone())),
    ("args", ("COMMAND", |p| p.command.clone())),
    ("command", ("COMMAND", |p| p.command.clone())),
    ("cmd", ("CMD", |p| p.command.clone())),
];

fn clock(seconds: u64) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn named(names: &str) -> Result<Vec<Column>, String> {
    names
        .split(',')
        .map(|name| {
            let known = COLUMNS.iter().find(|(known, _)| *known == name.trim());
            known.map(|(_, column)| *column).ok_or_else(|| {
                format!("top: column {name:?} is not supported; known are pid, ppid, user, pcpu, vsz, rss, tty, stat, stime, time, comm, args and cmd")
            })
        })
        .collect()
}

fn columns(ps_args: &str) -> Result<Vec<Column>, String> {
    let words: Vec<&str> = ps_args.split_whitespace().collect();
    match words.as_slice() {
        [] | ["-ef" | "-fe"] => named("uid,pid,ppid,c,stime,tty,time,cmd"),
        ["aux" | "-aux"] => named("user,pid,pcpu,vsz,rss,tty,stat,start,time,command"),
        ["-o" | "-eo" | "o" | "-Ao", names] => named(names),
        ["-e" | "-A", "-o", names] => named(names),
        [joined] if joined.starts_with("-o") => named(&joined[2..]),
        _ => Err(format!(
            "top: ps arguments {ps_args:?} are not supported; use -ef, aux or -o COLUMNS"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_those_of_ps() {
        let titles = |args: &str| {
            columns(args).map(|all| all.iter().map(|(title, _)| *title).collect::<Vec<_>>())
        };
        assert_eq!(
            titles(""),
            Ok(vec![
                "UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"
            ])
        );
        assert_eq!(titles("-o pid,comm"), Ok(vec!["PID", "COMMAND"]));
        assert!(titles("-o wchan").is_err());
        assert!(titles("--forest").is_err());
        assert_eq!(clock(3_723), "01:02:03");
    }
}
