//! A client for image registries (OCI distribution spec and Docker's own).
//!
//! ```text
//! read  -> the endpoints (mirrors in order, then the registry itself): asking -> exchange
//! write -> the registry itself: asking -> exchange               (`upload` has a blob's way there)
//! exchange: sign in if we know how -> send -> 401: read the challenge, sign in, once more
//!                                       -> redirect: follow; credentials go to the first host only
//! ```
//!
//! Endpoints that did not answer are asked last for a while. What a mirror lacks, or sends damaged, the next endpoint may
//! have.

mod asking;
mod auth;
mod blob;
mod client;
mod doubts;
mod endpoint;
mod exchange;
mod patience;
mod proxies;
mod search;
mod upload;

pub use endpoint::{EndpointError, RegistryOptions};
pub use proxies::{Proxies, ProxyRules};

use asking::{Answer, Asking};
use async_trait::async_trait;
use auth::TokenCache;
use bytes::{Bytes, BytesMut};
use client::Clients;
use doubts::Doubts;
use endpoint::{Endpoint, Endpoints};
use engine::images::config::digest_of;
use engine::images::manifest::{ACCEPTED, MANIFEST_MAX, Manifest, ManifestError};
use engine::images::registry::{
    BlobUpload, Credentials, FetchedManifest, Found, Registry, RegistryError, Uploaded, Waits,
};
use engine::images::{ByteStream, Digest, Reference, Repository};
use exchange::{Content, Exchange};
use patience::{HostTime, Patience, Time};
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Response, StatusCode, Url};
use std::sync::Arc;
use std::time::Duration;

/// How often a request is tried at one endpoint where the administrator does not say (dockerd's
/// `max-download-attempts`).
const ATTEMPTS: u32 = 5;
/// Bytes of an error's body that are read.
const ERROR_BODY_MAX: usize = 64 * 1024;
/// Pages of a list of tags or repositories.
const PAGES_MAX: usize = 1000;

/// Reads from registries and writes to them over HTTP. Cheap to clone.
#[derive(Clone)]
pub struct HttpRegistry {
    inner: Arc<Inner>,
    /// Who is told of waiting.
    waits: Option<Waits>,
}

struct Inner {
    endpoints: Endpoints,
    clients: Clients,
    attempts: u32,
    tokens: TokenCache,
    doubts: Doubts,
    patience: Patience,
    /// The first wait between attempts; doubled each time.
    first_wait: Duration,
}

impl HttpRegistry {
    /// Checks the options; connects to nothing.
    pub fn new(options: RegistryOptions) -> Result<HttpRegistry, EndpointError> {
        HttpRegistry::with_time(options, Duration::from_millis(500), Arc::new(HostTime))
    }

    fn with_time(
        options: RegistryOptions,
        first_wait: Duration,
        time: Arc<dyn Time>,
    ) -> Result<HttpRegistry, EndpointError> {
        let clients = Clients::new(&options)?;
        let attempts = options.attempts.unwrap_or(ATTEMPTS).max(1);
        Ok(HttpRegistry {
            inner: Arc::new(Inner {
                endpoints: Endpoints::new(options)?,
                clients,
                attempts,
                tokens: TokenCache::default(),
                doubts: Doubts::default(),
                patience: Patience::new(time),
                first_wait,
            }),
            waits: None,
        })
    }

    /// Sends a request to the endpoints of a domain until one answers it with success.
    async fn ask(&self, domain: &str, request: &Exchange<'_>) -> Result<Answer, RegistryError> {
        Asking::new(self, domain, request).await.next().await
    }
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// What another try would not change: a connection that was refused, a name that does not exist, and what TLS says no to.
fn is_lasting(error: &RegistryError) -> bool {
    let RegistryError::Unreachable { source, .. } = error else {
        return false;
    };
    causes(&**source).any(|error| {
        error.is::<CertificateRequired>()
            || error.is::<rustls::Error>()
            || error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
            || error.to_string().contains("dns error")
    })
}

/// An error and what is behind it. What an `io::Error` carries is not its source, but counts.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| {
        let carried = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        match carried {
            Some(carried) => Some(carried),
            None => error.source(),
        }
    })
}

/// Docker's words for what the administrator can do something about.
#[derive(Debug, thiserror::Error)]
#[error("remote error: tls: certificate required")]
struct CertificateRequired;

fn unreachable(url: &Url, error: reqwest::Error) -> RegistryError {
    // Without the address, which the message has already.
    let error = error.without_url();
    let is_asked_for_certificate = causes(&error).any(|error| {
        matches!(
            error.downcast_ref(),
            Some(rustls::Error::AlertReceived(
                rustls::AlertDescription::CertificateRequired
            ))
        )
    });
    let is_cut_off = url.scheme() == "https"
        && causes(&error).any(|error| error.to_string() == "operation was canceled");
    RegistryError::Unreachable {
        url: url.to_string(),
        source: if is_asked_for_certificate {
            Box::new(CertificateRequired)
        } else if is_cut_off {
            // The server's word came too early to be told with the request.
            "the registry ended the connection before the request; perhaps it asks for a client certificate (certificate required)".into()
        } else {
            Box::new(error)
        },
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
async fn error_of(response: Response, request: &Exchange<'_>) -> RegistryError {
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

async fn read_manifest(
    response: Response,
    reference: &Reference,
) -> Result<FetchedManifest, RegistryError> {
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

/// Whether it is one at all; what we cannot use of it is told by who uses it.
fn is_manifest(manifest: &FetchedManifest) -> bool {
    !matches!(
        Manifest::parse(&manifest.media_type, &manifest.bytes),
        Err(ManifestError::Invalid { .. } | ManifestError::MediaType { .. })
    )
}

#[async_trait]
impl Registry for HttpRegistry {
    fn telling(&self, waits: Waits) -> Arc<dyn Registry> {
        Arc::new(HttpRegistry {
            inner: self.inner.clone(),
            waits: Some(waits),
        })
    }

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
        let request = Exchange {
            headers,
            ..Exchange::read(
                &reference.repository,
                format!("manifests/{}", reference.tag_or_digest()),
                credentials,
            )
        };
        let mut asking = Asking::new(self, reference.repository.domain(), &request).await;
        loop {
            let Answer { response, endpoint } = asking.next().await?;
            let url = response.url().clone();
            match read_manifest(response, reference).await {
                // Whoever stands in for the Hub may answer everything with a page for people.
                Ok(manifest) if endpoint.is_mirror && !is_manifest(&manifest) => {
                    asking.reject(endpoint, protocol(&url, "it answered with no manifest"));
                }
                Ok(manifest) => return Ok(manifest),
                Err(error) => asking.reject(endpoint, error),
            }
        }
    }

    async fn blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        start: u64,
        credentials: Option<&Credentials>,
    ) -> Result<ByteStream, RegistryError> {
        blob::open(
            self.clone(),
            repository.clone(),
            digest.clone(),
            size,
            start,
            credentials.cloned(),
        )
        .await
    }

    fn distrust(&self, digest: &Digest) -> bool {
        self.inner.doubts.damaged(digest)
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
        let mut request = Exchange::read(repository, "tags/list", credentials);
        for _ in 0..PAGES_MAX {
            let response = self.ask(repository.domain(), &request).await?.response;
            let url = response.url().clone();
            let next = next_page(&response);
            let body = read_limited(response, MANIFEST_MAX).await?;
            let page: Page = serde_json::from_slice(&body)
                .map_err(|error| protocol(&url, format!("not a list of tags: {error}")))?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) => request.path = next,
                None => break,
            }
        }
        Ok(tags)
    }

    async fn login(
        &self,
        domain: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>, RegistryError> {
        let endpoints = self.inner.endpoints.itself(domain).await;
        if endpoints.is_empty() {
            return Err(RegistryError::BadAddress {
                address: domain.to_owned(),
            });
        }
        auth::login(&self.inner.clients, &endpoints, credentials).await
    }

    async fn upload_blob(&self, upload: BlobUpload<'_>) -> Result<Uploaded, RegistryError> {
        upload::upload(self, &upload).await
    }

    async fn put_manifest(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: Bytes,
        credentials: Option<&Credentials>,
    ) -> Result<(), RegistryError> {
        let mut headers = HeaderMap::new();
        let media_type = HeaderValue::from_str(media_type)
            .map_err(|_| protocol_of(reference, "its media type cannot be sent"))?;
        headers.insert(header::CONTENT_TYPE, media_type);
        let request = Exchange {
            method: Method::PUT,
            headers,
            content: Content::Bytes(bytes),
            ..Exchange::write(
                &reference.repository,
                format!("manifests/{}", reference.tag_or_digest()),
                credentials,
            )
        };
        self.ask(reference.repository.domain(), &request).await?;
        Ok(())
    }

    async fn search(
        &self,
        domain: &str,
        term: &str,
        limit: usize,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<Found>, RegistryError> {
        search::search(self, domain, term, limit, credentials).await
    }
}

fn protocol_of(reference: &Reference, why: &str) -> RegistryError {
    RegistryError::Protocol {
        url: reference.to_string(),
        why: why.to_owned(),
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
