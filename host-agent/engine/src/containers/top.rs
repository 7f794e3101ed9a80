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
    ("pmem", ("%MEM", |p| tenth(p.memory_permille))),
    ("vsz", ("VSZ", |p| p.virtual_memory.to_string())),
    ("rss", ("RSS", |p| p.resident_memory.to_string())),
    ("tty", ("TTY", |p| p.terminal.clone())),
    ("stat", ("STAT", |p| p.state.clone())),
    ("s", ("S", |p| p.state.chars().take(1).collect())),
    ("stime", ("STIME", |p| p.start.clone())),
    ("start", ("START", |p| p.start.clone())),
    ("time", ("TIME", |p| clock(p.cpu_seconds))),
    ("bsdtime", ("TIME", |p| minutes(p.cpu_seconds))),
    ("comm", ("COMMAND", |p| p.name.clone())),
    ("args", ("COMMAND", |p| p.command.clone())),
    ("command", ("COMMAND", |p| p.command.clone())),
    ("cmd", ("CMD", |p| p.command.clone())),
    ("ucmd", ("CMD", |p| p.name.clone())),
];

/// Other names that `ps -o` knows for them.
const ALIASES: &[(&str, &str)] = &[
    ("%cpu", "pcpu"),
    ("%mem", "pmem"),
    ("vsize", "vsz"),
    ("rssize", "rss"),
    ("rsz", "rss"),
    ("euser", "user"),
    ("uname", "user"),
    ("tt", "tty"),
    ("tname", "tty"),
    ("state", "s"),
    ("cputime", "time"),
    ("bsdstart", "start"),
    ("start_time", "start"),
    ("ucomm", "comm"),
];

fn clock(seconds: u64) -> String {
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

fn minutes(seconds: u64) -> String {
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn tenth(permille: u64) -> String {
    format!("{}.{}", permille / 10, permille % 10)
}

fn named(names: &str) -> Result<Vec<Column>, String> {
    names
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .map(|name| {
            let alias = ALIASES.iter().find(|(alias, _)| *alias == name);
            let name = alias.map_or(name, |(_, name)| name);
            let known = COLUMNS.iter().find(|(known, _)| *known == name);
            known.map(|(_, column)| *column).ok_or_else(|| {
                let known: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
                format!(
                    "top: column {name:?} is not supported; known are {}",
                    known.join(", ")
                )
            })
        })
        .collect()
}

/// What `ps` shows for these arguments. Which processes they choose does not matter: those of the container are shown.
fn columns(ps_args: &str) -> Result<Vec<Column>, String> {
    let refused =
        || format!("top: ps arguments {ps_args:?} are not supported; use -ef, aux or -o COLUMNS");
    let mut chosen: Option<String> = None;
    let mut words = ps_args.split_whitespace();
    let (mut full, mut long_list, mut bsd, mut bsd_user) = (false, false, false, false);
    while let Some(word) = words.next() {
        let letters = word.strip_prefix('-').unwrap_or(word);
        if letters.starts_with('-') {
            return Err(refused());
        }
        for (place, letter) in letters.char_indices() {
            match letter {
                'o' | 'O' => {
                    // The list is the rest of the word, or the next one.
                    let rest = &letters[place + 1..];
                    let list = if rest.is_empty() {
                        words.next().ok_or_else(refused)?
                    } else {
                        rest
                    };
                    let before = chosen.take().unwrap_or_default();
                    chosen = Some(format!("{before},{list}"));
                    break;
                }
                'f' | 'F' => full = true,
                'u' => bsd_user = true,
                'a' | 'x' => bsd |= !word.starts_with('-') || letter == 'x',
                'l' => long_list = true,
                'e' | 'A' | 'd' | 'w' => {}
                _ => return Err(refused()),
            }
        }
    }
    let list = match &chosen {
        Some(list) => list,
        None if bsd_user => "user,pid,pcpu,pmem,vsz,rss,tty,stat,start,bsdtime,command",
        None if full || ps_args.trim().is_empty() => "uid,pid,ppid,c,stime,tty,time,cmd",
        None if long_list => return Err(refused()),
        None if bsd => "pid,tty,stat,bsdtime,command",
        None => "pid,tty,time,ucmd",
    };
    let columns = named(list)?;
    if !columns.iter().any(|(title, _)| *title == "PID") {
        return Err("Couldn't find PID field in ps output".into());
    }
    Ok(columns)
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
        assert_eq!(titles("-eo pid,%mem"), Ok(vec!["PID", "%MEM"]));
        assert_eq!(titles("-o pid -o user"), Ok(vec!["PID", "USER"]));
        for bsd in ["aux", "-aux", "waux", "auxww"] {
            assert_eq!(
                titles(bsd),
                Ok(vec![
                    "USER", "PID", "%CPU", "%MEM", "VSZ", "RSS", "TTY", "STAT", "START", "TIME",
                    "COMMAND"
                ])
            );
        }
        assert_eq!(titles("-e"), Ok(vec!["PID", "TTY", "TIME", "CMD"]));
        assert_eq!(
            titles("ax"),
            Ok(vec!["PID", "TTY", "STAT", "TIME", "COMMAND"])
        );
        assert_eq!(
            titles("-o comm"),
            Err("Couldn't find PID field in ps output".to_owned())
        );
        assert!(titles("-o wchan").is_err());
        assert!(titles("--forest").is_err());
        assert_eq!(clock(3_723), "01:02:03");
    }
}
