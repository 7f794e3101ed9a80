//! Where a registry is reached: mirrors, the registry itself, with TLS or without.

use super::client::Proxies;
use super::{RegistryError, protocol};
use ipnet::IpNet;
use reqwest::Url;
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Docker Hub's registry, which is not at its domain.
const HUB: &str = "https://registry-1.docker.io/";
/// How long an endpoint that did not answer is asked last.
const DOWN_FOR: Duration = Duration::from_secs(60);

/// What the administrator chose (dockerd's `--registry-mirror` and `--insecure-registry`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Addresses of mirrors of Docker Hub, asked in order before it.
    pub mirrors: Vec<String>,
    /// `host`, `host:port`, or networks as `10.0.0.0/8`: certificates are not checked, and plain HTTP is tried too.
    /// Loopback is always so.
    pub insecure: Vec<String>,
    /// Folders with a folder `<host[:port]>` for each registry that has certificates of its own, in Docker's form:
    /// `*.crt` authorities to trust, `NAME.cert` and `NAME.key` to show. The first that has one counts.
    pub certificates: Vec<PathBuf>,
    pub proxies: Proxies,
    /// How often a request is tried; `None`: 5 times.
    pub attempts: Option<u32>,
    /// Where to search instead of Docker Hub's index.
    pub index: Option<String>,
}

/// Why options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("invalid mirror: {url:?}: {why}")]
    Mirror { url: String, why: String },
    #[error("invalid insecure registry {text:?}: {why}")]
    Insecure { text: String, why: String },
    #[error("invalid proxy {url:?}: {why}")]
    Proxy { url: String, why: String },
    #[error("invalid search index {url:?}: write http://host/ or https://host/")]
    Index { url: String },
}

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Ends with `/`; the API is at `v2/` below it.
    pub base: Url,
    pub is_mirror: bool,
    /// Plain HTTP and unknown certificates will do.
    pub is_insecure: bool,
    /// Nobody knows yet whether TLS is spoken here; if not, plain HTTP comes next.
    pub is_guess: bool,
}

impl Endpoint {
    /// Whether somebody's credentials for the registry may be sent here when asked for. A mirror is the administrator's
    /// choice and gets them as dockerd's do, but not where everybody on the way could read them.
    pub fn may_have_credentials(&self) -> bool {
        !self.is_mirror || self.base.scheme() == "https" || is_loopback(&self.base)
    }

    /// The address of an API path (what stands after `/v2/`).
    pub fn url(&self, path: &str) -> Result<Url, RegistryError> {
        self.base
            .join("v2/")
            .and_then(|base| base.join(path))
            .map_err(|error| protocol(&self.base, error.to_string()))
    }
}

/// All of them.
pub(super) struct Endpoints {
    mirrors: Vec<Endpoint>,
    insecure_hosts: Vec<String>,
    insecure_networks: Vec<IpNet>,
    /// Base -> until when it counts as down.
    down: Mutex<HashMap<String, Instant>>,
    /// Domains whose registry answered without TLS.
    plain: Mutex<HashMap<String, bool>>,
    pub index: Option<String>,
}

impl Endpoints {
    pub fn new(options: RegistryOptions) -> Result<Endpoints, EndpointError> {
        let mut insecure_hosts = Vec::new();
        let mut insecure_networks: Vec<IpNet> = ["127.0.0.0/8", "::1/128"]
            .iter()
            .map(|network| network.parse().expect("a network"))
            .collect();
        for text in options.insecure {
            let refused = |why: &str| EndpointError::Insecure {
                text: text.clone(),
                why: why.to_owned(),
            };
            if let Ok(network) = text.parse::<IpNet>() {
                insecure_networks.push(network);
            } else if text.contains("://") {
                return Err(refused(
                    "it should not contain '://': write host or host:port",
                ));
            } else if text.is_empty() || text.contains(['/', ' ', '@']) {
                return Err(refused(
                    "write host, host:port or a network such as 10.0.0.0/8",
                ));
            } else {
                insecure_hosts.push(text.to_ascii_lowercase());
            }
        }
        let mut endpoints = Endpoints {
            mirrors: Vec::new(),
            insecure_hosts,
            insecure_networks,
            down: Mutex::default(),
            plain: Mutex::default(),
            index: options.index.clone(),
        };
        if let Some(index) = &endpoints.index
            && !Url::parse(index).is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
        {
            return Err(EndpointError::Index { url: index.clone() });
        }
        for text in options.mirrors {
            let base = mirror_url(&text)?;
            let is_insecure = base.scheme() == "http" || endpoints.is_insecure(&authority(&base));
            endpoints.mirrors.push(Endpoint {
                base,
                is_mirror: true,
                is_insecure,
                is_guess: false,
            });
        }
        Ok(endpoints)
    }

    /// For tests of what is checked: they have no other address than loopback's.
    #[cfg(test)]
    pub fn distrust_loopback(&mut self) {
        self.insecure_networks.clear();
    }

    /// Whom to ask for a repository of this domain, in order; none where it is no address (`host:99999`).
    pub fn of(&self, domain: &str) -> Vec<Endpoint> {
        let mut list = Vec::new();
        if domain == "docker.io" {
            list.extend(self.mirrors.iter().cloned());
        }
        list.extend(self.itself(domain));
        let now = Instant::now();
        let down = self
            .down
            .lock()
            .expect("no code panics while it holds this lock");
        // Stable: among those that are up, and among those that are down, the order stays.
        list.sort_by_key(|endpoint| {
            down.get(endpoint.base.as_str())
                .is_some_and(|until| *until > now)
        });
        list
    }

    /// The registry itself: with TLS, and where it is insecure also without; nothing where it is no address.
    pub fn itself(&self, domain: &str) -> Vec<Endpoint> {
        let at = |scheme: &str, is_insecure, is_guess| {
            Some(Endpoint {
                base: Url::parse(&format!("{scheme}://{domain}/")).ok()?,
                is_mirror: false,
                is_insecure,
                is_guess,
            })
        };
        if domain == "docker.io" {
            return vec![Endpoint {
                base: Url::parse(HUB).expect("a good address"),
                is_mirror: false,
                is_insecure: false,
                is_guess: false,
            }];
        }
        if !self.is_insecure(domain) {
            return at("https", false, false).into_iter().collect();
        }
        let is_plain = self
            .plain
            .lock()
            .expect("no code panics while it holds this lock")
            .get(domain)
            .copied();
        let schemes: &[&str] = match is_plain {
            Some(true) => &["http"],
            Some(false) => &["https"],
            None => &["https", "http"],
        };
        schemes
            .iter()
            .filter_map(|scheme| at(scheme, true, is_plain.is_none() && *scheme == "https"))
            .collect()
    }

    /// Notes that an endpoint did not answer.
    pub fn is_down(&self, endpoint: &Endpoint) {
        // A registry that only speaks plain HTTP fails our TLS each time: that is learnt in `answered`.
        self.down
            .lock()
            .expect("no code panics while it holds this lock")
            .insert(endpoint.base.to_string(), Instant::now() + DOWN_FOR);
    }

    /// Notes that it did.
    pub fn answered(&self, endpoint: &Endpoint) {
        self.down
            .lock()
            .expect("no code panics while it holds this lock")
            .remove(endpoint.base.as_str());
        if endpoint.is_insecure && !endpoint.is_mirror {
            self.plain
                .lock()
                .expect("no code panics while it holds this lock")
                .insert(authority(&endpoint.base), endpoint.base.scheme() == "http");
        }
    }

    fn is_insecure(&self, domain: &str) -> bool {
        let lower = domain.to_ascii_lowercase();
        let host = match lower.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => lower.split(':').next().unwrap_or_default(),
        };
        if self
            .insecure_hosts
            .iter()
            .any(|name| *name == lower || *name == host)
        {
            return true;
        }
        if host == "localhost" {
            return true;
        }
        host.parse::<IpAddr>().is_ok_and(|address| {
            self.insecure_networks
                .iter()
                .any(|network| network.contains(&address))
        })
    }
}

/// Docker's rules for mirrors (`registry.ValidateMirror`).
fn mirror_url(text: &str) -> Result<Url, EndpointError> {
    let refused = |why: &str| EndpointError::Mirror {
        url: text.to_owned(),
        why: why.to_owned(),
    };
    let mut url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("unsupported scheme, use http or https"));
    }
    if url.host_str().is_none() {
        return Err(refused("it names no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(refused("query or fragment at end of the URI"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("username and password are not allowed in it"));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

/// Whether an address is on this host.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// `host` or `host:port` as it stands in references.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(mirrors: &[&str], insecure: &[&str]) -> Result<Endpoints, EndpointError> {
        let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Endpoints::new(RegistryOptions {
            mirrors: list(mirrors),
            insecure: list(insecure),
            ..RegistryOptions::default()
        })
    }

    #[track_caller]
    fn bases(endpoints: &Endpoints, domain: &str) -> Vec<String> {
        endpoints
            .of(domain)
            .iter()
            .map(|endpoint| endpoint.base.to_string())
            .collect()
    }

    #[test]
    fn mirrors_are_for_the_hub_only_and_loopback_is_insecure() {
        let endpoints =
            endpoints(&["http://m:5000", "https://n/x"], &["10.0.0.0/8", "old"]).expect("good");
        assert_eq!(
            bases(&endpoints, "docker.io"),
            ["http://m:5000/", "https://n/x/", HUB]
        );
        assert_eq!(bases(&endpoints, "ghcr.io"), ["https://ghcr.io/"]);
        for domain in [
            "127.0.0.1:5000",
            "localhost",
            "[::1]:5000",
            "10.1.2.3",
            "old:80",
        ] {
            assert_eq!(
                bases(&endpoints, domain).len(),
                2,
                "{domain} is tried with TLS, then without"
            );
        }
        assert_eq!(
            endpoints.of("docker.io")[1]
                .url("a/b/manifests/c")
                .expect("good")
                .as_str(),
            "https://n/x/v2/a/b/manifests/c"
        );
    }

    #[test]
    fn what_is_down_is_asked_last_and_what_answered_plainly_is_remembered() {
        let endpoints = endpoints(&["http://m"], &[]).expect("good");
        let mirror = endpoints.of("docker.io")[0].clone();
        endpoints.is_down(&mirror);
        assert_eq!(bases(&endpoints, "docker.io"), [HUB, "http://m/"]);
        endpoints.answered(&mirror);
        assert_eq!(bases(&endpoints, "docker.io"), ["http://m/", HUB]);
        let plain = endpoints.of("127.0.0.1:5000")[1].clone();
        endpoints.answered(&plain);
        assert_eq!(
            bases(&endpoints, "127.0.0.1:5000"),
            ["http://127.0.0.1:5000/"]
        );
    }

    #[test]
    fn bad_options_are_refused() {
        for mirror in [
            "m:5000",
            "ftp://m",
            "http://u:p@m",
            "http://m/?q",
            "http://",
        ] {
            assert!(endpoints(&[mirror], &[]).is_err(), "{mirror}");
        }
        for insecure in ["http://x", "", "a/b"] {
            assert!(endpoints(&[], &[insecure]).is_err(), "{insecure}");
        }
    }
}
