//! A client for image registries (OCI distribution spec and Docker's own), reading only so far.
//!
//! ```text
//! request -> for each endpoint (mirrors in order, then the registry itself):
//!              sign in if we know how -> send -> 401: read the challenge, sign in, once more
//!                                           -> 429, 5xx, broken connection: wait, once more
//!                                           -> redirect: follow; credentials go to the first host only
//! ```
//!
//! Endpoints that did not answer are asked last for a while. What a mirror lacks, the next endpoint may have.

mod auth;
mod blob;
mod endpoint;

pub use endpoint::{EndpointError, RegistryOptions};

use async_trait::async_trait;
use auth::TokenCache;
use bytes::{Bytes, BytesMut};
use endpoint::{Endpoint, Endpoints};
use engine::images::config::digest_of;
use engine::images::manifest::{ACCEPTED, MANIFEST_MAX};
use engine::images::registry::{Credentials, FetchedManifest, Registry, RegistryError};
use engine::images::{ByteStream, Digest, Reference, Repository};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Response, StatusCode, Url};
use std::sync::Arc;
use std::time::Duration;

/// How often a request is tried at one endpoint.
const ATTEMPTS: u32 = 5;
/// Hops of one request.
const REDIRECTS: usize = 10;
/// The longest a registry's `Retry-After` is honoured.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Bytes of an error's body that are read.
const ERROR_BODY_MAX: usize = 64 * 1024;
/// Pages of a tag list.
const TAG_PAGES: usize = 1000;

/// Reads from registries over HTTP. Cheap to clone.
#[derive(Clone)]
pub struct HttpRegistry {
    inner: Arc<Inner>,
}

struct Inner {
    endpoints: Endpoints,
    clients: endpoint::Clients,
    tokens: TokenCache,
    /// The first wait between attempts; doubled each time.
    first_wait: Duration,
}

impl HttpRegistry {
    /// Checks the options; connects to nothing.
    pub fn new(options: RegistryOptions) -> Result<HttpRegistry, EndpointError> {
        HttpRegistry::with_first_wait(options, Duration::from_millis(500))
    }

    fn with_first_wait(
        options: RegistryOptions,
        first_wait: Duration,
    ) -> Result<HttpRegistry, EndpointError> {
        Ok(HttpRegistry {
            inner: Arc::new(Inner {
                clients: endpoint::Clients::default(),
                endpoints: Endpoints::new(options)?,
                tokens: TokenCache::default(),
                first_wait,
            }),
        })
    }

    /// Sends a GET to the endpoints in order until one answers it with success.
    async fn get(&self, request: &Get<'_>) -> Result<Answer, RegistryError> {
        let endpoints = self.inner.endpoints.of(request.repository.domain());
        let mut first_error: Option<RegistryError> = None;
        for endpoint in endpoints {
            match self.get_at(&endpoint, request).await {
                Ok(answer) => {
                    self.inner.endpoints.answered(&endpoint);
                    return Ok(answer);
                }
                Err(error) => {
                    if matches!(error, RegistryError::Unreachable { .. }) {
                        self.inner.endpoints.is_down(&endpoint);
                    }
                    if endpoint.is_mirror {
                        tracing::info!(mirror = %endpoint.base, error = %engine::error::full_message(&error),
                            "a mirror could not serve a request; trying the next");
                    }
                    // The registry's own word counts more than a mirror's, and any more than "not reached".
                    let replace = match &first_error {
                        None => true,
                        Some(RegistryError::Unreachable { .. }) => true,
                        Some(_) => {
                            !endpoint.is_mirror
                                && !matches!(error, RegistryError::Unreachable { .. })
                        }
                    };
                    if replace {
                        first_error = Some(error);
                    }
                }
            }
        }
        Err(first_error.unwrap_or_else(|| RegistryError::BadAddress {
            address: request.repository.domain().to_owned(),
        }))
    }

    async fn get_at(
        &self,
        endpoint: &Endpoint,
        request: &Get<'_>,
    ) -> Result<Answer, RegistryError> {
        let url = endpoint.url(&request.path)?;
        let mut wait = self.inner.first_wait;
        let mut has_signed_in = false;
        // Credentials are for the registry they were given for, never for a mirror.
        let credentials = request.credentials.filter(|_| !endpoint.is_mirror);
        let scope = format!("repository:{}:pull", request.repository.path());
        let mut attempt = 1;
        loop {
            let authorization = self
                .inner
                .tokens
                .authorization(endpoint, &scope, credentials);
            let outcome = self
                .send_following(endpoint, url.clone(), request, authorization)
                .await;
            let (error, asked_wait) = match outcome {
                Ok(response) if response.status().is_success() => {
                    return Ok(Answer { response });
                }
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
                            &scope,
                            &challenges,
                            credentials,
                        )
                        .await
                    {
                        return Err(match error {
                            auth::SignInError::NoChallenge => refusal,
                            auth::SignInError::Registry(error) => error,
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
            // Where there is somebody else to ask, one try is enough; and a host that refuses connections will not
            // change its mind.
            if attempt >= ATTEMPTS || endpoint.is_mirror || is_refusal(&error) {
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
        request: &Get<'_>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut url = first.clone();
        for _ in 0..=REDIRECTS {
            let mut headers = request.headers.clone();
            if let Some(authorization) = &authorization
                && url.origin() == first.origin()
            {
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
            let client = self.inner.clients.for_url(&url, endpoint.is_insecure)?;
            let response = client
                .get(url.clone())
                .headers(headers)
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
        Err(protocol(&first, "too many redirects"))
    }
}

/// A GET that any endpoint of the repository can answer.
struct Get<'a> {
    repository: &'a Repository,
    /// After `/v2/`.
    path: String,
    headers: HeaderMap,
    credentials: Option<&'a Credentials>,
    /// For errors that are about a blob.
    blob: Option<&'a Digest>,
}

struct Answer {
    response: Response,
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// A connection that was refused, or a name that does not exist.
fn is_refusal(error: &RegistryError) -> bool {
    let RegistryError::Unreachable { source, .. } = error else {
        return false;
    };
    let mut source: Option<&dyn std::error::Error> = Some(&**source);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>()
            && error.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        if error.to_string().contains("dns error") {
            return true;
        }
        source = error.source();
    }
    false
}

/// `Retry-After` in seconds. The form with a date is rare, and our own wait does for it.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response
        .headers()
        .get(header::RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

fn unreachable(url: &Url, error: reqwest::Error) -> RegistryError {
    RegistryError::Unreachable {
        url: url.to_string(),
        // Without the address, which the message has already.
        source: Box::new(error.without_url()),
    }
}

fn protocol(url: &Url, why: impl Into<String>) -> RegistryError {
    RegistryError::Protocol {
        url: url.to_string(),
        why: why.into(),
    }
}

fn challenges_of(response: &Response) -> Vec<String> {
    response
        .headers()
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .map(str::to_owned)
        .collect()
}

/// Reads a body that should be small.
async fn read_limited(mut response: Response, limit: u64) -> Result<Bytes, RegistryError> {
    let url = response.url().clone();
    let mut bytes = BytesMut::new();
    while let Some(piece) = response
        .chunk()
        .await
        .map_err(|error| unreachable(&url, error))?
    {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > limit {
            return Err(protocol(
                &url,
                format!("the answer has more than {limit} bytes"),
            ));
        }
    }
    Ok(bytes.freeze())
}

/// What a refusal means. Registries answer `{"errors":[{"code","message","detail"}]}`.
async fn error_of(response: Response, request: &Get<'_>) -> RegistryError {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<Problem>,
    }
    #[derive(serde::Deserialize)]
    struct Problem {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let status = response.status();
    let url = response.url().to_string();
    let body = read_limited(response, ERROR_BODY_MAX as u64)
        .await
        .unwrap_or_default();
    let problem = serde_json::from_slice::<Body>(&body)
        .ok()
        .and_then(|body| body.errors.into_iter().next())
        .unwrap_or(Problem {
            code: String::new(),
            message: String::new(),
        });
    let or = |default: &str| match problem.message.is_empty() {
        true => default.to_owned(),
        false => problem.message.clone(),
    };
    match (problem.code.as_str(), status.as_u16()) {
        ("NAME_UNKNOWN", _) => RegistryError::NameUnknown {
            message: or("repository name not known to registry"),
        },
        ("MANIFEST_UNKNOWN", _) => RegistryError::ManifestUnknown {
            message: or("manifest unknown"),
        },
        ("DENIED", _) | (_, 403) => RegistryError::Denied {
            message: format!(
                "denied: {}",
                or("requested access to the resource is denied")
            ),
        },
        // Docker Hub says this for what does not exist, too: the message must lead to `docker login` and to the name.
        ("UNAUTHORIZED", _) | (_, 401) => match request.credentials {
            None => RegistryError::Denied {
                message: format!("unauthorized: {}", or("authentication required")),
            },
            Some(_) => RegistryError::Unauthorized {
                message: or("authentication required"),
            },
        },
        ("TOOMANYREQUESTS", _) | (_, 429) => RegistryError::TooManyRequests {
            message: or("too many requests"),
        },
        (_, 404) => match request.blob {
            Some(digest) => RegistryError::BlobUnknown {
                digest: digest.clone(),
            },
            None => RegistryError::ManifestUnknown {
                message: or("manifest unknown"),
            },
        },
        (_, status) => RegistryError::Status {
            url,
            status,
            message: match problem.message.is_empty() {
                true => String::from_utf8_lossy(&body[..body.len().min(200)])
                    .trim()
                    .to_owned(),
                false => problem.message,
            },
        },
    }
}

#[async_trait]
impl Registry for HttpRegistry {
    async fn manifest(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<FetchedManifest, RegistryError> {
        let mut headers = HeaderMap::new();
        let accepted = ACCEPTED.join(", ");
        headers.insert(
            header::ACCEPT,
            HeaderValue::from_str(&accepted).expect("media types are plain text"),
        );
        let request = Get {
            repository: &reference.repository,
            path: format!(
                "{}/manifests/{}",
                reference.repository.path(),
                reference.tag_or_digest()
            ),
            headers,
            credentials,
            blob: None,
        };
        let response = self.get(&request).await?.response;
        let media_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let bytes = read_limited(response, MANIFEST_MAX).await?;
        let digest = digest_of(&bytes);
        if let Some(wanted) = &reference.digest
            && *wanted != digest
        {
            return Err(RegistryError::Mismatch {
                digest: wanted.clone(),
            });
        }
        Ok(FetchedManifest {
            media_type,
            digest,
            bytes,
        })
    }

    async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        credentials: Option<&Credentials>,
    ) -> Result<ByteStream, RegistryError> {
        blob::open(
            self.clone(),
            repository.clone(),
            digest.clone(),
            size,
            credentials.cloned(),
        )
        .await
    }

    async fn tags(
        &self,
        repository: &Repository,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<String>, RegistryError> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut path = format!("{}/tags/list", repository.path());
        for _ in 0..TAG_PAGES {
            let request = Get {
                repository,
                path,
                headers: HeaderMap::new(),
                credentials,
                blob: None,
            };
            let response = self.get(&request).await?.response;
            let url = response.url().clone();
            let next = next_page(&response);
            let body = read_limited(response, MANIFEST_MAX).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|error| protocol(&url, format!("not a list of tags: {error}")))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) => path = next,
                None => return Ok(tags),
            }
        }
        Ok(tags)
    }

    async fn login(&self, domain: &str, credentials: &Credentials) -> Result<(), RegistryError> {
        let endpoints = self.inner.endpoints.itself(domain);
        if endpoints.is_empty() {
            return Err(RegistryError::BadAddress {
                address: domain.to_owned(),
            });
        }
        auth::login(&self.inner.clients, &endpoints, credentials).await
    }
}

/// `Link: </v2/name/tags/list?last=x>; rel="next"`: what stands after `/v2/`.
fn next_page(response: &Response) -> Option<String> {
    let link = response.headers().get(header::LINK)?.to_str().ok()?;
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    if !rest.contains("rel=\"next\"") && !rest.contains("rel=next") {
        return None;
    }
    let url = response.url().join(target).ok()?;
    let path = url.path().split_once("/v2/")?.1.to_owned();
    Some(match url.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    })
}

#[cfg(test)]
mod tests;
