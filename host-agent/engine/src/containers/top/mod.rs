//! `docker top`: what `ps` says of a container's processes, without a `ps`. Docker runs the host's with the client's
//! arguments; hosts such as our own machines have none.

mod arguments;
mod columns;

use super::error::ContainerError;
use super::host::ProcessFacts;
use super::lifecycle::Request;
use super::service::ContainerService;
use arguments::{Threads, Wanted};
use columns::Column;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// A table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessTable {
    pub titles: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl ContainerService {
    /// The processes of a container as `ps` shows them with `ps_args` (`-ef` where empty).
    pub async fn top(&self, asked: &str, ps_args: &str) -> Result<ProcessTable, ContainerError> {
        let wanted = arguments::read(ps_args).map_err(ContainerError::invalid)?;
        let (container, _) = self.decide(asked, Request::Top)?;
        let Some(task) = container.task() else {
            return Err(container.denied(super::lifecycle::Denied::NotRunning, asked));
        };
        let pids = task.processes().await?;
        let files = &self.deps.files;
        let threads = match wanted.threads {
            Threads::Below => files.processes(pids.clone(), true).await,
            Threads::None | Threads::Alone => Vec::new(),
        };
        let alone = wanted.threads == Threads::Alone;
        let facts = files.processes(pids, alone).await;
        self.deps.tell(&container, "top", []);
        Ok(table(&wanted, facts, &threads))
    }
}

/// `threads` come below their processes.
fn table(wanted: &Wanted, mut facts: Vec<ProcessFacts>, threads: &[ProcessFacts]) -> ProcessTable {
    facts.retain(|process| wanted.chooses(process));
    facts.sort_by(|one, other| {
        let asked = wanted.sort.iter().map(|(column, descending)| {
            let order = compare(&(column.show)(one), &(column.show)(other));
            if *descending { order.reverse() } else { order }
        });
        let by_number = (one.pid, one.thread).cmp(&(other.pid, other.thread));
        asked.fold(Ordering::Equal, Ordering::then).then(by_number)
    });
    let depths = if wanted.forest {
        as_forest(&mut facts)
    } else {
        vec![0; facts.len()]
    };
    let titles: Vec<String> = wanted
        .columns
        .iter()
        .map(|(title, _)| title.clone())
        .collect();
    let below = wanted.threads == Threads::Below;
    let mut rows = Vec::new();
    for (process, depth) in facts.iter().zip(depths) {
        rows.push(row(wanted, process, depth, |column| {
            below && column.is_of_threads()
        }));
        let mut own: Vec<_> = threads
            .iter()
            .filter(|one| below && one.pid == process.pid)
            .collect();
        own.sort_by_key(|one| one.thread);
        rows.extend(
            own.into_iter()
                .map(|thread| row(wanted, thread, 0, Column::is_of_processes)),
        );
    }
    without_untitled(titles, rows)
}

fn row(
    wanted: &Wanted,
    process: &ProcessFacts,
    depth: usize,
    hidden: impl Fn(&Column) -> bool,
) -> Vec<String> {
    let cells = wanted.columns.iter().map(|(_, column)| {
        if hidden(column) {
            return "-".into();
        }
        let mut cell = if wanted.numeric {
            column.numeric.unwrap_or(column.show)(process)
        } else {
            (column.show)(process)
        };
        if column.is_command && wanted.environment && !process.environment.is_empty() {
            cell = format!("{cell} {}", process.environment);
        }
        if column.is_command && depth > 0 {
            cell = format!("{}\\_ {cell}", "    ".repeat(depth - 1));
        }
        cell
    });
    cells.collect()
}

/// Docker splits the lines that `ps` writes at spaces: what is in columns without a title goes to the last one with one.
fn without_untitled(titles: Vec<String>, rows: Vec<Vec<String>>) -> ProcessTable {
    if !titles.iter().any(String::is_empty) {
        return ProcessTable { titles, rows };
    }
    let titles: Vec<String> = titles
        .into_iter()
        .filter(|title| !title.is_empty())
        .collect();
    let last = titles.len().saturating_sub(1);
    let rows = rows.into_iter().map(|row| {
        let line = row.join(" ");
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let (own, rest) = words.split_at(last.min(words.len()));
        let mut row: Vec<String> = own.iter().map(|word| (*word).to_owned()).collect();
        row.push(rest.join(" "));
        row
    });
    ProcessTable {
        rows: rows.collect(),
        titles,
    }
}

/// Numbers as numbers, everything else as text.
fn compare(one: &str, other: &str) -> Ordering {
    match (one.parse::<f64>(), other.parse::<f64>()) {
        (Ok(one), Ok(other)) => one.total_cmp(&other),
        _ => one.cmp(other),
    }
}

/// Puts processes behind their parents; says how deep each is below the container's first processes.
fn as_forest(facts: &mut Vec<ProcessFacts>) -> Vec<usize> {
    let all: BTreeSet<u32> = facts.iter().map(|process| process.pid).collect();
    let (mut ordered, mut depths) = (Vec::new(), Vec::new());
    // Who is to be shown next, the last one first: those without a parent here to begin with.
    let mut left = std::mem::take(facts);
    let mut stack: Vec<(ProcessFacts, usize)> = Vec::new();
    let take = |left: &mut Vec<ProcessFacts>, fits: &dyn Fn(&ProcessFacts) -> bool| {
        let (chosen, rest) = std::mem::take(left).into_iter().partition(|one| fits(one));
        *left = rest;
        let chosen: Vec<ProcessFacts> = chosen;
        chosen
    };
    let roots = take(&mut left, &|one| {
        !all.contains(&one.parent) || one.parent == one.pid
    });
    stack.extend(roots.into_iter().rev().map(|one| (one, 0)));
    while let Some((process, depth)) = stack.pop() {
        let children = take(&mut left, &|one| one.parent == process.pid);
        stack.extend(children.into_iter().rev().map(|one| (one, depth + 1)));
        ordered.push(process);
        depths.push(depth);
    }
    *facts = ordered;
    depths
}

#[cfg(test)]
mod tests;
