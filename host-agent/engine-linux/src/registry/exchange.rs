//! One request to one endpoint, with everything that may come between question and answer: signing in, waiting, redirects.

use super::auth::SignInError;
use super::{
    Endpoint, HttpRegistry, LONGEST_WAIT, challenges_of, error_of, is_refusal, is_temporary,
    protocol, retry_after, unreachable,
};
use bytes::Bytes;
use engine::images::registry::{Credentials, RegistryError};
use engine::images::{BlobStore, Digest, Repository};
use futures_util::StreamExt;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use std::sync::Arc;

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

impl HttpRegistry {
    /// Sends a request to an address of an endpoint; the answer is a success.
    pub(super) async fn exchange(
        &self,
        endpoint: &Endpoint,
        url: Url,
        request: &Exchange<'_>,
    ) -> Result<Response, RegistryError> {
        let mut wait = self.inner.first_wait;
        let mut has_signed_in = false;
        let credentials = request
            .credentials
            .filter(|_| endpoint.may_have_credentials());
        let mut attempt = 1;
        loop {
            let authorization =
                self.inner
                    .tokens
                    .authorization(endpoint, &request.scope, credentials);
            let outcome = self
                .send_following(endpoint, url.clone(), request, authorization)
                .await;
            let (error, asked_wait) = match outcome {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) if response.status() == StatusCode::UNAUTHORIZED && !has_signed_in => {
                    has_signed_in = true;
                    let challenges = challenges_of(&response);
                    let refusal = error_of(response, request).await;
                    if let Err(error) = self
                        .inner
                        .tokens
                        .sign_in(
                            &self.inner.clients,
                            endpoint,
                            &request.scope,
                            &challenges,
                            credentials,
                        )
                        .await
                    {
                        return Err(match error {
                            SignInError::NoChallenge => refusal,
                            SignInError::Registry(error) => error,
                        });
                    }
                    continue;
                }
                Ok(response) if is_temporary(response.status()) => {
                    let asked = retry_after(&response);
                    (error_of(response, request).await, asked)
                }
                Ok(response) => return Err(error_of(response, request).await),
                Err(error @ RegistryError::Unreachable { .. }) => (error, None),
                Err(error) => return Err(error),
            };
            // Where there is somebody else to ask, one try is enough: a registry without TLS fails each of them, and all the
            // waits would come before the first word with it. And a host that refuses connections will not change its mind.
            if attempt >= self.inner.attempts
                || !request.is_repeated
                || endpoint.is_mirror
                || (endpoint.is_guess && matches!(error, RegistryError::Unreachable { .. }))
                || is_refusal(&error)
            {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(asked_wait.unwrap_or(wait).min(LONGEST_WAIT)).await;
            wait *= 2;
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
            let client = self.inner.clients.for_url(&url, endpoint.is_insecure)?;
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
