//! What a registry has under a name, without pulling it: `GET /distribution/{name}/json`.

use super::config::ImageDetails;
use super::manifest::Manifest;
use super::policy::Direction;
use super::pull::fetch_config_blob;
use super::registry::{Credentials, Found};
use super::service::ImageService;
use super::{Digest, ImageError, Platform, Reference};

/// A manifest in a registry, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes of the manifest.
    pub size: u64,
    pub platforms: Vec<Platform>,
}

impl ImageService {
    /// Asks the registry; nothing is stored.
    pub async fn distribution(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Distribution, ImageError> {
        self.inner
            .options
            .policy
            .permit(Direction::Pull, &reference.repository)?;
        let fetched = self
            .backends()
            .registry
            .manifest(reference, credentials)
            .await
            .map_err(|error| ImageError::from_pull(error, reference))?;
        let parsed = Manifest::parse(&fetched.media_type, &fetched.bytes)?;
        let media_type = match fetched.media_type.as_str() {
            "" | "application/json" => super::manifest::OCI_MANIFEST.to_owned(),
            given => given.to_owned(),
        };
        let platforms = match parsed {
            Manifest::List(list) => list
                .into_iter()
                .filter_map(|entry| entry.platform)
                .collect(),
            Manifest::Image(image) => {
                let registry = &*self.backends().registry;
                let bytes =
                    fetch_config_blob(registry, reference, &image.config, credentials).await?;
                let id = image.config.digest;
                let details = ImageDetails::parse(&bytes)
                    .map_err(|source| ImageError::Config { id, source })?;
                vec![details.platform]
            }
        };
        Ok(Distribution {
            media_type,
            digest: fetched.digest,
            size: fetched.bytes.len() as u64,
            platforms,
        })
    }

    /// Searches a registry: `term` is `alpine`, or `host/alpine` for another registry than Docker Hub.
    pub async fn search(
        &self,
        term: &str,
        limit: usize,
        credentials: Option<&Credentials>,
    ) -> Result<Vec<Found>, ImageError> {
        let (domain, rest) = match term.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest)
            }
            _ => ("docker.io", term),
        };
        let domain = match domain {
            "index.docker.io" => "docker.io",
            other => other,
        };
        self.backends()
            .registry
            .search(domain, rest, limit, credentials)
            .await
            .map_err(ImageError::Registry)
    }
}
