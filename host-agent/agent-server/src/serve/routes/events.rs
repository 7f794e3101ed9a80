//! `GET /events`: what happened (`since`) and what happens, one JSON object a line.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::Query;
use crate::serve::state::{AppState, Stopping};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use engine::events::{Event, EventBus, EventKind};
use engine_api::Filters;
use futures_util::stream;
use http::header;
use serde_json::json;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use tokio::sync::broadcast::error::RecvError;

pub fn router() -> Router<AppState> {
    Router::new().route("/events", get(events))
}

async fn events(
    State(bus): State<EventBus>,
    State(Stopping(stop)): State<Stopping>,
    query: Query,
) -> ApiResult<Response> {
    let since = timestamp(&query, "since")?;
    let until = timestamp(&query, "until")?;
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(ApiError::invalid(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    let filter = EventFilter::new(query.filters()?)?;
    let (past, receiver) = bus.subscribe();
    // Without `since` only what comes; with `until` alone, too.
    let past: VecDeque<Arc<Event>> = match since {
        None => VecDeque::new(),
        Some(since) => past.into_iter().filter(|event| event.at >= since).collect(),
    };
    let deadline = until.map(|until| {
        let left = until - OffsetDateTime::now_utc();
        tokio::time::Instant::now() + Duration::try_from(left).unwrap_or(Duration::ZERO)
    });
    let state = (past, receiver, filter, until, deadline, stop);
    let lines = stream::unfold(state, |mut state| async move {
        loop {
            let (past, receiver, filter, until, deadline, stop) = &mut state;
            let event = match past.pop_front() {
                Some(event) => event,
                None => tokio::select! {
                    // In this order, so that what happened before the deadline is told.
                    biased;
                    received = receiver.recv() => match received {
                        Ok(event) => event,
                        // A slow reader lost some; Docker does the same.
                        Err(RecvError::Lagged(missed)) => {
                            tracing::warn!(missed, "a reader of events is too slow");
                            continue;
                        }
                        Err(RecvError::Closed) => return None,
                    },
                    () = reached(*deadline) => return None,
                    () = stop.cancelled() => return None,
                },
            };
            if until.is_some_and(|until| event.at > until) {
                return None;
            }
            if filter.fits(&event) {
                return Some((Ok::<Bytes, Infallible>(line(&event)), state));
            }
        }
    });
    let body = Body::from_stream(lines);
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn reached(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// `seconds` or `seconds.nanoseconds`: what the CLI makes of every form people write.
fn timestamp(query: &Query, name: &str) -> ApiResult<Option<OffsetDateTime>> {
    let Some(text) = query.text(name) else {
        return Ok(None);
    };
    let parse = || {
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = seconds.parse().ok()?;
        let nanoseconds: i64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        let at = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
        at.checked_add(time::Duration::nanoseconds(nanoseconds))
    };
    match parse() {
        Some(at) => Ok(Some(at)),
        None => Err(ApiError::invalid(format!(
            "invalid value for {name}: {text:?} is not a Unix time"
        ))),
    }
}

/// Which events somebody wants.
struct EventFilter(Filters);

impl EventFilter {
    fn new(filters: Filters) -> ApiResult<EventFilter> {
        // Docker ignores unknown names here; we tell, or people wait for events that never come.
        filters.only(&[
            "config",
            "container",
            "daemon",
            "event",
            "image",
            "label",
            "network",
            "node",
            "plugin",
            "scope",
            "secret",
            "service",
            "type",
            "volume",
        ])?;
        Ok(EventFilter(filters))
    }

    fn fits(&self, event: &Event) -> bool {
        self.action(event)
            && self.0.exact("type", event.kind.name())
            && self.0.exact("scope", "local")
            && self.0.labels(&event.attributes)
            && [
                EventKind::Container,
                EventKind::Network,
                EventKind::Volume,
                EventKind::Daemon,
            ]
            .into_iter()
            .all(|kind| self.actor(kind, event))
            && self.image(event)
            && ["config", "node", "plugin", "secret", "service"]
                .iter()
                .all(|name| !self.0.has(name))
    }

    /// `exec_create: sh` fits the filters `exec_create: sh` and `exec_create`.
    fn action(&self, event: &Event) -> bool {
        let short = event.action.split(':').next().unwrap_or_default();
        self.0.exact("event", &event.action) || self.0.exact("event", short)
    }

    /// By id, beginning of an id, or name; events about other kinds of things do not fit.
    fn actor(&self, kind: EventKind, event: &Event) -> bool {
        if !self.0.has(kind.name()) {
            return true;
        }
        let name = event.attributes.get("name");
        event.kind == kind
            && self.0.values(kind.name()).any(|wanted| {
                event.actor.starts_with(wanted) || name.is_some_and(|name| name == wanted)
            })
    }

    /// The image itself or the one a container is made of, with or without a tag.
    fn image(&self, event: &Event) -> bool {
        if !self.0.has("image") {
            return true;
        }
        let names = match event.kind {
            EventKind::Image => [Some(&event.actor), event.attributes.get("name")],
            _ => [None, event.attributes.get("image")],
        };
        self.0.values("image").any(|wanted| {
            names
                .into_iter()
                .flatten()
                .any(|name| name == wanted || without_tag(name) == wanted)
        })
    }
}

fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((front, tag)) if !tag.contains('/') => front,
        _ => name,
    }
}

/// One event as Docker writes it, newline included. `status`, `id` and `from` are for old clients and only of containers and
/// images.
fn line(event: &Event) -> Bytes {
    let nanoseconds = event.at.unix_timestamp_nanos();
    let mut value = json!({
        "Type": event.kind.name(),
        "Action": event.action,
        "Actor": { "ID": event.actor, "Attributes": event.attributes },
        "scope": "local",
        "time": event.at.unix_timestamp(),
        "timeNano": i64::try_from(nanoseconds).unwrap_or(i64::MAX),
    });
    if matches!(event.kind, EventKind::Container | EventKind::Image) {
        value["status"] = event.action.clone().into();
        // What is pruned is nobody in particular.
        if !event.actor.is_empty() {
            value["id"] = event.actor.clone().into();
        }
    }
    if event.kind == EventKind::Container
        && let Some(image) = event.attributes.get("image")
    {
        value["from"] = image.clone().into();
    }
    Bytes::from(format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::testing;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use std::collections::BTreeMap;
    use tower::ServiceExt;

    fn event(kind: EventKind, action: &str, actor: &str, attributes: &[(&str, &str)]) -> Event {
        Event {
            kind,
            action: action.into(),
            actor: actor.into(),
            attributes: attributes
                .iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect::<BTreeMap<_, _>>(),
            at: OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_000_000_042).unwrap(),
        }
    }

    #[tokio::test]
    async fn the_past_is_told_and_the_stream_ends_at_until() {
        let services = testing::services();
        services.events.publish(event(
            EventKind::Container,
            "start",
            "abc",
            &[("image", "busybox:1"), ("name", "web")],
        ));
        services
            .events
            .publish(event(EventKind::Volume, "create", "data", &[]));
        let answer = testing::send(
            services,
            http::Method::GET,
            "/events?since=1699999999&until=1700000001.5",
            "",
        )
        .await;
        let lines: Vec<Value> = answer
            .text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0],
            json!({"status":"start","id":"abc","from":"busybox:1","Type":"container","Action":"start",
                "Actor":{"ID":"abc","Attributes":{"image":"busybox:1","name":"web"}},"scope":"local",
                "time":1_700_000_000,"timeNano":1_700_000_000_000_000_042i64})
        );
        assert!(lines[1].get("status").is_none());
    }

    #[tokio::test]
    async fn what_happens_is_told_at_once() {
        let services = testing::services();
        let bus = services.events.clone();
        let router = crate::serve::routes::router(AppState::new(services));
        let request = Request::get("/events").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let mut body = response.into_body();
        bus.publish(event(EventKind::Image, "pull", "busybox:latest", &[]));
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let value: Value = serde_json::from_slice(&frame).unwrap();
        assert_eq!(value["id"], "busybox:latest");
        assert!(frame.ends_with(b"\n"));
    }

    #[tokio::test]
    async fn the_stream_ends_when_the_server_stops() {
        let services = testing::services();
        let Stopping(stop) = services.stopping.clone();
        let router = crate::serve::routes::router(AppState::new(services));
        let request = Request::get("/events").body(Body::empty()).unwrap();
        let body = router.oneshot(request).await.unwrap().into_body();
        stop.cancel();
        assert!(body.collect().await.unwrap().to_bytes().is_empty());
    }

    #[track_caller]
    fn check(filters: &[(&str, &str)], event: &Event, fits: bool) {
        let filter = EventFilter::new(Filters::of(filters.iter().copied())).unwrap();
        assert_eq!(filter.fits(event), fits, "{filters:?} {event:?}");
    }

    #[test]
    fn filters() {
        let exec = event(
            EventKind::Container,
            "exec_create: sh",
            "abcdef",
            &[
                ("image", "r:5000/busybox:1"),
                ("name", "web"),
                ("tier", "db"),
            ],
        );
        let volume = event(EventKind::Volume, "create", "data", &[]);
        check(&[], &exec, true);
        check(&[("event", "exec_create")], &exec, true);
        check(&[("event", "exec_start")], &exec, false);
        check(&[("container", "web")], &exec, true);
        check(&[("container", "abc")], &exec, true);
        check(&[("container", "we")], &exec, false);
        check(&[("container", "web")], &volume, false);
        check(&[("image", "r:5000/busybox")], &exec, true);
        check(&[("image", "r:5000/busybox:1")], &exec, true);
        check(&[("image", "r")], &exec, false);
        check(&[("type", "volume")], &volume, true);
        check(&[("type", "volume")], &exec, false);
        check(&[("volume", "data"), ("event", "create")], &volume, true);
        check(&[("label", "tier=db")], &exec, true);
        check(&[("label", "tier=web")], &exec, false);
        check(&[("scope", "swarm")], &volume, false);
    }

    #[tokio::test]
    async fn bad_questions_are_refused() {
        for path in [
            "/events?since=yesterday",
            "/events?since=5&until=4",
            "/events?filters=%7B%22x%22%3A%5B%22y%22%5D%7D",
        ] {
            assert_eq!(testing::get(path).await.status, 400, "{path}");
        }
    }
}
