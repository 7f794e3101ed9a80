//! `berth attach`

use crate::engine::{Engine, escape, query};
use crate::streams;
use anyhow::{Context, Result, bail};
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;
use std::time::Duration;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Do not attach our standard input
    #[arg(long)]
    no_stdin: bool,
    /// Keys that detach from the terminal
    #[arg(long)]
    detach_keys: Option<String>,
    /// Pass signals on to the program
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    sig_proxy: bool,
    container: String,
}

pub(crate) async fn perform(engine: &Engine, options: &Options) -> Result<u8> {
    let name = escape(&options.container);
    let container = engine.get(&format!("/containers/{name}/json")).await?;
    let state = &container["State"];
    if state["Paused"] == true {
        bail!("you cannot attach to a paused container, unpause it first");
    }
    if state["Restarting"] == true {
        bail!("you cannot attach to a restarting container, wait until it is running");
    }
    if state["Running"] != true {
        bail!("you cannot attach to a stopped container, start it first");
    }
    let joined = Joined {
        input: !options.no_stdin,
        detach_keys: options.detach_keys.clone(),
        signals: options.sig_proxy,
    };
    // Waited for before we attach, so that an end in between is not missed.
    let wait = format!("/containers/{name}/wait");
    let exit = engine.stream(Method::POST, &wait, &[]).await?;
    let stream = joined.open(engine, &name, &container).await?;
    joined.run(engine, &name, &container, stream).await?;
    let tty = container["Config"]["Tty"] == true;
    exit_code(engine, &name, tty, exit).await
}

/// A client of a container's streams; `start -a` is one, too.
pub(super) struct Joined {
    pub(super) input: bool,
    pub(super) detach_keys: Option<String>,
    pub(super) signals: bool,
}

type Stream = hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>;

impl Joined {
    pub(super) async fn open(
        &self,
        engine: &Engine,
        name: &str,
        container: &Value,
    ) -> Result<Stream> {
        let input = self.input && container["Config"]["OpenStdin"] == true;
        let mut pairs = vec![
            ("stream", "1".to_owned()),
            ("stdout", "1".to_owned()),
            ("stderr", "1".to_owned()),
            ("stdin", u8::from(input).to_string()),
        ];
        pairs.extend(self.detach_keys.clone().map(|keys| ("detachKeys", keys)));
        engine
            .hijack(&format!("/containers/{name}/attach{}", query(&pairs)), None)
            .await
    }

    /// Until the output ends, or the keys are typed.
    pub(super) async fn run(
        &self,
        engine: &Engine,
        name: &str,
        container: &Value,
        stream: Stream,
    ) -> Result<()> {
        let tty = container["Config"]["Tty"] == true;
        let input = self.input && container["Config"]["OpenStdin"] == true;
        let terminal = tty && streams::stdin_is_terminal();
        if terminal && input {
            streams::raw_terminal()?;
        }
        let resize = format!("/containers/{name}/resize");
        let ended = tokio::select! {
            joined = streams::join(stream, !tty, input) => joined,
            () = streams::follow_window(engine, &resize), if terminal => Ok(()),
            () = streams::forward_signals(engine, name), if self.signals && !tty => Ok(()),
        };
        streams::restore_terminal();
        ended
    }
}

/// How long the end of a terminal's stream waits to be the end of its container.
const DETACHED_AFTER: Duration = Duration::from_millis(500);

/// What the engine's wait answer tells. A terminal may have been left by its keys: then the container goes on, and the code
/// is 0.
pub(super) async fn exit_code(
    engine: &Engine,
    id: &str,
    tty: bool,
    wait: hyper::body::Incoming,
) -> Result<u8> {
    let mut answer = std::pin::pin!(wait.collect());
    let bytes = loop {
        let patience = if tty { DETACHED_AFTER } else { Duration::MAX };
        match tokio::time::timeout(patience, answer.as_mut()).await {
            Ok(bytes) => break bytes,
            Err(_) => {
                let container = engine.get(&format!("/containers/{id}/json")).await?;
                if container["State"]["Running"] == true {
                    return Ok(0);
                }
            }
        }
    };
    let bytes = bytes
        .context("the engine hung up before the container ended")?
        .to_bytes();
    let answer: Value =
        serde_json::from_slice(&bytes).context("the engine's answer is not JSON")?;
    if let Some(message) = answer["Error"]["Message"]
        .as_str()
        .filter(|message| !message.is_empty())
    {
        bail!("{message}");
    }
    let code = answer["StatusCode"]
        .as_i64()
        .context("the engine told no exit code")?;
    Ok(u8::try_from(code).unwrap_or(125))
}
