//! Arguments of `ps`, as procps reads them: `-ef`, `aux`, `axo pid,comm`, `--sort=-rss`.

use super::columns::{self, Column};
use crate::containers::host::ProcessFacts;

/// What the arguments ask for.
#[derive(Default)]
pub(super) struct Wanted {
    /// Titles with what is under them.
    pub columns: Vec<(String, Column)>,
    /// What comes first; whether it is turned round.
    pub sort: Vec<(Column, bool)>,
    pub threads: Threads,
    pub forest: bool,
    /// Numbers in place of names of users and groups.
    pub numeric: bool,
    /// The environment behind the command line.
    pub environment: bool,
    lists: Vec<(Kind, Vec<String>)>,
    inverted: bool,
}

/// Which lines threads have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Threads {
    #[default]
    None,
    /// Lines like those of processes, in their place.
    Alone,
    /// Lines below the one of their process, which has no part of what is a thread's.
    Below,
}

/// What a list of processes to show names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Command,
    Pid,
    Parent,
    User,
    RealUser,
    Group,
    RealGroup,
    Session,
    Terminal,
}

impl Wanted {
    /// Whether the process is one of those the arguments choose; without a list all are.
    pub fn chooses(&self, process: &ProcessFacts) -> bool {
        self.lists.is_empty()
            || self.inverted
                != self.lists.iter().any(|(kind, list)| {
                    let has = |text: &str| list.iter().any(|asked| asked == text);
                    match kind {
                        Kind::Command => has(&process.name),
                        Kind::Pid => has(&process.pid.to_string()),
                        Kind::Parent => has(&process.parent.to_string()),
                        Kind::Session => has(&process.session.to_string()),
                        Kind::Terminal => {
                            has(&process.terminal) || has(&format!("/dev/{}", process.terminal))
                        }
                        Kind::User => columns::has_owner(list, &process.users.effective),
                        Kind::RealUser => columns::has_owner(list, &process.users.real),
                        Kind::Group => columns::has_owner(list, &process.groups.effective),
                        Kind::RealGroup => columns::has_owner(list, &process.groups.real),
                    }
                })
    }
}

/// What is read of the arguments before it is put together.
#[derive(Default)]
struct Reading {
    wanted: Wanted,
    /// Letters of formats: of System V (`-f`) and of BSD (`u`).
    system_v: String,
    bsd: String,
    is_bsd: bool,
    /// Letters that ask for threads: `H`, `L`, `T`, `m`.
    threads: String,
    own: Vec<(String, Column)>,
    /// `-O`: these between the usual ones.
    between: bool,
    no_titles: bool,
    true_names: bool,
}

/// What `ps` says first where it does not understand.
fn wrong(what: &str) -> String {
    format!("ps: error: {what}")
}

fn absent(what: &str) -> String {
    format!("top: {what} is not supported here")
}

/// Reads all arguments; the error is what `docker top` says.
pub(super) fn read(arguments: &str) -> Result<Wanted, String> {
    titles_are_honest(arguments)?;
    let arguments = if arguments.trim().is_empty() {
        "-ef"
    } else {
        arguments
    };
    let mut reading = Reading::default();
    let mut words = arguments.split_ascii_whitespace();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            reading.long(long, &mut words)?;
        } else if let Some(letters) = word.strip_prefix('-') {
            // `-aux`: there is no user x, and no -x, so it is meant as BSD's.
            let as_bsd = letters.contains('x') && !letters.contains(['o', 'O', 'C', 't'])
                || letters.starts_with("ax");
            if as_bsd {
                reading.bsd(letters, &mut words)?;
            } else {
                reading.system_v(letters, &mut words)?;
            }
        } else {
            reading.bsd(word, &mut words)?;
        }
    }
    reading.finish()
}

/// Docker looks for the title PID; nothing else may be called so.
fn titles_are_honest(arguments: &str) -> Result<(), String> {
    let mut words = arguments.split_ascii_whitespace().peekable();
    if !arguments.starts_with(|first: char| first.is_ascii_whitespace()) {
        words.next();
    }
    while let Some(word) = words.next() {
        for (place, _) in word.match_indices('=') {
            let (name, title) = (&word[..place], &word[place + 1..]);
            let title = match title {
                "" => words.peek().copied().unwrap_or_default(),
                title => title,
            };
            if title.starts_with("PID") && name != "pid" {
                return Err(format!("specifying \"{name}={title}\" is not allowed"));
            }
        }
    }
    Ok(())
}

/// The rest of a word, or the next one.
fn value<'a>(
    rest: &'a str,
    words: &mut impl Iterator<Item = &'a str>,
    missing: &str,
) -> Result<&'a str, String> {
    match rest {
        "" => words.next().ok_or_else(|| wrong(missing)),
        rest => Ok(rest),
    }
}

const FORMAT_MISSING: &str = "format specification must follow";
const LIST_MISSING: &str = "list of process IDs must follow";

impl Reading {
    fn system_v<'a>(
        &mut self,
        letters: &'a str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        for (place, letter) in letters.char_indices() {
            let rest = &letters[place + letter.len_utf8()..];
            let kind = match letter {
                'A' | 'e' | 'a' | 'd' | 'w' => continue,
                'f' | 'F' | 'l' | 'j' | 'y' | 'c' | 'M' | 'Z' => {
                    self.system_v.push(letter);
                    continue;
                }
                'L' | 'T' => {
                    self.system_v.push(letter);
                    self.threads.push(letter);
                    continue;
                }
                'm' => {
                    self.threads.push(letter);
                    continue;
                }
                'H' => {
                    self.wanted.forest = true;
                    continue;
                }
                'N' => {
                    self.wanted.inverted = !self.wanted.inverted;
                    continue;
                }
                'n' => {
                    self.wanted.numeric = true;
                    continue;
                }
                'V' => return Err(NO_PID.into()),
                'o' | 'O' => {
                    let list = value(rest, words, &format!("{FORMAT_MISSING} -{letter}"))?;
                    self.between |= letter == 'O';
                    return self.format(list);
                }
                'C' => Kind::Command,
                'p' | 'q' => Kind::Pid,
                'u' => Kind::User,
                'U' => Kind::RealUser,
                'G' => Kind::RealGroup,
                's' => Kind::Session,
                'g' => Kind::Session,
                't' => Kind::Terminal,
                _ => return Err(wrong("unsupported SysV option")),
            };
            let list = value(rest, words, LIST_MISSING)?;
            self.list(kind, list);
            return Ok(());
        }
        Ok(())
    }

    fn bsd<'a>(
        &mut self,
        letters: &'a str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        if letters.starts_with(|first: char| first.is_ascii_digit()) {
            self.is_bsd = true;
            self.list(Kind::Pid, letters);
            return Ok(());
        }
        for (place, letter) in letters.char_indices() {
            let rest = &letters[place + letter.len_utf8()..];
            self.is_bsd = true;
            let kind = match letter {
                'a' | 'x' | 'g' | 'r' | 'T' | 'w' | 'S' => continue,
                'u' | 'l' | 'j' | 'v' | 's' | 'X' => {
                    self.bsd.push(letter);
                    continue;
                }
                'f' => {
                    self.wanted.forest = true;
                    continue;
                }
                'n' => {
                    self.wanted.numeric = true;
                    continue;
                }
                'e' => {
                    self.wanted.environment = true;
                    continue;
                }
                'c' => {
                    self.true_names = true;
                    continue;
                }
                'h' => {
                    self.no_titles = true;
                    continue;
                }
                'H' | 'm' => {
                    self.threads.push(letter);
                    continue;
                }
                'Z' | 'M' => {
                    self.system_v.push('Z');
                    continue;
                }
                'V' => return Err(NO_PID.into()),
                'L' => return Err(NO_PID.into()),
                'k' => {
                    let keys = value(rest, words, "long sort specification must follow 'k'")?;
                    return self.sort(keys);
                }
                'o' | 'O' => {
                    let list = value(rest, words, &format!("{FORMAT_MISSING} {letter}"))?;
                    self.between |= letter == 'O';
                    return self.format(list);
                }
                'p' | 'q' => Kind::Pid,
                'U' => Kind::User,
                't' => Kind::Terminal,
                _ => return Err(wrong("unsupported option (BSD syntax)")),
            };
            let list = value(rest, words, LIST_MISSING)?;
            self.list(kind, list);
            return Ok(());
        }
        Ok(())
    }

    fn long<'a>(
        &mut self,
        word: &'a str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<(), String> {
        let (name, given) = word.split_once('=').unwrap_or((word, ""));
        let kind = match name {
            "format" => {
                let list = value(given, words, &format!("{FORMAT_MISSING} --format"))?;
                return self.format(list);
            }
            "sort" => {
                let keys = value(given, words, "long sort specification must follow --sort")?;
                return self.sort(keys);
            }
            "forest" => {
                self.wanted.forest = true;
                return Ok(());
            }
            "deselect" => {
                self.wanted.inverted = !self.wanted.inverted;
                return Ok(());
            }
            "context" => {
                self.system_v.push('Z');
                return Ok(());
            }
            "no-headers" | "no-heading" | "no-headings" | "noheaders" => {
                self.no_titles = true;
                return Ok(());
            }
            "headers" | "heading" | "headings" | "cumulative" => return Ok(()),
            // Nothing is cut here, and there are no pages.
            "cols" | "columns" | "width" | "rows" | "lines" => {
                return value(given, words, "number must follow").map(drop);
            }
            "version" | "info" | "help" => return Err(NO_PID.into()),
            "pid" | "quick-pid" => Kind::Pid,
            "ppid" => Kind::Parent,
            "user" => Kind::User,
            "User" => Kind::RealUser,
            "group" => Kind::Group,
            "Group" => Kind::RealGroup,
            "sid" => Kind::Session,
            "tty" => Kind::Terminal,
            _ => return Err(wrong("unknown gnu long option")),
        };
        let list = value(given, words, LIST_MISSING)?;
        self.list(kind, list);
        Ok(())
    }

    fn list(&mut self, kind: Kind, list: &str) {
        let names = list.split(',').filter(|name| !name.is_empty());
        let names = names.map(str::to_owned).collect();
        self.wanted.lists.push((kind, names));
    }

    fn sort(&mut self, keys: &str) -> Result<(), String> {
        for key in keys.split(',').filter(|key| !key.is_empty()) {
            let descending = key.starts_with('-');
            let (column, turned) = columns::find_for_sorting(key.trim_start_matches(['+', '-']))
                .ok_or_else(|| wrong("unknown sort specifier"))?;
            self.wanted.sort.push((column, descending != turned));
        }
        Ok(())
    }

    /// A list after `-o`: `pid,user:20,comm=Name`.
    fn format(&mut self, list: &str) -> Result<(), String> {
        if list.starts_with('%') && !list.starts_with("%cpu") && !list.starts_with("%mem") {
            return self.format_of_aix(list);
        }
        for word in list.split(',').filter(|word| !word.is_empty()) {
            let (name, title) = match word.split_once('=') {
                Some((name, title)) => (name, Some(title)),
                None => (word, None),
            };
            let name = name.split_once(':').map_or(name, |(name, _width)| name);
            let column = find(name)?;
            let title = title.unwrap_or(column.title).to_owned();
            self.own.push((title, column));
        }
        Ok(())
    }

    /// What the letters for threads come to together.
    fn threads(&self) -> Result<Threads, String> {
        let has = |letter| self.threads.contains(letter);
        let conflict = |what: &str| Err(wrong(&format!("thread flags conflict; {what}")));
        if has('H') && has('m') {
            return conflict("can't use H with m or -m");
        }
        if has('L') && has('T') {
            return conflict("can't use both -L and -T");
        }
        if !self.threads.is_empty() && self.wanted.forest {
            return Err(wrong("thread display conflicts with forest display"));
        }
        Ok(match self.threads.as_str() {
            "" => Threads::None,
            letters if letters.contains('m') => Threads::Below,
            _ => Threads::Alone,
        })
    }

    /// `%p %U`: AIX's letters.
    fn format_of_aix(&mut self, list: &str) -> Result<(), String> {
        for letter in list.split('%').skip(1) {
            let name = match letter.trim_end_matches([',', ' ']) {
                "C" => "pcpu",
                "G" => "group",
                "P" => "ppid",
                "U" => "user",
                "a" => "args",
                "c" => "comm",
                "g" => "rgroup",
                "n" => "ni",
                "p" => "pid",
                "r" => "pgid",
                "t" => "etime",
                "u" => "ruser",
                "x" => "time",
                "y" => "tname",
                "z" => "vsz",
                _ => return Err(wrong("improper AIX field descriptor")),
            };
            let column = find(name)?;
            self.own.push((column.title.to_owned(), column));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Wanted, String> {
        self.wanted.threads = self.threads()?;
        let has = |letter| self.system_v.contains(letter);
        let own = !self.own.is_empty() && !self.between;
        let system_v = self
            .system_v
            .contains(['f', 'F', 'l', 'j', 'c', 'y', 'L', 'T']);
        if system_v && !self.bsd.is_empty()
            || self.bsd.chars().any(|letter| !self.bsd.starts_with(letter))
        {
            return Err(wrong("conflicting format options"));
        }
        if has('y') && !has('l') {
            return Err(wrong("modifier -y without format -l makes no sense"));
        }
        let names = match self.bsd.chars().next() {
            _ if own => String::new(),
            _ if self.between => "pid,*,s,tname,time,args".into(),
            Some('u') => "user,pid,pcpu,pmem,vsz,rss,tname,stat,start_time,bsdtime,args".into(),
            Some('l') => "f,uid,pid,ppid,priority,ni,vsz,rss,wchan,stat,tname,bsdtime,args".into(),
            Some('j') => "ppid,pid,pgid,sid,tname,tpgid,stat,uid,bsdtime,args".into(),
            Some('v') => "pid,tname,stat,bsdtime,maj_flt,trs,drs,rss,pmem,args".into(),
            Some('X') => "pid,stackp,esp,eip,tmout,alarm,stat,tname,bsdtime,args".into(),
            Some('s') => "uid,pid,pending,blocked,ignored,caught,stat,tname,bsdtime,args".into(),
            _ if self.is_bsd && !system_v => "pid,tname,stat,bsdtime,args".into(),
            _ => system_v_names(&self.system_v),
        };
        let mut all = Vec::new();
        if has('Z') || has('M') {
            all.push("label");
        }
        all.extend(names.split(',').filter(|name| !name.is_empty()));
        for name in all {
            if name == "*" {
                self.wanted.columns.append(&mut self.own);
                continue;
            }
            let name = match name {
                "args" if self.true_names => "comm",
                name => name,
            };
            let column = find(name)?;
            self.wanted.columns.push((column.title.to_owned(), column));
        }
        self.wanted.columns.append(&mut self.own);
        let has_pid = self.wanted.columns.iter().any(|(title, _)| title == "PID");
        if self.no_titles || !has_pid {
            return Err(NO_PID.into());
        }
        Ok(self.wanted)
    }
}

const NO_PID: &str = "Couldn't find PID field in ps output";

fn find(name: &str) -> Result<Column, String> {
    columns::find(name).ok_or_else(|| {
        if columns::UNKNOWN_HERE.contains(&name) {
            absent(&format!("the column {name:?}"))
        } else {
            wrong(&format!("unknown user-defined format specifier \"{name}\""))
        }
    })
}

/// The columns of `-f`, `-l`, `-j` and what goes with them, in their order.
fn system_v_names(letters: &str) -> String {
    let has = |letter| letters.contains(letter);
    let (full, long) = (has('f') || has('F'), has('l'));
    let names = [
        (long && !has('y'), "f"),
        (long, "s"),
        (full, "uid_hack"),
        (long && !full, "uid"),
        (true, "pid"),
        (has('T'), "spid"),
        (full || long, "ppid"),
        (has('j'), "pgid,sid"),
        (has('L'), "lwp"),
        (has('c'), "cls,pri"),
        (!has('c') && (full || long), "c"),
        (!has('c') && long, "opri,ni"),
        (has('L') && full, "nlwp"),
        (long, if has('y') { "rss" } else { "addr" }),
        (long || has('F'), "sz"),
        (has('F'), "rss,psr"),
        (long, "wchan"),
        (full, "stime"),
        (true, "tname,time"),
        (true, if full { "cmd" } else { "ucmd" }),
    ];
    let chosen = names.into_iter().filter(|(shown, _)| *shown);
    chosen.map(|(_, name)| name).collect::<Vec<_>>().join(",")
}
