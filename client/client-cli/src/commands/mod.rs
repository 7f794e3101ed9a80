//! One file a verb. Each has its `Options` and a `perform` that returns the exit code.

pub(crate) mod attach;
pub(crate) mod build;
pub(crate) mod builder;
pub(crate) mod builder_prune;
pub(crate) mod commit;
pub(crate) mod container_prune;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod diff;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod export;
pub(crate) mod history;
pub(crate) mod image;
pub(crate) mod image_prune;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod logs;
pub(crate) mod man;
pub(crate) mod network;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod rename;
mod resources;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod search;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod unpause;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod volume;
mod volume_create;
mod volume_inspect;
mod volume_ls;
mod volume_prune;
mod volume_rm;
pub(crate) mod wait;

use anyhow::Result;

/// Does something to each of several things: the names that worked are printed, the errors of the others too.
pub(crate) async fn each<'a, F>(names: &'a [String], action: impl Fn(&'a str) -> F) -> Result<u8>
where
    F: Future<Output = Result<Option<String>>>,
{
    let mut code = 0;
    for name in names {
        match action(name).await {
            Ok(Some(text)) => crate::show::print(&format!("{text}\n"))?,
            Ok(None) => {}
            Err(error) => {
                eprintln!("berth: {error:#}");
                code = 1;
            }
        }
    }
    Ok(code)
}
