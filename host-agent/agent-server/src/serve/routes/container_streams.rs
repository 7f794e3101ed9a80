//! `/containers/{id}/{logs,wait}`: answers that go on.

use crate::serve::error::{ApiError, ApiResult};
use crate::serve::extract::Query;
use crate::serve::hijack::{self, StreamFormat};
use crate::serve::state::AppState;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::{Bytes, BytesMut};
use engine::containers::ContainerService;
use engine::containers::list::parse_time;
use engine::containers::logs::LogOptions;
use engine::containers::wait::WaitCondition;
use engine::logs::LogEntry;
use engine_api::ApiVersion;
use futures_util::stream;
use http::{HeaderValue, header};
use serde_json::json;
use std::sync::Arc;
use time::OffsetDateTime;
use time::macros::format_description;

type Containers = State<Arc<ContainerService>>;

pub fn router() -> Router<AppState> {
    Router::new()
        .route("/containers/{id}/logs", get(logs))
        .route("/containers/{id}/wait", post(wait))
}

async fn wait(
    State(containers): Containers,
    Path(id): Path<String>,
    query: Query,
) -> ApiResult<Response> {
    let text = query.text("condition").unwrap_or_default();
    let condition = WaitCondition::parse(text)
        .ok_or_else(|| ApiError::invalid(format!("invalid condition: \"{text}\"")))?;
    let waiting = containers.wait(&id, condition)?;
    // The head goes out at once: clients take it as "the wait has begun" and only then start the container.
    let body = stream::once(async move {
        let answer = waiting.done().await;
        let mut shown = json!({ "StatusCode": answer.exit_code });
        if !answer.error.is_empty() {
            shown["Error"] = json!({ "Message": answer.error });
        }
        let text = format!("{shown}\n");
        Ok::<_, std::convert::Infallible>(Bytes::from(text))
    });
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

/// How a line is written.
#[derive(Clone, Copy)]
struct LineForm {
    format: StreamFormat,
    timestamps: bool,
    details: bool,
}

async fn logs(
    State(containers): Containers,
    Path(id): Path<String>,
    Extension(version): Extension<ApiVersion>,
    query: Query,
) -> ApiResult<Response> {
    let now = OffsetDateTime::now_utc();
    let moment = |name: &str| {
        match query.text(name) {
        // 0 is the clients' way to say nothing.
        None | Some("0") => Ok(None),
        Some(text) => parse_time(text, now)
            .map(Some)
            .ok_or_else(|| ApiError::invalid(format!("invalid value for \"{name}\": failed to parse value as time or duration: \"{text}\""))),
    }
    };
    let options = LogOptions {
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        follow: query.flag("follow"),
        since: moment("since")?,
        until: moment("until")?,
        // Anything but a number is "all", as in Docker.
        tail: query.text("tail").and_then(|text| text.parse().ok()),
    };
    let log = containers.logs(&id, &options).await?;
    let form = LineForm {
        format: StreamFormat::of_terminal(log.tty),
        timestamps: query.flag("timestamps"),
        details: query.flag("details"),
    };
    let lines = stream::unfold(log.entries, move |mut entries| async move {
        let batch = match entries.recv().await? {
            Ok(batch) => batch,
            Err(error) => return Some((Err(error), entries)),
        };
        let lines = batch.iter().map(|entry| entry.line.len() + 16).sum();
        let mut text = BytesMut::with_capacity(lines);
        for entry in &batch {
            write_line(&mut text, entry, form);
        }
        Some((Ok(text.freeze()), entries))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, form.format.content_type(version));
    Ok(response)
}

fn write_line(text: &mut BytesMut, entry: &LogEntry, form: LineForm) {
    let mut prefix = String::new();
    if form.timestamps {
        // Always nine digits, unlike everywhere else: columns line up.
        let layout = format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:9]Z"
        );
        let at = entry.at.to_offset(time::UtcOffset::UTC);
        prefix.push_str(&at.format(layout).unwrap_or_default());
        prefix.push(' ');
    }
    if form.details {
        let attributes: Vec<String> = entry
            .attributes
            .iter()
            .map(|(name, value)| {
                let escaped = |text: &str| -> String {
                    form_urlencoded::byte_serialize(text.as_bytes()).collect()
                };
                format!("{}={}", escaped(name), escaped(value))
            })
            .collect();
        prefix.push_str(&attributes.join(","));
        prefix.push(' ');
    }
    if form.format == StreamFormat::Multiplexed {
        text.extend_from_slice(&hijack::frame_header(
            entry.stream,
            prefix.len() + entry.line.len(),
        ));
    }
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(&entry.line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::runtime::StreamKind;

    #[test]
    fn a_line_has_its_time_its_attributes_and_one_frame() {
        let entry = LogEntry {
            stream: StreamKind::Stderr,
            at: OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(5),
            line: Bytes::from_static(b"hi\n"),
            attributes: [("a".to_owned(), "1".to_owned())].into(),
        };
        let mut text = BytesMut::new();
        let form = LineForm {
            format: StreamFormat::Multiplexed,
            timestamps: true,
            details: true,
        };
        write_line(&mut text, &entry, form);
        let line = b"1970-01-01T00:00:00.005000000Z a=1 hi\n";
        assert_eq!(
            &text[..8],
            &hijack::frame_header(StreamKind::Stderr, line.len())
        );
        assert_eq!(&text[8..], line);
    }
}
