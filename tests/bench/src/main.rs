//! `make bench`: our engine and dockerd side by side on this computer, one after the other in every round, so that what
//! else the computer does falls on both. Every row is a ratio; the absolute figures beside it are this computer's.
//!
//! Engine CPU is what the kernel charged to the engine's own cgroup with everything in it: daemons, shims, helpers and
//! the containers. The client is this program and is charged to neither.

mod cgroup;
mod dns_load;
mod engines;
mod http;
mod memory;
mod rows;
mod table;
mod vm;
mod vm_ports;

use anyhow::{Result, bail};

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, name] = words.as_slice()
        && verb == dns_load::VERB
    {
        return dns_load::main(name);
    }
    let wants = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    if let Some(unknown) = words
        .iter()
        .find(|word| *word != "vm" && !rows::NAMES.contains(&word.as_str()))
    {
        bail!(
            "unknown benchmark '{unknown}': it is vm or one of {}, or nothing for all",
            rows::NAMES.join(", ")
        );
    }
    let mut table = table::Table::default();
    let chosen: Vec<&str> = rows::NAMES.into_iter().filter(|name| wants(name)).collect();
    if !chosen.is_empty() {
        match engines::obstacle() {
            Some(why) => println!("skipped: engine rows: {why}"),
            None => rows::measure(&chosen, &mut table)?,
        }
    }
    if wants("vm") {
        match harness::machine::obstacle() {
            Some(why) => println!("skipped: machine rows: {why}"),
            None => vm::measure(&mut table)?,
        }
    }
    println!("\n{table}");
    if table.has_missed() {
        bail!("a bound is missed");
    }
    Ok(())
}
