//! One request to one endpoint, with everything that may come between question and answer: signing in, waiting, redirects.

use super::auth::SignInError;
use super::endpoint::authority;
use super::patience::{LONGEST_WAIT, retry_after};
use super::{
    Endpoint, HttpRegistry, challenges_of, error_of, is_lasting, is_temporary, protocol,
    unreachable,
};
use bytes::Bytes;
use engine::images::registry::{Credentials, RegistryError};
use engine::images::{BlobStore, Digest, Repository};
use futures_util::StreamExt;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use std::sync::Arc;
use std::time::Duration;

/// Hops of one request.
const REDIRECTS: usize = 10;

/// What a request sends.
pub(super) enum Content<'a> {
    Nothing,
    Bytes(Bytes),
    /// A blob of ours, opened anew for each attempt.
    Blob {
        blobs: &'a dyn BlobStore,
        digest: &'a Digest,
        size: u64,
        sent: Arc<dyn Fn(u64) + Send + Sync>,
    },
}

/// A request.
pub(super) struct Exchange<'a> {
    pub method: Method,
    /// After `/v2/`.
    pub path: String,
    /// What a token must allow (distribution's token specification), word by word.
    pub scope: String,
    pub headers: HeaderMap,
    pub content: Content<'a>,
    pub credentials: Option<&'a Credentials>,
    /// For errors that are about a blob.
    pub blob: Option<&'a Digest>,
    /// Any endpoint will do, and trying twice does no harm.
    pub is_read: bool,
    /// Whether to try again after temporary failures.
    pub is_repeated: bool,
}

impl<'a> Exchange<'a> {
    /// A GET of something in a repository.
    pub fn read(
        repository: &Repository,
        path: impl AsRef<str>,
        credentials: Option<&'a Credentials>,
    ) -> Exchange<'a> {
        Exchange {
            method: Method::GET,
            path: format!("{}/{}", repository.path(), path.as_ref()),
            scope: format!("repository:{}:pull", repository.path()),
            headers: HeaderMap::new(),
            content: Content::Nothing,
            credentials,
            blob: None,
            is_read: true,
            is_repeated: true,
        }
    }

    /// Something that a push does; a POST until said otherwise.
    pub fn write(
        repository: &Repository,
        path: impl AsRef<str>,
        credentials: Option<&'a Credentials>,
    ) -> Exchange<'a> {
        Exchange {
            method: Method::POST,
            scope: format!("repository:{}:pull,push", repository.path()),
            is_read: false,
            ..Exchange::read(repository, path, credentials)
        }
    }
}

/// A request that came to nothing.
pub(super) struct Failed {
    pub error: RegistryError,
    pub again: Again,
}

impl Failed {
    pub fn for_good(error: RegistryError) -> Failed {
        Failed {
            error,
            again: Again::No,
        }
    }
}

/// Whether another try may do better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    No,
    /// The server says that it cannot now. If it said how long to wait, that is noted ([`Patience`](super::Patience)).
    Busy,
    /// The connection broke or never was.
    Unreached,
}

impl HttpRegistry {
    /// Sends a request to an address of an endpoint, and again while that may help; the answer is a success.
    pub(super) async fn exchange(
        &self,
        endpoint: &Endpoint,
        url: Url,
        request: &Exchange<'_>,
    ) -> Result<Response, RegistryError> {
        let mut wait = self.inner.first_wait;
        let mut attempt = 1;
        loop {
            let failed = match self.exchange_once(endpoint, url.clone(), request).await {
                Ok(response) => return Ok(response),
                Err(failed) => failed,
            };
            if failed.again == Again::No || attempt >= self.inner.attempts || !request.is_repeated {
                return Err(failed.error);
            }
            attempt += 1;
            let patience = &self.inner.patience;
            // The next attempt waits for what it was asked to.
            if patience.left(endpoint, request.credentials).is_zero() {
                patience.sleep(wait).await;
            }
            wait *= 2;
        }
    }

    /// The same, once: with signing in, where that is asked for, and not before the endpoint said to come again.
    pub(super) async fn exchange_once(
        &self,
        endpoint: &Endpoint,
        url: Url,
        request: &Exchange<'_>,
    ) -> Result<Response, Failed> {
        let credentials = request
            .credentials
            .filter(|_| endpoint.may_have_credentials());
        let again_unless_lasting = |error: RegistryError| Failed {
            again: match error {
                RegistryError::Unreachable { .. } if !is_lasting(&error) => Again::Unreached,
                _ => Again::No,
            },
            error,
        };
        let mut has_signed_in = false;
        loop {
            self.inner
                .patience
                .wait(endpoint, request.credentials, self.waits.as_ref())
                .await;
            let authorization =
                self.inner
                    .tokens
                    .authorization(endpoint, &request.scope, credentials);
            let response = self
                .send_following(endpoint, url.clone(), request, authorization)
                .await
                .map_err(again_unless_lasting)?;
            let status = response.status();
            if status.is_success() {
                return Ok(response);
            }
            if is_temporary(status) {
                let wait = retry_after(&response);
                let error = error_of(response, request).await;
                return Err(self.busy(endpoint, request, status, wait, error));
            }
            if status != StatusCode::UNAUTHORIZED || has_signed_in {
                return Err(Failed::for_good(error_of(response, request).await));
            }
            has_signed_in = true;
            let challenges = challenges_of(&response);
            let refusal = error_of(response, request).await;
            self.inner
                .tokens
                .sign_in(
                    &self.inner.clients,
                    endpoint,
                    &request.scope,
                    &challenges,
                    credentials,
                )
                .await
                .map_err(|error| match error {
                    SignInError::NoChallenge => Failed::for_good(refusal),
                    SignInError::Busy {
                        status,
                        wait,
                        error,
                    } => self.busy(endpoint, request, status, wait, error),
                    SignInError::Registry(error) => again_unless_lasting(error),
                })?;
        }
    }

    /// What comes of an endpoint that cannot now, and perhaps said for how long.
    fn busy(
        &self,
        endpoint: &Endpoint,
        request: &Exchange<'_>,
        status: StatusCode,
        wait: Option<Duration>,
        error: RegistryError,
    ) -> Failed {
        if let Some(wait) = wait {
            if wait > LONGEST_WAIT {
                return Failed::for_good(RegistryError::LongWait {
                    registry: authority(&endpoint.base),
                    status: status.to_string(),
                    wait,
                    limit: LONGEST_WAIT,
                    source: Box::new(error),
                });
            }
            self.inner
                .patience
                .asked(endpoint, request.credentials, wait);
        }
        Failed {
            error,
            again: Again::Busy,
        }
    }

    /// One request and its redirects.
    async fn send_following(
        &self,
        endpoint: &Endpoint,
        first: Url,
        request: &Exchange<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut url = first;
        for _ in 0..=REDIRECTS {
            let mut headers = request.headers.clone();
            if let Some(authorization) = &authorization
                && url.origin() == endpoint.base.origin()
            {
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
            let client = self.inner.clients.for_url(&url, endpoint)?;
            let sending = client
                .request(request.method.clone(), url.clone())
                .headers(headers);
            let sending = match &request.content {
                Content::Nothing if request.method == Method::GET => sending,
                Content::Nothing if request.method == Method::HEAD => sending,
                // Some registries refuse a body of unknown length, even where there is none.
                Content::Nothing => sending.header(header::CONTENT_LENGTH, 0),
                Content::Bytes(bytes) => sending.body(bytes.clone()),
                Content::Blob {
                    blobs,
                    digest,
                    size,
                    sent,
                } => {
                    let content =
                        blobs
                            .open(digest)
                            .await
                            .map_err(|error| RegistryError::Content {
                                digest: (*digest).clone(),
                                source: error.into(),
                            })?;
                    let sent = sent.clone();
                    let mut total = 0u64;
                    let counted = content.inspect(move |piece| {
                        if let Ok(piece) = piece {
                            total += piece.len() as u64;
                            sent(total);
                        }
                    });
                    sending
                        .header(header::CONTENT_LENGTH, *size)
                        .body(reqwest::Body::wrap_stream(counted))
                }
            };
            let response = sending
                .send()
                .await
                .map_err(|error| unreachable(&url, error))?;
            if !response.status().is_redirection() || response.status() == StatusCode::NOT_MODIFIED
            {
                return Ok(response);
            }
            let next = response
                .headers()
                .get(header::LOCATION)
                .and_then(|location| location.to_str().ok())
                .and_then(|location| url.join(location).ok())
                .filter(|next| matches!(next.scheme(), "http" | "https"))
                .ok_or_else(|| protocol(&url, "a redirect to nowhere"))?;
            if url.scheme() == "https" && next.scheme() == "http" && !endpoint.is_insecure {
                return Err(protocol(
                    &url,
                    "it redirects from https to http, which only an insecure registry may",
                ));
            }
            url = next;
        }
        Err(protocol(&url, "too many redirects"))
    }
}
