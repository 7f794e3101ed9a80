//! Joins this terminal's streams with a hijacked connection: raw mode, window size, signals, and the framing that keeps
//! standard output and standard error apart.

use crate::engine::{Engine, query};
use anyhow::{Context, Result, bail};
use std::io::IsTerminal;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest frame an engine may announce: a broken stream must not make us allocate gigabytes.
const MAX_FRAME: usize = 64 * 1024 * 1024;

/// Puts the terminal in raw mode.
pub(crate) fn raw_terminal() -> Result<()> {
    crossterm::terminal::enable_raw_mode().context("cannot set the terminal to raw mode")
}

/// Gives the terminal back; harmless when it was never taken.
pub(crate) fn restore_terminal() {
    if crossterm::terminal::is_raw_mode_enabled().unwrap_or(false) {
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    std::io::stdin().is_terminal()
}

/// Copies the engine's output to ours until it ends. With a terminal there are no frames.
pub(crate) async fn copy_output(mut from: impl AsyncRead + Unpin, framed: bool) -> Result<()> {
    let mut stdout = tokio::io::stdout();
    if !framed {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let count = from.read(&mut buffer).await.context("the stream broke")?;
            if count == 0 {
                return Ok(());
            }
            stdout.write_all(&buffer[..count]).await?;
            stdout.flush().await?;
        }
    }
    let mut stderr = tokio::io::stderr();
    let mut header = [0u8; 8];
    let mut payload = Vec::new();
    loop {
        match from.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("the stream broke"),
        }
        let size = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        if size > MAX_FRAME {
            bail!("the engine announced a frame of {size} bytes: this is not a container's output");
        }
        payload.resize(size, 0);
        from.read_exact(&mut payload)
            .await
            .context("the stream broke")?;
        if header[0] == 2 {
            stderr.write_all(&payload).await?;
            stderr.flush().await?;
        } else {
            stdout.write_all(&payload).await?;
            stdout.flush().await?;
        }
    }
}

/// Copies our standard input to the engine, then says that it ended.
pub(crate) async fn copy_input(mut to: impl AsyncWrite + Unpin) {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
        // The container may be gone: then nobody reads, and the output tells the rest.
        if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Joins both directions until the output ends.
pub(crate) async fn join<S>(stream: S, framed: bool, input: bool) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let feeder = input.then(|| tokio::spawn(copy_input(writer)));
    let result = copy_output(reader, framed).await;
    if let Some(feeder) = feeder {
        feeder.abort();
    }
    result
}

/// Rows and columns of this terminal as a query string; `None` without one.
pub(crate) fn terminal_size() -> Option<(u16, u16)> {
    crossterm::terminal::size()
        .ok()
        .map(|(columns, rows)| (rows, columns))
        .filter(|(rows, _)| *rows > 0)
}

/// Tells the engine our window's size now and whenever it changes. `path` ends in `/resize`.
pub(crate) async fn follow_window(engine: &Engine, path: &str) {
    let mut known = None;
    loop {
        let size = terminal_size();
        if size != known
            && let Some((rows, columns)) = size
        {
            let query = query(&[("h", rows.to_string()), ("w", columns.to_string())]);
            // A process that has just begun may not have its terminal yet: the next round tells it.
            if engine.post(&format!("{path}{query}"), None).await.is_ok() {
                known = size;
            }
        }
        window_changed(known.is_some()).await;
    }
}

#[cfg(unix)]
async fn window_changed(told: bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = if told { 3_600_000 } else { 50 };
    match signal(SignalKind::window_change()) {
        Ok(mut changes) => {
            tokio::select! {
                _ = changes.recv() => {}
                () = tokio::time::sleep(std::time::Duration::from_millis(wait)) => {}
            }
        }
        Err(_) => std::future::pending().await,
    }
}

#[cfg(not(unix))]
async fn window_changed(_told: bool) {
    tokio::time::sleep(std::time::Duration::from_millis(250)).await;
}

/// Passes signals that reach us on to a container until the returned future is dropped.
#[cfg(unix)]
pub(crate) async fn forward_signals(engine: &Engine, container: &str) {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [
        (SignalKind::interrupt(), "INT"),
        (SignalKind::terminate(), "TERM"),
        (SignalKind::hangup(), "HUP"),
        (SignalKind::quit(), "QUIT"),
        (SignalKind::user_defined1(), "USR1"),
        (SignalKind::user_defined2(), "USR2"),
    ];
    let (sender, mut receiver) = tokio::sync::mpsc::channel(8);
    for (kind, name) in kinds {
        let Ok(mut signals) = signal(kind) else {
            continue;
        };
        let sender = sender.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() && sender.send(name).await.is_ok() {}
        });
    }
    while let Some(name) = receiver.recv().await {
        // A container that has just ended cannot be told any more.
        let _ = engine
            .post(&format!("/containers/{container}/kill?signal={name}"), None)
            .await;
    }
}

#[cfg(not(unix))]
pub(crate) async fn forward_signals(engine: &Engine, container: &str) {
    while tokio::signal::ctrl_c().await.is_ok() {
        let _ = engine
            .post(&format!("/containers/{container}/kill?signal=INT"), None)
            .await;
    }
}
