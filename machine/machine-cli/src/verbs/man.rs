//! `machine man`: manual pages for packagers.

use crate::{Context, arguments};
use anyhow::Context as _;
use clap::Args;
use machine_core::store::atomic;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to write machine.1, machine-create.1 ... [default: print machine.1]
    folder: Option<PathBuf>,
}

pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<()> {
    let mut grammar = arguments::grammar();
    grammar.build();
    let Some(folder) = &arguments.folder else {
        context.console.print(page(&grammar)?.trim_end());
        return Ok(());
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut pages = vec![("machine".to_owned(), grammar.clone())];
    for verb in grammar.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = format!("machine-{}", verb.get_name());
        pages.push((name.clone(), verb.clone().name(name)));
    }
    for (name, command) in pages {
        let path = folder.join(format!("{name}.1"));
        atomic::write(&path, page(&command)?.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn page(command: &clap::Command) -> anyhow::Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut text)?;
    Ok(String::from_utf8(text)?)
}
