//! A blob's way to a registry, with as few bytes as possible.
//!
//! ```text
//! HEAD blob -> there: done
//! POST uploads/?mount=DIGEST&from=OTHER -> 201: mounted, done
//!                                       -> 202: an upload was begun instead
//! PUT <location>?digest=DIGEST, all at once -> 201: done
//!   refused for its size or form, or broken twice:
//! PATCH <location>, piece by piece (after a failure: GET <location> tells how far it came) -> PUT ?digest=DIGEST
//! ```

use super::exchange::{Content, Exchange};
use super::{Endpoint, HttpRegistry, protocol};
use bytes::{Bytes, BytesMut};
use engine::images::ByteStream;
use engine::images::registry::{BlobUpload, RegistryError, Uploaded};
use futures_util::StreamExt;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};

/// Bytes of a PATCH: the most that every registry takes (some stop at 4 MiB).
const CHUNK: u64 = 4 << 20;
/// The largest `OCI-Chunk-Min-Length` we hold in memory for a registry.
const CHUNK_MAX: u64 = 64 << 20;
/// Breaks of the whole upload after which it goes in pieces.
const WHOLE_ATTEMPTS: u32 = 2;

/// Sees to it that the repository has the blob.
pub(super) async fn upload(
    registry: &HttpRegistry,
    upload: &BlobUpload<'_>,
) -> Result<Uploaded, RegistryError> {
    if exists(registry, upload).await? {
        return Ok(Uploaded::Existed);
    }
    let mut begun = None;
    for from in upload.mount_from {
        match mount(registry, upload, from.path()).await? {
            Mount::Done => {
                return Ok(Uploaded::Mounted { from: from.clone() });
            }
            // One begun upload is enough; the next mount would begin another.
            Mount::Begun(session) => {
                begun = Some(session);
                break;
            }
            Mount::Refused => {}
        }
    }
    let mut wait = registry.inner.first_wait;
    for _ in 0..WHOLE_ATTEMPTS {
        let session = match begun.take() {
            Some(session) => session,
            None => begin(registry, upload).await?,
        };
        match put_whole(registry, upload, &session).await {
            Ok(()) => return Ok(Uploaded::Sent),
            Err(error) if is_about_form(&error) => break,
            Err(error) if is_passing(&error) => {
                tracing::info!(digest = %upload.digest, error = %engine::error::full_message(&error),
                    "an upload broke off; trying again");
                registry.inner.patience.sleep(wait).await;
                wait *= 2;
            }
            Err(error) => return Err(error),
        }
    }
    let session = begin(registry, upload).await?;
    put_in_pieces(registry, upload, session).await?;
    Ok(Uploaded::Sent)
}

/// An upload the registry knows of.
struct Session {
    endpoint: Endpoint,
    location: Url,
    /// Bytes of a piece it wants at least.
    least: u64,
}

impl Session {
    fn of(endpoint: Endpoint, response: &Response) -> Result<Session, RegistryError> {
        let location = location_of(response)?;
        let least = response
            .headers()
            .get("oci-chunk-min-length")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .unwrap_or(0);
        Ok(Session {
            endpoint,
            location,
            least,
        })
    }
}

fn location_of(response: &Response) -> Result<Url, RegistryError> {
    response
        .headers()
        .get(header::LOCATION)
        .and_then(|location| location.to_str().ok())
        .and_then(|location| response.url().join(location).ok())
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| protocol(response.url(), "it names no place for the upload"))
}

async fn exists(registry: &HttpRegistry, upload: &BlobUpload<'_>) -> Result<bool, RegistryError> {
    let request = Exchange {
        method: Method::HEAD,
        blob: Some(upload.digest),
        ..Exchange::write(
            upload.repository,
            format!("blobs/{}", upload.digest),
            upload.credentials,
        )
    };
    match registry.ask(upload.repository.domain(), &request).await {
        Ok(answer) => {
            // A registry that answers 200 with another size has something else.
            let size = answer
                .response
                .headers()
                .get(header::CONTENT_LENGTH)
                .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
            Ok(size.is_none_or(|size| size == upload.size))
        }
        Err(RegistryError::BlobUnknown { .. } | RegistryError::NameUnknown { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

enum Mount {
    Done,
    Begun(Session),
    Refused,
}

async fn mount(
    registry: &HttpRegistry,
    upload: &BlobUpload<'_>,
    from: &str,
) -> Result<Mount, RegistryError> {
    let mut request = Exchange::write(
        upload.repository,
        format!("blobs/uploads/?mount={}&from={from}", upload.digest),
        upload.credentials,
    );
    request.scope = format!("{} repository:{from}:pull", request.scope);
    // Whatever is wrong with a mount, the blob can still be sent.
    let answer = match registry.ask(upload.repository.domain(), &request).await {
        Ok(answer) => answer,
        // But for a registry that wants to be left alone.
        Err(error @ RegistryError::LongWait { .. }) => return Err(error),
        Err(_) => return Ok(Mount::Refused),
    };
    if answer.response.status() == StatusCode::CREATED {
        return Ok(Mount::Done);
    }
    Ok(Mount::Begun(Session::of(
        answer.endpoint,
        &answer.response,
    )?))
}

async fn begin(registry: &HttpRegistry, upload: &BlobUpload<'_>) -> Result<Session, RegistryError> {
    let request = Exchange::write(upload.repository, "blobs/uploads/", upload.credentials);
    let answer = registry.ask(upload.repository.domain(), &request).await?;
    Session::of(answer.endpoint, &answer.response)
}

fn finished(location: &Url, upload: &BlobUpload<'_>) -> Url {
    let mut url = location.clone();
    url.query_pairs_mut()
        .append_pair("digest", upload.digest.as_str());
    url
}

fn octets() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers
}

async fn put_whole(
    registry: &HttpRegistry,
    upload: &BlobUpload<'_>,
    session: &Session,
) -> Result<(), RegistryError> {
    let request = Exchange {
        method: Method::PUT,
        headers: octets(),
        content: Content::Blob {
            blobs: upload.blobs,
            digest: upload.digest,
            size: upload.size,
            sent: upload.sent.clone(),
        },
        // The registry may have kept a part of it: another attempt needs another upload.
        is_repeated: false,
        ..Exchange::write(upload.repository, "", upload.credentials)
    };
    let url = finished(&session.location, upload);
    registry.exchange(&session.endpoint, url, &request).await?;
    Ok(())
}

/// A refusal of a body as large as this, or of one in a single piece.
fn is_about_form(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Status {
            status: 400 | 404 | 405 | 411 | 413 | 415 | 416 | 501,
            ..
        } | RegistryError::ManifestUnknown { .. }
            | RegistryError::BlobUnknown { .. }
    )
}

fn is_passing(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Unreachable { .. }
            | RegistryError::TooManyRequests { .. }
            | RegistryError::Status {
                status: 408 | 500..,
                ..
            }
    )
}

async fn put_in_pieces(
    registry: &HttpRegistry,
    upload: &BlobUpload<'_>,
    mut session: Session,
) -> Result<(), RegistryError> {
    if session.least > CHUNK_MAX {
        return Err(protocol(
            &session.location,
            format!("it wants pieces of at least {} bytes", session.least),
        ));
    }
    let length = CHUNK.max(session.least);
    let mut content = Pieces::open(upload, 0).await?;
    let mut failures = 0;
    let mut wait = registry.inner.first_wait;
    while content.at < upload.size {
        let start = content.at;
        let piece = content.next(length).await?;
        let end = start + piece.len() as u64;
        let mut headers = octets();
        let range = format!("{start}-{}", end - 1);
        headers.insert(
            header::CONTENT_RANGE,
            HeaderValue::from_str(&range).expect("digits"),
        );
        let request = Exchange {
            method: Method::PATCH,
            headers,
            content: Content::Bytes(piece),
            is_repeated: false,
            ..Exchange::write(upload.repository, "", upload.credentials)
        };
        match registry
            .exchange(&session.endpoint, session.location.clone(), &request)
            .await
        {
            Ok(response) => {
                session.location = location_of(&response)?;
                (upload.sent)(end);
                failures = 0;
            }
            Err(error) if is_passing(&error) && failures + 1 < registry.inner.attempts => {
                failures += 1;
                tracing::info!(digest = %upload.digest, start, error = %engine::error::full_message(&error),
                    "a piece of an upload broke off; asking how far it came");
                registry.inner.patience.sleep(wait).await;
                wait *= 2;
                let at = progress_of(registry, upload, &mut session).await?;
                content = Pieces::open(upload, at.min(upload.size)).await?;
            }
            Err(error) => return Err(error),
        }
    }
    let request = Exchange {
        method: Method::PUT,
        headers: octets(),
        ..Exchange::write(upload.repository, "", upload.credentials)
    };
    let url = finished(&session.location, upload);
    registry.exchange(&session.endpoint, url, &request).await?;
    Ok(())
}

/// How many bytes of an upload the registry has: `Range: 0-99` is 100.
async fn progress_of(
    registry: &HttpRegistry,
    upload: &BlobUpload<'_>,
    session: &mut Session,
) -> Result<u64, RegistryError> {
    let request = Exchange {
        method: Method::GET,
        ..Exchange::write(upload.repository, "", upload.credentials)
    };
    let response = registry
        .exchange(&session.endpoint, session.location.clone(), &request)
        .await?;
    if let Ok(location) = location_of(&response) {
        session.location = location;
    }
    let last = response
        .headers()
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(|range| range.trim_start_matches("bytes=").split_once('-'))
        .and_then(|(_, last)| last.parse::<u64>().ok());
    // `0-0` is what Docker's registry says of an upload without a byte, too; one byte again does no harm there.
    Ok(last.filter(|last| *last > 0).map_or(0, |last| last + 1))
}

/// A blob cut to pieces.
struct Pieces {
    content: ByteStream,
    rest: Bytes,
    /// Bytes handed out or skipped.
    at: u64,
}

impl Pieces {
    async fn open(upload: &BlobUpload<'_>, at: u64) -> Result<Pieces, RegistryError> {
        let content = upload
            .blobs
            .open(upload.digest)
            .await
            .map_err(|error| unreadable(upload, error))?;
        let mut pieces = Pieces {
            content,
            rest: Bytes::new(),
            at: 0,
        };
        while pieces.at < at {
            let step = (at - pieces.at).min(CHUNK);
            if pieces.next(step).await?.is_empty() {
                break;
            }
        }
        Ok(pieces)
    }

    /// At most `length` bytes; fewer only at the end.
    async fn next(&mut self, length: u64) -> Result<Bytes, RegistryError> {
        let length = length as usize;
        let mut piece = BytesMut::with_capacity(length);
        while piece.len() < length {
            if self.rest.is_empty() {
                match self.content.next().await {
                    Some(Ok(bytes)) => self.rest = bytes,
                    Some(Err(error)) => {
                        return Err(RegistryError::Protocol {
                            url: "the blob".into(),
                            why: error.to_string(),
                        });
                    }
                    None => break,
                }
            }
            let count = self.rest.len().min(length - piece.len());
            piece.extend_from_slice(&self.rest.split_to(count));
        }
        self.at += piece.len() as u64;
        Ok(piece.freeze())
    }
}

fn unreadable(
    upload: &BlobUpload<'_>,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RegistryError {
    RegistryError::Content {
        digest: upload.digest.clone(),
        source: error.into(),
    }
}
