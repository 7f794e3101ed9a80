//! `berth diff`

use crate::engine::{Engine, escape};
use anyhow::Result;

#[derive(clap::Args)]
#[command(
    after_help = "Each line is A (added), C (changed) or D (deleted) and a path. Volumes and binds are not looked at.

'berth commit' makes an image of these changes, 'berth export' writes the whole file system."
)]
pub(crate) struct Options {
    container: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let path = format!("/containers/{}/changes", escape(&options.container));
    let changes = engine.get(&path).await?;
    let mut text = String::new();
    for change in changes.as_array().into_iter().flatten() {
        let letter = match change["Kind"].as_u64() {
            Some(1) => 'A',
            Some(2) => 'D',
            _ => 'C',
        };
        text.push_str(&format!(
            "{letter} {}\n",
            change["Path"].as_str().unwrap_or_default()
        ));
    }
    crate::show::print(&text)?;
    Ok(0)
}
