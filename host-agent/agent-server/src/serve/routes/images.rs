//! `/images/...`: pull, list, inspect, history, tag, remove, save and load. What is not here yet says so with 501.

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
use engine::images::registry::Credentials;
use engine::images::{
    Digest, ImageError, ImageService, Platform, Progress, ProgressSink, PullRequest, Reference,
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
        .route("/images/prune", post(|| not_yet("pruning images")))
        .route("/images/search", get(|| not_yet("searching for images")))
        // Names have slashes: `me/thing/json`. What comes last says what is wanted.
        .route(
            "/images/{*name}",
            get(get_one).post(post_one).delete(remove),
        )
        .route("/auth", post(auth))
        .route(
            "/commit",
            post(|| not_yet("making an image of a container")),
        )
}

async fn not_yet(what: &'static str) -> ApiError {
    ApiError::unsupported(format!("{what} is not supported by this engine yet"))
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
        (name, "history") => history(state, name),
        (name, "get") => save(&state.0, &[name.to_owned()]).await,
        _ => Err(ApiError::new(Class::NotFound, "page not found")),
    }
}

async fn post_one(
    State(images): State<ImageService>,
    Path(path): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    match name_and_verb(&path)? {
        (name, "tag") => tag(&images, name, &query).await,
        (_, "push") => Err(ApiError::unsupported(
            "pushing images is not supported by this engine yet",
        )),
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
    Ok(Json(Value::Array(
        list.iter()
            .map(|image| wire::summary(image, version))
            .collect(),
    )))
}

async fn inspect(
    State(images): State<ImageService>,
    name: &str,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> ApiResult<Response> {
    if query.flag("manifests") {
        return Err(ApiError::unsupported(
            "showing the manifests of an image is not supported by this engine",
        ));
    }
    let image = images.inspect(name)?;
    let driver = images.driver_data(&image).await;
    Ok(Json(wire::inspect(&image, driver, version)).into_response())
}

fn history(State(images): State<ImageService>, name: &str) -> ApiResult<Response> {
    let lines: Vec<Value> = images.history(name)?.iter().map(wire::history).collect();
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
    // `noprune` is about untagged parents, which only builds make.
    let removed = images.remove(&name, query.flag("force")).await?;
    Ok(Json(Value::Array(
        removed.iter().map(wire::removed).collect(),
    )))
}

async fn create(
    State(images): State<ImageService>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Response> {
    if query.text("fromSrc").is_some() {
        return not_yet("importing images").await.into_result();
    }
    let reference = pulled_reference(
        query.text("fromImage").unwrap_or_default(),
        query.text("tag"),
    )?;
    let request = PullRequest {
        reference,
        platform: platform(&query)?,
        credentials: credentials(&headers)?,
    };
    stream(move |progress| async move { images.pull(request, &progress).await }).await
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

fn platform(query: &Query) -> ApiResult<Option<Platform>> {
    let Some(text) = query.text("platform") else {
        return Ok(None);
    };
    // The load request of newer clients has JSON here.
    let platform = match text.starts_with('{') {
        true => serde_json::from_str::<Platform>(text)
            .ok()
            .map(Platform::normalised),
        false => Platform::parse(text),
    };
    platform.map(Some).ok_or_else(|| {
        ApiError::invalid(format!(
            "{text:?} is an invalid OS/architecture: write linux/amd64 or linux/arm64/v8, for example"
        ))
    })
}

/// `X-Registry-Auth`: base64 (URL alphabet) of JSON. As with dockerd, what cannot be read counts as none given.
fn credentials(headers: &HeaderMap) -> ApiResult<Option<Credentials>> {
    let Some(value) = headers.get("x-registry-auth") else {
        return Ok(None);
    };
    Ok(wire::credentials(value.as_bytes()).filter(|credentials| !credentials.is_empty()))
}

async fn save_many(State(images): State<ImageService>, query: Query) -> ApiResult<Response> {
    let names: Vec<String> = query.all("names").map(str::to_owned).collect();
    if names.is_empty() {
        return Err(ApiError::invalid("no image was named: give names=NAME"));
    }
    save(&images, &names).await
}

async fn save(images: &ImageService, names: &[String]) -> ApiResult<Response> {
    let archive = images.save(names).await?;
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
    let content = request
        .into_body()
        .into_data_stream()
        .map(|piece| piece.map_err(std::io::Error::other));
    stream(move |progress| async move {
        images
            .load(Box::pin(content), platform.as_ref(), &progress)
            .await
    })
    .await
}

async fn auth(
    State(images): State<ImageService>,
    Json(body): Json<wire::AuthBody>,
) -> ApiResult<Json<Value>> {
    let (domain, credentials) = body.into_parts();
    images.login(&domain, &credentials).await?;
    Ok(Json(
        serde_json::json!({"Status": "Login Succeeded", "IdentityToken": ""}),
    ))
}

impl ApiError {
    fn into_result<T>(self) -> ApiResult<T> {
        Err(self)
    }
}

/// Ends the work when the client goes away, as Docker does.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

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

fn json_lines(body: Body) -> Response {
    let content_type = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content_type)], body).into_response()
}

#[cfg(test)]
mod tests;
