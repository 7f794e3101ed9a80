//! A blob as one stream over as many connections as it takes.

use super::asking::{Answer, Asking};
use super::exchange::Exchange;
use super::{HttpRegistry, protocol, unreachable};
use bytes::Bytes;
use engine::images::registry::{Credentials, RegistryError};
use engine::images::{ByteStream, Digest, Repository};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use std::io;

struct Download {
    registry: HttpRegistry,
    repository: Repository,
    digest: Digest,
    size: u64,
    credentials: Option<Credentials>,
    response: Option<Response>,
    /// The mirror whose answer that is.
    mirror: Option<Url>,
    /// Mirrors that broke off: what is missing is asked of the others first.
    broken: Vec<Url>,
    /// The beginning of what comes next.
    leftover: Option<Bytes>,
    /// Bytes handed on.
    done: u64,
    /// Attempts since the last byte came.
    failures: u32,
}

/// Opens a blob. The first connection is made here, so that "not there" is an answer and not a broken stream.
pub(super) async fn open(
    registry: HttpRegistry,
    repository: Repository,
    digest: Digest,
    size: u64,
    start: u64,
    credentials: Option<Credentials>,
) -> Result<ByteStream, RegistryError> {
    let mut download = Download {
        registry,
        repository,
        digest,
        size,
        credentials,
        response: None,
        mirror: None,
        broken: Vec::new(),
        leftover: None,
        done: start,
        failures: 0,
    };
    download.connect().await?;
    Ok(Box::pin(futures_util::stream::unfold(
        Some(download),
        |state| async move {
            let mut download = state?;
            match download.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(download))),
                Ok(None) => None,
                Err(error) => Some((Err(io::Error::other(error)), None)),
            }
        },
    )))
}

impl Download {
    /// Asks for what is missing.
    async fn connect(&mut self) -> Result<(), RegistryError> {
        let mut headers = HeaderMap::new();
        // The bytes as they are stored: a transport that unpacks gzip would change them.
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        if self.done > 0 {
            let range = format!("bytes={}-", self.done);
            headers.insert(
                header::RANGE,
                HeaderValue::from_str(&range).expect("digits"),
            );
        }
        let request = Exchange {
            headers,
            blob: Some(&self.digest),
            ..Exchange::read(
                &self.repository,
                format!("blobs/{}", self.digest),
                self.credentials.as_ref(),
            )
        };
        let mut asking = Asking::new(&self.registry, self.repository.domain(), &request).await;
        asking.put_last(&self.broken);
        let (response, leftover, mirror) = loop {
            let Answer { response, endpoint } = match asking.next().await {
                // Nothing is there where we want to go on: it is shorter than it should be.
                Err(RegistryError::Status {
                    url, status: 416, ..
                }) => {
                    return Err(RegistryError::Protocol {
                        url,
                        why: format!(
                            "the blob ends before byte {}, but its manifest says {} bytes",
                            self.done, self.size
                        ),
                    });
                }
                outcome => outcome?,
            };
            match begin(response, self.done, self.size).await {
                Ok((response, leftover)) => {
                    if endpoint.is_mirror {
                        let doubts = &self.registry.inner.doubts;
                        doubts.sends(&self.digest, endpoint.base.as_str());
                    }
                    let mirror = endpoint.is_mirror.then_some(endpoint.base);
                    break (response, leftover, mirror);
                }
                Err(error) => asking.reject(endpoint, error),
            }
        };
        drop(asking);
        self.response = Some(response);
        self.mirror = mirror;
        self.leftover = leftover;
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            if let Some(piece) = self.leftover.take() {
                self.done += piece.len() as u64;
                return Ok(Some(piece));
            }
            let outcome = match &mut self.response {
                Some(response) => response
                    .chunk()
                    .await
                    .map_err(|error| unreachable(response.url(), error)),
                None => match self.connect().await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            match outcome {
                Ok(Some(piece)) => {
                    self.done += piece.len() as u64;
                    self.failures = 0;
                    return Ok(Some(piece));
                }
                Ok(None) if self.done >= self.size => return Ok(None),
                Ok(None) => {
                    // The body ended early without an error: a proxy's doing, mostly.
                    let url = match &self.response {
                        Some(response) => response.url().clone(),
                        None => unreachable!("there was an answer"),
                    };
                    let why = format!("the blob ends after {} of {} bytes", self.done, self.size);
                    self.give_up_after(protocol(&url, why)).await?;
                }
                Err(error @ RegistryError::Unreachable { .. }) => {
                    self.give_up_after(error).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits before the next attempt, or gives the error back when there were enough.
    async fn give_up_after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.response = None;
        self.broken.extend(self.mirror.take());
        self.failures += 1;
        if self.failures >= self.registry.inner.attempts {
            return Err(error);
        }
        tracing::info!(digest = %self.digest, done = self.done, size = self.size,
            error = %engine::error::full_message(&error), "a download broke off; going on from there");
        let wait = self.registry.inner.first_wait * 2u32.pow(self.failures - 1);
        self.registry.inner.patience.sleep(wait).await;
        Ok(())
    }
}

/// Looks whether an answer is the blob from byte `done` on, and gets there.
async fn begin(
    mut response: Response,
    done: u64,
    size: u64,
) -> Result<(Response, Option<Bytes>), RegistryError> {
    let is_part = done > 0 && response.status() == StatusCode::PARTIAL_CONTENT;
    if is_part && range_start(&response) != Some(done) {
        return Err(protocol(
            response.url(),
            "it answered with another range than asked for",
        ));
    }
    let before = if is_part { done } else { 0 };
    if let Some(length) = response.content_length()
        && before + length != size
    {
        let why = format!(
            "the blob has {} bytes, but its manifest says {size}",
            before + length
        );
        return Err(protocol(response.url(), why));
    }
    let leftover = match done > 0 && !is_part {
        // No ranges here: read again what we have, and throw it away.
        true => skip(&mut response, done).await?,
        false => None,
    };
    Ok((response, leftover))
}

/// `Content-Range: bytes 100-199/200` -> 100.
fn range_start(response: &Response) -> Option<u64> {
    response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?
        .strip_prefix("bytes ")?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Reads and forgets `count` bytes; what the last piece has beyond them is given back.
async fn skip(response: &mut Response, count: u64) -> Result<Option<Bytes>, RegistryError> {
    let mut left = count;
    let url = response.url().clone();
    while left > 0 {
        match response
            .chunk()
            .await
            .map_err(|error| unreachable(&url, error))?
        {
            Some(mut piece) if piece.len() as u64 > left => {
                return Ok(Some(piece.split_off(left as usize)));
            }
            Some(piece) => left -= piece.len() as u64,
            None => return Err(protocol(&url, "the blob became shorter")),
        }
    }
    Ok(None)
}
