//! `berth run`: create, attach, start, wait.

use super::create::Container;
use crate::engine::{Engine, query};
use crate::{commands, show, streams};
use anyhow::{Result, bail};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Pass signals on to the program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    sig_proxy: bool,
    /// Keys that detach from the terminal
    #[arg(long)]
    detach_keys: Option<String>,
    #[command(flatten)]
    container: Container,
}

pub(crate) async fn perform(engine: &Engine, options: Options) -> Result<u8> {
    let container = &options.container;
    if options.detach && container.names_streams() {
        bail!("conflicting options: cannot specify both --attach and --detach");
    }
    let attached = container.attached();
    let input = attached.stdin && container.interactive;
    if container.tty && input && !options.detach && !streams::stdin_is_terminal() {
        bail!("the input device is not a TTY: leave out -t, or run berth in a terminal");
    }
    let id = container.create(engine, !options.detach).await?;
    if options.detach {
        engine
            .post(&format!("/containers/{id}/start"), None)
            .await?;
        show::print(&format!("{id}\n"))?;
        return Ok(0);
    }
    // Attached before it starts, so that its first byte is not lost; waited for before it starts, so that its end
    // is not missed.
    let given = |yes: bool| u8::from(yes).to_string();
    let mut pairs = vec![
        ("stream", "1".to_owned()),
        ("stdout", given(attached.stdout)),
        ("stderr", given(attached.stderr)),
        ("stdin", given(input)),
    ];
    pairs.extend(options.detach_keys.clone().map(|keys| ("detachKeys", keys)));
    let stream = engine
        .hijack(&format!("/containers/{id}/attach{}", query(&pairs)), None)
        .await?;
    let condition = if container.rm { "removed" } else { "next-exit" };
    let wait_path = format!("/containers/{id}/wait?condition={condition}");
    let mut waited = std::pin::pin!(engine.stream(http::Method::POST, &wait_path, &[]));
    // The engine answers with headers at once and with the body at the end: from here on nothing is missed.
    let exit = waited.as_mut().await?;
    let terminal = container.tty && streams::stdin_is_terminal();
    if terminal && input {
        streams::raw_terminal()?;
    }
    engine
        .post(&format!("/containers/{id}/start"), None)
        .await?;
    let resize = format!("/containers/{id}/resize");
    tokio::select! {
        joined = streams::join(stream, !container.tty, input) => joined?,
        () = streams::follow_window(engine, &resize), if terminal => {}
        () = streams::forward_signals(engine, &id), if options.sig_proxy && !container.tty => {}
    }
    streams::restore_terminal();
    commands::attach::exit_code(engine, &id, container.tty, exit).await
}
