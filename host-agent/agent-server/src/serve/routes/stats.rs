//! `GET /containers/{id}/stats`: one JSON object a line, one a second.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::{Json, Query};
use crate::serve::state::{AppState, Stopping};
use crate::serve::translate::stats as translate;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use engine::containers::stats::Sample;
use engine::containers::{Container, ContainerService};
use futures_util::stream;
use http::header;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Docker's pace.
const PAUSE: Duration = Duration::from_secs(1);

pub fn router() -> Router<AppState> {
    Router::new().route("/containers/{id}/stats", get(stats))
}

async fn stats(
    State(containers): State<Arc<ContainerService>>,
    State(Stopping(stop)): State<Stopping>,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let stream = query.flag_or("stream", true);
    let one_shot = query.flag("one-shot");
    if stream && one_shot {
        return Err(ApiError::invalid(
            "cannot have stream=true and one-shot=true",
        ));
    }
    let container = containers.find(&id)?;
    let sample = containers.sample(&container).await?;
    if !stream {
        if one_shot || sample.is_none() {
            return Ok(Json(translate::stats(&container, None, sample.as_ref())).into_response());
        }
        // The first reading is what the second is compared with.
        tokio::time::sleep(PAUSE).await;
        let second = containers.sample(&container).await?;
        let before = sample.filter(|_| second.is_some());
        let shown = translate::stats(&container, before.as_ref(), second.as_ref());
        return Ok(Json(shown).into_response());
    }
    let follower = Follower {
        containers,
        container,
        due: Instant::now(),
        before: None,
        first: Some(sample),
    };
    let lines = stream::unfold(follower, move |mut follower| {
        let stop = stop.clone();
        async move {
            tokio::select! {
                line = follower.next() => Some((line?, follower)),
                () = stop.cancelled() => None,
            }
        }
    });
    let body = Body::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// Reads again and again, until the container is removed. One that does not run has zeros.
struct Follower {
    containers: Arc<ContainerService>,
    container: Arc<Container>,
    due: Instant,
    before: Option<Sample>,
    /// Read before the answer began, so that what goes wrong is told in its status.
    first: Option<Option<Sample>>,
}

impl Follower {
    async fn next(&mut self) -> Option<std::io::Result<Bytes>> {
        let sample = match self.first.take() {
            Some(sample) => sample,
            None => {
                let mut status = self.container.watch();
                tokio::select! {
                    () = tokio::time::sleep_until(self.due) => {}
                    _ = status.wait_for(|status| status.removed) => return None,
                }
                match self.containers.sample(&self.container).await {
                    Ok(sample) => sample,
                    Err(error) => return Some(Err(std::io::Error::other(error))),
                }
            }
        };
        self.due = Instant::now() + PAUSE;
        let shown = translate::stats(&self.container, self.before.as_ref(), sample.as_ref());
        self.before = sample;
        Some(Ok(Bytes::from(format!("{shown}\n"))))
    }
}
