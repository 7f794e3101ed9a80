//! `/containers/{id}/attach` and `/containers/{id}/attach/ws`: a client at a container's standard streams.

use crate::serve::error::ApiResult;
use crate::serve::extract::Query;
use crate::serve::hijack::{self, PumpEnd, StreamFormat};
use crate::serve::state::AppState;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use engine::containers::ContainerService;
use engine::containers::attach::{AttachOptions, Attachment};
use engine::containers::logs::LogStream;
use engine::containers::output::Chunk;
use engine_api::ApiVersion;
use futures_util::{SinkExt, StreamExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;

type Containers = State<Arc<ContainerService>>;

/// Between the answer's head and what was logged before: clients that read the head through a buffer (docker-py) lose what
/// comes in the same packet.
const AFTER_HEAD: Duration = Duration::from_millis(10);

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/containers/{id}/attach", post(attach))
        .route("/containers/{id}/attach/ws", get(attach_websocket))
}

fn options(query: &Query) -> AttachOptions {
    AttachOptions {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        stream: query.flag("stream"),
        logs: query.flag("logs"),
        detach_keys: query.text("detachKeys").unwrap_or_default().to_owned(),
    }
}

async fn attach(
    State(containers): Containers,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
    request: Request,
) -> ApiResult<Response> {
    let mut attachment = containers.attach(&id, &options(&query)).await?;
    let format = StreamFormat::of_terminal(attachment.tty);
    let (response, connection) = hijack::upgrade(request, format.content_type(version));
    tokio::spawn(async move {
        let Ok(hijacked) = connection.await else {
            return;
        };
        if attachment.past.is_some() {
            tokio::time::sleep(AFTER_HEAD).await;
        }
        let output = output(&mut attachment);
        let stdin = attachment.stdin.take();
        let end = hijack::pump(hijacked, format, stdin, output).await;
        left(&containers, &attachment, end);
    });
    Ok(response)
}

/// Each message is a piece of input or output; stdout and stderr are not told apart.
async fn attach_websocket(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let attachment = containers.attach(&id, &options(&query)).await?;
    let upgrade = upgrade.map_err(|why| {
        crate::serve::error::ApiError::invalid(format!("this is not a websocket's request: {why}"))
    })?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        let mut attachment = attachment;
        let end = converse(socket, &mut attachment).await;
        left(&containers, &attachment, end);
    }))
}

async fn converse(socket: WebSocket, attachment: &mut Attachment) -> PumpEnd {
    let mut output = output(attachment);
    let mut stdin = attachment.stdin.take();
    let (mut sender, mut receiver) = socket.split();
    // Input has a task of its own: a process that does not read its input must not hold up its output.
    let mut input = tokio::spawn(async move {
        while let Some(Ok(message)) = receiver.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                // Answered by the library.
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if let Some(process) = &stdin
                && process.send(data).await.is_err()
            {
                // It reads no more; the client may go on listening.
                stdin = None;
            }
        }
    });
    let end = loop {
        tokio::select! {
            chunk = output.recv() => {
                let Some((_, data)) = chunk else { break PumpEnd::Output };
                if sender.send(Message::Binary(data)).await.is_err() {
                    break PumpEnd::Client;
                }
            }
            // A websocket has no half that could go on alone.
            _ = &mut input => break PumpEnd::Client,
        }
    };
    input.abort();
    let _ = sender.close().await;
    end
}

/// Tells of a client that went before the output ended.
fn left(containers: &ContainerService, attachment: &Attachment, end: PumpEnd) {
    if end == PumpEnd::Client || attachment.detached.load(Ordering::Relaxed) {
        containers.detached(&attachment.container);
    }
}

/// First what was logged, then what comes.
fn output(attachment: &mut Attachment) -> mpsc::Receiver<Chunk> {
    let (past, live) = (attachment.past.take(), attachment.output.take());
    let nothing = || mpsc::channel(1).1;
    match past {
        None => live.unwrap_or_else(nothing),
        Some(past) => joined(past, live.unwrap_or_else(nothing)),
    }
}

fn joined(mut past: LogStream, mut live: mpsc::Receiver<Chunk>) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(Ok(entries)) = past.entries.recv().await {
            for entry in entries {
                if sender.send((entry.stream, entry.line)).await.is_err() {
                    return;
                }
            }
        }
        while let Some(chunk) = live.recv().await {
            if sender.send(chunk).await.is_err() {
                return;
            }
        }
    });
    receiver
}
