//! `machine logs`: the console of a machine and what its keeper says.

use super::Name;
use crate::Context;
use crate::failure::Failure;
use clap::Args;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    name: Name,
    /// Show so many of the last lines of each log
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
    tail: usize,
    /// Go on showing the console's new lines
    #[arg(short, long)]
    follow: bool,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let machine = context.machines.open(&arguments.name.name)?;
    let logs: Vec<_> = machine
        .logs()
        .into_iter()
        .filter(|log| log.exists())
        .collect();
    let Some(first) = logs.first() else {
        return Err(Failure::new(
            format!("machine \"{}\" has no logs here", machine.name()),
            "where it runs, `journalctl -u berth` shows its engine's",
        )
        .into());
    };
    for log in logs.iter().rev() {
        let name = log.file_name().unwrap_or_default().to_string_lossy();
        context.console.print(&format!("==> {name}"));
        for line in last_lines(log, arguments.tail)? {
            context.console.print(&line);
        }
    }
    if arguments.follow {
        follow(context, first)?;
    }
    Ok(())
}

/// The last lines, fit for a terminal.
fn last_lines(log: &Path, count: usize) -> std::io::Result<Vec<String>> {
    let text = String::from_utf8_lossy(&std::fs::read(log)?).into_owned();
    let lines: Vec<String> = text.lines().map(plain).collect();
    Ok(lines[lines.len().saturating_sub(count)..].to_vec())
}

fn plain(line: &str) -> String {
    line.chars()
        .filter(|c| !c.is_control() || *c == '\t')
        .collect()
}

/// Until Ctrl-C.
fn follow(context: &Context, log: &Path) -> std::io::Result<()> {
    let mut at = std::fs::metadata(log)?.len();
    let mut pending = String::new();
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let Ok(mut file) = File::open(log) else {
            continue;
        };
        // A new boot begins a new file.
        if file.metadata()?.len() < at {
            at = 0;
        }
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        at += file.read_to_end(&mut bytes)? as u64;
        pending.push_str(&String::from_utf8_lossy(&bytes));
        while let Some(end) = pending.find('\n') {
            let line: String = pending.drain(..=end).collect();
            context.console.print(&plain(line.trim_end()));
        }
    }
}
