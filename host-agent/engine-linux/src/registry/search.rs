//! Search: Docker Hub's search API (`/v1/search`), and for registries that have none their catalog of repositories.

use super::exchange::{Content, Exchange};
use super::{Endpoint, HttpRegistry, PAGES_MAX, next_page, protocol, read_limited};
use engine::images::manifest::MANIFEST_MAX;
use engine::images::registry::{Credentials, Found, RegistryError};
use reqwest::header::HeaderMap;
use reqwest::{Method, Url};
use serde::Deserialize;

/// Docker Hub's index.
const HUB_INDEX: &str = "https://index.docker.io/";

/// What `/v1/search` answers.
#[derive(Deserialize)]
struct Results {
    #[serde(default)]
    results: Option<Vec<Line>>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Line {
    name: String,
    description: Option<String>,
    star_count: i64,
    is_official: bool,
    is_automated: bool,
}

pub(super) async fn search(
    registry: &HttpRegistry,
    domain: &str,
    term: &str,
    limit: usize,
    credentials: Option<&Credentials>,
) -> Result<Vec<Found>, RegistryError> {
    if domain == "docker.io" {
        let index = Endpoint {
            base: Url::parse(
                registry
                    .inner
                    .endpoints
                    .index
                    .as_deref()
                    .unwrap_or(HUB_INDEX),
            )
            .expect("a good address"),
            is_mirror: false,
            addresses: Vec::new(),
            is_insecure: registry.inner.endpoints.index.is_some(),
        };
        return search_index(registry, &index, term, limit, credentials).await;
    }
    // Registries of the first kind had a search of their own; some products still do.
    for endpoint in registry.inner.endpoints.itself(domain).await {
        match search_index(registry, &endpoint, term, limit, credentials).await {
            Err(error) if !matches!(error, RegistryError::LongWait { .. }) => {}
            outcome => return outcome,
        }
    }
    search_catalog(registry, domain, term, limit, credentials).await
}

fn exchange<'a>(credentials: Option<&'a Credentials>, scope: &str) -> Exchange<'a> {
    Exchange {
        method: Method::GET,
        path: String::new(),
        scope: scope.to_owned(),
        headers: HeaderMap::new(),
        content: Content::Nothing,
        credentials,
        blob: None,
        is_read: true,
        is_repeated: true,
    }
}

async fn search_index(
    registry: &HttpRegistry,
    endpoint: &Endpoint,
    term: &str,
    limit: usize,
    credentials: Option<&Credentials>,
) -> Result<Vec<Found>, RegistryError> {
    let mut url = endpoint
        .base
        .join("v1/search")
        .map_err(|error| protocol(&endpoint.base, error.to_string()))?;
    url.query_pairs_mut()
        .append_pair("q", term)
        .append_pair("n", &limit.to_string());
    let request = Exchange {
        // Where there is a catalog to look into, one try is enough.
        is_repeated: !endpoint.is_insecure,
        ..exchange(credentials, "")
    };
    let response = registry.exchange(endpoint, url.clone(), &request).await?;
    let body = read_limited(response, MANIFEST_MAX).await?;
    let results: Results = serde_json::from_slice(&body)
        .map_err(|error| protocol(&url, format!("not search results: {error}")))?;
    let lines = results.results.unwrap_or_default().into_iter();
    Ok(lines
        .take(limit)
        .map(|line| Found {
            name: line.name,
            description: line.description.unwrap_or_default(),
            stars: line.star_count,
            is_official: line.is_official,
            is_automated: line.is_automated,
        })
        .collect())
}

/// Repositories with the term in their name, page by page.
async fn search_catalog(
    registry: &HttpRegistry,
    domain: &str,
    term: &str,
    limit: usize,
    credentials: Option<&Credentials>,
) -> Result<Vec<Found>, RegistryError> {
    #[derive(Deserialize)]
    struct Page {
        repositories: Option<Vec<String>>,
    }
    let term = term.to_ascii_lowercase();
    let mut found = Vec::new();
    let mut request = exchange(credentials, "registry:catalog:*");
    request.path = "_catalog".into();
    for _ in 0..PAGES_MAX {
        let response = registry.ask(domain, &request).await?.response;
        let url = response.url().clone();
        let next = next_page(&response);
        let body = read_limited(response, MANIFEST_MAX).await?;
        let page: Page = serde_json::from_slice(&body)
            .map_err(|error| protocol(&url, format!("not a catalog: {error}")))?;
        for name in page.repositories.unwrap_or_default() {
            if name.to_ascii_lowercase().contains(&term) && found.len() < limit {
                found.push(Found {
                    name: format!("{domain}/{name}"),
                    ..Found::default()
                });
            }
        }
        match next {
            Some(next) if found.len() < limit => request.path = next,
            _ => break,
        }
    }
    Ok(found)
}
