//! `/images/...`: pull, push, list, inspect, history, tag, remove, prune, save and load. What only asks a registry is in
//! `registries`.

use super::drained;
use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::AppState;
use crate::serve::translate::images as wire;
use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use engine::error::Class;
use engine::images::make::{ImportRequest, ImportSource};
use engine::images::reference::is_tag;
use engine::images::registry::Credentials;
use engine::images::{
    ByteStream, Digest, ImageError, ImageService, Platform, Progress, ProgressSink, PullRequest,
    PushRequest, Reference, ReferenceError, Removal,
};
use engine_api::ApiVersion;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::Value;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/create", post(create))
        .route("/images/get", get(save_many))
        .route("/images/load", post(load))
        .route("/images/prune", post(prune))
        // Names have slashes: `me/thing/json`. What comes last says what is wanted.
        .route(
            "/images/{*name}",
            get(get_one).post(post_one).delete(remove),
        )
}

/// Splits `me/thing/json` into name and verb.
fn name_and_verb(path: &str) -> ApiResult<(&str, &str)> {
    path.rsplit_once('/')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| ApiError::new(Class::NotFound, "page not found"))
}

async fn get_one(
    state: State<ImageService>,
    Path(path): Path<String>,
    version: Extension<ApiVersion>,
    query: Query,
) -> ApiResult<Response> {
    match name_and_verb(&path)? {
        (name, "json") => inspect(state, name, version, query).await,
        (name, "history") => history(state, name, &query),
        (name, "get") => save(&state.0, &[name.to_owned()], &query).await,
        _ => Err(ApiError::new(Class::NotFound, "page not found")),
    }
}

async fn post_one(
    State(images): State<ImageService>,
    Path(path): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Response> {
    match name_and_verb(&path)? {
        (name, "tag") => tag(&images, name, &query).await,
        (name, "push") => push(images.clone(), name, &query, &headers).await,
        _ => Err(ApiError::new(Class::NotFound, "page not found")),
    }
}

async fn list(
    State(images): State<ImageService>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> ApiResult<Json<Value>> {
    let filter = wire::filter(&query)?;
    let list = images.list(&filter)?;
    let shared = query.flag("shared-size").then(|| images.shared_sizes());
    Ok(Json(Value::Array(
        list.iter()
            .map(|image| {
                let shared = shared
                    .as_ref()
                    .map(|sizes| sizes.get(&image.id).copied().unwrap_or(0));
                wire::summary(image, shared, version)
            })
            .collect(),
    )))
}

async fn prune(State(images): State<ImageService>, query: Query) -> ApiResult<Json<Value>> {
    let pruned = images.prune(&wire::prune_filter(&query)?).await?;
    let removed: Vec<Value> = pruned.removed.iter().map(wire::removed).collect();
    Ok(Json(serde_json::json!({
        // Docker has null and not an empty list here.
        "ImagesDeleted": (!removed.is_empty()).then_some(removed),
        "SpaceReclaimed": pruned.reclaimed,
    })))
}

async fn push(
    images: ImageService,
    name: &str,
    query: &Query,
    headers: &HeaderMap,
) -> ApiResult<Response> {
    let reference = Reference::parse(name).map_err(ImageError::from)?;
    if reference.digest.is_some() {
        return Err(ApiError::invalid("cannot push a digest reference"));
    }
    // A tag in the path is what old clients send.
    let tag = query.text("tag").map(str::to_owned).or(reference.tag);
    if let Some(tag) = &tag
        && !is_tag(tag)
    {
        return Err(ImageError::from(ReferenceError::TagFormat).into());
    }
    let request = PushRequest {
        credentials: credentials(headers, reference.repository.domain())?,
        repository: reference.repository,
        tag,
        platform: platform(query)?,
    };
    stream(move |progress| async move { images.push(request, &progress).await }).await
}

async fn inspect(
    State(images): State<ImageService>,
    name: &str,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> ApiResult<Response> {
    // `manifests` is passed over, as by a dockerd that keeps one platform of an image: it says "may be omitted".
    let image = images.inspect_on(name, platform(&query)?.as_ref())?;
    let driver = images.driver_data(&image).await;
    Ok(Json(wire::inspect(&image, driver, version)).into_response())
}

fn history(State(images): State<ImageService>, name: &str, query: &Query) -> ApiResult<Response> {
    let lines = images.history(name, platform(query)?.as_ref())?;
    let lines: Vec<Value> = lines.iter().map(wire::history).collect();
    Ok(Json(Value::Array(lines)).into_response())
}

async fn tag(images: &ImageService, name: &str, query: &Query) -> ApiResult<Response> {
    let repository = query.text("repo").unwrap_or_default();
    let mut target = Reference::parse(repository).map_err(ImageError::from)?;
    if let Some(tag) = query.text("tag") {
        target = target.repository.with_tag(tag).map_err(ImageError::from)?;
    }
    images.tag(name, &target).await?;
    Ok(StatusCode::CREATED.into_response())
}

async fn remove(
    State(images): State<ImageService>,
    Path(name): Path<String>,
    query: Query,
) -> ApiResult<Json<Value>> {
    let mut platforms = query.all("platforms");
    let platform = platforms.next().map(read_platform).transpose()?;
    if platforms.next().is_some() {
        return Err(ApiError::invalid("multiple platforms are not supported"));
    }
    let how = Removal {
        force: query.flag("force"),
        keep_parents: query.flag("noprune"),
        platform,
    };
    let removed = images.remove(&name, how).await?;
    Ok(Json(Value::Array(
        removed.iter().map(wire::removed).collect(),
    )))
}

async fn create(
    State(images): State<ImageService>,
    query: Query,
    headers: HeaderMap,
    request: Request,
) -> ApiResult<Response> {
    if let Some(source) = query.text("fromSrc") {
        return import(images, source, &query, request).await;
    }
    let reference = pulled_reference(
        query.text("fromImage").unwrap_or_default(),
        query.text("tag"),
    )?;
    let request = PullRequest {
        platform: platform(&query)?,
        credentials: credentials(&headers, reference.repository.domain())?,
        reference,
    };
    stream(move |progress| async move { images.pull(request, &progress).await }).await
}

async fn import(
    images: ImageService,
    source: &str,
    query: &Query,
    request: Request,
) -> ApiResult<Response> {
    let mut rest = None;
    let source = match source {
        "-" => {
            let (content, to_drain) = drained::split(body_of(request));
            rest = Some(to_drain);
            ImportSource::Stream(content)
        }
        url => ImportSource::Url(url.to_owned()),
    };
    let import = ImportRequest {
        source,
        name: super::commit::new_name(query)?,
        message: query.text("message").unwrap_or_default().to_owned(),
        changes: super::commit::changes(query),
        platform: platform(query)?,
    };
    stream(move |progress| async move {
        let outcome = images.import(import, &progress).await;
        if let (Err(_), Some(rest)) = (&outcome, rest) {
            rest.drain().await;
        }
        outcome
    })
    .await
}

/// What `fromImage` and `tag` mean together; `tag` may be a digest.
fn pulled_reference(image: &str, tag: Option<&str>) -> ApiResult<Reference> {
    let image = image.trim_end_matches(':');
    let reference = Reference::parse(image).map_err(ImageError::from)?;
    Ok(match tag {
        None => reference,
        Some(tag) => match Digest::parse(tag) {
            Some(digest) => reference.repository.with_digest(digest),
            None => reference
                .repository
                .with_tag(tag)
                .map_err(ImageError::from)?,
        },
    })
}

fn body_of(request: Request) -> ByteStream {
    let pieces = request.into_body().into_data_stream();
    Box::pin(pieces.map(|piece| piece.map_err(std::io::Error::other)))
}

fn platform(query: &Query) -> ApiResult<Option<Platform>> {
    query.text("platform").map(read_platform).transpose()
}

/// `linux/arm64`, or JSON as newer clients send it to most routes.
fn read_platform(text: &str) -> ApiResult<Platform> {
    if !text.starts_with('{') {
        return Platform::parse_or_explain(text).map_err(ApiError::invalid);
    }
    let platform: Platform = serde_json::from_str(text)
        .map_err(|error| ApiError::invalid(format!("failed to parse platform: {error}")))?;
    match (platform.os.is_empty(), platform.architecture.is_empty()) {
        (false, false) => Ok(platform.normalised()),
        (true, true) if !platform.variant.is_empty() => Err(ApiError::invalid(
            "optional platform fields provided, but OS and Architecture are missing",
        )),
        _ => Err(ApiError::invalid(
            "both OS and Architecture must be provided",
        )),
    }
}

/// `X-Registry-Auth`: base64 (URL alphabet) of JSON; where it is missing, what `X-Registry-Config` has for the registry. As
/// with dockerd, what cannot be read counts as none given.
pub(super) fn credentials(headers: &HeaderMap, domain: &str) -> ApiResult<Option<Credentials>> {
    let own = headers
        .get("x-registry-auth")
        .and_then(|value| wire::credentials(value.as_bytes()))
        .filter(|credentials| !credentials.is_empty());
    let of_config = || {
        let value = headers.get("x-registry-config")?;
        wire::credentials_of_config(value.as_bytes(), domain)
            .filter(|credentials| !credentials.is_empty())
    };
    Ok(own.or_else(of_config))
}

async fn save_many(State(images): State<ImageService>, query: Query) -> ApiResult<Response> {
    let names: Vec<String> = query.all("names").map(str::to_owned).collect();
    if names.is_empty() {
        return Err(ApiError::invalid("no image was named: give names=NAME"));
    }
    save(&images, &names, &query).await
}

async fn save(images: &ImageService, names: &[String], query: &Query) -> ApiResult<Response> {
    if query.all("platform").nth(1).is_some() {
        return Err(ApiError::invalid("multiple platforms are not supported"));
    }
    let archive = images.save(names, platform(query)?.as_ref()).await?;
    let content_type = HeaderValue::from_static("application/x-tar");
    Ok((
        [(header::CONTENT_TYPE, content_type)],
        Body::from_stream(archive),
    )
        .into_response())
}

async fn load(
    State(images): State<ImageService>,
    query: Query,
    request: Request,
) -> ApiResult<Response> {
    let platform = platform(&query)?;
    let is_quiet = query.flag_or("quiet", true);
    let (content, rest) = drained::split(body_of(request));
    let loaded = stream(move |progress| async move {
        let progress = match is_quiet {
            true => progress.without_bars(),
            false => progress,
        };
        let outcome = images.load(content, platform.as_ref(), &progress).await;
        if outcome.is_err() {
            rest.drain().await;
        }
        outcome
    });
    // As in Docker, what is wrong with an archive is told in the stream, whenever it is found.
    loaded.await.or_else(|error| {
        tracing::debug!(message = error.message(), "archive refused");
        Ok(json_lines(Body::from(wire::progress_error(&error))))
    })
}

/// Ends the work when the client goes away, as Docker does.
pub(super) struct AbortOnDrop(pub(super) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers with the messages of some work as they come. An error before the first message is the answer; a later one is
/// the last message.
async fn stream<F>(work: impl FnOnce(ProgressSink) -> F) -> ApiResult<Response>
where
    F: Future<Output = Result<(), ImageError>> + Send + 'static,
{
    let (sink, mut messages) = ProgressSink::new();
    let (finish, finished) = tokio::sync::oneshot::channel();
    let work = work(sink);
    let task = AbortOnDrop(tokio::spawn(async move {
        // The receiver is gone only if the client is.
        let _ = finish.send(work.await);
    }));
    let first = messages.recv().await;
    if first.is_none() {
        // The sink is gone, so the work has ended.
        return match finished.await {
            Ok(Ok(())) => Ok(json_lines(Body::empty())),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ApiError::new(Class::Internal, "the work was cut off")),
        };
    }
    let messages = futures_util::stream::unfold(
        (first, messages, Some(finished), task),
        |(first, mut messages, mut finished, task)| async move {
            let next = match first {
                Some(message) => Some(message),
                None => messages.recv().await,
            };
            let line = match next {
                Some(message) => wire::progress(&message),
                None => match finished.take()?.await {
                    Ok(Ok(())) => return None,
                    Ok(Err(error)) => wire::progress_error(&ApiError::from(error)),
                    Err(_) => return None,
                },
            };
            Some((
                Ok::<Bytes, std::convert::Infallible>(line),
                (None::<Progress>, messages, finished, task),
            ))
        },
    );
    Ok(json_lines(Body::from_stream(messages)))
}

pub(super) fn json_lines(body: Body) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

#[cfg(test)]
mod tests;
