//! `/containers/{id}/exec` and `/exec`.

use super::containers::wanted_size;
use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::hijack::{self, StreamFormat};
use crate::serve::state::AppState;
use crate::serve::translate::{container_views, containers::tty_size};
use axum::body::Body;
use axum::extract::{FromRequest, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use engine::containers::ContainerError;
use engine::containers::output::Chunk;
use engine::execs::{ExecRequest, ExecService, ExecStartOptions, FailureCodes};
use engine::runtime::StreamKind;
use engine_api::ApiVersion;
use engine_api::containers::{ExecCreate, ExecStart};
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::mpsc;

type Execs = State<Arc<ExecService>>;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/containers/{id}/exec", post(create))
        .route("/exec/{id}/start", post(start))
        .route("/exec/{id}/resize", post(resize))
        .route("/exec/{id}/json", get(inspect))
}

async fn create(
    State(execs): Execs,
    Path(container): Path<String>,
    Json(body): Json<ExecCreate>,
) -> ApiResult<(StatusCode, Json<Value>)> {
    let request = ExecRequest {
        args: body.cmd.unwrap_or_default().0,
        env: body.env.unwrap_or_default(),
        working_directory: body.working_dir.unwrap_or_default(),
        user: body.user.unwrap_or_default(),
        tty: body.tty.unwrap_or(false),
        tty_size: body.console_size.as_deref().and_then(tty_size),
        attach_stdin: body.attach_stdin.unwrap_or(false),
        attach_stdout: body.attach_stdout.unwrap_or(false),
        attach_stderr: body.attach_stderr.unwrap_or(false),
        privileged: body.privileged.unwrap_or(false),
        detach_keys: body.detach_keys.unwrap_or_default(),
    };
    let id = execs.create(&container, request)?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))))
}

async fn start(
    State(execs): Execs,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    request: Request,
) -> ApiResult<Response> {
    let (parts, body) = request.into_parts();
    let body = <Option<Json<ExecStart>>>::from_request(Request::new(body), &()).await?;
    let body = body.map(|Json(body)| body).unwrap_or_default();
    let options = ExecStartOptions {
        tty_size: body.console_size.as_deref().and_then(tty_size),
        failures: match version.tells_missing_programs_of_execs() {
            true => FailureCodes::ByReason,
            false => FailureCodes::Alike,
        },
    };
    if body.detach.unwrap_or(false) {
        execs.start_detached(&id, options).await?;
        return Ok(StatusCode::OK.into_response());
    }
    let claim = execs.claim(&id)?;
    // As in Docker, the client says here whether it reads a terminal's raw stream; docker-py leaves it out and reads frames
    // of a terminal, too.
    let format = StreamFormat::of_terminal(body.tty.unwrap_or(false));
    let request = Request::from_parts(parts, Body::empty());
    let (response, connection) = hijack::upgrade(request, format.content_type(version));
    tokio::spawn(async move {
        // The process is started when the head is out: clients that read it through a buffer (docker-py) would lose output
        // that comes in the same packet.
        let Ok(hijacked) = connection.await else {
            return;
        };
        let (stdin, output) = match execs.start_attached(claim, options).await {
            Ok(io) => (io.stdin, io.output),
            // As in Docker, an attached client reads in the stream of a program that could not be started, and gets its
            // exit code (126, 127) where it asks for that of any program.
            Err(error) => (None, one_line(&error)),
        };
        hijack::pump(hijacked, format, stdin, output).await;
    });
    Ok(response)
}

fn one_line(error: &ContainerError) -> mpsc::Receiver<Chunk> {
    let (sender, receiver) = mpsc::channel(1);
    let line = Bytes::from(format!("{error}\r\n"));
    sender
        .try_send((StreamKind::Stdout, line))
        .expect("the channel is empty");
    receiver
}

async fn resize(
    State(execs): Execs,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<StatusCode> {
    execs.resize(&id, wanted_size(&query)?).await?;
    Ok(StatusCode::OK)
}

async fn inspect(State(execs): Execs, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    Ok(Json(container_views::exec(&execs.inspect(&id)?)))
}
