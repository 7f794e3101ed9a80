//! `berth exec`

use crate::engine::{Engine, escape};
use crate::{parse, streams};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do not wait for the program
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable: NAME=value, or NAME to pass ours on
    #[arg(short, long)]
    env: Vec<String>,
    /// Working directory
    #[arg(short, long, default_value = "")]
    workdir: String,
    /// User name or number, and group: user[:group]
    #[arg(short, long, default_value = "")]
    user: String,
    /// Give the program all capabilities
    #[arg(long)]
    privileged: bool,
    /// Keys that detach from the terminal
    #[arg(long)]
    detach_keys: Option<String>,
    container: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(crate) async fn perform(engine: &Engine, options: Options) -> Result<u8> {
    if options.tty && options.interactive && !options.detach && !streams::stdin_is_terminal() {
        bail!("the input device is not a TTY: leave out -t, or run berth in a terminal");
    }
    let variables: Vec<Option<String>> = options
        .env
        .iter()
        .map(|text| parse::variable(text))
        .collect::<Result<_>>()?;
    let mut body = json!({
        "AttachStdin": options.interactive && !options.detach,
        "AttachStdout": !options.detach,
        "AttachStderr": !options.detach,
        "Tty": options.tty,
        "Env": variables.into_iter().flatten().collect::<Vec<_>>(),
        "Cmd": options.command,
        "Privileged": options.privileged,
        "User": options.user,
        "WorkingDir": options.workdir,
    });
    if let Some(keys) = &options.detach_keys {
        body["DetachKeys"] = Value::from(keys.as_str());
    }
    let created = engine
        .post(
            &format!("/containers/{}/exec", escape(&options.container)),
            Some(&body),
        )
        .await?;
    let id = created["Id"]
        .as_str()
        .context("the engine gave the exec no id")?
        .to_owned();
    let start = json!({ "Detach": options.detach, "Tty": options.tty });
    if options.detach {
        engine
            .post(&format!("/exec/{id}/start"), Some(&start))
            .await?;
        return Ok(0);
    }
    let stream = engine
        .hijack(&format!("/exec/{id}/start"), Some(&start))
        .await?;
    let terminal = options.tty && streams::stdin_is_terminal();
    if terminal && options.interactive {
        streams::raw_terminal()?;
    }
    let resize = format!("/exec/{id}/resize");
    tokio::select! {
        joined = streams::join(stream, !options.tty, options.interactive) => joined?,
        () = streams::follow_window(engine, &resize), if terminal => {}
    }
    streams::restore_terminal();
    let state = engine.get(&format!("/exec/{id}/json")).await?;
    Ok(state["ExitCode"]
        .as_u64()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(0))
}
