//! `/build`, `/build/prune`, and what only `berth` uses: `/build/contents`, `/build/ssh/{id}`.
//!
//! ```text
//! parameters, preamble -> BuildRequest     body, remote= -> Context     BuildService::build -> events -> lines
//! ```

use super::drained;
use super::images::{AbortOnDrop, json_lines};
use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::hijack;
use crate::serve::ssh_agents::SshAgents;
use crate::serve::state::AppState;
use crate::serve::translate::builds as wire;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::post;
use axum::{Extension, Router};
use bytes::{Bytes, BytesMut};
use engine::builds::BuildService;
use engine::builds::classic::Classic;
use engine::builds::error::BuildError;
use engine::builds::event::{BuildEvent, BuildSink};
use engine::builds::request::{BuildOutcome, BuildRequest, DockerfileSource, NamedContext};
use engine::builds::sources::GitAddress;
use engine::error::Class;
use engine::images::ByteStream;
use engine_api::ApiVersion;
use engine_api::builds::{
    BUILD_CONTENT_TYPE, BuildPreamble, ContentsBody, ContextBody, PREAMBLE_MAX,
};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/build", post(build))
        .route("/build/prune", post(prune))
        .route("/build/contents", post(missing_contents))
        .route("/build/context/{token}", post(offer_context))
        .route("/build/ssh/{id}", post(offer_ssh_agent))
}

async fn build(
    State(builds): State<BuildService>,
    State(agents): State<Arc<SshAgents>>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
    headers: HeaderMap,
    request: Request,
) -> ApiResult<Response> {
    let mut body: ByteStream = Box::pin(
        request
            .into_body()
            .into_data_stream()
            .map(|piece| piece.map_err(std::io::Error::other)),
    );
    let mut wanted = wire::request(&query)?;
    wanted.credentials = wire::credentials(&headers);
    let preamble = match is_berths(&headers) {
        true => take_preamble(&mut body).await?,
        false => BuildPreamble::default(),
    };
    if is_berths(&headers) {
        // As with BuildKit, the engine's own cache counts, too.
        wanted.only_cache_from = false;
    }
    wire::add_preamble(&mut wanted, &preamble)?;
    add_named_contexts(&builds, &mut wanted, &preamble).await?;
    wanted.ssh = agents.take(&preamble.ssh).await?;
    let form = match is_berths(&headers) {
        true => Form::Events,
        false if query.flag("q") => Form::Quiet(Vec::new()),
        false => Form::Lines,
    };
    add_context(
        &builds,
        &mut wanted,
        query.text("remote"),
        body,
        preamble.keep_contents,
    )
    .await
    .map_err(|error| form.refusal(&error))?;
    let (sink, events) = BuildSink::new();
    let (finish, finished) = oneshot::channel();
    let task = tokio::spawn(async move {
        // The receiver is gone only if the client is.
        let _ = finish.send(builds.build(wanted, sink).await);
    });
    let mut running = Running {
        form,
        version,
        classic: Classic::new(),
        events,
        finished: Some(finished),
        ready: VecDeque::new(),
        files: None,
        _task: AbortOnDrop(task),
    };
    running.begin().await?;
    Ok(json_lines(Body::from_stream(futures_util::stream::unfold(
        running,
        |mut running| async move { running.next().await.map(|piece| (piece, running)) },
    ))))
}

fn is_berths(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == BUILD_CONTENT_TYPE)
}

/// Reads the line in front of the context.
async fn take_preamble(body: &mut ByteStream) -> ApiResult<BuildPreamble> {
    let mut line = BytesMut::new();
    let end = loop {
        let piece = body
            .next()
            .await
            .ok_or_else(|| ApiError::invalid("the preamble of the build has no end"))?
            .map_err(|error| ApiError::invalid(format!("cannot read the request: {error}")))?;
        let before = line.len();
        line.extend_from_slice(&piece);
        if let Some(at) = piece.iter().position(|byte| *byte == b'\n') {
            break before + at;
        }
        if line.len() > PREAMBLE_MAX {
            return Err(ApiError::invalid(format!(
                "the preamble of the build is larger than {PREAMBLE_MAX} bytes"
            )));
        }
    };
    let rest = line.split_off(end + 1).freeze();
    // What serde finds wrong could have a secret in it.
    let preamble = serde_json::from_slice(&line).map_err(|error| {
        ApiError::invalid(format!(
            "the preamble of the build is not understood (column {}): client and engine differ in version",
            error.column()
        ))
    })?;
    let body_after = std::mem::replace(body, Box::pin(futures_util::stream::empty()));
    *body = Box::pin(futures_util::stream::iter([Ok(rest)]).chain(body_after));
    Ok(preamble)
}

/// Where the files come from: `remote` or the body. moby, `remotecontext/detect.go`.
async fn add_context(
    builds: &BuildService,
    wanted: &mut BuildRequest,
    remote: Option<&str>,
    body: ByteStream,
    keep_contents: bool,
) -> Result<(), BuildError> {
    let Some(remote) = remote else {
        wanted.context = Some(match keep_contents {
            true => builds.context_from_tar_keeping(body).await?,
            false => builds.context_from_tar(body).await?,
        });
        return Ok(());
    };
    // A body beside a remote context is nobody's: it is read to its end all the same.
    drained::split(body).1.drain().await;
    if remote == "client-session" {
        return Err(BuildError::Invalid(
            "experimental session with v1 builder is no longer supported, use builder version v2 (BuildKit) instead"
                .to_owned(),
        ));
    }
    if let Some(address) = GitAddress::parse(remote) {
        address.check()?;
        wanted.context = Some(builds.context_from_git(&address).await?);
        return Ok(());
    }
    if !remote.starts_with("http://") && !remote.starts_with("https://") {
        return Err(BuildError::Invalid(format!(
            "remoteURL ({remote}) could not be recognized as URL"
        )));
    }
    let (context, text) = builds.context_from_url(remote).await?;
    wanted.context = context;
    if let Some(text) = text {
        wanted.dockerfile = DockerfileSource::Text(text);
    }
    Ok(())
}

/// How a build is told.
enum Form {
    /// As dockerd's classic builder does.
    Lines,
    /// `q`: only the id, unless something fails; then what was held back, too.
    Quiet(Vec<Bytes>),
    /// Event by event, for `berth`.
    Events,
}

impl Form {
    fn refusal(&self, error: &BuildError) -> ApiError {
        match self {
            Form::Events => wire::refusal_with_place(error),
            Form::Lines | Form::Quiet(_) => wire::refusal(error),
        }
    }
}

/// A build whose lines are read by a client. When it is dropped, the build is cancelled.
struct Running {
    form: Form,
    version: ApiVersion,
    classic: Classic,
    events: mpsc::Receiver<BuildEvent>,
    finished: Option<oneshot::Receiver<Result<BuildOutcome, BuildError>>>,
    ready: VecDeque<Bytes>,
    /// Comes after the lines.
    files: Option<ByteStream>,
    _task: AbortOnDrop,
}

impl Running {
    /// Waits for the first line: an error before it is the answer.
    async fn begin(&mut self) -> ApiResult<()> {
        while self.ready.is_empty() && self.finished.is_some() {
            let held_back = matches!(&self.form, Form::Quiet(lines) if !lines.is_empty());
            match self.step().await {
                Err(error) if self.ready.is_empty() && !held_back => {
                    return Err(self.form.refusal(&error));
                }
                Err(error) => self.fail(&error),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(Ok(line));
            }
            if self.finished.is_none() {
                return self.files.as_mut()?.next().await;
            }
            if let Err(error) = self.step().await {
                self.fail(&error);
            }
        }
    }

    /// Takes an event, or the outcome once there are no more.
    async fn step(&mut self) -> Result<(), BuildError> {
        if let Some(event) = self.events.recv().await {
            self.take(event);
            return Ok(());
        }
        let Some(finished) = self.finished.take() else {
            return Ok(());
        };
        let outcome = finished.await.unwrap_or(Err(BuildError::Cancelled));
        for message in self.classic.finish() {
            self.tell(wire::classic(&message, self.version));
        }
        let outcome = outcome?;
        if let (Form::Quiet(_), Some(image)) = (&self.form, &outcome.image) {
            self.ready.push_back(wire::stream(&format!("{image}\n")));
        }
        if outcome.files.is_some() {
            self.ready.push_back(wire::files_follow());
            self.files = outcome.files;
        }
        Ok(())
    }

    fn take(&mut self, event: BuildEvent) {
        if let Form::Events = self.form {
            self.ready.push_back(wire::event(&event));
            return;
        }
        for message in self.classic.event(event) {
            self.tell(wire::classic(&message, self.version));
        }
    }

    fn tell(&mut self, line: Option<Bytes>) {
        match &mut self.form {
            Form::Quiet(held_back) => held_back.extend(line),
            Form::Lines | Form::Events => self.ready.extend(line),
        }
    }

    fn fail(&mut self, error: &BuildError) {
        if let Form::Quiet(held_back) = &mut self.form {
            self.ready.extend(held_back.drain(..));
        }
        self.ready.push_back(match self.form {
            Form::Events => wire::failure_with_place(error),
            Form::Lines | Form::Quiet(_) => wire::failure(error),
        });
    }
}

async fn prune(State(builds): State<BuildService>, query: Query) -> ApiResult<Json<Value>> {
    let pruned = builds
        .prune(wire::prune(&query)?)
        .await
        .map_err(|error| wire::refusal(&error))?;
    Ok(Json(json!({
        // Docker has null and not an empty list here.
        "CachesDeleted": (!pruned.deleted.is_empty()).then_some(pruned.deleted),
        "SpaceReclaimed": pruned.reclaimed,
    })))
}

/// Most digests one request may ask about.
const DIGESTS_MAX: usize = 50_000;

/// Which contents of files are not kept here from earlier contexts, so that they must be sent.
async fn missing_contents(
    State(builds): State<BuildService>,
    Json(body): Json<ContentsBody>,
) -> ApiResult<Json<Value>> {
    let digests = body.digests.unwrap_or_default();
    if digests.len() > DIGESTS_MAX {
        return Err(ApiError::invalid(format!(
            "more than {DIGESTS_MAX} digests: ask in parts"
        )));
    }
    let missing = builds
        .missing_contents(digests)
        .await
        .map_err(|error| wire::refusal(&error))?;
    Ok(Json(json!({ "Missing": missing })))
}

async fn add_named_contexts(
    builds: &BuildService,
    wanted: &mut BuildRequest,
    preamble: &BuildPreamble,
) -> ApiResult<()> {
    for (name, body) in &preamble.contexts {
        let named = match body {
            ContextBody::Image(image) => NamedContext::Image(image.clone()),
            ContextBody::Token(token) => {
                let context = builds.take_offered(token).ok_or_else(|| {
                    ApiError::invalid(format!("the files of the context {name:?} have not come"))
                })?;
                NamedContext::Files(context)
            }
            ContextBody::Url(url) => {
                let context = builds.context_from_address(url).await;
                NamedContext::Files(context.map_err(|error| wire::refusal(&error))?)
            }
        };
        wanted
            .add_context(name, named)
            .map_err(|error| ApiError::invalid(format!("invalid context name {name}: {error}")))?;
    }
    Ok(())
}

/// The files of a further context, for a build that is to come.
async fn offer_context(
    State(builds): State<BuildService>,
    Path(token): Path<String>,
    request: Request,
) -> ApiResult<StatusCode> {
    check_token(&token)?;
    let body = request.into_body().into_data_stream();
    let body: ByteStream = Box::pin(body.map(|piece| piece.map_err(std::io::Error::other)));
    builds
        .offer_context(token, body)
        .await
        .map_err(|error| wire::refusal(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn check_token(token: &str) -> ApiResult<()> {
    match token.len() >= 16 && token.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => Ok(()),
        false => Err(ApiError::new(
            Class::Invalid,
            "a token has at least 16 letters and digits",
        )),
    }
}

/// A connection that leads to the client's ssh agent, for a build that is to come.
async fn offer_ssh_agent(
    State(agents): State<Arc<SshAgents>>,
    Path(token): Path<String>,
    request: Request,
) -> ApiResult<Response> {
    check_token(&token)?;
    agents.expect(&token)?;
    let kind = HeaderValue::from_static("application/vnd.docker.raw-stream");
    let (response, connection) = hijack::upgrade(request, kind);
    tokio::spawn(async move {
        if let Ok(connection) = connection.await {
            agents.offer(&token, connection);
        }
    });
    Ok(response)
}

#[cfg(test)]
mod tests;
