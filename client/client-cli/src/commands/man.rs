//! `berth man`: manual pages for packagers.

use crate::show;
use anyhow::{Context, Result};
use std::path::PathBuf;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to write berth.1, berth-run.1 ... [default: print berth.1]
    folder: Option<PathBuf>,
}

/// `grammar` is that of the whole program.
pub(crate) fn perform(options: &Options, mut grammar: clap::Command) -> Result<u8> {
    grammar.build();
    let Some(folder) = &options.folder else {
        show::print(&page(&grammar)?)?;
        return Ok(0);
    };
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, command) in pages("berth", &grammar) {
        let path = folder.join(format!("{name}.1"));
        std::fs::write(&path, page(&command)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(0)
}

/// The command and everything below it, by the names of their pages.
fn pages(name: &str, command: &clap::Command) -> Vec<(String, clap::Command)> {
    let mut found = vec![(name.to_owned(), command.clone().name(name.to_owned()))];
    for inner in command.get_subcommands() {
        if !inner.is_hide_set() && inner.get_name() != "help" {
            found.extend(pages(&format!("{name}-{}", inner.get_name()), inner));
        }
    }
    found
}

fn page(command: &clap::Command) -> Result<String> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut text)
        .context("cannot make the page")?;
    Ok(String::from_utf8(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_its_page() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = Options {
            folder: Some(folder.path().to_owned()),
        };
        perform(&options, crate::Arguments::command()).expect("written");
        let read = |name: &str| {
            let path = folder.path().join(name);
            std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        assert!(
            read("berth.1").contains("berth\\-run(1)"),
            "{}",
            read("berth.1")
        );
        assert!(read("berth-build.1").contains("build\\-context"));
        assert!(read("berth-network-create.1").contains(".TH"));
    }
}
